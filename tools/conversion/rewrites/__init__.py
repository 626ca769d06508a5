"""Rewrites of ONNX graphs: each computes the same with fewer or cheaper operators."""
