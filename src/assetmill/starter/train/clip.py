"""Trains the CLIP: contrastive, with short captions as shared positives and one-attribute lies as negatives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from assetmill.starter.captions import Caption, changed_specs, describe
from assetmill.starter.data import RenderedSplit, to_tensor
from assetmill.starter.models import clip_config, save_half
from assetmill.starter.renderer import IconSpec
from assetmill.starter.train.loop import AveragedWeights, Progress, Stage, decayed_rate, set_rate
from assetmill.starter.train.neighbours import Neighbours
from assetmill.starter.vocabulary import ATTRIBUTES

BATCH = 96
PEAK_RATE = 1.5e-3
NUM_LIES = 1
PREPROCESS = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def write_clip_folder(folder: Path, tokenizer_folder: Path, model: torch.nn.Module | None = None) -> None:
    """Write what open_clip's `local-dir:` reads: config, tokenizer and (given a model) fp16 weights."""
    from transformers import CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = CLIPTokenizer.from_pretrained(str(tokenizer_folder))
    tokenizer.save_pretrained(str(folder))
    config = {"model_cfg": clip_config(len(tokenizer)), "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=1) + "\n")
    if model is not None:
        save_half(model, folder / "open_clip_model.safetensors")


def make_clip(num_tokens: int) -> Any:
    """Return an untrained open_clip model of the pack's shape."""
    from open_clip.model import CLIP

    config = clip_config(num_tokens)
    text = dict(config["text_cfg"])
    return CLIP(embed_dim=config["embed_dim"], vision_cfg=config["vision_cfg"], text_cfg=text)


def encode_text(clip: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Return `clip.encode_text` of tokens padded only to the longest caption, (n, 128), not normalised.

    The text tower is causal and reads its answer at the end-of-text token, so padding behind it changes
    nothing and costs a third of the time.
    """
    length = tokens.shape[1]
    hidden = clip.token_embedding(tokens) + clip.positional_embedding[:length]
    hidden = clip.ln_final(clip.transformer(hidden, attn_mask=clip.attn_mask[:length, :length]))
    return hidden[torch.arange(len(tokens)), tokens.argmax(-1)] @ clip.text_projection


def specs_of(labels: np.ndarray) -> list[IconSpec]:
    """Return one spec (without geometry) for each row of class indices."""
    values = list(ATTRIBUTES.values())
    return [IconSpec(*(values[i][k] for i, k in enumerate(row))) for row in labels]


def matches(captions: list[Caption], said: np.ndarray, shown: np.ndarray) -> torch.Tensor:
    """Return which captions are true of which pictures, bool (pictures, captions).

    `said` (captions, 5) and `shown` (pictures, 5) are class indices; only stated attributes count.
    """
    stated = np.array([[name in caption.stated for name in ATTRIBUTES] for caption in captions])
    equal = said[None, :, :] == shown[:, None, :]
    return torch.from_numpy((equal | ~stated[None]).all(-1))


def contrastive_loss(logits: torch.Tensor, true: torch.Tensor, num_own: int) -> torch.Tensor:
    """InfoNCE both ways, averaged over all true pairs of a row (SupCon, arXiv:2004.11362).

    `logits` and `true` are (pictures, captions); the first `num_own` captions belong to pictures, the
    others are lies, which only serve as negatives.
    """
    weight = true.float()
    to_text = -(F.log_softmax(logits, 1) * weight).sum(1) / weight.sum(1).clamp_min(1)
    own, weight = logits[:, :num_own].T, weight[:, :num_own].T
    to_picture = -(F.log_softmax(own, 1) * weight).sum(1) / weight.sum(1).clamp_min(1)
    return (to_text.mean() + to_picture.mean()) / 2


def lie_loss(logits: torch.Tensor, true: torch.Tensor, num_own: int) -> torch.Tensor:
    """Each picture's caption against the lies about that very picture (lies are grouped by picture)."""
    count = logits.shape[0]
    own = logits[:, :count].diagonal()[:, None]
    rows = torch.arange(count)
    columns = num_own + rows[:, None] * NUM_LIES + torch.arange(NUM_LIES)[None]
    lies = logits[rows[:, None], columns].masked_fill(true[rows[:, None], columns], -1e4)
    return F.cross_entropy(torch.cat([own, lies], 1), torch.zeros(count, dtype=torch.long, device=logits.device))


def disturb(
    pictures: torch.Tensor,
    rng: np.random.Generator,
    *,
    blurred: float = 0.25,
    noisy: float = 0.5,
    most: float = 0.2,
) -> torch.Tensor:
    """Blur some pictures and put noise (up to `most`) on some: a reader of generated pictures meets both.

    Each picture has its own dose. One dose for a whole batch would teach batch normalisation the statistics
    of the mixture, and those fit no clean picture.
    """
    count = len(pictures)
    pictures = pictures.clone()
    chosen = torch.from_numpy(rng.random(count) < blurred)
    if chosen.any():
        side = int(rng.choice([40, 48, 56]))
        small = F.interpolate(pictures[chosen], size=(side, side), mode="bilinear", antialias=True)
        pictures[chosen] = F.interpolate(small, size=pictures.shape[-2:], mode="bilinear")
    doses = torch.from_numpy((rng.uniform(0.02, most, count) * (rng.random(count) < noisy)).astype(np.float32))
    return pictures + doses.view(-1, 1, 1, 1).to(pictures) * torch.randn_like(pictures)


def train_clip(
    stage: Stage,
    train: RenderedSplit,
    tokenizer_folder: Path,
    *,
    start_from: Path | None = None,
    bank: RenderedSplit | None = None,
    peak: float = PEAK_RATE,
) -> torch.nn.Module:
    """Train for the stage's time and return the averaged CLIP in eval mode.

    The first stretch draws pictures at random and tells lies about each. A later stretch goes on from the
    checkpoint `start_from` with groups of near-alike pictures, a quarter of them from `bank` (pictures as the
    pipeline shows them).
    """
    from transformers import CLIPTokenizer

    torch.manual_seed(23)
    tokenizer = CLIPTokenizer.from_pretrained(str(tokenizer_folder))
    clip = make_clip(len(tokenizer)).to(stage.device)
    if start_from is not None:
        clip.load_state_dict(torch.load(start_from, weights_only=True)["average"]["mean"])
    decayed = [value for name, value in clip.named_parameters() if value.ndim > 1]
    others = [value for name, value in clip.named_parameters() if value.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98))
    average = AveragedWeights(clip, 0.99)
    progress = Progress(stage, {"model": clip, "optimizer": optimizer, "average": average})
    neighbours = Neighbours(train.labels)
    bank_neighbours = Neighbours((bank or train).labels)
    clip.train()
    for step in progress.steps():
        rng = np.random.default_rng([23, len(stage.name), step])
        if bank is None:
            rows = np.sort(rng.integers(len(train), size=BATCH))
            shown, pictures = train.labels[rows], to_tensor(train.pictures[rows])
        else:
            rows, views = neighbours.draw(BATCH // 16 - 2, rng), bank_neighbours.draw(2, rng)
            shown = np.concatenate([train.labels[rows], bank.labels[views]])
            pictures = torch.cat([to_tensor(train.pictures[rows]), to_tensor(bank.pictures[views])])
        specs = specs_of(shown)
        lies = [] if bank is not None else [lie for spec in specs for lie in _lies(spec, rng)]
        captions = [describe(spec, rng, short_share=0.25 if lies else 0.1) for spec in specs]
        captions += [describe(lie, rng, short_share=0.0) for lie in lies]
        said = np.concatenate([shown, [_classes(lie) for lie in lies]]) if lies else shown
        # strong doses first; later mild ones, because blur and noise hide what tells flat from pixel art
        doses = {} if bank is None else {"blurred": 0.05, "noisy": 0.3, "most": 0.08}
        pictures = disturb(pictures.to(stage.device), rng, **doses)
        tokens = tokenizer(
            [caption.text for caption in captions], padding=True, truncation=True, return_tensors="pt"
        ).input_ids.to(stage.device)
        set_rate(optimizer, decayed_rate(peak, progress.share))
        image_features = F.normalize(clip.encode_image(pictures), dim=-1)
        text_features = F.normalize(encode_text(clip, tokens), dim=-1)
        logits = clip.logit_scale.exp() * image_features @ text_features.T
        true = matches(captions, said, shown).to(stage.device)
        loss = contrastive_loss(logits, true, BATCH)
        if lies:
            loss = loss + lie_loss(logits, true, BATCH)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            clip.logit_scale.clamp_(0, np.log(100))
        average.update(clip)
        own = logits.detach()[:, :BATCH]
        hit = true[torch.arange(BATCH), own.argmax(1)].float().mean()
        progress.count(BATCH, loss=loss.item(), picked=hit.item())
    clip.load_state_dict(average.mean)
    return clip.eval()


def _classes(spec: IconSpec) -> list[int]:
    return [values.index(getattr(spec, name)) for name, values in ATTRIBUTES.items()]


def _lies(spec: IconSpec, rng: np.random.Generator) -> list[IconSpec]:
    """Return `NUM_LIES` specs with one attribute changed; pattern and style, the hard ones, come oftener."""
    lies = changed_specs(spec, rng, 15)
    by_name = {name: [lie for lie in lies if getattr(lie, name) != getattr(spec, name)] for name in ATTRIBUTES}
    names = rng.choice(list(ATTRIBUTES), size=NUM_LIES, p=[0.2, 0.2, 0.25, 0.25, 0.1])
    return [by_name[name][int(rng.integers(len(by_name[name])))] for name in names]
