"""Atlases: nothing overlaps, nothing is lost, every sprite is found back to the pixel, and little moves overnight."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assetmill.config import AtlasConfig
from assetmill.deliver.atlas import Layout, Packed, Sprite, arrange, draw, layout_from_json, measure, moved, pack
from assetmill.deliver.picture import decode, encode_png
from assetmill.deliver.texture_packer import write_data
from assetmill.records import InputError

SMALL = AtlasConfig(size=64)


def sprite(name: str, width: int, height: int, border: int = 0, seed: int | None = None) -> Sprite:
    """A sprite of noise with transparent pixels and a transparent border; opaque at its own corners."""
    rng = np.random.default_rng(abs(hash((name, width, height))) % 2**32 if seed is None else seed)
    rgba = np.zeros((height + 2 * border, width + 2 * border, 4), np.uint8)
    inner = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
    inner[0, 0, 3] = inner[-1, -1, 3] = 255
    rgba[border : border + height, border : border + width] = inner
    return Sprite(name, rgba, f"{name}-{width}x{height}-{seed}")


def many(count: int, seed: int = 0, largest: int = 20) -> list[Sprite]:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, largest, (count, 3)).tolist()
    return [sprite(f"s{n:03d}", w, h, b % 4, seed=n) for n, (w, h, b) in enumerate(sizes)]


def check(packed: Packed, sprites: list[Sprite], spec: AtlasConfig) -> None:
    """All that must hold of a packing."""
    layout, edge = packed.layout, spec.extrude
    assert set(layout.places) == {s.name for s in sprites}
    cells: dict[int, np.ndarray] = {n: np.zeros((h, w), np.int32) for n, (w, h) in enumerate(layout.sheets)}
    assert len(packed.sheets) == len(layout.sheets)
    for sheet, (width, height) in zip(packed.sheets, layout.sheets, strict=True):
        assert sheet.shape == (height, width, 4)
        assert max(width, height) <= spec.size
        if spec.power_of_two:
            assert (width & (width - 1), height & (height - 1)) == (0, 0)
    for number, name in enumerate(sorted(layout.places), 1):
        place = layout.places[name]
        assert place.x >= edge
        assert place.y >= edge
        owner = cells[place.sheet]
        cell = (
            slice(place.y - edge, place.y + place.frame.height + edge),
            slice(place.x - edge, place.x + place.frame.width + edge),
        )
        assert owner[cell].shape == (place.frame.height + 2 * edge, place.frame.width + 2 * edge), "outside its sheet"
        around = tuple(slice(max(s.start - spec.padding, 0), s.stop + spec.padding) for s in cell)
        assert not owner[around].any(), f"{name} is nearer than the padding to another"
        owner[cell] = number
        shown = packed.sheets[place.sheet][cell]
        inner = shown[edge : edge + place.frame.height, edge : edge + place.frame.width]
        assert np.array_equal(shown, np.pad(inner, ((edge, edge), (edge, edge), (0, 0)), mode="edge"))
    for sheet, owner in zip(packed.sheets, cells.values(), strict=True):
        assert not sheet[owner == 0].any(), "pixels where no sprite is"


def read_back(sheets: dict[str, np.ndarray], files: dict[str, bytes]) -> dict[str, np.ndarray]:
    """Every sprite in its whole size, read as an engine would: from the data and the pictures it names."""
    found: dict[str, np.ndarray] = {}
    for data in files.values():
        value = json.loads(data)
        for texture in value.get("textures", [value]):
            meta = texture.get("meta", texture)
            image = sheets[meta["image"]]
            assert (meta["size"]["w"], meta["size"]["h"]) == (image.shape[1], image.shape[0])
            frames = texture.get("frames", texture.get("sprites"))
            listed = frames.items() if isinstance(frames, dict) else ((f["filename"], f) for f in frames)
            for name, frame in listed:
                assert name not in found
                found[name] = _read_frame(image, frame)
    return found


def _read_frame(image: np.ndarray, frame: dict[str, Any]) -> np.ndarray:
    if "region" in frame:  # Godot: the margin's position is the offset, its size what the whole is larger
        at, margin = frame["region"], frame["margin"]
        offset, size = margin, {"w": at["w"] + margin["w"], "h": at["h"] + margin["h"]}
    else:
        at, offset, size = frame["frame"], frame["spriteSourceSize"], frame["sourceSize"]
        assert frame["rotated"] is False
        assert frame["trimmed"] == ((at["w"], at["h"]) != (size["w"], size["h"]))
        assert (offset["w"], offset["h"]) == (at["w"], at["h"])
    whole = np.zeros((size["h"], size["w"], 4), np.uint8)
    shown = image[at["y"] : at["y"] + at["h"], at["x"] : at["x"] + at["w"]]
    whole[offset["y"] : offset["y"] + at["h"], offset["x"] : offset["x"] + at["w"]] = shown
    return whole


sizes = st.lists(st.tuples(st.integers(1, 24), st.integers(1, 24), st.integers(0, 3)), min_size=1, max_size=40)
specs = st.builds(
    AtlasConfig,
    size=st.sampled_from([64, 100, 128]),
    padding=st.integers(0, 5),
    extrude=st.integers(0, 3),
    trim=st.booleans(),
    power_of_two=st.booleans(),
    max_waste=st.sampled_from([0.2, 0.5, 1.0]),
)
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(sizes=sizes, spec=specs, layout=st.sampled_from(["hash", "array", "phaser", "godot"]))
def test_everything_is_packed_and_found_back(sizes: list[tuple[int, int, int]], spec: AtlasConfig, layout: Any) -> None:
    """No overlap, padding kept, all inside, edges extruded, and every pixel back from the sheets and their data."""
    spec = spec.model_copy(update={"layout": layout})
    sprites = [sprite(f"s{n}", *size, seed=n) for n, size in enumerate(sizes)]
    packed = pack(sprites, spec)
    check(packed, sprites, spec)
    images = [f"sheet-{n}.png" for n in range(len(packed.sheets))]
    stored = {name: decode(encode_png(s), alpha=True) for name, s in zip(images, packed.sheets, strict=True)}
    found = read_back(stored, write_data(packed.layout, images, spec, "toys"))
    assert found.keys() == {s.name for s in sprites}
    for each in sprites:
        assert np.array_equal(found[each.name], each.rgba)


@quick
@given(sizes=sizes, spec=specs, data=st.data())
def test_nights_keep_what_they_can(sizes: list[tuple[int, int, int]], spec: AtlasConfig, data: st.DataObject) -> None:
    """Over several nights of changes every layout is whole, and unchanged sprites stay unless all is repacked."""
    now = {f"s{n}": size for n, size in enumerate(sizes)}
    layout: Layout | None = None
    for night in range(3):
        sprites = [sprite(name, *size, seed=n) for n, (name, size) in enumerate(now.items())]
        packed = pack(sprites, spec, layout)
        check(packed, sprites, spec)
        if layout is not None:
            fresh = arrange({s.name: measure(s.rgba, s.sha, trim=spec.trim) for s in sprites}, spec)
            same = [n for n in moved(layout, packed.layout) if layout.places[n].frame == packed.layout.places[n].frame]
            gone = set(range(len(layout.sheets))) - {p.sheet for n, p in layout.places.items() if n in now}
            assert not same or gone or packed.layout == fresh
        layout = layout_from_json(json.loads(json.dumps(packed.layout.as_json())))
        assert layout == packed.layout
        removed = data.draw(st.sets(st.sampled_from(sorted(now)), max_size=len(now) - 1))
        added = data.draw(st.lists(st.tuples(st.integers(1, 24), st.integers(1, 24), st.integers(0, 3)), max_size=10))
        now = {n: s for n, s in now.items() if n not in removed}
        now |= {f"n{night}-{n}": size for n, size in enumerate(added)}


def test_a_night_without_changes_gives_equal_bytes() -> None:
    """Equal input: equal layout, sheets and data, whatever the order, with and without the former layout."""
    sprites, spec = many(60), AtlasConfig(size=128)
    first = pack(sprites, spec)
    for again in (pack(sprites[::-1], spec), pack(sprites, spec, first.layout)):
        assert again.layout == first.layout
        assert [encode_png(s) for s in again.sheets] == [encode_png(s) for s in first.sheets]
        images = [f"{n}.png" for n in range(len(first.sheets))]
        assert write_data(again.layout, images, spec, "a") == write_data(first.layout, images, spec, "a")


def test_a_changed_sprite_keeps_its_room() -> None:
    """One that is as large, or smaller, stays where it was; nothing else moves; a larger one goes elsewhere."""
    sprites = many(40)
    first = pack(sprites, SMALL)
    height, width = sprites[7].rgba.shape[:2]
    same = [*sprites[:7], sprite("s007", width, height, seed=99), *sprites[8:]]
    assert moved(first.layout, pack(same, SMALL.model_copy(update={"trim": False}), first.layout).layout)  # other rules
    frame = first.layout.places["s007"].frame
    smaller = [*sprites[:7], sprite("s007", frame.width, max(frame.height - 1, 1), seed=99), *sprites[8:]]
    second = pack(smaller, SMALL, first.layout)
    assert moved(first.layout, second.layout) == []
    assert second.layout.places["s007"].room_height == frame.height
    larger = [*sprites[:7], sprite("s007", 24, 24, seed=99), *sprites[8:]]
    third = pack(larger, SMALL, second.layout)
    assert moved(second.layout, third.layout) == ["s007"]
    back = pack(sprites, SMALL, second.layout)
    assert moved(first.layout, back.layout) == []


def test_freed_room_is_used_again() -> None:
    """A new sprite of the size of a removed one takes its room: no sheet grows."""
    spec = AtlasConfig(size=64, padding=0, extrude=0)
    sprites = [sprite(f"s{n:02d}", 16, 16, seed=n) for n in range(16)]
    first = pack(sprites, spec)
    assert first.layout.sheets == ((64, 64),)
    assert first.layout.fill == 1
    second = pack([*sprites[1:], sprite("new", 16, 16, seed=77)], spec, first.layout)
    assert second.layout.sheets == first.layout.sheets
    new, old = second.layout.places["new"], first.layout.places["s00"]
    assert (new.sheet, new.x, new.y) == (old.sheet, old.x, old.y)


def test_all_is_repacked_when_too_much_is_empty() -> None:
    """With most sprites gone the sheets shrink, as soon as that saves more than `max_waste` of them, not before."""
    sprites = [sprite(f"s{n:02d}", 16, 16, seed=n) for n in range(16)]
    spec = AtlasConfig(size=64, padding=0, extrude=0, max_waste=0.5)
    first = pack(sprites, spec)
    half = pack(sprites[::2], spec, first.layout)
    assert moved(first.layout, half.layout) == []
    assert half.layout.sheets == ((64, 64),)
    few = pack(sprites[:4], spec, first.layout)
    assert few.layout.sheets == ((32, 32),)
    assert pack(sprites[:4], spec.model_copy(update={"max_waste": 1.0}), first.layout).layout.sheets == ((64, 64),)


def test_sheets_are_as_small_as_they_can_be_and_as_many_as_needed() -> None:
    """A few icons get a small sheet; when one sheet is full others follow, and none is lost."""
    spec = AtlasConfig(size=64, padding=0, extrude=0)
    assert pack([sprite("one", 20, 9)], spec).layout.sheets == ((32, 16),)
    sprites = [sprite(f"s{n:02d}", 32, 32, seed=n) for n in range(10)]
    packed = pack(sprites, spec)
    assert packed.layout.sheets == ((64, 64), (64, 64), (64, 32))
    assert [len(packed.layout.on_sheet(n)) for n in range(3)] == [4, 4, 2]


def test_an_emptied_sheet_goes() -> None:
    """Sheets without sprites are no longer written; those behind them move up unchanged."""
    spec = AtlasConfig(size=64, padding=0, extrude=0, max_waste=1.0)
    sprites = [sprite(f"s{n:02d}", 32, 32, seed=n) for n in range(8)]
    first = pack(sprites, spec)
    behind = [s for s in sprites if first.layout.places[s.name].sheet == 1]
    second = pack(behind, spec, first.layout)
    assert len(second.sheets) == 1
    assert np.array_equal(second.sheets[0], first.sheets[1])


def test_what_cannot_be_packed_is_named() -> None:
    """A sprite larger than a sheet, and two of one name: each with its way out."""
    with pytest.raises(InputError, match=r"atlas\.size") as error:
        pack([sprite("ok", 8, 8), sprite("huge", 63, 8)], SMALL)
    assert [p.value for p in error.value.problems] == ["huge"]
    with pytest.raises(InputError, match="rank"):
        pack([sprite("a", 8, 8), sprite("a", 9, 9)], SMALL)
    with pytest.raises(ValueError, match="uint8"):
        measure(np.zeros((4, 4, 3), np.uint8), "", trim=True)
    with pytest.raises(ValueError, match="no layout"):
        layout_from_json({"schema": 1})


def test_an_empty_picture_keeps_its_size() -> None:
    """A sprite that is transparent all over is packed as one pixel and comes back whole; no sprites, no sheets."""
    clear = Sprite("clear", np.zeros((9, 7, 4), np.uint8), "c")
    packed = pack([clear], SMALL)
    found = read_back({"a.png": packed.sheets[0]}, write_data(packed.layout, ["a.png"], SMALL, "a"))
    assert np.array_equal(found["clear"], clear.rgba)
    none = pack([], SMALL)
    assert none.sheets == ()
    assert none.layout.fill == 1


def test_several_sheets_name_each_other() -> None:
    """PixiJS loads all from any of the files; Phaser and Godot get one file."""
    sprites = [sprite(f"s{n:02d}", 40, 40, seed=n) for n in range(3)]
    layout = pack(sprites, SMALL).layout
    images = ["x-0.png", "x-1.png", "x-2.png"]
    files = {n: json.loads(d) for n, d in write_data(layout, images, SMALL, "x").items()}
    assert list(files) == ["x-0.json", "x-1.json", "x-2.json"]
    for name, value in files.items():
        assert sorted([name, *value["meta"]["related_multi_packs"]]) == list(files)
        assert (
            value["meta"] | {"app": "assetmill", "version": "1.0", "format": "RGBA8888", "scale": "1"} == value["meta"]
        )
    (phaser,) = write_data(layout, images, SMALL.model_copy(update={"layout": "phaser"}), "x").values()
    assert [t["image"] for t in json.loads(phaser)["textures"]] == images
    assert list(write_data(layout, images, SMALL.model_copy(update={"layout": "godot"}), "x")) == ["x.tpsheet"]


def test_little_moves_over_ten_nights() -> None:
    """Every night a tenth changes, comes or goes: hardly a sprite moves that did not change, and sheets stay filled."""
    rng = np.random.default_rng(3)
    spec = AtlasConfig(size=256, padding=1, extrude=1)
    now = {f"s{n:03d}": tuple(rng.integers(8, 30, 2).tolist()) for n in range(150)}
    layout: Layout | None = None
    moves, fills = 0, []
    for night in range(10):
        frames = {n: measure(sprite(n, w, h).rgba, f"{w}x{h}", trim=True) for n, (w, h) in now.items()}
        after = arrange(frames, spec, layout)
        if layout is not None:
            moves += sum(layout.places[n].frame == after.places[n].frame for n in moved(layout, after))
        layout = after
        fills.append(after.fill)
        for name in rng.choice(sorted(now), 5, replace=False):
            del now[str(name)]
        for name in rng.choice(sorted(now), 5, replace=False):
            now[str(name)] = tuple(rng.integers(8, 30, 2).tolist())
        now |= {f"n{night:02d}{n}": tuple(rng.integers(8, 30, 2).tolist()) for n in range(5)}
    assert moves == 0
    assert min(fills) > 0.4


def test_only_sheets_that_changed_need_drawing() -> None:
    """A sheet is drawn from its own sprites alone: `read` is asked for no other."""
    sprites = {s.name: s for s in [sprite(f"s{n:02d}", 40, 40, seed=n) for n in range(3)]}
    layout = pack(list(sprites.values()), SMALL).layout
    asked: list[str] = []

    def read(name: str) -> np.ndarray:
        asked.append(name)
        return sprites[name].rgba

    draw(layout, 1, read, SMALL)
    assert asked == list(layout.on_sheet(1))
