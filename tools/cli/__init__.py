"""Programs, one per file; they may import anything and nothing imports them."""
