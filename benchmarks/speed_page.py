"""Sections of docs/performance.md: cutting and adaptive seeds (with a plot), settings, memory, orchestration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import machine_line

Table = Callable[[tuple[str, ...], list[tuple[Any, ...]]], str]
PLOT = "img/cutting.svg"


def selection_section(f: dict[str, Any], table: Table, docs: Path) -> str:
    cutting, adaptive = f["cutting"], f["adaptive"]
    _plot(cutting, docs / PLOT)
    chosen = cutting["chosen"]
    step = cutting["steps"]
    foretells = [
        (f"{row['after']} of {step}", f"{row['rank_correlation']:.2f}", f"{row['winner_in_top_half']:.0%}",
         f"{row['winner_first']:.0%}")
        for row in cutting["foretells"]
    ]  # fmt: skip
    front = [
        (words(row["schedule"], step), f"{row['compute']:.0%}", _interval(row["kept"]), f"{row['same_winner']:.0%}")
        for row in cutting["front"]
    ]
    below = adaptive["below_floor"]
    return f"""## Cutting candidates mid-way

`make selection` on {machine_line(f["machine"])}. {cutting["prompts"]} prompts of the starter model × 8
candidates, {step} steps. After some steps the predicted clean picture is decoded and scored by the same judge; only the
best go on. Gain: the winner's finished score less that of a random candidate; all of it is what choosing among eight
finished ones gives ({cutting["random"]:.3f} to {
        cutting["best_of_8"]:.3f} on average). Compute counts denoiser, decoding
and scoring, previews included: showing and scoring a half-made picture
costs {cutting["units"]["preview"] + cutting["units"]["score"]:.2f} steps, by the starter pack's tiny VAE; its own
decoder would take {cutting["units"]["decode"]:.2f} for the showing alone.

How well early scores foretell late ones, within the eight of a prompt:

{table(("after", "rank correlation", "winner in the better half", "winner is first"), foretells)}
![Gain kept against compute spent]({PLOT})

The best schedules by compute, chosen on half of the prompts and measured on the other (95 % intervals over prompts):

{table(("schedule", "compute", "gain kept", "same winner"), front)}
**Chosen at no more than 55 % of the compute: {words(chosen["schedule"], step)}**: {_interval(chosen["kept"])} of the
gain at {chosen["compute"]:.1%} (goal: ≥ 90 % at ≤ 55 %). In a config:

```yaml
name: game-assets
sheet: {{path: configs/sheets/game-assets.csv, id: id}}
prompts: {{templates: [templates/game-asset.j2]}}
candidates: 8
model: {{preview: starter}}
cut:
  at: {[round(c["after"] / step, 4) for c in chosen["schedule"]]}
  keep: {[c["keep"] / 8 for c in chosen["schedule"]]}
```

## Adaptive best-of-N

The same command, on the same scores: {adaptive["assets"]} assets, {adaptive["pictures"]} pictures in all. Equal shares
of eight against `adaptive: true` in chunks of 16 assets: half of the seeds for all, the other half where they promise
most ({adaptive["seeds_per_asset"]["low"]} to {adaptive["seeds_per_asset"]["high"]} a prompt). The floor is the fifth
of the assets that equal shares leave worst.

{
        table(
            ("measure", "equal", "adaptive", "difference (95 %)"),
            [
                (
                    "mean best score",
                    f"{adaptive['mean_best']['equal']:.4f}",
                    f"{adaptive['mean_best']['adaptive']:.4f}",
                    _signed(adaptive["mean_best_rise"]),
                ),
                (
                    "assets below the floor",
                    f"{below['equal']:.1%}",
                    f"{below['adaptive']:.1%}",
                    _signed(adaptive["below_floor_change"]),
                ),
                ("attributes right of the winner", "", "", _signed(adaptive["attributes_right_rise"])),
            ],
        )
    }"""


def cut_run_section(f: dict[str, Any], table: Table) -> str:
    rows = [(f"{a:.1f} s", f"{b:.1f} s", f"{a / b:.2f}") for a, b in
            zip(f["full_seconds"], f["cut_seconds"], strict=True)]  # fmt: skip
    best = f["mean_best"]
    return f"""## Whole runs with cutting

`make selection` on {machine_line(f["machine"])}. {f["assets"]} assets of the demo × {f["candidates"]} candidates, from
reading the sheet to the last write, models loaded; `cut: {{at: {f["schedule"]["at"]}, keep: {f["schedule"]["keep"]}}}`.
{f["cut"]} candidates are dropped mid-way, {f["finished"]} finished.

{table(("best of 8, all finished", "with cutting", "ratio"), rows)}
**{f["speed"]:.2f} × as fast (goal ≥ 1.8), {f["gain_kept"]:.1%} of the gain over a random pick kept (goal ≥ 90 %)**: the
mean best score is {best["cut"]:.4f} against {best["full"]:.4f}, a random candidate's {best["random"]:.4f}.
"""


def settings_section(f: dict[str, Any], table: Table) -> str:
    rows = [
        (r["name"], f"{r['gain']:.2f} ({r['gain_low']:.2f} to {r['gain_high']:.2f})",
         f"{r['seconds_per_image'] * 1000:.0f} ms", f"{r['warm_up_seconds']:.1f} s", r["largest_difference"])
        for r in f["settings"]
    ]  # fmt: skip
    return f"""## Speed settings of a model

`make settings` on {machine_line(f["machine"])}; one torch thread, batch {f["batch"]}, {f["steps"]} steps,
{f["rounds"]} rounds in turn, the starter model. Warm-up is the first batch: compilation and the search for kernels.

{table(("setting", "speed against plain (range)", "per image", "warm-up", "largest difference of 255"), rows)}"""


def memory_section(f: dict[str, Any], table: Table) -> str:
    rows = [(f"{m['images']:,}", f"{m['mib']:.0f}") for m in f["marks"]]
    return f"""## Memory over a long night

`make memory` on {machine_line(f["machine"])}. {f["images"]:,} images of {f["size"]} × {f["size"]} pixels for
{f["assets"]:,} assets in one process, simulated engine, all else real; {f["seconds"]:.0f} s. Between the second tenth
and the last fifth of the images the process grew by **{f["growth_mib"]:.0f} MiB**; its peak, with pyarrow loaded for
publishing, is {f["peak_mib"]:.0f} MiB.

{table(("images made", "resident MiB"), rows)}"""


def orchestration_section(f: dict[str, Any], table: Table) -> str:
    rows = [(f"{d:.1f} s", f"{w:.1f} s", f"{(w - d) / w:.2%}")
            for d, w in zip(f["direct_seconds"], f["flow_seconds"], strict=True)]  # fmt: skip
    return f"""## What Prefect adds

`make orchestration` on {machine_line(f["machine"])}. {f["images"]:,} images on a simulated engine of
{f["work_seconds"]:.0f} s, as a flow and directly at one time, the server up before; {f["tasks"]} task runs,
{f["images_per_task"]:.0f} images each. Goal: at most 2 % of the flow.

{table(("direct", "flow", "(flow − direct) / flow"), rows)}"""


def nights_section(f: dict[str, Any], table: Table) -> str:
    rows = [(f"{m['images']:,}", f"{m['mib']:.0f}") for m in f["marks"]]
    server = f["server"]
    asked = [
        ("questions, unanswered", f"{server['asked']}, {server['failed']}"),
        ("answer, median and slowest", f"{server['median'] * 1000:.0f} ms and {server['slowest'] * 1000:.0f} ms"),
        ("resident at the first and last tenth", f"{server['first_mib']:.0f} and {server['last_mib']:.0f} MiB"),
    ]
    return f"""## A long night in one flow

`make nights` on {machine_line(f["machine"])}. {f["images"]:,} images of {f["size"]} × {f["size"]} pixels for
{f["assets"]:,} assets in one flow ({f["state"]}), simulated engine, all else real; {f["seconds"]:.0f} s, {f["tasks"]}
task runs of {f["images_per_task"]:.0f} images. Between the second tenth and the last fifth of the images it
grew by **{f["growth_mib"]:.0f} MiB**; its peak is {f["peak_mib"]:.0f} MiB.

{table(("images made", "resident MiB"), rows)}
Its Prefect server was asked for the flow's state twice a second.

{table(("server", ""), asked)}"""


def words(schedule: list[dict[str, int]], steps: int) -> str:
    """`8 → 4 after 4, → 2 after 8`."""
    return "8 " + ", ".join(f"→ {cut['keep']} after {cut['after']}" for cut in schedule) + f" of {steps}"


def _interval(figure: dict[str, float]) -> str:
    return f"{figure['value']:.1%} ({figure['low']:.1%} to {figure['high']:.1%})"


def _signed(figure: dict[str, float]) -> str:
    return f"{figure['value']:+.4f} ({figure['low']:+.4f} to {figure['high']:+.4f})"


def _plot(cutting: dict[str, Any], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "assetmill"  # the same picture for the same figures
    from matplotlib import pyplot

    front, chosen = cutting["front"], cutting["chosen"]
    figure, axes = pyplot.subplots(figsize=(7.2, 3.9))
    spent = [100 * row["compute"] for row in front]
    axes.plot(spent, [100 * row["kept"]["value"] for row in front], marker="o", markersize=4, color="#2563eb",
              label="best schedule at that compute", zorder=3)  # fmt: skip
    low, high = ([100 * row["kept"][end] for row in front] for end in ("low", "high"))
    axes.fill_between(spent, low, high, color="#2563eb", alpha=0.13, linewidth=0, label="95 % interval")
    axes.scatter([100 * chosen["compute"]], [100 * chosen["kept"]["value"]], s=130, facecolors="none",
                 edgecolors="#111827", linewidths=1.6, zorder=4, label="chosen")  # fmt: skip
    axes.axhline(90, color="#9ca3af", linewidth=0.9, linestyle="--")
    axes.axvline(55, color="#9ca3af", linewidth=0.9, linestyle="--")
    axes.set_xlabel("compute spent, % of the full best-of-8")
    axes.set_ylabel("gain over a random pick kept, %")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 108)
    axes.grid(color="#e5e7eb", linewidth=0.7)
    axes.legend(frameon=False, loc="lower right")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
