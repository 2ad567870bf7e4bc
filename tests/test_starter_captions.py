"""Captions say what the picture shows, and wrong ones are wrong in one thing."""

from __future__ import annotations

import numpy as np
import pytest

from assetmill.starter.captions import changed_specs, describe, plain_caption
from assetmill.starter.renderer import sample_spec
from assetmill.starter.vocabulary import ATTRIBUTES, ways_to_say


def test_a_caption_states_what_it_says_it_states() -> None:
    """Every attribute that a caption claims to state appears in it in one of its wordings."""
    for index in range(300):
        spec = sample_spec("words", index)
        said = describe(spec, np.random.default_rng(index))
        for name in said.stated:
            assert any(way in said.text for way in ways_to_say(getattr(spec, name))), said.text


def test_long_captions_name_everything_and_wordings_vary() -> None:
    """Without short ones every caption names all five attributes, in many wordings."""
    spec = sample_spec("words", 1)
    said = [describe(spec, np.random.default_rng(seed), short_share=0.0) for seed in range(100)]
    assert all(one.stated == set(ATTRIBUTES) for one in said)
    assert len({one.text for one in said}) > 60


def test_the_same_generator_gives_the_same_words() -> None:
    """Captions are deterministic from the generator's seed."""
    spec = sample_spec("words", 2)
    assert describe(spec, np.random.default_rng(4)) == describe(spec, np.random.default_rng(4))


def test_hard_captions_differ_in_one_attribute_each() -> None:
    """Fifteen changed specs are all different, each by one attribute, and all attributes take part."""
    spec = sample_spec("words", 5)
    changed = changed_specs(spec, np.random.default_rng(0), 15)
    differing = [[n for n in ATTRIBUTES if getattr(one, n) != getattr(spec, n)] for one in changed]
    assert [len(names) for names in differing] == [1] * 15
    assert {names[0] for names in differing} == set(ATTRIBUTES)
    assert len({plain_caption(one) for one in (spec, *changed)}) == 16


def test_more_changes_than_exist_are_refused() -> None:
    """Asking for too many changes says how many there are."""
    with pytest.raises(ValueError, match="only 31"):
        changed_specs(sample_spec("words", 5), np.random.default_rng(0), 60)
