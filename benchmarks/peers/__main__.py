"""This pipeline against what people use instead of it, over one work list: speed, agreement, objects.

    cd benchmarks && python -m peers [--choose] [--scenarios demo best-of-8] [--alternations 3]

Every contender runs in a process of its own, in turns, with the same weights, steps, number format and seeds, into a
folder: every candidate as a PNG, the upscaled winners and a manifest. *Warm* is the time of the work, models loaded;
*cold* counts from the start of the process. The contenders' settings (`--choose`) are measured once per machine and
kept in docs/figures/peers.json, beside the results. Nothing is reported where a contender did other work.

On two cores the settings take some 6 minutes, the demo 18 and best-of-8 13. They can be measured one by one:
`--choose --scenarios` (with no scenario named), `--scenarios demo`, `--scenarios best-of-8`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peers.choose import choose_settings
from peers.contender import TITLES, missing_reason
from peers.measure import REFERENCE, OtherWork, alternate, say
from peers.plot import draw_peers
from peers.work import Settings, Work, write_work
from write import FIGURES, ROOT, save_figures

_OF_BEST_OF_8 = ("pure", "assetmill", "per-picture", "per-prompt")
BEST_OF_8: dict[str, Any] = {"candidates": 8, "select": {"keep": 2, "near_duplicate": None}}
GOALS: dict[str, dict[str, tuple[str, float]]] = {
    "demo": {
        "P / F": ("pure", 1.10),
        "against a call per picture": ("per-picture", 1.5),
        "against a call per prompt": ("per-prompt", 1.5),
        "against the tuned script": ("tuned", 1.0),
    },
    "best-of-8": {
        "P / F": ("pure", 1.10),
        "against a call per picture, all upscaled": ("per-picture", 3.0),
        "against a call per prompt, all upscaled": ("per-prompt", 3.0),
    },
}
"""By scenario: what is compared, with whom, and the bound. P / F shall be at most, the others at least."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "game-assets.yaml")
    parser.add_argument("--scenarios", nargs="*", choices=list(GOALS), default=list(GOALS))
    parser.add_argument("--contenders", nargs="+", choices=list(TITLES), default=list(TITLES))
    parser.add_argument("--alternations", type=int, default=3)
    parser.add_argument("--choose", action="store_true", help="measure every contender's best settings anew")
    parser.add_argument("--assets", type=int, help="only the first rows of the sheet, for a trial")
    parser.add_argument("--steps", type=int, help="other than the config's, for a trial")
    parser.add_argument("--batch", type=int, help="one batch size, one thread, nothing chosen: for a trial")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures instead of docs/")
    options = parser.parse_args()
    names = [n for n in options.contenders if not missing_reason(n)]
    skipped = {n: missing_reason(n) for n in options.contenders if missing_reason(n)}
    for name, reason in skipped.items():
        say(f"{TITLES[name]} is left out: {reason}")
    for name in (REFERENCE, "assetmill"):
        if name not in names:
            parser.error(f"{name} must be among the contenders: the others are compared with it")
    path = options.out or FIGURES / "peers.json"
    figures: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    figures.pop("machine", None)
    figures["skipped"] = skipped
    with tempfile.TemporaryDirectory() as folder:
        demo = _work(options, "demo", Path(folder) / "list")
        settings = _settings(options, figures, demo, names, Path(folder) / "choices")
        for scenario in options.scenarios:
            work = _work(options, scenario, Path(folder) / f"{scenario}-list")
            choices = settings
            if scenario == "best-of-8":  # only those it is about: the rest is told by the demo
                choices = {n: s for n, s in choices.items() if n in _OF_BEST_OF_8}
            say(f"{scenario}: {len(work.pieces)} candidates of {len(work.by_asset())} assets")
            try:
                found = alternate(work, choices, options.alternations, Path(folder) / scenario, GOALS[scenario])
            except OtherWork as error:
                raise SystemExit(str(error)) from error
            figures.setdefault("scenarios", {})[scenario] = found
            for text, goal in found["goals"].items():
                say(f"{scenario}, {text}: {goal['value']:.2f} (goal {goal['goal']:g})")
            _save(options, figures)


def _save(options: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Keeps what is measured so far: an interrupted command need not measure it again."""
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1) + "\n")
        return
    if figures.get("scenarios"):
        draw_peers(figures, ROOT / "docs" / "img" / "peers.svg")
    save_figures("peers", figures)


def _work(options: argparse.Namespace, scenario: str, folder: Path) -> Work:
    limit, changes = options.assets, {}
    if scenario == "best-of-8":
        limit, changes = min(24, limit or 24), BEST_OF_8
    return write_work(
        options.config, folder, scenario, limit=limit, steps=options.steps, upscale_all=scenario == "best-of-8",
        changes=changes,
    )  # fmt: skip


def _settings(
    options: argparse.Namespace, figures: dict[str, Any], work: Work, names: list[str], folder: Path
) -> dict[str, Settings]:
    """Kept settings where there are some, else measured ones, which are kept."""
    if options.batch:
        return {name: Settings(batch=options.batch) for name in names}
    kept = figures.get("choices", {})
    if options.choose or not set(names) <= set(kept):
        chosen, tried = choose_settings(work, names, folder)
        kept = {**kept, **{n: {"settings": asdict(s), "tried": tried[n]} for n, s in chosen.items()}}
        figures["choices"] = kept
        _save(options, figures)
    return {name: Settings(**kept[name]["settings"]) for name in names}


if __name__ == "__main__":
    main()
