"""Pictures from outside: only their pixels come in, they are marked, never chosen by rank, and leave when approved."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from assetmill.config import read_config
from assetmill.deliver.picture import decode
from assetmill.operate.adopting import Outside, adopt
from assetmill.records import InputError, asset_key
from assetmill.storage.decisions import Decision, Draft, StaleDecision, decide, read_decisions
from assetmill.storage.store import get_blob
from productions import NAME, Production, rows

CAPTURE = "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"


@pytest.fixture
def toys(tmp_path: Path) -> Production:
    made = Production(tmp_path / "toys", rows(2))
    made.run()
    return made


def photo(size: int, format: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(3).integers(0, 255, (size, size, 3)).astype(np.uint8)
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x8298] = "secret owner"
    Image.fromarray(pixels).save(out, format, exif=exif)
    return out.getvalue()


def bring_in(made: Production, data: bytes, seen: int = 0, **said: str) -> Decision:
    outside = Outside(data, "photo.jpg", **said)
    return adopt(made.store, read_config(made.path), "001", outside, seen, by="ada")


def test_only_pixels_come_in(toys: Production) -> None:
    data = photo(16)
    decision = bring_in(toys, data)
    history = toys.index.history(["001"])["001"]
    made = history.candidates[decision.request_key]
    stored = get_blob(toys.store, decision.blob, made.media_type.removeprefix("image/"))
    assert b"secret" in data
    assert b"secret" not in stored
    assert np.array_equal(decode(stored), decode(data))
    assert history.requests[decision.request_key].request.engine == "adopted"
    assert history.requests[decision.request_key].rank_text == "a hat"
    assert read_decisions(toys.store, NAME).of(asset_key("001")).adopted == (decision.blob,)


def test_rank_never_chooses_it_and_approval_lets_it_leave(toys: Production) -> None:
    blob = bring_in(toys, photo(16), licence="CC0-1.0", digital_source=CAPTURE).blob
    assert toys.states() == {"unchanged": 2}
    decide(toys.store, NAME, Draft(asset_id="001", kind="approve", by="ada", blob=blob), 1)
    made = len(toys.candidates())
    assert toys.run()["published"] == 1
    (entry,) = toys.catalog.show("001")
    assert (entry.blob, entry.engine, entry.width) == (blob, "adopted", 32)
    assert (entry.licence, entry.commercial, entry.digital_source) == ("CC0-1.0", None, CAPTURE)
    assert entry.score is not None, "it is judged as the others are"
    assert len(toys.candidates()) == made
    assert toys.states() == {"unchanged": 2}
    toys.check_whole()


def test_a_large_one_is_not_enlarged(toys: Production) -> None:
    blob = bring_in(toys, photo(64, "PNG")).blob
    decide(toys.store, NAME, Draft(asset_id="001", kind="approve", by="ada", blob=blob), 1)
    toys.run()
    (entry,) = toys.catalog.show("001")
    assert (entry.width, entry.height, entry.upscaler) == (64, 64, "none")
    assert entry.digital_source == "", "nobody said what it is, and no model of ours made it"
    assert toys.states() == {"unchanged": 2}


def test_the_same_file_twice_is_one_candidate(toys: Production) -> None:
    first = bring_in(toys, photo(16))
    with pytest.raises(StaleDecision):
        bring_in(toys, photo(16))
    assert bring_in(toys, photo(16), 1).blob == first.blob
    toys.check_whole()


def test_what_is_no_picture_is_refused_and_nothing_is_stored(toys: Production) -> None:
    before = len(list(toys.store.list("")))
    for data in (b"", b"<svg onload=alert(1)>", photo(16)[:200]):
        with pytest.raises(InputError, match="001"):
            bring_in(toys, data)
    assert len(list(toys.store.list(""))) == before
