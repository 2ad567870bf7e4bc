"""What compiling, memory formats and fused projections gain on a model's forwards."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from forwards import Forwards
from gpu_parts import Session
from timing import empty_caches, time_calls


@dataclass(frozen=True)
class Technique:
    """Something that may make forwards faster, and its way back. `decoder`: it touches the VAE as well."""

    name: str
    on: Callable[[], None]
    off: Callable[[], None]
    decoder: bool = False


@torch.inference_mode()
def measure_techniques(session: Session, batch: int, compiler: str) -> dict[str, Any]:
    """What compiling, memory formats and fused projections gain on one forward at `batch`, each against none of them.

    They alternate with the plain forward. Warm-up (the first call: compilation, search for kernels) is told apart.
    Those that gain more than a hundredth are then turned on together.
    """
    forwards, base = session.forwards, session.job.base
    rows = batch * (2 if session.guided else 1)
    latents = forwards.latents(rows, base.width, base.height)
    conditions = forwards.conditions(rows, base.width, base.height, session.text_tokens)
    timestep = torch.tensor(500.0, device=session.device)
    clean = forwards.latents(batch, base.width, base.height)

    def denoise() -> Any:
        return forwards.denoise(latents, timestep, conditions)

    def decode() -> Any:
        return forwards.decode(clean, base.width, base.height)

    found = []
    known = techniques_of(forwards, compiler)
    for technique in known:
        found.append(_compare(technique, denoise, decode, session.device))
        empty_caches(session.device)
    gains = [t for t, f in zip(known, found, strict=True) if max(f["denoise_gain"], f.get("decode_gain", 1.0)) > 1.01]
    # two ways of compiling exclude each other: the better one goes into the whole
    compiled = [t for t in gains if t.name.startswith("compile")]
    best = max(compiled, key=lambda t: found[known.index(t)]["denoise_gain"], default=None)
    together = [t for t in gains if t not in compiled or t is best]
    if len(together) > 1:
        # compiled last: what is compiled must be the arrangement that runs
        together.sort(key=lambda t: t.name.startswith("compile"))
        everything = Technique(
            " + ".join(t.name for t in together),
            on=lambda: [t.on() for t in together] and None,
            off=lambda: [t.off() for t in reversed(together)] and None,
            decoder=any(t.decoder for t in together),
        )
        found.append(_compare(everything, denoise, decode, session.device))
    return {"batch": batch, "techniques": found}


def techniques_of(forwards: Forwards, compiler: str) -> list[Technique]:
    """Those that apply to a model: memory formats only where there are convolutions."""
    denoiser, vae = forwards.denoiser, forwards.vae

    def lay_out(*networks: Any, like: torch.memory_format) -> None:
        for network in networks:
            network.to(memory_format=like)

    def seek_kernels(wish: bool) -> None:
        torch.backends.cudnn.benchmark = wish

    found = [
        Technique(
            "channels_last",
            on=lambda: lay_out(*(() if forwards.packed else (denoiser,)), vae, like=torch.channels_last),
            off=lambda: lay_out(*(() if forwards.packed else (denoiser,)), vae, like=torch.contiguous_format),
            decoder=True,
        ),
        Technique("cudnn.benchmark", on=lambda: seek_kernels(True), off=lambda: seek_kernels(False), decoder=True),
        Technique("fused q, k, v", on=denoiser.fuse_qkv_projections, off=denoiser.unfuse_qkv_projections),
    ]
    if compiler != "none":
        found.append(_compiling("compile", denoiser, backend=compiler))
        found.append(_compiling("compile, fixed shapes", denoiser, backend=compiler, dynamic=False))
    return found


def _compiling(name: str, denoiser: Any, **settings: Any) -> Technique:
    """Regional compilation that can be turned off and on again: a block's compiled call is put aside meanwhile."""
    blocks = [m for m in denoiser.modules() if type(m).__name__ in denoiser._repeated_blocks]
    kept: list[Any] = []

    def on() -> None:
        if not kept:
            denoiser.compile_repeated_blocks(**settings)
            kept.extend(block._compiled_call_impl for block in blocks)
        for block, call in zip(blocks, kept, strict=True):
            block._compiled_call_impl = call

    def off() -> None:
        for block in blocks:
            block._compiled_call_impl = None

    return Technique(name, on, off)


def _compare(
    technique: Technique, denoise: Callable[[], Any], decode: Callable[[], Any], device: torch.device
) -> dict[str, Any]:
    calls = {"denoise": denoise, **({"decode": decode} if technique.decoder else {})}
    plain: dict[str, list[float]] = {name: [] for name in calls}
    changed: dict[str, list[float]] = {name: [] for name in calls}
    warm_up = 0.0
    for turn in range(2):
        for name, call in calls.items():
            plain[name].append(time_calls(call, device, repeats=3))
        technique.on()
        try:
            if turn == 0:
                warm_up = sum(time_calls(call, device, repeats=1, warm_up=0) for call in calls.values())
            for name, call in calls.items():
                changed[name].append(time_calls(call, device, repeats=3))
        finally:
            technique.off()
    figures: dict[str, Any] = {"name": technique.name, "warm_up_seconds": warm_up}
    for name in calls:
        figures[f"{name}_seconds"] = statistics.median(plain[name])
        figures[f"{name}_gain"] = statistics.median(plain[name]) / statistics.median(changed[name])
    return figures
