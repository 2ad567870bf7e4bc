"""The report's plots: matplotlib draws them, as SVG that takes its colours from the page.

Colours are drawn as marks that no plot uses otherwise, and replaced by the page's own variables: one picture then
reads well on a light and on a dark ground, and on paper. Texts stay texts, in the page's font. Labels are figures,
dates and names of stages, never texts of a sheet.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assetmill.operate.console import human_seconds
from assetmill.operate.morning.comparing import num_passed, num_trials
from assetmill.operate.morning.statistics import share

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _MUTED, _LINE, _ACCENT, _SOFT = "#010101", "#010102", "#010103", "#010104", "#010105"
_COLOURS = {
    _INK: "currentColor", _MUTED: "var(--muted)", _LINE: "var(--line)", _ACCENT: "var(--accent)",
    _SOFT: "var(--band)",
}  # fmt: skip
_STYLE = {
    "svg.fonttype": "none", "font.size": 9, "text.color": _INK, "axes.labelcolor": _MUTED, "xtick.color": _MUTED,
    "ytick.color": _MUTED, "axes.edgecolor": _LINE, "axes.spines.top": False, "axes.spines.right": False,
    "axes.linewidth": 1.0, "xtick.major.size": 0, "ytick.major.size": 0, "grid.color": _LINE, "grid.linewidth": 0.8,
    "text.parse_math": False, "axes.axisbelow": True,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawn plot: its title, the SVG, and what it shows in words, for those who don't see it."""

    title: str
    svg: str
    alt: str


def draw_nights(nights: Sequence[Mapping[str, Any]]) -> list[Plot]:
    """Plots of the last of some nights (facts, oldest first), all of which made something, beside the others."""
    from matplotlib import rc_context

    with rc_context(_STYLE):  # type: ignore[arg-type]
        drawn = [_scores(nights), _yields(nights), _distribution(nights)]
    return [plot for plot in drawn if plot is not None]


def draw_stages(stages: Mapping[str, Mapping[str, float]]) -> list[Plot]:
    """A plot of where a run's time went (`Stages.as_dict`); none where it took none."""
    from matplotlib import rc_context

    with rc_context(_STYLE):  # type: ignore[arg-type]
        plot = _stages(stages)
    return [plot] if plot is not None else []


def _scores(nights: Sequence[Mapping[str, Any]]) -> Plot | None:
    """Median and middle half of the chosen pictures' scores, night by night, of the nights that had this judge."""
    import numpy as np

    judge = nights[-1].get("judge") if nights else None
    of = [n for n in nights if n.get("scores") and n.get("judge") == judge]
    if len(of) < 2:
        return None
    low, median, high = np.array([np.quantile(n["scores"], [0.25, 0.5, 0.75]) for n in of]).T
    figure, axes = _figure()
    x = np.arange(len(of))
    axes.fill_between(x, low, high, color=_SOFT, linewidth=0)
    axes.plot(x, median, color=_ACCENT, linewidth=2, marker="o", markersize=4.5)
    _label_nights(axes, of)
    axes.grid(axis="y")
    alt = f"Median score of {len(of)} nights: " + ", ".join(
        f"{_day(n)} {m:.3f}" for n, m in list(zip(of, median, strict=True))[-8:]
    )
    return Plot("Scores of the chosen, night by night: median and middle half", _svg(figure, "scores"), alt)


def _yields(nights: Sequence[Mapping[str, Any]]) -> Plot | None:
    """Share of images that passed their gates, with Wilson intervals."""
    of = [n for n in nights if num_trials(n)]
    if len(of) < 2:
        return None
    shares = [share(num_passed(n), num_trials(n)) for n in of]
    figure, axes = _figure()
    x = range(len(of))
    values = [s.value * 100 for s in shares]
    below = [(s.value - (s.low or 0.0)) * 100 for s in shares]
    above = [((s.high or 0.0) - s.value) * 100 for s in shares]
    axes.errorbar(
        x, values, yerr=[below, above], color=_ACCENT, ecolor=_MUTED, elinewidth=1, capsize=2.5, linewidth=2,
        marker="o", markersize=4.5,
    )  # fmt: skip
    _label_nights(axes, of)
    axes.set_ylim(top=max(102.0, axes.get_ylim()[1]) if max(values) > 90 else None)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0f} %")
    axes.grid(axis="y")
    alt = "Share of images that passed: " + ", ".join(
        f"{_day(n)} {s.value:.0%}" for n, s in list(zip(of, shares, strict=True))[-8:]
    )
    return Plot("Images that passed, night by night, with 95 % intervals", _svg(figure, "yields"), alt)


def _distribution(nights: Sequence[Mapping[str, Any]]) -> Plot | None:
    """How tonight's scores lie, and those of the night before."""
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    if not nights or len(nights[-1].get("scores", ())) < 4:
        return None
    now = nights[-1]["scores"]
    before = next(
        (n["scores"] for n in reversed(nights[:-1]) if n.get("judge") == nights[-1].get("judge") and n.get("scores")),
        None,
    )
    together = np.concatenate([now, before]) if before else np.asarray(now)
    edges = np.histogram_bin_edges(together, bins=min(24, max(6, len(now) // 3))).tolist()
    figure, axes = _figure()
    axes.hist(now, edges, color=_SOFT, edgecolor=_ACCENT, linewidth=1, label="tonight")
    if before:
        # Scaled to tonight's number, so that the shapes compare.
        weights = [len(now) / len(before)] * len(before)
        axes.hist(
            before, edges, weights=weights, histtype="step", color=_MUTED, linewidth=1.4, label="the night before"
        )
        axes.legend(frameon=False, fontsize=8, labelcolor=_MUTED)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.grid(axis="y")
    low, middle, high = np.quantile(now, [0, 0.5, 1])
    alt = f"{len(now)} scores from {low:.3f} to {high:.3f}, the median {middle:.3f}"
    return Plot("How the scores of the chosen lie", _svg(figure, "distribution"), alt)


def _stages(stages: Mapping[str, Mapping[str, float]]) -> Plot | None:
    """Seconds by stage, longest first. Those of threads add up to more than the wall time."""
    spent = sorted(((name, s["seconds"]) for name, s in stages.items() if s["seconds"] >= 0.005), key=lambda p: -p[1])
    if not spent:
        return None
    shown = spent[:10]
    figure, axes = _figure(height=0.5 + 0.24 * len(shown))
    names = [name for name, _ in shown]
    seconds = [s for _, s in shown]
    axes.barh(range(len(shown)), seconds, color=_ACCENT, height=0.62)
    axes.set_yticks(range(len(shown)), names)
    axes.invert_yaxis()
    for place, value in enumerate(seconds):
        axes.text(value + max(seconds) * 0.012, place, human_seconds(value), va="center", color=_INK, fontsize=8.5)
    axes.set_xlim(0, max(seconds) * 1.16)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    alt = "Time by stage: " + ", ".join(f"{name} {human_seconds(s)}" for name, s in shown)
    return Plot("Time by stage, added up over threads", _svg(figure, "stages"), alt)


# --- drawing ------------------------------------------------------------------------------------------------


def _figure(height: float = 2.3) -> tuple[Figure, Axes]:
    # Not pyplot: it keeps global state, and this runs in a thread beside others.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, height), layout="constrained")
    figure.patch.set_visible(False)
    axes = figure.add_subplot()
    axes.patch.set_visible(False)
    return figure, axes


def _label_nights(axes: Axes, nights: Sequence[Mapping[str, Any]]) -> None:
    """Dates under some eight of the nights, the last one always; runs of one day by their time as well."""
    step = -(-len(nights) // 8)
    places = list(range(len(nights) - 1, -1, -step))[::-1]
    days = [_day(nights[p]) for p in places]
    twice = len(set(days)) < len(days)
    labels = [f"{day}\n{nights[p]['started'][11:16]}" if twice else day for day, p in zip(days, places, strict=True)]
    axes.set_xticks(places, labels)
    axes.margins(x=0.04)


def _day(night: Mapping[str, Any]) -> str:
    """`2026-11-27T…` as `27 Nov`, whatever the locale."""
    months = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
    year_month_day = str(night["started"])[:10].split("-")
    return f"{int(year_month_day[2])} {months[int(year_month_day[1]) - 1]}"


def _svg(figure: Figure, salt: str) -> str:
    """The figure as an `svg` element for an HTML page: without prologue and metadata, its ids its own."""
    from matplotlib import rc_context

    out = io.StringIO()
    with rc_context({"svg.hashsalt": salt}):
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(out, format="svg", metadata=metadata)  # type: ignore[arg-type]
    text = out.getvalue()
    text = text[text.index("<svg ") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # several plots on one page: ids of groups would stand there twice
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL)
    for mark, colour in _COLOURS.items():
        text = text.replace(mark, colour)
    return text.replace("<svg ", '<svg aria-hidden="true" ', 1)
