"""Gates: yes/no acceptance checks on pictures, each with a reason people can act on.

A picture is asked gate after gate and stops at the first it fails, so its last verdict is the reason for its
rejection. The four built-in gates look at pixels and at what the engine reported; further ones come from other
packages by entry point (group `assetmill.gates`) and are named in the config under `gates.plugins`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from assetmill.records import InputError, Problem

if TYPE_CHECKING:
    from assetmill.config import GatesConfig

STAGES = ("candidate", "variant", "rendition")
"""When a gate is asked: after generation, after upscaling, after a channel's file was made."""

BREAKER_GATES = frozenset({"nan", "black", "flat"})
"""Rejections by these mean a broken model, not a bad picture: the run stops when they exceed `gates.max_rejected`."""

ENTRY_POINTS = "assetmill.gates"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One gate's answer on one picture. `reason` says why it failed (empty where it passed); `value` is what the
    gate measured, in its own unit."""

    gate: str
    passed: bool
    reason: str = ""
    value: float | None = None


class Gate(Protocol):
    """A further acceptance check, from a plug-in.

    `stage` is one of STAGES. `check` takes uint8 (N, H, W, C) sRGB pictures (C is 3, or 4 with alpha) and gives
    one verdict per picture, in their order. It must not depend on a picture's neighbours.
    """

    name: str
    stage: str

    def check(self, pixels: np.ndarray) -> Sequence[Verdict]: ...


@dataclass(slots=True)
class ReasonGate:
    """A gate of a function that gives a reason for each picture that must be rejected, the empty text for others."""

    name: str
    stage: str
    reasons: Callable[[np.ndarray], Sequence[str]]

    def check(self, pixels: np.ndarray) -> list[Verdict]:
        """See Gate. The function gets uint8 (N, H, W, 3): colour alone."""
        return [Verdict(self.name, not reason, reason) for reason in self.reasons(pixels[..., :3])]


class GateError(RuntimeError):
    """A plug-in gate broke its contract; the message names it."""


def check_candidates(
    pixels: np.ndarray,
    finite: np.ndarray,
    expected: tuple[int, int],
    config: GatesConfig,
    gates: Sequence[Gate] = (),
    *,
    stage: str = "candidate",
) -> list[list[Verdict]]:
    """The verdicts on a batch: for each picture those up to and including the first that failed.

    `pixels` is uint8 (N, H, W, C), `finite` bool (N,) (False where the model gave NaN or infinity), `expected`
    (width, height). `gates` of another stage than `stage` are not asked.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 4:
        raise ValueError(f"pixels must be uint8 (N, H, W, C), not {pixels.dtype} {pixels.shape}")
    if len(finite) != len(pixels):
        raise ValueError(f"{len(pixels)} pictures but {len(finite)} finite flags")
    verdicts: list[list[Verdict]] = [[] for _ in pixels]
    alive = list(range(len(pixels)))

    def ask(answers: Iterable[Verdict]) -> None:
        for i, verdict in zip(alive, answers, strict=True):
            verdicts[i].append(verdict)
        alive[:] = [i for i in alive if verdicts[i][-1].passed]

    ask(_check_finite(bool(f)) for f in finite)
    ask(_check_size((pixels.shape[2], pixels.shape[1]), expected) for _ in list(alive))
    light = {i: measure_light(pixels[i]) for i in alive}
    ask(_check_black(light[i][0], config.black_max) for i in list(alive))
    ask(_check_flat(light[i][1], config.flat_std) for i in list(alive))
    for gate in gates:
        if gate.stage == stage and alive:
            ask(_ask_plugin(gate, pixels[alive]))
    return verdicts


def check_candidate(
    pixels: np.ndarray,
    finite: bool,
    expected: tuple[int, int],
    config: GatesConfig,
    gates: Sequence[Gate] = (),
    *,
    stage: str = "candidate",
) -> list[Verdict]:
    """`check_candidates` for one uint8 (H, W, C) picture."""
    return check_candidates(pixels[None], np.array([finite]), expected, config, gates, stage=stage)[0]


def rejection(verdicts: Sequence[Verdict]) -> Verdict | None:
    """The verdict that rejected a picture, or None where all gates passed it."""
    return next((verdict for verdict in verdicts if not verdict.passed), None)


def measure_light(picture: np.ndarray) -> tuple[float, float]:
    """Brightest value and standard deviation of a uint8 (H, W, C) picture, on the scale 0-255.

    The deviation is over the picture's area, per colour channel, of the channel that varies most: a plain red
    picture is flat although its channels differ, one that varies in blue alone is not. Alpha is not looked at.
    Sums are exact integers, so that nothing depends on the order of summation.
    """
    height, width, channels = picture.shape
    lines = picture.reshape(height, width * channels)  # summing down long lines is 20 times faster than over pixels
    first = _sum_per_channel(lines, channels)
    second = _sum_per_channel(np.square(lines, dtype=np.uint16), channels)
    count = height * width
    variance = (second - first * first / count) / count
    return float(picture[..., :3].max()), math.sqrt(max(float(variance[:3].max()), 0.0))


def load_gates(names: Sequence[str]) -> tuple[Gate, ...]:
    """The plug-in gates of these entry-point names, in this order.

    An entry point is a class or a function without arguments that gives a Gate. Raises InputError for names that
    no installed package offers, and for plug-ins that don't load or aren't gates.
    """
    if not names:
        return ()
    from importlib.metadata import entry_points

    offered = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    gates: list[Gate] = []
    problems: list[Problem] = []
    for name in names:
        point = offered.get(name)
        if point is None:
            problems.append(_unknown_gate(name, sorted(offered)))
            continue
        try:
            gate = point.load()()
        except Exception as error:  # noqa: BLE001 - foreign code may raise anything; it is told, not hidden
            problems.append(
                Problem(
                    f"the gate {name!r} ({point.value}) does not load: {type(error).__name__}: {error}",
                    "mend or update its package, or remove it from the list",
                    column="gates.plugins",
                )
            )
            continue
        wrong = _contract_breach(gate)
        if wrong:
            problems.append(
                Problem(
                    f"{name!r} ({point.value}) is not a gate: {wrong}",
                    "see assetmill.curate.gates.Gate",
                    column="gates.plugins",
                )
            )
            continue
        gates.append(gate)
    if problems:
        raise InputError(problems)
    return tuple(gates)


def _sum_per_channel(lines: np.ndarray, channels: int) -> np.ndarray:
    columns = lines.sum(axis=0, dtype=np.uint32)  # exact up to 66,052 lines of squares
    return columns.reshape(-1, channels).sum(axis=0, dtype=np.uint64).astype(np.float64)


# --- the built-in gates -------------------------------------------------------------------------------------


def _check_finite(finite: bool) -> Verdict:
    return Verdict("nan", finite, "" if finite else "the model gave NaN or infinity for this picture")


def _check_size(actual: tuple[int, int], expected: tuple[int, int]) -> Verdict:
    passed = actual == tuple(expected)
    reason = "" if passed else f"{actual[0]}×{actual[1]} pixels, wanted {expected[0]}×{expected[1]}"
    return Verdict("size", passed, reason)


def _check_black(peak: float, limit: float) -> Verdict:
    passed = peak > limit
    reason = "" if passed else f"black: no pixel is brighter than {peak:.0f} of 255 (limit {limit:g})"
    return Verdict("black", passed, reason, peak)


def _check_flat(deviation: float, limit: float) -> Verdict:
    passed = deviation >= limit
    reason = "" if passed else f"flat: the standard deviation is {deviation:.2f} of 255 (limit {limit:g})"
    return Verdict("flat", passed, reason, deviation)


# --- plug-ins -----------------------------------------------------------------------------------------------


def _ask_plugin(gate: Gate, pixels: np.ndarray) -> Sequence[Verdict]:
    try:
        verdicts = list(gate.check(pixels))
    except Exception as error:
        raise GateError(f"the gate {gate.name!r} failed: {type(error).__name__}: {error}") from error
    if len(verdicts) != len(pixels) or not all(isinstance(v, Verdict) for v in verdicts):
        raise GateError(f"the gate {gate.name!r} gave {len(verdicts)} verdicts for {len(pixels)} pictures")
    for verdict in verdicts:
        if not verdict.passed and not verdict.reason:
            raise GateError(f"the gate {gate.name!r} rejected a picture without a reason")
    return verdicts


def _contract_breach(gate: object) -> str:
    name, stage = getattr(gate, "name", None), getattr(gate, "stage", None)
    if not isinstance(name, str) or not name:
        return "it has no `name`"
    if stage not in STAGES:
        return f"its stage is {stage!r}, not one of {', '.join(STAGES)}"
    if not callable(getattr(gate, "check", None)):
        return "it has no method `check`"
    return ""


def _unknown_gate(name: str, known: Sequence[str]) -> Problem:
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        way_out = f"did you mean {near[0]!r}? Installed gates: {', '.join(known)}"
    elif known:
        way_out = f"installed gates: {', '.join(known)}"
    else:
        way_out = f"no installed package offers gates (entry points of the group {ENTRY_POINTS!r}); install one"
    return Problem(f"the gate {name!r} is unknown", way_out, column="gates.plugins")
