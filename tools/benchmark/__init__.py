"""Programs that time things side by side."""
