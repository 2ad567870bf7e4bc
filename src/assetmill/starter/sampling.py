"""Loads the starter pack and draws pictures with it: the common ground of evaluation and showcase."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from assetmill.starter.captions import describe
from assetmill.starter.data import labels_of
from assetmill.starter.locations import WEIGHTS, clip_folder, pipeline_folder, shipped_settings
from assetmill.starter.renderer import IconSpec, sample_spec

BATCH = 8
Advance = Callable[[int, int], None]
"""Called with the number of pictures drawn so far and the number in all."""


@dataclass(frozen=True)
class Samples:
    """Pictures drawn for prompts whose truth is known.

    `specs` and `texts` per prompt; `pictures` uint8 (prompts, seeds, 64, 64, 3); `asked` int64
    (prompts, 5), class indices; `held_out` bool (prompts,), true where the combination was never trained.
    """

    specs: tuple[IconSpec, ...]
    texts: tuple[str, ...]
    pictures: np.ndarray
    asked: np.ndarray
    held_out: np.ndarray


def choose_prompts(num_prompts: int, split: str = "evaluate") -> tuple[list[IconSpec], list[str], np.ndarray]:
    """Return specs, full captions and which are held out: every fourth prompt is a held-out combination."""
    held_out = np.arange(num_prompts) % 4 == 3
    specs = [sample_spec(split, index, held_out=bool(held_out[index])) for index in range(num_prompts)]
    rng = np.random.default_rng(97)
    return specs, [describe(spec, rng, short_share=0.0).text for spec in specs], held_out


def load_pipeline(weights: Path = WEIGHTS) -> Any:
    """Return the `StableDiffusionPipeline` of the pack, float32, without progress bars."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(str(pipeline_folder(weights)), local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.unet.to(memory_format=torch.channels_last)
    pipeline.vae.to(memory_format=torch.channels_last)
    return pipeline


def load_clip(weights: Path = WEIGHTS) -> tuple[Any, Any, Any]:
    """Return the pack's CLIP, its preprocessing and its tokenizer."""
    import open_clip

    source = f"local-dir:{clip_folder(weights)}"
    model, _, preprocess = open_clip.create_model_and_transforms(source)
    return model.eval(), preprocess, open_clip.get_tokenizer(source)


def generate(
    pipeline: Any,
    texts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int,
    guidance: float,
    batch: int = BATCH,
    advance: Advance | None = None,
) -> np.ndarray:
    """Draw one picture for each text and seed, uint8 (n, 64, 64, 3); each has its own CPU generator."""
    drawn: list[np.ndarray] = []
    for start in range(0, len(texts), batch):
        chosen = list(texts[start : start + batch])
        noise = [torch.Generator().manual_seed(int(seed)) for seed in seeds[start : start + batch]]
        output = pipeline(chosen, num_inference_steps=steps, guidance_scale=guidance, generator=noise, output_type="np")
        drawn.append((output.images * 255).round().clip(0, 255).astype(np.uint8))
        if advance is not None:
            advance(min(start + batch, len(texts)), len(texts))
    return np.concatenate(drawn)


def draw_samples(
    pipeline: Any,
    *,
    num_prompts: int,
    num_seeds: int,
    split: str = "evaluate",
    steps: int | None = None,
    guidance: float | None = None,
    advance: Advance | None = None,
) -> Samples:
    """Draw `num_seeds` pictures for each prompt of a split, at the shipped settings unless told otherwise."""
    settings = shipped_settings()
    specs, texts, held_out = choose_prompts(num_prompts, split)
    pictures = generate(
        pipeline,
        [text for text in texts for _ in range(num_seeds)],
        range(num_prompts * num_seeds),
        steps=steps or settings.steps,
        guidance=settings.guidance if guidance is None else guidance,
        advance=advance,
    )
    asked = np.array([labels_of(spec) for spec in specs])
    shape = (num_prompts, num_seeds, *pictures.shape[1:])
    return Samples(tuple(specs), tuple(texts), pictures.reshape(shape), asked, held_out)


@torch.no_grad()
def clip_scores(clip: tuple[Any, Any, Any], pictures: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """Return cosine similarities, float32 (n, m), of uint8 pictures (n, 64, 64, 3) and m texts."""
    from PIL import Image

    model, preprocess, tokenize = clip
    images = []
    for start in range(0, len(pictures), 256):
        prepared = torch.stack([preprocess(Image.fromarray(one)) for one in pictures[start : start + 256]])
        images.append(model.encode_image(prepared, normalize=True))
    words = [
        model.encode_text(tokenize(list(texts[start : start + 512])), normalize=True)
        for start in range(0, len(texts), 512)
    ]
    return (torch.cat(images) @ torch.cat(words).T).numpy()
