"""Pictures that tile: while they are made, every convolution sees the opposite edge beyond an edge.

With zeros around a feature map, borders look different from the inside. With circular padding a convolutional network
has no borders at all: rolling its input rolls its output, so that the picture's edges are inside like everything else.
Both the denoiser and the decoder must do it. Attention, group normalisation and nearest upsampling know no place
anyway, so U-Nets can be made seamless; transformers, which are told positions, cannot.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from assetmill.engines.protocols import EngineError

if TYPE_CHECKING:
    import torch

OPTION = "seamless"
CHOICES = ("x", "y", "xy")


def read_axes(value: object) -> str:
    """The axes that an option's value names: `x` (left meets right), `y` (top meets bottom), `xy` or none ("").

    Takes true (both), false and the names. Raises ValueError for anything else.
    """
    if value is True:
        return "xy"
    if value is False or value is None:
        return ""
    if isinstance(value, str) and value.lower() in CHOICES:
        return value.lower()
    raise ValueError(f"seamless {value!r} is unknown; use true, x or y")


def convolutional(pipeline: Any) -> list[Any]:
    """The parts of a diffusers pipeline that must wrap around: denoiser, decoder and ControlNets."""
    parts = (getattr(pipeline, name, None) for name in ("unet", "vae", "controlnet"))
    return [part for part in parts if part is not None]


@contextmanager
def circular_padding(models: Sequence[Any], axes: str) -> Iterator[None]:
    """While inside, the models' convolutions wrap around along `axes`; afterwards they are exactly as before.

    Decoding in tiles is off meanwhile: a tile's edges are not the picture's. Raises EngineError for compiled models,
    which may hold on to either way of padding.
    """
    import torch

    with ExitStack() as stack:
        for model in models:
            if any(getattr(part, "_compiled_call_impl", None) is not None for part in model.modules()):
                raise EngineError("seamless pictures cannot be made by compiled models; set model.compile: false")
            if getattr(model, "use_tiling", False):
                stack.enter_context(_attribute(model, "use_tiling", False))
            for part in model.modules():
                if isinstance(part, torch.nn.Conv2d) and part.padding_mode == "zeros" and any(_margins(part)):
                    stack.enter_context(_attribute(part, "_conv_forward", _wrapping(part, axes)))
                elif _pads_one_side(part):
                    stack.enter_context(_attribute(part, "padding", 1))  # tells it not to pad: the hook has done so
                    stack.callback(part.register_forward_pre_hook(_one_side(axes)).remove)
        yield


# --- inside -------------------------------------------------------------------------------------------------


def _margins(convolution: torch.nn.Conv2d) -> tuple[int, ...]:
    """Left, right, top and bottom."""
    return tuple(convolution._reversed_padding_repeated_twice)


def _wrapping(convolution: torch.nn.Conv2d, axes: str) -> Any:
    from torch.nn import functional as F

    left, right, top, bottom = _margins(convolution)

    def forward(given: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        given = _pad(given, (left, right, 0, 0), "x" in axes)
        given = _pad(given, (0, 0, top, bottom), "y" in axes)
        c = convolution
        return F.conv2d(given, weight, bias, c.stride, 0, c.dilation, c.groups)

    return forward


def _one_side(axes: str) -> Any:
    """What goes before a downsampling layer that pads right and bottom alone, as a VAE's encoder does."""

    def hook(_: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        given = _pad(arguments[0], (0, 1, 0, 0), "x" in axes)
        return (_pad(given, (0, 0, 0, 1), "y" in axes), *arguments[1:])

    return hook


def _pads_one_side(part: Any) -> bool:
    from diffusers.models.downsampling import Downsample2D

    return isinstance(part, Downsample2D) and part.use_conv and part.padding == 0 and part.norm is None


def _pad(given: torch.Tensor, margins: tuple[int, int, int, int], circular: bool) -> torch.Tensor:
    from torch.nn import functional as F

    return F.pad(given, margins, mode="circular" if circular else "constant") if any(margins) else given


@contextmanager
def _attribute(thing: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute of this one object set while inside, and put back or removed again after."""
    own = name in vars(thing)
    before = getattr(thing, name)
    setattr(thing, name, value)
    try:
        yield
    finally:
        if own:
            setattr(thing, name, before)
        else:
            delattr(thing, name)
