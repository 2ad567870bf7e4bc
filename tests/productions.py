"""Small productions with simulated engines: a folder with a config, a sheet and a template, and ways to run them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from assetmill.config import StoreConfig
from assetmill.pipeline import Job, open_job, plan_job, run_job
from assetmill.records import CandidateRecord, Record, RequestRecord, parse_record
from assetmill.storage.catalog import Catalog, open_catalog
from assetmill.storage.folder import FolderStore
from assetmill.storage.index import Index, open_index
from assetmill.storage.segments import read_segment
from assetmill.storage.store import open_store

NAME = "toys"
TEMPLATE = "---\nrank_text: a {{ thing }}\n---\na {{ colour }} {{ thing }}\n"
THINGS = ("mug", "hat", "key", "gem", "bow", "cup", "axe", "jar", "orb", "ring", "bell", "fan")


def rows(count: int, **columns: str) -> list[dict[str, str]]:
    """That many rows with different things; `columns` are added to each."""
    return [{"id": f"{n:03d}", "thing": THINGS[n % len(THINGS)], "colour": f"red{n}", **columns} for n in range(count)]


@dataclass
class Production:
    """A config in a folder. `settings` are sections laid over the default ones; call `write` after changing them."""

    folder: Path
    sheet: list[dict[str, str]] = field(default_factory=lambda: rows(4))
    settings: dict[str, Any] = field(default_factory=dict)
    templates: dict[str, str] = field(default_factory=lambda: {"main.j2": TEMPLATE})

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write()

    @property
    def path(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def store(self) -> FolderStore:
        store = open_store(StoreConfig(options={"durability": "process"}), str(self.folder / "out"))
        assert isinstance(store, FolderStore)
        return store

    @property
    def catalog(self) -> Catalog:
        return open_catalog(self.store, NAME)

    @property
    def index(self) -> Index:
        return open_index(self.store, NAME)

    def config(self) -> dict[str, Any]:
        plain: dict[str, Any] = {
            "name": NAME,
            "seed": 7,
            "candidates": 4,
            "sheet": {"path": "sheet.csv", "id": "id"},
            "prompts": {"templates": sorted(self.templates)},
            "model": {"engine": "simulated", "size": 16, "steps": 1, "batch": 8},
            "judge": {"engine": "simulated"},
            "upscale": {"engine": "nearest", "scale": 2},
            "store": {"url": "out", "options": {"durability": "process"}},
            "run": {"chunk": 16},
        }
        for name, value in self.settings.items():
            known = plain.get(name)
            plain[name] = {**known, **value} if isinstance(known, dict) and isinstance(value, Mapping) else value
        return plain

    def write(self) -> None:
        """Writes config, sheet and templates."""
        self.path.write_text(yaml.safe_dump(self.config(), sort_keys=False))
        self.write_sheet()
        for name, text in self.templates.items():
            (self.folder / name).write_text(text)

    def write_sheet(self) -> None:
        headers = list(dict.fromkeys(h for row in self.sheet for h in row)) or ["id", "thing", "colour"]
        with (self.folder / "sheet.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, headers, restval="")
            writer.writeheader()
            writer.writerows(self.sheet)

    def change(self, **settings: Any) -> None:
        """Lays sections over the config, deeper than `settings` replaces, and writes everything."""
        for name, value in settings.items():
            old = self.settings.get(name)
            self.settings[name] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
        self.write()

    def job(self, only: Sequence[str] = (), limit: int | None = None, force: bool = False) -> Job:
        return open_job(self.path, only=only, limit=limit, force=force)

    def plan(self, **options: Any) -> Any:
        return plan_job(self.job(**options))

    def states(self, **options: Any) -> dict[str, int]:
        """The plan's counts that are not zero."""
        return {state: n for state, n in self.plan(**options).counts().items() if n}

    def run(self, *, only: Sequence[str] = (), limit: int | None = None, force: bool = False, **options: Any) -> Any:
        return run_job(self.job(only, limit, force), **options)

    # --- what is there ---

    def records(self) -> list[Record]:
        """All records of all segments, in the order they were written."""
        store = self.store
        segments = [read_segment(store, i.key) for i in store.list(f"records/{NAME}/")]
        segments.sort(key=lambda s: s.order)
        return [parse_record(line) for segment in segments for line in segment.lines]

    def candidates(self) -> list[CandidateRecord]:
        return [r for r in self.records() if isinstance(r, CandidateRecord)]

    def requests(self) -> dict[str, RequestRecord]:
        return {r.key: r for r in self.records() if isinstance(r, RequestRecord)}

    def published(self) -> dict[tuple[str, int], str]:
        """The hash of the published picture of each asset and rank."""
        return {(e.asset_id, e.rank): e.master for e in self.catalog.iter_entries()}

    def check_whole(self) -> None:
        """Nothing lost, nothing doubled, every name points at its own bytes, the catalog is whole."""
        made = [c.request_key for c in self.candidates()]
        assert len(made) == len(set(made)), "a request was made twice"
        store = self.store
        blobs = {i.key for i in store.list("blobs/")}
        for candidate in self.candidates():
            extension = candidate.media_type.removeprefix("image/")
            assert f"blobs/{candidate.blob[:2]}/{candidate.blob}.{extension}" in blobs
        found = self.catalog.verify()
        assert found.passed, found
        assert not self.index.problems
