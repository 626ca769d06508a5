"""Speech recognition, shared by the speech families: programs, sessions, training tasks."""
