"""Kandinsky 2.2 on a tiny folder of the real classes: text to image, variations, interpolation, and what is refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assetmill.config import ModelConfig
from assetmill.engines.kandinsky import KandinskyGenerator
from assetmill.engines.protocols import EngineError
from assetmill.engines.registry import check_request, load_generator, resolve_model
from assetmill.records import InputError, Reference, Request
from tiny_families import write_tiny_kandinsky

pytestmark = pytest.mark.filterwarnings(
    # diffusers' schedulers hand tensors to numpy in the old way
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
    "ignore:__array_wrap__ must accept context:DeprecationWarning",
)

MUG, KEY = "a" * 64, "b" * 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_kandinsky(tmp_path_factory.mktemp("models") / "tiny-kandinsky")


@pytest.fixture(scope="module")
def generator(folder: Path) -> KandinskyGenerator:
    found = load(folder)
    assert isinstance(found, KandinskyGenerator)
    return found


@pytest.fixture(scope="module")
def pictures() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        MUG: random.integers(0, 255, (40, 60, 3), dtype=np.uint8),
        KEY: np.full((32, 32, 3), (200, 30, 90), np.uint8),
    }


def load(source: Path, **settings: Any) -> Any:
    config = ModelConfig(engine="kandinsky", source=str(source), device="cpu", **settings)
    return load_generator(resolve_model(config, Path), config)


def make_request(generator: Any, **changes: Any) -> Request:
    spec = generator.spec
    first = Request(spec.engine, spec.epoch, spec.id, spec.revision, "a red mug", 7, 32, 32, steps=3, guidance=4.0)
    return replace(first, **{"options": (("prior_steps", 3),), **changes})


def references(**roles: tuple[str, float]) -> tuple[Reference, ...]:
    return tuple(Reference(role.replace("_", "-"), blob, weight) for role, (blob, weight) in roles.items())


def difference(one: Any, other: Any) -> float:
    return float((one - other).abs().max())


def test_the_spec_needs_no_torch(folder: Path) -> None:
    """A plan knows size, operations, limits and the content's name of both stages without importing torch."""
    code = (
        "import sys; from pathlib import Path\n"
        "from assetmill.config import ModelConfig\n"
        "from assetmill.engines.registry import count_tokens, resolve_model\n"
        f"m = resolve_model(ModelConfig(engine='kandinsky', source={str(folder)!r}), Path)\n"
        "assert (m.width, m.height, m.size_multiple, m.token_limit) == (32, 32, 4, 77), m\n"
        "assert m.operations == ('text-to-image', 'variation', 'interpolation')\n"
        "assert [s[0] for s in m.stages] == ['decoder', 'prior'] and len(m.revision) == 64\n"
        "assert count_tokens(m)('a red mug') == 5\n"
        "assert 'torch' not in sys.modules and 'diffusers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_same_picture_as_plain_diffusers(generator: KandinskyGenerator, folder: Path) -> None:
    """Text to image gives what a script with the two pipelines and the same seeds gives, negative prompts included."""
    import torch
    from diffusers import KandinskyV22Pipeline, KandinskyV22PriorPipeline

    prior = KandinskyV22PriorPipeline.from_pretrained(str(folder / "prior"))
    decoder = KandinskyV22Pipeline.from_pretrained(str(folder / "decoder"))
    for pipeline in (prior, decoder):
        pipeline.set_progress_bar_config(disable=True)
    for negative in ("", "blurry"):
        seeds = [torch.Generator("cpu").manual_seed(7) for _ in range(2 if negative else 1)]
        embeds, away = prior(
            ["a red mug"], [negative] if negative else None, num_inference_steps=3, generator=seeds, return_dict=False
        )
        theirs = decoder(
            embeds,
            away,
            32,
            32,
            num_inference_steps=3,
            generator=torch.Generator("cpu").manual_seed(7),
            output_type="np",
        ).images[0]
        ours = generator.generate([make_request(generator, negative=negative)]).pixels[0]
        assert np.abs(theirs * 255 - ours).max() < 1


def test_neighbours_do_not_matter(generator: KandinskyGenerator, pictures: dict[str, np.ndarray]) -> None:
    """In batches of mixed texts, negative prompts and references each picture is the one it is alone."""
    first = make_request(generator)
    others = [first, replace(first, positive="a key", seed=8, negative="blurry"), replace(first, positive="", seed=9)]
    image = [
        replace(r, operation="variation", references=references(image=(blob, 0.7)))
        for r, blob in zip(others, (MUG, KEY, MUG), strict=True)
    ]
    for batch in (others, image):
        together = generator.generate(batch, references=pictures)
        assert together.finite.all()
        assert together.refused == ("",) * 3
        for row, request in enumerate(batch):
            alone = generator.generate([request], references=pictures)
            assert difference(together.device_pixels[row], alone.device_pixels[0]) < 1e-3


def test_settings_are_honoured(generator: KandinskyGenerator) -> None:
    """Text, seed, steps, guidance, negative prompt, scheduler and the prior's options each make another picture."""
    base = make_request(generator)
    plain = generator.generate([base]).device_pixels
    for change in (
        {"positive": "a key"}, {"seed": 8}, {"steps": 5}, {"guidance": 9.0}, {"guidance": 1.0}, {"negative": "dark"},
        {"scheduler": "DDIMScheduler"}, {"scheduler": "DPMSolverMultistepScheduler"},
        {"options": (("prior_steps", 6),)}, {"options": (("prior_guidance", 9.0), ("prior_steps", 3))},
    ):  # fmt: skip
        assert difference(generator.generate([replace(base, **change)]).device_pixels, plain) > 1e-3, change
    assert generator.generate([replace(base, width=64)]).pixels.shape == (1, 32, 64, 3)


def test_variation_looks_at_the_reference(generator: KandinskyGenerator, pictures: dict[str, np.ndarray]) -> None:
    """A variation follows its reference and not its text; a weight below 1 gives the rest to the text."""
    base = make_request(generator, operation="variation", references=references(image=(MUG, 1.0)))

    def made(**changes: Any) -> Any:
        return generator.generate([replace(base, **changes)], references=pictures).device_pixels

    plain = made()
    assert difference(made(positive="a key"), plain) == 0
    assert difference(made(references=references(image=(KEY, 1.0))), plain) > 1e-3
    assert difference(made(seed=8), plain) > 1e-3
    half = references(image=(MUG, 0.5))
    assert difference(made(references=half), plain) > 1e-3
    assert difference(made(references=half, positive="a key"), made(references=half)) > 1e-3
    text = made(operation="text-to-image", references=())
    assert difference(made(references=references(image=(MUG, 0.0))), text) < 1e-4


def test_interpolation_meets_its_ends(generator: KandinskyGenerator, pictures: dict[str, np.ndarray]) -> None:
    """Weight 0 is the start's own picture, 1 the end's, and between them pictures move from one to the other."""
    base = make_request(generator, operation="interpolation")

    def captions(weight: float) -> Any:
        options = (("caption_to", "a blue key"), ("caption_weight", weight), ("prior_steps", 3))
        return generator.generate([replace(base, options=options)]).device_pixels

    def images(weight: float) -> Any:
        ends = references(image=(MUG, 1.0), image_to=(KEY, weight))
        return generator.generate([replace(base, references=ends)], references=pictures).device_pixels

    def mixed(weight: float) -> Any:
        ends = references(image_to=(KEY, weight))
        return generator.generate([replace(base, references=ends)], references=pictures).device_pixels

    def text(positive: str) -> Any:
        return generator.generate([make_request(generator, positive=positive)]).device_pixels

    def variation(blob: str) -> Any:
        request = make_request(generator, operation="variation", references=references(image=(blob, 1.0)))
        return generator.generate([request], references=pictures).device_pixels

    for path, start, end in (
        (captions, text("a red mug"), text("a blue key")),
        (images, variation(MUG), variation(KEY)),
        (mixed, text("a red mug"), variation(KEY)),
    ):
        assert difference(path(0.0), start) < 1e-4
        assert difference(path(1.0), end) < 1e-4
        middle = path(0.5)
        assert difference(middle, start) > 1e-3
        assert difference(middle, end) > 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"operation": "interpolation"}, "needs an end.*give image-to"),
        ({"operation": "variation"}, "needs a reference image"),
        ({"operation": "inpaint"}, "cannot do inpaint"),
        ({"references": references(image=(MUG, 1.0))}, "takes no reference image"),
        ({"options": (("caption_to", "x"),)}, "caption_to has no meaning for text-to-image"),
        ({"operation": "variation", "references": references(image=(MUG, 1.5))}, "outside \\[0, 1\\]"),
        (
            {"operation": "interpolation", "options": (("caption_to", "x"), ("caption_weight", -1.0))},
            "outside \\[0, 1\\]",
        ),
        (
            {
                "operation": "interpolation",
                "references": references(image_to=(KEY, 0.5)),
                "options": (("caption_to", "x"),),
            },
            "has one end",
        ),
        ({"operation": "interpolation", "references": references(init=(MUG, 1.0))}, "no reference image of the role"),
        ({"options": (("prior_steps", 0),)}, "no number of steps"),
        ({"width": 34}, "multiples of 4"),
        ({"negative": "dark", "guidance": 1.0}, "negative prompt has no effect"),
    ],
)
def test_refusals(generator: KandinskyGenerator, changes: dict[str, Any], message: str) -> None:
    """What cannot be mixed is refused by the plan's check, with the way out, and by the engine."""
    request = make_request(generator, **changes)
    problems = check_request(generator.spec, request)
    assert problems
    assert all(p.way_out for p in problems)
    with pytest.raises(EngineError, match=message):
        generator.generate([request])


def test_missing_picture_and_watching(generator: KandinskyGenerator) -> None:
    """A reference that was not handed over, an unknown option and watching mid-way are errors."""
    request = make_request(generator, operation="variation", references=references(image=(MUG, 1.0)))
    with pytest.raises(EngineError, match="was not handed to the engine"):
        generator.generate([request], references={})
    with pytest.raises(EngineError, match="cannot be watched"):
        generator.generate([make_request(generator)], on_step=lambda step: None)
    with pytest.raises(EngineError, match="does not take the option 'eta'"):
        generator.generate([make_request(generator, options=(("eta", 1.0),))])


def test_two_folders_by_config(folder: Path, generator: KandinskyGenerator, tmp_path: Path) -> None:
    """The stages may lie in two folders: the same content has the same name and gives the same picture."""
    decoder = shutil.copytree(folder / "decoder", tmp_path / "a-decoder")
    prior = shutil.copytree(folder / "prior", tmp_path / "a-prior")
    other = load(decoder, stages={"prior": {"source": str(prior)}})
    assert other.spec.revision == generator.spec.revision
    one = generator.generate([make_request(generator)]).pixels
    np.testing.assert_array_equal(other.generate([make_request(generator)]).pixels, one)


def test_unfit_folders(folder: Path, tmp_path: Path) -> None:
    """A missing stage, an exchanged one, an unknown one and a wrong pin are refused before anything is loaded."""

    def refuse(message: str, source: Path, **settings: Any) -> None:
        with pytest.raises(InputError, match=message):
            resolve_model(ModelConfig(engine="kandinsky", source=str(source), **settings), Path)

    refuse("the stage 'prior' is missing", folder / "decoder")
    refuse("has to be a KandinskyV22Pipeline", folder / "prior", stages={"prior": {"source": str(folder / "prior")}})
    refuse("no stage 'upscaler'", folder, stages={"upscaler": {"source": "x"}})
    refuse("fingerprint is", folder, revision="0" * 64)
    refuse("model.stages.prior.source", folder / "decoder", stages={"prior": {"source": str(tmp_path / "none")}})
    refuse("does not fit", folder, scheduler="EulerDiscreteScheduler")
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = ModelConfig(engine="kandinsky", source=str(copy), device="cpu")
    spec = resolve_model(config, Path)
    weights = next((copy / "prior" / "prior").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(InputError, match="changed or damaged"):
        load_generator(spec, config)
