"""The words of the starter world: what can be drawn, and how people say it.

Each attribute has a fixed, ordered tuple of names; the order is the class index that the judge learns.
"""

from __future__ import annotations

OBJECTS: tuple[str, ...] = (
    "potion",
    "sword",
    "shield",
    "gem",
    "coin",
    "key",
    "chest",
    "scroll",
    "ring",
    "mug",
    "t-shirt",
    "boot",
    "backpack",
    "bottle",
    "lamp",
    "chair",
)
COLOURS: tuple[str, ...] = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "brown")
PATTERNS: tuple[str, ...] = ("plain", "striped", "dotted")
STYLES: tuple[str, ...] = ("flat", "outlined", "shaded", "pixel")
GROUNDS: tuple[str, ...] = ("white", "dark", "beige", "gradient")

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "object": OBJECTS,
    "colour": COLOURS,
    "pattern": PATTERNS,
    "style": STYLES,
    "ground": GROUNDS,
}
"""Attribute name -> its classes, in the judge's order."""

SYNONYMS: dict[str, tuple[str, ...]] = {
    "potion": ("potion", "potion", "flask", "elixir"),
    "sword": ("sword", "sword", "blade"),
    "shield": ("shield",),
    "gem": ("gem", "gem", "gemstone", "jewel"),
    "coin": ("coin",),
    "key": ("key",),
    "chest": ("chest", "treasure chest"),
    "scroll": ("scroll", "scroll", "parchment"),
    "ring": ("ring",),
    "mug": ("mug", "mug", "cup"),
    "t-shirt": ("t-shirt", "t-shirt", "tee", "shirt"),
    "boot": ("boot", "boot", "shoe"),
    "backpack": ("backpack", "backpack", "rucksack", "bag"),
    "bottle": ("bottle",),
    "lamp": ("lamp", "lamp", "table lamp"),
    "chair": ("chair",),
    "purple": ("purple", "purple", "violet"),
    "cyan": ("cyan", "cyan", "turquoise", "teal"),
    "plain": ("plain", "plain", "solid"),
    "striped": ("striped", "striped", "stripy"),
    "dotted": ("dotted", "dotted", "polka dot", "spotted"),
    "flat": ("flat", "flat", "minimal"),
    "outlined": ("outlined", "outlined", "cartoon"),
    "shaded": ("shaded", "shaded", "3d", "glossy"),
    "pixel": ("pixel art", "pixel art", "pixel", "8-bit"),
    "white": ("white", "white", "pure white"),
    "dark": ("dark", "dark", "charcoal", "dark grey"),
    "beige": ("beige", "beige", "sand", "cream"),
    "gradient": ("gradient", "gradient", "studio gradient"),
}
"""Name -> the ways people write it; the usual one is listed more than once. Names left out have one way."""

FILLERS: tuple[str, ...] = (
    "product shot",
    "studio lighting",
    "handcrafted",
    "high quality",
    "highly detailed",
    "game asset",
    "game item",
    "inventory icon",
    "centered",
    "isolated",
    "e-commerce",
    "catalog photo",
    "packshot",
    "soft light",
    "sharp focus",
    "clean",
    "new",
    "premium",
    "vector",
    "digital art",
    "no text",
    "fantasy",
    "rpg",
    "shop listing",
    "item no. 42",
    "front view",
    "sale",
    "best seller",
    "cotton",
    "ceramic",
    "leather",
    "wooden",
    "steel",
    "glass",
)
"""Words that real sheets carry and that say nothing about the picture here."""


def ways_to_say(name: str) -> tuple[str, ...]:
    """Return the wordings of an attribute's value; a value without synonyms is its own wording."""
    return SYNONYMS.get(name, (name,))
