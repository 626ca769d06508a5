"""From an exported SavedModel to artifacts of other runtimes: ONNX, clean-up, backends."""
