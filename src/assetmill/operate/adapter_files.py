"""LoRA files as blobs of the store: a picture made with one can be made again when the file is gone from the sheet."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from assetmill.records import Adapter, InputError, Problem
from assetmill.storage.layout import blob_path
from assetmill.storage.store import Store, get_blob, put_blob


def keep_adapter(store: Store, path: Path, sha256: str) -> None:
    """Puts a LoRA's file into the store, so that its pictures can be made again when it is gone from the sheet."""
    if store.stat(blob_path(sha256, "safetensors")) is not None:
        return
    if put_blob(store, path.read_bytes(), "safetensors", "application/octet-stream") != sha256:
        raise InputError(Problem("the LoRA changed since it was planned", "run again", file=str(path)))


def adapters_in_store(store: Store, adapters: Collection[Adapter], folder: Path) -> dict[str, Path]:
    """Copies LoRAs that the store holds into a folder; gives their paths by hash."""
    paths = {}
    for adapter in adapters:
        if adapter.kind == "lora" and store.stat(blob_path(adapter.sha256, "safetensors")) is not None:
            path = folder / f"{adapter.sha256}.safetensors"
            if not path.is_file():
                folder.mkdir(parents=True, exist_ok=True)
                temporary = path.with_suffix(".tmp")
                temporary.write_bytes(get_blob(store, adapter.sha256, "safetensors"))
                temporary.replace(path)
            paths[adapter.sha256] = path
    return paths
