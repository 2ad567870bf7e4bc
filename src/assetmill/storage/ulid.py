"""Ids that sort by time: names of runs, and of records that are written one at a time.

A ULID is 26 characters, 48 bits of milliseconds and 80 random bits (https://github.com/ulid/spec).
"""

from __future__ import annotations

import secrets
import time

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def new_ulid(now: float | None = None) -> str:
    """A new id for this moment, or for `now` in seconds since the epoch."""
    value = (int((time.time() if now is None else now) * 1000) << 80) | secrets.randbits(80)
    return "".join(_CROCKFORD[(value >> shift) & 31] for shift in range(125, -1, -5))


def ulid_time(ulid: str) -> float:
    """Seconds since the epoch at which an id was made. ValueError when the text is no ULID."""
    value = 0
    for character in ulid[:10]:
        value = value * 32 + _CROCKFORD.index(character)
    return value / 1000
