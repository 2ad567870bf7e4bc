"""Rows name model, operation and inputs; what cannot be made is refused with its row before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from assetmill.engines.protocols import OutOfMemory
from assetmill.operate.inputs import IMAGES
from assetmill.operate.reproduce import reproduce_entry
from assetmill.pipeline import begin_run, finish_run, load_engines, make_chunks_of, open_job, plan_job
from assetmill.records import OPERATIONS, Adapter, InputError, Reference, Request, blob_key
from assetmill.storage.layout import blob_path
from picture_server import picture_server, png
from productions import Production, rows

COLUMNS = {
    "model": "engine", "operation": "op", "strength": "strength", "image": "photo", "image_to": "photo2",
    "mask": "mask", "keep": "keep", "control": "map", "control_kind": "kind", "weight": "weight", "lora": "lora",
    "caption_to": "to", "steps": "steps", "guidance": "cfg", "scheduler": "sampler",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def production(folder: Path, *given: dict[str, str], **settings: Any) -> Production:
    """A row per mapping; each column of `COLUMNS` overrides its setting."""
    sheet = [
        {**row, **dict.fromkeys(COLUMNS.values(), ""), **own} for row, own in zip(rows(len(given)), given, strict=True)
    ]
    made = Production(
        folder,
        sheet,
        {"sheet": {"path": "sheet.csv", "id": "id", "overrides": COLUMNS, "max_bad_rows": 0.0}, **settings},
    )
    for name, data in (
        ("a.png", png()), ("b.png", png(8, 8, (0, 90, 200))), ("mask.png", png(8, 8, (255,))),
        ("small.png", png(4, 4, (255,))), ("cut.png", png(8, 8, (9, 9, 9, 128))), ("bad.png", png()[:40]),
    ):  # fmt: skip
        (made.folder / name).write_bytes(data)
    return made


def request_of(made: Production, number: int = 0) -> Request:
    job = made.job()
    return job.recipes.base_of(job.sheet.assets[number])


def refusal(folder: Path, row: dict[str, str], **settings: Any) -> InputError:
    made = production(folder, row, **settings)
    with pytest.raises(InputError) as caught:
        plan_job(made.job())
    return caught.value


A, B, MASK = (blob_key(data) for data in (png(), png(8, 8, (0, 90, 200)), png(8, 8, (255,))))


@pytest.mark.parametrize(
    ("row", "operation", "references"),
    [
        ({"op": "image-to-image", "photo": "a.png"}, "image-to-image", [Reference("init", A)]),
        ({"op": "inpaint", "photo": "a.png", "mask": "mask.png"}, "inpaint", [("init", A), ("mask", MASK)]),
        ({"op": "keep product", "photo": "a.png", "keep": "mask.png"}, "keep-product", [("init", A), ("mask", MASK)]),
        ({"op": "variation", "photo": "a.png", "weight": "0.4"}, "variation", [("image", A, 0.4)]),
        ({"op": "interpolation", "photo": "a.png", "photo2": "b.png"}, "interpolation",
         [("image", A), ("image-to", B, 0.5)]),
        ({"op": "control", "map": "b.png", "kind": "Edge", "weight": "0.8"}, "control", [("control", B, 0.8, "edge")]),
    ],
)  # fmt: skip
def test_operations_take_their_inputs_from_columns(
    tmp_path: Path, row: dict[str, str], operation: str, references: list[Any]
) -> None:
    """Each operation's columns become references of the right role, by the hash of the picture's bytes."""
    request = request_of(production(tmp_path / "p", row))
    assert request.operation == operation
    assert list(request.references) == [r if isinstance(r, Reference) else Reference(*r) for r in references]
    assert set(IMAGES) == set(OPERATIONS) - {"text-to-image"}


def test_settings_and_captions(tmp_path: Path) -> None:
    """Steps, guidance, strength and scheduler of a row win over the config's; a second caption is an option."""
    row = {"op": "image-to-image", "photo": "a.png", "strength": "0.6", "steps": "3", "cfg": "4.5"}
    request = request_of(production(tmp_path / "a", row, model={"engine": "simulated", "size": 16, "strength": 0.9}))
    assert (request.strength, request.steps, request.guidance) == (0.6, 3, 4.5)
    request = request_of(production(tmp_path / "b", {"op": "interpolation", "to": "an axe", "weight": "0.25"}))
    assert dict(request.options) == {"caption_to": "an axe", "caption_weight": 0.25}


def test_defaults_stand_in_the_config(tmp_path: Path) -> None:
    """Operation and image of the config hold for rows that name none; a row that chooses another drops them."""
    model = {"engine": "simulated", "size": 16, "operation": "variation", "image": "a.png", "weight": 0.7}
    made = production(tmp_path / "p", {}, {"photo": "b.png"}, {"op": "text-to-image"}, model=model)
    assert request_of(made, 0).references == (Reference("image", A, 0.7),)
    assert request_of(made, 1).references == (Reference("image", B, 0.7),)
    assert (request_of(made, 2).operation, request_of(made, 2).references) == ("text-to-image", ())
    made.change(sheet={"overrides": {}}, model={"operation": "text-to-image"})
    with pytest.raises(InputError, match=r"text-to-image takes no reference image.*model.image|model.image.*takes no"):
        made.job()


def test_a_cut_out_is_its_own_mask(tmp_path: Path) -> None:
    """Without a mask, keep-product keeps what is opaque; a mask with transparency counts by it as well."""
    first = request_of(production(tmp_path / "a", {"op": "keep-product", "photo": "cut.png"}))
    init, mask = first.references
    assert (init.role, mask.role) == ("init", "mask")
    assert init.blob != mask.blob
    second = request_of(production(tmp_path / "b", {"op": "keep-product", "photo": "a.png", "keep": "cut.png"}))
    assert second.references[1] == mask


@pytest.mark.parametrize(
    ("row", "column", "message"),
    [
        ({"engine": "night"}, "engine", "no model called 'night'"),
        ({"op": "image-to-image"}, "photo", "image-to-image needs a reference image, and the row names none"),
        ({"op": "control", "kind": "edge"}, "map", "control needs a control map"),
        ({"op": "control", "map": "a.png"}, "kind", "which kind of map it is"),
        ({"op": "inpaint", "photo": "a.png"}, "mask", "inpaint needs a mask"),
        ({"op": "inpaint", "photo": "a.png", "mask": "small.png"}, "mask", "a mask of another size: 4x4 pixels, its"),
        ({"op": "inpaint", "photo": "a.png", "mask": "a.png"}, "mask", "mask and image are the same picture"),
        ({"op": "keep-product", "photo": "a.png"}, "keep", "the image is opaque, and the row names no mask"),
        ({"op": "variation", "photo": "bad.png"}, "photo", "a reference image: the image cannot be used"),
        ({"op": "variation", "photo": "none.png"}, "photo", "there is no image at"),
        ({"op": "variation", "photo": "../out.png"}, "photo", "leads out of"),
        ({"op": "variation", "photo": "http://127.0.0.1/a.png?token=canary"}, "photo", "not a public address"),
        ({"photo": "a.png"}, "photo", "text-to-image takes no reference image"),
        ({"mask": "mask.png", "op": "image-to-image", "photo": "a.png"}, "mask", "image-to-image takes no mask"),
        ({"weight": "0.5"}, "weight", "a weight has no meaning for text-to-image"),
        ({"kind": "edge"}, "kind", "text-to-image takes no control map"),
        ({"to": "an axe"}, "to", "text-to-image takes no second caption"),
        ({"op": "interpolation", "photo": "a.png"}, "photo2", "interpolation needs another end"),
        ({"op": "interpolation", "photo2": "a.png", "to": "an axe"}, "to", "has one other end"),
        ({"strength": "0.5"}, "strength", "strength has no meaning for text-to-image"),
        ({"lora": "a.safetensors:0.5"}, "lora", "simulated takes no LoRAs"),
        ({"lora": "../a.safetensors"}, "lora", "leads out of"),
    ],
)  # fmt: skip
def test_bad_rows_are_named(tmp_path: Path, row: dict[str, str], column: str, message: str) -> None:
    """Every refusal names asset, row and column and the way out, before any engine is loaded; no secret is told."""
    error = refusal(tmp_path / "p", row)
    problem = error.problems[0]
    assert message in problem.message
    assert (problem.row, problem.column, problem.file) == (2, column, "sheet.csv")
    assert problem.message.startswith("000: ")
    assert problem.way_out
    assert "canary" not in str(error)


def test_what_an_operation_needs_of_the_config(tmp_path: Path) -> None:
    """Where all rows take the config's operation, a row without its image is bad as well."""
    model = {"engine": "simulated", "size": 16, "operation": "image-to-image"}
    made = production(tmp_path / "p", {}, model=model)
    with pytest.raises(InputError, match=r"row 2, column 'photo': 000: image-to-image needs a reference image"):
        made.plan()
    made.settings["sheet"]["overrides"] = {}
    made.write()
    with pytest.raises(
        InputError, match=r"name a column for it in sheet.overrides.image, or one for all in model.image"
    ):
        made.plan()


def test_a_bad_row_spoils_no_other(tmp_path: Path) -> None:
    """Below `max_bad_rows` the others are made; the report tells of the bad one."""
    made = production(tmp_path / "p", {}, {"op": "variation", "photo": "bad.png"}, {})
    made.change(sheet={"max_bad_rows": 0.5})
    report = made.run()
    assert report["exit_code"] == 1
    assert {asset for asset, _ in made.published()} == {"000", "002"}
    made.check_whole()


def test_pictures_are_made_from_references_and_made_again(tmp_path: Path) -> None:
    """References lie in the store before any record names them; a second night does nothing, `reproduce` agrees."""
    made = production(
        tmp_path / "p",
        {"op": "image-to-image", "photo": "a.png"},
        {"op": "inpaint", "photo": "b.png", "mask": "cut.png"},
        {},
        model={"steps": 2},
    )
    assert made.run()["exit_code"] == 0
    kept = {r.blob for record in made.requests().values() for r in record.request.references}
    assert len(kept) == 3
    assert all(made.store.stat(blob_path(blob, "png")) is not None for blob in kept)
    made.check_whole()
    assert made.states() == {"unchanged": 3}
    (made.folder / "a.png").unlink()
    for asset in ("000", "001", "002"):
        found = reproduce_entry(made.path, asset)
        assert (found.base_agrees, found.master_agrees) == (True, True)


def test_a_reference_damaged_on_the_way_heals(tmp_path: Path) -> None:
    """A reference damaged while a run goes on fails its assets for now; the next run puts it there again."""
    made = production(tmp_path / "p", {"op": "variation", "photo": "a.png"}, {})
    job = made.job()
    with begin_run(job) as run:
        place = made.store.local_path(blob_path(A, "png"))
        assert place is not None
        place.write_bytes(b"damaged")
        worker = run.worker(load_engines(job))
        try:
            make_chunks_of(run, worker)
        finally:
            worker.close()
        report = finish_run(run)
    assert (report["exit_code"], report["troubled"]) == (1, {"000": "transient"})
    assert made.run()["exit_code"] == 0
    assert {asset for asset, _ in made.published()} == {"000", "001"}
    made.check_whole()


def test_a_changed_picture_changes_its_asset_only(tmp_path: Path) -> None:
    """References count by their bytes: the same picture elsewhere changes nothing, another one makes the asset anew."""
    made = production(tmp_path / "p", {"op": "variation", "photo": "a.png"}, {"op": "variation", "photo": "b.png"})
    made.run()
    (made.folder / "c.png").write_bytes(png())
    made.sheet[0]["photo"] = "c.png"
    made.write()
    assert made.states() == {"unchanged": 2}
    (made.folder / "b.png").write_bytes(png(8, 8, (1, 2, 3)))
    assert made.states() == {"unchanged": 1, "changed": 1}


@pytest.fixture
def two(tmp_path: Path) -> Production:
    """Two models by name beside the default one; they differ in their settings and options only."""
    models = {"night": {"engine": "simulated", "size": 24, "steps": 2, "negative": "noise"}}
    return production(tmp_path / "p", {"engine": "night"}, {}, {"engine": "night"}, models=models)


def test_rows_choose_a_model(two: Production) -> None:
    """A row's model brings its own size, steps and negative prompt; sections of the same weights are loaded once."""
    request = request_of(two)
    assert (request.width, request.steps, request.negative) == (24, 2, "noise")
    assert (request_of(two, 1).width, request_of(two, 1).negative) == (16, "")
    job = two.job()
    assert job.recipes.needed(job.sheet.assets) in (("night",), ("",))
    assert two.run()["exit_code"] == 0
    assert {(e.asset_id, e.width) for e in two.catalog.iter_entries()} == {("000", 48), ("001", 32), ("002", 48)}
    found = reproduce_entry(two.path, "000")
    assert (found.base_agrees, found.master_agrees) == (True, True)


def test_a_broken_model_is_named(tmp_path: Path) -> None:
    """A named model that cannot be used is refused under its own key."""
    made = production(tmp_path / "p", {}, models={"night": {"source": "no/such/folder"}})
    with pytest.raises(InputError) as caught:
        made.job()
    assert caught.value.problems[0].column == "models.night.source"
    made.settings["models"] = {"night": {"engine": "simulated", "dtype": "bfloat16"}}
    made.write()
    with pytest.raises(InputError, match=r"models.night.dtype.*dtype differs from model, which has the same weights"):
        made.job()


def test_urls_are_references(tmp_path: Path) -> None:
    """A URL of an allowed network is fetched while planning, once; without it the row is refused."""
    with picture_server() as site:
        url = site.serve("/a.png", png())
        row = {"op": "variation", "photo": url}
        assert "not a public address" in str(refusal(tmp_path / "a", row))
        made = production(tmp_path / "p", row, references={"networks": ["127.0.0.0/8"]})
        assert made.run()["exit_code"] == 0
        assert made.states() == {"unchanged": 1}
        assert len(site.asked) == 1
        assert request_of(made).references == (Reference("image", A),)


def test_rows_that_say_nothing_share_one_request(tmp_path: Path) -> None:
    """A plain row costs a plan nothing: no request of its own, no cache, no lookup."""
    made = production(tmp_path / "p", {}, {}, {})
    job = made.job()
    plan_job(job)
    assert len({id(job.recipes.base_of(asset)) for asset in job.sheet.assets}) == 1
    assert not (tmp_path / "cache" / "assetmill" / "pictures.json").exists()


def test_a_model_too_large_is_told_before_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory that a model needs is compared with what is free before its weights are read."""
    from dataclasses import replace

    made = production(tmp_path / "p", {})
    job = open_job(made.path)
    job.recipes.specs[""] = replace(job.model, gib=10.0**6)
    with pytest.raises(OutOfMemory, match=r"simulated needs about 1000000.0 GiB .* are free: try a smaller model"):
        load_engines(job)


def test_adapters_are_pinned_by_hash() -> None:
    """Weight and hash of an adapter are part of a request's key."""
    plain = Request("e", 1, "m", "r", "a", 0, 8, 8, 1, 1.0)
    keys = {
        Request("e", 1, "m", "r", "a", 0, 8, 8, 1, 1.0, adapters=a).key
        for a in ((), (Adapter("lora", "0" * 64),), (Adapter("lora", "1" * 64),), (Adapter("lora", "0" * 64, 0.5),))
    }
    assert len(keys) == 4
    assert plain.key in keys
