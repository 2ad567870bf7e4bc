"""Feeds in a config: what is wrong with one is said before a night begins, with its key and the way out."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from assetmill.config import AtlasConfig, PublishConfig

SHOP = {"format": "shopify", "fields": {"Title": "{name}"}}
MERCHANT = {
    "format": "merchant-xml",
    "fields": {
        "title": "{name}", "description": "{name}", "link": "https://shop.example/{id}", "price": "{price} EUR",
        "availability": "in_stock",
    },
}  # fmt: skip


def publish(feed: Any, **settings: Any) -> PublishConfig:
    base = {"columns": ("name", "price"), "base_url": "https://cdn.example", "alt": {"de": "{name}"}}
    return PublishConfig.model_validate({**base, "feeds": {"shop": feed}, **settings})


def test_good_feeds_are_taken() -> None:
    """The smallest config of each format."""
    for form in ("jsonl", "csv", "parquet", "embeddings"):
        assert publish({"format": form}, base_url=None).feeds["shop"].format == form
    assert publish(SHOP).feeds["shop"].fields["Title"] == "{name}"
    assert publish(MERCHANT).feeds["shop"].is_merchant
    assert publish({"format": "merchant-tsv", "supplemental": True}).feeds["shop"].supplemental


@pytest.mark.parametrize(
    ("feed", "settings", "says"),
    [
        ({"format": "shopify"}, {}, "needs Title in `fields`"),
        ({**SHOP, "group": "{name}"}, {}, "Option1 name"),
        (SHOP, {"base_url": None}, "publish.base_url"),
        (SHOP, {"base_url": "cdn.example"}, "base_url"),
        ({**SHOP, "locale": "fr"}, {}, "publish.alt has no text for"),
        ({**SHOP, "channel": "nowhere"}, {}, "channels are master"),
        ({**SHOP, "supplemental": True}, {}, "only merchant"),
        ({"format": "merchant-tsv"}, {}, "supplemental: true"),
        ({**MERCHANT, "group": "{name}"}, {}, "item_group_id"),
        ({"format": "merchant-tsv", "supplemental": True, "generated": ["title"]}, {}, "`generated` names 'title'"),
        ({"format": "embeddings", "fields": {"a": "{id}"}}, {}, "joined"),
        ({"format": "csv", "fields": {"cost": "{cost_price}"}}, {}, "publish.columns"),
        ({"format": "csv", "fields": {"cost": "{name"}}, {}, "cannot be read"),
        ({"format": "csv", "fields": {"cost": "{name!r}"}}, {}, "formats"),
        ({"format": "csv", "fields": {"n": "{rank:9999999}"}}, {}, "formats"),
        ({"format": "csv"}, {"alt": {"": "{positive}"}}, "alt.'' asks for {positive}"),
        ({"format": "csv"}, {"alt": {"../x": "{name}"}}, "alt"),
        ({"format": "csv"}, {"channels": {"game": {"atlas": {"sprite": "{who}"}}}}, "channels.game.atlas.sprite"),
    ],
)
def test_what_is_wrong_is_said(feed: Any, settings: dict[str, Any], says: str) -> None:
    """Each mistake is refused with words that name the key."""
    with pytest.raises(ValidationError) as error:
        publish(feed, **settings)
    assert says in str(error.value)


def test_patterns_know_digits() -> None:
    """Ranks and seeds may have digits; an atlas' own names are checked like all others."""
    given = publish({"format": "csv", "fields": {"n": "{rank:02d}-{seed}"}})
    assert given.feeds["shop"].fields["n"] == "{rank:02d}-{seed}"
    assert AtlasConfig().sprite == "{id}_{rank}"
