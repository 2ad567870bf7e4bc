"""Every family that AutoPipeline runs: loaded from a folder of the real class, its settings honoured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assetmill.config import ModelConfig
from assetmill.engines import facts
from assetmill.engines.protocols import EngineError, Generator
from assetmill.engines.registry import _scheduler_names, load_generator, resolve_model
from assetmill.engines.schedulers import settings_for
from assetmill.records import InputError, Request
from tiny_families import WRITERS, write_tiny_kandinsky, write_tiny_klein, write_tiny_sana

pytestmark = pytest.mark.filterwarnings(
    # diffusers' schedulers hand tensors to numpy in the old way
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
    "ignore:__array_wrap__ must accept context:DeprecationWarning",
)

OTHERS = ("kandinsky-2.2", "deepfloyd-if", "janus-pro")
FAMILIES = [name for name in WRITERS if name not in OTHERS]
SEEN = 1e-4
"""Smallest difference, of pixels in [0, 1], that counts as another picture; rounding is a hundred times smaller."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Generator]:
    """The generator of a family's tiny folder, loaded once."""
    held: dict[str, Generator] = {}

    def load_family(name: str) -> Generator:
        if name not in held:
            folder = WRITERS[name](tmp_path_factory.mktemp("families") / name)
            config = ModelConfig(source=str(folder), device="cpu")
            held[name] = load_generator(resolve_model(config, Path), config)
        return held[name]

    return load_family


def make_request(generator: Generator, **changes: Any) -> Request:
    spec = generator.spec
    guidance = 0.0 if spec.guidance_kind == "none" else 4.0
    request = Request(
        spec.engine, spec.epoch, spec.id, spec.revision, "a red mug", 7, 32, 32, steps=2, guidance=guidance,
        scheduler=spec.scheduler,
    )  # fmt: skip
    return replace(request, **changes)


def picture(generator: Generator, request: Request) -> Any:
    made = generator.generate([request])
    assert made.finite.all()
    return made.device_pixels[0]


def difference(one: Any, other: Any) -> float:
    return float((one - other).abs().max())


@pytest.mark.parametrize("name", FAMILIES)
def test_settings_are_honoured(load: Callable[..., Generator], name: str) -> None:
    """Text, seed, steps, guidance and negative prompt each make another picture; the size is the one asked for."""
    generator = load(name)
    base = make_request(generator)
    plain = picture(generator, base)
    assert difference(picture(generator, base), plain) == 0
    changes: list[dict[str, Any]] = [{"positive": "a blue key on a table"}, {"seed": 8}, {"steps": 4}]
    if generator.spec.guidance_kind != "none":
        changes.append({"guidance": 9.0})
    if generator.spec.guidance_kind == "classifier-free":
        changes.append({"negative": "blurry, dark"})
    for change in changes:
        assert difference(picture(generator, replace(base, **change)), plain) > SEEN, change
    wide = generator.generate([replace(base, width=64)])
    assert wide.pixels.shape == (1, 32, 64, 3)


@pytest.mark.parametrize("name", FAMILIES)
def test_neighbours_do_not_matter(load: Callable[..., Generator], name: str) -> None:
    """In a batch of mixed texts each picture is the one it is alone, up to rounding."""
    generator = load(name)
    first = make_request(generator)
    batch = [first, replace(first, positive="a very long caption of a key, on a table by a window", seed=9)]
    if generator.spec.guidance_kind == "classifier-free":
        batch.append(replace(first, negative="blurry", seed=10))
    together = generator.generate(batch)
    for row, request in enumerate(batch):
        assert difference(together.device_pixels[row], picture(generator, request)) < 1e-4


@pytest.mark.parametrize("name", FAMILIES)
def test_schedulers_on_offer_run(load: Callable[..., Generator], name: str) -> None:
    """Each scheduler that a config may name for the family samples it, and those on offer make several pictures."""
    generator = load(name)
    names = _scheduler_names(generator.spec) or ()
    base = make_request(generator, steps=4)
    made = {scheduler: picture(generator, replace(base, scheduler=scheduler)) for scheduler in names}
    assert len({scheduler for scheduler, image in made.items() if image.isfinite().all()}) == len(names)
    assert len({image.numpy().tobytes() for image in made.values()}) > 1 or len(names) == 1


def test_flow_models_stay_flow_models(load: Callable[..., Generator]) -> None:
    """A flow-matching model, sampled by a solver made for noise, ends near the picture of its own sampler."""
    generator = load("stable-diffusion-3.5")
    own = picture(generator, make_request(generator, steps=30, guidance=1.0))
    for name in ("UniPCMultistepScheduler", "DPMSolverMultistepScheduler", "FlowMatchHeunDiscreteScheduler"):
        other = picture(generator, make_request(generator, steps=30, guidance=1.0, scheduler=name))
        assert difference(other, own) < 0.05, name


def test_sana_as_it_is_shipped_is_a_flow_model(tmp_path: Path) -> None:
    """Sana's own folders sample flow matching with a DPM solver: no scheduler made for noise is offered for them."""
    from diffusers import DPMSolverMultistepScheduler

    folder = write_tiny_sana(tmp_path / "sana")
    DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
    ).save_pretrained(str(folder / "scheduler"))
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("FlowMatchEulerDiscreteScheduler", "DPMSolverMultistepScheduler"))
    config = ModelConfig(source=str(folder), device="cpu")
    generator = load_generator(resolve_model(config, Path), config)
    assert set(_scheduler_names(generator.spec) or ()) == set(facts.SCHEDULERS["flow"])
    own = picture(generator, make_request(generator, steps=20, guidance=1.0))
    euler = make_request(generator, steps=20, guidance=1.0, scheduler="FlowMatchEulerDiscreteScheduler")
    assert float((picture(generator, euler) - own).abs().mean()) < 0.02
    with pytest.raises(InputError, match="does not fit"):
        resolve_model(ModelConfig(source=str(folder), scheduler="DDIMScheduler"), Path)


def test_what_another_scheduler_is_told() -> None:
    """Latents are not clipped like pixels, and a solver for noise is told that its model is a flow."""
    shipped = {"beta_schedule": "linear"}
    assert settings_for("DDIMScheduler", "DPMSolverMultistepScheduler", shipped)["clip_sample"] is False
    assert settings_for("DDIMScheduler", "PNDMScheduler", {"clip_sample": True})["clip_sample"] is True
    assert settings_for("", "DDIMScheduler", shipped) == shipped
    flow = settings_for("UniPCMultistepScheduler", "FlowMatchEulerDiscreteScheduler", {"shift": 3.0})
    assert flow["use_flow_sigmas"]
    assert (flow["prediction_type"], flow["flow_shift"]) == ("flow_prediction", 3.0)


def test_turbo_settings(load: Callable[..., Generator]) -> None:
    """Distilled models make a picture in one step without guidance, and refuse what they would ignore."""
    for name, steps in (("sdxl-turbo", 1), ("sdxl-lightning", 4), ("flux-1-schnell", 1), ("flux-2-klein", 4)):
        generator = load(name)
        request = make_request(generator, steps=steps, guidance=0.0)
        assert picture(generator, request).std() > 0
        with pytest.raises(EngineError, match="a negative prompt has no effect"):
            generator.generate([replace(request, negative="blurry")])
    schnell = load("flux-1-schnell")
    assert (schnell.spec.steps, schnell.spec.guidance, schnell.spec.guidance_kind) == (4, 0.0, "none")
    with pytest.raises(EngineError, match="takes no guidance"):
        schnell.generate([make_request(schnell, guidance=3.5)])


def test_latent_consistency_takes_guidance_as_an_input(load: Callable[..., Generator]) -> None:
    """LCM runs in a few steps; guidance costs no second forward, so a negative prompt is refused."""
    generator = load("lcm")
    assert (generator.spec.guidance_kind, generator.spec.steps) == ("distilled", 4)
    calls = []
    handle = generator.pipeline.unet.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[attr-defined]
    picture(generator, make_request(generator, steps=3))
    handle.remove()
    assert len(calls) == 3
    with pytest.raises(EngineError, match="negative prompt"):
        generator.generate([make_request(generator, negative="blurry")])


def test_klein_by_its_distillation(tmp_path: Path, load: Callable[..., Generator]) -> None:
    """FLUX.2 klein as distilled takes no guidance; its base model is guided, with negative prompts."""
    assert load("flux-2-klein").spec.guidance_kind == "none"
    config = ModelConfig(source=str(write_tiny_klein(tmp_path / "base", distilled=False)), device="cpu")
    generator = load_generator(resolve_model(config, Path), config)
    assert (generator.spec.guidance_kind, generator.spec.steps) == ("classifier-free", 50)
    plain = picture(generator, make_request(generator))
    for change in ({"guidance": 9.0}, {"negative": "blurry, dark"}):
        assert difference(picture(generator, make_request(generator, **change)), plain) > SEEN


def test_sana_samples_the_size_asked(load: Callable[..., Generator]) -> None:
    """Sana and PixArt sample the size asked for, not the nearest one of their table, unless told to."""
    generator = load("sana")
    sizes = []

    def note(module: Any, inputs: Any, settings: Any) -> None:
        sizes.append(tuple(settings.get("hidden_states", inputs[0] if inputs else None).shape[-2:]))

    handle = generator.pipeline.transformer.register_forward_pre_hook(note, with_kwargs=True)  # type: ignore[attr-defined]
    picture(generator, make_request(generator))
    handle.remove()
    assert set(sizes) == {(16, 16)}


def test_folders_of_other_engines_are_named(tmp_path: Path) -> None:
    """A folder that another engine runs is refused with the engine's name, before anything is loaded."""
    folder = write_tiny_kandinsky(tmp_path / "kandinsky")
    for part in ("decoder", "prior"):
        with pytest.raises(InputError, match="set model.engine: kandinsky"):
            resolve_model(ModelConfig(source=str(folder / part)), Path)
    janus = WRITERS["janus-pro"](tmp_path / "janus")
    with pytest.raises(InputError, match="set model.engine: autoregressive"):
        resolve_model(ModelConfig(source=str(janus)), Path)


def test_one_folder_takes_no_stages(tmp_path: Path) -> None:
    """Stages in the config of an engine that takes one folder are refused, not ignored."""
    folder = WRITERS["stable-diffusion-1.5"](tmp_path / "sd")
    with pytest.raises(InputError, match="takes one folder"):
        resolve_model(ModelConfig(source=str(folder), stages={"prior": {"source": "x"}}), Path)  # type: ignore[dict-item]


def test_the_table_of_models_is_whole() -> None:
    """Each model has a known engine, its stages are in the table, pinned revisions are commits, licences are named."""
    import re

    from assetmill.engines.registry import GENERATORS

    for name, model in facts.MODELS.items():
        assert model.engine in (*GENERATORS, "stage"), name
        assert re.fullmatch(r"([0-9a-f]{40})?", model.revision), name
        assert model.licence, name
        assert model.gib > 0, name
        for _, stage in model.stages:
            assert facts.MODELS[stage].engine == "stage"
        if model.engine == "diffusers":
            assert facts.family_named(model.family), name
            assert model.size, name
    assert facts.MODELS["stabilityai/sdxl-turbo"].commercial is False
