"""The web page on which people review ranked pictures."""
