"""Repeatable chance."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assetmill.intake.chance import Choices, chance_key, following_key


def test_keys_are_frozen() -> None:
    """A draw is the same on every machine and in every version: these values may never change."""
    assert chance_key("axis", 7, "k1", "mood") == 12103685064050314837
    assert Choices(["red", "green", "blue"]).draw(chance_key("axis", 7, "k1", "mood"), 3) == ("green", "red", "blue")
    weighted = Choices(["red", "green", "blue"], [1, 5, 2])
    assert weighted.draw(chance_key("axis", 7, "k1", "mood"), 3) == ("green", "blue", "red")


def test_weights_are_shares() -> None:
    """Over many assets a value is drawn in proportion to its weight, a value given twice with the sum."""
    choices = Choices(["a", "b", "c", "a"], [2.0, 1.0, 0.0, 1.0])
    counts = Counter(choices.draw(chance_key("t", i))[0] for i in range(4000))
    assert counts["c"] == 0
    assert 0.72 < counts["a"] / 4000 < 0.78


@settings(deadline=None)
@given(st.lists(st.text(max_size=6), min_size=2, max_size=8, unique=True), st.integers(0, 2**64 - 1), st.data())
def test_order_and_additions_move_nothing_else(values: list[str], key: int, data: st.DataObject) -> None:
    """Moving values changes no draw; a new value either wins or changes nothing."""
    before = Choices(values).draw(key)
    assert Choices(data.draw(st.permutations(values))).draw(key) == before
    assert Choices([*values, "a new value"]).draw(key) in (before, ("a new value",))


@settings(deadline=None)
@given(st.lists(st.text(max_size=3), min_size=1, max_size=8), st.integers(0, 2**64 - 1), st.data())
def test_a_draw_of_several_is_distinct(values: list[str], key: int, data: st.DataObject) -> None:
    """Several drawn values are distinct, and the first of them is what a single draw gives."""
    choices = Choices(values)
    count = data.draw(st.integers(1, len(choices.values)))
    drawn = choices.draw(key, count)
    assert len(set(drawn)) == count
    assert drawn[:1] == choices.draw(key)


@settings(deadline=None)
@given(st.integers(0, 2**64 - 1), st.lists(st.floats(0.01, 100), min_size=2, max_size=50))
def test_long_lists_are_drawn_by_the_same_rule(key: int, weights: list[float]) -> None:
    """The way over arrays, taken for long lists, gives the numbers of the plain one."""
    choices = Choices([str(i) for i in range(len(weights))], weights)
    assert choices._waits_of_many(key) == pytest.approx(choices._waits(key), rel=1e-12)


def test_following_keys_differ() -> None:
    """A text, a number and a key each give another key, and the same ones the same."""
    keys = [following_key(k, t, n) for k in (1, 2) for t in ("a", "b") for n in (1, 2)]
    assert len(set(keys)) == 8
    assert following_key(1, "a", 1) == keys[0] == 15658555461045751370


@pytest.mark.parametrize(
    ("values", "weights", "message"),
    [
        ([], None, "nothing to draw"),
        (["a"], [0.0], "nothing to draw"),
        (["a"], [-1.0], "-1.0"),
        (["a"], [float("nan")], "nan"),
        (["a"], [1.0, 2.0], "2 weights for 1"),
    ],
)
def test_bad_weights_are_refused(values: list[str], weights: list[float] | None, message: str) -> None:
    """Weights that are no shares are refused by name."""
    with pytest.raises(ValueError, match=message):
        Choices(values, weights)
