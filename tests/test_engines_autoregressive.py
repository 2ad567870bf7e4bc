"""Janus on a tiny folder of the real class: the library's tokens, a seed per picture, guidance, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assetmill.config import ModelConfig
from assetmill.engines.autoregressive import JanusGenerator, _pick
from assetmill.engines.protocols import EngineError
from assetmill.engines.registry import load_generator, resolve_model
from assetmill.records import InputError, Request
from tiny_families import write_tiny_janus


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_janus(tmp_path_factory.mktemp("models") / "tiny-janus")


@pytest.fixture(scope="module")
def generator(folder: Path) -> JanusGenerator:
    config = ModelConfig(engine="autoregressive", source=str(folder), device="cpu")
    found = load_generator(resolve_model(config, Path), config)
    assert isinstance(found, JanusGenerator)
    return found


def make_request(generator: JanusGenerator, **changes: Any) -> Request:
    spec = generator.spec
    first = Request(
        spec.engine, spec.epoch, spec.id, spec.revision, "a red mug", 7, spec.width, spec.height, steps=spec.steps,
        guidance=5.0,
    )  # fmt: skip
    return replace(first, **changes)


def test_the_spec_needs_no_torch(folder: Path) -> None:
    """A plan knows size, tokens and limits of a Janus without importing torch, and counts its tokens."""
    code = (
        "import sys; from pathlib import Path\n"
        "from assetmill.config import ModelConfig\n"
        "from assetmill.engines.registry import count_tokens, resolve_model\n"
        f"m = resolve_model(ModelConfig(engine='autoregressive', source={str(folder)!r}), Path)\n"
        "assert (m.width, m.height, m.steps, m.fixed) == (8, 8, 16, ('size', 'steps')), m\n"
        "assert count_tokens(m)('mug') >= 3\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("guidance", [5.0, 2.0])
def test_the_librarys_own_tokens(generator: JanusGenerator, guidance: float) -> None:
    """Without sampling the tokens are those that transformers' own loop gives."""
    import torch

    turn = [{"role": "user", "content": [{"type": "text", "text": "a red mug"}]}]
    text = generator.processor.apply_chat_template(turn, add_generation_prompt=True)
    inputs = generator.processor(text=text, generation_mode="image", return_tensors="pt")
    begin_picture = generator.processor.tokenizer.convert_tokens_to_ids("<begin_of_image>")
    generator.model.generation_config.generation_kwargs = {"boi_token_id": begin_picture}
    theirs = generator.model.generate(
        **inputs, generation_mode="image", do_sample=False, guidance_scale=guidance, max_length=64
    )
    ours = generator._write([make_request(generator)], guidance, 0.0, 0)
    torch.testing.assert_close(ours, theirs)


def test_neighbours_do_not_matter(generator: JanusGenerator) -> None:
    """Each picture has its own generator: prompts of several lengths in a batch keep the pictures they have alone."""
    first = make_request(generator)
    batch = [
        first,
        replace(first, positive="a much longer caption, of a blue key on a table", seed=8),
        replace(first, negative="blurry and dark", seed=9),
        replace(first, seed=10),
    ]
    together = generator.generate(batch)
    assert together.pixels.shape == (4, 8, 8, 3)
    assert together.finite.all()
    for row, request in enumerate(batch):
        alone = generator.generate([request])
        assert float((together.device_pixels[row] - alone.device_pixels[0]).abs().max()) < 1e-3
    assert len({picture.tobytes() for picture in together.pixels}) == 4


def test_settings_are_honoured(generator: JanusGenerator) -> None:
    """Text, seed, guidance, negative prompt, temperature and top_k each make another picture."""
    base = make_request(generator)
    plain = generator.generate([base]).device_pixels
    for change in (
        {"positive": "a key"}, {"seed": 8}, {"guidance": 9.0}, {"guidance": 1.0}, {"negative": "dark"},
        {"options": (("temperature", 3.0),)}, {"options": (("top_k", 1),)},
    ):  # fmt: skip
        other = generator.generate([replace(base, **change)]).device_pixels
        assert float((other - plain).abs().max()) > 1e-3, change
    cold = (("temperature", 0.0),)
    same = [generator.generate([replace(base, options=cold, seed=seed)]).pixels for seed in (1, 2)]
    assert (same[0] == same[1]).all()


def test_sampling_follows_the_softmax() -> None:
    """Tokens are drawn with the probabilities of the logits, and top_k leaves out the rest."""
    import torch

    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    count = 4000
    generators = [torch.Generator("cpu").manual_seed(n) for n in range(count)]
    drawn = _pick(logits.repeat(count, 1), generators, 1.0, 0)
    shares = torch.bincount(drawn, minlength=4) / count
    torch.testing.assert_close(shares, logits.softmax(-1)[0], atol=0.03, rtol=0)
    drawn = _pick(logits.repeat(count, 1), generators, 1.0, 2)
    assert set(drawn.tolist()) == {1, 2}


def test_refusals(generator: JanusGenerator, folder: Path, tmp_path: Path) -> None:
    """Sizes and steps it cannot make, schedulers, operations and other folders are refused."""
    base = make_request(generator)
    for changes, message in (
        ({"width": 16}, "makes 8x8 only"),
        ({"steps": 20}, "always takes 16 steps"),
        ({"operation": "variation"}, "cannot do variation"),
        ({"options": (("temperature", -1.0),)}, "cannot be negative"),
        ({"guidance": 1.0, "negative": "dark"}, "negative prompt has no effect"),
    ):
        with pytest.raises(EngineError, match=message):
            generator.generate([replace(base, **changes)])  # type: ignore[arg-type]
    for settings, message in (
        ({"size": 16}, "makes 8x8 only"),
        ({"steps": 20}, "always takes 16 steps"),
        ({"scheduler": "DDIMScheduler"}, "this model has none"),
    ):
        config = ModelConfig(engine="autoregressive", source=str(folder), **settings)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=message):
            resolve_model(config, Path)
    copy = shutil.copytree(folder, tmp_path / "other")
    content = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**content, "architectures": ["MultiModalityCausalLM"]}))
    with pytest.raises(InputError, match="deepseek-community"):
        resolve_model(ModelConfig(engine="autoregressive", source=str(copy)), Path)
    (copy / "config.json").unlink()
    with pytest.raises(InputError, match="no config.json"):
        resolve_model(ModelConfig(engine="autoregressive", source=str(copy)), Path)
