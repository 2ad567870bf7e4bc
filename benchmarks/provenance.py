"""What provenance costs a file: writing metadata, signing and checking credentials, by format and number of threads.

    python benchmarks/provenance.py [--files 200] [--edge 512]

Metadata is timed as the difference between saving with and without it. The certificate is made here and thrown away.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from assetmill.config import ProvenanceConfig
from assetmill.deliver.credentials import Signer, check_credentials
from assetmill.deliver.facts import Facts, facts_of
from assetmill.deliver.metadata import FileMetadata, describe, save_options
from assetmill.records import Request
from assetmill.storage.entries import CatalogEntry
from write import ROOT, save_figures

FORMATS = {"png": {"compress_level": 1}, "jpeg": {"quality": 88}, "webp": {"quality": 88}, "avif": {"speed": 9}}
THREADS = (1, 2, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--edge", type=int, default=512)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    from certificates import issue

    identity = issue()
    signer = Signer(identity.chain, identity.key_pem(), "es256")
    figures = measure(signer, options.files, options.edge)
    save_figures("provenance", figures)
    for format, row in figures["formats"].items():
        print(format, row)


def measure(signer: Signer, num_files: int, edge: int) -> dict[str, Any]:
    """Milliseconds a file by format, bytes added, and the milliseconds that `describe` takes."""
    facts = sample_facts()
    y, x = np.mgrid[:edge, :edge]
    image = Image.fromarray(np.stack([x % 256, y % 256, (x * y // 97) % 256], axis=-1).astype(np.uint8))
    rows = {}
    for format, settings in FORMATS.items():
        save = partial(_save, image, format, settings)
        bare, told = save(FileMetadata()), save(describe(facts, "full"))
        sign = partial(signer.sign, told, f"image/{format}", facts)
        check = partial(check_credentials, sign())
        rows[format] = {
            "save": per_file(partial(save, FileMetadata()), 20),
            "save_described": per_file(partial(_save_described, save, facts), 20),
            "sign": {n: per_file(sign, num_files, n) for n in THREADS},
            "check": {n: per_file(check, num_files, n) for n in THREADS},
            "metadata_bytes": len(told) - len(bare),
            "signature_bytes": len(sign()) - len(told),
        }
    described = per_file(lambda: describe(facts, "full"), num_files)
    return {"files": num_files, "edge": edge, "reserve": signer.reserve, "describe": described, "formats": rows}


def _save(image: Image.Image, format: str, settings: dict[str, int], metadata: FileMetadata) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **settings, **save_options(metadata, format))
    return out.getvalue()


def _save_described(save: Callable[[FileMetadata], bytes], facts: Facts) -> bytes:
    return save(describe(facts, "full"))


def per_file(work: Callable[[], object], count: int, num_threads: int = 1) -> float:
    """Milliseconds of wall clock a call."""
    with ThreadPoolExecutor(num_threads) as pool:
        start = time.perf_counter()
        for _ in pool.map(lambda _: work(), range(count)):
            pass
        return round((time.perf_counter() - start) / count * 1000, 2)


def sample_facts() -> Facts:
    made = Request(
        engine="diffusers", epoch=1, model="maker/model", revision="0" * 40, positive="a red sword on white, " * 12,
        negative="blurry, cropped", seed=7, width=512, height=512, steps=30, guidance=7.0,
    )  # fmt: skip
    entry = CatalogEntry(
        asset_id="sword", rank=1, variant_key="", request_key=made.key, blob="", master="", media_type="image/png",
        model=made.model,
        revision=made.revision, width=1024, height=1024,
        request=made.payload(), licence="openrail++", alt={"": "a red sword on white"},
    )  # fmt: skip
    return facts_of(entry, ProvenanceConfig(creator="Example", rights="© Example", data_mining="no-ai-training"))


if __name__ == "__main__":
    main()
