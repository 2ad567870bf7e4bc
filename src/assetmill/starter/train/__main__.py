"""`python -m assetmill.starter.train [STAGE …] --out DIR`: makes the starter pack again from nothing.

Each stage can be run, stopped and resumed on its own; `all` runs them in order. Without `--minutes` the
stages take the times of the shipped recipe (two and a half hours of core time in all).
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np
import torch

from assetmill.starter.cards import write_cards
from assetmill.starter.data import RenderedSplit, render_split
from assetmill.starter.models import copy_text_tower, make_unet, make_vae
from assetmill.starter.pack import (
    folder_megabytes,
    new_text_encoder,
    write_judge,
    write_pipeline,
    write_upscaler,
)
from assetmill.starter.tokenizer import build_tokenizer
from assetmill.starter.train.clip import make_clip, train_clip, write_clip_folder
from assetmill.starter.train.judge import train_judge
from assetmill.starter.train.loop import Stage
from assetmill.starter.train.unet import Partnership, train_unet
from assetmill.starter.train.upscaler import train_upscaler
from assetmill.starter.train.vae import encode_split, train_vae
from assetmill.starter.train.views import draw_views

MINUTES = {
    "vae": 30.0,
    "clip": 20.0,
    "judge": 5.0,
    "upscaler": 11.0,
    "unet": 75.0,
    "clip-views": 30.0,
}
"""Stage -> minutes of the shipped recipe, on one core each."""
ORDER = ("vae", "clip", "judge", "upscaler", "unet", "clip-views", "pack")
logger = logging.getLogger(__name__)


def read_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m assetmill.starter.train", description=__doc__)
    parser.add_argument("stages", nargs="*", default=["all"], choices=["all", *ORDER], metavar="STAGE")
    parser.add_argument("--out", type=Path, required=True, help="folder for data, checkpoints, curves and weights")
    parser.add_argument("--minutes", type=float, help="time for each named stage (default: the recipe's)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, …")
    parser.add_argument("--resume", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--num-pictures", type=int, default=64000, help="renders to learn from")
    parser.add_argument("--workers", type=int, default=2, help="processes that render")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of this process")
    parser.add_argument("--rank", type=int, default=0, help="number of this UNet process among its partners")
    parser.add_argument("--partners", type=int, default=1, help="UNet processes that train together")
    return parser.parse_args(words)


class Recipe:
    """The stages in order, over one output folder."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out = options, options.out
        self.device = options.device
        if self.device == "auto":
            self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = self.out / "tokenizer"
        if not (self.tokenizer / "tokenizer.json").is_file():
            build_tokenizer(self.tokenizer)

    def run(self, name: str) -> None:
        """Run one stage by its name."""
        logger.info("stage %s", name)
        getattr(self, f"_{name.replace('-', '_')}")()

    def _stage(self, name: str) -> Stage:
        minutes = self.options.minutes or MINUTES[name.partition(".")[0]]
        return Stage(name, self.out, minutes, self.device, self.options.resume)

    def _split(self, name: str, count: int, *, held_out: bool | None = False) -> RenderedSplit:
        return render_split(self.out / "data", name, count, held_out=held_out, num_workers=self.options.workers)

    def _train_split(self) -> RenderedSplit:
        return self._split("train", self.options.num_pictures)

    def _averaged(self, name: str, model: torch.nn.Module) -> torch.nn.Module:
        file = self.out / "checkpoints" / f"{name}.pt"
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing: run the stage {name!r} first")
        model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True)["average"]["mean"])
        return model.eval()

    def _clip_model(self, name: str) -> torch.nn.Module:
        from transformers import CLIPTokenizer

        return self._averaged(name, make_clip(len(CLIPTokenizer.from_pretrained(str(self.tokenizer)))))

    def _text_encoder(self) -> torch.nn.Module:
        """Return the text encoder: the text tower of CLIP's first stretch, which the UNet was trained with."""
        from transformers import CLIPTokenizer

        encoder = new_text_encoder(CLIPTokenizer.from_pretrained(str(self.tokenizer)))
        copy_text_tower(self._clip_model("clip"), encoder)
        return encoder.eval()

    def _vae(self) -> None:
        train_vae(self._stage("vae"), self._train_split())

    def _clip(self) -> None:
        train_clip(self._stage("clip"), self._train_split(), self.tokenizer)

    def _judge(self) -> None:
        train_judge(self._stage("judge"), self._split("judge", self.options.num_pictures * 3 // 8, held_out=None))

    def _upscaler(self) -> None:
        num_pairs = min(3000, self.options.num_pictures)
        train_upscaler(
            self._stage("upscaler"), self.out / "data", num_pairs=num_pairs, num_workers=self.options.workers
        )

    def _latents(self) -> np.ndarray:
        file = self.out / "latents.npy"
        if file.is_file():
            return np.load(file)
        vae = self._averaged("vae", make_vae()).to(self.device)
        return encode_split(vae, self._train_split(), file, self.device)

    def _unet(self) -> None:
        rank, partners = self.options.rank, self.options.partners
        stage = self._stage("unet" if rank == 0 else f"unet.{rank}")
        labels = self._train_split().labels
        partnership = Partnership(self.out / "partners", rank, partners)
        train_unet(stage, self._latents(), labels, self._text_encoder(), self.tokenizer, partnership)

    def _clip_views(self) -> None:
        split = self._train_split()
        bank = draw_views(
            split,
            self._latents(),
            self._averaged("vae", make_vae()),
            self._averaged("unet", make_unet()),
            self._text_encoder(),
            self.tokenizer,
        )
        first = self.out / "checkpoints" / "clip.pt"
        train_clip(self._stage("clip-views"), split, self.tokenizer, start_from=first, bank=bank, peak=1e-3)

    def _pack(self) -> None:
        weights = self.out / "weights"
        vae, unet = self._averaged("vae", make_vae()), self._averaged("unet", make_unet())
        write_pipeline(weights / "pipeline", self.tokenizer, vae, unet, self._text_encoder())
        write_clip_folder(weights / "clip", self.tokenizer, self._clip_model("clip-views"))
        from assetmill.starter.judge import Judge
        from assetmill.starter.models import make_upscaler

        write_upscaler(weights / "upscaler", self._averaged("upscaler", make_upscaler()))
        write_judge(weights / "judge", self._averaged("judge", Judge()))
        write_cards(weights)
        logger.info("%s: %.1f MB", weights, folder_megabytes(weights))


def main(words: list[str] | None = None) -> None:
    """Run the stages that the command line names."""
    options = read_arguments(words)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(options)
    for name in ORDER if "all" in options.stages else options.stages:
        recipe.run(name)


if __name__ == "__main__":
    main()
