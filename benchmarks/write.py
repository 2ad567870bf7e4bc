"""docs/performance.md from the figures that the benchmarks left in docs/figures/."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import speed_page
from gpu_page import gpu_section
from machine import describe_machine, machine_line
from publishing_page import publishing_section
from review_page import review_section
from scaling_page import scaling_section

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "docs" / "figures"

_HEAD = """# Performance

Written by the benchmarks (`make bench`, `make peers`, `make scale`) from `docs/figures/`; don't edit by hand.
Figures of one machine at one time: compare ratios, not absolute times.
"""


def save_figures(name: str, figures: dict[str, Any]) -> None:
    """Keeps a benchmark's figures with the machine's name and writes the page anew."""
    FIGURES.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": describe_machine(), **figures}, indent=1) + "\n"
    (FIGURES / f"{name}.json").write_text(text)
    write_page()


def write_page() -> None:
    parts = [_HEAD]
    sections = (
        ("pipeline", _pipeline), ("peers", _peers), ("selection", _selection), ("cut_run", _cut_run),
        ("settings", _settings), ("memory", _memory), ("orchestration", _orchestration), ("nights", _nights),
        ("scaling", _scaling),
        ("publishing", _publishing),
        ("gpu", _gpu), ("plan", _plan),
        ("provenance", _provenance), ("review", _review),
    )  # fmt: skip
    for name, render in sections:
        path = FIGURES / f"{name}.json"
        if path.exists():
            parts.append(render(json.loads(path.read_text())))
    (ROOT / "docs" / "performance.md").write_text("\n".join(parts))


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(c) for c in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _gpu(f: dict[str, Any]) -> str:
    return gpu_section(f, _table)


def _provenance(f: dict[str, Any]) -> str:
    rows = [
        (
            format, row["save"], row["save_described"], row["metadata_bytes"],
            " / ".join(f"{n:.1f}" for n in row["sign"].values()),
            " / ".join(f"{n:.1f}" for n in row["check"].values()), row["signature_bytes"],
        )
        for format, row in f["formats"].items()
    ]  # fmt: skip
    head = ("format", "save", "with metadata", "bytes", "sign (1 / 2 / 4 threads)", "check (1 / 2 / 4)", "bytes")
    return (
        "## Provenance\n\n"
        f"`python benchmarks/provenance.py` on {machine_line(f['machine'])}. Milliseconds a file of "
        f"{f['edge']} × {f['edge']} pixels, and bytes added; `describe` takes {f['describe']} ms of them.\n\n"
        + _table(head, rows)
    )


def _publishing(f: dict[str, Any]) -> str:
    return publishing_section(f, _table)


def _review(f: dict[str, Any]) -> str:
    return review_section(f, _table)


def _selection(f: dict[str, Any]) -> str:
    return speed_page.selection_section(f, _table, ROOT / "docs")


def _cut_run(f: dict[str, Any]) -> str:
    return speed_page.cut_run_section(f, _table)


def _settings(f: dict[str, Any]) -> str:
    return speed_page.settings_section(f, _table)


def _memory(f: dict[str, Any]) -> str:
    return speed_page.memory_section(f, _table)


def _scaling(f: dict[str, Any]) -> str:
    return scaling_section(f, _table)


def _orchestration(f: dict[str, Any]) -> str:
    return speed_page.orchestration_section(f, _table)


def _nights(f: dict[str, Any]) -> str:
    return speed_page.nights_section(f, _table)


def _pipeline(f: dict[str, Any]) -> str:
    stages = [
        (name, f"{s['seconds']:.2f}", s["count"] or "", f"{s['seconds'] / f['P']['median']:.1%}")
        for name, s in f["stages"].items()
    ]
    return f"""## The demo: `configs/game-assets.yaml`

`make bench` on {machine_line(f["machine"])}; {f.get("lanes", 1)} lane(s) of {f["threads"]} torch
thread(s), batch {f["batch"]}, {f["alternations"]} alternations of F and P.

F is the time of the pure denoiser, VAE and upscaler forwards over the same work list at the same batch, prompt
embeddings ready, on as many lanes. P is the wall time from reading the sheet to the last acknowledged write, models
loaded.

{
        _table(
            ("measure", "value"),
            [
                ("candidates × steps", f"{f['candidates']} × {f['steps']}, {f['upscales']} upscaled"),
                ("F, median (range)", f"{f['F']['median']:.1f} s ({f['F']['low']:.1f} to {f['F']['high']:.1f})"),
                ("P, median (range)", f"{f['P']['median']:.1f} s ({f['P']['low']:.1f} to {f['P']['high']:.1f})"),
                ("**P / F**, median of the pairs", f"**{f['P_over_F']:.3f}** (goal ≤ 1.10)"),
                ("images per second (P)", f"{f['images_per_second']:.2f}"),
                ("ranking share of P", f"{f['judge_share']:.1%} (goal ≤ 5 %)"),
                ("imports and loading, not in P", f"{f['import_seconds']:.1f} s and {f['load_seconds']:.1f} s"),
                (
                    "unchanged re-run, whole process",
                    f"{f['unchanged_seconds']:.1f} s, torch imported: {f['unchanged_torch']}",
                ),
            ],
        )
    }
Time by stage of the last P, added up over lanes and threads, so that the shares add up to more than the whole.
`encode` and `store` run beside the device; `publish` and the contact sheet follow the last chunk.

{_table(("stage", "seconds", "count", "share of P"), stages)}"""


def _plan(f: dict[str, Any]) -> str:
    rows = [(m["store"], m["case"], f"{m['seconds']:.1f}", f"{m['peak_mib']:.0f}", m["candidates"]) for m in f["plans"]]
    return f"""## A plan over a large catalog

`make scale` on {machine_line(f["machine"])}. {f["rows"]:,} rows × {f["candidates"]} candidates
({f["rows"] * f["candidates"]:,} requests in the index, {f["rows"]:,} assets in the catalog), whole process
`assetmill plan --json`. Goal: under 60 s and 1 GiB (1,024 MiB).

{_table(("store", "case", "seconds", "peak MiB", "candidates to make"), rows)}
The index was filled by the library's own writers: {f["segments"]:,} segments, folded by one compaction.
"""


def _peers(f: dict[str, Any]) -> str:
    """The section of `python -m peers`; empty while only the contenders' settings were measured."""
    from peers.page import peers_section

    return peers_section(f, _table) if f.get("scenarios") else ""


if __name__ == "__main__":
    write_page()
