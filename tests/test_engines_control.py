"""ControlNet folders are checked against the model before anything is loaded; their maps never draw global noise."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from assetmill.config import ModelConfig
from assetmill.engines.control import steady_encoding
from assetmill.engines.protocols import EngineError
from assetmill.engines.registry import load_generator, resolve_model
from assetmill.records import InputError
from tiny_models import write_tiny_sd, write_tiny_sdxl
from tiny_operations import operation_requests, write_tiny_controlnet

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_sd(tmp_path_factory.mktemp("models") / "tiny-sd")


@pytest.fixture(scope="module")
def edge(sd: Path) -> Path:
    return write_tiny_controlnet(sd.parent / "edge", sd)


def test_what_a_config_names(sd: Path, edge: Path) -> None:
    """A ControlNet makes `control` one of the model's operations; its fingerprint is pinned by the requests."""
    spec = resolve_model(ModelConfig(source=str(sd), control={"edge": edge}, operation="control"), Path)
    assert [(part.kind, part.name, part.path) for part in spec.parts] == [("control", "edge", str(edge))]
    requests, _ = operation_requests(spec, "control")
    assert requests[0].adapters[0].sha256 == spec.parts[0].sha256
    without = resolve_model(ModelConfig(source=str(sd)), Path)
    assert "control" not in without.operations
    with pytest.raises(InputError, match=r"cannot do control; name a ControlNetModel folder in model.control"):
        resolve_model(ModelConfig(source=str(sd), operation="control"), Path)


def test_folders_that_do_not_fit(sd: Path, edge: Path, tmp_path: Path) -> None:
    """Other classes, other bases, pickles, cut weights and families without ControlNets are told, all at once."""
    sdxl = write_tiny_sdxl(tmp_path / "tiny-sdxl")
    other = write_tiny_controlnet(tmp_path / "other", sdxl)
    folders = {kind: shutil.copytree(edge, tmp_path / kind) for kind in ("class", "pickle", "cut", "empty")}
    config = json.loads((edge / "config.json").read_text())
    (folders["class"] / "config.json").write_text(json.dumps({**config, "_class_name": "FluxControlNetModel"}))
    weights = "diffusion_pytorch_model.safetensors"
    (folders["pickle"] / weights).rename(folders["pickle"] / "diffusion_pytorch_model.bin")
    (folders["cut"] / weights).write_bytes((edge / weights).read_bytes()[:-5])
    (folders["empty"] / "config.json").unlink()
    with pytest.raises(InputError) as error:
        resolve_model(ModelConfig(source=str(sd), control={**folders, "base": other}), Path)
    found = {problem.column.rpartition(".")[2]: problem.message for problem in error.value.problems}
    assert "needs a ControlNetModel" in found["class"]
    assert "is a pickle" in found["pickle"]
    assert "cut off" in found["cut"]
    assert "no config.json" in found["empty"]
    assert "another base: its" in found["base"]
    index = json.loads((sd / "model_index.json").read_text())
    pixart = shutil.copytree(sd, tmp_path / "pixart")
    (pixart / "model_index.json").write_text(json.dumps({**index, "_class_name": "PixArtSigmaPipeline"}))
    with pytest.raises(InputError, match="no ControlNet in diffusers"):
        resolve_model(ModelConfig(source=str(pixart), control={"edge": edge}), Path)


def test_changed_after_planning(sd: Path, edge: Path, tmp_path: Path) -> None:
    """A ControlNet exchanged between planning and the first batch is not used."""
    copy = shutil.copytree(edge, tmp_path / "edge")
    config = ModelConfig(source=str(sd), device="cpu", control={"edge": copy}, operation="control")
    spec = resolve_model(config, Path)
    generator = load_generator(spec, config)
    shutil.copytree(write_tiny_controlnet(tmp_path / "new", sd, seed=9), copy, dirs_exist_ok=True)
    requests, pictures = operation_requests(spec, "control", 1)
    with pytest.raises(EngineError, match="the ControlNet changed since it was planned"):
        generator.generate(requests, references=pictures)


def test_steady_encoding() -> None:
    """Within it an autoencoder gives its mean wherever no generator is handed over, and draws where one is."""
    import torch
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=8, latent_channels=4).eval()
    picture = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        with steady_encoding(vae):
            told = vae.encode(picture).latent_dist
            assert torch.equal(told.sample(), told.mode())
            draws = [told.sample(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
        assert torch.equal(draws[0], draws[1])
        assert not torch.equal(draws[0], draws[2])
        assert not torch.equal(vae.encode(picture).latent_dist.sample(), told.mode())
