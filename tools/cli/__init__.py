"""Programs, one per file. They may import every package; no library imports them."""
