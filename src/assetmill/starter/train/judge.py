"""Trains the judge on its own split of renders, with other seeds than the models it measures."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from assetmill.starter.data import RenderedSplit, to_tensor
from assetmill.starter.judge import Judge
from assetmill.starter.train.clip import disturb
from assetmill.starter.train.loop import AveragedWeights, Progress, Stage, decayed_rate, set_rate
from assetmill.starter.vocabulary import ATTRIBUTES

BATCH = 64


def train_judge(stage: Stage, split: RenderedSplit) -> Judge:
    """Train for the stage's time and return the averaged judge in eval mode.

    Mild generic blur and noise keep it from reading single pixels; no picture of the VAE or the UNet is used.
    """
    torch.manual_seed(4201)
    judge = Judge().to(stage.device)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3, weight_decay=0.02)
    average = AveragedWeights(judge, 0.995)
    progress = Progress(stage, {"model": judge, "optimizer": optimizer, "average": average})
    judge.train()
    for step in progress.steps():
        rng = np.random.default_rng([4201, step])
        rows = np.sort(rng.integers(len(split), size=BATCH))
        pictures = to_tensor(split.pictures[rows]).to(stage.device, memory_format=torch.channels_last)
        labels = torch.from_numpy(split.labels[rows]).to(stage.device)
        pictures = disturb(pictures, rng, blurred=0.3, most=0.12)
        set_rate(optimizer, decayed_rate(2e-3, progress.share))
        logits = judge(pictures)
        loss = torch.stack([F.cross_entropy(logits[name], labels[:, i]) for i, name in enumerate(ATTRIBUTES)]).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        average.update(judge)
        right = [(logits[name].argmax(1) == labels[:, i]).float().mean() for i, name in enumerate(ATTRIBUTES)]
        values = {name: right[i].item() for i, name in enumerate(ATTRIBUTES)}
        progress.count(BATCH, loss=loss.item(), **values)
    judge.load_state_dict(average.mean)
    return judge.eval()
