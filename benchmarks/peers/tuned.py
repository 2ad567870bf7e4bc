"""The script a good engineer writes: full batches of mixed prompts, embeddings once, only winners upscaled, one loop.

Encoding is serial: nothing runs beside the model. `Painter` and `Finisher` are also what the Ray actors are made of.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from peers.work import Piece, Settings, Work, write_manifest


class Painter:
    """Batched diffusion: embeddings once per distinct text, all batches of one shape."""

    def __init__(self, work: Work, settings: Settings) -> None:
        import torch
        from diffusers import StableDiffusionPipeline

        torch.set_num_threads(settings.threads)
        self.pipe: Any = StableDiffusionPipeline.from_pretrained(work.model, torch_dtype=torch.float32)
        self.pipe.set_progress_bar_config(disable=True)
        if settings.channels_last:
            self.pipe.unet.to(memory_format=torch.channels_last)
            self.pipe.vae.to(memory_format=torch.channels_last)
        if settings.compile:
            self.pipe.unet.compile_repeated_blocks()
        self.batch = settings.batch
        self.embedded: dict[str, Any] = {}
        self.paint(work, list(work.pieces[: settings.batch]), steps=2)

    def paint(self, work: Work, part: list[Piece], steps: int | None = None) -> Any:
        """The pictures of a batch as floats (N, 3, H, W) in [0, 1]; a partial batch is padded and cut again."""
        import torch

        full = [*part, *[part[-1]] * (self.batch - len(part))]
        texts = dict.fromkeys([p.positive for p in full] + [p.negative for p in full])
        new = [text for text in texts if text not in self.embedded]
        with torch.inference_mode():
            if new:
                embeds, _ = self.pipe.encode_prompt(new, "cpu", 1, False)
                self.embedded.update(zip(new, embeds, strict=True))
            guided = work.guidance > 1
            negative = torch.stack([self.embedded[p.negative] for p in full]) if guided else None
            return self.pipe(
                prompt_embeds=torch.stack([self.embedded[p.positive] for p in full]),
                negative_prompt_embeds=negative,
                num_inference_steps=steps or work.steps,
                guidance_scale=work.guidance,
                width=work.width,
                height=work.height,
                generator=[torch.Generator().manual_seed(p.seed) for p in full],
                output_type="pt",
            ).images[: len(part)]


class Finisher:
    """Ranking on tensors, and upscaling of winners in batches."""

    def __init__(self, work: Work, settings: Settings) -> None:
        import open_clip
        import torch
        from spandrel import ModelLoader

        torch.set_num_threads(settings.threads)
        self.clip = open_clip.create_model(f"local-dir:{work.clip}").eval()
        self.tokenize = open_clip.get_tokenizer(f"local-dir:{work.clip}")
        self.upscaler = ModelLoader("cpu").load_from_file(work.upscaler).eval()
        self.texts: dict[str, Any] = {}

    def warm_up(self, work: Work, batch: int) -> None:
        """One pass over a black batch."""
        import numpy as np

        part = list(work.pieces[:batch])
        blank = np.zeros((len(part), work.height, work.width, 3), np.uint8)
        self.score(blank, part)
        self.enlarge(blank)

    def score(self, pixels: Any, part: list[Piece]) -> list[float]:
        """Cosines of uint8 pictures (N, H, W, 3) with their texts."""
        import torch
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms import functional as F

        how = self.clip.visual.preprocess_cfg
        size = how["size"] if isinstance(how["size"], int) else how["size"][0]
        with torch.inference_mode():
            images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(255)
            if tuple(images.shape[2:]) != (size, size):
                images = F.resize(images, [size], InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
                images = F.center_crop(images, [size, size])
            seen = self.clip.encode_image(F.normalize(images, how["mean"], how["std"]), normalize=True)
            new = [t for t in dict.fromkeys(p.rank_text for p in part) if t not in self.texts]
            if new:
                rows = self.clip.encode_text(self.tokenize(new), normalize=True)
                self.texts.update(zip(new, rows, strict=True))
            return (seen * torch.stack([self.texts[p.rank_text] for p in part])).sum(dim=1).tolist()

    def enlarge(self, pixels: Any) -> Any:
        """uint8 (N, H, W, 3) upscaled, 16 at a time."""
        import torch

        out = []
        with torch.inference_mode():
            for at in range(0, len(pixels), 16):
                small = torch.from_numpy(pixels[at : at + 16]).permute(0, 3, 1, 2).float().div(255)
                out.append(self.upscaler(small).clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1))
        return torch.cat(out).numpy()


class Tuned:
    """One loop in one process."""

    late = 0.0

    def __init__(self, work: Work, settings: Settings) -> None:
        self.painter, self.finisher = Painter(work, settings), Finisher(work, settings)
        self.finisher.warm_up(work, settings.batch)

    def run(self, work: Work, settings: Settings, out: Path) -> float:
        import numpy as np
        import torch

        torch.set_num_threads(settings.threads)
        self.painter.batch = settings.batch
        self.painter.embedded.clear()
        self.finisher.texts.clear()
        start = time.perf_counter()
        for name in ("candidates", "masters"):
            (out / name).mkdir(parents=True)
        pictures: dict[tuple[str, int], Any] = {}
        scores: dict[tuple[str, int], float] = {}
        for at in range(0, len(work.pieces), settings.batch):
            part = list(work.pieces[at : at + settings.batch])
            pixels = to_bytes(self.painter.paint(work, part))
            for piece, picture, score in zip(part, pixels, self.finisher.score(pixels, part), strict=True):
                save_png(picture, out / "candidates" / f"{piece.name}.png")
                pictures[piece.asset, piece.index], scores[piece.asset, piece.index] = picture, score
        ranks = rank_all(work, scores)
        winners = list(ranks)
        for winner, large in zip(winners, self.finisher.enlarge(np.stack([pictures[w] for w in winners])), strict=True):
            save_png(large, out / "masters" / f"{winner[0]}_{winner[1]}.png")
        write_manifest(out, (manifest_line(p, scores[p.asset, p.index], ranks) for p in work.pieces))
        return time.perf_counter() - start


def to_bytes(pictures: Any) -> Any:
    """Floats (N, 3, H, W) in [0, 1] as a numpy uint8 array (N, H, W, 3)."""
    import torch

    return pictures.float().clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def save_png(pixels: Any, path: Path) -> None:
    """The fastest PNG that still compresses."""
    from PIL import Image

    Image.fromarray(pixels).save(path, compress_level=1)


def rank_all(work: Work, scores: dict[tuple[str, int], float]) -> dict[tuple[str, int], int]:
    """Rank (from 1) of each winner, by asset and index."""
    ranks = {}
    for asset, pieces in work.by_asset().items():
        best = sorted(pieces, key=lambda p: -scores[asset, p.index])[: work.keep]
        ranks.update({(asset, p.index): rank for rank, p in enumerate(best, 1)})
    return ranks


def manifest_line(piece: Piece, score: float, ranks: dict[tuple[str, int], int]) -> dict[str, Any]:
    rank = ranks.get((piece.asset, piece.index), 0)
    return {"asset": piece.asset, "index": piece.index, "seed": piece.seed, "score": score, "rank": rank}
