"""Rankers are immutable and named by their content; the last promotion says which one counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from assetmill.records import InputError
from assetmill.storage.folder import FolderStore
from assetmill.storage.layout import promotion_path, ranker_path
from assetmill.storage.rankers import (
    append_promotion,
    find_ranker,
    is_taste,
    last_number,
    promoted_ranker,
    promotions,
    put_ranker,
    ranker_keys,
    read_ranker,
    taste_judge,
    taste_name,
)
from assetmill.storage.store import CorruptObject, MissingObject

NAME = "toys"


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    store = FolderStore(tmp_path, sync=False)
    store.prepare()
    return store


def test_named_by_content(store: FolderStore) -> None:
    """The same document has the same key, another one another; each is read back as it was."""
    first, again, other = (put_ranker(store, NAME, {"judge": j}) for j in ("a", "a", "b"))
    assert first == again != other
    assert ranker_keys(store, NAME) == sorted({first, other})
    assert read_ranker(store, NAME, other) == {"schema": 1, "judge": "b"}
    assert ranker_keys(store, "another") == []
    with pytest.raises(MissingObject):
        read_ranker(store, NAME, "0" * 64)


def test_damage_is_seen(store: FolderStore) -> None:
    """A ranker whose bytes changed is no ranker."""
    key = put_ranker(store, NAME, {"judge": "a"})
    store.delete(ranker_path(NAME, key))
    store.put_if_absent(ranker_path(NAME, key), b'{"judge":"b","schema":1}\n')
    with pytest.raises(CorruptObject, match="does not have the hash"):
        read_ranker(store, NAME, key)


def test_found_by_its_beginning(store: FolderStore) -> None:
    """Six digits name a ranker; fewer, and those of none, don't."""
    key = put_ranker(store, NAME, {"judge": "a"})
    assert find_ranker(store, NAME, key[:6].upper()) == key
    for name in (key[:5], "ffffff" if not key.startswith("ffffff") else "000000"):
        with pytest.raises(InputError, match="names no ranker"):
            find_ranker(store, NAME, name)


def test_the_last_promotion_counts(store: FolderStore) -> None:
    """Promotions are numbered; one that was decided without seeing the last one is refused."""
    assert promoted_ranker(store, NAME) is None
    append_promotion(store, NAME, "a" * 64, seen=0, by="ada")
    with pytest.raises(InputError, match="meanwhile"):
        append_promotion(store, NAME, "b" * 64, seen=0, by="bob")
    append_promotion(store, NAME, "", seen=1, by="bob", note="too warm")
    found = promoted_ranker(store, NAME)
    assert found is not None
    assert (found.number, found.ranker, found.by, found.note) == (2, "", "bob", "too warm")
    assert [p.ranker for p in promotions(store, NAME)] == ["a" * 64, ""]


def test_a_damaged_promotion_is_an_error_and_can_be_replaced(store: FolderStore) -> None:
    """Nobody guesses which ranker counts; a new promotion behind the damaged one says it anew."""
    append_promotion(store, NAME, "a" * 64, seen=0, by="ada")
    store.put_if_absent(promotion_path(NAME, 2), b'{"number":2}')
    with pytest.raises(CorruptObject, match="cannot be read"):
        promoted_ranker(store, NAME)
    append_promotion(store, NAME, "b" * 64, seen=last_number(store, NAME), by="ada")
    found = promoted_ranker(store, NAME)
    assert found is not None
    assert (found.number, found.ranker) == (3, "b" * 64)


def test_names_of_tastes() -> None:
    """Score records of rankers are told from those of judges, and say whose taste was used."""
    assert taste_judge("k", "") == "ranker:k"
    assert taste_judge("k", "Hearth & Co") == "ranker:k:Hearth & Co"
    assert taste_name(taste_judge("0123456789", "Hearth & Co")) == "house ranker 01234567, Hearth & Co"
    assert is_taste("ranker:k")
    assert not is_taste("0" * 64)
