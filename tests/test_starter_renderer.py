"""The renderer's claims: same spec, same picture; a true mask; held-out combinations fixed for ever."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assetmill.starter.renderer import IconSpec, change_attribute, draw, is_held_out, sample_spec
from assetmill.starter.vocabulary import ATTRIBUTES, COLOURS, GROUNDS, OBJECTS, PATTERNS, STYLES


def test_the_world_is_as_large_as_promised() -> None:
    """There are 16 objects, 9 colours, 3 patterns, 4 styles and 4 grounds at least."""
    assert [len(v) for v in (OBJECTS, COLOURS, PATTERNS, STYLES, GROUNDS)] >= [16, 9, 3, 4, 4]


def test_a_spec_draws_the_same_bytes_twice() -> None:
    """Drawing is a function of the spec alone."""
    spec = sample_spec("look", 3)
    assert sample_spec("look", 3) == spec
    assert draw(spec)[0].tobytes() == draw(spec)[0].tobytes()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_the_mask_is_true(index: int) -> None:
    """Where alpha is 0 the ground shows unchanged, whatever the object: two objects agree there."""
    spec = sample_spec("mask", index, held_out=None)
    picture, alpha = draw(spec)
    assert picture.shape == (64, 64, 3)
    assert picture.dtype == alpha.dtype == np.uint8
    assert 0.04 < (alpha > 127).mean() < 0.8
    other, other_alpha = draw(replace(spec, object=OBJECTS[(OBJECTS.index(spec.object) + 1) % len(OBJECTS)]))
    ground = (alpha == 0) & (other_alpha == 0)
    assert np.array_equal(picture[ground], other[ground])


def test_the_large_picture_shows_the_same_thing() -> None:
    """256² shrunk to 64² is close to the 64² picture of the same spec."""
    for index, style in enumerate(STYLES):
        spec = replace(sample_spec("scale", index), style=style)
        small, large = draw(spec, 64)[0].astype(float), draw(spec, 256)[0].astype(float)
        shrunk = large.reshape(64, 4, 64, 4, 3).mean((1, 3))
        assert np.abs(shrunk - small).mean() < 3, style


def test_the_pixel_style_has_blocks_of_four() -> None:
    """In pixel style every 4 × 4 block of the object is one colour."""
    spec = IconSpec("chest", "red", "plain", "pixel", "white")
    tiles = draw(spec)[0].reshape(16, 4, 16, 4, 3)
    assert (tiles == tiles[:, :1, :, :1]).all()


@pytest.mark.parametrize("name", list(ATTRIBUTES))
def test_every_attribute_can_be_seen(name: str) -> None:
    """Changing one attribute changes the picture."""
    spec = IconSpec("mug", "red", "plain", "flat", "white")
    for value in ATTRIBUTES[name]:
        changed = draw(change_attribute(spec, name, value))[0]
        if value != getattr(spec, name):
            assert np.abs(changed.astype(int) - draw(spec)[0]).mean() > 0.5, value


def test_about_a_tenth_is_held_out_and_the_rule_never_moves() -> None:
    """The held-out set is fixed by a hash of the words: this count and these members are frozen."""
    held_out = [(o, c, s) for o in OBJECTS for c in COLOURS for s in STYLES if is_held_out(object=o, colour=c, style=s)]
    assert 0.07 < len(held_out) / (16 * 9 * 4) < 0.13
    assert {o for o, _, _ in held_out} == set(OBJECTS)
    for index in range(60):
        trained, kept = sample_spec("rule", index), sample_spec("rule", index, held_out=True)
        assert not is_held_out(trained.object, trained.colour, trained.style)
        assert (kept.object, kept.colour, kept.style) in held_out


def test_a_wrong_word_names_the_field_and_the_way_out() -> None:
    """An attribute that is not drawn here is refused with the choices."""
    with pytest.raises(ValueError, match=r"IconSpec\.colour: 'mauve' .* red"):
        IconSpec("mug", "mauve", "plain", "flat", "white")
    with pytest.raises(ValueError, match="multiple of 16"):
        draw(IconSpec("mug", "red", "plain", "flat", "white"), 50)
