"""The morning report: facts of a night, beside the nights before it, on a page that nothing can break out of."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from assetmill.operate.morning import writing
from assetmill.operate.morning.comparing import changes_between, spikes_of
from assetmill.operate.morning.writing import rebuild_report
from assetmill.records import InputError
from assetmill.storage.decisions import decide, read_decisions
from assetmill.storage.reviews import Draft
from productions import NAME, Production, rows

STYLED = "---\nrank_text: a {{ thing }}\naxes: {style: [flat, ink]}\n---\na {{ colour }} {{ thing }}, {{ style }}\n"


@pytest.fixture
def toys(tmp_path: Path) -> Production:
    """A sheet of twelve, a third of the pictures black."""
    sheet = [{**row, "kind": ("tool", "food")[n % 2]} for n, row in enumerate(rows(12))]
    made = Production(tmp_path / "p", sheet)
    made.change(
        publish={"columns": ["kind"]}, gates={"max_rejected": 1.0}, model={"options": {"black": 0.3}},
        prompts={"templates": ["main.j2"]},
    )  # fmt: skip
    return made


@dataclass
class Nights:
    """A production's first night over eight assets, and the next one over all, after its prompts were changed."""

    toys: Production
    first: Any
    second: Any


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    toys = Production(tmp_path_factory.mktemp("nights") / "p", rows(12))
    toys.change(gates={"max_rejected": 1.0}, model={"options": {"black": 0.3}})
    first = toys.run(limit=8)
    toys.templates["main.j2"] = toys.templates["main.j2"].replace("a {{ colour }}", "one {{ colour }}")
    toys.sheet[0]["colour"] = "blue"
    toys.change(candidates=6, model={"steps": 2})
    return Nights(toys, first, toys.run())


def facts(toys: Production, report: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(toys.store.get(f"runs/{NAME}/{report['run']}/morning.json"))
    return found


def page(toys: Production, report: Any) -> str:
    return toys.store.get(report["report_page"]).decode()


class Reader(HTMLParser):
    """The elements of a page with their attributes, its texts, and whether all that opens is closed."""

    VOID = ("meta", "img", "br", "rect", "path", "use", "line", "polyline", "link")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


# --- facts --------------------------------------------------------------------------------------------------


def test_yields_add_up(toys: Production) -> None:
    """Each way of counting counts every image of the night once, and agrees with the records.

    Columns are those of the allow-list with few values.
    """
    toys.templates["main.j2"] = STYLED
    toys.change(publish={"columns": ["kind", "colour"]})
    report = toys.run()
    found = facts(toys, report)
    yields = found["yields"]
    assert set(yields) == {"template", "model", "axis style", "column kind"}
    candidates = toys.candidates()
    refused = {r.subject for r in toys.records() if r.record == "gate" and not r.passed}  # type: ignore[union-attr]
    for values in yields.values():
        assert sum(v["trials"] for v in values.values()) == len(candidates) == report["pictures"]
        assert sum(v["passed"] for v in values.values()) == sum(c.request_key not in refused for c in candidates)
        assert sum(v["chosen"] for v in values.values()) == report["chosen"]
    assert found["rejections"]["black"]["count"] == report["rejected"]
    assert found["num_scores"] == len(found["scores"]) == report["outcomes"]["chosen"]


def test_a_night_counts_its_own(nights: Nights) -> None:
    """Images of earlier nights are not counted again, though they stand among the candidates."""
    found = facts(nights.toys, nights.second)
    assert found["yields"]["template"]["main"]["trials"] == nights.second["pictures"] >= 6 * 12
    assert set(found["yields"]) == {"template", "model"}, "no column may leave"
    assert sum(a["candidates"] >= 10 for a in found["assets"]) == 8


def test_before_and_now(nights: Nights) -> None:
    """An asset whose picture changes shows the published one and its score, where they can be compared."""
    toys = nights.toys
    before = [a["before"] for a in facts(toys, nights.second)["assets"] if "before" in a]
    assert len(before) == 8
    assert all(b["score"] is not None and b["media_type"] == "image/webp" for b in before)
    assert len(facts(toys, nights.second)["pairs"]) == 8


def test_scores_of_other_texts_are_no_measure(toys: Production) -> None:
    """Where the rank text changed, no score of before is held against one of now."""
    toys.run(limit=3)
    toys.templates["main.j2"] = toys.templates["main.j2"].replace("rank_text: a", "rank_text: the")
    toys.write()
    assert facts(toys, toys.run(limit=3))["pairs"] == []


def test_failures_and_removed(toys: Production) -> None:
    """What the engine refused is told with its reason; what left the sheet is named."""
    toys.run()
    toys.sheet = toys.sheet[:-1]
    toys.change(model={"options": {"poison": "red3"}}, candidates=5)
    report = toys.run()
    found = facts(toys, report)
    assert found["removed"] == {"count": 1, "ids": ["011"]}
    assert sum(found["failures"].values()) == report["failed_images"] > 0
    assert found["yields"]["template"]["main"]["failed"] == report["failed_images"]


# --- beside other nights ------------------------------------------------------------------------------------


def test_what_was_changed(nights: Nights) -> None:
    """Settings, sheet and templates that differ from the last night's are named with both values."""
    toys = nights.toys
    assert "model.steps" in page(toys, nights.second)
    found = {
        c.what: (c.old, c.new)
        for c in changes_between(facts(toys, nights.first), facts(toys, nights.second))
    }  # fmt: skip
    assert found["candidates"] == ("4", "6")
    assert found["model.steps"] == ("1", "2")
    assert set(found) == {"candidates", "model.steps", "the sheet", "the templates"}


def test_trends_need_two_nights(nights: Nights) -> None:
    """The first night has no trend; later ones have plots of scores and yields with the nights before."""
    assert "night by night" not in page(nights.toys, nights.first)
    second = page(nights.toys, nights.second)
    assert second.count("night by night") == 2
    assert "the night before" in second


def test_spikes() -> None:
    """A gate is reported when it refuses clearly more than before, not when it may be chance."""

    def night(trials: int, black: int) -> dict[str, Any]:
        counted = {"trials": trials, "passed": trials - black}
        return {"yields": {"template": {"main": counted}}, "rejections": {"black": {"count": black, "reason": ""}}}

    (spike,) = spikes_of(night(100, 30), [night(100, 5), night(100, 7)])
    assert (spike.gate, spike.now.value, spike.before.value) == ("black", 0.3, 0.06)
    assert spikes_of(night(10, 2), [night(100, 5)]) == []
    assert spikes_of(night(100, 30), []) == []


# --- what to look at ----------------------------------------------------------------------------------------


def test_look_at_this_first(toys: Production) -> None:
    """Assets that could not be made come before those that only scored low; a quiet night says so."""
    toys.change(model={"options": {"poison": "red3", "black": 0.0}}, gates={"regenerate": 0.0})
    text = page(toys, toys.run())
    assert "1 asset could not be made" in text
    assert "<b>003</b>" in text
    quiet = Production(toys.folder / "q", rows(3))
    assert "Nothing asks for your attention." in page(quiet, quiet.run())


def test_waiting_for_review(toys: Production) -> None:
    """What waits for a person is told on the night it is made, and on later ones."""
    toys.change(publish={"policy": "approved"}, model={"options": {"black": 0.0}})
    assert "12 assets wait for review" in page(toys, toys.run())
    later = toys.run()
    assert later["chunks"] == 0
    assert "12 assets wait for review" in page(toys, later)


def test_budget_is_told(toys: Production) -> None:
    """A night that ended at its budget says so first, and how much of it was used."""
    toys.change(run={"budget": {"images": 16}})
    text = page(toys, toys.run())
    assert text.index("The budget was used up") < text.index("In figures")
    assert "budget: images" in text


# --- the page -----------------------------------------------------------------------------------------------


def test_the_page_stands_alone(nights: Nights) -> None:
    """No script, nothing loaded from elsewhere, a policy that forbids both, each picture with words for it."""
    read = Reader(html := page(nights.toys, nights.second))
    names = {name for name, _ in read.elements}
    assert not names & {"script", "link", "iframe", "object", "form", "input"}
    policy = next(a["content"] for n, a in read.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    for name, attributes in read.elements:
        if name == "img":
            assert (attributes["src"] or "").startswith("data:image/webp;base64,")
            assert attributes["alt"]
        for attribute, value in attributes.items():
            assert not attribute.startswith("on")
            if attribute in ("href", "src", "xlink:href") and value is not None:
                assert value.startswith(("data:", "#")) or value in ("contact-sheet.png", "morning.json", "report.json")
    assert "http" not in re.sub(r'xmlns(:xlink)?="[^"]*"|http-equiv', "", html)
    ids = [a["id"] for _, a in read.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert len(html) < 2**20


@pytest.mark.draws
def test_texts_are_escaped(tmp_path: Path) -> None:
    """Markup in ids, prompts, column values and reasons is shown, never obeyed."""
    evil = "<script>alert(1)</script>\"'&{{ 7*7 }}"
    sheet = [{"id": f"{n}{evil}", "thing": evil, "colour": evil, "kind": f"{evil}{n % 2}"} for n in range(6)]
    toys = Production(tmp_path / "p", sheet)
    toys.change(publish={"columns": ["kind"]}, model={"options": {"poison": "script"}})
    read = Reader(html := page(toys, toys.run()))
    assert "script" not in {name for name, _ in read.elements}
    assert "<script" not in html
    assert any("<script>alert(1)</script>" in text for text in read.texts)


@pytest.mark.draws
def test_a_night_with_nothing_to_do(toys: Production) -> None:
    """An unchanged night has a page as well, and its process never imports matplotlib or torch."""
    toys.change(model={"options": {"black": 0.0}})
    first = toys.run(limit=8)
    # Facts of an earlier night that cannot be read are passed over.
    (toys.folder / "out" / "runs" / NAME / first["run"] / "morning.json").write_text("{")
    assert "night by night" not in page(toys, toys.run())
    code = (
        "import json, sys; from assetmill.pipeline import open_job, run_job;"
        f"r = run_job(open_job({str(toys.path)!r}));"
        "print(json.dumps([r, [m for m in ('torch', 'matplotlib', 'scipy') if m in sys.modules]]))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    report, heavy = json.loads(out.stdout)
    assert (report["chunks"], heavy) == (0, [])
    assert "Nothing was to be made." in page(toys, report)
    assert "num_assets" not in facts(toys, report)


def test_cards(toys: Production, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the first assets a page says how many there are; a card whose picture is gone says so."""
    monkeypatch.setattr(writing, "NUM_SHOWN", 5)
    html = page(toys, report := toys.run(limit=8))
    assert "The first 5 of 8" in html
    assert html.count('<div class="frame">') == 5
    for file in (toys.folder / "out" / "blobs").rglob("*.webp"):
        file.write_bytes(b"?")
    rebuild_report(toys.store, NAME, report["run"], {})
    assert page(toys, report).count("no picture") == 5


# --- again --------------------------------------------------------------------------------------------------


def test_rebuilt_with_decisions(toys: Production) -> None:
    """The page of a run can be drawn again and then shows what people decided since."""
    report = toys.run()
    before = page(toys, report)
    assert ">approved<" not in before
    entry = next(toys.catalog.iter_entries())
    draft = Draft(asset_id=entry.asset_id, kind="approve", by="ann", blob=entry.blob)
    decide(toys.store, NAME, draft, 0, index=toys.index)
    reviews = read_decisions(toys.store, NAME).states()
    assert rebuild_report(toys.store, NAME, "", reviews) == report["report_page"]
    after = page(toys, report)
    assert ">approved<" in after
    assert "device time per approved asset" in after
    with pytest.raises(InputError, match="no run with a morning report"):
        rebuild_report(toys.store, NAME, "zzz", {})
