"""Choosing: who comes first, who is left out and why; and that the order of input never matters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assetmill.curate.select import choose, near_duplicates, ordinal, rank

NAN = float("nan")


def directions(*angles: float) -> np.ndarray:
    """Unit vectors in the plane, float32, at these angles in degrees."""
    radians = np.radians(angles)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def keys(number: int) -> list[str]:
    return [f"{i:02d}" for i in range(number)]


def test_best_first_ties_by_key() -> None:
    """The ranking is by score, equal scores by key."""
    got = choose(["c", "a", "d", "b"], np.array([0.5, 0.5, 0.9, 0.1]), keep=3)
    assert got.order == (2, 1, 0, 3)
    assert got.chosen == (2, 1, 0)
    assert got.dropped == {3: "ranked 4th of 4"}


def test_nan_and_infinite_scores_are_last_and_never_chosen() -> None:
    """NaN ranks last (where topk would rank it first) and is excluded even when nothing else is left."""
    got = choose(keys(4), np.array([NAN, 0.1, np.inf, 0.2]), keep=4)
    assert got.chosen == (3, 1)
    assert got.order == (3, 1, 0, 2)
    assert got.dropped == {0: "score is NaN", 2: "score is not finite"}
    assert choose(keys(2), np.array([NAN, NAN]), keep=1).chosen == ()


def test_near_duplicates_give_way_to_the_better_ranked() -> None:
    """Of two pictures that are the same the better ranked stays, and the other says whose twin it is."""
    names = ["a" * 64, "b" * 64, "c" * 64]
    got = choose(names, np.array([0.3, 0.9, 0.1]), directions(0, 10, 80), keep=2, near_duplicate=0.97)
    assert got.chosen == (1, 2)
    assert got.dropped == {0: "near-duplicate of bbbbbbbbbbbb, cosine 0.985"}


def test_duplicates_of_what_was_not_chosen_stay_free() -> None:
    """Near-duplicates are folded onto chosen pictures only: b falls to a, so c, close to b alone, may be chosen."""
    got = choose(["a", "b", "c"], np.array([3, 2, 1]), directions(0, 12, 24), keep=3, near_duplicate=0.97)
    assert got.chosen == (0, 2)


def test_identical_pictures_count_as_same_at_a_threshold_of_one() -> None:
    """Rounding of float32 embeddings doesn't hide identity."""
    row = np.random.default_rng(3).normal(size=(1, 512)).astype(np.float32)
    row /= np.linalg.norm(row)
    got = choose(["a", "b"], np.array([1, 2]), np.concatenate([row, row * np.float32(1.001)]), keep=2, near_duplicate=1)
    assert got.chosen == (1,)


def test_fewer_than_asked_when_all_are_alike() -> None:
    """The choice may come out short: that is what regeneration tops up."""
    got = choose(keys(4), np.array([1, 2, 3, 4]), directions(0, 1, 2, 3), keep=3, near_duplicate=0.97)
    assert got.chosen == (3,)
    assert len(got.dropped) == 3


def test_diversity_prefers_the_different_one() -> None:
    """With a weight on difference a worse but different picture overtakes a near twin; the best stays first."""
    scores, vectors = np.array([1.0, 0.95, 0.5]), directions(0, 20, 90)
    assert choose(keys(3), scores, vectors, keep=2).chosen == (0, 1)
    assert choose(keys(3), scores, vectors, keep=2, diversity=0.6).chosen == (0, 2)


def test_diversity_follows_the_formula() -> None:
    """Every pick after the first has the largest (1 - λ)·score - λ·cosine, computed the plain way."""
    rng = np.random.default_rng(5)
    scores, vectors, weight = rng.normal(size=12), rng.normal(size=(12, 6)), 0.4
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    stretched = (scores - scores.min()) / (scores.max() - scores.min())
    expected = [int(np.argmax(scores))]
    while len(expected) < 5:
        worth = {
            i: (1 - weight) * stretched[i] - weight * max(float(unit[i] @ unit[j]) for j in expected)
            for i in range(12)
            if i not in expected
        }
        expected.append(max(worth, key=worth.__getitem__))
    assert choose(keys(12), scores, vectors, keep=5, diversity=weight).chosen == tuple(expected)


def test_min_score_excludes_with_figures() -> None:
    """What scores below the limit is never chosen, even if too few remain; the limit itself passes."""
    got = choose(keys(3), np.array([0.2, 0.18, 0.31]), keep=3, min_score=0.2)
    assert got.chosen == (2, 0)
    assert got.dropped == {1: "below min_score: 0.18 < 0.2"}


def test_unusable_embeddings_are_excluded() -> None:
    """A picture whose embedding has no direction can't be compared and isn't chosen."""
    vectors = directions(0, 40, 80)
    vectors[1] = NAN
    vectors[2] = 0
    got = choose(keys(3), np.array([1, 2, 3]), vectors, keep=3, near_duplicate=0.9)
    assert got.chosen == (0,)
    assert set(got.dropped.values()) == {"embedding is not a usable direction"}


def test_nothing_to_choose_from() -> None:
    """No candidates give an empty selection."""
    got = choose([], np.zeros(0), np.zeros((0, 8)), keep=2, near_duplicate=0.9)
    assert (got.chosen, got.order, got.dropped) == ((), (), {})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"keys": ["a", "a"]}, "given twice"),
        ({"scores": np.zeros(3)}, "3 scores"),
        ({"embeddings": None}, "need embeddings"),
        ({"embeddings": np.zeros((3, 2))}, "shape"),
        ({"keep": 0}, "at least 1"),
        ({"near_duplicate": 1.5}, "cosine"),
        ({"diversity": -1.0}, "weight"),
    ],
)
def test_wrong_arguments_are_named(change: dict, words: str) -> None:
    """Arguments that don't fit together raise ValueError with the reason."""
    good = {"keys": ["a", "b"], "scores": np.zeros(2), "embeddings": directions(0, 90), "keep": 1}
    values = {**good, "near_duplicate": 0.9, **change}
    names, scores, embeddings = values.pop("keys"), values.pop("scores"), values.pop("embeddings")
    with pytest.raises(ValueError, match=words):
        choose(names, scores, embeddings, **values)


candidates = st.integers(0, 12).flatmap(
    lambda n: st.tuples(
        st.lists(st.text("abcdef", min_size=1, max_size=3), min_size=n, max_size=n, unique=True),
        st.lists(
            st.sampled_from([0.0, 0.25, 0.5, 1.0, -1e308, 1e308, NAN]) | st.floats(allow_nan=True, width=32),
            min_size=n,
            max_size=n,
        ),
        st.lists(
            st.lists(st.sampled_from([-1.0, 0.0, 0.3, 1.0]) | st.floats(-2, 2, width=32), min_size=3, max_size=3),
            min_size=n,
            max_size=n,
        ),
        st.permutations(range(n)),
    )
)
ways = st.fixed_dictionaries(
    {
        "keep": st.integers(1, 5),
        "near_duplicate": st.none() | st.floats(0.5, 1),
        "diversity": st.sampled_from([0.0, 0.3, 1.0]),
        "min_score": st.none() | st.floats(-1, 1),
    }
)


@settings(max_examples=150, deadline=None)
@given(candidates, ways)
def test_order_of_input_never_matters(drawn: tuple, way: dict) -> None:
    """Permuting the candidates changes neither the chosen keys, nor their order, nor any reason."""
    names, scores, vectors, permutation = drawn
    scores, vectors = np.array(scores, dtype=np.float64), np.array(vectors, dtype=np.float64).reshape(-1, 3)
    one = choose(names, scores, vectors, **way)
    mixed = [names[i] for i in permutation]
    other = choose(mixed, scores[list(permutation)], vectors[list(permutation)], **way)
    assert [names[i] for i in one.chosen] == [mixed[i] for i in other.chosen]
    assert [names[i] for i in one.order] == [mixed[i] for i in other.order]
    assert {names[i]: why for i, why in one.dropped.items()} == {mixed[i]: why for i, why in other.dropped.items()}


@settings(max_examples=150, deadline=None)
@given(candidates, ways)
def test_every_candidate_is_chosen_or_has_a_reason(drawn: tuple, way: dict) -> None:
    """Chosen and dropped part the candidates; what is chosen has a finite score, no twin, and is at most `keep`."""
    names, scores, vectors, _ = drawn
    scores, vectors = np.array(scores, dtype=np.float64), np.array(vectors, dtype=np.float64).reshape(-1, 3)
    got = choose(names, scores, vectors, **way)
    assert sorted([*got.chosen, *got.dropped]) == list(range(len(names)))
    assert sorted(got.order) == list(range(len(names)))
    assert all(got.dropped.values())
    assert len(got.chosen) <= way["keep"]
    assert np.isfinite(scores[list(got.chosen)]).all()
    if way["near_duplicate"] is not None and len(got.chosen) > 1:
        assert not near_duplicates(vectors[list(got.chosen)], way["near_duplicate"])
    if way["diversity"] == 0:
        places = [got.order.index(i) for i in got.chosen]
        assert places == sorted(places)


def test_pairs_of_near_duplicates() -> None:
    """All pairs above the threshold are listed, closest first; rows without a direction pair with none."""
    vectors = np.concatenate([directions(0, 8, 10, 90), np.zeros((1, 2), np.float32)])
    pairs = near_duplicates(vectors, 0.98)
    assert [(i, j) for i, j, _ in pairs] == [(1, 2), (0, 1), (0, 2)]
    assert pairs[0][2] == pytest.approx(np.cos(np.radians(2)), abs=1e-5)


def test_rank_is_what_choose_uses() -> None:
    """The ranking alone is there for those who only need that."""
    assert rank(["b", "a"], np.array([1.0, 1.0])) == (1, 0)


def test_ordinals() -> None:
    """Ordinals read as English has them."""
    assert [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 112, 103)] == (
        ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "112th", "103rd"]
    )
