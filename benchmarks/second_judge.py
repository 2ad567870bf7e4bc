"""A second open_clip judge for the starter world, to measure what the first one must not: its own guidance.

It shares neither architecture (a ViT, not a ResNet), nor weights, seed or pictures with the pack's CLIP: it learns from
renders of its own split, held-out combinations included, and sees no generated picture. Made in a quarter of an hour,
not shipped.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

NUM_PICTURES = 16_000
BATCH = 96
PEAK_RATE = 1.5e-3
SPLIT = "second-judge"
VISION = {"image_size": 64, "layers": 4, "width": 128, "head_width": 32, "patch_size": 8}

logger = logging.getLogger(__name__)


def second_judge(folder: Path, *, minutes: float = 16.0) -> Path:
    """The folder of the second judge for open_clip's `local-dir:`, trained now unless it is there already."""
    home = folder / "clip"
    if not (home / "open_clip_model.safetensors").is_file():
        _train(folder, home, minutes)
    return home


def _train(folder: Path, home: Path, minutes: float) -> None:
    import torch
    from open_clip.model import CLIP
    from torch.nn import functional as F
    from transformers import CLIPTokenizer

    from assetmill.starter.captions import describe
    from assetmill.starter.data import render_split, to_tensor
    from assetmill.starter.locations import clip_folder
    from assetmill.starter.models import clip_config
    from assetmill.starter.train.clip import (
        contrastive_loss,
        disturb,
        encode_text,
        matches,
        specs_of,
        write_clip_folder,
    )
    from assetmill.starter.train.loop import AveragedWeights, Progress, Stage, decayed_rate, set_rate
    from assetmill.starter.train.neighbours import Neighbours

    torch.manual_seed(4711)
    split = render_split(folder / "data", SPLIT, NUM_PICTURES, held_out=None)
    tokenizer = CLIPTokenizer.from_pretrained(str(clip_folder()))
    settings: dict[str, Any] = {**clip_config(len(tokenizer)), "vision_cfg": VISION}
    clip = CLIP(embed_dim=settings["embed_dim"], vision_cfg=VISION, text_cfg=dict(settings["text_cfg"]))
    groups = [
        {"params": [p for p in clip.parameters() if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in clip.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98))
    average = AveragedWeights(clip, 0.99)
    stage = Stage(SPLIT, folder, minutes)
    progress = Progress(stage, {"model": clip, "optimizer": optimizer, "average": average})
    neighbours = Neighbours(split.labels)
    for step in progress.steps():
        rng = np.random.default_rng([4711, step])
        # things of every kind first; then groups of near-alike ones, whose captions are each other's hardest lies
        near = progress.share > 0.3
        rows = neighbours.draw(BATCH // 16, rng) if near else rng.integers(len(split), size=BATCH)
        shown = split.labels[rows]
        captions = [describe(spec, rng, short_share=0.1) for spec in specs_of(shown)]
        pictures = disturb(to_tensor(split.pictures[rows]), rng, blurred=0.1, noisy=0.3, most=0.08)
        tokens = tokenizer([c.text for c in captions], padding=True, truncation=True, return_tensors="pt").input_ids
        set_rate(optimizer, decayed_rate(PEAK_RATE, progress.share))
        seen = F.normalize(clip.encode_image(pictures), dim=-1)
        said = F.normalize(encode_text(clip, tokens), dim=-1)
        logits = clip.logit_scale.exp() * seen @ said.T
        true = matches(captions, shown, shown)
        loss = contrastive_loss(logits, true, BATCH)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            clip.logit_scale.clamp_(0, np.log(100))
        average.update(clip)
        picked = true[torch.arange(BATCH), logits.detach().argmax(1)].float().mean()
        progress.count(BATCH, loss=loss.item(), picked=picked.item())
    clip.load_state_dict(average.mean)
    write_clip_folder(home, clip_folder(), clip.eval())
    content = json.loads((home / "open_clip_config.json").read_text())
    content["model_cfg"] = settings
    (home / "open_clip_config.json").write_text(json.dumps(content, indent=1) + "\n")
    logger.info("%s: %d steps, %d pictures", home, progress.step, progress.samples)


if __name__ == "__main__":
    import argparse

    import torch

    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/second-judge"))
    parser.add_argument("--minutes", type=float, default=16.0)
    options = parser.parse_args()
    second_judge(options.out, minutes=options.minutes)
