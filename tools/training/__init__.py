"""Training: loop, optimizer, checkpoints and logs, shared by all families."""
