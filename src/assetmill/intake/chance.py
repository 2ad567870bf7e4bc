"""Repeatable chance: a key and a list of values decide what is drawn, on every machine and every night.

Draws are made by weighted rendezvous hashing, the deterministic twin of Efraimidis and Spirakis, "Weighted random
sampling with a reservoir" (2006): each value gets a uniform number u from the key and its own text, and the values
with the smallest -ln(u)/weight win. So a value added to a list is drawn by its fair share of assets and changes no
other asset's draw, and a value that is moved within the list changes nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from assetmill.records import canonical_json

SHORT = 32
"""Values up to which plain Python is faster than arrays."""

_MASK = 2**64 - 1


def chance_key(kind: str, *parts: Any) -> int:
    """A 64-bit number from a kind and JSON-able parts."""
    text = canonical_json([kind, *parts])
    return _hash64(text.encode("utf-8", "surrogatepass"))


def following_key(key: int, text: str, number: int) -> int:
    """A 64-bit number from another one, a text and a number: `chance_key` without its JSON, for many draws."""
    return _hash64(b"%d\0%d\0%s" % (key, number, text.encode("utf-8", "surrogatepass")))


class Choices:
    """Distinct texts with weights, to draw from. A text given twice counts with the sum of its weights.

    ValueError for weights that are negative, not finite, of another number than the values, or all zero.
    """

    def __init__(self, values: Sequence[str], weights: Sequence[float] | None = None) -> None:
        if weights is not None and len(weights) != len(values):
            raise ValueError(f"{len(weights)} weights for {len(values)} values; give one weight per value")
        total: dict[str, float] = {}
        for value, weight in zip(values, weights or [1.0] * len(values), strict=True):
            if not 0 <= weight < float("inf"):
                raise ValueError(f"the weight {weight} of {value!r} is not a number from 0 up")
            total[value] = total.get(value, 0.0) + weight
        self.values: tuple[str, ...] = tuple(value for value, weight in total.items() if weight > 0)
        self.weights: tuple[float, ...] = tuple(weight for weight in total.values() if weight > 0)
        if not self.values:
            raise ValueError("there is nothing to draw from; give at least one value with a weight above 0")

    @cached_property
    def _hashes(self) -> tuple[int, ...]:
        return tuple(_hash64(value.encode("utf-8", "surrogatepass")) for value in self.values)

    @cached_property
    def _arrays(self) -> tuple[Any, Any]:
        import numpy as np

        return np.array(self._hashes, dtype=np.uint64), np.array(self.weights)

    def draw(self, key: int, count: int = 1) -> tuple[str, ...]:
        """`count` distinct values in the order of their luck. ValueError when there are fewer."""
        if count > len(self.values):
            raise ValueError(f"{count} values are asked for and there are {len(self.values)}")
        if len(self.values) == 1:
            return self.values
        waits = self._waits(key) if len(self.values) <= SHORT else self._waits_of_many(key)
        if count == 1:
            return (self.values[waits.index(min(waits))],)
        return tuple(self.values[i] for i in sorted(range(len(waits)), key=waits.__getitem__)[:count])

    def _waits(self, key: int) -> list[float]:
        """-ln(u)/weight of each value. Two hashes are mixed by splitmix64's finaliser (Steele, Lea and Flood 2014)."""
        waits = []
        for hashed, weight in zip(self._hashes, self.weights, strict=True):
            mixed = ((hashed ^ key) + 0x9E3779B97F4A7C15) & _MASK
            mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
            mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
            mixed ^= mixed >> 31
            waits.append(-math.log(((mixed >> 11) + 0.5) * 2.0**-53) / weight)
        return waits

    def _waits_of_many(self, key: int) -> list[float]:
        """The same for a long list, where arrays are faster."""
        import numpy as np

        hashes, weights = self._arrays
        mixed = (hashes ^ np.uint64(key)) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
        uniform = ((mixed >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        waits: list[float] = (-np.log(uniform) / weights).tolist()
        return waits


def _hash64(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
