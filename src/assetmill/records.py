"""The frozen words of the pipeline and the keys that name them.

Everything that is ever stored is one of the dataclasses below, written as one JSON line that carries its type
(`record`) and the version of its shape (`schema`). Keys are SHA-256 digests over canonical JSON, so the same
work has the same name on every machine, on every night.

This module imports nothing but the standard library: every other room stands on it.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, ClassVar, get_args

SCHEMA = 1
"""Version of the shape of stored records; readers upgrade older ones (see `parse_record`)."""

Scalar = str | int | float | bool

OPERATIONS = (
    "text-to-image", "image-to-image", "variation", "interpolation", "inpaint", "keep-product", "control",
)  # fmt: skip
"""What an engine can be asked to do. `text-to-image` is the default and left out of keys."""

REFERENCE_ROLES = ("init", "mask", "image", "image-to", "control")
"""`init` is what image-to-image and inpainting start from, `mask` is white where pixels may change, `image` is
what a variation (or an interpolation's start) looks like, `image-to` an interpolation's end, `control` a map."""

STATES = (
    "new", "changed", "metadata_only", "unchanged", "pending_review", "exhausted", "failed", "removed", "banned",
)  # fmt: skip
"""The states an asset can have in a plan."""


# --- keys ---------------------------------------------------------------------------------------------------


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, UTF-8 kept, NaN and infinity refused (ValueError)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_key(record: str, payload: Mapping[str, Any]) -> str:
    """Names a value by its content: 64 hex digits of SHA-256 over canonical JSON with a type tag.

    The tag (`record`) keeps two types with equal fields from sharing a name.
    """
    # surrogatepass: a lone surrogate from a broken sheet must get a key (and an error elsewhere), not a crash
    text = canonical_json({"record": record, **payload})
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def blob_key(data: bytes) -> str:
    """Names immutable bytes: 64 hex digits of their SHA-256."""
    return hashlib.sha256(data).hexdigest()


def fold_id(asset_id: str) -> str:
    """The form in which two ids count as the same: NFKC, case folded, outer white space dropped."""
    return unicodedata.normalize("NFKC", asset_id).strip().casefold()


def asset_key(asset_id: str) -> str:
    """The storage name of an asset: 64 hex digits. Ids themselves are never part of a path."""
    return content_key("asset", {"id": asset_id})


def derive_seed(config_seed: int, asset_id: str, cell: Mapping[str, str], index: int) -> int:
    """The seed of one image, in [0, 2**32).

    It depends on the config's `seed`, the asset's id, the names and values of the template's axes and the
    candidate's index, and on nothing else: a corrected typo keeps the composition, the order of rows and the
    batch don't matter, and two templates over the same assets are compared on paired seeds.
    """
    payload = {"seed": config_seed, "asset": asset_id, "cell": dict(cell), "index": index}
    return int(content_key("seed", payload)[:8], 16)


def derive_seeds(config_seed: int, asset_id: str, cell: Mapping[str, str], indices: Iterable[int]) -> list[int]:
    """`derive_seed` for several indices, without serialising the rest again for each."""
    payload = {"record": "seed", "seed": config_seed, "asset": asset_id, "cell": dict(cell), "index": 0}
    # `index` follows `cell` in sorted order, and nothing after it holds text: the last match is the field itself.
    head, _, tail = canonical_json(payload).rpartition('"index":0')
    start = hashlib.sha256((head + '"index":').encode("utf-8", "surrogatepass"))
    end = tail.encode()
    seeds = []
    for index in indices:
        digest = start.copy()
        digest.update(b"%d" % index)
        digest.update(end)
        seeds.append(int(digest.hexdigest()[:8], 16))
    return seeds


# --- what can be wrong with what goes in ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with an input: what, where (as far as known) and the way out."""

    message: str
    way_out: str = ""
    file: str = ""
    sheet: str = ""
    row: int | None = None
    column: str = ""
    value: str | None = None

    def __str__(self) -> str:
        place = ", ".join(
            part
            for part in (
                self.file,
                f"sheet {self.sheet!r}" if self.sheet else "",
                f"row {self.row}" if self.row is not None else "",
                f"column {self.column!r}" if self.column else "",
            )
            if part
        )
        shown = f" (value {self.value[:80]!r})" if self.value is not None else ""
        out = f"; {self.way_out}" if self.way_out else ""
        return f"{place + ': ' if place else ''}{self.message}{shown}{out}"


class InputError(ValueError):
    """A sheet, template, config or command line cannot be used. Holds every problem found, not only the first."""

    def __init__(self, problems: Problem | Sequence[Problem]) -> None:
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


# --- what goes in -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EngineOverrides:
    """What one row may say of the engine and of what it works from; None means the config's value.

    `model` names one of the config's `models`. Images are texts as the sheet has them: a path, a picture of the store
    or a URL. `lora` holds files and weights, which replace the config's adapters.
    """

    model: str | None = None
    operation: str | None = None
    strength: float | None = None
    steps: int | None = None
    guidance: float | None = None
    scheduler: str | None = None
    image: str | None = None
    image_to: str | None = None
    mask: str | None = None
    keep: str | None = None
    control: str | None = None
    control_kind: str | None = None
    weight: float | None = None
    lora: tuple[tuple[str, float], ...] | None = None
    caption_to: str | None = None


@dataclass(frozen=True, slots=True)
class Overrides:
    """What one row may say for itself; None means the config's value. `engine` is None where it says nothing of it."""

    seed: int | None = None
    width: int | None = None
    height: int | None = None
    negative: str | None = None
    candidates: int | None = None
    priority: int = 0
    engine: EngineOverrides | None = None


@dataclass(frozen=True, slots=True)
class Asset:
    """One thing in the sheet that needs pictures: a row, or the rows that share an id.

    `columns` holds the text of each column under its mapped name, of the first row that has one; `values` holds,
    for columns in which several folded rows differ, all distinct texts in the order of the sheet. `rows` are
    1-based line numbers as a spreadsheet shows them.
    """

    id: str
    columns: Mapping[str, str]
    rows: tuple[int, ...] = ()
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    overrides: Overrides = Overrides()

    @property
    def key(self) -> str:
        return asset_key(self.id)


@dataclass(frozen=True, slots=True)
class Prompt:
    """The rendered text of one asset in one cell of its template's axes.

    `rank_text` is the short text that judges score against. `flags` are remarks for people (say "truncated"); they
    decide nothing. `engine` and `candidates` are set where a person asked for other pictures than the row does.
    """

    asset_id: str
    template: str
    cell: Mapping[str, str]
    positive: str
    negative: str = ""
    rank_text: str = ""
    flags: tuple[str, ...] = ()
    engine: EngineOverrides | None = None
    candidates: int | None = None


@dataclass(frozen=True, slots=True)
class Reference:
    """An image that a request depends on, by the hash of its bytes. `kind` names a control map (edge, depth, pose)."""

    role: str
    blob: str
    weight: float = 1.0
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Adapter:
    """Weights laid over a model (a LoRA), pinned by the hash of their file."""

    kind: str
    sha256: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Request:
    """All that decides one image's content. Sizes in pixels; `seed` in [0, 2**32); `strength` in (0, 1].

    `epoch` is raised by hand in an engine adapter when its pictures change; library versions are recorded
    beside a candidate and never part of its key. `options` are settings that only one engine knows, as sorted
    pairs of name and scalar. A new field must have a default: fields at their default are left out of the key,
    so that adding one renames nothing.
    """

    engine: str
    epoch: int
    model: str
    revision: str
    positive: str
    seed: int
    width: int
    height: int
    steps: int
    guidance: float
    negative: str = ""
    scheduler: str = ""
    operation: str = "text-to-image"
    strength: float | None = None
    references: tuple[Reference, ...] = ()
    adapters: tuple[Adapter, ...] = ()
    options: tuple[tuple[str, Scalar], ...] = ()

    def __post_init__(self) -> None:
        if self.operation not in OPERATIONS:
            raise ValueError(f"operation {self.operation!r} is unknown; use one of {', '.join(OPERATIONS)}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed {self.seed} is outside [0, 2**32); give a whole number from 0 to {2**32 - 1}")
        for reference in self.references:
            if reference.role not in REFERENCE_ROLES:
                raise ValueError(
                    f"reference role {reference.role!r} is unknown; use one of {', '.join(REFERENCE_ROLES)}"
                )
        if any(name == "seed" for name, _ in self.options):
            raise ValueError("an engine option may not be called 'seed': use the request's own seed")

    def payload(self) -> dict[str, Any]:
        """The fields that are part of the key: those that differ from their default, numbers as their own type."""
        out: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.default is not MISSING and value == f.default:
                continue
            if f.name in ("guidance", "strength"):
                value = float(value)
            elif f.name in ("references", "adapters"):
                value = [_without_defaults(item) for item in value]
            elif f.name == "options":
                value = dict(value)
            out[f.name] = value
        return out

    @property
    def key(self) -> str:
        return content_key("request", self.payload())

    @property
    def bucket(self) -> tuple[Any, ...]:
        """What images of one batch must share: everything but the texts, the seed and the reference images."""
        references = tuple((r.role, r.kind, r.weight) for r in self.references)
        return (
            self.engine, self.epoch, self.model, self.revision, self.width, self.height, self.steps,
            self.guidance, self.scheduler, self.operation, self.strength, references, self.adapters, self.options,
        )  # fmt: skip


def request_keys(request: Request, seeds: Iterable[int]) -> list[str]:
    """Keys of the same request under several seeds, without serialising it again for each.

    Equal to `[replace(request, seed=s).key for s in seeds]`, an order of magnitude faster: a plan over 100,000
    rows names close to a million requests.
    """
    text = canonical_json({"record": "request", **request.payload()})
    # A quote inside a JSON string is always escaped, so `"seed":` can only be the field itself.
    head, tail = text.split(f'"seed":{request.seed}', 1)
    start = hashlib.sha256((head + '"seed":').encode("utf-8", "surrogatepass"))
    end = tail.encode("utf-8", "surrogatepass")
    keys = []
    for seed in seeds:
        digest = start.copy()
        digest.update(b"%d" % seed)
        digest.update(end)
        keys.append(digest.hexdigest())
    return keys


# --- what comes out: the lines of a segment -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """Which asset, cell and index a request was made for, and the request itself."""

    record: ClassVar[str] = "request"
    key: str
    asset_id: str
    template: str
    cell: Mapping[str, str]
    index: int
    rank_text: str
    request: Request


@dataclass(frozen=True, slots=True)
class CandidateRecord:
    """A request and the blob it gave. The first record of a request wins. `seconds` is device time per image."""

    record: ClassVar[str] = "candidate"
    request_key: str
    blob: str
    media_type: str
    width: int
    height: int
    seconds: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GateRecord:
    """A gate's verdict on a subject (a request key, variant key or rendition blob), with its reason."""

    record: ClassVar[str] = "gate"
    subject: str
    gate: str
    stage: str
    passed: bool
    reason: str = ""
    value: float | None = None


@dataclass(frozen=True, slots=True)
class ScoreRecord:
    """One judge's number for one blob and one rank text. `key` covers blob, judge weights, preprocessing and text."""

    record: ClassVar[str] = "score"
    key: str
    request_key: str
    blob: str
    judge: str
    rank_text: str
    value: float | None


@dataclass(frozen=True, slots=True)
class FailureRecord:
    """A request that gave no image, or lost it. `kind`: `poison` is not tried again, `transient` is; `lost`: the bytes
    are gone or damaged, the next candidate counts; `expired`: they were let go, none is made again or chosen.
    """

    record: ClassVar[str] = "failure"
    request_key: str
    kind: str
    reason: str
    tries: int = 1


@dataclass(frozen=True, slots=True)
class CutRecord:
    """A candidate dropped mid-way: after `step` of `steps`, with the score its half-made picture had."""

    record: ClassVar[str] = "cut"
    request_key: str
    step: int
    steps: int
    value: float | None


@dataclass(frozen=True, slots=True)
class VariantRecord:
    """A candidate that was chosen and upscaled. `master` is the blob of the upscaled picture, `rank` starts at 1.

    `cutout` is the master taken off its ground, in the way that `cutter` names: both empty where no channel wants it.
    """

    record: ClassVar[str] = "variant"
    key: str
    asset_id: str
    request_key: str
    blob: str
    rank: int
    score: float | None
    master: str
    master_media_type: str
    master_width: int
    master_height: int
    upscaler: str
    cutout: str = ""
    cutter: str = ""


@dataclass(frozen=True, slots=True)
class OutcomeRecord:
    """What became of an asset in a run: `status` is `chosen`, `exhausted`, `failed`, `transient` or `pending_review`.

    `work_key`, `select_key` and `meta_key` say for which requests, for which way of choosing and for which
    metadata that holds; a plan compares them with today's. `chosen` are variant keys in rank order.
    """

    record: ClassVar[str] = "outcome"
    asset_id: str
    status: str
    work_key: str
    select_key: str
    meta_key: str
    reason: str = ""
    num_candidates: int = 0
    chosen: tuple[str, ...] = ()


Record = (
    RequestRecord | CandidateRecord | GateRecord | ScoreRecord
    | FailureRecord | CutRecord | VariantRecord | OutcomeRecord
)  # fmt: skip

RECORD_TYPES: Mapping[str, type] = {t.record: t for t in get_args(Record)}


class RecordError(ValueError):
    """A stored line is not a record this version can read."""


def record_line(record: Record) -> str:
    """One JSON line (without the newline) of a record."""
    return canonical_json({"schema": SCHEMA, "record": record.record, **_jsonable(record)})


def parse_record(line: str) -> Record:
    """The record of one line, upgraded to this version's shape. Unknown types and newer schemas raise RecordError."""
    try:
        data = json.loads(line)
        schema, name = data.pop("schema"), data.pop("record")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise RecordError(f"not a record: {line[:80]!r} ({error})") from error
    if schema > SCHEMA:
        raise RecordError(f"record {name!r} has schema {schema}, this version reads up to {SCHEMA}: update assetmill")
    kind = RECORD_TYPES.get(name)
    if kind is None:
        raise RecordError(f"record type {name!r} is unknown; known are {', '.join(RECORD_TYPES)}")
    try:
        if kind is RequestRecord:
            data["request"] = request_from_json(data["request"])
        elif kind is OutcomeRecord:
            data["chosen"] = tuple(data.get("chosen", ()))
        return kind(**data)
    except (TypeError, KeyError, ValueError) as error:
        raise RecordError(f"a {name} record lacks or has extra fields: {error}") from error


def request_from_json(data: Mapping[str, Any]) -> Request:
    """A request from the JSON that `record_line` or `Request.payload` gave; left-out fields take their default."""
    values = dict(data)
    values["references"] = tuple(Reference(**r) for r in values.get("references", ()))
    values["adapters"] = tuple(Adapter(**a) for a in values.get("adapters", ()))
    options = values.get("options", {})
    values["options"] = tuple(sorted(options.items() if isinstance(options, Mapping) else map(tuple, options)))
    return Request(**values)


def segment_bytes(records: Sequence[Record]) -> bytes:
    """The bytes of one segment: a line per record, each ended by a newline."""
    return "".join(record_line(r) + "\n" for r in records).encode("utf-8", "surrogatepass")


def _jsonable(record: Record) -> dict[str, Any]:
    if isinstance(record, RequestRecord):
        plain = {f.name: getattr(record, f.name) for f in fields(record)}
        plain["cell"] = dict(record.cell)
        plain["request"] = record.request.payload()
        return plain
    return asdict(record)


def _without_defaults(item: Reference | Adapter) -> dict[str, Any]:
    out = {}
    for f in fields(item):
        value = getattr(item, f.name)
        if f.default is MISSING or value != f.default:
            out[f.name] = float(value) if f.name == "weight" else value
    return out
