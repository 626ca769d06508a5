"""Decoding: converts encoded frames or logits to tokens, words and text, for every runtime."""
