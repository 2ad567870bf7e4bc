"""Counting a prompt's tokens as a model's text encoder will, with the `tokenizers` library alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from assetmill.engines import facts
from assetmill.engines.folders import read_json
from assetmill.engines.protocols import ModelSpec


def count_tokens(spec: ModelSpec) -> Callable[[str], int] | None:
    """Counts the tokens of a text as the model's text encoder reads it, start and end marks included.

    None where the folder has no tokenizer that the `tokenizers` library reads. Compare with `spec.token_limit`.
    """
    if not spec.folder or spec.token_limit is None:
        return None
    by_name = {family.name: family.token_part for family in facts.FAMILIES.values()}
    part = Path(spec.folder) / by_name.get(spec.family, "tokenizer")
    if not part.is_dir():
        part = Path(spec.folder)  # a model of transformers has its tokenizer beside its weights
    if (part / "tokenizer.json").is_file():
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(part / "tokenizer.json"))
    elif (part / "vocab.json").is_file() and (part / "merges.txt").is_file():
        tokenizer = _clip_tokenizer(part)
    else:
        return None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    marks = tokenizer.num_special_tokens_to_add(is_pair=False)
    extra = 0 if marks else 2  # older files leave the start and end marks to the library that reads them
    return lambda text: len(tokenizer.encode(text).ids) + extra


def _clip_tokenizer(part: Path) -> Any:
    """CLIP's byte-level BPE from vocabulary and merges, as folders before `tokenizer.json` hold it."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    vocabulary = read_json(part / "vocab.json")
    lines = (part / "merges.txt").read_text(encoding="utf-8").splitlines()
    merges: Any = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix="</w>", unk_token="<|endoftext|>")
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return tokenizer
