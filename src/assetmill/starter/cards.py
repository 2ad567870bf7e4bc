"""Writes the model cards that lie beside the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_COMMON = """
## Data
Pictures that `assetmill.starter.renderer` draws: 16 objects, 9 colours, 3 patterns, 4 styles, 4 grounds, with
jittered shape, size, angle and place. No photograph, no picture by a person, no data from elsewhere. About one in ten
(object, colour, style) combinations, fixed by a hash (`renderer.is_held_out`), is left out of all training but the
judge's.

## Made
By `python -m assetmill.starter.train` on two cores of an AMD EPYC (AVX2, no GPU), fp32, stored as fp16.
{recipe}

## Limits
It knows this small world and nothing else: other words fall to letters or are ignored, and people, places and text
cannot be drawn. It is there so that the pipeline makes real pictures on every machine and its rankings can be checked;
for production put real weights in its place.

## Licence
Apache-2.0, as the package.
"""

CARDS: dict[str, tuple[str, str, str]] = {
    "pipeline": (
        "Starter text-to-image",
        "A Stable-Diffusion-shaped pipeline at 64 × 64: `AutoencoderTiny` (f = 4, 4 latents, 0.35 M parameters), "
        "`UNet2DConditionModel` (7.5 M), `CLIPTextModel` (0.7 M), DDIM with v-prediction, trailing steps and zero "
        "terminal SNR. Load with `StableDiffusionPipeline.from_pretrained(folder)`; `assetmill.json` has the steps and "
        "the guidance that its figures were measured at.",
        "VAE 30 minutes; UNet 77 minutes of one core on latents of 64,000 renders (seven of them beside a second "
        "process that averaged weights with it); captions worded anew at every step, 10 % empty; the text encoder is "
        "the text tower of the starter CLIP after its first stretch, frozen.",
    ),
    "preview": (
        "Starter preview",
        "An `AutoencoderTiny` whose decoder shows half-made pictures of the starter pipeline at a fraction of its own "
        "decoder's cost (`model.preview: starter`). The encoder is an untrained stub.",
        "5 minutes of one core (`assetmill.starter.train.preview`) on what the pipeline's decoder makes of latents of "
        "1,500 renders, of blends of two, smoothed and noisy ones.",
    ),
    "clip": (
        "Starter CLIP",
        "An open_clip model: ModifiedResNet [1, 1, 1, 1] of width 24 at 64 × 64, text tower of 3 layers × 128, "
        "128-d embeddings. Load with `open_clip.create_model_and_transforms('local-dir:<folder>')`.",
        "20 minutes on renders with one-attribute lies as extra negatives, then 45 minutes of a busy core on groups of "
        "near-alike pictures, partly VAE reconstructions and half-denoised pictures, so that it can rank what the "
        "pipeline draws.",
    ),
    "upscaler": (
        "Starter upscaler ×4",
        "A compact SRVGG (32 features, 8 convolutions). Load with spandrel's `ModelLoader`.",
        "11 minutes on 3,000 pairs that the renderer draws at 64² and 256² from the same parameters; no adversary.",
    ),
    "judge": (
        "Starter judge",
        "A CNN that reads object, colour, pattern, style and ground off a 64 × 64 picture. Used only to measure: "
        "`assetmill.starter.judge.load_judge`.",
        "5 minutes on 24,000 renders of its own seeds, with mild blur and noise; never trained on generated pictures. "
        "It sees all combinations, since it must judge the held-out ones too.",
    ),
}
"""Folder -> title, what it is, how it was made."""


def write_cards(weights: Path, figures: dict[str, Any] | None = None) -> None:
    """Write a README.md into each model's folder; `figures` (of `evaluate_starter`) go in as a table."""
    shown = {
        "pipeline": ("_accuracy", "_accuracy_seen", "_accuracy_held_out", "gflop_per_image", "vae_psnr_db"),
        "clip": ("clip_hard_caption_accuracy", "best_of_8_captured_gain", "best_of_8_error_ratio"),
        "upscaler": ("upscaler_psnr_db", "upscaler_psnr_gain_db"),
        "judge": ("judge_accuracy", "judge_accuracy_decoded"),
    }
    for name, (title, about, recipe) in CARDS.items():
        text = f"---\nlicense: apache-2.0\n---\n# {title}\n\n{about}\n" + _COMMON.format(recipe=recipe)
        rows = [
            f"| {key} | {_value(figure)} | {figure['n']} |"
            for key, figure in (figures or {}).items()
            if key.endswith(shown.get(name, ())) and (name == "pipeline") <= (not key.startswith(("judge", "clip")))
        ]
        if rows:
            text += "\n## Figures\n| figure | value | n |\n|---|---|---|\n" + "\n".join(rows) + "\n"
        (weights / name).mkdir(parents=True, exist_ok=True)
        (weights / name / "README.md").write_text(text)


def _value(figure: dict[str, Any]) -> str:
    interval = f" ({figure['low']} to {figure['high']})" if "low" in figure else ""
    return f"{figure['value']}{interval}"
