"""A first config, template and sheet that run, for `assetmill init`."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from assetmill.config import config_schema
from assetmill.records import InputError, Problem, canonical_json


def write_sample(config_path: Path) -> list[Path]:
    """Writes config, sheet, template and the config's JSON Schema beside each other; never over a file that exists."""
    config_path = config_path if config_path.suffix in (".yaml", ".yml") else config_path.with_suffix(".yaml")
    folder = config_path.parent
    stem = re.sub(r"[^a-z0-9_-]+", "-", config_path.stem.lower()).strip("-_")[:64] or "assets"
    schema = folder / "assetmill.schema.json"
    paths = {
        "config.yaml": config_path,
        "sheet.csv": folder / f"{stem}.csv",
        "template.j2": folder / f"{stem}.j2",
    }
    existing = [str(p) for p in paths.values() if p.exists()]
    if existing:
        raise InputError(
            [Problem("the file exists already", "give another name, or move it", file=p) for p in existing]
        )
    folder.mkdir(parents=True, exist_ok=True)
    samples = resources.files("assetmill.intake") / "samples"
    for name, path in paths.items():
        text = (samples / name).read_text("utf-8")
        if name == "config.yaml":
            text = text.format(schema=schema.name, file=config_path, name=stem, stem=stem)
        path.write_text(text, encoding="utf-8")
    schema.write_text(canonical_json(config_schema()) + "\n", encoding="utf-8")
    return [*paths.values(), schema]
