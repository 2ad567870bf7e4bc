"""Outlets follow the catalog: whole, current, repaired when missing, and cheap when nothing changed."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from assetmill.config import read_config
from assetmill.deliver.picture import decode
from assetmill.operate import match
from assetmill.operate.atlases import copy_atlas, write_atlases
from assetmill.operate.feeds import write_feed_file, write_feeds
from assetmill.operate.gc import collect
from assetmill.operate.outlets import write_outlets
from assetmill.operate.recall import recall
from assetmill.records import InputError
from assetmill.storage.folder import FolderStore
from productions import NAME, Production, rows

PUBLISH: dict[str, Any] = {
    "columns": ["thing", "colour"],
    "base_url": "https://cdn.example.com",
    "alt": {"": "a {colour} {thing}"},
    "channels": {
        "game": {
            "renditions": [{"name": "icon", "size": 16}],
            "atlas": {"size": 256, "sprite": "{id}"},
        }
    },
    "feeds": {
        "all": {"format": "csv"},
        "shop": {"format": "shopify", "fields": {"Title": "{colour} {thing}"}},
    },
}


@pytest.fixture
def production(tmp_path: Path) -> Production:
    made = Production(tmp_path / "toys", sheet=rows(6), settings={"publish": PUBLISH})
    report = made.run()
    assert report["exit_code"] == 0, report
    return made


@contextmanager
def gone(store: FolderStore, key: str) -> Iterator[None]:
    store.delete(key)
    yield
    assert store.stat(key) is not None


def feed(store: FolderStore, name: str) -> tuple[dict[str, Any], bytes]:
    facts = json.loads(store.get(f"feeds/{NAME}/{name}/latest.json"))
    data = store.get(facts["key"])
    assert store.get(facts["address"]) == data
    return facts, data


def sprites(store: FolderStore) -> dict[str, np.ndarray]:
    """The sprites of the newest atlas by name, from its data and sheets."""
    facts = json.loads(store.get(f"atlases/{NAME}/game/latest.json"))
    found = {}
    for key in facts["data"]:
        value = json.loads(store.get(key))
        sheet = decode(store.get(f"{key.rpartition('/')[0]}/{value['meta']['image']}"), alpha=True)
        for name, frame in value["frames"].items():
            at = frame["frame"]
            found[name] = sheet[at["y"] : at["y"] + at["h"], at["x"] : at["x"] + at["w"]]
    return found


def test_a_run_writes_them(production: Production) -> None:
    """After the catalog: feeds name its files, the atlas shows them pixel by pixel, the report lists both."""
    store = production.store
    facts, data = feed(store, "all")
    assert facts["version"] == production.catalog.latest() == 1
    lines = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))
    entries = {e.asset_id: e for e in production.catalog.iter_entries()}
    assert [line["asset_id"] for line in lines] == sorted(entries)
    assert lines[0]["alt"] == "a red0 mug"
    for line in lines:
        assert line["url"] == f"https://cdn.example.com/{entries[line['asset_id']].files[0].object_key}"
        assert store.stat(line["object_key"]) is not None
    found = sprites(store)
    assert set(found) == set(entries)
    for asset_id, entry in entries.items():
        assert np.array_equal(found[asset_id], decode(store.get(entry.files[0].object_key), alpha=True))
    report = json.loads(store.get(next(i.key for i in store.list(f"runs/{NAME}/") if i.key.endswith("/report.json"))))
    assert [f["name"] for f in report["feeds"]] == ["all", "shop"]
    assert (report["atlases"][0]["num_sprites"], report["outlet_problems"]) == (6, [])


def test_what_is_current_is_not_written_again(production: Production) -> None:
    """A night without changes touches no feed and no sheet."""
    before = {i.key: i.version for p in ("feeds/", "atlases/") for i in production.store.list(p)}
    assert production.run()["exit_code"] == 0
    assert {i.key: i.version for p in ("feeds/", "atlases/") for i in production.store.list(p)} == before


def test_what_is_missing_is_written_again(production: Production) -> None:
    """A lost feed, sheet or hint is there again after the next publishing, with the same bytes."""
    store, config = production.store, read_config(production.path)
    facts = json.loads(store.get(f"atlases/{NAME}/game/latest.json"))
    lost = [feed(store, "all")[0]["key"], feed(store, "shop")[0]["address"], facts["sheets"][0]["key"],
            facts["data"][0], f"feeds/{NAME}/all/latest.json"]  # fmt: skip
    for key in lost:
        data = store.get(key)
        with gone(store, key):
            assert write_outlets(store, config, production.catalog).problems == []
        assert store.get(key) == data
    with gone(store, facts["layout"]):
        write_atlases(store, config, production.catalog)
    assert json.loads(store.get(f"atlases/{NAME}/game/latest.json")) == facts


def test_a_changed_night_moves_little(production: Production) -> None:
    """New sprites come in, those there stay, and former feeds remain whole under their own names."""
    store = production.store
    old, data = feed(store, "all")
    production.sheet.append({"id": "777", "thing": "drum", "colour": "green"})
    production.write_sheet()
    report = production.run()
    assert report["exit_code"] == 0
    assert report["atlases"][0]["num_moved"] == 0
    assert report["atlases"][0]["num_sprites"] == 7
    new, _ = feed(store, "all")
    assert (new["version"], new["rows"]) == (2, 7)
    assert store.get(old["key"]) == data
    assert "777" in sprites(store)


def test_an_older_version_does_not_replace_a_newer(production: Production) -> None:
    """A late publisher leaves the address to the faster one."""
    production.sheet.append({"id": "777", "thing": "drum", "colour": "green"})
    production.write_sheet()
    production.run()
    store, config = production.store, read_config(production.path)
    newest, data = feed(store, "all")
    (late,) = write_feeds(store, config, production.catalog, 1, ["all"])
    assert late.num_rows == 6
    assert feed(store, "all") == (newest, data)


def test_what_a_shop_would_not_take_is_reported(production: Production) -> None:
    """The run ends with 1 and names the asset; the catalog and the other rows go out."""
    production.sheet[0] = {"id": "000", "thing": "mug", "colour": "=1+1"}
    production.write()
    report = production.run()
    assert report["exit_code"] == 1
    assert any("asset '000'" in p and "formula" in p for p in report["outlet_problems"])
    assert feed(production.store, "shop")[0]["left_out"] == 1


def test_an_atlas_that_cannot_be_packed_keeps_nothing_back(production: Production) -> None:
    """Two sprites of one name: the atlas says so, feeds are written, the catalog stands."""
    production.change(publish={"channels": {"game": {
        "renditions": [{"name": "icon", "size": 16}], "atlas": {"rendition": "icon", "sprite": "toy"},
    }}})  # fmt: skip
    report = production.run()
    assert report["exit_code"] == 1
    assert any(p.startswith("atlas game:") and "{id}_{rank}" in p for p in report["outlet_problems"])
    assert len(report["feeds"]) == 2


def test_a_damaged_layout_is_packed_anew(production: Production, caplog: pytest.LogCaptureFixture) -> None:
    """What the former night left is not trusted blindly: it says so and packs afresh."""
    store, config = production.store, read_config(production.path)
    store.replace(f"atlases/{NAME}/game/latest.json", b'{"schema": 1, "layout": "nowhere"}')
    (written,) = write_atlases(store, config, production.catalog)
    assert written.num_sprites == 6
    assert "packed anew" in caplog.text


def test_a_feed_into_a_file_and_an_atlas_into_a_folder(production: Production, tmp_path: Path) -> None:
    """For people: the same bytes as in the store; the atlas under plain names that name each other."""
    store, config = production.store, read_config(production.path)
    target = tmp_path / "new" / "shop.csv"
    written = write_feed_file(store, config, production.catalog, "shop", target)
    assert written.num_rows == 6
    assert target.read_bytes() == feed(store, "shop")[1]
    assert [p.name for p in target.parent.iterdir()] == ["shop.csv"]
    paths = copy_atlas(store, config, "game", tmp_path / "atlas")
    assert [p.name for p in paths] == ["game.png", "game.json"]
    assert json.loads(paths[1].read_bytes())["meta"]["image"] == "game.png"
    with pytest.raises(InputError, match="channels with one"):
        copy_atlas(store, config, "shop", tmp_path)
    with pytest.raises(InputError, match="publish.feeds has all, shop"):
        write_feed_file(store, config, production.catalog, "none", target)


def test_embeddings_are_those_the_store_keeps(production: Production, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made once by the judge, kept, and written from what is kept the next time."""
    production.change(publish={"feeds": {"vectors": {"format": "embeddings"}}})
    store, config = production.store, read_config(production.path)
    (first,) = write_feeds(store, config, production.catalog)
    table = pq.read_table(io.BytesIO(feed(store, "vectors")[1]))
    assert table.num_rows == first.num_rows == 6
    vectors = np.array(table["embedding"].to_pylist(), np.float32)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    data = feed(store, "vectors")[1]
    store.delete(f"feeds/{NAME}/vectors/latest.json")
    monkeypatch.setattr(match.Embeddings, "_embed", lambda self, readers, bad: iter([]))
    write_feeds(store, config, production.catalog)
    assert feed(store, "vectors")[1] == data


def test_the_command_line_writes_them(production: Production, tmp_path: Path) -> None:
    """`catalog feed` into a file and into the store, `catalog atlas` into a folder; 1 where a row is left out."""
    from typer.testing import CliRunner

    from assetmill.cli import app

    def ask(*words: str) -> Any:
        return CliRunner().invoke(app, ["catalog", *words, "--json"])

    config = str(production.path)
    done = ask("feed", config, "shop", str(tmp_path / "shop.csv"))
    assert (done.exit_code, json.loads(done.stdout)["rows"]) == (0, 6)
    production.store.delete(f"feeds/{NAME}/all/latest.json")
    done = ask("feed", config, "all")
    assert json.loads(done.stdout)["address"] == f"https://cdn.example.com/feeds/{NAME}/all/all.csv"
    assert feed(production.store, "all")[0]["rows"] == 6
    production.change(publish={"feeds": {"shop": {"format": "shopify", "fields": {"Title": "={thing}"}}}})
    done = ask("feed", config, "shop", str(tmp_path / "shop.csv"))
    assert (done.exit_code, json.loads(done.stdout)["left_out"]) == (1, 6)
    done = ask("atlas", config, "game", str(tmp_path / "atlas"))
    assert (done.exit_code, (tmp_path / "atlas" / "game.json").is_file()) == (0, True)


def test_what_was_taken_back_leaves_the_outlets(production: Production) -> None:
    """A recall and a rollback rewrite feeds and atlas at once: no shop goes on showing what the catalog lost."""
    from typer.testing import CliRunner

    from assetmill.cli import app

    config = str(production.path)
    done = CliRunner().invoke(app, ["catalog", "recall", config, "--asset", "003", "--json"])
    assert done.exit_code == 0, done.output
    facts, data = feed(production.store, "all")
    assert (facts["rows"], facts["version"]) == (5, production.catalog.latest())
    assert b"003," not in data
    assert "003" not in sprites(production.store)
    done = CliRunner().invoke(app, ["catalog", "rollback", config, "1", "--json"])
    assert done.exit_code == 0, done.output
    assert feed(production.store, "all")[0]["version"] == production.catalog.latest() == 3


def test_a_recall_lists_what_shows_it(production: Production) -> None:
    """The list of a recall has the sheets, the data and the feeds, also those of older nights, and no others."""
    production.sheet[0]["colour"] = "green"
    production.write_sheet()
    production.run()
    store = production.store
    of_both = recall(store, NAME, "asset", "003", dry_run=True, base_url="https://cdn.example.com")
    keys = {t.key for t in of_both.takedown if t.kind == "outlet"}
    every = {i.key for p in ("feeds/", "atlases/") for i in store.list(p)}
    assert keys == {k for k in every if not k.endswith(("latest.json", ".layout.json"))}
    assert all(t.url == f"https://cdn.example.com/{t.key}" for t in of_both.takedown)
    live = {t.key for t in of_both.takedown if t.live and t.kind == "outlet"}
    assert live < keys
    assert feed(store, "all")[0]["key"] in live
    assert not any(t.kind == "outlet" for t in recall(store, NAME, "asset", "nobody").takedown)
    recall(store, NAME, "asset", "003")
    write_outlets(store, read_config(production.path), production.catalog)
    again = recall(store, NAME, "asset", "003")
    assert not any(t.live for t in again.takedown), "the newest no longer show it"
    assert keys - {t.key for t in again.takedown} == {feed(store, n)[0]["address"] for n in ("all", "shop")}


def test_replaced_outlets_go(production: Production) -> None:
    """`gc` lets go of what was replaced long ago, and never of what is current."""
    first = {i.key for p in ("feeds/", "atlases/") for i in production.store.list(p)}
    production.sheet[0]["colour"] = "green"
    production.write_sheet()
    production.run()
    config = read_config(production.path)
    collect(production.store, config, delete=True, now=time.time() + 50 * 86_400)
    assert first < {i.key for p in ("feeds/", "atlases/") for i in production.store.list(p)}
    found = collect(production.store, config, delete=True, now=time.time() + 100 * 86_400)
    (gone_now,) = [s.keys for s in found.sweeps if s.kind == "outlets"]
    assert set(gone_now) < first
    before = {i.key: i.version for p in ("feeds/", "atlases/") for i in production.store.list(p)}
    assert write_outlets(production.store, config, production.catalog).problems == []
    assert {i.key: i.version for p in ("feeds/", "atlases/") for i in production.store.list(p)} == before
