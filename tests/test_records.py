"""Keys are frozen: a changed golden value renames every picture ever made."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assetmill import records
from assetmill.records import (
    Adapter,
    CandidateRecord,
    CutRecord,
    FailureRecord,
    GateRecord,
    InputError,
    OutcomeRecord,
    Problem,
    RecordError,
    Reference,
    Request,
    RequestRecord,
    ScoreRecord,
    VariantRecord,
    parse_record,
    record_line,
    request_from_json,
    request_keys,
)

BASE = Request("diffusers", 1, "starter", "0" * 64, "a red potion", 7, 64, 64, 20, 2.0)

GOLDEN_REQUESTS = {
    "plain": BASE,
    "another seed": replace(BASE, seed=8),
    "largest seed": replace(BASE, seed=2**32 - 1),
    "negative": replace(BASE, negative="blurry"),
    "unicode": replace(BASE, positive="ein grüner Krug, 緑"),
    "quotes": replace(BASE, positive='a "seed":7 potion, \\ and \n'),
    "size": replace(BASE, width=512, height=768),
    "steps and guidance": replace(BASE, steps=30, guidance=7.5),
    "scheduler": replace(BASE, scheduler="DDIMScheduler"),
    "epoch": replace(BASE, epoch=2),
    "revision": replace(BASE, revision="f" * 40),
    "image to image": replace(
        BASE, operation="image-to-image", strength=0.5, references=(Reference("init", "a" * 64),)
    ),
    "inpaint": replace(
        BASE, operation="inpaint", references=(Reference("init", "a" * 64), Reference("mask", "b" * 64))
    ),
    "control": replace(BASE, operation="control", references=(Reference("control", "c" * 64, 0.8, "edge"),)),
    "interpolation": replace(
        BASE,
        operation="interpolation",
        references=(Reference("image", "a" * 64, 0.3), Reference("image-to", "b" * 64, 0.7)),
    ),
    "lora": replace(BASE, adapters=(Adapter("lora", "d" * 64, 0.75),)),
    "two loras": replace(BASE, adapters=(Adapter("lora", "d" * 64), Adapter("lora", "e" * 64, 0.5))),
    "options": replace(BASE, options=(("clip_skip", 2), ("tileable", True))),
    "other engine": replace(BASE, engine="simulated"),
    "variation": replace(BASE, operation="variation", references=(Reference("image", "a" * 64),)),
}

GOLDEN = json.loads((Path(__file__).parent / "golden" / "request_keys.json").read_text("utf-8"))

requests = st.builds(
    Request,
    engine=st.text(max_size=8),
    epoch=st.integers(1, 9),
    model=st.text(max_size=8),
    revision=st.text(max_size=8),
    positive=st.text(max_size=60),
    negative=st.text(max_size=20),
    seed=st.integers(0, 2**32 - 1),
    width=st.integers(8, 2048),
    height=st.integers(8, 2048),
    steps=st.integers(1, 50),
    guidance=st.floats(0, 20, allow_nan=False),
    scheduler=st.sampled_from(["", "DDIMScheduler"]),
    strength=st.none() | st.floats(0.01, 1),
    references=st.lists(
        st.builds(Reference, role=st.sampled_from(records.REFERENCE_ROLES), blob=st.text("abc", max_size=4)),
        max_size=2,
    ).map(tuple),
    options=st.dictionaries(
        st.text(max_size=5).filter(lambda s: s != "seed"), st.integers() | st.text(max_size=5), max_size=3
    ).map(lambda d: tuple(sorted(d.items()))),
)


@pytest.mark.parametrize("name", sorted(GOLDEN_REQUESTS))
def test_request_keys_are_frozen(name: str) -> None:
    """Twenty request keys never change: if this fails, mend the code, not the golden file."""
    assert len(GOLDEN) == 20
    assert GOLDEN_REQUESTS[name].key == GOLDEN[name]


def test_golden_keys_are_all_different() -> None:
    """Every field that decides a picture decides its key."""
    assert len(set(GOLDEN.values())) == 20


def test_other_keys_are_frozen() -> None:
    """Asset keys, blob keys and derived seeds never change."""
    assert records.asset_key("00123") == "8cdc09893d9c9c6fccf410168203dbcaa9c9a16fa8decd8d1bbb71ce692ae0c6"
    assert records.blob_key(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert records.derive_seed(0, "a", {}, 0) == GOLDEN_SEEDS[0]
    assert records.derive_seed(7, "ü", {"angle": "front"}, 3) == GOLDEN_SEEDS[1]


GOLDEN_SEEDS = (1008563107, 1378180324)


@given(requests, st.lists(st.integers(0, 2**32 - 1), max_size=4))
def test_fast_keys_equal_slow_keys(request: Request, seeds: list[int]) -> None:
    """`request_keys` is a faster way to the very same keys, whatever the texts hold."""
    assert request_keys(request, seeds) == [replace(request, seed=s).key for s in seeds]


@given(requests)
def test_a_request_survives_its_json(request: Request) -> None:
    """A request read back from its record is equal and has the same key."""
    again = request_from_json(json.loads(json.dumps(request.payload())))
    assert again == request
    assert again.key == request.key


@given(
    st.integers(0, 2**32 - 1),
    st.text(max_size=9),
    st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=3),
    st.lists(st.integers(0, 99), max_size=4),
)
def test_fast_seeds_equal_slow_seeds(seed: int, asset: str, cell: dict[str, str], indices: list[int]) -> None:
    """`derive_seeds` is a faster way to the very same seeds."""
    assert records.derive_seeds(seed, asset, cell, indices) == [
        records.derive_seed(seed, asset, cell, i) for i in indices
    ]


def test_whole_numbers_and_floats_share_a_key() -> None:
    """`guidance: 2` and `guidance: 2.0` are the same picture."""
    assert replace(BASE, guidance=2).key == BASE.key


def test_rank_text_is_not_in_the_key() -> None:
    """Editing what judges score against regenerates nothing."""
    assert "rank_text" not in BASE.payload()


def test_defaults_are_left_out_of_the_key() -> None:
    """A new field with a default renames nothing."""
    assert set(BASE.payload()) == {
        "engine", "epoch", "model", "revision", "positive", "seed", "width", "height", "steps", "guidance",
    }  # fmt: skip


@pytest.mark.parametrize(
    "record",
    [
        RequestRecord(BASE.key, "00123", "game-asset", {"angle": "front"}, 0, "potion", BASE),
        CandidateRecord(BASE.key, "a" * 64, "image/png", 64, 64, 0.25, {"torch": "2"}),
        GateRecord(BASE.key, "black", "candidate", False, "no pixel above 8", 3.0),
        ScoreRecord("k" * 64, BASE.key, "a" * 64, "judge", "potion", None),
        FailureRecord(BASE.key, "poison", "out of memory at batch 1", 3),
        CutRecord(BASE.key, 5, 20, 0.2),
        VariantRecord("v" * 64, "00123", BASE.key, "a" * 64, 1, 0.3, "b" * 64, "image/png", 256, 256, "up"),
        OutcomeRecord("00123", "chosen", "w", "s", "m", "", 4),
    ],
    ids=lambda r: r.record,
)
def test_every_record_survives_its_line(record: records.Record) -> None:
    """What is written to a segment is read back equal."""
    assert parse_record(record_line(record)) == record


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "not a record"),
        ("[1]", "not a record"),
        ('{"schema":99,"record":"candidate"}', "update assetmill"),
        ('{"schema":1,"record":"spell"}', "unknown"),
        ('{"schema":1,"record":"cut","request_key":"x"}', "lacks or has extra"),
    ],
)
def test_broken_lines_are_named(line: str, says: str) -> None:
    """A line that is no record says why, with one kind of error."""
    with pytest.raises(RecordError, match=says):
        parse_record(line)


def test_bad_requests_are_refused() -> None:
    """Unknown operations, roles and seeds outside their range never become a key."""
    for change in (
        {"operation": "dream"},
        {"seed": -1},
        {"seed": 2**32},
        {"references": (Reference("x", "y"),)},
        {"options": (("seed", 1),)},
    ):
        with pytest.raises(ValueError, match="use|give"):
            replace(BASE, **change)


def test_seeds_do_not_depend_on_the_prompt() -> None:
    """A corrected typo keeps the composition; another cell, index or config seed changes it."""
    seeds = {
        records.derive_seed(s, a, c, i)
        for s in (0, 1)
        for a in ("a", "b")
        for c in ({}, {"angle": "front"}, {"angle": "side"})
        for i in range(4)
    }
    assert len(seeds) == 48
    assert all(0 <= s < 2**32 for s in seeds)


def test_ids_fold() -> None:
    """Ids that people read as equal fold to the same text."""
    assert records.fold_id(" Straße ") == records.fold_id("STRASSE")
    assert records.fold_id("ﬁ") == records.fold_id("FI")


def test_buckets_ignore_texts_and_seeds() -> None:
    """One batch mixes prompts and seeds, never sizes or settings."""
    assert BASE.bucket == replace(BASE, positive="x", negative="y", seed=1).bucket
    assert BASE.bucket != replace(BASE, steps=5).bucket


def test_problems_name_the_place_and_the_way_out() -> None:
    """An input error prints file, sheet, row, column, value and what to do, one line each."""
    problem = Problem("the id is empty", "fill it in", "a.csv", "Sheet1", 3, "id", "")
    text = str(InputError([problem, problem]))
    assert text.splitlines()[0] == "a.csv, sheet 'Sheet1', row 3, column 'id': the id is empty (value ''); fill it in"
    assert len(text.splitlines()) == 2
