"""The section of docs/performance.md about the peers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from machine import machine_line
from peers.contender import TITLES
from peers.work import Settings

_ABOUT = {
    "pure": "the denoiser, VAE and upscaler forwards over the list; no ranking, encoding or writing",
    "assetmill": "`run_job` over the sheet, up to the last write of the catalog",
    "per-picture": "`StableDiffusionPipeline` in a loop, one picture a call, `image.save`; then open_clip, spandrel",
    "per-prompt": "the same with `num_images_per_prompt`",
    "tuned": "full batches of mixed prompts, embeddings once, ranking on tensors, winners upscaled; encodes serially",
    "ray": "`map_batches` over a painter per core and one actor that ranks, upscales and writes beside them",
}


def peers_section(figures: Mapping[str, Any], table: Callable[[tuple[str, ...], list[tuple[Any, ...]]], str]) -> str:
    """The comparison as Markdown; `table` renders a head and rows."""
    scenarios = figures["scenarios"]
    first = next(iter(scenarios.values()))
    parts = [
        f"""## Against what people use instead

`make peers` on {machine_line(figures["machine"])}; {first["alternations"]} alternations, every contender each time in
a fresh process and in another order. All have the same weights, steps, number format (float32), seeds, and the whole
machine (OpenMP's waiting threads sleep); how each uses it best was measured beforehand (below). All leave a folder
with every candidate as a PNG, the upscaled winners and a manifest. *Warm* is the work with models loaded; *cold*
counts from the start of the process.

![Seconds of each contender](img/peers.svg)

{table(("contender", "what it does"), [(TITLES[n], _ABOUT[n]) for n in TITLES if n in first["contenders"]])}"""
    ]
    parts += [_scenario(name, found, table) for name, found in scenarios.items()]
    if figures.get("choices"):
        parts.append(_choices(figures["choices"], table))
    parts += [f"{TITLES[name]} was left out: {reason}.\n" for name, reason in figures.get("skipped", {}).items()]
    return "\n".join(parts)


def _scenario(name: str, f: Mapping[str, Any], table: Callable[..., str]) -> str:
    contenders = f["contenders"]
    order = sorted(contenders, key=lambda n: contenders[n]["seconds"]["median"])
    times = [(_bold(n, TITLES[n]), *_times(contenders[n]), _settings(contenders[n])) for n in order]
    agreement = [(TITLES[n], *_agreement(contenders[n]["agreement"])) for n in order]
    goals = [
        (text, f"**{g['value']:.2f}**", f"{'≤' if text.startswith('P / F') else '≥'} {g['goal']:.2f}", _met(g))
        for text, g in f["goals"].items()
    ]
    scripts = "; the scripts that go prompt by prompt upscale and save all of them" if f["upscale_all"] else ""
    return f"""### {name}: {f["candidates"]} candidates, {f["keep"]} kept of each of {f["assets"]} assets

{f["size"][0]} × {f["size"][1]} pixels, {f["steps"]} steps, {f["upscaled"]} winners upscaled × {f["scale"]}{scripts}.

{table(("contender", "warm s, median (range)", "images/s", "× ours", "cold s", "cold × ours", "settings"), times)}
{table(("ratio, median of the pairs", "value", "goal", ""), goals)}
Agreement with the script that makes one picture a call, the worst of all turns:

{
        table(
            ("contender", "pictures", "bit for bit", "largest difference of 255", "large pictures", "same winners"),
            agreement,
        )
    }"""


def _times(c: Mapping[str, Any]) -> tuple[str, ...]:
    seconds = c["seconds"]
    return (
        f"{seconds['median']:.1f} ({seconds['low']:.1f} to {seconds['high']:.1f})",
        f"{c['images_per_second']:.2f}",
        f"{c['ratio']:.2f}",
        f"{c['cold_seconds']['median']:.1f}",
        f"{c['cold_ratio']:.2f}",
    )


def _agreement(a: Mapping[str, Any]) -> tuple[str, ...]:
    winners = f"{a['winners_same']:.0%}" if "winners_same" in a else "makes no choice"
    return (
        str(a["pictures"]),
        f"{a['identical']:.1%}",
        str(a["largest_difference"]),
        str(a.get("masters", "")),
        winners,
    )


def _choices(choices: Mapping[str, Any], table: Callable[..., str]) -> str:
    rows = []
    for name, choice in choices.items():
        for tried in choice["tried"]:
            chosen = " ← chosen" if tried["settings"] == choice["settings"] else ""
            speed, ready = f"{tried['images_per_second']:.2f}{chosen}", f"{tried['ready']:.1f}"
            rows.append((TITLES[name], Settings(**tried["settings"]).words, speed, ready))
    return f"""### How each uses the machine best

Short runs over the first assets of the list, the better of two. The others batch as the pure forwards do best.
Compiling is used where it saves more over the whole list than it takes.

{table(("contender", "settings", "images/s", "ready after s"), rows)}"""


def _settings(contender: Mapping[str, Any]) -> str:
    return Settings(**contender["settings"]).words


def _bold(name: str, text: str) -> str:
    return f"**{text}**" if name == "assetmill" else text


def _met(goal: Mapping[str, Any]) -> str:
    return "met" if goal["met"] else "missed"
