"""Feeds: files that other systems read, written from catalog entries, one format to a file of this folder."""
