"""IP-Adapters: checked with their image encoder before anything is loaded, on a UNet for variations alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assetmill.config import ModelConfig
from assetmill.engines.latent import LatentGenerator
from assetmill.engines.protocols import EngineError
from assetmill.engines.registry import load_generator, resolve_model
from assetmill.records import InputError
from tiny_models import write_tiny_flux, write_tiny_sd, write_tiny_sdxl
from tiny_operations import operation_requests, tiny_picture, write_tiny_ip_adapter

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_sd(tmp_path_factory.mktemp("models") / "tiny-sd")


@pytest.fixture(scope="module")
def adapter(sd: Path) -> Path:
    return write_tiny_ip_adapter(sd.parent / "ip", sd)


def load(folder: Path, adapter: Path) -> LatentGenerator:
    config = ModelConfig(source=str(folder), device="cpu", ip_adapter=adapter)
    generator = load_generator(resolve_model(config, Path), config)
    assert isinstance(generator, LatentGenerator)
    return generator


def test_on_for_variations_alone(sd: Path, adapter: Path) -> None:
    """Text to image is the same before and after a variation, and the same as without the adapter."""
    generator = load(sd, adapter)
    plain, _ = operation_requests(generator.spec, "text-to-image")
    varied, pictures = operation_requests(generator.spec, "variation")
    before = generator.generate(plain)
    made = generator.generate(varied, references=pictures)
    after = generator.generate(plain)
    assert (before.pixels == after.pixels).all()
    assert (made.pixels != before.pixels).any()
    config = ModelConfig(source=str(sd), device="cpu")
    bare = load_generator(resolve_model(config, Path), config).generate(plain)
    assert (bare.pixels == before.pixels).all()


def test_without_guidance_and_with_several_images(sd: Path, adapter: Path) -> None:
    """Variations work without classifier-free guidance, and of several images at once, row by row."""
    generator = load(sd, adapter)
    requests, pictures = operation_requests(generator.spec, "variation", guidance=1.0, negative="")
    pictures |= {"a" * 64: tiny_picture(7)}
    second = replace(requests[0].references[0], blob="a" * 64)
    two = [replace(request, references=(*request.references, second)) for request in requests]
    one_each, both = (generator.generate(batch, references=pictures) for batch in (requests, two))
    assert (one_each.pixels != both.pixels).any()
    for batch, whole in ((requests, one_each), (two, both)):
        alone = generator.generate(batch[2:], references=pictures)
        assert float((alone.device_pixels[0] - whole.device_pixels[2]).abs().max()) < 1e-3
    uneven = replace(two[0], references=(two[0].references[0], replace(second, weight=0.3)))
    with pytest.raises(EngineError, match="share their weight"):
        generator.generate([uneven], references=pictures)
    with pytest.raises(EngineError, match="was not given to the engine"):
        generator.generate([replace(two[0], references=(replace(second, blob="b" * 64),))], references={})


def test_adapters_that_do_not_fit(sd: Path, adapter: Path, tmp_path: Path) -> None:
    """Another base, another encoder, pickles, missing files and other contents are refused before anything loads."""
    import torch
    from safetensors.torch import load_file, save_file

    sdxl, flux = write_tiny_sdxl(tmp_path / "tiny-sdxl"), write_tiny_flux(tmp_path / "tiny-flux")
    lone = tmp_path / "lone" / "deep" / "ip.safetensors"
    lone.parent.mkdir(parents=True)
    shutil.copy(adapter, lone)
    crossed = shutil.copytree(adapter.parent, tmp_path / "crossed")
    config = crossed / "image_encoder" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "projection_dim": 24}))
    bare = shutil.copytree(adapter.parent, tmp_path / "bare")
    (bare / "image_encoder" / "model.safetensors").unlink()
    (tmp_path / "ip.bin").write_bytes(b"\x80\x04")
    face, plus = tmp_path / "face.safetensors", adapter.with_name("plus.safetensors")
    plain = load_file(str(adapter))
    save_file({**plain, "ip_adapter.0.to_q_lora.down.weight": torch.zeros(4, 32)}, str(face))
    plain.pop("image_proj.proj.weight")
    save_file({**plain, "image_proj.proj_in.weight": torch.zeros(8, 48)}, str(plus))
    cases: list[tuple[Path, Any, str]] = [
        (sd, write_tiny_ip_adapter(tmp_path / "xl", sdxl), "another base: its images become 64 numbers a token"),
        (sdxl, adapter, "another base"),
        (flux, adapter, "takes no IP-Adapter"),
        (sd, tmp_path / "ip.bin", "is a pickle"),
        (sd, tmp_path / "none.safetensors", "no such file"),
        (sd, sd / "vae" / "diffusion_pytorch_model.safetensors", "is not an IP-Adapter"),
        (sd, face, "reads faces"),
        (sd, plus, "gives 32 numbers for an image, and the IP-Adapter reads 48"),
        (sd, lone, "no folder `image_encoder`"),
        (sd, crossed / adapter.name, "gives 24 numbers for an image, and the IP-Adapter reads 16"),
        (sd, bare / adapter.name, "no safetensors weights"),
    ]
    for folder, file, message in cases:
        with pytest.raises(InputError, match=message):
            resolve_model(ModelConfig(source=str(folder), ip_adapter=file), Path)


def test_changed_after_planning(sd: Path, adapter: Path, tmp_path: Path) -> None:
    """An image encoder exchanged between planning and the first batch is not used."""
    copy = shutil.copytree(adapter.parent, tmp_path / "ip")
    generator = load(sd, copy / adapter.name)
    write_tiny_ip_adapter(tmp_path / "new", sd, seed=5)
    shutil.copytree(tmp_path / "new" / "image_encoder", copy / "image_encoder", dirs_exist_ok=True)
    requests, pictures = operation_requests(generator.spec, "variation", 1)
    with pytest.raises(EngineError, match="changed since it was planned"):
        generator.generate(requests, references=pictures)
