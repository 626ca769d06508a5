"""The training engine shared by all families."""
