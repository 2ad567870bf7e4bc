"""What choosing for families together gives, and what it costs, against picking one by one.

python benchmarks/families.py [--pool FOLDER]

Collections of six assets (one style, one ground, six objects; the colours are left open), eight starter pictures of
each. Each collection is chosen one by one and together, under several weights: how near its pictures' colours and
embeddings are, near-duplicates, and what that costs in score. The default weight was settled on another pool. Then how
often the search that large families get finds what the full search finds. Takes a minute, and four more for a pool that
isn't there yet.
Writes docs/figures/families.json, the table of docs/families.md and docs/img/families.png.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from assetmill import pipeline
from assetmill.curate import family
from assetmill.curate.colours import palette_of
from assetmill.curate.family import FamilyWeights, Member, choose_family, look_of
from assetmill.deliver.picture import decode
from assetmill.operate.match import Embeddings, load_embedder
from assetmill.storage.store import get_blob
from machine import describe_machine, machine_line
from taste_pool import open_pool

ROOT = Path(__file__).resolve().parents[1]
FIGURES, PAGE = ROOT / "docs" / "figures" / "families.json", ROOT / "docs" / "families.md"
PICTURE = ROOT / "docs" / "img" / "families.png"
MARK, END = "<!-- figures: families -->", "<!-- end -->"
NUM_ASSETS = 240
WEIGHTS = (0.1, 0.25, 0.5, 1.0, 2.0)
"""Weights of coherence and of colours that are compared."""

Collection = list[tuple[Member, list[np.ndarray]]]
"""The members of a family with the pixels of their candidates, best first."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, help="folder of the pictures, kept; a temporary one if left out")
    given = parser.parse_args().pool
    with tempfile.TemporaryDirectory(prefix="assetmill-families-") as folder:
        collections = read_collections(open_pool(given or Path(folder), NUM_ASSETS))
    members = [[m for m, _ in c] for c in collections]
    figures = {
        "collections": len(collections),
        "assets": sum(map(len, members)),
        "candidates": sum(len(m.scores) for some in members for m in some),
        "default": f"{FamilyWeights().coherence:g}",
        "weights": {f"{w:g}": compare(members, FamilyWeights(w, w)) for w in WEIGHTS},
        "search": compare_search(members),
        "machine": describe_machine(),
    }
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    write_table(figures)
    draw_picture(collections)


def read_collections(config: Path) -> list[Collection]:
    """The pool's families. Embeddings are the judge's; scores those of the run."""
    job = pipeline.open_job(config)
    memory = Embeddings(job.store, load_embedder(job.config)[1])
    histories = job.index.history([a.id for a in job.sheet.assets])
    files = {c.blob: c.media_type for h in histories.values() for c in h.candidates.values()}
    readers = {blob: partial(get_blob, job.store, blob, media.rpartition("/")[2]) for blob, media in files.items()}
    vectors, _ = memory.of_pictures(readers)
    found: dict[str, Collection] = {}
    for asset in job.sheet.assets:
        scores = {s.blob: s.value for s in histories[asset.id].scores.values() if s.value is not None}
        blobs = sorted(scores, key=lambda b: (-scores[b], b))
        pixels = [decode(readers[b]()) for b in blobs]
        member = Member(
            asset.id, np.array([scores[b] for b in blobs]), np.stack([vectors[b] for b in blobs]),
            np.stack([palette_of(p) for p in pixels]),
        )  # fmt: skip
        found.setdefault(asset.columns["collection"], []).append((member, pixels))
    return list(found.values())


def compare(collections: Sequence[Sequence[Member]], weights: FamilyWeights) -> dict[str, Any]:
    """One by one against together: means over collections, the difference with its 95 % interval."""
    rows: list[dict[str, float]] = []
    spread = _spread([m.scores for some in collections for m in some])
    for members in collections:
        choice = choose_family(members, weights)
        alone, together = look_of_picks(members, [0] * len(members)), look_of_picks(members, choice.picks)
        lost = np.mean([m.scores[0] - m.scores[p] for m, p in zip(members, choice.picks, strict=True)])
        rows.append(
            {
                "palette_alone": alone.palette, "palette_together": together.palette,
                "palette_less": 1 - together.palette / alone.palette,
                "coherence_alone": alone.coherence, "coherence_together": together.coherence,
                "coherence_more": together.coherence - alone.coherence,
                "duplicates_alone": alone.duplicates, "duplicates_together": together.duplicates,
                "score_lost": float(lost), "score_lost_in_spreads": float(lost) / spread,
                "changed": float(np.mean([p > 0 for p in choice.picks])),
                "rank": float(np.mean(choice.picks)) + 1,
            }
        )  # fmt: skip
    return {name: _interval([row[name] for row in rows]) for name in rows[0]} | {"score_spread": round(spread, 4)}


def look_of_picks(members: Sequence[Member], picks: Sequence[int]) -> family.FamilyLook:
    """How well the picked pictures of a family go together."""
    pairs = list(zip(members, picks, strict=True))
    limit = FamilyWeights().near_duplicate
    return look_of(np.stack([m.embeddings[p] for m, p in pairs]), np.stack([m.palettes[p] for m, p in pairs]), limit)


def compare_search(collections: Sequence[Sequence[Member]]) -> dict[str, float]:
    """The search for large families on families that can be searched in full, and what a family of 60 takes."""
    weights = FamilyWeights()
    exact = [choose_family(members, weights) for members in collections]
    whole, family.EXACT_WAYS = family.EXACT_WAYS, 0
    try:
        found = [choose_family(members, weights) for members in collections]
    finally:
        family.EXACT_WAYS = whole
    large = [m for members in collections[:10] for m in members]
    start = time.process_time()
    choose_family(large, weights)
    seconds = time.process_time() - start
    gains = sum(e.value - e.one_by_one for e in exact)
    return {
        "same": float(np.mean([e.picks == f.picks for e, f in zip(exact, found, strict=True)])),
        "gain_kept": sum(f.value - f.one_by_one for f in found) / gains,
        "large_members": len(large),
        "large_seconds": round(seconds, 2),
    }


def _spread(scores: Sequence[np.ndarray]) -> float:
    """Standard deviation of scores within an asset."""
    return float(np.sqrt(sum(s.var(ddof=1) * (len(s) - 1) for s in scores) / sum(len(s) - 1 for s in scores)))


def _interval(values: Sequence[float]) -> dict[str, float]:
    """Mean and 95 % interval by bootstrap over collections."""
    array = np.array(values)
    drawn = array[np.random.default_rng(0).integers(len(array), size=(2000, len(array)))].mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"mean": round(float(array.mean()), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


# --- the page ---------------------------------------------------------------------------------------------------


def write_table(figures: Mapping[str, Any]) -> None:
    """The table of figures between its marks on the page."""
    text = PAGE.read_text("utf-8")
    start = text.index(MARK) + len(MARK)
    end = text.index(END, start)
    PAGE.write_text(text[:start] + "\n\n" + "\n".join(_lines(figures)) + "\n\n" + text[end:], "utf-8")


def _lines(figures: Mapping[str, Any]) -> Iterator[str]:
    default = figures["default"]
    first = figures["weights"][default]
    yield "| weights | apart in colour (ΔE) | less than one by one | mean cosine | near-duplicate pairs | score lost |"
    yield "|---|---|---|---|---|---|"
    yield (
        f"| one by one | {first['palette_alone']['mean']:.1f} | | {first['coherence_alone']['mean']:.3f} | "
        f"{first['duplicates_alone']['mean']:.2f} | |"
    )
    for name, row in figures["weights"].items():
        less, lost = row["palette_less"], row["score_lost_in_spreads"]
        yield (
            f"| {name}{' (default)' if name == default else ''} | {row['palette_together']['mean']:.1f} | "
            f"{less['mean']:.0%} ({less['low']:.0%} to {less['high']:.0%}) | "
            f"{row['coherence_together']['mean']:.3f} | {row['duplicates_together']['mean']:.2f} | "
            f"{row['score_lost']['mean']:.3f}, {lost['mean']:.2f} standard deviations |"
        )
    search = figures["search"]
    yield ""
    yield (
        f"{figures['collections']} collections of {figures['assets'] // figures['collections']} assets with "
        f"{figures['candidates'] // figures['assets']} candidates each. The search that large families get finds the "
        f"very choice of the full search in {search['same']:.0%} of them, and {search['gain_kept']:.1%} of its gain. "
        f"A family of {search['large_members']} takes {search['large_seconds']:.2f} s of processor time. "
        f"{machine_line(figures['machine'])}."
    )


def draw_picture(collections: Sequence[Collection], num: int = 3) -> None:
    """Some collections, one by one above together: those about the middle of what colours gain."""
    from PIL import Image

    gains = []
    for number, collection in enumerate(collections):
        members = [m for m, _ in collection]
        picks = choose_family(members, FamilyWeights()).picks
        alone, together = look_of_picks(members, [0] * len(members)), look_of_picks(members, picks)
        gains.append((1 - together.palette / alone.palette, number, picks))
    gains.sort()
    middle = len(gains) // 2
    blocks = []
    for _, number, picks in gains[middle - num // 2 : middle - num // 2 + num]:
        for chosen in ([0] * len(picks), picks):
            blocks.append(np.hstack([pixels[p] for (_, pixels), p in zip(collections[number], chosen, strict=True)]))
        blocks.append(np.full((8, *blocks[-1].shape[1:]), 255, np.uint8))
    sheet = Image.fromarray(np.vstack(blocks[:-1]))
    sheet = sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.LANCZOS)
    sheet.quantize(256, dither=Image.Dither.NONE).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
