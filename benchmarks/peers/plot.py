"""One picture of the comparison: seconds per contender, median and range, a panel per scenario."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peers.contender import TITLES

_COLOURS = {"pure": "#c9ced6", "assetmill": "#5b8fd6"}
_OTHER = "#f0c48a"


def draw_peers(figures: Mapping[str, Any], path: Path) -> None:
    """An SVG with a bar per contender. Light areas, dark text; the same file for the same figures."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    scenarios = figures["scenarios"]
    heights = [len(s["contenders"]) + 1 for s in scenarios.values()]
    style = {"svg.hashsalt": "assetmill", "svg.fonttype": "path", "font.size": 10, "text.color": "#30343b"}
    with matplotlib.rc_context(style):
        figure, axes = plt.subplots(
            len(scenarios), 1, figsize=(8.4, 0.42 * sum(heights) + 0.6), height_ratios=heights, squeeze=False,
            layout="constrained",
        )  # fmt: skip
        for axis, (scenario, found) in zip(axes[:, 0], scenarios.items(), strict=True):
            _panel(axis, scenario, found)
        axes[-1, 0].set_xlabel("seconds of work, models loaded: median, lowest and highest", color="#555b66")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None}, facecolor="white")
        plt.close(figure)


def _panel(axis: Any, scenario: str, found: Mapping[str, Any]) -> None:
    contenders = found["contenders"]
    names = sorted(contenders, key=lambda n: contenders[n]["seconds"]["median"])
    for row, name in enumerate(names):
        seconds = contenders[name]["seconds"]
        middle = seconds["median"]
        reach = [[middle - seconds["low"]], [seconds["high"] - middle]]
        axis.barh(row, middle, color=_COLOURS.get(name, _OTHER), height=0.72)
        axis.errorbar(middle, row, xerr=reach, color="#6b717c", capsize=3, linewidth=1)
        ratio = f"  {middle:.1f} s" + ("" if name == "assetmill" else f" · {contenders[name]['ratio']:.2f} ×")
        axis.text(seconds["high"], row, ratio, va="center", fontsize=9)
    axis.set_yticks(range(len(names)), [TITLES[n] for n in names])
    axis.invert_yaxis()
    axis.set_xlim(0, max(c["seconds"]["high"] for c in contenders.values()) * 1.18)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color("#d5d9e0")
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", colors="#555b66")
    axis.grid(axis="x", color="#eef0f4")
    axis.set_axisbelow(True)
    upscaled = "scripts upscale all" if found["upscale_all"] else f"{found['upscaled']} upscaled"
    axis.set_title(
        f"{scenario}: {found['candidates']} candidates × {found['steps']} steps, {upscaled}",
        loc="left", fontsize=10, color="#30343b",
    )  # fmt: skip
