"""Keras layers and operations that several families share."""
