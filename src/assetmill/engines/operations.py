"""What each operation needs of a model and of a request: known without torch, so that a plan can refuse the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from assetmill.engines import facts
from assetmill.engines.protocols import ModelSpec, Part
from assetmill.records import Adapter, Problem, Request

NEEDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "text-to-image": (),
        "image-to-image": ("init",),
        "inpaint": ("init", "mask"),
        "keep-product": ("init", "mask"),
        "control": ("control",),
        "variation": ("image",),
    }
)
"""Roles of the reference images that each operation of the latent engines takes, all of them needed.

`control` and `image` may come several times, the others once.
"""

MANY = ("control", "image")

CUT_OPERATIONS = ("text-to-image", "image-to-image")
"""Operations whose rows can be dropped mid-way through `OnStep`: nothing but the latents goes on from step to step.

Pausing (`PausingGenerator`) needs no such thing and works for all.
"""

DEFAULT_STRENGTH: Mapping[str, float] = MappingProxyType({"image-to-image": 0.7, "inpaint": 1.0, "keep-product": 1.0})
"""Strength where neither row nor config gives one, of the operations that have any.

It is the share of the steps that are sampled: 1 starts from pure noise, so that nothing is left of the picture (inside
the mask); near 0 the picture stays as it is.
"""


def operations_of(does: facts.Does, parts: Sequence[Part], unet: Mapping[str, Any]) -> tuple[str, ...]:
    """The operations of a folder of a family, with the parts that a config names.

    A UNet with nine input channels reads mask and masked picture beside the latents: it was trained for inpainting and
    can do nothing else.
    """
    inpaint = ("inpaint", "keep-product") if does.inpaint else ()
    if unet.get("in_channels") == 9 and does.inpaint:
        return inpaint
    kinds = {part.kind for part in parts}
    return (
        "text-to-image",
        *(("image-to-image",) if does.image_to_image else ()),
        *inpaint,
        *(("control",) if does.control and "control" in kinds else ()),
        *(("variation",) if does.ip_adapter and "ip-adapter" in kinds else ()),
    )


def adapters_for(
    spec: ModelSpec, operation: str, control_kinds: Iterable[str] = (), loras: Sequence[Adapter] | None = None
) -> tuple[Adapter, ...]:
    """The adapters that a request of an operation must name, so that its key covers all weights it depends on.

    `loras` None: all that the config names. ControlNets of the given kinds of map, and the IP-Adapter for variations,
    are pinned by their fingerprint; how strongly they act stands in the references' weights. Unknown kinds are left
    out: `check_operation` tells of them.
    """
    if loras is None:
        loras = [Adapter("lora", part.sha256, part.weight) for part in spec.parts if part.kind == "lora"]
    kinds = set(control_kinds) if operation == "control" else set()
    used = [p for p in spec.parts if p.kind == "control" and p.name in kinds]
    used += [p for p in spec.parts if p.kind == "ip-adapter" and operation == "variation"]
    return (*loras, *(Adapter(part.kind, part.sha256) for part in used))


def strength_of(request: Request) -> float:
    """The strength of a request's operation: its own, or the operation's default (1 where it has none)."""
    return request.strength if request.strength is not None else DEFAULT_STRENGTH.get(request.operation, 1.0)


def check_operation(spec: ModelSpec, request: Request) -> list[Problem]:
    """What in one request does not fit its operation: reference images, strength, adapters."""
    operation = request.operation
    if operation not in spec.operations:
        return [
            Problem(f"{spec.id} cannot do {operation}", way_to(spec, operation), column="operation", value=operation)
        ]
    problems = []
    if operation in NEEDS and spec.engine in ("diffusers", "kandinsky", "cascade", "autoregressive"):
        problems += _check_references(spec, request)
    if operation in NEEDS and spec.engine == "diffusers":
        problems += _check_adapters(spec, request)
    strength = request.strength
    if strength is not None and operation not in DEFAULT_STRENGTH:
        problems.append(
            Problem(
                f"strength has no meaning for {operation}",
                f"remove it, or choose {', '.join(DEFAULT_STRENGTH)}",
                column="strength",
                value=str(strength),
            )
        )
    elif operation in DEFAULT_STRENGTH and int(request.steps * strength_of(request)) < 1:
        least = -(-1 // strength_of(request))
        problems.append(
            Problem(
                f"strength {strength_of(request):g} of {request.steps} steps leaves no step to sample",
                f"raise steps to {int(least)} or more, or the strength to {1 / request.steps:.2g} or more",
                column="strength",
                value=f"{strength_of(request):g}",
            )
        )
    return problems


def way_to(spec: ModelSpec, operation: str) -> str:
    """How this model could be made to do an operation, else what it does."""
    family = facts.family_named(spec.family)
    does = family.does if family else facts.Does()
    if spec.engine == "diffusers" and "text-to-image" in spec.operations:
        if operation == "control" and does.control:
            return f"name a {does.controlnet} folder in model.control, as {{edge: path}}"
        if operation == "variation" and does.ip_adapter:
            return "name an IP-Adapter file in model.ip_adapter"
    return f"it does {', '.join(spec.operations)}"


# --- inside -------------------------------------------------------------------------------------------------


def _check_references(spec: ModelSpec, request: Request) -> list[Problem]:
    operation, needed = request.operation, NEEDS[request.operation]
    roles = [reference.role for reference in request.references]
    problems = []
    for role in dict.fromkeys(needed):
        count = roles.count(role)
        if count == 0:
            problems.append(
                Problem(f"{operation} needs {_ROLES[role]}, and there is none", f"give {_ROLES[role]}", column=role)
            )
        elif count > 1 and role not in MANY:
            problems.append(Problem(f"{operation} takes one {role}, not {count}", "give one", column=role))
    for role in dict.fromkeys(roles):
        if role not in needed:
            problems.append(
                Problem(
                    f"{operation} takes no reference image of the role {role!r}",
                    "remove it, or choose the operation that needs it",
                    column=role,
                )
            )
    if operation == "control":
        problems += _check_maps(spec, request)
    if operation == "variation" and len({r.weight for r in request.references}) > 1:
        problems.append(
            Problem("the reference images of one variation share their weight", "give one weight", column="weight")
        )
    return problems


_ROLES = {
    "init": "a picture to start from",
    "mask": "a mask",
    "control": "a control map",
    "image": "a reference image",
}


def _check_maps(spec: ModelSpec, request: Request) -> list[Problem]:
    known = [part.name for part in spec.parts if part.kind == "control"]
    kinds = [reference.kind for reference in request.references if reference.role == "control"]
    problems = [
        Problem(
            f"there is no ControlNet for maps of the kind {kind!r}",
            f"use one of {', '.join(known)}, or add its folder to model.control",
            column="control",
            value=kind,
        )
        for kind in dict.fromkeys(kinds)
        if kind not in known
    ]
    if len(set(kinds)) < len(kinds):
        problems.append(Problem("two control maps of one kind", "give one map of each kind", column="control"))
    if len(kinds) > 1 and spec.family not in SEVERAL_MAPS:
        problems.append(
            Problem(f"{spec.id} ({spec.family}) takes one control map at a time", "give one", column="control")
        )
    return problems


SEVERAL_MAPS = ("stable-diffusion", "stable-diffusion-xl")
"""Families whose pipeline takes several ControlNets at once."""


def _check_adapters(spec: ModelSpec, request: Request) -> list[Problem]:
    known = {(part.kind, part.sha256): part for part in spec.parts}
    problems = [
        Problem(
            f"the {adapter.kind} {adapter.sha256[:12]} is not among this model's adapters",
            "name its file in the config (model.adapters, model.control or model.ip_adapter)",
            column="adapters",
        )
        for adapter in request.adapters
        if (adapter.kind, adapter.sha256) not in known
    ]
    kinds = [reference.kind for reference in request.references if reference.role == "control"]
    for wanted in adapters_for(spec, request.operation, kinds, loras=()):
        if wanted not in request.adapters:
            part = known[wanted.kind, wanted.sha256]
            problems.append(
                Problem(
                    f"the request does not pin the {part.kind} {part.name!r} that {request.operation} runs with",
                    "build its adapters with `adapters_for`",
                    column="adapters",
                )
            )
    return problems
