"""Options that the latent engine carries out itself, beside those it hands to a diffusers pipeline. Never loads torch.

    model:
      options: {clip_guidance: 50.0, clip_cutouts: 4, seamless: x, weights: true}

`clip_guidance` (scale, see `clip_guidance.py`) pulls every step towards the text as `model.guide` reads it, the run's
judge if that is left out; `clip_cutouts` is how many views that judge gets a step. `seamless` (true, x, y; see
`seamless.py`) makes pictures that tile. `weights` (see `weighting.py`) reads `(word:1.3)` and prompts of any length.
"""

from __future__ import annotations

from collections.abc import Mapping

from assetmill.engines.protocols import ModelSpec
from assetmill.engines.seamless import read_axes
from assetmill.engines.weighting import check_weights
from assetmill.records import Problem, Request, Scalar

GUIDANCE, CUTOUTS, JUDGE, SEAMLESS, WEIGHTS = "clip_guidance", "clip_cutouts", "clip_judge", "seamless", "weights"
NAMES = (GUIDANCE, CUTOUTS, SEAMLESS, WEIGHTS)
"""What a config may say. `clip_judge`, the guiding judge's key, is added to requests (`request_options`)."""

MAX_GUIDANCE = 10_000.0
MAX_CUTOUTS = 64


def pipeline_options(options: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The options that go on to the pipeline's call."""
    return {name: value for name, value in options.items() if name not in (*NAMES, JUDGE)}


def request_options(spec: ModelSpec, options: Mapping[str, Scalar]) -> tuple[tuple[str, Scalar], ...]:
    """A config's options as a request carries them: those that change nothing left out, the guiding judge's key added.

    So a request that turns an option off has the key of one that never named it.
    """
    kept = {n: v for n, v in options.items() if not (n in (GUIDANCE, SEAMLESS, WEIGHTS) and not v)}
    if GUIDANCE not in kept:
        kept.pop(CUTOUTS, None)
    elif spec.guide is not None:
        kept[JUDGE] = spec.guide.key
    return tuple(sorted(kept.items()))


def check_options(options: Mapping[str, Scalar]) -> list[Problem]:
    """What is wrong with a config's options, by their values alone; `column` names the key."""
    problems: list[Problem] = []

    def add(name: str, message: str, way_out: str) -> None:
        problems.append(Problem(message, way_out, column=f"model.options.{name}", value=str(options[name])))

    scale = options.get(GUIDANCE, 0)
    if not _number(scale) or not 0 <= float(scale) <= MAX_GUIDANCE:
        add(GUIDANCE, "is no scale", f"give a number from 0 (off) to {MAX_GUIDANCE:g}; 30 to 100 are usual")
    if CUTOUTS in options:
        count = options[CUTOUTS]
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_CUTOUTS:
            add(CUTOUTS, "is no number of views", f"give a whole number from 1 to {MAX_CUTOUTS}")
        elif not scale:
            add(CUTOUTS, "has no meaning without clip_guidance", "remove it, or set clip_guidance")
    try:
        read_axes(options.get(SEAMLESS))
    except ValueError as error:
        add(SEAMLESS, str(error), "true, x or y")
    weights = options.get(WEIGHTS, False)
    if not isinstance(weights, bool):
        add(WEIGHTS, "is neither true nor false", "say true or false")
    elif weights and options.get("clip_skip") is not None:
        add("clip_skip", "weights read the text encoder's usual layer", "remove clip_skip or weights")
    return problems


def check_request_options(spec: ModelSpec, request: Request) -> list[Problem]:
    """What in a request's own options and texts this model cannot honour."""
    options = dict(request.options)
    problems: list[Problem] = []
    if options.get(GUIDANCE):
        have, want = spec.guide.key if spec.guide else "", options.get(JUDGE)
        if not have or want != have:
            asked = f"the judge {str(want)[:12]}" if want else "no judge"
            problems.append(
                Problem(
                    f"clip_guidance by {asked}, but the model has {have[:12] or 'none'} to be guided by",
                    "plan again; set model.guide to the open_clip judge that is to guide",
                    column="model.guide",
                )
            )
    if options.get(WEIGHTS):
        problems += check_weights(request)
    return problems


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
