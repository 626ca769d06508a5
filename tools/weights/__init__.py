"""Weights of other frameworks: files read safely, tensors renamed and assigned strictly."""
