"""Rewrites ONNX graphs to equivalent graphs with fewer or faster operators."""
