"""Seamless pictures through a whole run: the gate `seam` on candidates and masters, and what fails it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from assetmill.curate.seam import measure_seam
from assetmill.deliver.picture import decode
from assetmill.records import GateRecord
from assetmill.storage.store import get_blob
from productions import Production


def test_a_night_of_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates and masters are measured and published masters tile; with an impossible limit none is chosen."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = Production(
        tmp_path,
        [{"id": "1", "thing": "mug", "colour": "red"}],
        {
            "candidates": 2,
            "model": {
                "engine": "diffusers", "source": "starter", "size": 64, "steps": 4, "device": "cpu",
                "options": {"seamless": True},
            },
            "upscale": {"engine": "lanczos", "scale": 4},
            "run": {"chunk": 8, "lanes": 1},
        },
        templates={"main.j2": "---\nrank_text: a {{ thing }}\n---\na {{ colour }} {{ thing }}, dark background\n"},
    )  # fmt: skip
    assert made.run()["exit_code"] == 0
    seams = [r for r in made.records() if isinstance(r, GateRecord) and r.gate == "seam"]
    assert len(seams) == 2
    assert all(r.passed and r.stage == "candidate" and r.value is not None for r in seams)
    (entry,) = made.catalog.iter_entries()
    master = np.asarray(decode(get_blob(made.store, entry.master, "png")))
    assert all(measure_seam(master, axis).ratio <= 3 for axis in "xy")
    assert dict(entry.request["options"]) == {"seamless": True}
    made.change(gates={"seam": 1e-9, "regenerate": 0.0}, model={"options": {"seamless": "x"}})
    made.run()
    rejected = [r for r in made.records() if isinstance(r, GateRecord) and r.gate == "seam" and not r.passed]
    assert all("left and right edge differ" in r.reason for r in rejected)
