"""Stations that read: spreadsheet to assets, templates to prompts, and the plan of what is left to do."""
