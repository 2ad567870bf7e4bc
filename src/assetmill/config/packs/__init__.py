"""Shipped channel packs, and how a channel's own renditions are laid over them.

A pack is a YAML file in this folder: a list of renditions, written as in a config.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from assetmill.config.renditions import RenditionConfig, conflicts
from assetmill.yaml_text import load_yaml

_FOLDER = Path(__file__).parent


@cache
def read_pack(name: str) -> tuple[RenditionConfig, ...]:
    """The renditions of a shipped pack."""
    entries = load_yaml((_FOLDER / f"{name}.yaml").read_text("utf-8"))
    return tuple(RenditionConfig.model_validate(entry) for entry in entries)


def join_renditions(
    pack: str | None, own: Sequence[RenditionConfig], palette: Path | None = None
) -> tuple[RenditionConfig, ...]:
    """A pack's renditions with a channel's own over them.

    One that has the name of the pack's changes the keys it gives and keeps the others; the rest are added behind.
    `palette` is that of all which name none. Without pack and own renditions, the master as one PNG. Raises ValueError
    naming the rendition where names are doubled or keys do not go together.
    """
    named: dict[str, dict[str, Any]] = {spec.name: _given(spec) for spec in (read_pack(pack) if pack else ())}
    seen: set[str] = set()
    for spec in own:
        if spec.name in seen:
            raise ValueError(f"two renditions are named {spec.name!r}; a name makes files, so give each its own")
        seen.add(spec.name)
        named[spec.name] = named.get(spec.name, {}) | _given(spec)
    if not named:
        named["image"] = {}
    joined = tuple(
        RenditionConfig(**({"palette": palette} if palette else {}) | values | {"name": name})
        for name, values in named.items()
    )
    problems = [f"rendition {spec.name!r}: {problem}" for spec in joined for problem in conflicts(spec)]
    if problems:
        raise ValueError("; ".join(problems))
    return joined


def _given(spec: RenditionConfig) -> dict[str, Any]:
    """The keys that were written, and no defaults: only those change a pack's."""
    return {name: getattr(spec, name) for name in spec.model_fields_set}
