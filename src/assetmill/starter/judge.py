"""The judge: a small classifier that reads object, colour, pattern, style and ground off a picture.

It is used only to measure. It is trained apart from everything else (own split of renders, own seeds) and
never sees a generated picture in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from assetmill.starter.vocabulary import ATTRIBUTES


class Judge(nn.Module):
    """A plain CNN with one linear head per attribute, 0.7 M parameters.

    Takes float pictures (n, 3, 64, 64) in [-1, 1]; gives one tensor of logits (n, classes) per attribute.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for wider in (24, 48, 96, 128):
            layers += [
                nn.Conv2d(width, wider, 3, 2, 1, bias=False),
                nn.BatchNorm2d(wider),
                nn.ReLU(inplace=True),
            ]
            layers += [
                nn.Conv2d(wider, wider, 3, 1, 1, bias=False),
                nn.BatchNorm2d(wider),
                nn.ReLU(inplace=True),
            ]
            width = wider
        self.body = nn.Sequential(*layers)
        self.mix = nn.Sequential(nn.Linear(width * 6, 256), nn.ReLU(inplace=True), nn.Dropout(0.1))
        self.heads = nn.ModuleDict({name: nn.Linear(256, len(values)) for name, values in ATTRIBUTES.items()})

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return logits by attribute name."""
        features = self.body(pictures)
        pooled = torch.cat(
            [
                nn.functional.adaptive_avg_pool2d(features, 2).flatten(1),
                features.mean((2, 3)),
                features.amax((2, 3)),
            ],
            dim=1,
        )
        mixed = self.mix(pooled)
        return {name: head(mixed) for name, head in self.heads.items()}


def load_judge(file: Path) -> Judge:
    """Return the judge of a safetensors file, float32, in eval mode."""
    from safetensors.torch import load_file

    judge = Judge()
    judge.load_state_dict({name: value.float() for name, value in load_file(str(file)).items()}, strict=False)
    return judge.eval()


@torch.no_grad()
def read_attributes(judge: Judge, pictures: np.ndarray, *, batch: int = 128) -> np.ndarray:
    """Return the judge's class indices, int64 (n, 5), for uint8 pictures (n, 64, 64, 3)."""
    from assetmill.starter.data import to_tensor

    read = []
    for start in range(0, len(pictures), batch):
        logits = judge(to_tensor(pictures[start : start + batch]))
        read.append(np.stack([logits[name].argmax(1).numpy() for name in ATTRIBUTES], axis=1))
    return np.concatenate(read) if read else np.zeros((0, len(ATTRIBUTES)), np.int64)


def attributes_right(read: np.ndarray, asked: np.ndarray, names: Sequence[str] = tuple(ATTRIBUTES)) -> np.ndarray:
    """Return how many of the named attributes are right in each picture, int64 (n,)."""
    columns = [list(ATTRIBUTES).index(name) for name in names]
    return (read[:, columns] == asked[:, columns]).sum(1)
