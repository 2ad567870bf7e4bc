"""Pure functions that accept, rank and choose pictures."""
