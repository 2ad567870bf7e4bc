"""The roles that engines play: Generator, Judge and Upscaler, and the batches that pass between them.

A caller never branches on a model: what it needs to know stands in the engine's `spec` or attributes. Pictures
travel as uint8 arrays for people and files, and stay on the engine's device (`device_pixels`) for judges.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from assetmill.records import Request

if TYPE_CHECKING:
    import numpy as np


class EngineError(RuntimeError):
    """An engine cannot be loaded or used; the message says why and the way out."""


class OutOfMemory(EngineError):
    """The device ran out of memory for this batch: halve it and try again."""


@dataclass(frozen=True, slots=True)
class Part:
    """Weights beside a model's own, named by a config: `kind` is `lora`, `control`, `ip-adapter` or `preview`.

    A request that uses one names its hash among its adapters; a tiny VAE for previews decides no picture, and is not
    named. `name` is the kind of map that a ControlNet takes (edge, depth, pose), else the file's stem. `sha256` is the
    hash of a file, or the fingerprint of a folder.
    """

    kind: str
    name: str
    path: str
    sha256: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What is known of a model before it is loaded. Sizes in pixels, memory in GiB; `revision` pins the weights.

    `steps`, `guidance`, `size` and `scheduler` are the defaults a config may leave out. `size_multiple` is what
    width and height must be divisible by. `token_limit` is how many tokens the text encoder reads, start and end
    marks included (None: no limit). `revision` is the commit of a hub model, else the fingerprint of its folder.

    `guidance_kind` says what `guidance` means: `classifier-free` (above 1 two forwards a step, and negative prompts
    count), `distilled` (a number fed to the model: no negative prompts) or `none` (must be 0). `cuts` is True where
    candidates can be dropped mid-way through `OnStep` (text to image and image to image). `parts` are the adapters
    that requests may use: LoRAs, ControlNets, an IP-Adapter.

    `stages` are the folders of a model that comes in several, as (name, folder, revision); `folder` is then the one
    whose tokenizer counts. `schedulers` are the classes a config may name (None: the engine decides). `fixed` names
    those of `size` and `steps` that this model cannot change. `guide` is the judge that pulls sampling towards the text
    where the option `clip_guidance` is set.
    """

    id: str
    engine: str
    epoch: int
    revision: str
    family: str
    licence: str
    commercial: bool | None
    operations: tuple[str, ...]
    width: int
    height: int
    steps: int
    guidance: float
    scheduler: str = ""
    size_multiple: int = 8
    token_limit: int | None = 77
    gib: float = 0.0
    folder: str = ""
    guidance_kind: str = "classifier-free"
    cuts: bool = False
    option_names: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()
    stages: tuple[tuple[str, str, str], ...] = ()
    schedulers: tuple[str, ...] | None = None
    fixed: tuple[str, ...] = ()
    guide: JudgeSpec | None = None


@dataclass(frozen=True, slots=True)
class JudgeSpec:
    """What is known of a judge before it is loaded.

    `key` names weights, preprocessing and the adapter's epoch: it is part of every score's key. `source` is a
    folder, or an architecture's name together with `pretrained`, a tag or a weight file. `head` is a weight file on
    top of it. `centre` and `spread` put its scores on a common scale (see `combined.py`): scores of unrelated pairs
    lie near `centre`, those of fitting ones about `spread` above. `parts` are the judges of a combined one.
    """

    key: str
    engine: str
    source: str
    pretrained: str = ""
    fingerprint: str = ""
    licence: str = ""
    commercial: bool | None = None
    head: str = ""
    head_fingerprint: str = ""
    centre: float = 0.0
    spread: float = 1.0
    parts: tuple[JudgePart, ...] = ()


@dataclass(frozen=True, slots=True)
class JudgePart:
    """One of several judges: its score s counts as `weight` * (s - `centre`) / `spread`."""

    spec: JudgeSpec
    weight: float
    centre: float
    spread: float


@dataclass(frozen=True, slots=True)
class SafetySpec:
    """What is known of a safety check before it is loaded; `family` is its model's class."""

    folder: str
    family: str
    fingerprint: str
    key: str
    licence: str = ""
    commercial: bool | None = None


@dataclass(frozen=True, slots=True)
class SegmenterSpec:
    """What is known of a segmentation model before it is loaded. `model` is its kind, `file` its weights.

    `key` names weights and preprocessing: what it cut out is cut out again where the key changes.
    """

    key: str
    engine: str
    model: str = ""
    file: str = ""
    fingerprint: str = ""
    licence: str = ""
    commercial: bool | None = None


@dataclass(frozen=True, slots=True)
class UpscalerSpec:
    """What is known of an upscaler before it is loaded. `scale` is the whole factor that pictures grow by.

    `file` is its weight file or folder, `family` its class where the engine has several.
    """

    key: str
    engine: str
    scale: int
    file: str = ""
    family: str = ""
    fingerprint: str = ""
    licence: str = ""
    commercial: bool | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """Where sampling stands. `index` counts finished steps from 1; `alive` are positions in the batch still sampled.

    `preview()` decodes the predicted clean pictures of the alive ones: (len(alive), 3, H, W), floats in [0, 1] on
    the engine's device (a numpy array where the engine has none). It may be called once or not at all, and only
    before the callback returns. `total` counts the denoiser's evaluations (second-order samplers have more than
    the request's steps).
    """

    index: int
    total: int
    alive: tuple[int, ...]
    preview: Callable[[], Any]


OnStep = Callable[[Step], Sequence[int] | None]
"""Called after each step; may return the positions (of the whole batch) to go on with, or None for all alive."""


@dataclass(frozen=True, slots=True)
class Paused:
    """A picture stopped after `step` of `steps` denoiser evaluations; `state` is its engine's own."""

    request: Request
    step: int
    steps: int
    state: Any


@dataclass(frozen=True, slots=True)
class Generated:
    """What a batch gave, in the order of its requests.

    `pixels`: uint8 (N, H, W, 3), sRGB; rows of candidates cut mid-way are zero. `device_pixels`: the same as floats
    in [0, 1], (N, 3, H, W), on the engine's device, or None where the engine has none. `finite[i]` is False where
    the model gave NaN or infinity. `cut[i]` is the step after which candidate i was dropped, 0 where it was finished.
    `seconds` is device time for the whole batch. `refused[i]`, where not empty, says why the model's own safety
    checker withheld picture i (its pixels are black): such a candidate is rejected with that reason.

    Where the batch was paused, `paused` holds its pictures in the same order, and `pixels` what they would be by now.
    """

    pixels: np.ndarray
    finite: np.ndarray
    cut: np.ndarray
    seconds: float
    device_pixels: Any = None
    refused: tuple[str, ...] = ()
    paused: tuple[Paused, ...] = ()


class Generator(Protocol):
    """Turns requests of one bucket into pictures.

    `references` maps blob hashes to RGB (or L, for masks) uint8 arrays. The picture of a request depends on the
    request alone: not on its neighbours in the batch (up to rounding), nor on the order.

    Raises OutOfMemory when the batch is too large, EngineError for everything the caller cannot mend.
    """

    spec: ModelSpec

    def generate(
        self,
        batch: Sequence[Request],
        *,
        references: Mapping[str, np.ndarray] | None = None,
        on_step: OnStep | None = None,
    ) -> Generated: ...

    def fitting_batch(self, width: int, height: int) -> int:
        """A batch size to start from on the engine's device; OutOfMemory halves it."""
        ...

    def versions(self) -> Mapping[str, str]:
        """Library versions to record beside candidates."""
        ...


class PausingGenerator(Generator, Protocol):
    """A generator whose `spec.cuts` is True: its pictures can stop part of the way, and go on with other neighbours."""

    def generate_part(
        self,
        batch: Sequence[Request],
        *,
        references: Mapping[str, np.ndarray] | None = None,
        resume: Sequence[Paused] | None = None,
        pause_at: float | None = None,
    ) -> Generated:
        """From the start, or from where `resume` (a Paused per request) stands, to a share of the steps or the end.

        `pause_at` in (0, 1); where it is given, `Generated.paused` holds the pictures and `pixels` what they would be
        by now. A model of a single step is not paused: it gives finished pictures, and `paused` is empty.
        """
        ...


@dataclass(frozen=True, slots=True)
class Judged:
    """Scores (N,) float32, higher is better, NaN where not computable; embeddings (N, D) float32 of unit length.

    A row of a picture that could not be judged has a NaN score and a zero embedding.
    """

    scores: np.ndarray
    embeddings: np.ndarray


class Judge(Protocol):
    """Scores pictures against short texts.

    `key` names weights and preprocessing: it is part of every score's key. `judge` takes uint8 (N, H, W, 3) arrays
    or float (N, 3, H, W) device tensors in [0, 1], and one text per picture (repeats are encoded once).
    """

    key: str

    def judge(self, pixels: Any, texts: Sequence[str]) -> Judged: ...


class Upscaler(Protocol):
    """Enlarges pictures by a whole factor. `key` names weights and settings.

    uint8 (N, H, W, 3) in, uint8 (N, H x scale, W x scale, 3) out; pictures of one call share their size. `texts`, one
    per picture, say what they show: upscalers that read no text ignore them. The result follows from picture and text
    alone. `enlarge` (in `enlarge.py`) adds transparency and tileable pictures to any upscaler. `generative` (False
    where an upscaler lacks it) says that it invents detail from noise.
    """

    key: str
    scale: int

    def upscale(self, pixels: np.ndarray, texts: Sequence[str] | None = None) -> np.ndarray: ...


class Safety(Protocol):
    """Looks for pictures that must not be published.

    `check` takes uint8 (N, H, W, 3) pictures and gives a reason for each that must not, the empty text for others. It
    never changes a picture.
    """

    def check(self, pixels: np.ndarray) -> list[str]: ...


class Segmenter(Protocol):
    """Finds the object in a picture. `key` is its spec's.

    `segment` takes uint8 (H, W, 3) sRGB pixels and gives the object's alpha, uint8 (H, W). It follows from the picture
    alone, and may be called from several threads.
    """

    key: str

    def segment(self, pixels: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class Engines:
    """The loaded engines of one run. `lanes` are further copies of the generator, to work beside it."""

    generator: Generator
    judge: Judge
    upscaler: Upscaler
    safety: Safety | None = None
    lanes: tuple[Generator, ...] = ()
    segmenter: Segmenter | None = None
