"""The report as one HTML page: no script, nothing loaded from elsewhere, pictures and plots inside.

All texts of sheets, prompts and reasons are escaped by the template; the page's policy forbids whatever would slip
through. What is long is cut to its beginning and says so.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assetmill.operate.console import human_bytes, human_seconds
from assetmill.operate.morning.arms import MEASURES, percent, show, show_difference, show_span
from assetmill.operate.morning.attention import Notice
from assetmill.operate.morning.comparing import Change
from assetmill.operate.morning.gathering import NUM_SHOWN
from assetmill.operate.morning.plots import Plot
from assetmill.operate.morning.statistics import Estimate, share

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True)
class Card:
    """An asset's best picture. `picture` and `before` are data URIs, empty where there is none.

    `review` is what people decided about that picture: `approved`, `rejected` or nothing.
    """

    asset: Mapping[str, Any]
    picture: str
    before: str = ""
    review: str = ""

    @property
    def alt(self) -> str:
        """What the picture is of, as far as the prompt says."""
        prompt = self.asset.get("prompt", "")
        return f"{self.asset['id']}: {prompt}" if prompt else str(self.asset["id"])


@dataclass(frozen=True, slots=True)
class YieldRow:
    """A value of a table of yields. `low` and `high` bound its share in percent; `apart` where they leave out `rest`.

    `rest` is the share of all the others.
    """

    value: str
    tally: Mapping[str, Any]
    passed: Estimate | None
    apart: str


@dataclass(frozen=True, slots=True)
class YieldTable:
    title: str
    rows: tuple[YieldRow, ...]


@dataclass(frozen=True, slots=True)
class ArmRow:
    """A measure of an arm, as texts. `leads` is `arm`, `control` or nothing; `why` stands where figures lack."""

    measure: str
    control: str
    arm: str
    difference: str
    span: str
    leads: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class ArmTable:
    """An arm of an experiment beside the control. `examples` are assets with a card of each side."""

    facts: Mapping[str, Any]
    level: str
    rows: tuple[ArmRow, ...]
    examples: tuple[tuple[str, Card, Card], ...]


@dataclass(frozen=True, slots=True)
class Page:
    """All that a page shows, beside the night's facts and its report."""

    night: Mapping[str, Any]
    report: Mapping[str, Any]
    former: Mapping[str, Any] | None
    notices: Sequence[Notice]
    changes: Sequence[Change]
    shifts: Sequence[str]
    yields: Sequence[YieldTable]
    cards: Sequence[Card]
    plots: Sequence[Plot]
    figures: Sequence[tuple[str, str, str]]
    people: Sequence[str]
    arms: Sequence[ArmTable] = ()


def render_page(page: Page) -> str:
    """The page's HTML."""
    template = _environment().get_template("report.html")
    return template.render(page=page, night=page.night, report=page.report, num_shown=NUM_SHOWN)


def data_uri(data: bytes, media_type: str = "image/webp") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def yield_tables(yields: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[YieldTable]:
    """Tables of yields, one for each thing that images are counted by; of models only where there are several."""
    tables = []
    for name, values in yields.items():
        if len(values) < 2 and name != "template":
            continue
        kind, _, of = name.partition(" ")
        title = {"axis": f"By axis: {of}", "column": f"By column: {of}"}.get(kind, f"By {kind}")
        rows = [_yield_row(value, values) for value in values]
        tables.append(YieldTable(title, tuple(rows)))
    return tables


def _yield_row(value: str, values: Mapping[str, Mapping[str, Any]]) -> YieldRow:
    tally = values[value]
    if not tally["trials"]:
        return YieldRow(value, tally, None, "")
    passed = share(tally["passed"], tally["trials"])
    others = [t for v, t in values.items() if v != value]
    trials = sum(t["trials"] for t in others)
    apart = ""
    if trials and passed.low is not None and passed.high is not None:
        rest = share(sum(t["passed"] for t in others), trials)
        if rest.low is not None and passed.high < rest.low:
            apart = "below"
        elif rest.high is not None and passed.low > rest.high:
            apart = "above"
    return YieldRow(value, tally, passed, apart)


def arm_table(facts: Mapping[str, Any], pictures: Mapping[str, str]) -> ArmTable:
    """The table of an arm (see `morning.arms.compare_arms`). `pictures` are data URIs by blob."""
    rows = []
    for name, words in MEASURES.items():
        found = facts["measures"][name]
        if found["difference"] is None:
            rows.append(ArmRow(words, "", "", "", "", "", why=found["says"].partition(": ")[2]))
            continue
        estimate = Estimate(**found["difference"])
        span = show_span(name, estimate) if estimate.known else "too few, or too much alike"
        rows.append(
            ArmRow(
                words, show(name, found["control"]), show(name, found["arm"]), show_difference(name, estimate.value),
                f"{span} ({estimate.count:,})", found["leads"],
            )
        )  # fmt: skip
    examples = tuple(
        (e["id"], *(Card({**e[side], "id": e["id"]}, pictures.get(e[side]["blob"], "")) for side in ("control", "arm")))
        for e in facts["examples"]
    )
    return ArmTable(facts, percent(facts["level"]), tuple(rows), examples)


def figures_of(night: Mapping[str, Any], report: Mapping[str, Any], history: Mapping[str, Any]) -> list[Any]:
    """The night's figures as (what, figure, remark), in the order people ask for them.

    `history` has `device_seconds`, `approved` (assets) and `nights` over the last nights.
    """
    figures: list[tuple[str, str, str]] = []
    pictures, seconds, device = report["pictures"], report["seconds"], night.get("device_seconds", 0.0)
    if pictures:
        lanes = f", {report['lanes']} lanes" if report.get("lanes", 1) > 1 else ""
        figures += [
            ("images", f"{pictures:,}", f"{report['assets']:,} assets" if report["assets"] else "for the experiment"),
            ("images per second", f"{report['images_per_second']:.2f}", f"in {human_seconds(seconds)}{lanes}"),
            ("device in use", f"{min(device / seconds, 1.0):.0%}" if seconds else "", human_seconds(device)),
            ("device time per image", _device_time(device / pictures), "generating, judging, upscaling"),
        ]
        chosen = report["outcomes"].get("chosen", 0)
        if chosen:
            figures.append(
                ("device time per asset with a picture", _device_time(device / chosen), f"{chosen:,} of them")
            )
    if history.get("approved") and history.get("device_seconds"):
        per = history["device_seconds"] / history["approved"]
        span = f"{history['approved']:,} approved, {history['nights']} nights"
        figures.append(("device time per approved asset", _device_time(per), span))
    if report["files"]:
        figures.append(("files published", f"{report['files']:,}", f"{report['published']:,} assets"))
    if stored := report["stages"].get("store", {}).get("bytes", 0):
        figures.append(("stored", human_bytes(stored), ""))
    return figures + budget_figures(night, report)


def budget_figures(night: Mapping[str, Any], report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """How much of each budget of the config was used."""
    budget = night.get("settings", {}).get("run", {}).get("budget", {})
    used = {
        "images": report["stages"].get("generate", {}).get("count", 0),
        "device_minutes": night.get("device_seconds", 0.0) / 60,
        "bytes": report["stages"].get("store", {}).get("bytes", 0),
    }
    shown: dict[str, Callable[[float], str]] = {
        "images": lambda v: f"{v:,.0f}", "device_minutes": lambda v: human_seconds(v * 60), "bytes": human_bytes,
    }  # fmt: skip
    figures = []
    for name, limit in budget.items():
        if limit:
            of = f"{shown[name](used[name])} of {shown[name](limit)}"
            figures.append((f"budget: {name.replace('_', ' ')}", f"{used[name] / limit:.0%}", of))
    return figures


def _device_time(seconds: float) -> str:
    """Device time in minutes, as it is paid for; below a minute's tenth in seconds."""
    return f"{seconds / 60:.2f} min" if seconds >= 6 else f"{seconds:.2f} s"


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["seconds"] = human_seconds
    return environment
