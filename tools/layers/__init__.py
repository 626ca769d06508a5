"""Layers and operations of Keras that several families share."""
