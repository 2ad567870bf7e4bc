"""The script that people write: a loop over the prompts, a PNG per picture, then a ranking pass, then upscaling.

Three ways to write it are measured: a call per picture; a call per prompt (`num_images_per_prompt`); and, in the
scenario that asks for it, every picture upscaled and saved large before the best are picked.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

from peers.work import Piece, Settings, Work, write_manifest


class PerPrompt:
    """diffusers, open_clip and spandrel used as their examples do. `whole_prompt`: one call for a prompt's pictures."""

    late = 0.0

    def __init__(self, work: Work, settings: Settings, *, whole_prompt: bool = False) -> None:
        import open_clip
        import torch
        from diffusers import StableDiffusionPipeline
        from spandrel import ModelLoader

        self.whole_prompt = whole_prompt
        torch.set_num_threads(settings.threads)
        self.pipe: Any = StableDiffusionPipeline.from_pretrained(work.model, torch_dtype=torch.float32)
        self.pipe.set_progress_bar_config(disable=True)
        self.clip, _, self.preprocess = open_clip.create_model_and_transforms(f"local-dir:{work.clip}")
        self.clip.eval()
        self.tokenize = open_clip.get_tokenizer(f"local-dir:{work.clip}")
        self.upscaler = ModelLoader("cpu").load_from_file(work.upscaler).eval()
        self._paint(work, list(work.pieces[:1]), steps=2)

    def run(self, work: Work, settings: Settings, out: Path) -> float:
        import torch

        torch.set_num_threads(settings.threads)
        small, large = out / "candidates", out / "masters"
        start = time.perf_counter()
        for folder in (small, large):
            folder.mkdir(parents=True)
        for call in self._calls(work):
            for piece, image in zip(call, self._paint(work, call), strict=True):
                image.save(small / f"{piece.name}.png")
                if work.upscale_all:
                    self._enlarge(image).save(large / f"{piece.name}.png")
        lines = []
        for asset, pieces in work.by_asset().items():
            scores = self._score(small, pieces)
            best = sorted(range(len(pieces)), key=lambda i: -scores[i])[: work.keep]
            for i, piece in enumerate(pieces):
                chosen = best.index(i) + 1 if i in best else 0
                if chosen and not work.upscale_all:
                    self._enlarge(_open(small / f"{piece.name}.png")).save(large / f"{piece.name}.png")
                lines.append(
                    {"asset": asset, "index": piece.index, "seed": piece.seed, "score": scores[i], "rank": chosen}
                )
        write_manifest(out, lines)
        return time.perf_counter() - start

    def _calls(self, work: Work) -> list[list[Piece]]:
        if not self.whole_prompt:
            return [[piece] for piece in work.pieces]
        prompts = itertools.groupby(work.pieces, key=lambda p: (p.asset, p.positive, p.negative))
        return [list(group) for _, group in prompts]

    def _paint(self, work: Work, pieces: list[Piece], steps: int | None = None) -> list[Any]:
        import torch

        return self.pipe(
            pieces[0].positive,
            negative_prompt=pieces[0].negative,
            num_inference_steps=steps or work.steps,
            guidance_scale=work.guidance,
            width=work.width,
            height=work.height,
            num_images_per_prompt=len(pieces),
            generator=[torch.Generator().manual_seed(p.seed) for p in pieces],
        ).images

    def _score(self, folder: Path, pieces: list[Piece]) -> list[float]:
        import torch

        with torch.inference_mode():
            images = torch.stack([self.preprocess(_open(folder / f"{p.name}.png")) for p in pieces])
            seen = self.clip.encode_image(images)
            texts = self.clip.encode_text(self.tokenize([p.rank_text for p in pieces]))
            seen, texts = (torch.nn.functional.normalize(x, dim=-1) for x in (seen, texts))
            return (seen * texts).sum(dim=1).tolist()

    def _enlarge(self, image: Any) -> Any:
        import numpy as np
        import torch
        from PIL import Image

        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            large = self.upscaler(pixels)[0].clamp(0, 1)
        return Image.fromarray((large * 255).round().byte().permute(1, 2, 0).numpy())


def _open(path: Path) -> Any:
    from PIL import Image

    return Image.open(path).convert("RGB")
