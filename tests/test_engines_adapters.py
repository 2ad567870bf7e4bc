"""LoRAs: pinned, checked against the model's layers before anything is loaded, laid on and taken off per request."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assetmill.config import ModelConfig
from assetmill.engines.adapters import find_other_base, lora_layers, resolve_lora
from assetmill.engines.folders import safetensors_header
from assetmill.engines.latent import LatentGenerator
from assetmill.engines.protocols import EngineError
from assetmill.engines.registry import load_generator, resolve_model
from assetmill.records import Adapter, InputError
from tiny_models import write_tiny_flux, write_tiny_sd, write_tiny_sdxl
from tiny_operations import operation_requests, write_tiny_lora

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
    "ignore:__array_wrap__ must accept context:DeprecationWarning",
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_sd(tmp_path_factory.mktemp("models") / "tiny-sd")


@pytest.fixture(scope="module")
def loras(sd: Path) -> tuple[Path, Path]:
    """Two LoRAs for it, the second one with layers for the text encoder too."""
    return (
        write_tiny_lora(sd.parent / "ink.safetensors", sd, seed=1),
        write_tiny_lora(sd.parent / "gold.safetensors", sd, seed=2, text=True),
    )


def load(folder: Path, **settings: Any) -> LatentGenerator:
    config = ModelConfig(source=str(folder), device="cpu", **settings)
    generator = load_generator(resolve_model(config, Path), config)
    assert isinstance(generator, LatentGenerator)
    return generator


def rename(file: Path, target: Path, change: Any) -> Path:
    """A copy of a LoRA whose keys are renamed, as other trainers write them."""
    from safetensors.torch import load_file, save_file

    save_file({change(name): tensor for name, tensor in load_file(str(file)).items()}, str(target))
    return target


def kohya(name: str) -> str:
    head, _, rest = name.partition(".")
    layer, factor = rest.rsplit(".lora_", 1) if ".lora_" in rest else rest.rsplit(".lora.", 1)
    side = "lora_down" if factor.startswith(("A", "down")) else "lora_up"
    prefix = {"unet": "lora_unet", "text_encoder": "lora_te"}[head]
    return f"{prefix}_{layer.replace('.', '_')}.{side}.weight"


def test_several_with_weights(sd: Path, loras: tuple[Path, Path]) -> None:
    """LoRAs act together and alone, more strongly with more weight, and not at all where a request names none."""
    generator = load(sd, adapters=[{"path": str(loras[0]), "weight": 0.5}, {"path": str(loras[1])}])
    requests, _ = operation_requests(generator.spec, "text-to-image")
    assert [(a.kind, a.weight) for a in requests[0].adapters] == [("lora", 0.5), ("lora", 1.0)]
    assert requests[0].adapters[0].sha256 == hashlib.sha256(loras[0].read_bytes()).hexdigest()
    first, second = requests[0].adapters
    pictures = {}
    for name, adapters in {
        "none": (), "both": (first, second), "first": (first,), "second": (second,),
        "light": (replace(first, weight=0.05),), "zero": (replace(first, weight=0.0),),
    }.items():  # fmt: skip
        pictures[name] = generator.generate([replace(r, adapters=adapters) for r in requests]).device_pixels
    assert len({float(p.sum()) for name, p in pictures.items() if name != "zero"}) == 5
    distance = {name: float((p - pictures["none"]).abs().mean()) for name, p in pictures.items()}
    assert distance["zero"] < 1e-5 < distance["light"] < distance["first"]
    again = generator.generate([replace(r, adapters=()) for r in requests]).device_pixels
    assert (
        float((again - load(sd).generate([replace(r, adapters=()) for r in requests]).device_pixels).abs().max()) < 1e-6
    )


def test_same_picture_as_plain_diffusers(sd: Path, loras: tuple[Path, Path]) -> None:
    """A LoRA with a weight gives the picture that a plain diffusers script gives with it."""
    import torch
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(str(sd))
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(str(loras[1].parent), weight_name=loras[1].name, adapter_name="gold")
    pipeline.set_adapters(["gold"], [0.8])
    generator = load(sd, adapters=[{"path": str(loras[1]), "weight": 0.8}])
    requests, _ = operation_requests(generator.spec, "text-to-image", 2)
    theirs = pipeline(
        requests[0].positive, negative_prompt=requests[0].negative, width=32, height=32, num_inference_steps=4,
        guidance_scale=3.0, generator=torch.Generator("cpu").manual_seed(requests[0].seed), output_type="np",
    ).images[0]  # fmt: skip
    assert np.abs(theirs * 255 - generator.generate(requests).pixels[0]).max() < 1


def test_another_trainers_names(sd: Path, loras: tuple[Path, Path], tmp_path: Path) -> None:
    """The names that kohya's trainer writes are understood, and give the picture of the same weights."""
    other = rename(loras[1], tmp_path / "kohya.safetensors", kohya)
    assert set(map(len, lora_layers(safetensors_header(other)).values())) == {2}
    generator = load(sd, adapters=[{"path": str(loras[1])}, {"path": str(other)}])
    requests, _ = operation_requests(generator.spec, "text-to-image", 1)
    ours, theirs = (generator.generate([replace(requests[0], adapters=(a,))]) for a in requests[0].adapters)
    assert float((ours.device_pixels - theirs.device_pixels).abs().max()) < 1e-4


def test_made_for_another_base(sd: Path, loras: tuple[Path, Path], tmp_path: Path) -> None:
    """A LoRA for another base is one clear error before anything is loaded, whichever trainer wrote it."""
    sdxl, flux = write_tiny_sdxl(tmp_path / "tiny-sdxl"), write_tiny_flux(tmp_path / "tiny-flux")
    for_flux = write_tiny_lora(tmp_path / "flux.safetensors", flux)
    for_sdxl = write_tiny_lora(tmp_path / "sdxl.safetensors", sdxl)
    for file, folder, message in [
        (
            for_sdxl,
            sd,
            r"another base than tiny-sd: its layer .*attn2.* is for .* x 64 weights, and this model's is .* x 32",
        ),
        (loras[0], sdxl, "another base than tiny-sdxl.*this model's is"),
        (rename(loras[0], tmp_path / "k.safetensors", kohya), sdxl, "another base than tiny-sdxl"),
        (for_flux, sd, "belongs to a transformer, and this model has a unet"),
        (loras[0], flux, "belongs to a unet, and this model has a transformer"),
    ]:
        with pytest.raises(InputError, match=message) as error:
            resolve_model(ModelConfig(source=str(folder), adapters=[{"path": str(file)}]), Path)
        assert error.value.problems[0].column == "model.adapters.0"
        assert error.value.problems[0].file == str(file)
    resolve_lora(for_flux, flux)
    resolve_lora(for_sdxl, sdxl)
    assert find_other_base({"a_trainers.own": ((4, 8), (8, 4))}, sd) == ""


def test_what_is_no_lora(sd: Path, loras: tuple[Path, Path], tmp_path: Path) -> None:
    """Pickles, missing or cut files, other pins, other contents and families without LoRAs say what to do."""
    (tmp_path / "x.pt").write_bytes(b"\x80\x04")
    (tmp_path / "cut.safetensors").write_bytes(loras[0].read_bytes()[:-9])
    whole = sd / "vae" / "diffusion_pytorch_model.safetensors"
    for settings, message in [
        ({"path": str(tmp_path / "x.pt")}, "is a pickle"),
        ({"path": str(tmp_path / "none.safetensors")}, "the adapter is missing"),
        ({"path": str(tmp_path / "cut.safetensors")}, "cut off"),
        ({"path": str(loras[0]), "sha256": "0" * 64}, "the config pins 0000"),
        ({"path": str(whole)}, "holds no LoRA layers"),
    ]:
        with pytest.raises(InputError, match=message):
            resolve_model(ModelConfig(source=str(sd), adapters=[settings]), Path)
    with pytest.raises(InputError, match="takes none"):
        resolve_model(ModelConfig(engine="simulated", adapters=[{"path": str(loras[0])}]), Path)


def test_all_problems_at_once(sd: Path, tmp_path: Path) -> None:
    """Everything wrong with a config's adapters and ControlNets is told together."""
    config = ModelConfig(
        source=str(sd), adapters=[{"path": "a.safetensors"}, {"path": "b.ckpt"}], control={"edge": tmp_path / "edge"},
        ip_adapter=tmp_path / "ip.safetensors",
    )  # fmt: skip
    with pytest.raises(InputError) as error:
        resolve_model(config, Path)
    columns = [problem.column for problem in error.value.problems]
    assert columns == ["model.adapters.0", "model.adapters.1", "model.control.edge", "model.ip_adapter"]


def test_changed_after_planning(sd: Path, loras: tuple[Path, Path], tmp_path: Path) -> None:
    """A LoRA that was exchanged between planning and loading is not loaded, and one nobody named is refused."""
    file = tmp_path / "style.safetensors"
    file.write_bytes(loras[0].read_bytes())
    config = ModelConfig(source=str(sd), device="cpu", adapters=[{"path": str(file)}])
    spec = resolve_model(config, Path)
    file.write_bytes(loras[1].read_bytes())
    with pytest.raises(EngineError, match="changed since it was planned"):
        load_generator(spec, config)
    generator = load(sd)
    requests, _ = operation_requests(generator.spec, "text-to-image", 1)
    with pytest.raises(EngineError, match="not among this model's adapters"):
        generator.generate([replace(requests[0], adapters=(Adapter("lora", "1" * 64),))])


def test_names_nobody_understands(sd: Path, loras: tuple[Path, Path], tmp_path: Path) -> None:
    """A LoRA whose layers diffusers cannot place is an error when it is loaded, not a LoRA without effect."""
    strange = rename(loras[0], tmp_path / "strange.safetensors", lambda name: name.replace("unet.", "base.", 1))
    with pytest.raises(EngineError, match=r"strange.safetensors: (none of the LoRA's layers|the LoRA does not fit)"):
        load(sd, adapters=[{"path": str(strange)}])


def test_no_torch_for_planning(sd: Path, loras: tuple[Path, Path]) -> None:
    """A model with LoRAs is resolved without importing torch."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from assetmill.config import ModelConfig\n"
        "from assetmill.engines.registry import resolve_model\n"
        f"spec = resolve_model(ModelConfig(source={str(sd)!r}, adapters=[{{'path': {str(loras[0])!r}}}]), Path)\n"
        "assert [p.name for p in spec.parts] == ['ink'], spec\n"
        "assert not {'torch', 'diffusers', 'peft', 'PIL', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
