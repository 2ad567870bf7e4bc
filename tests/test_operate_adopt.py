"""A picture from outside becomes a candidate that says what it is, and leaves when it is approved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from assetmill.config import read_config
from assetmill.deliver.picture import decode, encode_png
from assetmill.operate.adopt import MAX_FILE, SOURCES, adopt_picture
from assetmill.records import InputError
from assetmill.storage.decisions import Draft, decide, read_decisions
from assetmill.storage.store import get_blob
from productions import NAME, Production, rows

PIXELS = np.random.default_rng(3).integers(0, 255, (24, 16, 3), dtype=np.uint8)


@pytest.fixture
def production(tmp_path: Path) -> Production:
    made = Production(tmp_path, rows(2))
    made.run()
    return made


def bring(production: Production, data: bytes | None = None, **options: str) -> str:
    config = read_config(production.path)
    data = encode_png(PIXELS, {"parameters": "a secret"}) if data is None else data
    history = production.index.history(["000"])["000"]
    beside = next(r for r in history.requests.values() if r.request.engine != "adopted")
    record = adopt_picture(production.store, config, "000", data, **{"source": "photograph", **options}, beside=beside)
    (candidate,) = [c for c in production.candidates() if c.request_key == record.key]
    return candidate.blob


def test_it_is_a_candidate_of_its_asset(production: Production) -> None:
    """Its pixels are kept and its metadata is not; its request says where it comes from and names no model."""
    blob = bring(production, name="shot.png", licence="own work")
    stored = get_blob(production.store, blob, "webp")
    assert np.array_equal(decode(stored), PIXELS)
    assert b"secret" not in stored
    history = production.index.history(["000"])["000"]
    (record,) = [r for r in history.requests.values() if r.request.engine == "adopted"]
    assert dict(record.request.options)["digital_source"].endswith("/digitalCapture")
    assert dict(record.request.options)["licence"] == "own work"
    assert (record.request.model, record.request.positive, record.template) == ("", "", "main")
    production.check_whole()


def test_transparency_is_kept(production: Production) -> None:
    """A cut-out from outside stays one."""
    pixels = np.dstack([PIXELS, np.where(PIXELS[..., 0] > 90, 255, 0).astype(np.uint8)])
    blob = bring(production, encode_png(pixels))
    assert np.array_equal(decode(get_blob(production.store, blob, "webp"), alpha=True), pixels)


def test_the_same_picture_is_one_candidate(production: Production) -> None:
    """Brought twice, it is on record once."""
    bring(production)
    before = len(production.candidates())
    bring(production)
    assert len(production.candidates()) == before


@pytest.mark.parametrize(
    "data",
    [b"", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"GIF89a", encode_png(PIXELS)[:-40], b"\x89PNG\r\n\x1a\n"],
)
def test_what_is_no_picture_is_refused(production: Production, data: bytes) -> None:
    """Nothing of it is stored."""
    before = sorted(i.key for i in production.store.list(""))
    with pytest.raises(InputError):
        bring(production, data)
    assert sorted(i.key for i in production.store.list("")) == before


def test_limits_hold(production: Production) -> None:
    """Too many bytes, too many pixels, a source that nobody knows."""
    with pytest.raises(InputError, match="bytes"):
        bring(production, b"\x89PNG" + b"0" * MAX_FILE)
    with pytest.raises(InputError, match="pixels"):
        bring(production, encode_png(np.zeros((6000, 6000), np.uint8), level=9))
    with pytest.raises(InputError, match=next(iter(SOURCES))):
        bring(production, source="a dream")


def test_it_leaves_when_it_is_approved(production: Production) -> None:
    """Approved, the next run upscales and publishes it, by the name of who did, claiming what it is."""
    blob = bring(production)
    for kind, seen in (("adopt", 0), ("approve", 1)):
        decide(production.store, NAME, Draft(asset_id="000", kind=kind, by="Mia", blob=blob), seen)
    assert read_decisions(production.store, NAME).of(production.job().sheet.assets[0].key).adopted == (blob,)
    production.run()
    (entry,) = production.catalog.show("000")
    assert (entry.blob, entry.reviewer, entry.engine) == (blob, "Mia", "adopted")
    assert entry.digital_source.endswith("/digitalCapture")
    production.check_whole()
    assert production.states() == {"unchanged": 2}
