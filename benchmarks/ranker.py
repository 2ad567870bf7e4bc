"""What the house ranker learns from a reviewer whose taste CLIP does not know, and what it says of one without a taste.

    python benchmarks/ranker.py [--pool FOLDER]

Starter pictures, eight for each of 240 assets whose prompts leave the colour open. The reviewer (simulated_reviewer.py)
likes warm colours and centred objects, by chance more or less; their decisions go the way that real ones go: records,
folded, turned into pairs. 80 assets are held out; nothing is learned from them, and no setting was chosen on them. The
curve learns from more and more of the others. Takes some 4 minutes, and 4 more for a pool that isn't there yet. Writes
docs/figures/ranker.json, docs/img/ranker.svg, docs/img/ranker-picks.png and the figures of docs/ranker.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from assetmill import pipeline
from assetmill.curate.ranker import Example, Ranker, cross_validate, evaluate, interval, train
from assetmill.deliver.picture import decode
from assetmill.operate.match import Embeddings, load_embedder
from assetmill.operate.rankers import pairs_of_reviews
from assetmill.records import asset_key
from assetmill.storage.decisions import Decision
from assetmill.storage.reviews import fold_decisions
from assetmill.storage.store import get_blob
from machine import describe_machine, machine_line
from simulated_reviewer import decide, feel, look_at
from taste_pool import open_pool

ROOT = Path(__file__).resolve().parents[1]
FIGURES, PAGE = ROOT / "docs" / "figures" / "ranker.json", ROOT / "docs" / "ranker.md"
PLOT = ROOT / "docs" / "img" / "ranker.svg"
PICTURE = ROOT / "docs" / "img" / "ranker-picks.png"
MARK, END = "<!-- figures: ranker -->", "<!-- end -->"
NUM_ASSETS, NUM_HELD_OUT = 240, 80
SIZES = (5, 10, 20, 40, 80, 160)
"""Decided assets that the curve learns from."""
REPEATS = 6
"""Orders of the assets, and moods of the reviewer, behind each point of the curve."""
NOISE = 0.6
"""Standard deviation of the reviewer's chance; their liking has 1 over all pictures."""
MIN_ASSETS = 20
NUM_INDIFFERENT, INDIFFERENT_ASSETS = 40, 40


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """An asset as the reviewer sees it: pictures, how much they are liked (N,), the judge's scores and embeddings."""

    asset_id: str
    collection: str
    blobs: Sequence[str]
    liking: np.ndarray
    scores: np.ndarray
    embeddings: np.ndarray
    pixels: Sequence[np.ndarray] = ()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, help="folder of the pictures, kept; a temporary one if left out")
    given = parser.parse_args().pool
    with tempfile.TemporaryDirectory(prefix="assetmill-ranker-") as folder:
        say("pictures")
        pool = read_pool(open_pool(given or Path(folder), NUM_ASSETS))
    held_out, known = pool[:NUM_HELD_OUT], pool[NUM_HELD_OUT:]
    figures: dict[str, Any] = {"machine": describe_machine(), "assets": len(known), "held_out": len(held_out)}
    figures["reviewer"] = describe_reviewer(pool)
    figures["result"] = measure_result(known, held_out)
    figures["curve"] = measure_curve(known, held_out)
    figures["groups"] = measure_groups(known, held_out)
    figures["indifferent"] = measure_indifferent(known)
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    write_page(figures)
    draw_curve(figures, PLOT)
    draw_picks(known, held_out, PICTURE)
    gain = figures["result"]["gain"]
    say(f"gain {gain['value']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f}) on {len(held_out)} held-out assets")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def read_pool(config: Path) -> list[Seen]:
    """The pool's assets in the order of their keys, which has nothing to do with what they show."""
    job = pipeline.open_job(config)
    histories = job.index.history([a.id for a in job.sheet.assets])
    media = {c.blob: c.media_type for h in histories.values() for c in h.candidates.values()}
    readers = {b: partial(get_blob, job.store, b, kind.rpartition("/")[2]) for b, kind in media.items()}
    vectors, bad = Embeddings(job.store, load_embedder(job.config)[1]).of_pictures(readers)
    pictures: dict[str, dict[str, np.ndarray]] = {}
    scores: dict[str, Mapping[str, float]] = {}
    for asset in job.sheet.assets:
        history = histories[asset.id]
        refused = {g.subject for g in history.gates if not g.passed}
        scores[asset.id] = {s.blob: s.value for s in history.scores.values() if s.value is not None}
        blobs = sorted({c.blob for key, c in history.candidates.items() if key not in refused} & set(scores[asset.id]))
        pictures[asset.id] = {b: decode(readers[b]()) for b in blobs if b not in bad}
    collections = {a.id: a.columns["collection"] for a in job.sheet.assets}
    found = [
        Seen(
            name, collections[name], p.blobs, p.liking, np.array([scores[name][b] for b in p.blobs]),
            np.stack([vectors[b] for b in p.blobs]), [pictures[name][b] for b in p.blobs],
        )
        for name, p in look_at(pictures).items()
    ]  # fmt: skip
    return sorted(found, key=lambda seen: asset_key(seen.asset_id))


# --- what the reviewer says -----------------------------------------------------------------------------------


def review(seen: Seen, rng: np.random.Generator, *, noise: float = NOISE, group: str = "") -> Example:
    """One look at an asset, as a lesson. It goes the way of real decisions: records, folded, turned into pairs."""
    verdict = decide(seen.blobs, feel(seen.liking, noise, rng))
    shown = {"ranking": [[blob, None] for blob in seen.blobs]}
    said = [("approve", verdict.approved), *(("reject", blob) for blob in verdict.rejected)]
    decisions = [
        Decision(asset_id=seen.asset_id, kind=kind, by="sim", blob=blob, shown=shown, number=n, id=f"{n:026d}", at="")
        for n, (kind, blob) in enumerate(said, 1)
    ]
    rows = {blob: row for row, blob in enumerate(seen.blobs)}
    pairs = pairs_of_reviews(fold_decisions(decisions), dict.fromkeys(seen.blobs))
    return Example(
        asset_key(seen.asset_id), group, seen.embeddings, seen.scores, np.array([(rows[a], rows[b]) for a, b in pairs])
    )


def describe_reviewer(pool: Sequence[Seen]) -> dict[str, Any]:
    """How well a second look agrees with the first, how well liking itself does (no ranking can be expected to do
    better), and what the judge knows of the taste.
    """
    rng = np.random.default_rng(100)
    again, liking = [], []
    for seen in pool:
        pairs = review(seen, rng).pairs
        again.append(share_in_order(pairs, feel(seen.liking, NOISE, rng)))
        liking.append(share_in_order(pairs, seen.liking))
    known = [np.corrcoef(s.scores, s.liking)[0, 1] for s in pool if s.scores.std() > 0]
    return {
        "noise": NOISE, "second_look": asdict(interval(np.array(again))), "liking": asdict(interval(np.array(liking))),
        "correlation": float(np.mean(known)),
    }  # fmt: skip


def share_in_order(pairs: np.ndarray, values: np.ndarray) -> float:
    return float((values[pairs[:, 0]] > values[pairs[:, 1]]).mean())


# --- what is measured -----------------------------------------------------------------------------------------


def measure_result(known: Sequence[Seen], held_out: Sequence[Seen]) -> dict[str, Any]:
    """A ranker of all decisions, on the held-out assets; what training itself said of it; how liked its picks are."""
    rng = np.random.default_rng(1)
    lessons = [review(s, rng) for s in known]
    ranker = train(lessons, min_assets=MIN_ASSETS)
    found = evaluate(ranker, [review(s, rng) for s in held_out])
    foretold = cross_validate(lessons, min_assets=MIN_ASSETS)
    say(f"all {len(known)}: judge {found.judge.value:.3f}, judge and taste {found.both.value:.3f}")
    return {
        **asdict(found),
        "weight": ranker.weight,
        "penalty": ranker.tastes[""].penalty,
        "pairs": sum(len(e.pairs) for e in lessons),
        "foretold": asdict(foretold.gain),
        "picks": compare_picks(ranker, held_out),
    }


def compare_picks(ranker: Ranker, assets: Sequence[Seen]) -> dict[str, Any]:
    """How liked the first picture of each asset is, 0 for a random pick and 1 for the most liked, and its score."""
    rows = []
    for seen in assets:
        both = seen.scores + ranker.bonus(ranker.values("", seen.embeddings))
        chance, best = seen.liking.mean(), seen.liking.max()
        first, with_taste = int(np.argmax(seen.scores)), int(np.argmax(both))
        liked = [(seen.liking[i] - chance) / (best - chance) for i in (first, with_taste)]
        rows.append((*liked, seen.scores[first] - seen.scores[with_taste]))
    table = np.array(rows)
    spread = float(np.sqrt(np.mean([s.scores.var(ddof=1) for s in assets])))
    return {
        "judge": asdict(interval(table[:, 0])), "both": asdict(interval(table[:, 1])),
        "score_lost": asdict(interval(table[:, 2])), "score_spread": spread,
    }  # fmt: skip


def measure_curve(known: Sequence[Seen], held_out: Sequence[Seen]) -> list[dict[str, Any]]:
    """Agreement on the held-out assets by the number of decided ones: the mean of some orders, the least, the most."""
    found: dict[int, list[tuple[float, float, float, bool]]] = {size: [] for size in SIZES}
    for repeat in range(REPEATS):
        rng = np.random.default_rng([2, repeat])
        order = rng.permutation(len(known))
        lessons = [review(known[i], rng) for i in order]
        asked = [review(s, rng) for s in held_out]
        for size in SIZES:
            some = lessons[:size]
            agreement = evaluate(train(some, min_assets=MIN_ASSETS), asked)
            allowed = size >= MIN_ASSETS and cross_validate(some, min_assets=MIN_ASSETS).is_better
            found[size].append((agreement.judge.value, agreement.both.value, agreement.taste.value, allowed))
        say(f"curve {repeat + 1} of {REPEATS}: " + ", ".join(f"{n}: {found[n][-1][1]:.3f}" for n in SIZES))
    rows = []
    for size, values in found.items():
        judge, both, taste, allowed = (np.array(column, np.float64) for column in zip(*values, strict=True))
        rows.append(
            {
                "assets": size, "judge": _range(judge), "both": _range(both), "taste": _range(taste),
                "gain": _range(both - judge), "promoted": float(allowed.mean()),
            }
        )  # fmt: skip
    return rows


def measure_groups(known: Sequence[Seen], held_out: Sequence[Seen]) -> dict[str, Any]:
    """Two brands that like the opposite, half of the collections each: one taste for all against one for each."""
    rng = np.random.default_rng(3)

    def ask(assets: Sequence[Seen]) -> list[Example]:
        lessons = []
        for seen in assets:
            warm = int(seen.collection.rpartition("-")[2]) % 2 == 0
            liking = seen.liking if warm else -seen.liking
            lessons.append(review(replace(seen, liking=liking), rng, group="warm" if warm else "cold"))
        return lessons

    lessons, asked = ask(known), ask(held_out)
    each = train(lessons, min_assets=MIN_ASSETS)
    one = evaluate(train([replace(e, group="") for e in lessons], min_assets=MIN_ASSETS), asked)
    own = evaluate(each, asked)
    say(f"groups: one taste {one.both.value:.3f}, one for each {own.both.value:.3f}")
    return {
        "judge": asdict(own.judge), "one": asdict(one.both), "each": asdict(own.both),
        "groups": sorted(name for name in each.tastes if name),
    }  # fmt: skip


def measure_indifferent(known: Sequence[Seen]) -> dict[str, Any]:
    """Reviewers who decide by chance alone: how many of them would get a ranker promoted."""
    gains, promoted = [], 0
    for number in range(NUM_INDIFFERENT):
        rng = np.random.default_rng([4, number])
        some = [known[i] for i in rng.permutation(len(known))[:INDIFFERENT_ASSETS]]
        lessons = [review(replace(s, liking=np.zeros(len(s.blobs))), rng, noise=1.0) for s in some]
        found = cross_validate(lessons, min_assets=MIN_ASSETS)
        gains.append(found.gain.value)
        promoted += found.is_better
        if number % 10 == 9:
            say(f"reviewers without a taste: {promoted} of {number + 1} promoted")
    return {
        "reviewers": NUM_INDIFFERENT, "assets": INDIFFERENT_ASSETS, "promoted": promoted,
        "mean_gain": float(np.mean(gains)),
    }  # fmt: skip


def _range(values: np.ndarray) -> dict[str, float]:
    return {"value": float(values.mean()), "low": float(values.min()), "high": float(values.max())}


# --- the page -------------------------------------------------------------------------------------------------


def write_page(figures: Mapping[str, Any]) -> None:
    """The figures between their marks on the page."""
    text = PAGE.read_text("utf-8")
    start = text.index(MARK) + len(MARK)
    end = text.index(END, start)
    PAGE.write_text(text[:start] + "\n\n" + "\n".join(page_lines(figures)) + "\n\n" + text[end:], "utf-8")


def page_lines(figures: Mapping[str, Any]) -> Iterator[str]:
    result, picks, groups = figures["result"], figures["result"]["picks"], figures["groups"]
    held_out, learned = figures["held_out"], figures["assets"]
    yield f"| on {held_out} held-out assets, learned from {learned} | judge alone | judge and taste |"
    yield "|---|---|---|"
    yield f"| agreement with the reviewer | {_share(result['judge'])} | {_share(result['both'])} |"
    yield f"| **gain**, paired by asset | | **{_points(result['gain'])}** |"
    yield f"| gain foretold by training (`ranker train`) | | {_points(result['foretold'])} |"
    yield f"| nobody liked another picture better | {result['top_judge']:.0%} | {result['top_both']:.0%} |"
    yield (
        f"| how liked the pick is (0: random, 1: the most liked) | {picks['judge']['value']:.2f} | "
        f"{picks['both']['value']:.2f} |"
    )
    yield (
        f"| judge's score lost | | {picks['score_lost']['value']:.3f}, "
        f"{picks['score_lost']['value'] / picks['score_spread']:.1f} standard deviations within an asset |"
    )
    yield f"| two brands of opposite tastes, one for both | {_share(groups['judge'])} | {_share(groups['one'])} |"
    yield f"| two brands of opposite tastes, `ranker.group` | | {_share(groups['each'])} |"
    yield ""
    yield "| decided assets | agreement | gain over the judge | promoted |"
    yield "|---|---|---|---|"
    for row in figures["curve"]:
        told = f"{row['promoted']:.0%}" if row["assets"] >= MIN_ASSETS else f"not trained under {MIN_ASSETS}"
        gain = _points(row["gain"], "from {low} to {high}")
        yield f"| {row['assets']} | {row['both']['value']:.1%} | {gain} | {told} |"
    reviewer, indifferent = figures["reviewer"], figures["indifferent"]
    yield ""
    yield (
        f"Intervals are 95 %; of the curve the least and the most of {REPEATS} orders and moods. A second look of the "
        f"reviewer agrees with their first in {reviewer['second_look']['value']:.1%} of the pairs, what they like "
        f"without chance in {reviewer['liking']['value']:.1%}: no ranking can be expected to do better. The judge's "
        f"scores and their liking correlate at {reviewer['correlation']:+.2f} within an asset. Of "
        f"{indifferent['reviewers']} reviewers who decided about {indifferent['assets']} assets by chance, "
        f"{indifferent['promoted']} would have got a ranker promoted (mean gain "
        f"{_signed(indifferent['mean_gain'])} points). {machine_line(figures['machine'])}."
    )


def draw_curve(figures: Mapping[str, Any], file: Path) -> None:
    """Agreement by decided assets, between the judge alone and what could be reached."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "assetmill"  # the same picture for the same figures
    from matplotlib import pyplot

    rows = figures["curve"]
    sizes = [row["assets"] for row in rows]
    figure, axes = pyplot.subplots(figsize=(7.2, 3.9))
    axes.plot(sizes, [100 * row["both"]["value"] for row in rows], marker="o", markersize=4, color="#2563eb",
              label="judge and taste", zorder=3)  # fmt: skip
    low, high = ([100 * row["both"][end] for row in rows] for end in ("low", "high"))
    axes.fill_between(sizes, low, high, color="#2563eb", alpha=0.13, linewidth=0, label="least and most of the repeats")
    judge = 100 * float(np.mean([row["judge"]["value"] for row in rows]))
    axes.axhline(judge, color="#111827", linewidth=1.2, label="judge alone (CLIP)")
    axes.axhline(judge + 15, color="#9ca3af", linewidth=0.9, linestyle="--", label="15 points above it")
    most = 100 * figures["reviewer"]["liking"]["value"]
    axes.axhline(most, color="#16a34a", linewidth=1.2, linestyle=":", label="what the reviewer likes, without chance")
    axes.set_xscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("decided assets")
    axes.set_ylabel(f"pairs in the reviewer's order, %,\non {figures['held_out']} held-out assets")
    axes.set_ylim(43, 82)
    axes.grid(color="#e5e7eb", linewidth=0.7)
    axes.legend(frameon=False, loc="upper center", fontsize=8.5, ncols=2, bbox_to_anchor=(0.5, -0.17))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)


def draw_picks(known: Sequence[Seen], held_out: Sequence[Seen], file: Path, num: int = 10) -> None:
    """The first held-out assets: the judge's picks above, with the taste of `measure_result`'s ranker below."""
    from PIL import Image

    rng = np.random.default_rng(1)
    ranker = train([review(s, rng) for s in known], min_assets=MIN_ASSETS)
    rows: list[list[np.ndarray]] = [[], []]
    for seen in held_out[:num]:
        both = seen.scores + ranker.bonus(ranker.values("", seen.embeddings))
        for row, values in zip(rows, (seen.scores, both), strict=True):
            row.append(seen.pixels[int(np.argmax(values))])
    gap = np.full((6, sum(p.shape[1] for p in rows[0]), 3), 255, np.uint8)
    sheet = Image.fromarray(np.vstack([np.hstack(rows[0]), gap, np.hstack(rows[1])]))
    sheet = sheet.resize((sheet.width * 3 // 2, sheet.height * 3 // 2), Image.Resampling.LANCZOS)
    sheet.quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)


def _share(estimate: Mapping[str, float]) -> str:
    return f"{estimate['value']:.1%} ({estimate['low']:.1%} to {estimate['high']:.1%})"


def _points(estimate: Mapping[str, float], between: str = "{low} to {high}") -> str:
    told = between.format(low=_signed(estimate["low"]), high=_signed(estimate["high"]))
    return f"{_signed(estimate['value'])} points ({told})"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}"


if __name__ == "__main__":
    main()
