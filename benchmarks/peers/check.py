"""Whether the contenders did the same work: the same pictures, the same winners, the same number of objects."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assetmill.config import StoreConfig, read_config
from assetmill.deliver.picture import decode
from assetmill.records import CandidateRecord, RequestRecord, parse_record
from assetmill.storage.catalog import open_catalog
from assetmill.storage.segments import read_segment
from assetmill.storage.store import get_blob, open_store
from peers.work import Work

LARGEST_DIFFERENCE = 2
"""On 8-bit values. Sums are taken in another order at another batch size, which may tip a value to its neighbour."""


@dataclass(slots=True)
class Made:
    """What a contender left: uint8 pictures by the candidate's name, ranks (from 1) and large pictures of winners."""

    pictures: dict[str, Any] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    masters: dict[str, Any] = field(default_factory=dict)
    num_masters: int = 0


def read_made(name: str, work: Work, out: Path) -> Made:
    """What a contender left in its folder."""
    return _read_store(work, out) if name == "assetmill" else _read_folder(out)


def _read_folder(out: Path) -> Made:
    made = Made({p.stem: decode(p.read_bytes()) for p in sorted((out / "candidates").iterdir())})
    if (out / "manifest.jsonl").exists():
        for line in map(json.loads, (out / "manifest.jsonl").read_text().splitlines()):
            name = f"{line['asset']}_{line['index']}"
            made.scores[name] = line["score"]
            if line["rank"]:
                made.ranks[name] = line["rank"]
        made.num_masters = len(list((out / "masters").iterdir()))
        made.masters = {name: decode((out / "masters" / f"{name}.png").read_bytes()) for name in made.ranks}
    return made


def _read_store(work: Work, out: Path) -> Made:
    config = read_config(work.config)
    store = open_store(StoreConfig(), str(out), read_only=True)
    known = {(p.asset, p.positive, p.seed): p.name for p in work.pieces}
    made, names = Made(), {}
    for info in store.list(f"records/{config.name}/"):
        records = [parse_record(line) for line in read_segment(store, info.key).lines]
        for record in records:
            if isinstance(record, RequestRecord):
                piece = record.asset_id, record.request.positive, record.request.seed
                names[record.key] = known.get(piece, f"{record.asset_id} with seed {record.request.seed}")
        for record in records:
            if isinstance(record, CandidateRecord):
                extension = record.media_type.removeprefix("image/")
                made.pictures[names[record.request_key]] = decode(get_blob(store, record.blob, extension))
    for entry in open_catalog(store, config.name).iter_entries():
        name = names[entry.request_key]
        made.ranks[name], made.scores[name] = entry.rank, entry.score or 0.0
        made.masters[name] = decode(get_blob(store, entry.master, entry.media_type.removeprefix("image/")))
    made.num_masters = len(made.masters)
    return made


def compare(name: str, work: Work, made: Made, reference: Made) -> tuple[dict[str, Any], list[str]]:
    """How far a contender's work agrees with the reference's, and what is wrong with it.

    The agreement: counts, the largest difference on 8-bit values, and the shares of identical pictures and winners.
    """
    import numpy as np

    faults = []
    wanted = {p.name for p in work.pieces}
    if set(made.pictures) != wanted:
        odd = sorted(set(made.pictures) ^ wanted)
        faults.append(f"{len(made.pictures)} pictures instead of {len(wanted)}; odd are {', '.join(odd[:5])}")
    gaps = _differences(made.pictures, reference.pictures)
    agreement: dict[str, Any] = {
        "pictures": len(made.pictures),
        "identical": float(np.mean([gap == 0 for gap in gaps])) if gaps else 0.0,
        "largest_difference": max(gaps, default=0),
    }
    if agreement["largest_difference"] > LARGEST_DIFFERENCE:
        faults.append(f"pictures differ by up to {agreement['largest_difference']} of 255")
    if name == "pure":  # makes no choice
        return agreement, faults
    expected = len(work.pieces) if work.upscale_all and name.startswith("per-") else work.num_masters
    if made.num_masters != expected:
        faults.append(f"{made.num_masters} large pictures instead of {expected}")
    other = sorted(n for n, rank in reference.ranks.items() if made.ranks.get(n) != rank)
    if other or len(made.ranks) != len(reference.ranks):
        faults.append(f"{len(other)} of {len(reference.ranks)} winners differ: {', '.join(other[:5])}")
    gaps = _differences(made.masters, reference.masters)
    agreement |= {
        "masters": made.num_masters,
        "winners_same": 1 - len(other) / max(1, len(reference.ranks)),
        "masters_largest_difference": max(gaps, default=0),
    }
    # An upscaler may steepen a difference of its input.
    if agreement["masters_largest_difference"] > 4 * LARGEST_DIFFERENCE:
        faults.append(f"large pictures differ by up to {agreement['masters_largest_difference']} of 255")
    return agreement, faults


def _differences(found: dict[str, Any], reference: dict[str, Any]) -> list[int]:
    import numpy as np

    gaps = []
    for name in found.keys() & reference.keys():
        one, two = found[name], reference[name]
        same = one.shape == two.shape
        gaps.append(int(np.abs(one.astype(np.int16) - two.astype(np.int16)).max()) if same else 255)
    return gaps
