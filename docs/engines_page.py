"""docs/engines.md: the families and their operations as `make engines` found them, and the registry of models."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FIGURES = Path(__file__).resolve().parent / "figures" / "engines.json"

_HEAD = """# Engines

Written by `python docs/build.py` from the registry in `src/assetmill/engines/facts.py` and from
`docs/figures/engines.json`, which `make engines` fills; don't edit by hand.

An engine turns requests into pictures behind one small protocol (`Generator` in `engines/protocols.py`), so that a
config or a sheet column changes the model and nothing else does. Each picture has a CPU generator of its own with its
seed: in whichever batch it is made, it is the same up to rounding. What a model cannot honour (a size, a negative
prompt, a scheduler, an operation) is refused while planning, with the way out; nothing is ignored.

| engine | families | `model.source` |
|---|---|---|
| `diffusers` | latent diffusion and flow matching through AutoPipeline | a folder, or a hub id with its commit |
| `kandinsky` | unCLIP: Kandinsky 2.2 | a folder with `decoder/`, `prior/`, or the decoder and `stages.prior` |
| `cascade` | pixels from a frozen T5: IF | a folder with `first/`, `second/`, or the first and `stages.second` |
| `autoregressive` | picture tokens: Janus | a folder of transformers |
| `simulated` | none: gradients and discs, for tests of everything around a model | - |

A config per family is in `configs/engines/`; a test runs each of them through the whole pipeline on tiny weights.
Further engines come by entry points: see [plugins.md](plugins.md).

## What the engines of their own add

- **Kandinsky 2.2.** `variation`: the picture with the role `image`, as strongly as its weight says; the rest of the
  weight is the prompt's. `interpolation`: from `image` (or the prompt) to `image-to` (or the option `caption_to`), as
  far as the weight of `image-to` (or `caption_weight`) says: 0 is all start, 1 all end. The options `prior_steps` and
  `prior_guidance` are the prior's.
- **DeepFloyd IF.** T5 reads each distinct text once, and both stages share what it read. The options `second_steps`,
  `second_guidance` and `noise_level` are the second stage's. The ×4 that IF's own scripts end with is an upscaler like
  any other: it enlarges what was chosen, not every candidate. Its own safety checker and its visible mark are kept.
- **Janus.** Size and steps are the model's own. The options `temperature` and `top_k` are the sampling's.
- **Schedulers.** Only those that a family's pipeline runs with are offered. A model trained by flow matching stays one
  under a solver made for noise (`use_flow_sigmas` and its shift are set), and latents are never clipped like pixels.
- **Sana and PixArt** sample the size asked for; the option `use_resolution_binning: true` samples the nearest size of
  their table and resizes.

Not there: Emu3. transformers has its class, but its 8B model draws through constrained decoding of some 8,000 tokens a
picture, and the same loop as Janus's would not serve it.
"""


def engines_page() -> str:
    """The page's text. Needs neither torch nor a model."""
    from assetmill.engines import facts

    figures = json.loads(FIGURES.read_text("utf-8"))
    machine = figures["machine"]
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("torch", "diffusers"))
    parts = [
        _HEAD,
        "## Families and operations",
        "",
        f"One picture each on {machine['cores']} cores of {machine['processor']}, {versions}, one thread;",
        f"{machine['date']}. The weights are random at a tiny size unless the row says otherwise: the real class,",
        "loaded by its real `from_pretrained`, made a finite picture. The seconds say what the machinery costs.",
        "",
        *_table(
            ("family", "operation", "engine", "class", "tested on", "seconds"),
            (
                (
                    r["family"],
                    r["operation"],
                    r["engine"],
                    r["class"],
                    r["on"].replace(" x ", " × "),
                    f"{r['seconds']:.2f}",
                )
                for r in figures["rows"]
            ),
        ),
        "",
        "## Models",
        "",
        "What `assetmill models list` shows. `pinned` is the commit that a config should name; where there is none,",
        "none is known here: look it up, pull it, and pin it. GiB are of the weights in 16 bits.",
        "",
        *_table(
            (
                "model",
                "family",
                "engine",
                "size",
                "steps",
                "guidance",
                "GiB",
                "licence",
                "commercial",
                "pinned",
                "note",
            ),
            (_model_row(name, model, facts) for name, model in facts.MODELS.items()),
        ),
        "",
    ]
    return "\n".join(parts)


def _model_row(name: str, model: Any, facts: Any) -> tuple[str, ...]:
    family = facts.family_named(model.family)
    steps = model.steps or (family.steps if family else 0)
    guidance = model.guidance if model.guidance is not None else (family.guidance if family else None)
    sells = {True: "yes", False: "no", None: "see licence"}[model.commercial]
    stage = model.engine == "stage"
    return (
        f"`{name}`",
        model.family,
        "" if stage else model.engine,
        "" if stage else str(model.size),
        "" if stage else str(steps),
        "" if stage or guidance is None else f"{guidance:g}",
        f"{model.gib:g}",
        model.licence,
        sells,
        f"`{model.revision[:12]}`" if model.revision else "",
        model.note,
    )


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    names = list(head)
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]
