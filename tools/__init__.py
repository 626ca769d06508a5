"""Libraries and programs shared by all model families."""
