"""Searches: encoded frames of a model to tokens, words and texts, whatever runs the model."""
