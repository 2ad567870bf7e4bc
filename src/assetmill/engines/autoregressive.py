"""Janus: a language model that writes a picture as tokens of a codebook, the open line of DALL·E and Parti.

transformers samples with one generator for the whole batch; here each picture has its own, so the loop over tokens is
ours. Without sampling it gives what `JanusForConditionalGeneration.generate` gives.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assetmill.engines import facts
from assetmill.engines.devices import free_gib, memory_errors, pick_device, pick_dtype
from assetmill.engines.folders import check_weights, fingerprint_folder, model_files, read_card, read_json
from assetmill.engines.latent_loading import quiet
from assetmill.engines.loading import (
    check_batch,
    fitting_batch,
    hand_over,
    library_versions,
    refused_folders,
    seeded,
)
from assetmill.engines.model_folder import check_code, locate_model, verify_weights
from assetmill.engines.protocols import EngineError, Generated, ModelSpec, OnStep
from assetmill.engines.stage_folders import token_limit
from assetmill.records import InputError, Problem, Request

if TYPE_CHECKING:
    import torch

    from assetmill.config import ModelConfig

EPOCH = 1
"""Raised by hand when this engine makes other pictures of the same request."""

OPTIONS = ("temperature", "top_k")
GIB_PER_IMAGE = 12.0
_CLASS = "JanusForConditionalGeneration"


def resolve_janus(config: ModelConfig, resolve: Callable[[Path | str], Path]) -> ModelSpec:
    """What is known of a Janus folder before it is loaded. Never imports torch. Raises InputError.

    Size and steps are the model's own: a picture is a fixed number of tokens, one step each.
    """
    folder, model_id, commit = locate_model(config, resolve)
    files = model_files(folder)
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(
            Problem(
                "there is no config.json",
                "give a folder that transformers' `save_pretrained` wrote of a Janus",
                file=str(folder),
                column="model.source",
            )
        )
    content = read_json(path)
    problems = [*check_code(folder, {"_class_name": _CLASS}, files), *check_weights(files, folder)]
    if content.get("architectures") != [_CLASS]:
        problems.append(
            Problem(
                f"is a {', '.join(content.get('architectures') or ['model of no known class'])}, not a {_CLASS}",
                "take the shape transformers reads (say deepseek-community/Janus-Pro-1B), not the original's",
                file=str(path),
            )
        )
    if not any(name.endswith(".safetensors") for name in files):
        problems.append(
            Problem("has no safetensors", "take a revision that has; pickles are never loaded", file=str(folder))
        )
    if problems:
        raise InputError(problems)
    revision = commit or fingerprint_folder(folder)
    if not commit and config.revision and config.revision != revision:
        raise InputError(
            Problem(
                f"the folder's fingerprint is {revision}, the config pins {config.revision}",
                "restore the pinned files, or pin the new fingerprint",
                file=str(folder),
                column="model.revision",
            )
        )
    codebook, vision = content.get("vq_config", {}), content.get("vision_config", {})
    tokens = int(vision.get("num_image_tokens") or (vision["image_size"] // vision["patch_size"]) ** 2)
    side = int(tokens**0.5) * 2 ** (len(codebook.get("channel_multiplier") or (1, 1, 2, 2, 4)) - 1)
    card, known = read_card(folder), facts.MODELS.get(model_id)
    licence = str(card.get("license_name") or card.get("license") or (known.licence if known else ""))
    size = sum(path.stat().st_size for name, path in files.items() if name.endswith(".safetensors"))
    return ModelSpec(
        id=model_id,
        engine="autoregressive",
        epoch=EPOCH,
        revision=revision,
        family="janus",
        licence=licence,
        commercial=facts.may_sell(licence),
        operations=("text-to-image",),
        width=side,
        height=side,
        steps=tokens,
        guidance=5.0,
        token_limit=min(token_limit(folder, 4096), 4096),
        gib=round(size / 2**30, 3),
        folder=str(folder),
        option_names=OPTIONS,
        schedulers=(),
        fixed=("size", "steps"),
    )


class JanusGenerator:
    """Janus as a Generator: text to image with classifier-free guidance over the codebook's logits.

    Without a negative prompt guidance leads away from a prompt of pad tokens, as the model was trained; with one, from
    the model's reading of it. The options `temperature` (1.0; 0 takes the likeliest token and makes the seed
    meaningless) and `top_k` (0: all tokens) are the sampling's.

    Each picture draws from its own CPU generator, one row of noise per token (the Gumbel-max trick: the largest of
    logit plus noise is a sample of the softmax).

    Raises EngineError where the folder cannot be loaded, OutOfMemory where it does not fit the device.
    """

    def __init__(self, spec: ModelSpec, config: ModelConfig) -> None:
        from transformers import AutoProcessor, JanusForConditionalGeneration

        verify_weights(spec)
        if config.offload:
            raise EngineError("this engine keeps its model on one device; set model.offload: false")
        self.spec = spec
        self.device = pick_device(config.device)
        self.dtype = pick_dtype(config.dtype, self.device)
        folder = Path(spec.folder)
        with memory_errors(f"the model {spec.id} (about {spec.gib:.1f} GiB, {free_gib(self.device):.1f} GiB free)"):
            with refused_folders(folder, _CLASS), quiet():
                self.processor = AutoProcessor.from_pretrained(str(folder), local_files_only=True)
                self.model: Any = JanusForConditionalGeneration.from_pretrained(
                    str(folder), dtype=self.dtype, use_safetensors=True, local_files_only=True
                )
            self.model.eval().requires_grad_(False).to(self.device)

    def generate(
        self,
        batch: Sequence[Request],
        *,
        references: Mapping[str, np.ndarray] | None = None,
        on_step: OnStep | None = None,
    ) -> Generated:
        """Pictures of requests that share a bucket; see Generator."""
        import torch

        check_batch(self.spec, batch, on_step)
        first = batch[0]
        options = dict(first.options)
        if first.steps != self.spec.steps:
            raise EngineError(f"{self.spec.id} always takes {self.spec.steps} steps; remove the setting")
        temperature, top_k = float(options.get("temperature", 1.0)), int(options.get("top_k", 0))
        if temperature < 0 or top_k < 0:
            raise EngineError("temperature and top_k cannot be negative; 0 switches them off")
        start = time.perf_counter()
        with memory_errors(f"a batch of {len(batch)} at {first.width}x{first.height}"), torch.inference_mode():
            tokens = self._write(batch, first.guidance, temperature, top_k)
            decoded = self.model.decode_image_tokens(tokens)  # (N, H, W, 3), about -1 to 1
            return hand_over(decoded.permute(0, 3, 1, 2), start)

    def fitting_batch(self, width: int, height: int) -> int:
        """A batch size to start from; halve it if it doesn't fit."""
        return fitting_batch(self.device, width, height, GIB_PER_IMAGE)

    def versions(self) -> Mapping[str, str]:
        """Library versions, device and dtype, to record beside candidates."""
        return library_versions(self.device, self.dtype)

    # --- inside -----------------------------------------------------------------------------------------------

    def _write(self, batch: Sequence[Request], guidance: float, temperature: float, top_k: int) -> torch.Tensor:
        """The codebook's tokens (N, spec.steps) of a batch."""
        import torch
        from transformers import DynamicCache

        model, count = self.model.model, len(batch)
        guided = guidance > 1
        ids, mask = self._prompts(batch, guided)
        places = (mask.cumsum(-1) - 1).clamp(min=0)
        embeds = self.model.get_input_embeddings()(ids)
        cache = DynamicCache(config=model.language_model.config)
        generators = seeded(batch)
        tokens = torch.zeros((count, self.spec.steps), dtype=torch.long, device=self.device)
        for step in range(self.spec.steps):
            hidden = model.language_model(
                inputs_embeds=embeds, attention_mask=mask, position_ids=places, past_key_values=cache, use_cache=True
            ).last_hidden_state[:, -1]
            logits = model.generation_head(hidden).float()
            if guided:
                wanted, away = logits.chunk(2)
                logits = away + guidance * (wanted - away)
            tokens[:, step] = _pick(logits, generators, temperature, top_k)
            chosen = tokens[:, step : step + 1].repeat(2 if guided else 1, 1)
            embeds = self.model.prepare_embeddings_for_image_generation(chosen)
            mask = torch.cat([mask, mask.new_ones((len(mask), 1))], dim=1)
            places = places[:, -1:] + 1
        return tokens

    def _prompts(self, batch: Sequence[Request], guided: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and attention mask, left-padded; with guidance the rows to lead away from follow."""
        import torch

        settings = self.model.generation_config
        pad, begin = settings.pad_token_id, settings.bos_token_id
        tokenizer = self.processor.tokenizer
        kept = {begin, tokenizer.convert_tokens_to_ids(self.processor.image_start_token)}
        rows = [self._ids(request.positive) for request in batch]
        if guided:
            rows += [
                self._ids(request.negative) if request.negative else [t if t in kept else pad for t in rows[i]]
                for i, request in enumerate(batch)
            ]
        longest = max(map(len, rows))
        ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=self.device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=self.device)
        return ids, mask

    def _ids(self, text: str) -> list[int]:
        """A prompt's tokens as a user's turn of a conversation, the mark that opens a picture at its end."""
        if self.processor.chat_template:
            turn = [{"role": "user", "content": [{"type": "text", "text": text}]}]
            text = self.processor.apply_chat_template(turn, add_generation_prompt=True)
        return list(self.processor(text=text, generation_mode="image", return_tensors=None)["input_ids"][0])


def _pick(logits: torch.Tensor, generators: Sequence[torch.Generator], temperature: float, top_k: int) -> torch.Tensor:
    """One token per row (N,), drawn with the row's own generator."""
    import torch

    if temperature == 0:
        return logits.argmax(-1)
    logits = logits / temperature
    if top_k:
        least = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    uniform = torch.stack([torch.rand(logits.shape[-1], generator=g) for g in generators])
    # rand is in [0, 1): its 0 would give an infinite noise of the wrong sign
    gumbel = -torch.log(-torch.log(uniform.clamp(min=1e-20)))
    return (logits + gumbel.to(logits.device)).argmax(-1)
