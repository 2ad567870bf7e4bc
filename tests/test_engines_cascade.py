"""DeepFloyd IF on tiny folders of the real classes: two stages, one reading of each text, its own checker and mark."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assetmill.config import ModelConfig
from assetmill.engines.cascade import CascadeGenerator
from assetmill.engines.protocols import EngineError
from assetmill.engines.registry import load_generator, resolve_model
from assetmill.records import InputError, Reference, Request
from tiny_families import write_tiny_if

pytestmark = pytest.mark.filterwarnings(
    # diffusers' schedulers hand tensors to numpy in the old way
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
    "ignore:__array_wrap__ must accept context:DeprecationWarning",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_if(tmp_path_factory.mktemp("models") / "tiny-if")


@pytest.fixture(scope="module")
def generator(folder: Path) -> CascadeGenerator:
    return load(folder)


def load(source: Path, **settings: Any) -> CascadeGenerator:
    config = ModelConfig(engine="cascade", source=str(source), device="cpu", **settings)
    found = load_generator(resolve_model(config, Path), config)
    assert isinstance(found, CascadeGenerator)
    return found


def make_request(generator: CascadeGenerator, **changes: Any) -> Request:
    spec = generator.spec
    first = Request(
        spec.engine, spec.epoch, spec.id, spec.revision, "a red mug", 7, spec.width, spec.height, steps=3, guidance=4.0,
        options=(("second_steps", 2),) if "second_steps" in spec.option_names else (),
    )  # fmt: skip
    return replace(first, **changes)


def test_spec(generator: CascadeGenerator) -> None:
    """The size is the second stage's, the token limit IF's own, and both folders are named."""
    spec = generator.spec
    assert (spec.width, spec.height, spec.token_limit) == (32, 32, 77)
    assert [name for name, _, _ in spec.stages] == ["first", "second"]
    assert spec.operations == ("text-to-image",)


def test_same_picture_as_plain_diffusers(generator: CascadeGenerator, folder: Path) -> None:
    """A script with both pipelines, shared embeddings and one generator makes the same picture."""
    import torch
    from diffusers import IFPipeline, IFSuperResolutionPipeline

    first = IFPipeline.from_pretrained(str(folder / "first"))
    second = IFSuperResolutionPipeline.from_pretrained(str(folder / "second"))
    for pipeline in (first, second):
        pipeline.set_progress_bar_config(disable=True)
    embeds, negatives = first.encode_prompt("a red mug", negative_prompt="dark")
    seed = torch.Generator("cpu").manual_seed(7)
    shared = {"prompt_embeds": embeds, "negative_prompt_embeds": negatives, "generator": seed}
    small = first(**shared, num_inference_steps=3, guidance_scale=4.0, output_type="pt").images
    large = second(**shared, image=small, num_inference_steps=2, output_type="np").images[0]
    ours = generator.generate([make_request(generator, negative="dark")]).pixels[0]
    assert np.abs(large * 255 - ours).max() < 1


def test_each_text_is_read_once(generator: CascadeGenerator) -> None:
    """T5 reads a distinct text once for all pictures, both stages and later batches."""
    read: list[int] = []
    handle = generator.first.text_encoder.register_forward_hook(lambda _, inputs, __: read.append(len(inputs[0])))
    base = make_request(generator, positive="a new caption", negative="a new worry")
    batch = [replace(base, seed=n) for n in range(3)] + [replace(base, positive="another caption")]
    generator.generate(batch)
    assert sum(read) == 3
    generator.generate(batch[::-1])
    handle.remove()
    assert sum(read) == 3


def test_neighbours_do_not_matter(generator: CascadeGenerator) -> None:
    """In a batch of mixed texts each picture is the one it is alone, up to rounding."""
    first = make_request(generator)
    batch = [first, replace(first, positive="a key", seed=8, negative="dark"), replace(first, positive="", seed=9)]
    together = generator.generate(batch)
    assert together.pixels.shape == (3, 32, 32, 3)
    assert together.finite.all()
    for row, request in enumerate(batch):
        alone = generator.generate([request])
        assert np.abs(together.pixels[row].astype(int) - alone.pixels[0]).max() <= 1


def test_settings_are_honoured(generator: CascadeGenerator) -> None:
    """Text, seed, steps, guidance, negative prompt, scheduler and the second stage's options change the picture."""
    base = make_request(generator)
    plain = generator.generate([base]).device_pixels
    for change in (
        {"positive": "a key"}, {"seed": 8}, {"steps": 5}, {"guidance": 9.0}, {"guidance": 1.0}, {"negative": "dark"},
        {"scheduler": "DDIMScheduler"}, {"scheduler": "DPMSolverMultistepScheduler"},
        {"options": (("second_steps", 4),)}, {"options": (("second_guidance", 9.0), ("second_steps", 2))},
        {"options": (("noise_level", 900), ("second_steps", 2))},
    ):  # fmt: skip
        other = generator.generate([replace(base, **change)]).device_pixels
        assert float((other - plain).abs().max()) > 1e-3, change
    assert generator.generate([replace(base, width=64)]).pixels.shape == (1, 32, 64, 3)


def test_first_stage_alone(folder: Path) -> None:
    """Without a second stage pictures have the first one's size, and its options are refused."""
    generator = load(folder / "first")
    assert (generator.spec.width, generator.spec.option_names) == (16, ())
    assert generator.generate([make_request(generator)]).pixels.shape == (1, 16, 16, 3)
    with pytest.raises(EngineError, match="does not take the option"):
        generator.generate([make_request(generator, options=(("second_steps", 2),))])


def test_two_folders_by_config(folder: Path, generator: CascadeGenerator) -> None:
    """The second stage may be named in the config; the content's name is the same."""
    other = load(folder / "first", stages={"second": {"source": str(folder / "second")}})
    assert other.spec.revision == generator.spec.revision


def test_checker_and_mark(tmp_path: Path) -> None:
    """A picture that IF's own checker withholds comes black and with the reason, and its mark is put on."""
    generator = load(write_tiny_if(tmp_path / "checked", checker=True))
    checker, marker = generator.first.safety_checker, generator.first.watermarker
    requests = [make_request(generator, width=128, height=128, seed=n) for n in (1, 2)]
    fine = generator.generate(requests)
    assert fine.refused == ("", "")
    corner = fine.pixels[:, 120:127, 120:127]
    assert (corner == 255).all()
    np.testing.assert_allclose(fine.device_pixels.permute(0, 2, 3, 1).numpy() * 255, fine.pixels, atol=1e-3)
    generator.first.watermarker = None
    forward = checker.forward

    def suspicious(*args: Any, **settings: Any) -> Any:
        images, _, _ = forward(*args, **settings)
        return images, [True, False], [False, True]

    checker.forward = suspicious
    held = generator.generate(requests)
    assert "safety checker" in held.refused[0]
    assert "watermark" in held.refused[1]
    assert not held.pixels.any()
    assert marker is not None


def test_refusals(generator: CascadeGenerator, folder: Path) -> None:
    """Other operations, references, unfit sizes, noise levels and folders are refused."""
    base = make_request(generator)
    for changes, message in (
        ({"operation": "image-to-image"}, "cannot do image-to-image"),
        ({"references": (Reference("image", "a" * 64),)}, "takes no reference image"),
        ({"width": 34}, "multiples of 4"),
        ({"options": (("noise_level", 5000),)}, "must be a valid timestep"),
        ({"scheduler": "PNDMScheduler"}, "is unknown here"),
    ):
        with pytest.raises(EngineError, match=message):
            generator.generate([replace(base, **changes)])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="has to be a IFPipeline"):
        resolve_model(ModelConfig(engine="cascade", source=str(folder / "second")), Path)


def test_what_cannot_be_fused_is_refused(folder: Path) -> None:
    """`model.fuse` is refused by a UNet with added projections, with the way out, and never passed over."""
    with pytest.raises(EngineError, match="model.fuse"):
        load(folder, fuse=True)
