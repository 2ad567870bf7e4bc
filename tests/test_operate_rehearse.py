"""A changed model, library or setting is rehearsed before a night works with it; drift beyond limits keeps it out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from assetmill import cli
from assetmill.engines.protocols import EngineError
from assetmill.engines.simulated import SimulatedGenerator
from assetmill.operate.baselines import Baseline, Rehearsal, accept, last_baseline
from assetmill.operate.gc import collect
from assetmill.operate.lock import hold_lock
from assetmill.operate.morning.attention import look_first
from assetmill.operate.rehearse import golden_rows, rehearse
from assetmill.operate.rehearsing import accept_finding, examine, look, open_night, settle_finding
from assetmill.operate.setups import describe_changes, setup_key, setup_of, with_sections
from assetmill.records import InputError, asset_key
from assetmill.storage.decisions import Draft, decide
from assetmill.storage.store import CorruptObject
from productions import NAME, TEMPLATE, Production, rows

SAME_TEXT = TEMPLATE.replace("a {{ thing }}\n---", "a {{ colour }} {{ thing }}\n---")
"""Judged by the text the picture is made from, so that the simulated engine's `skill` shows in scores."""


SETTINGS: dict[str, Any] = {"rehearsal": {"sample": 4}, "model": {"options": {"skill": 0.6}}}


def production(folder: Path) -> Production:
    """Eight rows, four of them golden, made by a skilled model."""
    return Production(folder, rows(8), deepcopy(SETTINGS), {"main.j2": SAME_TEXT})


@pytest.fixture
def made(tmp_path: Path) -> Production:
    """A production that has made nothing yet."""
    return production(tmp_path)


@pytest.fixture(scope="module")
def first_night(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A store after a first night, and the night's report: to be copied, not changed."""
    folder = tmp_path_factory.mktemp("first-night")
    return folder, production(folder).run()


@pytest.fixture
def ran(made: Production, first_night: tuple[Path, Any]) -> Production:
    """The production after its first night: everything made, baseline 1 accepted."""
    shutil.copytree(first_night[0] / "out", made.folder / "out")
    return made


@pytest.fixture(scope="module")
def first_rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a first baseline and nothing else."""
    folder = tmp_path_factory.mktemp("first-rehearsal")
    one = production(folder)
    settle_finding(one.job(), examine(one.job()))
    return folder


@pytest.fixture
def settled(made: Production, first_rehearsal: Path) -> Production:
    """The production with baseline 1, before its first night."""
    shutil.copytree(first_rehearsal / "out", made.folder / "out")
    return made


def baseline_of(production: Production) -> Baseline:
    found = last_baseline(production.store, NAME)
    assert found is not None
    return found


def models_of(production: Production) -> set[tuple[str, Any]]:
    """Revision and skill of all candidates ever made."""
    return {(r.request.revision, dict(r.request.options).get("skill")) for r in production.requests().values()}


def number_of(production: Production) -> int:
    baseline = last_baseline(production.store, NAME)
    return baseline.number if baseline is not None else 0


def rows_by_fall(old: Rehearsal, new: Rehearsal) -> list[str]:
    """Ids of golden assets of one row each, those first whose scores fell most."""
    falls: dict[str, float] = {}
    for before, after in zip(old.takes, new.takes, strict=True):
        assert before.slot == after.slot
        falls[after.asset_id] = falls.get(after.asset_id, 0.0) + (before.score or 0.0) - (after.score or 0.0)
    return sorted(falls, key=lambda i: -falls[i])


# --- a night ---


def test_the_first_night_makes_the_first_baseline(ran: Production, first_night: tuple[Path, Any]) -> None:
    """There is nothing to compare with: the night works, and what was rehearsed is what the next is compared with."""
    report = first_night[1]
    assert report["exit_code"] == 0
    assert report["rehearsal"]["outcome"] == "accepted"
    assert report["rehearsal"]["pictures_made"] == 16
    assert not report["rehearsal"]["kept_model"]
    assert number_of(ran) == 1
    assert baseline_of(ran).rehearsal.run == report["run"]
    assert report["pictures"] == 32
    ran.check_whole()


def test_an_unchanged_night_rehearses_nothing(ran: Production, monkeypatch: pytest.MonkeyPatch) -> None:
    """New rows alone are no change: the setup is compared by name, nothing more."""
    ran.sheet = rows(10)
    ran.write()
    monkeypatch.setattr("assetmill.operate.rehearsing.rehearse", lambda *_, **__: pytest.fail("rehearsed"))
    report = ran.run()
    assert report["rehearsal"]["outcome"] == "unchanged"
    assert report["pictures"] == 8
    assert number_of(ran) == 1


def test_a_night_with_nothing_to_do_does_not_look(ran: Production, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without work even the baseline is not read."""
    monkeypatch.setattr("assetmill.pipeline.open_night", lambda *_, **__: pytest.fail("looked"))
    assert ran.run()["status"] == "nothing to do"


def test_looking_loads_no_torch(made: Production) -> None:
    """The versions of libraries are read without importing them."""
    made.change(model={"engine": "simulated"}, judge={"engine": "open_clip"})
    code = (
        "import sys\nfrom assetmill.pipeline import open_job\nfrom assetmill.operate.setups import setup_of\n"
        f"found = setup_of(open_job({str(made.path)!r}))\nassert 'torch' in found['versions'], found\n"
        "assert not {'torch', 'open_clip', 'diffusers', 'scipy.stats'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_within_the_limits_the_new_model_is_accepted(ran: Production) -> None:
    """A better model becomes the baseline by itself, and the night works with it."""
    ran.change(model={"options": {"skill": 0.8}})
    report = ran.run()
    found = report["rehearsal"]
    assert (report["exit_code"], found["outcome"], found["baseline"]) == (0, "accepted", 2)
    assert found["drift"]["score"]["low"] > 0
    assert any("skill" in line for line in found["changed"])
    assert ("simulated-1", 0.8) in models_of(ran)


def test_beyond_a_limit_the_night_keeps_the_old_model_and_says_so(ran: Production) -> None:
    """New rows are made with the baseline's model; finished ones stay as they are."""
    before = ran.published()
    ran.sheet = rows(10)
    ran.change(model={"options": {"skill": 0.1, "epoch": 2}})
    report = ran.run()
    found = report["rehearsal"]
    assert (report["exit_code"], found["outcome"], found["kept_model"]) == (1, "beyond", True)
    assert "with the old model" in report["status"]
    assert "score fell by" in report["reason"]
    notices = [n for n in look_first({}, report, ()) if n.title == "The old model was kept"]
    assert len(notices) == 1
    assert notices[0].level == "act"
    assert "score fell by" in notices[0].why
    assert found["page"] in notices[0].why
    assert report["pictures"] == 8
    assert models_of(ran) == {("simulated-1", 0.6)}
    after = ran.published()
    assert len(after) == 10
    assert {k: after[k] for k in before} == before
    assert number_of(ran) == 1
    ran.check_whole()


def test_what_was_beyond_is_not_rehearsed_every_night(ran: Production, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second night remembers what the first one found, until the setup, the baseline or a limit changes."""
    ran.sheet = rows(9)
    ran.change(model={"options": {"skill": 0.1}})
    ran.run()
    ran.sheet = rows(10)
    ran.write()
    monkeypatch.setattr("assetmill.operate.rehearsing.rehearse", lambda *_, **__: pytest.fail("rehearsed"))
    report = ran.run()
    assert report["rehearsal"]["kept_model"]
    assert report["rehearsal"]["pictures_made"] == 0
    ran.change(rehearsal={"limits": {"score": 2.0}})
    report = ran.run()
    assert report["rehearsal"]["outcome"] == "accepted"
    assert ("simulated-1", 0.1) in models_of(ran)


def test_a_changed_library_cannot_be_undone(made: Production, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old pictures cannot be made any more: nothing is made, what is settled is published, exit code 1."""
    made.run(publish_now=False)
    version, real = metadata.version, SimulatedGenerator.__init__
    monkeypatch.setattr(metadata, "version", lambda name: "99.0" if name == "numpy" else version(name))

    def unskilled(self: SimulatedGenerator, spec: Any, **options: Any) -> None:
        real(self, spec, **{**options, "skill": 0.0})

    monkeypatch.setattr(SimulatedGenerator, "__init__", unskilled)
    made.sheet = rows(10)
    made.write()
    report = made.run()
    found = report["rehearsal"]
    assert report["exit_code"] == 1
    assert report["status"] == "nothing new was made"
    assert found["refused"]
    assert not found["kept_model"]
    assert "numpy" in report["reason"]
    assert "99.0" in report["reason"]
    assert report["pictures"] == 0
    assert report["published"] == 8
    assert report["left"] == 2


def test_a_broken_model_is_measured_and_kept_out(ran: Production) -> None:
    """Black pictures are what a rehearsal is for: they stop neither it nor the night."""
    ran.sheet = rows(9)
    ran.change(model={"options": {"black": 1.0}})
    report = ran.run()
    assert report["rehearsal"]["drift"]["yield"]["change"] == -1
    assert report["rehearsal"]["kept_model"]
    assert report["pictures"] == 4


def test_a_model_that_does_not_load_is_kept_out(ran: Production, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that fails is no reason to make nothing: the night has a model that works. The first night has none."""

    def fail(*_: Any, **__: Any) -> None:
        raise EngineError("the weights are damaged")

    monkeypatch.setattr("assetmill.operate.rehearsing.rehearse", fail)
    ran.sheet = rows(9)
    ran.change(model={"options": {"skill": 0.7}})
    report = ran.run()
    assert (report["exit_code"], report["rehearsal"]["outcome"], report["pictures"]) == (1, "failed", 4)
    assert report["rehearsal"]["kept_model"]
    assert "the weights are damaged" in report["reason"]
    assert [n.level for n in look_first({}, report, ()) if "damaged" in n.why] == ["act"]
    shutil.rmtree(ran.folder / "out")
    with pytest.raises(EngineError, match="damaged"):
        ran.run()


def test_golden_pictures_count_against_the_budget(made: Production) -> None:
    """A night that may make 20 pictures and rehearsed 16 begins no second chunk."""
    made.change(run={"budget": {"images": 20}, "chunk": 4})
    report = made.run()
    assert report["exit_code"] == 4
    assert report["pictures"] == 4
    assert report["stages"]["generate"]["count"] == 20


def test_a_person_accepts(made: Production) -> None:
    """With `accept: person` what is within the limits waits, and the night keeps the old model meanwhile."""
    made.change(rehearsal={"accept": "person"})
    assert made.run()["rehearsal"]["outcome"] == "waiting"  # no baseline yet: it works, and waits for the first
    job = made.job()
    accept_finding(made.store, examine(job), by="ada")
    made.sheet = rows(9)
    made.change(model={"options": {"skill": 0.7}})
    report = made.run()
    assert (report["rehearsal"]["outcome"], report["rehearsal"]["kept_model"]) == ("waiting", True)
    assert "a person is to accept it" in report["reason"]
    finding = accept_finding(made.store, examine(made.job()), by="ada", reason="looks better")
    assert finding.baseline is not None
    assert (finding.baseline.number, finding.baseline.by, finding.baseline.reason) == (2, "ada", "looks better")
    assert made.run()["rehearsal"]["outcome"] == "unchanged"


def test_publishing_alone_rehearses_nothing(made: Production) -> None:
    """`assetmill publish` makes nothing, so it has nothing to rehearse."""
    from assetmill.pipeline import publish_job

    assert "rehearsal" not in publish_job(made.job())


def test_golden_pictures_are_no_candidates(made: Production) -> None:
    """The catalog and the index know nothing of them, and `gc` keeps them while a record names them."""
    finding = settle_finding(made.job(), examine(made.job()))
    assert finding.rehearsal is not None
    assert not made.candidates()
    assert not list(made.store.list("records/"))
    config = made.job().config
    later = 4e9
    collect(made.store, config, delete=True, now=later)
    blobs = {i.key for i in made.store.list("blobs/")}
    assert {f"blobs/{t.blob[:2]}/{t.blob}.webp" for t in finding.rehearsal.takes} == blobs


# --- what is measured ---


def test_nothing_changed_nothing_drifted(settled: Production) -> None:
    """The same setup again: every picture is the same, every interval holds 0."""
    first = baseline_of(settled)
    second = examine(settled.job(), again=True)
    assert first.rehearsal is not None
    assert second.rehearsal is not None
    assert [t.blob for t in first.rehearsal.takes] == [t.blob for t in second.rehearsal.takes]
    measures = second.rehearsal.measures
    assert set(measures) == {"score", "yield", "approvals", "similarity"}
    for found in measures.values():
        assert found.low is not None
        assert found.high is not None
        assert found.low <= 1e-6
        assert found.high >= -1e-6
        assert found.change == pytest.approx(0, abs=1e-6)
        assert found.num_assets == 4
    assert second.rehearsal.judge_shift == pytest.approx(0, abs=1e-6)
    assert not second.rehearsal.changed


def test_a_worse_model_shows_in_score_similarity_and_approvals(settled: Production) -> None:
    """The drift is measured with an interval that leaves 0 out."""
    settled.change(model={"options": {"skill": 0.0}})
    found = examine(settled.job()).rehearsal
    assert found is not None
    score = found.measures["score"]
    assert score.high is not None
    assert score.high < 0
    assert score.beyond
    assert found.measures["similarity"].change < -0.2
    assert found.measures["approvals"].new < 1


def test_another_judge_scores_the_old_pictures_again(settled: Production) -> None:
    """Numbers of two judges are not compared: with the same pictures there is no drift whatever the judge."""
    job = settled.job()
    other = replace(job, judge=replace(job.judge, key="f" * 64))
    found = examine(other).rehearsal
    assert found is not None
    assert found.measures["score"].change == pytest.approx(0, abs=1e-6)
    assert found.judge_shift is None
    assert any("judge.key" in line for line in found.changed)


def test_what_people_approved_is_what_must_stand(ran: Production) -> None:
    """An approved picture counts in place of the choice of its asset."""
    former = last_baseline(ran.store, NAME)
    assert former is not None
    take = next(t for t in former.rehearsal.takes if not t.chosen)
    candidate = next(c for c in ran.candidates() if c.request_key == take.request_key)
    draft = Draft(asset_id=take.asset_id, kind="approve", by="ada", blob=candidate.blob)
    decide(ran.store, NAME, draft, seen=0)
    ran.change(rehearsal={"near": 1.0})
    found = examine(ran.job(), again=True).rehearsal
    assert found is not None
    # The same pictures and the same choice: only the approved one is not what the rehearsal would choose.
    assert found.measures["approvals"].new == pytest.approx(3 / 4)
    assert ran.job().decisions.of(asset_key(take.asset_id)).approved


def test_lost_old_pictures_are_named(settled: Production) -> None:
    """Where an old picture is gone its scores still compare, and the record says what could not."""
    first = baseline_of(settled).rehearsal
    blob = first.takes[0].blob
    settled.store.delete(f"blobs/{blob[:2]}/{blob}.webp")
    settled.change(model={"options": {"skill": 0.62}})
    found = examine(settled.job()).rehearsal
    assert found is not None
    assert any("cannot be read" in p and first.takes[0].asset_id in p for p in found.problems)
    assert found.measures["score"].num_assets == 4


# --- golden rows ---


def test_golden_rows_stay_as_they_were(settled: Production) -> None:
    """Edits of sheet, template, seed and the rows around them change neither texts nor seeds."""
    first = baseline_of(settled).rehearsal
    settled.sheet = [{**row, "thing": "boat"} for row in rows(30)]
    settled.templates["main.j2"] = SAME_TEXT.replace("a {{", "one {{")
    settled.change(seed=99)
    assert tuple(golden_rows(settled.job(), first)) == first.rows
    assert examine(settled.job()).outcome == "unchanged"
    renewed = examine(settled.job(), renew=True)
    assert renewed.rehearsal is not None
    assert {r.asset_id for r in renewed.rehearsal.rows} <= {r["id"] for r in settled.sheet}
    assert all("boat" in r.positive for r in renewed.rehearsal.rows)
    # Nothing is left to compare with: a person has to say that this is right.
    assert "nothing to compare" in renewed.unknown
    assert settle_finding(settled.job(), renewed).outcome == "waiting"


def test_named_rows_and_their_overrides_are_golden(made: Production) -> None:
    """`rehearsal.assets` names them; what a row says for itself is kept with it."""
    made.sheet[2] |= {"steps": "3", "candidates": "2"}
    overrides = {"steps": "steps", "candidates": "candidates"}
    made.change(rehearsal={"assets": ["002", "005"]}, sheet={"overrides": overrides})
    first = settle_finding(made.job(), examine(made.job())).rehearsal
    assert first is not None
    assert [r.asset_id for r in first.rows] == ["002", "005"]
    assert [len(r.seeds) for r in first.rows] == [2, 4]
    assert first.rows[0].overrides.engine is not None
    found = last_baseline(made.store, NAME)
    assert found is not None
    assert found.rehearsal == first
    again = examine(made.job(), again=True).rehearsal
    assert again is not None
    assert [t.request_key for t in again.takes] == [t.request_key for t in first.takes]


def test_an_unknown_golden_row_is_named(made: Production) -> None:
    """A typo is an error with its way out, not a smaller sample."""
    made.change(rehearsal={"assets": ["nope"]})
    with pytest.raises(InputError, match="no asset 'nope'"):
        examine(made.job())


def test_a_row_that_the_new_setup_cannot_make_is_left_out(made: Production) -> None:
    """A golden row that names a model the config no longer has is a problem on record; the others are compared."""
    made.sheet[1]["model"] = "second"
    second = {"engine": "simulated", "size": 16, "steps": 2}
    made.change(
        rehearsal={"assets": ["000", "001"]}, sheet={"overrides": {"model": "model"}}, models={"second": second}
    )
    settle_finding(made.job(), examine(made.job()))
    made.sheet[1]["model"] = ""
    made.settings.pop("models")
    made.write()
    found = examine(made.job()).rehearsal
    assert found is not None
    assert any("no model called 'second'" in p for p in found.problems)
    assert found.measures["score"].num_assets == 1


# --- records ---


def test_baselines_are_put_once(made: Production) -> None:
    """Of two that were compared with the same baseline, the second to be accepted is refused."""
    one, other = rehearse(made.job(), None), rehearse(made.job(), None)
    accept(made.store, one, by="ada")
    with pytest.raises(InputError, match="there is a newer one"):
        accept(made.store, other, by="bob")
    held = last_baseline(made.store, NAME)
    assert held is not None
    assert (held.number, held.by, held.rehearsal.id) == (1, "ada", one.id)


def test_a_damaged_baseline_is_an_error(settled: Production) -> None:
    """Taking it for none would accept anything as the first."""
    path = settled.folder / "out" / "rehearsals" / NAME / "baselines" / "000001.json"
    path.write_text('{"schema": 1}')
    with pytest.raises(CorruptObject, match="what was rehearsed cannot be read"):
        look(settled.job())


def test_places_are_no_part_of_a_setup(made: Production) -> None:
    """Batch, time-out and device decide no picture; steps, options and gates do."""
    key = setup_key(setup_of(made.job()))
    made.change(model={"batch": 3, "timeout": 9, "device": "cpu"}, gates={"max_rejected": 0.5})
    assert setup_key(setup_of(made.job())) == key
    made.change(gates={"black_max": 9})
    assert setup_key(setup_of(made.job())) != key


def test_changes_are_said_a_line_each() -> None:
    """What is no longer there, what is new and what differs; long hashes are shortened."""
    old = {"models": {"model": {"revision": "a" * 64, "steps": 8}}, "safety": "", "versions": {"torch": "2.9"}}
    new = {"models": {"model": {"revision": "b" * 64, "steps": 8}}, "safety": "", "versions": {"numpy": "2.3"}}
    assert describe_changes(old, new) == (
        f"models.model.revision: {'a' * 16}… is now {'b' * 16}…",
        "versions.torch: 2.9 is now nothing",
        "versions.numpy: nothing is now 2.3",
    )
    assert not describe_changes(old, old)


def test_old_sections_open_the_old_setup(settled: Production) -> None:
    """Models, judge and gates come from the baseline; everything else is today's."""
    first = baseline_of(settled).rehearsal
    settled.change(model={"options": {"skill": 0.1}, "steps": 4}, gates={"black_max": 20}, candidates=2)
    kept = with_sections(settled.job(), first.sections)
    assert setup_of(kept) == first.setup
    assert kept.config.candidates == 2
    with pytest.raises(InputError, match="not read any more"):
        with_sections(settled.job(), {**first.sections, "model": {"steps": "many"}})


def test_an_old_folder_that_is_gone_refuses_work(settled: Production) -> None:
    """A model that cannot be opened again is named in the reason."""
    path = next((settled.folder / "out" / "rehearsals" / NAME / "made").rglob("*.json"))
    record = json.loads(path.read_text())
    record["sections"]["model"] = {"engine": "diffusers", "source": "./gone"}
    path.write_text(json.dumps(record))
    settled.change(model={"options": {"skill": 0.0}})
    opening = open_night(settled.job())
    assert "gone" in opening.refused
    assert opening.finding.outcome == "beyond"


def test_the_page_shows_pairs_and_escapes_texts(made: Production) -> None:
    """Old and new stand side by side in one file that asks nobody for anything; texts of the sheet stay texts."""
    made.sheet[0]["thing"] = "<script>alert(1)</script>"
    made.change(rehearsal={"assets": ["000", "001"]})
    settle_finding(made.job(), examine(made.job()))
    made.change(model={"options": {"skill": 0.3}})
    found = examine(made.job()).rehearsal
    assert found is not None
    page = made.store.get(found.page_key).decode()
    assert page.count("data:image/webp;base64,") == 16
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "Beyond the limits: score fell by" in page
    assert "http" not in page
    places = [page.index(f"<h3>{asset_id} ") for asset_id in rows_by_fall(baseline_of(made).rehearsal, found)]
    assert places == sorted(places)


# --- the command line ---


@pytest.fixture
def say(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, made: Production) -> Callable[..., Any]:
    """Runs `assetmill rehearse CONFIG …` in this process; gives its exit code and its object, or what people see."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str, as_json: bool = True) -> tuple[int, Any]:
        texts = ["rehearse", str(made.path), *arguments, *(["--json"] if as_json else [])]
        monkeypatch.setattr(sys, "argv", ["assetmill", *texts])
        capfd.readouterr()
        code = cli.run_command(lambda: cli.app(texts, standalone_mode=False))
        out, err = capfd.readouterr()
        return code, json.loads(out) if as_json else err

    return run


def test_the_command_rehearses_and_accepts(made: Production, say: Callable[..., Any]) -> None:
    """First baseline, drift beyond a limit with exit code 1, acceptance by name without making it again."""
    code, first = say()
    assert (code, first["outcome"], first["baseline"]) == (0, "accepted", 1)
    made.change(model={"options": {"skill": 0.0}})
    code, text = say(as_json=False)
    assert code == 1
    for wanted in ("beyond", "score fell by", "95% interval", "--accept", "skill", ".html"):
        assert wanted in text
    code, taken = say("--accept", "--by", "ada", "--reason", "a new style")
    assert (code, taken["outcome"], taken["pictures_made"]) == (0, "accepted", 0)
    held = last_baseline(made.store, NAME)
    assert held is not None
    assert (held.number, held.by, held.reason) == (2, "ada", "a new style")
    assert say("--accept")[1]["outcome"] == "unchanged"
    with hold_lock(made.store, NAME):
        assert say("--again")[0] == 3


def test_the_command_says_how_to_turn_it_on(made: Production, say: Callable[..., Any]) -> None:
    """Without golden rows there is nothing to rehearse: bad input, with the key to set."""
    made.change(rehearsal={"sample": 0})
    code, found = say()
    assert code == 2
    assert "rehearsal.sample" in found["problems"][0]
