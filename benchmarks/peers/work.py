"""What every contender is given: the same pictures to make, the same weights, and where to leave the result."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from assetmill import pipeline
from assetmill.config import Config, read_config
from assetmill.intake.plan import requests_of


@dataclass(frozen=True, slots=True)
class Piece:
    """One candidate: `index` counts an asset's candidates from 0, over all its prompts."""

    asset: str
    index: int
    positive: str
    negative: str
    rank_text: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.asset}_{self.index}"


@dataclass(frozen=True, slots=True)
class Work:
    """A scenario written out: `config` is the file that the pipeline reads, `pieces` what the others are handed.

    Contenders other than the pipeline need neither sheet nor templates; that is a gift to them. `upscale_all` says
    that scripts which go prompt by prompt upscale and save every candidate before they pick.
    """

    scenario: str
    config: str
    model: str
    clip: str
    upscaler: str
    width: int
    height: int
    steps: int
    guidance: float
    keep: int
    scale: int
    upscale_all: bool
    pieces: tuple[Piece, ...]

    def by_asset(self) -> dict[str, list[Piece]]:
        found: dict[str, list[Piece]] = {}
        for piece in self.pieces:
            found.setdefault(piece.asset, []).append(piece)
        return found

    @property
    def num_masters(self) -> int:
        return sum(min(self.keep, len(pieces)) for pieces in self.by_asset().values())

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @staticmethod
    def load(path: Path) -> Work:
        data = json.loads(path.read_text())
        return Work(**{**data, "pieces": tuple(Piece(**p) for p in data["pieces"])})


@dataclass(frozen=True, slots=True)
class Settings:
    """How a contender uses the machine: torch's threads, pictures per forward, and what is done to the denoiser."""

    threads: int = 1
    batch: int = 16
    compile: bool = False
    channels_last: bool = False

    @property
    def words(self) -> str:
        extras = [word for word, on in (("compiled", self.compile), ("channels last", self.channels_last)) if on]
        return ", ".join([f"{self.threads} thread{'s' * (self.threads > 1)}", f"batch {self.batch}", *extras])


def write_work(
    config_path: Path,
    folder: Path,
    scenario: str,
    *,
    limit: int | None = None,
    steps: int | None = None,
    upscale_all: bool = False,
    changes: Mapping[str, Any] | None = None,
) -> Work:
    """A scenario's work list, planned as the pipeline plans it, with its config beside it in `folder`.

    `changes` are sections or keys of the config laid over the file's; `limit` takes the first assets of the sheet.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = _standing_alone(read_config(config_path), changes or {}, steps)
    if limit is not None:
        config["sheet"]["path"] = str(_first_rows(Path(config["sheet"]["path"]), limit, folder))
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    job = pipeline.open_job(path)
    if job.model.engine != "diffusers" or job.model.family != "stable-diffusion":
        raise SystemExit(f"{config_path}: the peers are scripts for StableDiffusionPipeline, not {job.model.family}")
    if job.base.scheduler not in ("", job.model.scheduler):
        raise SystemExit(f"{config_path}: the peers use the model's own scheduler, not {job.base.scheduler}")
    work = Work(
        scenario, str(path), job.model.folder, job.judge.source, job.upscaler.file, job.base.width, job.base.height,
        job.base.steps, job.base.guidance, job.config.select.keep, job.upscaler.scale, upscale_all,
        tuple(_pieces(job)),
    )  # fmt: skip
    work.save(folder / "work.json")
    return work


def slice_work(work: Work, num_assets: int, folder: Path) -> Work:
    """The same scenario over its first assets only, for short measurements."""
    return write_work(
        Path(work.config), folder, work.scenario, limit=num_assets, steps=work.steps, upscale_all=work.upscale_all
    )


def _pieces(job: pipeline.Job) -> Iterator[Piece]:
    for plan in pipeline.plan_job(job).todo:
        index = 0
        for prompt in plan.prompts:
            request, seeds = requests_of(plan.asset, prompt, job.base, job.config, range(plan.num_candidates))
            for seed in seeds:
                own = replace(request, seed=seed)
                yield Piece(plan.asset.id, index, own.positive, own.negative, prompt.rank_text, own.seed)
                index += 1


def _standing_alone(config: Config, changes: Mapping[str, Any], steps: int | None) -> dict[str, Any]:
    """The config as plain values, its paths absolute."""
    plain = config.model_dump(mode="json")
    for name, value in changes.items():
        plain[name] = {**plain[name], **value} if isinstance(value, dict) else value
    if steps is not None:
        plain["model"]["steps"] = steps
    plain["sheet"]["path"] = str(config.resolve(config.sheet.path))
    plain["prompts"]["templates"] = [str(config.resolve(t)) for t in config.prompts.templates]
    for name in ("wildcards", "deny_file"):
        if plain["prompts"][name] is not None:
            plain["prompts"][name] = str(config.resolve(plain["prompts"][name]))
    return plain


def _first_rows(sheet: Path, limit: int, folder: Path) -> Path:
    """A CSV sheet's first rows in a file of their own, so that every contender sees a whole sheet."""
    import csv

    with sheet.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.reader(file))
    found = folder / "sheet.csv"
    with found.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows[: limit + 1])
    return found


def write_manifest(out: Path, lines: Iterable[dict[str, Any]]) -> None:
    """The scripts' manifest: one JSON line per candidate (asset, index, seed, score, file, master)."""
    (out / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
