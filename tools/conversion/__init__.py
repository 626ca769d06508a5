"""From an exported SavedModel to artifacts of other runtimes: ONNX, clean-up, backends."""

import os

# ONNX Runtime 1.31 reads it when it is imported. Otherwise it sends usage data and makes a folder
# `Microsoft` in the user's cache.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
