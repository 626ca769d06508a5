"""Weights of other frameworks: safe reading of files, renaming and strict assignment of tensors."""
