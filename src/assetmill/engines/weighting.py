r"""Prompts with weights, `a (red:1.3) mug`, and prompts longer than the text encoder reads.

`(words:1.3)` multiplies what these words add to the prompt by 1.3, below 1 it takes from it; `\(` is a bracket, and all
else is text as it stands. compel's embeddings provider does the weighting (above 1 away from the empty prompt's
embedding, below 1 towards that of the prompt without the words) and reads a long prompt in pieces of the encoder's
length, cut between sentences, phrases or words, whose embeddings follow one another. compel's own prompt language is
not used: in it a book about C++ would weigh 1.21, and brackets would vanish.

Embeddings of different lengths meet in one batch, and the loop wants one length. Filling short ones up with empty text
would let a picture depend on its neighbours; each is repeated instead. Attention cannot tell: its weights are divided
among the copies and add up to the same. (Not so for models that also pool their text in the denoiser: these read one
piece only.)
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assetmill.engines.folders import read_json
from assetmill.engines.protocols import EngineError, ModelSpec
from assetmill.records import Problem, Request

if TYPE_CHECKING:
    import torch

FAMILIES = ("stable-diffusion", "stable-diffusion-xl")
MAX_WEIGHT = 3.0
MAX_PIECES = 4
"""The longest prompt in pieces of the encoder's length: of 77 tokens about 200 words."""

_WEIGHTED = re.compile(r"(?<!\\)\((?P<words>(?:[^()\\]|\\.)+?):\s*(?P<weight>[0-9]*\.?[0-9]+)\s*\)")
_ESCAPED = re.compile(r"\\([()\\])")


@dataclass(frozen=True, slots=True)
class Fragment:
    """A part of a prompt and its weight; 1 is as it stands."""

    text: str
    weight: float = 1.0


def read_fragments(prompt: str) -> tuple[Fragment, ...]:
    r"""The parts of a prompt, in order; `(words:1.3)` is a part of its own. Brackets without a weight are text.

    Raises ValueError for weights outside 0 to `MAX_WEIGHT`.
    """
    parts: list[Fragment] = []
    end = 0
    for match in _WEIGHTED.finditer(prompt):
        weight = float(match["weight"])
        if weight > MAX_WEIGHT:
            raise ValueError(f"the weight {weight:g} of {match['words']!r} is above {MAX_WEIGHT:g}")
        parts.append(Fragment(_plain(prompt[end : match.start()])))
        parts.append(Fragment(_plain(match["words"]), weight))
        end = match.end()
    parts.append(Fragment(_plain(prompt[end:])))
    return tuple(part for part in parts if part.text.strip()) or (Fragment(""),)


def plain_text(prompt: str) -> str:
    """A prompt as a reader without weights sees it."""
    return _plain(_WEIGHTED.sub(lambda match: match["words"], prompt))


def reads_long_prompts(spec: ModelSpec, options: Mapping[str, Any]) -> bool:
    """Whether these options let this model read prompts beyond its text encoder's length."""
    if not options.get("weights") or spec.family not in FAMILIES or not spec.folder:
        return False
    config = Path(spec.folder) / "unet" / "config.json"
    return not (config.is_file() and read_json(config).get("addition_embed_type") == "text")


def check_weights(request: Request) -> list[Problem]:
    """Weights in a request's texts that cannot be meant."""
    problems = []
    for column, text in (("positive", request.positive), ("negative", request.negative)):
        try:
            read_fragments(text)
        except ValueError as error:
            problems.append(
                Problem(str(error), f"give weights from 0 to {MAX_WEIGHT:g}; above 1.6 is rarely good", column=column)
            )
    return problems


class WeightedEncoder:
    """Embeddings of prompts with weights, by a pipeline's own tokenizers and text encoders (SD 1, 2 and XL).

    Raises EngineError for families it does not know.
    """

    def __init__(self, pipeline: Any, family: str, device: torch.device) -> None:
        from compel.embeddings_provider import EmbeddingsProvider, ReturnedEmbeddingsType

        if family not in FAMILIES:
            raise EngineError(f"{family} reads no prompt weights; remove the option `weights`")
        large = family == "stable-diffusion-xl"
        kind = (
            ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED
            if large
            else ReturnedEmbeddingsType.LAST_HIDDEN_STATES_NORMALIZED
        )
        parts = [(pipeline.tokenizer, pipeline.text_encoder)]
        if large:
            parts.append((pipeline.tokenizer_2, pipeline.text_encoder_2))
        # an SDXL refiner has the second encoder alone
        self._parts = [(tokenizer, encoder) for tokenizer, encoder in parts if encoder is not None]
        make = functools.partial(EmbeddingsProvider, truncate=False, returned_embeddings_type=kind, device=device)
        self._providers = [make(tokenizer, encoder) for tokenizer, encoder in self._parts]
        self._large, self._device = large, device
        unet = getattr(pipeline, "unet", None)
        self._one_piece = unet is not None and unet.config.get("addition_embed_type") == "text"

    def needs(self, prompt: str) -> bool:
        """Whether a prompt is read otherwise than without weights: it has some, or does not fit into one piece."""
        return len(read_fragments(prompt)) > 1 or prompt != plain_text(prompt) or not self._fits(prompt)

    def encode(self, prompt: str) -> dict[str, torch.Tensor]:
        """The embeddings of one prompt, each with one row: (1, pieces x length, D), and SDXL's pooled one (1, P)."""
        import torch

        fragments = read_fragments(prompt)
        for provider in self._providers:
            provider._empty_z = None  # its memory of the empty prompt would outlive a LoRA
        rows = [
            provider.get_embeddings_for_weighted_prompt_fragments(
                [[part.text for part in fragments]], [[part.weight for part in fragments]], device=self._device
            )
            for provider in self._providers
        ]
        pieces = rows[0].shape[1] // self._providers[0].max_token_count
        if pieces > (1 if self._one_piece else MAX_PIECES):
            length = self._providers[0].max_token_count
            raise EngineError(
                f"a prompt of {pieces} pieces of {length} tokens is too long for this model; shorten {prompt[:60]!r} …"
            )
        out = {"prompt_embeds": torch.cat(repeat_to_length(rows), dim=-1)}
        if self._large:
            tokenizer, encoder = self._parts[-1]
            tokens = tokenizer(
                [plain_text(prompt)], padding="max_length", max_length=tokenizer.model_max_length, truncation=True,
                return_tensors="pt",
            ).input_ids  # fmt: skip
            out["pooled_prompt_embeds"] = encoder(tokens.to(self._device))[0]
        return out

    def _fits(self, prompt: str) -> bool:
        return all(
            len(tokenizer(prompt, truncation=True, max_length=tokenizer.model_max_length + 1).input_ids)
            <= tokenizer.model_max_length
            for tokenizer, _ in self._parts
        )


def repeat_to_length(rows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Embeddings (…, n, D) of several lengths, each repeated as often as makes them all equally long."""
    length = math.lcm(*(row.shape[-2] for row in rows))
    return [row.repeat(*[1] * (row.ndim - 2), length // row.shape[-2], 1) for row in rows]


# --- inside -------------------------------------------------------------------------------------------------


def _plain(text: str) -> str:
    return _ESCAPED.sub(r"\1", text)
