"""What operations need is known without torch: which a folder has, and what is wrong with one request."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from assetmill.engines import facts
from assetmill.engines.operations import (
    DEFAULT_STRENGTH,
    NEEDS,
    adapters_for,
    check_operation,
    operations_of,
    strength_of,
)
from assetmill.engines.protocols import ModelSpec, Part
from assetmill.records import OPERATIONS, REFERENCE_ROLES, Adapter, Reference, Request

EDGE = Part("control", "edge", "/edge", "e" * 64)
DEPTH = Part("control", "depth", "/depth", "d" * 64)
IMAGE = Part("ip-adapter", "ip", "/ip.safetensors", "i" * 64)
LORA = Part("lora", "ink", "/ink.safetensors", "1" * 64, 0.5)
SPEC = ModelSpec(
    "m", "diffusers", 1, "r", "stable-diffusion", "", None,
    ("text-to-image", "image-to-image", "inpaint", "keep-product", "control", "variation"),
    64, 64, 10, 7.5, parts=(LORA, EDGE, DEPTH, IMAGE),
)  # fmt: skip


def ask(operation: str, *roles: str, spec: ModelSpec = SPEC, **changes: Any) -> Request:
    references = tuple(Reference(role, "a" * 64, kind="edge" if role == "control" else "") for role in roles)
    base = Request(
        "diffusers", 1, "m", "r", "", 0, 64, 64, 10, 7.5, operation=operation, references=references,
        adapters=adapters_for(spec, operation, ("edge",)),
    )  # fmt: skip
    return replace(base, **changes)


def test_words_agree() -> None:
    """Operations, roles and diffusers classes named here are those of the records and of the library."""
    import diffusers

    assert set(NEEDS) <= set(OPERATIONS)
    assert {role for roles in NEEDS.values() for role in roles} <= set(REFERENCE_ROLES)
    for family in facts.FAMILIES.values():
        does = family.does
        for name in (does.image_to_image, does.inpaint, does.control, does.controlnet):
            assert not name or hasattr(diffusers, name), name
        assert bool(does.control) == bool(does.controlnet)


@pytest.mark.parametrize(
    ("name", "parts", "unet", "operations"),
    [
        ("StableDiffusionPipeline", (), {}, ("text-to-image", "image-to-image", "inpaint", "keep-product")),
        ("StableDiffusionPipeline", (IMAGE, LORA), {"in_channels": 4}, ("variation",)),
        ("FluxPipeline", (EDGE,), {}, ("image-to-image", "inpaint", "keep-product", "control")),
        ("SanaPipeline", (EDGE,), {}, ("text-to-image", "control")),
        ("PixArtSigmaPipeline", (), {}, ("text-to-image",)),
    ],
)
def test_operations_of_a_folder(
    name: str, parts: tuple[Part, ...], unet: dict[str, Any], operations: tuple[str, ...]
) -> None:
    """They follow from the family's classes and from the parts that a config names."""
    found = operations_of(facts.FAMILIES[name].does, parts, unet)
    assert set(operations) <= set(found)
    assert ("control" in found) == any(part.kind == "control" for part in parts)
    assert ("variation" in found) == any(part.kind == "ip-adapter" for part in parts)


def test_inpainting_models() -> None:
    """Nine input channels make an inpainting model, which does nothing else."""
    does = facts.FAMILIES["StableDiffusionPipeline"].does
    assert operations_of(does, (EDGE,), {"in_channels": 9}) == ("inpaint", "keep-product")


def test_adapters_for() -> None:
    """A request names the LoRAs and just those further weights that its operation runs with."""
    lora = Adapter("lora", "1" * 64, 0.5)
    assert adapters_for(SPEC, "text-to-image") == (lora,)
    assert adapters_for(SPEC, "image-to-image", ("edge",)) == (lora,)
    assert adapters_for(SPEC, "control", ("depth",)) == (lora, Adapter("control", "d" * 64))
    assert adapters_for(SPEC, "variation", loras=()) == (Adapter("ip-adapter", "i" * 64),)
    assert adapters_for(SPEC, "control", ("pose",), loras=()) == ()


@pytest.mark.parametrize(
    "request_",
    [
        ask("text-to-image"),
        ask("image-to-image", "init", strength=0.1),
        ask("inpaint", "init", "mask"),
        ask("keep-product", "mask", "init", strength=0.5),
        ask("control", "control"),
        ask("variation", "image", "image"),
    ],
    ids=lambda r: r.operation,
)
def test_requests_that_fit(request_: Request) -> None:
    """What an operation needs and no more passes."""
    assert check_operation(SPEC, request_) == []


@pytest.mark.parametrize(
    ("request_", "message", "column"),
    [
        (ask("text-to-image", "init"), "takes no reference image of the role 'init'", "init"),
        (ask("image-to-image"), "needs a picture to start from", "init"),
        (ask("inpaint", "init"), "needs a mask", "mask"),
        (ask("control"), "needs a control map", "control"),
        (ask("variation"), "needs a reference image", "image"),
        (ask("image-to-image", "init", strength=0.05), "strength 0.05 of 10 steps leaves no step", "strength"),
        (ask("control", "control", strength=0.5), "strength has no meaning for control", "strength"),
        (ask("control", "control", adapters=()), "does not pin the control 'edge'", "adapters"),
        (ask("variation", "image", adapters=()), "does not pin the ip-adapter 'ip'", "adapters"),
        (ask("text-to-image", adapters=(Adapter("lora", "9" * 64),)), "not among this model's adapters", "adapters"),
        (ask("control", "control", "control"), "two control maps of one kind", "control"),
        (ask("interpolation"), "cannot do interpolation", "operation"),
    ],
)
def test_requests_that_do_not_fit(request_: Request, message: str, column: str) -> None:
    """Each fault names the column it comes from and the way out."""
    (problem,) = check_operation(SPEC, request_)
    assert message in problem.message
    assert problem.column == column
    assert problem.way_out


def test_one_map_at_a_time() -> None:
    """Families whose pipeline takes one ControlNet refuse two maps."""
    spec = replace(SPEC, family="flux")
    request = ask("control", "control")
    both = (*request.references, Reference("control", "b" * 64, kind="depth"))
    asked = replace(request, references=both, adapters=adapters_for(spec, "control", ("edge", "depth")))
    assert [p.message for p in check_operation(spec, asked)] == ["m (flux) takes one control map at a time"]
    assert check_operation(SPEC, asked) == []


def test_ways_to_an_operation() -> None:
    """A model that could do an operation with a part says which part it needs."""
    bare = replace(SPEC, parts=(), operations=("text-to-image",))
    for operation, way in [
        ("control", "model.control"),
        ("variation", "model.ip_adapter"),
        ("inpaint", "it does text"),
    ]:
        (problem,) = check_operation(bare, ask(operation, spec=bare))
        assert way in problem.way_out


def test_default_strength() -> None:
    """A request without strength has its operation's, one with strength its own."""
    assert strength_of(ask("inpaint", "init", "mask")) == DEFAULT_STRENGTH["inpaint"] == 1.0
    assert strength_of(ask("image-to-image", "init", strength=0.25)) == 0.25
