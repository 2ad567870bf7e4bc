"""A config file (YAML) read into validated, frozen settings, and their JSON Schema.

Settings may be overridden from the environment: `ASSETMILL_STORE__URL=s3://bucket/prefix` sets `store.url`.
Relative paths resolve against the nearest ancestor folder of the config that holds a `pyproject.toml`, else
against the config's own folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, IPvAnyNetwork, ValidationError, model_validator

from assetmill.records import InputError, Problem, Scalar
from assetmill.yaml_text import line_of, load_yaml, read_mapping

ENVIRONMENT_PREFIX = "ASSETMILL_"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def _parse_size(value: Any) -> Any:
    """`512` or `"512x768"` (width × height) as a pair of pixels."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return (value, value)
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+)\s*(?:[x×*,]\s*(\d+)\s*)?", value)
        if match:
            return (int(match[1]), int(match[2] or match[1]))
    return value


Size = Annotated[
    tuple[Annotated[int, Field(ge=8, le=16384)], Annotated[int, Field(ge=8, le=16384)]],
    BeforeValidator(_parse_size, json_schema_input_type=int | str | tuple[int, int]),
]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


Setting = Literal[
    "seed", "size", "negative", "candidates", "priority", "model", "operation", "strength", "steps", "guidance",
    "scheduler", "image", "image_to", "mask", "keep", "control", "control_kind", "weight", "lora", "caption_to",
]  # fmt: skip
"""What a row of the sheet may say for itself."""


class SheetConfig(_Section):
    """Where the assets come from."""

    path: Path = Field(description="CSV, TSV, XLSX, ODS or Parquet file.")
    id: str = Field(description="Column (after mapping) that names an asset.")
    table: str | None = Field(None, description="Worksheet of a workbook; the first one if left out.")
    header: bool = Field(True, description="False for a file without a header row; then give `names`.")
    names: tuple[str, ...] | None = Field(None, description="Column names of a file without a header row.")
    columns: Mapping[str, str] = Field(
        default_factory=dict, description="Mapping of the name templates use to the header in the file."
    )
    overrides: Mapping[Setting, str] = Field(
        default_factory=dict,
        description="Columns whose text, where not empty, overrides a setting for that row.",
    )
    fold: bool = Field(False, description="Fold rows that share an id into one asset (Shopify exports).")
    encoding: str | None = Field(None, description="Text encoding; found from UTF-8, UTF-16 and cp1252 if left out.")
    delimiter: str | None = Field(None, description="Column delimiter; found if left out.")
    max_bad_rows: Fraction = Field(0.01, description="Share of bad rows above which nothing starts.")
    max_bytes: int = Field(512 * 2**20, gt=0, description="Largest file that is opened.")
    max_cells: int = Field(20_000_000, gt=0, description="Largest number of cells.")
    max_ratio: float = Field(200.0, gt=1, description="Largest ratio of unpacked to packed size in a workbook.")

    @model_validator(mode="after")
    def _names_without_header(self) -> SheetConfig:
        if not self.header and not self.names:
            raise ValueError("a sheet without a header row needs `names`, one per column")
        return self


class PromptsConfig(_Section):
    """How assets become prompts."""

    templates: tuple[Path, ...] = Field(min_length=1, description="Jinja2 templates with YAML front matter (.j2).")
    wildcards: Path | None = Field(None, description="Folder of word lists, one entry a line, used as __name__.")
    deny: tuple[str, ...] = Field((), description="Terms no rendered prompt may hold (brands, persons).")
    deny_file: Path | None = Field(None, description="File of such terms, one a line, # for remarks.")
    locales: Mapping[str, Mapping[str, str]] = Field(
        default_factory=dict,
        description="Per locale, the columns that replace others: {de: {title: title_de}}. Adds the axis `locale`.",
    )
    token_limit: int | None = Field(
        None, gt=0, description="Tokens the text encoder reads; the model's own if left out."
    )


class AdapterConfig(_Section):
    path: Path
    weight: float = 1.0
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", description="Pinned hash of the file.")


class StageConfig(_Section):
    """A further folder or hub id of a model that comes in several."""

    source: str = Field(description="Folder or hub id.")
    revision: str | None = Field(None, description="Pinned commit of a hub id, or fingerprint of a folder.")


class ModelConfig(_Section):
    """Which generator makes the pictures, and its settings."""

    engine: str = Field(
        "diffusers",
        description="diffusers, kandinsky, cascade, autoregressive, simulated, or a plug-in's name.",
    )
    source: str = Field("starter", description="`starter`, a folder, or a hub id.")
    revision: str | None = Field(None, description="Pinned commit of a hub id (40 hex digits).")
    stages: Mapping[str, StageConfig] = Field(
        default_factory=dict,
        description="Further folders of a model that comes in several: `prior` (kandinsky), `second` (cascade).",
    )
    operation: str = "text-to-image"
    size: Size | None = Field(None, description="Pixels, `512` or `512x768`; the model's own if left out.")
    steps: int | None = Field(None, ge=1, le=1000)
    guidance: float | None = Field(None, ge=0.0, le=100.0)
    scheduler: str | None = Field(None, description="diffusers scheduler class; the model's own if left out.")
    negative: str = Field("", description="Negative prompt where neither row nor template gives one.")
    strength: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    adapters: tuple[AdapterConfig, ...] = ()
    control: Mapping[str, Path] = Field(
        default_factory=dict, description="ControlNet folders by the kind of map they take: {edge: path, depth: path}."
    )
    ip_adapter: Path | None = Field(
        None, description="IP-Adapter file (.safetensors, `image_encoder` beside it), for the operation `variation`."
    )
    image: str | None = Field(
        None, description="Reference image of rows that name none: a path, a picture of the store, or a URL."
    )
    image_to: str | None = Field(None, description="The other end of `interpolation`, as `image`.")
    mask: str | None = Field(None, description="Image for `inpaint`, white where pixels may change, as `image`.")
    keep: str | None = Field(
        None, description="Image for `keep-product`, white where the product is; the alpha of `image` if left out."
    )
    weight: float | None = Field(
        None,
        ge=0.0,
        le=2.0,
        description="How strongly reference image or control map act (1 if left out); in `interpolation` the share of "
        "the other end (0.5 if left out).",
    )
    caption_to: str = Field("", description="The other end of `interpolation` between two captions.")
    options: Mapping[str, Scalar] = Field(default_factory=dict, description="Settings only this engine knows.")
    guide: JudgeConfig | None = Field(
        None, description="The open_clip judge behind `options.clip_guidance`; `judge` if left out."
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 …")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    batch: int | None = Field(None, ge=1, le=4096, description="Images per forward; found if left out.")
    compile: bool = Field(False, description="torch.compile the denoiser's blocks.")
    channels_last: bool = Field(False, description="Memory format of the denoiser and the VAE.")
    fuse: bool = Field(False, description="Fuse the query, key and value projections of attention.")
    preview: Path | None = Field(
        None, description="Tiny VAE that shows half-made pictures: `starter`, or a folder; else the model's own."
    )
    offload: bool = Field(False, description="Keep parts that don't work on the CPU (needs less GPU memory).")
    offline: bool = Field(True, description="Never ask a hub at run time; pull models beforehand.")
    timeout: float = Field(600.0, gt=0, description="Seconds after which one batch counts as hung.")


class ReferencesConfig(_Section):
    """Where the sheet's images and adapters may come from."""

    folders: tuple[Path, ...] = Field(
        (), description="Folders that the sheet's paths may lead into, beside that of the config."
    )
    hosts: tuple[str, ...] = Field(
        (), description="The only hosts whose URLs are fetched, all public ones if empty; `*.example.com` for below."
    )
    networks: tuple[IPvAnyNetwork, ...] = Field(
        (), description="Private networks that may be asked as well, as `10.1.2.0/24`: an image server of your own."
    )
    refresh_hours: float | None = Field(
        20.0, ge=0, description="Age from which a URL is asked again whether its picture changed; null: never."
    )
    max_bytes: int = Field(32 * 2**20, gt=0, description="Largest file that is read or fetched.")
    max_pixels: int = Field(50_000_000, gt=0, description="Largest picture that is decoded, width × height.")
    timeout: float = Field(30.0, gt=0, le=600, description="Seconds that one fetch may take, redirects included.")


class _JudgeSource(_Section):
    engine: str = Field("open_clip", description="open_clip, transformers, aesthetic, simulated, or a plug-in's name.")
    source: str = Field("starter", description="`starter`, a folder, or an open_clip model name.")
    pretrained: str | None = Field(None, description="open_clip tag or weight file for a model name.")
    head: Path | None = Field(None, description="Weight file of the head, for the engine `aesthetic`.")
    options: Mapping[str, Scalar] = Field(default_factory=dict, description="Settings only this engine knows.")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 …")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field("auto", description="`auto` is always float32.")


class JudgePartConfig(_JudgeSource):
    """One of several judges whose scores are added."""

    weight: float = Field(1.0, description="Share in the sum; negative to prefer low scores.")
    centre: float | None = Field(None, description="Score that counts as 0; the engine's own if left out.")
    spread: float | None = Field(None, gt=0, description="Score above `centre` that counts as 1; as `centre`.")


class JudgeConfig(_JudgeSource):
    """Which model scores pictures against the rank text."""

    combine: tuple[JudgePartConfig, ...] = Field(
        (), description="Several judges in place of one: the weighted mean of their scores, each on a fixed scale."
    )

    @model_validator(mode="after")
    def _one_or_several(self) -> JudgeConfig:
        if self.combine and self.model_fields_set - {"combine"}:
            names = ", ".join(sorted(self.model_fields_set - {"combine"}))
            raise ValueError(f"`combine` names all judges: put {names} into its parts")
        return self


class SafetyConfig(_Section):
    """A check for pictures that must not be published, beside the generator's own."""

    source: str | None = Field(None, description="Folder of a safety checker or image classifier; no check without.")
    reject: tuple[str, ...] = Field((), description="Labels of a classifier that reject a picture: at least one.")
    threshold: Fraction = Field(0.5, description="Probability of such a label from which a picture is rejected.")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 …")


class GatesConfig(_Section):
    """Acceptance checks on candidates. Thresholds on 8-bit values; a dim scene is not a black one."""

    black_max: float = Field(8.0, ge=0, le=255, description="Rejected when no pixel is brighter.")
    flat_std: float = Field(0.8, ge=0, le=128, description="Rejected when the standard deviation is lower.")
    max_rejected: Fraction = Field(0.2, description="The run stops above this share of black, flat or NaN images.")
    seam: float = Field(
        3.0,
        gt=0,
        description="Seamless pictures are rejected when opposite edges differ by more than so many times what 95 % of "
        "neighbouring columns (or rows) inside stay below.",
    )
    product_mean: float = Field(
        24.0,
        ge=0,
        le=255,
        description="`keep-product`: rejected when the model changed the product by more, the mean over its pixels.",
    )
    product_ssim: float = Field(
        0.6, ge=-1, le=1, description="`keep-product`: rejected when the product as the model made it has a lower SSIM."
    )
    regenerate: float = Field(1.0, ge=0, le=16, description="Budget of extra seeds, as a multiple of `candidates`.")
    plugins: tuple[str, ...] = Field((), description="Further gates, by entry-point name.")
    safety: SafetyConfig = SafetyConfig()


class SelectConfig(_Section):
    keep: int = Field(1, ge=1, le=64, description="Variants kept.")
    per: Literal["asset", "cell"] = Field("asset", description="Keep that many per asset, or per cell of its axes.")
    near_duplicate: float | None = Field(
        0.97, gt=0, le=1, description="Cosine similarity from which two pictures count as one; null to allow."
    )
    diversity: float = Field(0.0, ge=0, le=1, description="Weight of difference against score (MMR).")
    min_score: float | None = Field(None, description="Candidates below are never chosen.")


class CutConfig(_Section):
    """Dropping the worst candidates of an asset before they are finished. Off where `at` is empty."""

    at: tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...] = Field(
        (), description="Shares of the steps after which half-made pictures are scored, in rising order: [0.25, 0.5]."
    )
    keep: tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...] = Field(
        (), description="Share of the candidates that goes on after each of them, in falling order: [0.5, 0.25]."
    )

    @model_validator(mode="after")
    def _check(self) -> CutConfig:
        if len(self.at) != len(self.keep):
            raise ValueError(f"`at` names {len(self.at)} cuts and `keep` {len(self.keep)}; give one share for each cut")
        if list(self.at) != sorted(set(self.at)):
            raise ValueError("the shares of `at` must rise")
        if list(self.keep) != sorted(self.keep, reverse=True):
            raise ValueError("the shares of `keep` are of the candidates begun: they cannot rise")
        return self


class UpscaleConfig(_Section):
    engine: str = Field("spandrel", description="spandrel, diffusers, transformers, lanczos, nearest, none, a plug-in.")
    source: str = Field("starter", description="`starter`, a weight file (safetensors), or an upscaler's folder.")
    scale: int | None = Field(None, ge=1, le=16, description="Factor; the model's own if left out.")
    tile: int = Field(256, ge=32, description="Edge of a tile in pixels; larger images are tiled with overlap.")
    overlap: int = Field(16, ge=0)
    options: Mapping[str, Scalar] = Field(default_factory=dict, description="Settings only this engine knows.")
    device: str = "auto"
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"


class StoreConfig(_Section):
    """A folder, or a bucket (`s3://bucket/prefix`). Credentials come from boto3's usual chain, never from here."""

    url: str = "out"
    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    options: Mapping[str, str] = Field(
        default_factory=dict,
        description="Extra put_object arguments: ServerSideEncryption, ACL, StorageClass …",
    )


class PublishConfig(_Section):
    policy: Literal["auto", "approved"] = Field("auto", description="Publish what ranks well, or what people approved.")
    min_score: float | None = Field(None, description="With `auto`: below this a variant waits for review.")
    columns: tuple[str, ...] = Field((), description="Columns that may leave with the catalog (allow-list).")
    channel: str = Field("master", pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    format: Literal["png", "webp"] = "png"
    name: str = Field("{id}_{rank}", description="File name pattern over id, rank, seed, template and `columns`.")
    removed: Literal["keep", "retire"] = Field("keep", description="What becomes of assets that left the sheet.")
    max_removed: Fraction = Field(0.2, description="A run refuses to retire a larger share of the catalog.")
    max_changed: Fraction = Field(1.0, description="A run refuses to change a larger share of the catalog.")


class BudgetConfig(_Section):
    images: int | None = Field(None, ge=1)
    device_minutes: float | None = Field(None, gt=0)
    bytes: int | None = Field(None, ge=1)


class RunConfig(_Section):
    chunk: int = Field(128, ge=1, le=4096, description="Candidates per chunk of whole assets (64-256 is usual).")
    lanes: int | None = Field(
        None,
        ge=1,
        le=64,
        description="Copies of the model that work side by side: one per core for small models on a CPU, else 1.",
    )
    threads: int | None = Field(None, ge=1, description="torch threads of each lane; the cores shared out if left out.")
    candidates: Literal["webp", "png"] = Field("webp", description="Format candidates are kept in, lossless both.")
    writers: int = Field(2, ge=1, le=64, description="Threads that encode, hash and store.")
    budget: BudgetConfig = BudgetConfig()


class ScheduleConfig(_Section):
    cron: str = "0 2 * * *"
    timezone: str = "UTC"


class Config(_Section):
    """One production: a sheet, its templates, the models and where the pictures go."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$", description="Names the catalog within its store.")
    seed: int = Field(0, ge=0, lt=2**32)
    candidates: int = Field(4, ge=1, le=1024, description="Images per prompt to choose from.")
    sheet: SheetConfig
    prompts: PromptsConfig
    model: ModelConfig = ModelConfig()
    models: Mapping[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._ -]{0,63}$")], ModelConfig] = Field(
        default_factory=dict,
        description="Further models by name, for rows whose `model` column names one; keys as those of `model`.",
    )
    references: ReferencesConfig = ReferencesConfig()
    judge: JudgeConfig = JudgeConfig()
    gates: GatesConfig = GatesConfig()
    select: SelectConfig = SelectConfig()
    cut: CutConfig = CutConfig()
    adaptive: bool = Field(
        False, description="Share the seeds of a chunk: more for assets that are still poor, fewer for good ones."
    )
    upscale: UpscaleConfig = UpscaleConfig()
    store: StoreConfig = StoreConfig()
    publish: PublishConfig = PublishConfig()
    run: RunConfig = RunConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    base: Path = Field(Path(), exclude=True, description="Folder that relative paths resolve against.")

    @model_validator(mode="before")
    @classmethod
    def _guide_by_the_judge(cls, data: Any) -> Any:
        """Names the run's judge as the guide of every model that asks for guidance and names none."""
        if not isinstance(data, Mapping):
            return data

        def guided(model: Any) -> Any:
            options = model.get("options") if isinstance(model, Mapping) else None
            wanted = isinstance(options, Mapping) and options.get("clip_guidance") and not model.get("guide")
            return {**model, "guide": data.get("judge") or {}} if wanted else model

        named = data.get("models")
        models = {name: guided(model) for name, model in named.items()} if isinstance(named, Mapping) else named
        return {
            **data,
            **({"model": guided(data["model"])} if "model" in data else {}),
            **({"models": models} if "models" in data else {}),
        }

    @model_validator(mode="after")
    def _check_rounds(self) -> Config:
        if self.adaptive and self.cut.at:
            raise ValueError(
                "adaptive and cut do not go together: adaptive rounds begin too few candidates at a time for cutting; "
                "turn one of them off"
            )
        return self

    def resolve(self, path: Path | str) -> Path:
        """A path of this config as an absolute one."""
        return (self.base / Path(path).expanduser()).resolve()

    @property
    def store_url(self) -> str:
        """The store's URL with a folder made absolute."""
        url = self.store.url
        return url if "://" in url else str(self.resolve(url))


def read_config(path: Path | str) -> Config:
    """The validated config of a YAML file, with overrides from the environment.

    Raises InputError with every problem: file, line, key and the way out.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            Problem(
                f"the config cannot be read ({error})",
                "give the path of a YAML file, or make one with `assetmill init`",
                file=str(path),
            )
        ) from error
    data, lines = read_mapping(text, str(path))
    for keys, value in _environment_overrides(os.environ):
        _set(data, keys, value)
    data["base"] = str(find_base(path))
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            place = tuple(str(k) for k in item["loc"])
            shown = repr(item["input"])[:80] if item["type"] not in ("missing",) else None
            problems.append(
                Problem(
                    item["msg"].removeprefix("Value error, "),
                    _way_out(item["type"], place),
                    file=str(path),
                    row=line_of(lines, place),
                    column=".".join(place),
                    value=shown,
                )
            )
        raise InputError(problems) from error


def find_base(config_path: Path | str) -> Path:
    """The folder a config's relative paths resolve against."""
    folder = Path(config_path).resolve().parent
    for candidate in (folder, *folder.parents):
        if (candidate / "pyproject.toml").is_file():
            return candidate
    return folder


def config_schema() -> dict[str, Any]:
    """The JSON Schema of a config file, for editors (`# yaml-language-server: $schema=…`)."""
    schema = Config.model_json_schema(mode="validation")
    schema["properties"].pop("base", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


# --- inside -------------------------------------------------------------------------------------------------


def _environment_overrides(environment: Mapping[str, str]) -> list[tuple[list[str], Any]]:
    """`ASSETMILL_MODEL__STEPS=8` as (["model", "steps"], 8). Only names of known sections count."""
    found = []
    for name, value in sorted(environment.items()):
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        keys = name[len(ENVIRONMENT_PREFIX) :].lower().split("__")
        if keys[0] in Config.model_fields and keys[0] != "base":
            found.append((keys, load_yaml(value)))
    return found


def _set(data: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        inner = data.get(key)
        if not isinstance(inner, dict):
            inner = data[key] = {}
        data = inner
    data[keys[-1]] = value


def _way_out(kind: str, keys: tuple[str, ...]) -> str:
    if kind == "extra_forbidden":
        section: Any = Config
        for key in keys[:-1]:
            field = getattr(section, "model_fields", {}).get(key)
            section = field.annotation if field else None
        known = [k for k in getattr(section, "model_fields", {}) if k != "base"]
        import difflib

        near = difflib.get_close_matches(keys[-1], known, n=1)
        if near:
            return f"did you mean {near[0]!r}?"
        return f"known keys here: {', '.join(known)}" if known else "remove it"
    if kind == "missing":
        return "add it"
    return ""
