"""Upscalers in folders: the real classes loaded like a user's, their options honoured, unfit ones refused unread."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assetmill.config import UpscaleConfig
from assetmill.engines.enlarge import enlarge
from assetmill.engines.protocols import EngineError, OutOfMemory
from assetmill.engines.registry import load_upscaler, resolve_upscaler
from assetmill.operate.reproduce import reproduce_entry
from assetmill.records import InputError
from productions import Production, rows
from tiny_upscalers import write_tiny_if_upscaler, write_tiny_ldm_upscaler, write_tiny_sd_upscaler, write_tiny_swin2sr

WRITERS: dict[str, tuple[str, Callable[[Path], Path], dict[str, Any]]] = {
    "sd": ("diffusers", write_tiny_sd_upscaler, {"steps": 2}),
    "ldm": ("diffusers", write_tiny_ldm_upscaler, {"steps": 2}),
    "if": ("diffusers", write_tiny_if_upscaler, {"steps": 2}),
    "swin2sr": ("transformers", write_tiny_swin2sr, {}),
}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    base, made = tmp_path_factory.mktemp("upscaler-folders"), {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = WRITERS[name][1](base / name)
        return made[name]

    return folder


def load(folder: Path, name: str, **settings: Any) -> Any:
    engine, _, options = WRITERS[name]
    options = {**options, **settings.pop("options", {})}
    config = UpscaleConfig(engine=engine, source=str(folder), device="cpu", options=options, **settings)
    return load_upscaler(resolve_upscaler(config, Path), config)


def make_pictures(count: int = 2, height: int = 16, width: int = 24) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("name", "scale"), [("sd", 4), ("ldm", 4), ("if", 4), ("swin2sr", 2)])
def test_a_folder_enlarges(folders: Callable[[str], Path], name: str, scale: int) -> None:
    """Each class is loaded from its folder, keeps its factor at any size, and gives the same for the same picture,
    alone or among others."""
    upscaler = load(folders(name), name)
    assert upscaler.scale == scale
    pictures, texts = make_pictures(2, 17, 22), ["a red mug", "a key"]
    large = upscaler.upscale(pictures, texts)
    assert large.shape == (2, 17 * scale, 22 * scale, 3)
    assert large.dtype == np.uint8
    assert large.std() > 0
    alone = upscaler.upscale(pictures[1:], texts[1:])[0]
    # the quantiser of latent diffusion takes the nearest code: rounding may tip a few of its cells over
    assert np.quantile(np.abs(alone.astype(int) - large[1]), 0.9 if name == "ldm" else 1) <= 2
    np.testing.assert_array_equal(load(folders(name), name).upscale(pictures[1:], texts[1:])[0], alone)
    assert upscaler.upscale(pictures[:0]).shape == (0, 17 * scale, 22 * scale, 3)


@pytest.mark.parametrize("name", ["sd", "if"])
def test_texts_count(folders: Callable[[str], Path], name: str) -> None:
    """Upscalers that read a text give other pictures for other texts, and encode each distinct one once."""
    upscaler = load(folders(name), name, tile=32, overlap=4)
    picture = make_pictures(1, 16, 40)
    first = upscaler.upscale(picture, ["a red mug"])
    seen: list[str] = []
    real = upscaler._pipeline.encode_prompt
    upscaler._pipeline.encode_prompt = lambda text, *a, **k: seen.append(text) or real(text, *a, **k)
    assert (upscaler.upscale(picture, ["a blue hat"]) != first).any()
    np.testing.assert_array_equal(upscaler.upscale(picture, ["a red mug"]), first)
    assert [text for text in seen if text] == ["a blue hat"]
    with pytest.raises(ValueError, match="1 pictures but 2 texts"):
        upscaler.upscale(picture, ["a", "b"])


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("sd", {"steps": 3}), ("sd", {"guidance": 2.0}), ("sd", {"guidance": 1.0}), ("sd", {"noise_level": 100}),
        ("sd", {"negative": "blurry"}), ("sd", {"seed": 1}), ("ldm", {"steps": 3}), ("ldm", {"eta": 0.0}),
        ("ldm", {"seed": 1}), ("if", {"guidance": 1.0}), ("if", {"noise_level": 10}), ("if", {"negative": "blurry"}),
    ],
    ids=str,
)  # fmt: skip
def test_options_are_honoured(folders: Callable[[str], Path], name: str, changed: dict[str, Any]) -> None:
    """Every option changes the picture, and the upscaler's key with it."""
    plain, other = load(folders(name), name), load(folders(name), name, options=changed)
    picture = make_pictures(1)
    assert plain.key != other.key
    assert (plain.upscale(picture, ["a mug"]) != other.upscale(picture, ["a mug"])).any()


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_tiles(folders: Callable[[str], Path], name: str) -> None:
    """Pictures larger than a tile go through in tiles; size, determinism and memory errors are as for whole ones."""
    upscaler = load(folders(name), name, tile=32, overlap=8)
    pictures = make_pictures(1, 20, 70)
    large = upscaler.upscale(pictures, ["a mug"])
    assert large.shape == (1, 20 * upscaler.scale, 70 * upscaler.scale, 3)
    np.testing.assert_array_equal(load(folders(name), name, tile=32, overlap=8).upscale(pictures, ["a mug"]), large)
    assert load(folders(name), name, scale=1).upscale(pictures).shape == (1, 20, 70, 3)

    def too_large(*_: Any, **__: Any) -> Any:
        raise MemoryError

    if name == "swin2sr":
        upscaler._model = too_large
    else:
        upscaler._sample = too_large
    with pytest.raises(OutOfMemory, match="upscaling 1 pictures of 70x20"):
        upscaler.upscale(pictures)


def test_swin2sr_is_as_transformers_gives_it(folders: Callable[[str], Path]) -> None:
    """Swin2SR's result equals that of its own processor and model, cropped to the picture."""
    import torch
    from transformers import AutoImageProcessor, Swin2SRForImageSuperResolution

    folder, picture = folders("swin2sr"), make_pictures(1, 21, 30)
    model = Swin2SRForImageSuperResolution.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        theirs = model(**processor(list(picture), return_tensors="pt")).reconstruction[:, :, :42, :60]
    expected = theirs.clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    difference = np.abs(load(folder, "swin2sr").upscale(picture).astype(int) - expected)
    assert difference.max() <= 1


@pytest.mark.parametrize("name", ["sd", "swin2sr"])
def test_tileable_and_transparent(folders: Callable[[str], Path], name: str) -> None:
    """Sampling and restoring upscalers alike keep opposite edges together and carry alpha along."""
    upscaler = load(folders(name), name)
    pictures = np.concatenate([make_pictures(1, 32, 32), np.zeros((1, 32, 32, 1), np.uint8)], axis=-1)
    pictures[:, :, 16:, 3] = 255
    large = enlarge(upscaler, pictures, ["moss"], tileable="xy")
    assert large.shape == (1, 32 * upscaler.scale, 32 * upscaler.scale, 4)
    assert large[..., 3].min() < large[..., 3].max()


def test_what_cannot_be_used(folders: Callable[[str], Path], tmp_path: Path) -> None:
    """Wrong folders, classes, options and factors are refused with the way out before anything is loaded."""
    import shutil

    sd = folders("sd")
    pipeline = tmp_path / "other"
    shutil.copytree(sd, pipeline)
    index = json.loads((pipeline / "model_index.json").read_text())
    (pipeline / "model_index.json").write_text(json.dumps({**index, "_class_name": "StableDiffusionPipeline"}))
    pickled = tmp_path / "pickled"
    shutil.copytree(folders("swin2sr"), pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    for settings, message in [
        ({"engine": "diffusers"}, "no upscaler's folder at"),
        ({"engine": "diffusers", "source": str(pipeline)}, "StableDiffusionPipeline is no upscaler.*LDMSuperRes"),
        ({"engine": "transformers", "source": str(sd)}, "there is no config.json"),
        ({"engine": "diffusers", "source": str(folders("swin2sr"))}, "no model_index.json"),
        ({"engine": "transformers", "source": str(pickled)}, "only the pickle pytorch_model.bin"),
        ({"engine": "diffusers", "source": str(sd), "scale": 8}, "enlarges 4 times, not 8"),
        ({"engine": "diffusers", "source": str(sd), "tile": 32}, "leaves nothing of a tile"),
        ({"engine": "diffusers", "source": str(sd), "options": {"eta": 1}}, "known options: steps, guidance"),
        ({"engine": "diffusers", "source": str(sd), "options": {"steps": 0}}, "a whole number from 1 to 1000"),
        ({"engine": "diffusers", "source": str(sd), "options": {"negative": 3}}, "give a text"),
    ]:
        with pytest.raises(InputError, match=message):
            resolve_upscaler(UpscaleConfig(**settings), lambda p: tmp_path / p)


def test_in_a_production(folders: Callable[[str], Path], tmp_path: Path) -> None:
    """A run enlarges what it chose with the prompts it was made from; made again, a picture is the same."""
    upscale = {"engine": "diffusers", "source": str(folders("sd")), "scale": 4, "options": {"steps": 2}}
    toys = Production(tmp_path / "toys", sheet=rows(2), settings={"upscale": {**upscale, "device": "cpu"}})
    toys.run()
    entries = list(toys.catalog.iter_entries())
    assert {(e.width, e.height) for e in entries} == {(64, 64)}
    assert toys.states() == {"unchanged": 2}
    found = reproduce_entry(toys.path, entries[0].request_key)
    assert found.base_agrees
    assert found.master_max_difference <= 1


def test_changed_since_the_plan(folders: Callable[[str], Path], tmp_path: Path) -> None:
    """A byte that changed between plan and run is found before sampling."""
    import shutil

    folder = Path(shutil.copytree(folders("swin2sr"), tmp_path / "swin"))
    config = UpscaleConfig(engine="transformers", source=str(folder), device="cpu")
    spec = resolve_upscaler(config, Path)
    weights = folder / "model.safetensors"
    state, data = weights.stat(), bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(EngineError, match="changed or damaged"):
        load_upscaler(spec, config)


def test_a_plan_imports_no_torch(folders: Callable[[str], Path]) -> None:
    """Folders are named without torch, with their licence from the card."""
    (folders("sd") / "README.md").write_text("---\nlicense: openrail++\n---\n")
    code = (
        "import sys\n"
        "from assetmill.config import UpscaleConfig\n"
        "from assetmill.engines.registry import resolve_upscaler\n"
        f"for e, f in (('diffusers', {str(folders('sd'))!r}), ('transformers', {str(folders('swin2sr'))!r})):\n"
        "    s = resolve_upscaler(UpscaleConfig(engine=e, source=f), lambda p: __import__('pathlib').Path(p))\n"
        "    print(s.scale, s.family, s.licence, s.commercial)\n"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.splitlines() == [
        "4 StableDiffusionUpscalePipeline openrail++ True",
        "2 Swin2SRForImageSuperResolution  None",
    ]
