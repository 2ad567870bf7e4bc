"""Patterns are filled from what may leave, and nothing else; URLs are percent-encoded."""

from __future__ import annotations

import pytest

from assetmill.deliver.fill import alt_texts, fill, public_url, values_of
from assetmill.storage.entries import CatalogEntry


def entry(**columns: object) -> CatalogEntry:
    return CatalogEntry(
        asset_id="A 1", rank=2, variant_key="v", request_key="r", blob="b", master="m", media_type="image/png",
        width=8, height=8, seed=7, template="main.j2", positive="a secret prompt", columns=columns,
    )  # fmt: skip


def test_values_are_what_may_leave() -> None:
    """Columns and the four plain facts; no prompt. A column cannot stand in for the id."""
    values = values_of(entry(colour="red", id="other", price=None))
    assert values == {"colour": "red", "id": "A 1", "rank": 2, "seed": 7, "template": "main.j2", "price": ""}
    assert fill(" {id}_{rank:02d} {colour} ", values) == "A 1_02 red"


def test_alt_texts_by_locale() -> None:
    """A text per locale; the gap of an empty column closes; a locale without any text is left out."""
    values = values_of(entry(colour="", thing="mug", ding="Becher"))
    patterns = {"": "a {colour} {thing}", "de": "ein {ding}", "fr": "{colour}"}
    assert alt_texts(patterns, values) == {"": "a mug", "de": "ein Becher"}


@pytest.mark.parametrize(
    ("base", "key", "url"),
    [
        ("https://cdn.example.com/a/", "published/x/y z/ä%.png", "https://cdn.example.com/a/published/x/y%20z/%C3%A4%25.png"),
        ("https://cdn.example.com", "published/x/mug_1-00ff.png", "https://cdn.example.com/published/x/mug_1-00ff.png"),
        ("", "published/x", ""),
    ],
)  # fmt: skip
def test_public_urls(base: str, key: str, url: str) -> None:
    """Slashes stay, all else that has a meaning in a URL is encoded."""
    assert public_url(base, key) == url
