"""What publishing costs, as a section of docs/performance.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from machine import machine_line

Table = Callable[[tuple[str, ...], list[tuple[Any, ...]]], str]


def publishing_section(f: dict[str, Any], table: Table) -> str:
    run, objects = f["run"], f["objects"]
    back = run["read_back"]
    checked = "" if back["exiftool"] is None else f"; exiftool finds the digital source in {back['exiftool']}"

    def seconds(name: str) -> tuple[str, str]:
        return f"{run[name]['median']:.1f} s", f"{run[name]['low']:.1f}-{run[name]['high']:.1f}"

    costs = [
        ("with", *seconds("with")),
        ("without", *seconds("without")),
        ("**publishing adds**", f"**{run['adds']:+.1%}**", f"{run['adds_low']:+.1%} to {run['adds_high']:+.1%}"),
        ("processor time added", f"{run['adds_work']:+.1%}", ""),
    ]
    stages = [(name, s["count"] or "", f"{s['seconds']:.1f}") for name, s in run["stages"].items()]
    marks = [(m["objects"], f"{m['mib']:.0f}") for m in objects["marks"]]
    return f"""## Publishing

`make publishing` on {machine_line(f["machine"])}. Whole runs of `configs/game-assets.yaml` with its channels, and with
nothing cut out and nothing published, {run["alternations"]} of each in turn: {run["pictures"]} pictures,
{run["assets"]} assets, {run["files"]} files, {run["lanes"]} lanes. Files are made while the device works;
{run["files_at_the_end"]} were left to the end of the run.

{table(("run", "median", "range"), costs)}
Seconds by stage, in threads that run beside the device, waiting for it included:

{table(("stage", "count", "seconds"), stages)}
Read back from the store, {back["identical"]} of {back["files"]} files say exactly what the catalog's facts
give{checked}.

{objects["objects"]} objects published by one process in {objects["seconds"]:.0f} s: its resident set grows by
{objects["growth_mib"]:.0f} MiB from the first fifth to the last; the peak, {objects["peak_mib"]:.0f} MiB, is when the
catalog is written.

{table(("objects", "MiB"), marks)}"""
