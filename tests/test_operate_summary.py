"""A plan and a report as a person reads them, and where the pictures are."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from assetmill.intake.plan import summarise_plan
from assetmill.operate.summary import places_of, show_plan, show_report
from assetmill.pipeline import plan_job, rates_of
from productions import NAME, Production, rows


@pytest.fixture
def toys(tmp_path: Path) -> Production:
    return Production(tmp_path / "p", rows(3))


def console() -> Console:
    return Console(file=io.StringIO(), width=160, color_system=None)


def lines(shown: Console) -> list[list[str]]:
    return [line.split() for line in shown.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def show_plan_of(toys: Production) -> tuple[str, list[list[str]]]:
    job, shown = toys.job(), console()
    summary: dict[str, Any] = summarise_plan(plan_job(job), job.config, rates_of(job))
    show_plan(shown, summary, "the model", job.store.url)
    return shown.file.getvalue(), lines(shown)  # type: ignore[attr-defined]


def test_plan(toys: Production) -> None:
    """A plan shows states, images and their most, upscales, the cost and its basis, and the prompts."""
    text, found = show_plan_of(toys)
    assert ["new", "3"] in [[w for w in line if w != "│"] for line in found]
    assert "12 (at most 24)" in text
    assert "(guess)" in text
    assert "000: a red0 mug" in text
    toys.run()
    text, _ = show_plan_of(toys)
    assert "unchanged" in text
    assert "none" in text
    assert "about" not in text


def test_plan_flags_long_prompts(toys: Production) -> None:
    """A prompt that the text encoder cuts is marked where it is shown."""
    shown = console()
    sample = {"asset": "a", "positive": "a [bold] mug", "flags": ["truncated"]}
    job = toys.job()
    summary = {**summarise_plan(plan_job(job), job.config, rates_of(job)), "samples": [sample]}
    show_plan(shown, summary, "m", "out")
    assert "a: a [bold] mug [truncated]" in shown.file.getvalue()  # type: ignore[attr-defined]


def test_report(toys: Production) -> None:
    """A report shows what was made, published and troubled, and where it all is."""
    toys.change(model={"options": {"poison": "red1"}})
    report = toys.run()
    shown = console()
    places = places_of(toys.store, toys.job().config, report)
    show_report(shown, {**report, "bad_rows": ["s.csv, row 3: no id"]}, places)
    text = shown.file.getvalue()  # type: ignore[attr-defined]
    assert "done, some items failed" in text
    assert "8 images of 3 assets" in text
    assert ["001", "failed"] in [[w for w in line if w != "│"] for line in lines(shown)]
    assert "bad row: s.csv, row 3: no id" in text
    assert all(str(Path(place)) in "".join(text.split()) for place in places.values())


@pytest.mark.draws
def test_places(toys: Production) -> None:
    """Pictures, contact sheet and catalog are where the report says; before anything is published nothing is said."""
    config = toys.job().config
    report = toys.run(publish_now=False)
    assert set(places_of(toys.store, config, report)) == {"contact sheet", "morning report"}
    report = toys.run()
    places = places_of(toys.store, config, report)
    assert Path(places["pictures"]) == toys.folder / "out" / "published" / "master"
    assert Path(places["catalog file"]).name == "latest.json"


def test_places_in_a_bucket(toys: Production) -> None:
    """In a bucket, places are URLs of its keys."""

    class Bucket:
        url = "s3://shop/art/"

        def local_path(self, key: str) -> None:
            return None

    found = places_of(Bucket(), toys.job().config, {"catalog_version": 1, "contact_sheet": "runs/x/c.png"})  # type: ignore[arg-type]
    assert found == {
        "pictures": "s3://shop/art/published/master",
        "contact sheet": "s3://shop/art/runs/x/c.png",
        "catalog file": f"s3://shop/art/catalogs/{NAME}/latest.json",
    }


def test_what_is_left_is_said(tmp_path: Path) -> None:
    """A budget that is reached: the console says how many assets and images wait for the next run."""
    toys = Production(tmp_path, rows(5), {"run": {"chunk": 8, "budget": {"images": 8}}})
    report, shown = toys.run(), console()
    show_report(shown, report, {})
    assert ["left", "│", "3", "assets,", "12", "images", "to", "make"] in lines(shown)
    assert (report["exit_code"], report["left"], report["images_left"]) == (4, 3, 12)
