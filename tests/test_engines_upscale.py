"""Upscalers and tiles: exact sizes, no seams, and the model's own rules kept."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assetmill.config import UpscaleConfig
from assetmill.engines.protocols import EngineError, OutOfMemory
from assetmill.engines.registry import load_upscaler, resolve_upscaler
from assetmill.engines.tiling import enlarge_in_tiles, tile_spans
from assetmill.engines.upscale import SpandrelUpscaler
from tiny_models import write_tiny_upscaler


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_upscaler(tmp_path_factory.mktemp("upscalers") / "x2.safetensors")


def load(**settings: Any) -> Any:
    config = UpscaleConfig(device="cpu", **settings)
    return load_upscaler(resolve_upscaler(config, Path), config)


def make_pictures(count: int = 2, height: int = 24, width: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@given(length=st.integers(1, 500), tile=st.integers(2, 128), overlap=st.integers(0, 60))
def test_tiles_cover_an_edge(length: int, tile: int, overlap: int) -> None:
    """Tiles are of one length, start at 0, end at the edge, and overlap by what was asked, at least."""
    if overlap >= tile:
        overlap = tile - 1
    spans = tile_spans(length, tile, overlap)
    assert spans[0][0] == 0
    assert spans[-1][1] == length
    assert {stop - start for start, stop in spans} == {min(tile, length)}
    for (_, stop), (start, _) in pairwise(spans):
        assert stop - start >= overlap


@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 70), width=st.integers(1, 70), tile=st.integers(9, 40), batch=st.integers(1, 5))
def test_tiles_of_a_local_function_leave_no_trace(height: int, width: int, tile: int, batch: int) -> None:
    """Where every pixel depends on itself alone, tiled and whole results are the same, at exactly the right size."""
    import torch

    pictures = torch.rand(2, 3, height, width)

    def double(x: Any, places: Any = ()) -> Any:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    tiled = enlarge_in_tiles(pictures, double, scale=2, tile=tile, overlap=4, batch=batch)
    assert tiled.shape == (2, 3, height * 2, width * 2)
    torch.testing.assert_close(tiled, double(pictures), atol=1e-5, rtol=0)


def test_resizing_without_a_model() -> None:
    """Nearest repeats pixels, Lanczos is Pillow's, none keeps the picture; all in uint8 and of exact size."""
    from PIL import Image

    pictures = make_pictures()
    nearest = load(engine="nearest", scale=3).upscale(pictures)
    assert nearest.shape == (2, 72, 120, 3)
    np.testing.assert_array_equal(nearest[:, ::3, ::3], pictures)
    lanczos = load(engine="lanczos", scale=2).upscale(pictures)
    theirs = Image.fromarray(pictures[1]).resize((80, 48), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(lanczos[1], np.asarray(theirs))
    np.testing.assert_array_equal(load(engine="none").upscale(pictures), pictures)
    with pytest.raises(ValueError, match="expected uint8"):
        load(engine="nearest").upscale(pictures / 255.0)


def test_a_model_from_a_file(weights: Path) -> None:
    """A safetensors file's factor is found and remembered; a batch equals its pictures one by one; sizes are exact."""
    upscaler = load(source=str(weights))
    assert isinstance(upscaler, SpandrelUpscaler)
    assert upscaler.scale == 2
    pictures = make_pictures(3)
    large = upscaler.upscale(pictures)
    assert large.shape == (3, 48, 80, 3)
    assert large.dtype == np.uint8
    for picture, result in zip(pictures, large, strict=True):
        alone = upscaler.upscale(picture[None])[0].astype(int)
        assert np.abs(alone - result).max() <= 1
    assert upscaler.upscale(pictures[:0]).shape == (0, 48, 80, 3)


def test_tiled_equals_whole(weights: Path) -> None:
    """With an overlap above the model's reach, tiles and the whole picture agree to a grey level."""
    pictures = make_pictures(2, 70, 100)
    whole = load(source=str(weights), tile=128).upscale(pictures).astype(int)
    tiled = load(source=str(weights), tile=48, overlap=20).upscale(pictures)
    assert tiled.shape == whole.shape
    # the model sees 4 pixels around each; only within those of a tile's inner edge may blending show
    difference = np.abs(whole - tiled)
    assert np.quantile(difference, 0.99) <= 1
    assert difference.mean() < 0.2


@pytest.fixture(scope="session")
def picky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SAFMN: it reads sides that are multiples of 8, and not in half precision."""
    import torch
    from safetensors.torch import save_file
    from spandrel.architectures.SAFMN import SAFMN

    torch.manual_seed(10)
    file = tmp_path_factory.mktemp("upscalers") / "safmn.safetensors"
    model = SAFMN(dim=8, n_blocks=1, ffn_scale=2.0, upscaling_factor=2)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, str(file))
    return file


@pytest.mark.parametrize(("height", "width", "tile"), [(17, 30, 256), (32, 40, 256), (50, 83, 36)])
def test_size_rules_of_the_model(picky: Path, height: int, width: int, tile: int) -> None:
    """What the model sees has sides that it takes as they are; the result has the picture's size, times the factor."""
    upscaler = load(source=str(picky), tile=tile)
    assert upscaler.tiles.multiple == 8
    seen: set[tuple[int, ...]] = set()
    real = upscaler._model
    upscaler._model = lambda tiles: seen.add(tuple(tiles.shape[2:])) or real(tiles)
    large = upscaler.upscale(make_pictures(1, height, width))
    assert large.shape == (1, 2 * height, 2 * width, 3)
    assert all(side % 8 == 0 for shape in seen for side in shape)
    assert seen == ({(32, 32)} if tile == 36 else {(-height % 8 + height, -width % 8 + width)})


def test_number_formats_of_the_model(picky: Path, weights: Path) -> None:
    """A format that the descriptor excludes is refused, and never chosen; one that it allows is used."""
    import torch

    upscaler = load(source=str(picky), dtype="bfloat16")
    assert upscaler.dtype == torch.bfloat16
    assert upscaler.upscale(make_pictures(1)).dtype == np.uint8
    upscaler.device = torch.device("cuda", 0)  # only asked for what it would choose there
    assert upscaler._fitting_dtype("auto") == torch.bfloat16
    with pytest.raises(EngineError, match="SAFMN does not run in float16"):
        upscaler._fitting_dtype("float16")
    other = load(source=str(weights))
    other.device = torch.device("cuda", 0)
    assert other._fitting_dtype("auto") == torch.float16


def test_a_smaller_factor(weights: Path) -> None:
    """A factor below the model's own gives that size, by reducing the model's result."""
    pictures = make_pictures(1)
    assert load(source=str(weights), scale=1).upscale(pictures).shape == (1, 24, 40, 3)


def test_out_of_memory_halves(weights: Path) -> None:
    """A forward that doesn't fit is tried with fewer pictures; at one tile it is OutOfMemory."""
    import torch

    upscaler = load(source=str(weights))
    pictures = make_pictures(5)
    expected = upscaler.upscale(pictures).astype(int)
    real = upscaler._model
    limit = 1

    class Small:
        tiling = real.tiling

        def __call__(self, image: Any) -> Any:
            if len(image) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return real(image)

    upscaler._model = Small()
    assert np.abs(upscaler.upscale(pictures).astype(int) - expected).max() <= 1
    limit = 0
    with pytest.raises(OutOfMemory, match="upscaling 1 pictures of 40x24"):
        upscaler.upscale(pictures)


def test_files_that_are_no_upscalers(tmp_path: Path, weights: Path) -> None:
    """Unknown architectures and changed files are told with the way out."""
    import os

    import torch
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(3)}, str(tmp_path / "odd.safetensors"))
    with pytest.raises(EngineError, match="no architecture that spandrel knows"):
        load(source=str(tmp_path / "odd.safetensors"))
    file = tmp_path / "x2.safetensors"
    file.write_bytes(weights.read_bytes())
    config = UpscaleConfig(source=str(file), device="cpu")
    spec = resolve_upscaler(config, Path)
    state, data = file.stat(), bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(EngineError, match="changed or damaged"):
        load_upscaler(spec, config)
    with pytest.raises(EngineError, match="float16 does not run on a CPU"):
        load(source=str(weights), dtype="float16")
