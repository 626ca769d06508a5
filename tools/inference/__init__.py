"""Running exported models: shared flags, runners behind one protocol, and reports."""
