"""The section of docs/performance.md that `gpu.py` fills."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from machine import machine_line

Table = Callable[[tuple[str, ...], list[tuple[Any, ...]]], str]

_TITLES = {"sd15": "SD1.5", "sdxl": "SDXL", "flux-schnell": "FLUX.1-schnell"}
_GOALS = {"P_over_F": 1.03, "judge_share": 0.01}


def gpu_section(f: dict[str, Any], table: Table) -> str:
    """Markdown of all figures that are there; parts and models not yet measured are left out."""
    machine = f["machine"]
    models = f.get("models", {})
    out = [
        f"## One GPU: {machine['device']}\n",
        f"`python benchmarks/gpu.py` on {machine_line(machine)}. The true shapes of the models with random weights"
        f"{' at tiny sizes' if machine['tiny'] else ''}, {machine['dtype']}; nothing is downloaded.\n",
    ]
    roof = f.get("roof")
    if roof:
        sizes = ", ".join(f"{s['tflops']:.3g} at {s['edge']}" for s in roof["sizes"])
        out.append(
            f"The roof is what a dense {roof['dtype']} matrix product reaches on this device: "
            f"**{roof['tflops']:.3g} TFLOP/s** ({sizes}). Useful TFLOP are those of denoiser, decoder, judge and "
            "upscaler over the work list, by torch's counter over the architectures.\n"
        )
    whole = [
        (_TITLES[name], key, parts[key]) for name, parts in models.items() for key in parts if key.startswith("whole")
    ]
    if whole:
        out.append(_whole(whole, table))
    for name, parts in models.items():
        out += [render(_TITLES[name], parts[key], table) for key, render in _PARTS.items() if key in parts]
    if "judges" in f:
        rows = [
            (j["judge"], j["dtype"], j["size"], f"{j['milliseconds']:.3g}", f"{j['tflops']:.3g}") for j in f["judges"]
        ]
        out.append("### Judges, pictures on the device\n")
        out.append(table(("judge", "format", "pixels", "ms a picture", "TFLOP/s"), rows))
    if "upscaler" in f:
        rows = [
            (u["size"], u["how"], u["dtype"], f"{u['milliseconds']:.3g}", f"{u['tflops']:.3g}") for u in f["upscaler"]
        ]
        out.append("### RRDB ×4, arrays in and out; the useful TFLOP are those of the whole picture\n")
        out.append(table(("pixels", "how", "format", "ms a picture", "useful TFLOP/s"), rows))
    return "\n".join(out)


def _whole(found: list[tuple[str, str, dict[str, Any]]], table: Table) -> str:
    rows = [
        (
            title + key.removeprefix("whole"),
            f"{w['pictures']} × {w['steps']} at {w['size']}², {w['upscales']} upscaled",
            f"{w['batch']} / {w['best_batch']}",
            f"{w['F']['median']:.1f}",
            f"{w['P']['median']:.1f} ({w['P']['low']:.1f} to {w['P']['high']:.1f})",
            f"**{w['P_over_F']:.3f}**",
            f"{w['images_per_second']:.2f}",
            f"{w['tflops']:.3g} ({w['of_roof']:.0%})",
            f"{w['judge_share']:.1%}",
            f"{w['encode_share']:.0%} in {w['writers']} threads",
        )
        for title, key, w in found
    ]
    head = (
        "model", "work", "batch of P / F", "F, s", "P, s (range)", "P / F", "images/s",
        "useful TFLOP/s (of the roof)", "ranking of P", "encoding of P",
    )  # fmt: skip
    return (
        "### The whole job\n\n"
        "F: the denoiser, VAE and upscaler forwards alone at the best batch. P: from reading the sheet to the last "
        "write into a folder, models loaded, at the batch the engine chose. Goals: P / F "
        f"≤ {_GOALS['P_over_F']}, ranking ≤ {_GOALS['judge_share']:.0%} of P.\n\n" + table(head, rows) + _noise(found)
    )


def _noise(found: list[tuple[str, str, dict[str, Any]]]) -> str:
    """What a published file takes here, and why it is the worst case."""
    files = [(title, w["size"], w["stages"].get("render", {})) for title, _, w in found]
    took = [f"{r['seconds'] / r['count']:.1f} s for {title} at {size}²" for title, size, r in files if r.get("count")]
    if not took:
        return ""
    return (
        "\nRandom weights paint noise, the worst case of lossless coding. One published file, the enlarged picture as "
        f"WebP, took a thread {', '.join(took)}; those of the last chunk are made when the device has nothing left.\n"
    )


def _batches(title: str, found: list[dict[str, Any]], table: Table) -> str:
    rows = [
        (
            b["batch"],
            f"{b['images_per_second']:.2f}",
            f"{b['tflops']:.3g} ({b['of_roof']:.0%})",
            "" if b["peak_gib"] is None else f"{b['peak_gib']:.1f}",
        )
        for b in found
    ]
    head = ("batch", "images/s", "TFLOP/s (of the roof)", "peak GiB")
    return f"### {title} by batch size, texts to pixels in memory\n\n" + table(head, rows)


def _techniques(title: str, found: dict[str, Any], table: Table) -> str:
    rows = [
        (
            t["name"],
            f"{t['denoise_gain']:.2f}×",
            f"{t['decode_gain']:.2f}×" if "decode_gain" in t else "",
            f"{t['warm_up_seconds']:.1f}",
        )
        for t in found["techniques"]
    ]
    head = ("technique", "denoiser", "decoder", "warm-up, s")
    return f"### {title}: gains on one forward at batch {found['batch']}\n\n" + table(head, rows)


_PARTS: dict[str, Callable[[str, Any, Table], str]] = {"batches": _batches, "techniques": _techniques}
