"""Channels in a config: packs and own renditions joined, and what does not go together explained."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from assetmill.config import ChannelConfig, RenditionConfig
from assetmill.config.packs import join_renditions, read_pack
from assetmill.config.renditions import conflicts


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 64, "aspect": "1:1", "fit": "pad", "ground": "white"}, "leave one out"),
        ({"size": 64, "max_edge": 64}, "bound a canvas that follows"),
        ({"max_edge": 64, "min_edge": 65}, "below min_edge"),
        ({"fit": "cover"}, "needs a canvas"),
        ({"aspect": "4:5", "ground": "white"}, "pad (room is added) or cover"),
        ({"size": 8, "fit": "pad", "ground": "white", "extrude": 4}, "no room"),
        ({"size": 64, "fit": "cover", "margin": 3}, "leave margin out"),
        ({"size": 64, "focal": "centre"}, "what cover keeps"),
        ({"size": 64, "frame": "picture"}, "about a cut-out"),
        ({"size": 64, "fit": "pad"}, "give bars"),
        ({"margin": 4}, "give bars"),
        ({"bars": "border"}, "leave them out"),
        ({"format": "jpeg", "ground": "transparent"}, "no transparency"),
        ({"bleed": True}, "needs ground: transparent"),
        ({"bleed": True, "ground": "white"}, "needs ground: transparent"),
        ({"hard_alpha": True}, "needs a cut-out"),
        ({"palette": "p.hex", "format": "webp"}, "png or webp-lossless"),
        ({"quality": 80}, "lossless and has no quality"),
        ({"format": "avif", "quality": 30, "min_quality": 50}, "above quality"),
        ({"min_colours": 16}, "needs both"),
    ],
)
def test_what_does_not_go_together(values: dict[str, object], message: str) -> None:
    """Each is found when the config is read, names the rendition, and says the way out."""
    with pytest.raises(ValidationError) as error:
        ChannelConfig.model_validate({"renditions": [{"name": "odd", **values}]})
    assert "rendition 'odd': " in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize("colour", ["whiet", "#12345", "#11223344", "transparent "])
def test_colours_are_checked(colour: str) -> None:
    with pytest.raises(ValidationError, match="no opaque colour"):
        RenditionConfig(ground=colour)
    with pytest.raises(ValidationError, match="no opaque colour"):
        RenditionConfig(bars=colour)


@pytest.mark.parametrize("pack", ["shop", "social", "game", "pixel-game"])
def test_shipped_packs_hold(pack: str) -> None:
    """Their names are unique, their keys go together, and their canvases have the shapes they promise."""
    specs = read_pack(pack)
    assert len({s.name for s in specs}) == len(specs)
    assert [p for s in specs for p in conflicts(s)] == []
    if pack == "social":
        assert [s.aspect for s in specs] == ["1:1", "4:5", "9:16", "16:9"]
    if pack == "game":
        assert [s.size for s in specs] == [(256, 256), (128, 128), (64, 64), (32, 32)]
        assert all(s.extrude and s.bleed and s.ground == "transparent" for s in specs)


def test_names_are_unique() -> None:
    with pytest.raises(ValidationError, match="two renditions are named 'image'"):
        ChannelConfig.model_validate({"renditions": [{}, {"size": 64}]})


def test_a_channel_of_nothing_has_the_master() -> None:
    assert join_renditions(None, ()) == (RenditionConfig(),)


def test_the_channels_palette_is_that_of_all() -> None:
    """Where a rendition names none; one of lossy files is refused."""
    own = [RenditionConfig(name="sprite-64", palette="own.hex")]
    palettes = [str(s.palette) for s in join_renditions("pixel-game", own, "all.gpl")]
    assert palettes == ["all.gpl", "all.gpl", "own.hex"]
    with pytest.raises(ValidationError, match="jpeg adds colours"):
        ChannelConfig.model_validate({"pack": "social", "palette": "all.gpl"})


def test_a_story_may_be_cut() -> None:
    """The way to change a pack that its file tells."""
    own = [RenditionConfig(name="story", fit="cover", bars=None)]
    story = join_renditions("social", own)[2]
    assert (story.fit, story.bars, story.aspect, story.quality) == ("cover", None, "9:16", 90)


def test_an_atlas_names_a_rendition() -> None:
    """One that the channel has; without a name the channel's first."""
    with pytest.raises(ValidationError, match="is none of its renditions: icon-256"):
        ChannelConfig.model_validate({"pack": "game", "atlas": {"rendition": "icon-65"}})
    for channel in ({"pack": "game", "atlas": {}}, {"atlas": {}}):
        assert ChannelConfig.model_validate(channel).atlas
