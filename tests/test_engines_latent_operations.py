"""Every operation of the latent engines, by the real classes loaded from tiny folders: what it does to whose pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assetmill.config import ModelConfig
from assetmill.engines.latent import LatentGenerator
from assetmill.engines.protocols import EngineError
from assetmill.engines.registry import load_generator, resolve_model
from assetmill.records import Request
from tiny_families import write_tiny_lcm, write_tiny_qwen_image, write_tiny_z_image
from tiny_models import write_tiny_flux, write_tiny_sd, write_tiny_sd3, write_tiny_sdxl
from tiny_operations import (
    operation_requests,
    tiny_mask,
    tiny_picture,
    write_tiny_controlnet,
    write_tiny_ip_adapter,
    write_tiny_lora,
    write_tiny_sana_of_two,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
    "ignore:__array_wrap__ must accept context:DeprecationWarning",
)

STARTS = ("image-to-image", "inpaint", "keep-product")
CASES = [
    ("sd", write_tiny_sd, (*STARTS, "control", "variation")),
    ("sdxl", write_tiny_sdxl, (*STARTS, "control", "variation")),
    ("sd3", write_tiny_sd3, (*STARTS, "control")),
    ("flux", write_tiny_flux, (*STARTS, "control")),
    ("lcm", write_tiny_lcm, ("image-to-image", "variation")),
    ("sana", write_tiny_sana_of_two, ("control",)),
    ("z-image", write_tiny_z_image, (*STARTS, "control")),
    ("qwen-image", write_tiny_qwen_image, (*STARTS, "control")),
]
PAIRS = [(name, operation) for name, _, operations in CASES for operation in operations]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Loaded(dict[str, LatentGenerator]):
    """One generator per family, loaded when first asked for, with two ControlNets and, for UNets, an IP-Adapter."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        super().__init__()
        self.folders = folders

    def __missing__(self, name: str) -> LatentGenerator:
        root = self.folders.mktemp("models")
        folder = next(write for case, write, _ in CASES if case == name)(root / f"tiny-{name}")
        operations = next(operations for case, _, operations in CASES if case == name)
        settings: dict[str, Any] = {}
        if "control" in operations:
            settings["control"] = {
                "edge": write_tiny_controlnet(root / "edge", folder, seed=1),
                "depth": write_tiny_controlnet(root / "depth", folder, seed=2),
            }
        if "variation" in operations:
            settings["ip_adapter"] = write_tiny_ip_adapter(root / "ip", folder)
        self[name] = load(folder, **settings)
        return self[name]


@pytest.fixture(scope="module")
def generators(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return Loaded(tmp_path_factory)


def load(folder: Path, **settings: Any) -> LatentGenerator:
    operation = settings.pop("operation", "text-to-image")
    config = ModelConfig(source=str(folder), device="cpu", operation=operation, **settings)
    generator = load_generator(resolve_model(config, Path), config)
    assert isinstance(generator, LatentGenerator)
    return generator


@pytest.mark.parametrize(("family", "operation"), PAIRS)
def test_pictures_do_not_depend_on_the_batch(generators: Loaded, family: str, operation: str) -> None:
    """With reference images of their own, requests give in a batch the pictures they have alone, in any order."""
    generator = generators[family]
    assert operation in generator.spec.operations
    requests, pictures = operation_requests(generator.spec, operation)
    whole = generator.generate(requests, references=pictures)
    assert whole.pixels.shape == (3, 32, 32, 3)
    assert whole.finite.all()
    back = generator.generate(requests[::-1], references=pictures)
    for row in range(3):
        assert difference(whole, back, row, 2 - row) < 1e-3
    alone = generator.generate(requests[1:2], references=pictures)
    assert difference(whole, alone, 1, 0) < 1e-3
    assert len({picture.tobytes() for picture in whole.pixels}) == 3


@pytest.mark.parametrize(("family", "operation"), PAIRS)
def test_references_decide_the_picture(generators: Loaded, family: str, operation: str) -> None:
    """Another reference image gives another picture, and running other operations in between changes nothing."""
    generator = generators[family]
    requests, pictures = operation_requests(generator.spec, operation, 1)
    first = generator.generate(requests, references=pictures)
    plain, _ = operation_requests(generator.spec, "text-to-image", 1)
    generator.generate(plain)
    first_one, *rest = requests[0].references
    turned = [replace(requests[0], references=(replace(first_one, blob="f" * 64), *rest))]
    other = generator.generate(turned, references={**pictures, "f" * 64: 255 - pictures[first_one.blob]})
    assert (other.pixels != first.pixels).any()
    again = generator.generate(requests, references=pictures)
    np.testing.assert_array_equal(again.pixels, first.pixels)


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux"])
def test_weights_are_shared(generators: Loaded, family: str) -> None:
    """All operations run over the very modules that were loaded, by the classes AutoPipeline would choose."""
    from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting

    generator = generators[family]
    for operation, auto in (("image-to-image", AutoPipelineForImage2Image), ("inpaint", AutoPipelineForInpainting)):
        requests, pictures = operation_requests(generator.spec, operation, 1)
        made = generator._operations.prepare(requests, pictures, guided=True).pipeline
        assert type(made) is type(auto.from_pipe(generator.pipeline))
        for name, part in made.components.items():
            if hasattr(part, "parameters"):
                assert part is generator.pipeline.components[name]


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux"])
def test_inpainting_changes_only_the_masked_part(generators: Loaded, family: str) -> None:
    """Outside the mask an inpainted picture has the pixels of its start, inside it others."""
    generator = generators[family]
    requests, pictures = operation_requests(generator.spec, "inpaint")
    result = generator.generate(requests, references=pictures)
    for row, request in enumerate(requests):
        start, mask = (pictures[reference.blob] for reference in request.references)
        np.testing.assert_array_equal(result.pixels[row][mask == 0], start[mask == 0])
        assert (result.pixels[row][mask == 255] != start[mask == 255]).mean() > 0.5


def test_keeping_a_product_is_inpainting_with_the_mask_turned(generators: Loaded) -> None:
    """keep-product with a mask is what inpaint makes with its opposite, before the product is put back."""
    generator = generators["sd"]
    keep, pictures = operation_requests(generator.spec, "keep-product")
    kept = generator.generate(keep, references=pictures)
    inpaint = [replace(request, operation="inpaint") for request in keep]
    turned = {blob: 255 - p if p.ndim == 2 else p for blob, p in pictures.items()}
    changed = generator.generate(inpaint, references=turned)
    for row, request in enumerate(keep):
        mask = pictures[request.references[1].blob]
        np.testing.assert_array_equal(kept.pixels[row][mask == 0], changed.pixels[row][mask == 0])
        assert (kept.pixels[row][mask == 255] != pictures[request.references[0].blob][mask == 255]).any()


def test_same_pictures_as_plain_diffusers(generators: Loaded) -> None:
    """Image to image and ControlNet give what a per-picture script with the same seed and settings gives."""
    import torch
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, StableDiffusionImg2ImgPipeline
    from PIL import Image

    generator = generators["sd"]
    folder = generator.spec.folder
    for operation in ("image-to-image", "control"):
        requests, pictures = operation_requests(generator.spec, operation)
        request, image = requests[1], Image.fromarray(pictures[requests[1].references[0].blob])
        if operation == "control":
            net = ControlNetModel.from_pretrained(generator.spec.parts[0].path)
            pipeline = StableDiffusionControlNetPipeline.from_pretrained(folder, controlnet=net)
            own: dict[str, Any] = {"width": 32, "height": 32}
        else:
            pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(folder)
            own = {"strength": 0.7}
        pipeline.set_progress_bar_config(disable=True)
        theirs = pipeline(
            request.positive, image=image, negative_prompt=request.negative, num_inference_steps=4, guidance_scale=3.0,
            generator=torch.Generator("cpu").manual_seed(request.seed), output_type="np", **own,
        ).images[0]  # fmt: skip
        ours = generator.generate(requests, references=pictures).pixels[1]
        assert np.abs(theirs * 255 - ours).max() < 1


@pytest.fixture(scope="module")
def starter() -> LatentGenerator:
    """The shipped model."""
    config = ModelConfig(device="cpu")
    generator = load_generator(resolve_model(config, Path), config)
    assert isinstance(generator, LatentGenerator)
    return generator


@pytest.fixture(scope="module")
def mug(starter: LatentGenerator) -> np.ndarray:
    """A picture it makes."""
    return starter.generate(starter_requests(starter, "a red mug", "text-to-image", 1)).pixels[0]


def starter_requests(
    generator: LatentGenerator, text: str, operation: str, count: int, **changes: Any
) -> list[Request]:
    """Requests at the model's own settings, all from the picture named "mug" and the mask named "mask"."""
    spec = generator.spec
    requests, _ = operation_requests(
        spec, operation, count, positive=text, negative="", width=64, height=64, steps=10, guidance=spec.guidance,
        scheduler=spec.scheduler, **changes,
    )  # fmt: skip
    blobs = {"init": "mug", "mask": "mask"}
    return [
        replace(r, references=tuple(replace(reference, blob=blobs[reference.role]) for reference in r.references))
        for r in requests
    ]


def test_starter_strength(starter: LatentGenerator, mug: np.ndarray) -> None:
    """On the shipped model a low strength stays near the picture it starts from, a high one leaves it."""
    distances = []
    for strength in (0.2, 0.5, 1.0):
        requests = starter_requests(starter, "a blue key", "image-to-image", 4, strength=strength)
        pixels = starter.generate(requests, references={"mug": mug}).pixels
        distances.append(float(np.abs(pixels.astype(float) - mug).mean()))
    assert distances[0] < 12  # of 255 levels; the autoencoder alone loses about 4
    assert 1.5 * distances[0] < distances[1] < distances[2] / 2


def test_starter_inpainting(starter: LatentGenerator, mug: np.ndarray) -> None:
    """On the shipped model the half under the mask becomes another thing, and the other half keeps every pixel."""
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 32:] = 255
    requests = starter_requests(starter, "a blue key", "inpaint", 4)
    made = starter.generate(requests, references={"mug": mug, "mask": mask}).pixels
    assert (made[:, :, :32] == mug[:, :32]).all()
    assert np.abs(made[:, :, 32:].astype(float) - mug[:, 32:]).mean() > 25
    keep = starter_requests(starter, "a blue key", "keep-product", 4)
    kept = starter.generate(keep, references={"mug": mug, "mask": mask}).pixels.astype(float)
    near, far = np.abs(kept[:, :, 36:] - mug[:, 36:]).mean(), np.abs(kept[:, :, :28] - mug[:, :28]).mean()
    assert near < far / 3  # the product comes out of the autoencoder nearly as it went in, the scene is new


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_weights_of_references_act(generators: Loaded, family: str) -> None:
    """The weight of a control map or reference image says how strongly it acts; at 0 another one changes nothing."""
    generator = generators[family]
    for operation in ("control", "variation"):
        requests, pictures = operation_requests(generator.spec, operation, 1)
        (reference,) = requests[0].references
        images = []
        for weight in (0.0, 0.5, 1.0):
            asked = [replace(requests[0], references=(replace(reference, weight=weight),))]
            images.append(generator.generate(asked, references=pictures).device_pixels)
            if weight == 0:
                another = [replace(asked[0], references=(replace(reference, weight=0.0, blob="e" * 64),))]
                other = generator.generate(another, references={"e" * 64: 255 - pictures[reference.blob]})
                assert float((other.device_pixels - images[0]).abs().max()) < 1e-5
        assert len({float(image.sum()) for image in images}) == 3


def test_several_control_maps(generators: Loaded) -> None:
    """Maps of two kinds act together, each through the ControlNet of its kind."""
    generator = generators["sd"]
    both, pictures = operation_requests(generator.spec, "control", kinds=("edge", "depth"))
    assert [adapter.kind for adapter in both[0].adapters] == ["control", "control"]
    together = generator.generate(both, references=pictures)
    alone = generator.generate(both[1:2], references=pictures)
    assert difference(together, alone, 1, 0) < 1e-3
    one, more = operation_requests(generator.spec, "control", kinds=("edge",))
    assert (generator.generate(one, references=more).pixels != together.pixels).any()


@pytest.mark.parametrize("operation", ["image-to-image", "inpaint", "control", "variation"])
def test_pausing_works_for_every_operation(generators: Loaded, operation: str) -> None:
    """A batch that pauses half-way and goes on with other neighbours gives the pictures of one that runs through."""
    generator = generators["sd"]
    requests, pictures = operation_requests(generator.spec, operation, 4, steps=4, strength=None)
    if operation in ("image-to-image", "inpaint"):
        requests = [replace(request, strength=1.0) for request in requests]
    whole = generator.generate(requests, references=pictures)
    half = generator.generate_part(requests, references=pictures, pause_at=0.5)
    chosen = [2, 0]
    rest = generator.generate_part(
        [requests[row] for row in chosen], references=pictures, resume=[half.paused[row] for row in chosen]
    )
    for position, row in enumerate(chosen):
        assert difference(rest, whole, position, row) < 1e-3


def test_cutting_image_to_image(generators: Loaded) -> None:
    """Rows dropped from image to image leave the others' pictures as they are; other operations say they can't."""
    for family in ("sd", "sdxl"):
        generator = generators[family]
        requests, pictures = operation_requests(generator.spec, "image-to-image", 4, steps=5, strength=0.8)
        uncut = generator.generate(requests, references=pictures)
        result = generator.generate(
            requests, references=pictures, on_step=lambda step: [1, 3] if step.index == 2 else None
        )
        assert result.cut.tolist() == [2, 0, 2, 0]
        for row in (1, 3):
            assert difference(result, uncut, row, row) < 1e-3
    inpaint, pictures = operation_requests(generator.spec, "inpaint")
    with pytest.raises(EngineError, match="pause it"):
        generator.generate(inpaint, references=pictures, on_step=lambda step: None)


def test_an_inpainting_model_does_nothing_else(tmp_path: Path) -> None:
    """A UNet that reads mask and masked picture is known by its channels, and inpaints by its own class."""
    from assetmill.records import InputError

    folder = write_tiny_sd(tmp_path / "model", in_channels=9)
    generator = load(folder, operation="inpaint")
    assert generator.spec.operations == ("inpaint", "keep-product")
    requests, pictures = operation_requests(generator.spec, "inpaint")
    whole = generator.generate(requests, references=pictures)
    alone = generator.generate(requests[1:2], references=pictures)
    assert difference(whole, alone, 1, 0) < 1e-3
    with pytest.raises(InputError, match="cannot do text-to-image; it does inpaint, keep-product"):
        load(folder)


def test_references_that_do_not_fit(generators: Loaded) -> None:
    """Missing, needless or ill-sized references are one clear error before any sampling."""
    generator = generators["sd"]
    inpaint, pictures = operation_requests(generator.spec, "inpaint", 1)
    control, maps = operation_requests(generator.spec, "control", 1)
    (init, mask), (edge,) = inpaint[0].references, control[0].references
    cases = [
        (replace(inpaint[0], references=(init,)), pictures, "inpaint needs a mask"),
        (replace(inpaint[0], references=(init, init, mask)), pictures, "takes one init, not 2"),
        (replace(inpaint[0], references=(init, mask, edge)), pictures, "no reference image of the role 'control'"),
        (inpaint[0], {init.blob: pictures[init.blob]}, "was not given to the engine"),
        (inpaint[0], {**pictures, mask.blob: tiny_mask(0, 16)}, "mask of another size.*16x16 and 32x32"),
        (inpaint[0], {**pictures, mask.blob: tiny_picture(0)}, "one channel"),
        (replace(inpaint[0], strength=0.2), pictures, "leaves no step.*raise steps to 5"),
        (replace(control[0], references=(replace(edge, kind="pose"),)), maps, "no ControlNet for maps of the kind"),
        (replace(control[0], adapters=()), maps, "does not pin the control 'edge'"),
        (replace(control[0], strength=0.5), maps, "strength has no meaning for control"),
    ]
    for request, given, message in cases:
        with pytest.raises(EngineError, match=message):
            generator.generate([request], references=given)


def test_loras_and_operations_together(tmp_path: Path) -> None:
    """A LoRA acts in every operation, one that reads texts too, and is gone where a request names none."""
    folder = write_tiny_sd(tmp_path / "model")
    lora = write_tiny_lora(tmp_path / "style.safetensors", folder, text=True)
    control = {"edge": write_tiny_controlnet(tmp_path / "edge", folder)}
    with_it = load(folder, adapters=[{"path": str(lora)}], control=control)
    without = load(folder, control=control)
    for operation in ("text-to-image", "image-to-image", "inpaint", "control"):
        requests, pictures = operation_requests(with_it.spec, operation)
        plain, _ = operation_requests(without.spec, operation)
        assert [a.kind for a in requests[0].adapters][:1] == ["lora"]
        changed = with_it.generate(requests, references=pictures)
        base = without.generate(plain, references=pictures)
        taken_off = with_it.generate(plain, references=pictures)
        assert (changed.pixels != base.pixels).any()
        np.testing.assert_array_equal(taken_off.pixels, base.pixels)


@pytest.mark.parametrize("family", [name for name, _, _ in CASES])
def test_loras_of_every_family(generators: Loaded, family: str, tmp_path: Path) -> None:
    """A LoRA changes the pictures of each family that takes one; without it they are those of the bare model."""
    bare = generators[family]
    folder = Path(bare.spec.folder)
    lora = write_tiny_lora(tmp_path / "style.safetensors", folder)
    generator = load(folder, adapters=[{"path": str(lora), "weight": 2.0}])
    requests, _ = operation_requests(generator.spec, "text-to-image", 2)
    plain, _ = operation_requests(bare.spec, "text-to-image", 2)
    expected = bare.generate(plain).pixels
    assert (generator.generate(requests).pixels != expected).any()
    np.testing.assert_array_equal(generator.generate(plain).pixels, expected)


def difference(first: Any, second: Any, row: int, other: int) -> float:
    return float((first.device_pixels[row] - second.device_pixels[other]).abs().max())
