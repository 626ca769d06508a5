"""Serving of exported models over HTTP. Knows sessions, and no model family."""
