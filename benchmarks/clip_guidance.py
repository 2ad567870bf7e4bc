"""What CLIP guidance gives and costs, on the starter models: under the guiding judge, and under judges it never saw.

python benchmarks/clip_guidance.py [--prompts 128] [--second DIR] [--minutes 16]

The same prompts and seeds are drawn with and without guidance by the pack's CLIP. What counts is what others say of the
pictures: a second CLIP of another architecture, trained here on renders of its own (`second_judge.py`), and the
pack's attribute reader, which is no CLIP and knows what was asked. Differences are within a prompt, intervals 95 %
bootstraps over prompts. Writes docs/figures/clip_guidance.json and docs/clip-guidance.md.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from assetmill.config import JudgeConfig, ModelConfig
from assetmill.engines.own_options import request_options
from assetmill.engines.registry import load_generator, load_judge, resolve_judge, resolve_model
from assetmill.records import Request
from assetmill.starter.captions import changed_specs, plain_caption
from assetmill.starter.data import labels_of, to_tensor
from assetmill.starter.evaluate import bootstrap_mean, draw_renders
from assetmill.starter.judge import load_judge as load_reader
from assetmill.starter.locations import judge_file
from assetmill.starter.sampling import choose_prompts
from assetmill.starter.vocabulary import ATTRIBUTES
from machine import describe_machine, machine_line
from second_judge import second_judge

ROOT = Path(__file__).resolve().parents[1]
FIGURES, PAGE = ROOT / "docs" / "figures" / "clip_guidance.json", ROOT / "docs" / "clip-guidance.md"
BATCH = 16
SPLIT = "clip-guidance"
NAMES = {"guide": "guiding CLIP", "second": "second CLIP", "reader": "attribute reader"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setting:
    """One way of drawing all prompts: scale and views of CLIP guidance, classifier-free guidance, sampler."""

    scale: float
    cutouts: int = 4
    guidance: float = 1.0
    scheduler: str = "DDIMScheduler"

    def without(self) -> Setting:
        """The same without the judge's guidance: what it is compared with."""
        return Setting(0.0, 0, self.guidance, self.scheduler)


SETTINGS = (Setting(10.0), Setting(30.0), Setting(100.0), Setting(100.0, cutouts=1))


@dataclass(frozen=True)
class Read:
    """What the judges say of one picture per prompt: (N,) each; `right` (N, 5) attributes read as asked."""

    scores: Mapping[str, np.ndarray]
    right: np.ndarray
    seconds: float


class Study:
    """Prompts, models and judges, loaded once."""

    def __init__(self, num_prompts: int, second: Path) -> None:
        self.config = ModelConfig(device="cpu", guide=JudgeConfig(device="cpu"), options={"clip_guidance": 1.0})
        self.generator = load_generator(resolve_model(self.config, Path), self.config)
        places = {"guide": JudgeConfig(device="cpu"), "second": JudgeConfig(source=str(second), device="cpu")}
        self.judges = {name: load_judge(resolve_judge(place, Path), place) for name, place in places.items()}
        self.reader = load_reader(judge_file())
        specs, texts, held_out = choose_prompts(num_prompts, SPLIT)
        self.texts, self.held_out = texts, held_out
        self.asked = np.array([labels_of(spec) for spec in specs])

    def draw(self, setting: Setting) -> tuple[np.ndarray, float]:
        """One picture per prompt, uint8 (N, 64, 64, 3), and the median CPU seconds an image over the batches."""
        spec = self.generator.spec
        options: dict[str, Any] = {"clip_guidance": setting.scale}
        if setting.scale:
            options["clip_cutouts"] = setting.cutouts
        request = Request(
            spec.engine, spec.epoch, spec.id, spec.revision, "", 0, spec.width, spec.height, spec.steps,
            setting.guidance, scheduler=setting.scheduler, options=request_options(spec, options),
        )  # fmt: skip
        pictures, seconds = [], []
        for start in range(0, len(self.texts), BATCH):
            texts = self.texts[start : start + BATCH]
            batch = [replace(request, positive=text, seed=start + i) for i, text in enumerate(texts)]
            begun = time.process_time()
            pictures.append(self.generator.generate(batch).pixels)
            seconds.append((time.process_time() - begun) / len(batch))
        return np.concatenate(pictures), statistics.median(seconds)

    def read(self, setting: Setting) -> Read:
        """Draws and asks every judge. The reader's score is the log-probability of all that was asked for."""
        import torch

        pictures, seconds = self.draw(setting)
        scores = {name: judge.judge(pictures, self.texts).scores for name, judge in self.judges.items()}
        with torch.no_grad():
            logits = self.reader(to_tensor(pictures))
        columns = list(enumerate(ATTRIBUTES))
        rows = np.arange(len(pictures))
        chances = [torch.log_softmax(logits[name], 1).numpy()[rows, self.asked[:, i]] for i, name in columns]
        right = np.stack([logits[name].argmax(1).numpy() == self.asked[:, i] for i, name in columns], axis=1)
        return Read({**scores, "reader": np.sum(chances, axis=0)}, right, seconds)

    def judge_judge(self, name: str, num_pictures: int = 256) -> float:
        """How often a CLIP finds a render's caption among 16 that differ from it in one attribute each."""
        pictures, _, specs = draw_renders(num_pictures, "evaluate-captions")
        rng = np.random.default_rng(3)
        hit = 0
        for picture, spec in zip(pictures, specs, strict=True):
            texts = [plain_caption(one) for one in (spec, *changed_specs(spec, rng, 15))]
            hit += int(self.judges[name].judge(np.repeat(picture[None], 16, axis=0), texts).scores.argmax() == 0)
        return hit / num_pictures


def measure(study: Study, settings: Sequence[Setting] = SETTINGS) -> list[dict[str, Any]]:
    """A row of figures per setting: differences from the same prompts and seeds without guidance, and the cost."""
    plain: dict[Setting, Read] = {}
    rows = []
    for setting in settings:
        base = setting.without()
        if base not in plain:
            plain[base] = study.read(base)
            logger.info("%s: %.3f s an image", base, plain[base].seconds)
        guided, before = study.read(setting), plain[base]
        row: dict[str, Any] = {
            "scale": setting.scale, "cutouts": setting.cutouts, "guidance": setting.guidance,
            "scheduler": setting.scheduler, "n": len(study.texts), "seconds": round(guided.seconds, 4),
            "seconds_without": round(before.seconds, 4), "times": round(guided.seconds / before.seconds, 2),
        }  # fmt: skip
        for name in NAMES:
            difference = guided.scores[name] - before.scores[name]
            low, high = bootstrap_mean(difference)
            row[name] = {
                "without": round(float(before.scores[name].mean()), 4), "value": round(float(difference.mean()), 4),
                "low": low, "high": high, "better": round(float((difference > 0).mean()), 4),
            }  # fmt: skip
        wrong = [float((~read.right).sum(1).mean()) for read in (before, guided)]
        low, high = bootstrap_mean((~guided.right).sum(1) - (~before.right).sum(1).astype(float))
        row["wrong_attributes"] = {
            "without": round(wrong[0], 4), "value": round(wrong[1] - wrong[0], 4), "low": low, "high": high,
        }  # fmt: skip
        logger.info("%s", json.dumps(row))
        rows.append(row)
    return rows


def write_page(figures: Mapping[str, Any], page: Path = PAGE) -> None:
    """Writes docs/clip-guidance.md from the figures."""

    def interval(cell: Mapping[str, float]) -> str:
        return f"{cell['value']:+.4f} ({cell['low']:+.4f} to {cell['high']:+.4f})"

    heads = ["scale", "views", "sampler", "classifier-free", *NAMES.values(), "wrong attributes", "CPU s an image"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in figures["rows"]:
        sampler = row["scheduler"].removesuffix("Scheduler").removesuffix("Discrete")
        cells = [f"{row['scale']:g}", str(row["cutouts"]), sampler, f"{row['guidance']:g}"]
        cells += [interval(row[name]) for name in NAMES] + [interval(row["wrong_attributes"])]
        cells.append(f"{row['seconds']:.2f} ({row['times']:.1f} ×)")
        lines.append("| " + " | ".join(cells) + " |")
    base = figures["rows"][0]
    text = PAGE_TEXT.format(
        table="\n".join(lines),
        prompts=base["n"],
        second=f"{figures['second_judge']['hard_captions']:.3f}",
        first=f"{figures['guiding_judge']['hard_captions']:.3f}",
        machine=machine_line(figures["machine"]),
        **{f"base_{name}": f"{base[name]['without']:.3f}" for name in NAMES},
        base_wrong=f"{base['wrong_attributes']['without']:.3f}",
    )
    page.write_text(text, encoding="utf-8")


PAGE_TEXT = """# CLIP guidance

Classifier-free guidance asks the model itself what a text means. GLIDE's other guidance asks a judge: at every step the
predicted clean picture is decoded, an open_clip model says how well it fits the text, and the step is shifted along the
gradient of that score. The two go together.

```yaml
name: guided-icons
sheet: {{path: icons.csv, id: sku}}
prompts: {{templates: [icon.j2]}}
model:
  options: {{clip_guidance: 50.0, clip_cutouts: 4}}
  # guide: {{source: other-judge}}      # an open_clip judge; the run's `judge` if left out
```

- `clip_guidance` is the scale; 0 or nothing is off, and then nothing is loaded, changed or keyed. 30 to 100 are usual.
- `clip_cutouts` is how many views of the picture the judge gets a step: the whole one and random squares of it.
- The options and the guiding judge's key are part of each request's key: another judge makes other pictures.
- Works with Stable Diffusion 1, 2 and XL, every scheduler a config may name, text to image, image to image, inpainting,
  ControlNets and LoRAs, with cutting and pausing mid-way; a picture depends on its own request alone.

Formulas and sources stand in `src/assetmill/engines/clip_guidance.py`: Nichol et al. 2021 (GLIDE, arXiv:2112.10741),
Dhariwal & Nichol 2021 (arXiv:2105.05233), Chung et al. 2022 (arXiv:2209.14687).

## Is it more than flattering one's own judge?
A picture can be bent until one judge likes it and nobody else does. So the starter models drew {prompts} prompts (every
fourth a combination they never saw) with and without guidance by the pack's CLIP, from the same noise, and two judges
were asked that had no part in it: a second CLIP of another architecture (ViT, not ResNet), trained apart on renders of
its own in a quarter of an hour, and the pack's attribute reader, a classifier that knows what was asked for. The second
CLIP is weak: it finds a render's caption among 16 that differ in one attribute in {second} of cases (the guiding one in
{first}, chance is 0.06). What it says is true on average over prompts, not of each picture.

Differences from the same picture without guidance, with 95 % bootstrap intervals over prompts. CLIPs give cosines
(without guidance {base_guide} and {base_second}), the reader the log-probability of all five attributes together
({base_reader}); wrong attributes are of five a picture ({base_wrong}).

{table}

Seconds are CPU time of one thread in batches of 16, and how many times what the same picture costs without. Guidance
pays for a backward pass through denoiser, decoder and judge at every step; fewer views cost less.

The more guidance, the more of the gain is the guiding judge's alone: from 30 to 100 its own score grows by half, that
of the others by a quarter or less. The tests hold that Euler and DPM++ samplers are guided the same way. All of it is
one small world and one model: choose the scale for your own by a judge that does not guide.

How it was measured: `make clip-guidance` ({machine}).
"""


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--second", type=Path, default=ROOT / "out" / "second-judge", help="the second judge's folder")
    parser.add_argument("--minutes", type=float, default=16.0, help="training of the second judge, if it is not there")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    study = Study(options.prompts, second_judge(options.second, minutes=options.minutes))
    figures = {
        "machine": describe_machine(),
        "guiding_judge": {"hard_captions": round(study.judge_judge("guide"), 4)},
        "second_judge": {"hard_captions": round(study.judge_judge("second"), 4)},
        "rows": measure(study),
    }
    FIGURES.parent.mkdir(parents=True, exist_ok=True)
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    write_page(figures)


if __name__ == "__main__":
    main()
