"""Choosing for a family: never worse than one by one, the best of all ways where they can be counted, in any order."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assetmill.curate import family
from assetmill.curate.family import FamilyChoice, FamilyWeights, Member, choose_family, look_of

WEIGHTS = FamilyWeights(1.0, 1.0)


def member(name: str, rng: np.random.Generator, num: int, *, around: np.ndarray | None = None) -> Member:
    """A member with scores in falling order."""
    vectors = rng.normal(size=(num, 6)) + (0 if around is None else 2 * around)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Member(name, np.sort(rng.normal(size=num))[::-1], vectors, 20 * rng.normal(size=(num, 5)))


def worth(members: list[Member], picks: tuple[int, ...], weights: FamilyWeights) -> float:
    """The value of a choice, by the field that the search works on."""
    order = sorted(range(len(members)), key=lambda i: members[i].name)
    return family._Field.of([members[i] for i in order], weights).value([picks[i] for i in order])


families = st.builds(
    lambda seed, sizes: [member(f"m{i:02}", np.random.default_rng([seed, i]), k) for i, k in enumerate(sizes)],
    st.integers(0, 10**6),
    st.lists(st.integers(1, 4), min_size=1, max_size=5),
)
some_weights = st.builds(
    FamilyWeights, st.sampled_from((0.0, 0.5, 1.0, 3.0)), st.sampled_from((0.0, 1.0, 3.0)),
    st.sampled_from((0.0, 4.0)), st.sampled_from((None, 0.5, 0.97)),
)  # fmt: skip


@given(families, some_weights)
@settings(max_examples=60, deadline=None)
def test_a_small_family_is_chosen_as_well_as_can_be(members: list[Member], weights: FamilyWeights) -> None:
    got = choose_family(members, weights)
    best = max(worth(members, p, weights) for p in product(*(range(len(m.scores)) for m in members)))
    assert got.exact
    assert got.value == pytest.approx(best, abs=1e-6)
    assert got.value == pytest.approx(worth(members, got.picks, weights), abs=1e-9)
    assert got.value >= got.one_by_one


@given(families, some_weights)
@settings(max_examples=60, deadline=None)
def test_a_large_family_is_chosen_no_worse_than_one_by_one(members: list[Member], weights: FamilyWeights) -> None:
    got = _search_as_large(members, weights)
    assert got.one_by_one == pytest.approx(worth(members, (0,) * len(members), weights))
    assert got.value >= got.one_by_one
    # and nobody would do better by another picture while the others keep theirs
    for i, each in enumerate(members):
        for k in range(len(each.scores)):
            changed = (*got.picks[:i], k, *got.picks[i + 1 :])
            assert worth(members, changed, weights) <= got.value + 1e-6


def test_the_search_finds_nearly_always_the_best() -> None:
    lost = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        members = [member(f"m{i}", rng, 5) for i in range(6)]
        exact, found = choose_family(members, WEIGHTS), _search_as_large(members, WEIGHTS)
        lost.append((exact.value - found.value) / (exact.value - exact.one_by_one))
    assert min(lost) > -1e-6
    assert np.mean(lost) < 0.02


def _search_as_large(members: list[Member], weights: FamilyWeights) -> FamilyChoice:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(family, "EXACT_WAYS", 0)
        got = choose_family(members, weights)
    assert not got.exact
    return got


@given(families, st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_the_order_of_the_members_changes_nothing(members: list[Member], random: object) -> None:
    mixed = list(members)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    for choose in (choose_family, _search_as_large):
        one = dict(zip((m.name for m in members), choose(members, WEIGHTS).picks, strict=True))
        assert one == dict(zip((m.name for m in mixed), choose(mixed, WEIGHTS).picks, strict=True))


def test_without_weights_everybody_gets_the_best() -> None:
    members = [member(f"m{i}", np.random.default_rng(i), 4) for i in range(4)]
    assert choose_family(members, FamilyWeights(0.0, 0.0, 0.0)).picks == (0, 0, 0, 0)


def test_others_follow_a_picture_that_stands() -> None:
    """The best of each lies elsewhere; what was approved pulls the others to its look."""
    axes = np.eye(3)
    names = ["a", "b", "c"]
    scores, palettes = np.array([1.0, 0.9]), np.zeros((2, 2))
    free = [Member(n, scores, axes[[0, 1]], palettes) for n in names]
    assert choose_family(free, WEIGHTS_NO_DUPLICATES).picks == (0, 0, 0)
    stands = Member("z", np.array([np.nan]), axes[[1]], palettes[:1])
    strong = FamilyWeights(coherence=3.0, near_duplicate=None)
    one_stands = [free[0], Member("b", np.array([0.0]), axes[[1]], palettes[:1]), stands]
    assert choose_family(one_stands, strong).picks == (1, 0, 0)


WEIGHTS_NO_DUPLICATES = FamilyWeights(1.0, 1.0, near_duplicate=None)


def test_the_same_picture_is_not_chosen_twice() -> None:
    vectors = np.array([[1.0, 0.0], [0.8, 0.6]])
    scores, palettes = np.array([1.0, 0.9]), np.zeros((2, 2))
    members = [Member(n, scores, vectors, palettes) for n in "ab"]
    got = choose_family(members, FamilyWeights(coherence=1.0, palette=0.0))
    assert sorted(got.picks) == [0, 1]
    assert choose_family(members, FamilyWeights(coherence=1.0, palette=0.0, near_duplicate=None)).picks == (0, 0)


def test_only_the_best_of_many_candidates_take_part() -> None:
    rng = np.random.default_rng(3)
    members = [member(f"m{i}", rng, 60) for i in range(12)]
    got = choose_family(members, FamilyWeights(coherence=50.0))
    assert max(got.picks) < family.MOST_CANDIDATES
    assert not got.exact


def test_a_large_family_is_quick() -> None:
    import time

    rng = np.random.default_rng(4)
    members = [member(f"m{i:02}", rng, 8) for i in range(64)]
    begun = time.process_time()
    assert choose_family(members, WEIGHTS).value > 0
    assert time.process_time() - begun < 5


def test_how_a_family_looks() -> None:
    vectors = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    palettes = np.array([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0]])
    look = look_of(vectors, palettes, 0.97)
    assert look.coherence == pytest.approx(1 / 3)
    assert look.palette == pytest.approx(10 / 3)
    assert look.duplicates == 1
    assert look_of(vectors, palettes, None).duplicates == 0


def test_members_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="same name"):
        choose_family([member("a", np.random.default_rng(0), 2)] * 2, WEIGHTS)
    with pytest.raises(ValueError, match="at least one candidate"):
        Member("a", np.zeros(0), np.zeros((0, 2)), np.zeros((0, 2)))
    with pytest.raises(ValueError, match="2 scores, 1 embeddings and 2 palettes"):
        Member("a", np.zeros(2), np.zeros((1, 2)), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="finite"):
        Member("a", np.array([1.0, np.nan]), np.zeros((2, 2)), np.zeros((2, 2)))
    assert choose_family([], WEIGHTS).picks == ()
