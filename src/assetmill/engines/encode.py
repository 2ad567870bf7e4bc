"""Prompts as the embeddings a pipeline takes, made once per distinct text.

The families in `ENCODERS` accept embeddings in place of texts. For every other pipeline class the texts themselves
are passed, and encoded with each batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from assetmill.engines import facts
from assetmill.engines.protocols import EngineError
from assetmill.engines.recent import RecentTensors
from assetmill.records import Adapter

if TYPE_CHECKING:
    import torch

    from assetmill.engines.weighting import WeightedEncoder

Encoded = dict[str, "torch.Tensor"]
"""Per argument of the pipeline (say `prompt_embeds`), a tensor with one row per text."""


class PromptEncoder:
    """Encodes the texts of a batch with a pipeline's own text encoders, each distinct text once while it is remembered.

    `embeds` is False for a pipeline that has to be given texts.
    """

    def __init__(self, pipeline: Any, family: str, device: torch.device, *, max_bytes: int = 256 * 2**20) -> None:
        self.pipeline = pipeline
        self.device = device
        self.recent = RecentTensors(max_bytes)
        self._family = family
        self._encode = ENCODERS.get(family)
        self._weighted: WeightedEncoder | None = None

    @property
    def embeds(self) -> bool:
        return self._encode is not None

    def arguments(
        self,
        positives: Sequence[str],
        negatives: Sequence[str] | None,
        clip_skip: int | None,
        adapters: tuple[Adapter, ...] = (),
        *,
        weights: bool = False,
    ) -> dict[str, torch.Tensor]:
        """The pipeline's arguments for one batch: embeddings stacked in the order of the texts.

        `negatives` is None where the pipeline runs without classifier-free guidance. `adapters` are the LoRAs that are
        laid over the text encoders just now: under others a text is encoded anew. `weights`: texts may hold weights and
        be longer than the encoder reads (see `weighting.py`); embeddings are then repeated to one length.
        """
        out = self._rows("", positives, (clip_skip, adapters, weights))
        if negatives is not None:
            # clip_skip acts on the positive text alone
            out |= self._rows("negative_", negatives, (None, adapters, weights))
        if not weights:
            return out
        longest = math.lcm(*(tensor.shape[1] for tensor in out.values() if tensor.ndim == 3))
        return {
            name: tensor.repeat(1, longest // tensor.shape[1], 1) if tensor.ndim == 3 else tensor
            for name, tensor in out.items()
        }

    def _rows(
        self, prefix: str, texts: Sequence[str], how: tuple[int | None, tuple[Adapter, ...], bool]
    ) -> dict[str, torch.Tensor]:
        import torch

        from assetmill.engines.weighting import repeat_to_length

        assert self._encode is not None
        clip_skip, _, weights = how
        held = {text: self.recent.get((prefix, text, how)) for text in dict.fromkeys(texts)}
        missing = [text for text, group in held.items() if group is None]
        if weights:
            missing = self._weigh(prefix, missing, held, how)
        for start in range(0, len(missing), 32):
            part = missing[start : start + 32]
            encoded = self._encode(self.pipeline, part, self.device, clip_skip, bool(prefix))
            for row, text in enumerate(part):
                group = {name: tensor[row].clone() for name, tensor in encoded.items()}
                held[text] = group
                self.recent.put((prefix, text, how), group)
        groups = [held[text] or {} for text in texts]
        rows = {name: [group[name] for group in groups] for name in groups[0]}
        if weights:
            rows["prompt_embeds"] = repeat_to_length(rows["prompt_embeds"])
        return {prefix + name: torch.stack(tensors) for name, tensors in rows.items()}

    def _weigh(self, prefix: str, texts: Sequence[str], held: dict[str, Any], how: tuple[Any, ...]) -> list[str]:
        """Encodes those of the texts that need it with weights; gives the others, which are read as ever."""
        from assetmill.engines.weighting import WeightedEncoder

        if self._weighted is None:
            self._weighted = WeightedEncoder(self.pipeline, self._family, self.device)
        plain = []
        for text in texts:
            if not self._weighted.needs(text):
                plain.append(text)
                continue
            held[text] = {name: tensor[0].clone() for name, tensor in self._weighted.encode(text).items()}
            self.recent.put((prefix, text, how), held[text])
        return plain


def _encode_sd(pipeline: Any, texts: list[str], device: torch.device, clip_skip: int | None, negative: bool) -> Encoded:
    if clip_skip is None:
        embeds, _ = pipeline.encode_prompt(texts, device, 1, False)
        return {"prompt_embeds": embeds}
    # diffusers 0.42 looks for the last norm where transformers 5 has it no more, so these lines of it stand here
    encoder, tokenizer = pipeline.text_encoder, pipeline.tokenizer
    longest = tokenizer.model_max_length
    tokens = tokenizer(texts, padding="max_length", max_length=longest, truncation=True, return_tensors="pt")
    hidden = encoder(tokens.input_ids.to(device), output_hidden_states=True).hidden_states
    if not 0 <= clip_skip < len(hidden) - 1:
        raise EngineError(f"clip_skip {clip_skip} is outside 0 to {len(hidden) - 2}, the layers of the text encoder")
    norm = getattr(encoder, "text_model", encoder).final_layer_norm
    return {"prompt_embeds": norm(hidden[-(clip_skip + 1)])}


def _encode_sdxl(
    pipeline: Any, texts: list[str], device: torch.device, clip_skip: int | None, negative: bool
) -> Encoded:
    embeds, _, pooled, _ = pipeline.encode_prompt(
        prompt=texts, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False, clip_skip=clip_skip
    )
    if negative and pipeline.config.force_zeros_for_empty_prompt:
        # SDXL was trained with zeros, not with an encoded empty text, in place of no prompt
        for row, text in enumerate(texts):
            if not text:
                embeds[row] = 0
                pooled[row] = 0
    return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}


def _encode_sd3(
    pipeline: Any, texts: list[str], device: torch.device, clip_skip: int | None, negative: bool
) -> Encoded:
    embeds, _, pooled, _ = pipeline.encode_prompt(
        prompt=texts,
        prompt_2=None,
        prompt_3=None,
        device=device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=False,
        clip_skip=clip_skip,
    )
    return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}


def _encode_flux(
    pipeline: Any, texts: list[str], device: torch.device, clip_skip: int | None, negative: bool
) -> Encoded:
    length = facts.flux_tokens(pipeline.transformer.config)
    embeds, pooled, _ = pipeline.encode_prompt(
        prompt=texts, prompt_2=None, device=device, num_images_per_prompt=1, max_sequence_length=length
    )
    return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}


def _encode_flux2(
    pipeline: Any, texts: list[str], device: torch.device, clip_skip: int | None, negative: bool
) -> Encoded:
    embeds, _ = pipeline.encode_prompt(prompt=texts, device=device, num_images_per_prompt=1)
    return {"prompt_embeds": embeds}


ENCODERS: Mapping[str, Callable[[Any, list[str], Any, int | None, bool], Encoded]] = MappingProxyType(
    {
        "stable-diffusion": _encode_sd,
        "lcm": _encode_sd,
        "stable-diffusion-xl": _encode_sdxl,
        "stable-diffusion-3": _encode_sd3,
        "flux": _encode_flux,
        "flux2": _encode_flux2,
        "flux2-klein": _encode_flux2,
    }
)
