"""Says in words what a picture shows: long and short captions, and hard wrong ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from assetmill.starter.renderer import IconSpec, change_attribute
from assetmill.starter.vocabulary import ATTRIBUTES, FILLERS, ways_to_say

if TYPE_CHECKING:
    import numpy as np

_Value = TypeVar("_Value")

_FULL = (
    "{style} {pattern} {colour} {object} on {ground} background",
    "a {style} icon of a {pattern} {colour} {object} on a {ground} background",
    "a {pattern} {colour} {object}, {style} style, {ground} background",
    "{colour} {pattern} {object}, {style}, on {ground}",
    "{object}, {colour}, {pattern}, {style}, {ground} background",
    "a photo of a {colour} {object}, {pattern}, {style} style, {ground} backdrop",
    "{style} style {object} in {colour} with a {pattern} pattern on {ground} ground",
    "a {colour} {object} with {pattern} pattern, {ground} background, {style}",
)
_SHORT = (
    "a {colour} {object}",
    "{colour} {object}",
    "{object}, {colour}",
    "a {pattern} {colour} {object}",
    "{colour} {object}, {style}",
    "{style} {colour} {object}",
    "{colour} {object} on {ground} background",
    "a photo of a {colour} {object}",
    "{colour} {object} icon",
    "{object}",
)


def plain_caption(spec: IconSpec) -> str:
    """Return the one canonical caption, which names all five attributes by their usual words."""
    style = {"pixel": "pixel art"}.get(spec.style, spec.style)
    return f"a {spec.pattern} {spec.colour} {spec.object}, {style} style, {spec.ground} background"


@dataclass(frozen=True)
class Caption:
    """A text and the names of the attributes that it states."""

    text: str
    stated: frozenset[str]


def describe(spec: IconSpec, rng: np.random.Generator, *, short_share: float = 0.2) -> Caption:
    """Return one wording out of many: all five attributes, or (in `short_share` of cases) only some."""
    pattern = _pick(_SHORT if rng.random() < short_share else _FULL, rng)
    words = {name: _pick(ways_to_say(value), rng) for name, value in spec.attributes().items()}
    text = pattern.format(**words)
    for _ in range(_pick((0, 0, 0, 1, 1, 2), rng)):
        filler = _pick(FILLERS, rng)
        text = f"{text}, {filler}" if rng.random() < 0.7 else f"{filler}, {text}"
    return Caption(text, frozenset(name for name in words if "{" + name + "}" in pattern))


def caption(spec: IconSpec, rng: np.random.Generator, *, short_share: float = 0.2) -> str:
    """Return the text of `describe`."""
    return describe(spec, rng, short_share=short_share).text


def changed_specs(spec: IconSpec, rng: np.random.Generator, num_specs: int = 15) -> list[IconSpec]:
    """Return specs that each differ from `spec` in exactly one attribute, all five in turn, none twice.

    ValueError when more are asked for than exist.
    """
    changes = {
        name: [value for value in rng.permutation(values) if value != getattr(spec, name)]
        for name, values in ATTRIBUTES.items()
    }
    if num_specs > sum(map(len, changes.values())):
        raise ValueError(f"num_specs {num_specs}: only {sum(map(len, changes.values()))} one-attribute changes exist")
    changed: list[IconSpec] = []
    while len(changed) < num_specs:
        for name, values in changes.items():
            if values and len(changed) < num_specs:
                changed.append(change_attribute(spec, name, str(values.pop())))
    return changed


def _pick(values: Sequence[_Value], rng: np.random.Generator) -> _Value:
    return values[int(rng.integers(len(values)))]
