"""The figures of publishing: what they are taken from is there, and files say what they should."""

from __future__ import annotations

from pathlib import Path

import pytest

from productions import Production, rows

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_every_file_says_what_the_catalog_knows(tmp_path: Path) -> None:
    """Texts and properties of every rendition, of either way to embed, are read back as they were written."""
    import publishing

    renditions = [{"name": form, "format": form} for form in ("png", "jpeg", "webp", "webp-lossless", "avif")]
    channels = {embed: {"embed": embed, "renditions": renditions} for embed in ("full", "disclosure")}
    publish = {"channels": channels, "columns": ["colour"], "alt": {"": "<{colour}> & ]]>"}}
    toys = Production(tmp_path / "p", rows(2, colour="rot ‹ä›"), {"candidates": 1, "publish": publish})
    assert toys.run()["files"] == 20
    found = publishing.read_files_back(toys.job())
    assert (found["files"], found["identical"]) == (20, 20)
    assert found["exiftool"] in (20, None)


def test_objects_are_published_by_a_process_of_their_own(tmp_path: Path) -> None:
    """The process that publishes says how many objects it stored, and in what memory."""
    import publishing

    found = publishing.measure_objects(tmp_path, 80)
    assert (found["objects"], len(found["marks"])) == (80, 5)
    assert found["peak_mib"] > 20
