"""Publishing: files first, the version that names them last; names, terms, columns, and what is left alone."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from assetmill.config import Config
from assetmill.deliver.picture import decode
from assetmill.operate.naming import check_name_pattern
from assetmill.records import InputError
from productions import NAME, Production, rows


@pytest.fixture
def toys(tmp_path: Path) -> Production:
    return Production(tmp_path / "p", rows(3), {"candidates": 2, "publish": {"columns": ["colour"]}})


def config(**publish: Any) -> Config:
    plain = {"name": NAME, "sheet": {"path": "s.csv", "id": "id"}, "prompts": {"templates": ["t.j2"]}}
    return Config.model_validate({**plain, "publish": publish})


def test_entries_say_all_that_made_them(toys: Production) -> None:
    """An entry names its picture's files by hash, its request, terms, judge, upscaler and run."""
    report = toys.run()
    entry = toys.catalog.show("001")[0]
    assert (entry.rank, entry.rank_text, entry.positive) == (1, "a hat", "a red1 hat")
    assert (entry.engine, entry.model, entry.operation, entry.steps) == ("simulated", "simulated", "text-to-image", 1)
    assert (entry.licence, entry.commercial, entry.run) == ("apache-2.0", True, report["run"])
    assert entry.judge
    assert entry.upscaler
    assert entry.created.endswith("+00:00")
    assert entry.request["seed"] == entry.seed
    assert entry.object_key.startswith("published/master/001-")
    assert entry.object_key.endswith(f"/001_1-{entry.renditions[0].sha256[:8]}.png")
    (file,) = entry.renditions
    assert (file.channel, file.name, file.object_key, file.width) == ("master", "image", entry.object_key, 32)
    assert file.sha256 == hashlib.sha256(toys.store.get(file.object_key)).hexdigest()
    master = toys.store.get(f"blobs/{entry.master[:2]}/{entry.master}.png")
    assert (decode(toys.store.get(entry.object_key)) == decode(master)).all(), "not a pixel is changed"


def test_only_allowed_columns_leave(toys: Production) -> None:
    """Columns outside the allow-list, prices say, are in no entry and in no stored catalog."""
    for row in toys.sheet:
        row["price"] = "cost4711"
    toys.write_sheet()
    toys.run()
    assert {tuple(e.columns) for e in toys.catalog.iter_entries()} == {("colour",)}
    catalogs = [i.key for i in toys.store.list("catalogs/")] + [i.key for i in toys.store.list("published/")]
    assert not any(b"cost4711" in toys.store.get(key) for key in catalogs)


def test_names(toys: Production) -> None:
    """File names follow the pattern, made safe; the folder keeps ids apart that look alike."""
    toys.sheet = [
        {"id": "../etc", "thing": "mug", "colour": "rot & grün"},
        {"id": "a/b", "thing": "hat", "colour": "../x"},
        {"id": "a b", "thing": "key", "colour": "con"},
    ]
    toys.change(publish={"name": "{colour}_{id}_{seed}_{template}_{rank}"})
    assert toys.run()["published"] == 3
    keys = {e.asset_id: e.object_key for e in toys.catalog.iter_entries()}
    assert all(".." not in key.split("/") and not part.startswith(".") for key in keys.values() for part in [key])
    assert keys["a/b"].split("/")[2].startswith("a-b-")
    assert keys["a/b"].split("/")[2] != keys["a b"].split("/")[2]
    assert keys["../etc"].split("/")[3].startswith("rot-grun_")
    assert all((toys.folder / "out" / key).is_file() for key in keys.values())


def test_pattern_is_checked() -> None:
    """A pattern or column that the sheet lacks, or that may not leave, is refused before anything is made."""
    check_name_pattern(config(columns=["colour"], name="{id}-{colour}_{rank:02d}_{seed}"), ["id", "colour"])
    for publish, message in (
        ({"columns": ["price"]}, r"publish.columns names 'price', which the sheet lacks; its columns are colour, id"),
        ({"name": "{colour}"}, r"publish.name uses \{colour\}; use \{id\}, .* or add the column to publish.columns"),
        ({"name": "{id"}, "publish.name is not a pattern"),
        ({"name": "{id.__class__}"}, r"publish.name uses \{id.__class__\}"),
        ({"name": "{id:03d}"}, r"publish.name uses \{id:03d\}; only numbers have digits"),
        ({"name": "{rank:>999999999}"}, "only numbers have digits"),
        ({"name": "{rank:{seed}}"}, "only numbers have digits"),
        ({"channels": {"shop": {"name": "{price}"}}}, r"publish.channels.shop.name uses \{price\}; use \{id\}"),
    ):
        with pytest.raises(InputError, match=message):
            check_name_pattern(config(**publish), ["id", "colour"])


def test_new_name_keeps_the_old_file(toys: Production) -> None:
    """A new pattern publishes new files; those of older versions stay, so that these stay whole."""
    toys.run()
    old = {e.object_key for e in toys.catalog.iter_entries()}
    toys.change(publish={"name": "{id}_by_{seed}"})
    report = toys.run()
    assert (report["pictures"], report["files"], report["catalog_version"]) == (0, 3, 2)
    assert not old & {e.object_key for e in toys.catalog.iter_entries()}
    assert all(toys.store.stat(key) for key in old)
    assert toys.catalog.verify(1).passed
    assert toys.catalog.verify(2).passed


def test_new_format_makes_no_image(toys: Production) -> None:
    """Another file format encodes the chosen pictures anew from candidates of the old format, and makes none."""
    toys.run()
    toys.change(publish={"format": "webp"})
    report = toys.run()
    assert (report["pictures"], report["files"], report["exit_code"]) == (0, 3, 0)
    assert {e.media_type for e in toys.catalog.iter_entries()} == {"image/webp"}
    assert all(e.object_key.endswith(".webp") for e in toys.catalog.iter_entries())
    toys.change(candidates=3)
    assert toys.run()["pictures"] == 3
    toys.check_whole()


def test_files_without_a_version(toys: Production) -> None:
    """Files that a dead run had published already are found there, and only the version is committed."""
    toys.run(publish_now=False)
    reference = Production(toys.folder.parent / "q", toys.sheet, toys.settings)
    reference.run()
    entry = next(reference.catalog.iter_entries())
    toys.store.put_if_absent(entry.object_key, reference.store.get(entry.object_key))
    before = toys.store.stat(entry.object_key)
    assert toys.run()["files"] == 3
    assert toys.store.stat(entry.object_key) == before
    assert toys.published() == reference.published()


def test_a_damaged_published_file_is_never_replaced(toys: Production) -> None:
    """Other bytes under a published name are reported: the file stays, and so does the old version of its asset."""
    toys.run()
    entry = toys.catalog.show("001")[0]
    path = toys.folder / "out" / entry.object_key
    path.write_bytes(b"damaged")
    toys.change(publish={"columns": []})
    report = toys.run()
    assert (report["exit_code"], report["published"]) == (1, 2)
    assert "it is published with other bytes than its name says" in report["troubled"]["001"]
    assert path.read_bytes() == b"damaged"
    assert toys.catalog.verify().corrupt == [entry.object_key]


def test_a_removed_published_file_is_made_again(toys: Production) -> None:
    """What somebody deleted comes back with the next version of its asset; what is there is not made again."""
    toys.run()
    entry = toys.catalog.show("001")[0]
    toys.store.delete(entry.object_key)
    toys.change(publish={"columns": []})
    report = toys.run()
    assert (report["files"], report["files_made"]) == (3, 1)
    assert toys.catalog.show("001")[0].renditions == entry.renditions
    toys.check_whole()


def test_waiting_and_failed_are_not_published(toys: Production) -> None:
    """What waits for people or failed keeps what is published of it, and adds nothing."""
    toys.run()
    before = toys.published()
    toys.change(publish={"policy": "approved"})
    report = toys.run()
    assert (report["outcomes"], report["files"]) == ({"pending_review": 3}, 0)
    assert toys.published() == before
    assert toys.states() == {"pending_review": 3}


def test_two_configs_in_one_store(tmp_path: Path) -> None:
    """Configs that share a store share blobs and nothing else: neither sees the other's assets as removed."""
    one = Production(tmp_path / "a", rows(2), {"publish": {"removed": "retire"}, "store": {"url": str(tmp_path / "s")}})
    other = Production(tmp_path / "b", rows(4)[2:], {**one.settings, "name": "games"})
    assert one.run()["published"] == 2
    report = other.run()
    assert (report["removed"], report["published"]) == (0, 2)
    assert one.run()["status"] == "nothing to do"


def test_parallel_versions_are_merged(toys: Production) -> None:
    """Somebody else's commit between plan and publishing is kept: both are in the newest version."""
    toys.run(only=["000"])

    def publish_another(_: Any) -> None:
        entry = toys.catalog.show("000")[0]
        from dataclasses import replace

        toys.catalog.commit([replace(entry, asset_id="elsewhere")], run="other")

    toys.run(on_run=publish_another)
    assert {asset for asset, _ in toys.published()} == {"000", "001", "002", "elsewhere"}
