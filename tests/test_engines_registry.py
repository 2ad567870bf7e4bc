"""What a config names is resolved without torch, and what cannot be used is refused with the file and the way out."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest

from assetmill.config import JudgeConfig, ModelConfig, UpscaleConfig
from assetmill.engines import registry
from assetmill.engines.protocols import EngineError
from assetmill.engines.registry import check_request, count_tokens, resolve_judge, resolve_model, resolve_upscaler
from assetmill.records import InputError, Request
from test_engines_folders import write_safetensors


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def make_model(folder: Path, **index: Any) -> Path:
    """The files of a Stable Diffusion folder that resolving looks at."""
    content = {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "safety_checker": [None, None],
        "requires_safety_checker": False,
        **index,
    }
    write_safetensors(folder / "unet" / "diffusion_pytorch_model.safetensors")
    write_safetensors(folder / "vae" / "diffusion_pytorch_model.safetensors")
    (folder / "unet" / "config.json").write_text(json.dumps({"sample_size": 32}))
    (folder / "vae" / "config.json").write_text(json.dumps({"block_out_channels": [1, 2, 3, 4]}))
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "DDIMScheduler"}')
    (folder / "tokenizer").mkdir(exist_ok=True)
    (folder / "tokenizer" / "tokenizer_config.json").write_text('{"model_max_length": 77}')
    (folder / "model_index.json").write_text(json.dumps(content))
    return folder


def resolve(folder: Path, **settings: Any) -> Any:
    return resolve_model(ModelConfig(source=str(folder), **settings), Path)


def test_a_folder(tmp_path: Path) -> None:
    """A folder's spec holds its fingerprint, native size and the family's defaults; its card gives the licence."""
    folder = make_model(tmp_path / "my-model")
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    spec = resolve(folder)
    assert (spec.id, spec.engine, spec.family) == ("my-model", "diffusers", "stable-diffusion")
    assert (spec.width, spec.height, spec.size_multiple, spec.token_limit) == (256, 256, 8, 77)
    assert (spec.steps, spec.guidance, spec.cuts) == (30, 7.5, True)
    assert (spec.licence, spec.commercial) == ("cc-by-nc-4.0", False)
    assert len(spec.revision) == 64
    assert resolve(folder, revision=spec.revision) == spec
    with pytest.raises(InputError, match="the config pins 00"):
        resolve(folder, revision="00")


def test_settings_beside_the_weights(tmp_path: Path) -> None:
    """An assetmill.json in the folder gives the defaults, and is no part of the fingerprint."""
    folder = make_model(tmp_path / "m")
    revision = resolve(folder).revision
    (folder / "assetmill.json").write_text('{"steps": 16, "guidance": 2.0, "size": 64, "scheduler": "DDIMScheduler"}')
    spec = resolve(folder)
    assert (spec.steps, spec.guidance, spec.width, spec.height, spec.scheduler) == (16, 2.0, 64, 64, "DDIMScheduler")
    assert spec.revision == revision


def test_starter_and_no_torch() -> None:
    """The starter's models resolve, their prompts' tokens are counted, and torch is not imported."""
    code = (
        "import sys\n"
        "from assetmill.config import ModelConfig, JudgeConfig, UpscaleConfig\n"
        "from assetmill.engines.registry import *\n"
        "m = resolve_model(ModelConfig(), lambda p: p)\n"
        "assert (m.id, m.width, m.token_limit, m.commercial) == ('starter', 64, 32, True), m\n"
        "count = count_tokens(m)\n"
        "assert count('') == 2 and 3 <= count('a red mug') < 20 and count('mug ' * 100) >= 102\n"
        "assert len(resolve_judge(JudgeConfig(), lambda p: p).key) == 64\n"
        "assert resolve_upscaler(UpscaleConfig(), lambda p: p).scale == 4\n"
        "loaded = {'torch', 'diffusers', 'open_clip', 'transformers', 'spandrel', 'pandas'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pickles(tmp_path: Path) -> None:
    """A part with pickled weights alone is refused by name; beside safetensors pickles don't matter."""
    folder = make_model(tmp_path / "m")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04")
    resolve(folder)
    weights.unlink()
    with pytest.raises(InputError, match=r"diffusion_pytorch_model\.bin: is a pickle.*safe_serialization=True"):
        resolve(folder)
    (folder / "unet" / "diffusion_pytorch_model.bin").unlink()
    with pytest.raises(InputError, match="'unet' has no weights"):
        resolve(folder)


def test_all_problems_at_once(tmp_path: Path) -> None:
    """Remote code, custom pipelines, pointers and missing parts are told together, each with its file."""
    folder = make_model(tmp_path / "m", _class_name=["pipeline", "MyPipeline"], text_encoder=["transformers", "X"])
    (folder / "pipeline.py").write_text("raise SystemExit")
    (folder / "unet" / "config.json").write_text('{"auto_map": {"AutoModel": "x.Y"}}')
    pointer = b"version https://git-lfs.github.com/spec/v1\n"
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(pointer)
    with pytest.raises(InputError) as error:
        resolve(folder)
    text = str(error.value)
    for part in ("custom pipeline", "pipeline.py", "auto_map", "Git LFS pointer", "'text_encoder' is missing"):
        assert part in text
    assert len(error.value.problems) == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "no/such/folder"}, "no model folder at"),
        ({"source": "owner/name"}, "needs a pinned revision"),
        ({"source": "owner/name", "revision": "main"}, "40 hex digits"),
        ({"source": "owner/name", "revision": "0" * 40}, "is not on this machine.*hf download owner/name"),
        ({"engine": "imaginary"}, "use one of diffusers, kandinsky, cascade, autoregressive, simulated"),
    ],
)
def test_sources_that_lead_nowhere(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    """An unknown folder, an unpinned or absent hub model and an unknown engine say what to write instead."""
    with pytest.raises(InputError, match=message):
        resolve_model(ModelConfig(**settings), lambda p: tmp_path / p)


def test_files_that_are_no_folders(tmp_path: Path) -> None:
    """A single checkpoint and a folder without an index are refused."""
    (tmp_path / "model.ckpt").write_bytes(b"x")
    with pytest.raises(InputError, match="single file"):
        resolve(tmp_path / "model.ckpt")
    with pytest.raises(InputError, match=r"no model_index.json, only model.ckpt"):
        resolve(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": (250, 256)}, "multiples of 8.*say 248x256"),
        ({"operation": "variation"}, "cannot do variation.*IP-Adapter"),
        ({"strength": 0.5}, "no meaning"),
        ({"scheduler": "Euler"}, "use one of DDIMScheduler, DDPMScheduler"),
        ({"scheduler": "DPMSolverSDEScheduler"}, "does not fit"),
        ({"options": {"nonsense": 1}}, "known options: clip_skip"),
        ({"guidance": 1.0, "negative": "blurry"}, "negative prompt has no effect"),
        ({"adapters": [{"path": "x.safetensors"}]}, "the adapter is missing"),
    ],
)
def test_settings_a_model_cannot_honour(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Nothing in the model section is quietly ignored."""
    with pytest.raises(InputError, match=message):
        resolve(make_model(tmp_path / "m"), **settings)


def test_unknown_and_distilled_families(tmp_path: Path) -> None:
    """An unknown pipeline class needs its settings; latent-consistency UNets and schnell say what guidance means."""
    other = make_model(tmp_path / "other", _class_name="BrandNewPipeline")
    with pytest.raises(InputError, match=r"set model\.steps"):
        resolve(other)
    assert resolve(other, steps=4, guidance=1.0).family == "BrandNewPipeline"
    lcm = make_model(tmp_path / "lcm")
    (lcm / "unet" / "config.json").write_text('{"sample_size": 32, "time_cond_proj_dim": 256}')
    assert (resolve(lcm).guidance_kind, resolve(lcm).cuts) == ("distilled", False)
    with pytest.raises(InputError, match="no effect with this model"):
        resolve(lcm, negative="x")
    schnell = make_model(tmp_path / "schnell", _class_name="FluxPipeline")
    (schnell / "transformer").mkdir()
    (schnell / "transformer" / "config.json").write_text('{"guidance_embeds": false}')
    spec = resolve(schnell)
    assert (spec.steps, spec.guidance, spec.size_multiple) == (4, 0.0, 16)
    with pytest.raises(InputError, match="takes no guidance"):
        resolve(schnell, guidance=3.5)


def test_requests_are_checked(tmp_path: Path) -> None:
    """A row's own size or negative prompt can be refused before anything is loaded."""
    spec = resolve(make_model(tmp_path / "m"))
    fine = Request("diffusers", 1, spec.id, spec.revision, "a", 0, 64, 64, 4, 3.0, negative="b")
    assert check_request(spec, fine) == []
    odd = Request("diffusers", 1, spec.id, spec.revision, "a", 0, 65, 64, 4, 1.0, negative="b", operation="control")
    assert len(check_request(spec, odd)) == 3


def test_judges(tmp_path: Path) -> None:
    """A judge's key follows its bytes and architecture; pickles, unknown names and missing weights are refused."""
    folder = tmp_path / "clip"
    folder.mkdir()
    with pytest.raises(InputError, match="no open_clip_config"):
        resolve_judge(JudgeConfig(source=str(folder)), Path)
    (folder / "open_clip_config.json").write_text("{}")
    (folder / "open_clip_pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(InputError, match=r"only the pickle open_clip_pytorch_model\.bin"):
        resolve_judge(JudgeConfig(source=str(folder)), Path)
    weights = write_safetensors(folder / "open_clip_model.safetensors")
    first = resolve_judge(JudgeConfig(source=str(folder)), Path)
    write_safetensors(weights, b"\1" * 16)
    assert resolve_judge(JudgeConfig(source=str(folder)), Path).key != first.key

    named = resolve_judge(JudgeConfig(source="ViT-B-32", pretrained=str(weights)), Path)
    tagged = resolve_judge(JudgeConfig(source="ViT-B-32", pretrained="laion2b_s34b_b79k"), Path)
    assert len({named.key, tagged.key, first.key}) == 3
    for settings, message in [
        ({"source": "ViT-B-23"}, "say ViT-B-32"),
        ({"source": "ViT-B-32"}, "without weights"),
        ({"source": "ViT-B-32", "pretrained": str(folder / "open_clip_pytorch_model.bin")}, "is not safetensors"),
        ({"source": "ViT-B-32", "pretrained": str(tmp_path / "gone.safetensors")}, "no such weight file"),
        ({"engine": "imaginary"}, "use one of open_clip, transformers"),
    ]:
        with pytest.raises(InputError, match=message):
            resolve_judge(JudgeConfig(**settings), Path)


def test_upscalers(tmp_path: Path) -> None:
    """An upscaler's key follows its settings; sizes and files that cannot work are refused."""
    keys = {
        resolve_upscaler(UpscaleConfig(engine=engine, scale=scale), Path).key
        for engine in ("nearest", "lanczos")
        for scale in (2, 4)
    }
    assert len(keys) == 4
    assert resolve_upscaler(UpscaleConfig(engine="none"), Path).scale == 1
    starter = resolve_upscaler(UpscaleConfig(), Path)
    assert resolve_upscaler(UpscaleConfig(tile=128), Path).key != starter.key
    assert resolve_upscaler(UpscaleConfig(scale=2), Path).scale == 2
    (tmp_path / "x.pth").write_bytes(b"x")
    for settings, message in [
        ({"engine": "none", "scale": 2}, "keeps the size"),
        ({"scale": 8}, "enlarges 4 times, not 8"),
        ({"tile": 32, "overlap": 16}, "leaves nothing"),
        ({"source": str(tmp_path / "gone.safetensors")}, "no such weight file"),
        ({"source": str(tmp_path / "x.pth")}, "is not safetensors"),
        ({"engine": "imaginary"}, "use one of spandrel, diffusers"),
    ]:
        with pytest.raises(InputError, match=message):
            resolve_upscaler(UpscaleConfig(**settings), Path)


def test_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry point adds an engine; one that fails to load says so; a built-in's name cannot be taken."""
    made = registry.resolve_model(ModelConfig(engine="simulated"), Path)

    class Plug:
        @staticmethod
        def resolve(config: ModelConfig, resolve_path: Any) -> Any:
            return made

        @staticmethod
        def load(spec: Any, config: ModelConfig) -> str:
            return "loaded"

    plug = sys.modules[__name__]
    monkeypatch.setattr(plug, "Plug", Plug, raising=False)
    points = EntryPoints(
        [
            EntryPoint("mine", f"{__name__}:Plug", "assetmill.generators"),
            EntryPoint("simulated", f"{__name__}:Gone", "assetmill.generators"),
            EntryPoint("broken", f"{__name__}:Gone", "assetmill.generators"),
        ]
    )
    monkeypatch.setattr(registry.metadata, "entry_points", lambda group: points.select(group=group))
    assert resolve_model(ModelConfig(engine="mine"), Path) is made
    assert resolve_model(ModelConfig(engine="simulated"), Path) == made
    with pytest.raises(EngineError, match=r"'broken'.*cannot be loaded"):
        resolve_model(ModelConfig(engine="broken"), Path)
    with pytest.raises(InputError, match="autoregressive, simulated, broken, mine"):
        resolve_model(ModelConfig(engine="other"), Path)


def test_tokens_from_old_tokenizer_files(tmp_path: Path) -> None:
    """Folders with vocabulary and merges alone count as CLIP does: lower case, white space folded, two marks."""
    folder = make_model(tmp_path / "m")
    spec = resolve(folder)
    assert count_tokens(spec) is None
    words = ["a", "b", "a</w>", "b</w>", "ab</w>", "<|startoftext|>", "<|endoftext|>"]
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    count = count_tokens(resolve(folder))
    assert count is not None
    assert [count(text) for text in ("", "a", "AB", "ab   ab\nba")] == [2, 3, 3, 6]
