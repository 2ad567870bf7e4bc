"""Matching published variants, or words, to an inventory: the nearest pictures, each embedded once."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from assetmill.config import JudgeConfig
from assetmill.deliver.picture import decode
from assetmill.engines.registry import load_judge, resolve_judge
from assetmill.operate.match import Embeddings, list_pictures, match_inventory, nearest
from assetmill.records import InputError
from productions import Production, rows
from tiny_models import write_tiny_clip


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Production:
    made = Production(tmp_path_factory.mktemp("match") / "toys", sheet=rows(3))
    made.run()
    return made


@pytest.fixture
def stock(tmp_path: Path) -> Path:
    """Pictures of several sizes and formats, in folders, and things that are none."""
    folder = tmp_path / "stock"
    (folder / "winter" / ".hidden").mkdir(parents=True)
    random = np.random.default_rng(5)
    for n, (name, size) in enumerate({"a.png": 32, "b.jpg": 48, "winter/c.webp": 32, "winter/d.PNG": 32}.items()):
        coarse = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((size, size + n)).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    (folder / "winter" / ".hidden" / "e.png").write_bytes(b"x")
    return folder


def put_published(toys: Production, stock: Path) -> dict[str, str]:
    """Copies every published picture into the stock; gives the file by asset."""
    names = {}
    for entry in toys.catalog.iter_entries():
        names[entry.asset_id] = f"sku-{entry.asset_id}.png"
        (stock / names[entry.asset_id]).write_bytes(toys.store.get(entry.object_key))
    return names


def test_the_same_picture_comes_first(toys: Production, stock: Path) -> None:
    """Each variant finds its own picture first, at similarity 1, and others below it in order."""
    names = put_published(toys, stock)
    found = match_inventory(toys.path, stock, top=4)
    assert found.inventory == 7
    assert not found.unusable
    assert [(m.asset, m.rank) for m in found.found] == [("000", 1), ("001", 1), ("002", 1)]
    for each in found.found:
        assert each.matches[0].file == names[each.asset]
        assert each.matches[0].score == pytest.approx(1, abs=1e-5)
        scores = [m.score for m in each.matches]
        assert scores == sorted(scores, reverse=True)
        assert len(scores) == 4


def test_pictures_are_embedded_once(toys: Production, stock: Path) -> None:
    """A second matching embeds nothing, a renamed file neither, a new one alone; damaged memory is made again."""
    put_published(toys, stock)
    first = match_inventory(toys.path, stock)
    again = match_inventory(toys.path, stock)
    assert again.embedded == 0
    assert again.found == first.found
    (stock / "a.png").rename(stock / "z.png")
    (stock / "copy.png").write_bytes((stock / "z.png").read_bytes())
    assert match_inventory(toys.path, stock).embedded == 0
    Image.new("RGB", (40, 40), (3, 90, 200)).save(stock / "new.png")
    assert match_inventory(toys.path, stock).embedded == 1
    for item in list(toys.store.list("embeddings/")):
        toys.store.replace(item.key, b"torn")
    damaged = match_inventory(toys.path, stock)
    # Three masters, which are other bytes than their published files, and the inventory, in which two files are alike.
    assert damaged.embedded == 3 + 9 - 1
    assert damaged.found[0].matches[0] == first.found[0].matches[0]
    assert any("embeddings/" in item.key for item in toys.store.list("aside/"))


def test_unusable_pictures(toys: Production, stock: Path) -> None:
    """A damaged picture, in the stock or published, is named with its reason and keeps no other from its match."""
    names = put_published(toys, stock)
    (stock / "broken.jpg").write_bytes((stock / "b.jpg").read_bytes()[:200])
    entry = toys.catalog.show("000")[0]
    blob = toys.store.root / f"blobs/{entry.master[:2]}/{entry.master}.png"
    kept = blob.read_bytes()
    blob.chmod(0o644)
    try:
        for item in list(toys.store.list("embeddings/")):
            toys.store.delete(item.key)
        blob.write_bytes(kept[:-1] + b"x")
        (stock / names[entry.asset_id]).unlink()  # the same bytes would lend their embedding
        found = match_inventory(toys.path, stock)
    finally:
        blob.write_bytes(kept)
    assert sorted(found.unusable) == sorted(["broken.jpg", entry.object_key])
    assert "damaged" in found.unusable["broken.jpg"]
    assert "corrupt" in found.unusable[entry.object_key]
    assert [m.asset for m in found.found] == ["001", "002"]


def test_texts(toys: Production, stock: Path, tmp_path: Path) -> None:
    """A text finds the pictures with the highest score under the judge, nothing needs to be published."""
    folder = write_tiny_clip(tmp_path / "clip")
    shop = Production(tmp_path / "shop", settings={"judge": {"engine": "open_clip", "source": str(folder)}})
    texts = ["a red mug", "winter"]
    found = match_inventory(shop.path, stock, texts=texts, top=2)
    config = JudgeConfig(source=str(folder), device="cpu")
    judge = load_judge(resolve_judge(config, Path), config)
    for each, text in zip(found.found, texts, strict=True):
        pictures = {name: decode((stock / name).read_bytes()) for name in list_pictures(stock)}
        scores = {name: float(judge.judge(p[None], [text]).scores[0]) for name, p in pictures.items()}
        best = sorted(scores, key=lambda name: -scores[name])[:2]
        assert [m.file for m in each.matches] == best
        assert [m.score for m in each.matches] == pytest.approx([scores[n] for n in best], abs=1e-4)
    with pytest.raises(Exception, match="no embeddings of texts"):
        match_inventory(toys.path, stock, texts=texts)


def test_a_combination_embeds_by_its_first(toys: Production, stock: Path, tmp_path: Path) -> None:
    """Several judges share the first one's embeddings, and its memory."""
    shop = Production(tmp_path / "shop")
    shop.settings["judge"] = {"combine": [{"engine": "simulated"}, {"engine": "simulated", "weight": 2}]}
    plain = shop.config()
    plain["judge"] = shop.settings["judge"]
    import yaml

    shop.path.write_text(yaml.safe_dump(plain))
    shop.run()
    found = match_inventory(shop.path, stock)
    assert found.judge == resolve_judge(JudgeConfig(engine="simulated"), Path).key
    assert len(found.found) == 4


def test_equal_pictures_are_ordered_by_name() -> None:
    """Ties are broken by the file's name, not by the order in memory."""
    stock = np.array([[1.0, 0], [0, 1], [1, 0], [1, 0]], np.float32)
    (found,) = nearest(np.array([[1.0, 0]], np.float32), stock, ["d", "c", "b", "a"], 2)
    assert [m.file for m in found] == ["a", "b"]
    assert list(nearest(np.zeros((0, 2), np.float32), stock, ["d", "c", "b", "a"], 2)) == []


def test_large_inventories_are_kept_in_parts(toys: Production, stock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeddings are stored part by part, so that a killed matching loses little."""
    import assetmill.operate.match as module

    monkeypatch.setattr(module, "_ROWS", 2)
    monkeypatch.setattr(module, "_BATCH_BYTES", 1)
    config = JudgeConfig(engine="simulated")
    memory = Embeddings(toys.store, load_judge(resolve_judge(config, Path), config))
    before = len(list(toys.store.list("embeddings/")))
    random = np.random.default_rng(9)
    for n in range(5):
        Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(stock / f"n{n}.png")
    files = [stock / f"n{n}.png" for n in range(5)]
    from assetmill.records import blob_key

    found, bad = memory.of_pictures({blob_key(f.read_bytes()): f.read_bytes for f in files})
    assert (len(found), bad, memory.num_made) == (5, {}, 5)
    assert len(list(toys.store.list("embeddings/"))) == before + 3


def test_the_command(toys: Production, stock: Path, tmp_path: Path) -> None:
    """`match` prints JSON, writes CSV and JSON files, and exits with 1 when a picture cannot be used."""
    from typer.testing import CliRunner

    from assetmill.cli import app

    put_published(toys, stock)
    out = tmp_path / "found.csv"
    result = CliRunner().invoke(app, ["match", str(toys.path), str(stock), "--top", "1", "--json", "--out", str(out)])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert [f["matches"][0]["file"] for f in report["found"]] == ["sku-000.png", "sku-001.png", "sku-002.png"]
    lines = list(csv.DictReader(out.read_text().splitlines()))
    assert [(row["asset"], row["place"], row["match"]) for row in lines] == [
        (f"{n:03d}", "1", f"sku-{n:03d}.png") for n in range(3)
    ]
    (stock / "broken.png").write_bytes(b"\x89PNG\r\n")
    result = CliRunner().invoke(app, ["match", str(toys.path), str(stock), "--out", str(tmp_path / "found.json")])
    assert result.exit_code == 1
    assert "broken.png" in json.loads((tmp_path / "found.json").read_text())["unusable"]
    with pytest.raises(InputError, match="neither in .csv nor in .json"):
        CliRunner().invoke(
            app, ["match", str(toys.path), str(stock), "--out", "found.txt"], catch_exceptions=False,
            standalone_mode=False,
        )  # fmt: skip


def test_nothing_to_match(toys: Production, tmp_path: Path) -> None:
    """An empty folder and an empty catalog are refused with the way out."""
    with pytest.raises(InputError, match="no pictures there"):
        match_inventory(toys.path, tmp_path)
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="nothing is published yet"):
        match_inventory(Production(tmp_path / "new").path, tmp_path)
