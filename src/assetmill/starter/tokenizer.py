"""Builds the one tokenizer of the pack: byte-level BPE in CLIP's format, used by CLIP and pipeline alike."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

from assetmill.starter.models import CONTEXT_LENGTH

START, END = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer(folder: Path, num_merges: int = 900) -> Any:
    """Learn merges from the world's captions, write the tokenizer into `folder`, return a `CLIPTokenizer`.

    End-of-text has the highest id, because CLIP's text towers find it by `argmax`; padding is end-of-text.
    """
    import re

    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    pieces = re.compile(r"[^\W\d_]+|\d|[^\s\w]+|_")
    counts: Counter[tuple[str, ...]] = Counter()
    for text, weight in _corpus():
        for piece in pieces.findall(text.lower()):
            counts[(*piece[:-1], piece[-1] + "</w>")] += weight
    alphabet = sorted(ByteLevel.alphabet())
    vocabulary = alphabet + [letter + "</w>" for letter in alphabet]
    merges: list[tuple[str, str]] = []
    for _ in range(num_merges):
        pair = _commonest_pair(counts)
        if pair is None:
            break
        merges.append(pair)
        vocabulary.append("".join(pair))
        counts = Counter({_merge(word, pair): count for word, count in counts.items()})
    ids = {token: number for number, token in enumerate(dict.fromkeys(vocabulary))}
    ids |= {START: len(ids), END: len(ids) + 1}
    tokenizer = CLIPTokenizer(
        vocab=ids,
        merges=merges,  # type: ignore[arg-type]
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        model_max_length=CONTEXT_LENGTH,
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(str(folder))
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False))
    merge_lines = "\n".join(" ".join(pair) for pair in merges)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merge_lines}\n")
    return tokenizer


def _corpus() -> list[tuple[str, int]]:
    """Return texts with weights: captions as they are sampled, and each filler."""
    import numpy as np

    from assetmill.starter.captions import caption
    from assetmill.starter.renderer import sample_spec
    from assetmill.starter.vocabulary import ATTRIBUTES, FILLERS, ways_to_say

    rng = np.random.default_rng(5)
    texts = [(caption(sample_spec("words", index, held_out=None), rng), 1) for index in range(4000)]
    texts += [(filler, 40) for filler in FILLERS]
    texts += [(way, 40) for values in ATTRIBUTES.values() for value in values for way in ways_to_say(value)]
    return texts


def _commonest_pair(counts: Counter[tuple[str, ...]]) -> tuple[str, str] | None:
    pairs: Counter[tuple[str, str]] = Counter()
    for word, count in counts.items():
        for pair in pairwise(word):
            pairs[pair] += count
    return max(pairs, key=lambda pair: (pairs[pair], pair)) if pairs else None


def _merge(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged: list[str] = []
    position = 0
    while position < len(word):
        if word[position : position + 2] == pair:
            merged.append("".join(pair))
            position += 2
        else:
            merged.append(word[position])
            position += 1
    return tuple(merged)
