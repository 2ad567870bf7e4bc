"""Assetmill: spreadsheets in, ranked and upscaled image variants with a versioned catalog out."""

__version__ = "0.1.0"
