"""One published picture made again from its entry, and whether the bytes agree."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from assetmill.operate.reproduce import find_entry, reproduce, reproduce_entry
from assetmill.pipeline import load_engines
from assetmill.records import InputError, blob_key
from productions import Production, rows


@pytest.fixture
def toys(tmp_path: Path) -> Production:
    made = Production(tmp_path / "p", rows(3), {"select": {"keep": 2}})
    made.run()
    return made


def test_bytes_agree(toys: Production) -> None:
    """Model and upscaler give the published bytes again, from the entry alone, also after the templates changed."""
    entry = toys.catalog.show("002")[0]
    toys.templates["main.j2"] = "something else: {{ thing }}"
    toys.sheet.clear()
    toys.write()
    for key in ("002", entry.request_key[:8], entry.variant_key, entry.master[:6], entry.object_key):
        found = reproduce_entry(toys.path, key)
        assert (found.asset_id, found.base_agrees, found.master_agrees) == ("002", True, True)
        assert (found.base_max_difference, found.master_max_difference) == (0, 0)
        assert blob_key(found.data) == found.master == entry.master
    assert found.as_dict()["agrees"] is True
    assert not list(toys.store.list("aside/"))


def test_other_pictures_differ(toys: Production) -> None:
    """Another picture is said to differ, and by how much."""
    entry = toys.catalog.show("002")[0]
    other = replace(entry, request={**entry.request, "seed": entry.seed + 1})
    engines = load_engines(toys.job())
    found = reproduce(other, engines.generator, engines.upscaler, toys.store)
    assert (found.base_agrees, found.master_agrees) == (False, False)
    assert found.base_max_difference > 0
    assert found.as_dict()["agrees"] is False


def test_format_of_the_day(toys: Production) -> None:
    """A candidate stored as PNG and published as WebP later is compared in both formats."""
    toys.change(publish={"format": "webp"})
    toys.run()
    found = reproduce_entry(toys.path, "001")
    assert (found.base_agrees, found.master_agrees) == (True, True)


def test_first_rank_of_an_id(toys: Production) -> None:
    """An id means its first-ranked picture; an ambiguous beginning and an unknown key are refused."""
    assert find_entry(toys.catalog, "001").rank == 1
    second = toys.catalog.show("001")[1]
    assert find_entry(toys.catalog, second.variant_key).rank == 2
    with pytest.raises(InputError, match="nothing published is named '007'"):
        find_entry(toys.catalog, "007")
    with pytest.raises(InputError, match="nothing published"):
        find_entry(toys.catalog, second.variant_key[:5])


def test_changed_models_are_refused(toys: Production) -> None:
    """With another upscaler or model revision nothing is made, and the way back is named."""
    toys.change(upscale={"engine": "lanczos"})
    with pytest.raises(InputError, match=r"upscaler is another one; use [0-9a-f]{64}"):
        reproduce_entry(toys.path, "002")
    toys.change(upscale={"engine": "nearest"})
    entry = toys.catalog.show("002")[0]
    toys.catalog.commit([replace(entry, revision="f" * 40)], run="other")
    with pytest.raises(InputError, match=r"was made by simulated at revision ffff.*put that revision into the config"):
        reproduce_entry(toys.path, "002")
