"""Rankers that were trained, and which one counts: immutable records, named by what is in them.

rankers/<config>/<key>.json                     one ranker: weights, what it learned from, how it was measured
rankers/<config>/promoted/<number>.json         who promoted which one, or retired it; the last record counts
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from assetmill.records import InputError, Problem, canonical_json, content_key
from assetmill.storage.layout import promotion_path, ranker_path, rankers_prefix
from assetmill.storage.store import CorruptObject, MissingObject, Store

SCHEMA = 1

TASTE = "ranker:"
"""How the judge's name of a ranker's score records begins."""

_KEY = re.compile(r"[0-9a-f]{64}")
_NUMBER = re.compile(r"promoted/(\d{6,})\.json")
MIN_DIGITS = 6
"""So many digits of a ranker's key name it, where only one begins with them."""


@dataclass(frozen=True, slots=True)
class Promotion:
    """Which ranker counts from now on (empty: none), by whom, when (ISO 8601, UTC), and why it was allowed."""

    number: int
    ranker: str
    by: str
    at: str
    note: str = ""


def taste_judge(ranker_key: str, group: str) -> str:
    """Names a ranker as a judge of score records, and the group whose taste was used where it is not that of all."""
    return f"{TASTE}{ranker_key}" + (f":{group}" if group else "")


def is_taste(judge: str) -> bool:
    """Whether a score record's judge is a house ranker: then its value is a taste."""
    return judge.startswith(TASTE)


def taste_name(judge: str) -> str:
    """A ranker's taste in words, from the judge's name of its score records."""
    key, _, group = judge.removeprefix(TASTE).partition(":")
    return f"house ranker {key[:8]}" + (f", {group}" if group else "")


def put_ranker(store: Store, config_name: str, document: Mapping[str, Any]) -> str:
    """Stores a ranker's document and gives its key: the same document has the same key."""
    plain = {"schema": SCHEMA, **document}
    key = content_key("ranker", plain)
    data = (canonical_json(plain) + "\n").encode("utf-8", "surrogatepass")
    store.put_if_absent(ranker_path(config_name, key), data, media_type="application/json")
    return key


def read_ranker(store: Store, config_name: str, key: str) -> dict[str, Any]:
    """The document of a ranker. Raises MissingObject; CorruptObject: damaged, or of a newer version."""
    path = ranker_path(config_name, key)
    try:
        plain: dict[str, Any] = json.loads(store.get(path))
        if content_key("ranker", plain) != key:
            raise ValueError("its content does not have the hash in its name")
        if plain["schema"] > SCHEMA:
            raise ValueError(f"it has schema {plain['schema']}: update assetmill")
    except MissingObject:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptObject(path, f"{error}; train a new one with `assetmill ranker train`") from error
    return plain


def ranker_keys(store: Store, config_name: str) -> list[str]:
    """Keys of all rankers of a config, sorted."""
    prefix = rankers_prefix(config_name)
    names = (info.key.removeprefix(prefix).removesuffix(".json") for info in store.list(prefix))
    return sorted(name for name in names if _KEY.fullmatch(name))


def find_ranker(store: Store, config_name: str, name: str) -> str:
    """The key that a key's beginning names. Raises InputError."""
    found = [k for k in ranker_keys(store, config_name) if len(name) >= MIN_DIGITS and k.startswith(name.lower())]
    if len(found) == 1:
        return found[0]
    way_out = f"give at least {MIN_DIGITS} digits of a key that `assetmill ranker list CONFIG` shows"
    raise InputError(Problem(f"{name!r} names {'no' if not found else 'more than one'} ranker", way_out))


def promotions(store: Store, config_name: str) -> Iterator[Promotion]:
    """All promotions in order. Raises CorruptObject: which ranker counts is then not known."""
    for number in _numbers(store, config_name):
        yield _read_promotion(store, config_name, number)


def promoted_ranker(store: Store, config_name: str) -> Promotion | None:
    """The promotion that counts; None where none was ever made. Raises CorruptObject."""
    numbers = _numbers(store, config_name)
    return _read_promotion(store, config_name, numbers[-1]) if numbers else None


def append_promotion(store: Store, config_name: str, ranker: str, *, seen: int, by: str, note: str = "") -> Promotion:
    """Makes a ranker the one that counts (an empty key: none). `seen` is the number of the last promotion looked at.

    Raises InputError where somebody else promoted another one meanwhile.
    """
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    made = Promotion(seen + 1, ranker, by, now, note)
    plain = {"schema": SCHEMA, "record": "promotion", **asdict(made)}
    data = (canonical_json({**plain, "sha256": content_key("promotion", plain)}) + "\n").encode()
    if not store.put_if_absent(promotion_path(config_name, made.number), data, media_type="application/json"):
        raise InputError(
            Problem("somebody promoted or retired a ranker meanwhile", "look at `assetmill ranker list` and try again")
        )
    return made


def last_number(store: Store, config_name: str) -> int:
    """The number of the last promotion, whether it can be read or not; 0 for none."""
    return max(_numbers(store, config_name), default=0)


# --- inside -------------------------------------------------------------------------------------------------


def _numbers(store: Store, config_name: str) -> list[int]:
    prefix = rankers_prefix(config_name)
    names = (_NUMBER.fullmatch(info.key.removeprefix(prefix)) for info in store.list(f"{prefix}promoted/"))
    return sorted(int(found[1]) for found in names if found)


def _read_promotion(store: Store, config_name: str, number: int) -> Promotion:
    path = promotion_path(config_name, number)
    try:
        plain = json.loads(store.get(path))
        if plain.pop("sha256") != content_key("promotion", plain) or plain["number"] != number:
            raise ValueError("it does not have the hash in its seal")
        if plain["schema"] > SCHEMA:
            raise ValueError(f"it has schema {plain['schema']}: update assetmill")
        return Promotion(**{k: v for k, v in plain.items() if k not in ("schema", "record")})
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # MissingObject is a KeyError
        raise CorruptObject(
            path, f"which ranker counts cannot be read ({error}); `assetmill ranker promote` or `retire` says it anew"
        ) from error
