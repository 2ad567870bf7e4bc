"""The command line: every command, exit codes, errors with their way out, and a start without heavy imports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from assetmill import __version__, cli
from assetmill.operate.lock import hold_lock
from assetmill.storage.store import StoreUnavailable, get_blob
from productions import NAME, Production, rows

HEAVY = {"torch", "pandas", "prefect", "diffusers", "transformers", "open_clip", "spandrel", "boto3", "matplotlib"}


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def say(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Runs the command line in this process, as `main` does."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Said:
        texts = [str(a) for a in arguments]
        monkeypatch.setattr(sys, "argv", ["assetmill", *texts])
        capfd.readouterr()
        code = cli.run_command(lambda: cli.app(texts, standalone_mode=False))
        out, err = capfd.readouterr()
        return Said(code, out, err)

    yield run
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture
def toys(tmp_path: Path) -> Production:
    return Production(tmp_path / "p", rows(2), {"publish": {"columns": ["colour"]}})


# --- all commands -------------------------------------------------------------------------------------------


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with its path."""
    group = group or typer.main.get_command(cli.app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands())


def test_which_commands_there_are() -> None:
    """The commands are those that the documents speak of."""
    names = {" ".join(path) for path in COMMANDS}
    assert names >= {
        "init", "check", "plan", "run", "publish", "export", "reproduce", "doctor", "schema", "runs list", "runs show",
        "catalog list", "catalog show", "catalog diff", "catalog verify", "catalog rollback", "catalog release",
    }  # fmt: skip


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help(path: tuple[str, ...], say: Any) -> None:
    """Every command explains itself, and so does each of its options."""
    said = say(*path, "--help")
    assert said.code == 0
    assert said.out.startswith("Usage: ")
    command = COMMANDS[path]
    assert command.help
    bare = [p.name for p in command.params if isinstance(p, click.Option) and not getattr(p, "help", None)]
    assert not bare


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_config_comes_first(path: tuple[str, ...]) -> None:
    """The config is the first positional argument of every command that has one, and `--json` is everywhere."""
    command = COMMANDS[path]
    arguments = [p.name for p in command.params if isinstance(p, click.Argument) or p.param_type_name == "argument"]
    if path[0] not in ("schema", "eval", "models", "provenance"):
        assert arguments[0] == "config"
    if path[0] != "schema":
        assert any("--json" in p.opts for p in command.params)


def test_json_of_every_command(toys: Production, tmp_path: Path, say: Any) -> None:
    """`--json` gives one object on stdout, whatever the command, and tables stay on stderr."""
    config = toys.path

    def ask(*arguments: object, code: int = 0) -> Any:
        said = say(*arguments, "--json")
        assert said.code == code, said
        assert isinstance(said.json, dict)
        return said.json

    assert len(ask("init", tmp_path / "new" / "mine.yaml")["written"]) == 4
    assert ask("check", config)["prompts"] == 2
    plan = ask("plan", config, "--out", tmp_path / "plan.json")
    wanted = {"new", "changed", "metadata_only", "unchanged", "pending_review", "exhausted", "failed", "removed"}
    assert plan.keys() >= {*wanted, "candidates", "candidates_max", "upscales", "seconds", "bytes"}
    assert (plan["new"], plan["candidates"], plan["candidates_max"]) == (2, 8, 16)
    report = ask("run", config, "--plan", tmp_path / "plan.json", "--no-publish")
    assert (report["pictures"], report["files"]) == (8, 0)
    report = ask("publish", config)
    assert report["files"] == 2
    assert Path(report["places"]["pictures"]).is_dir()
    assert Path(report["places"]["catalog file"]).is_file()
    assert ask("run", config)["status"] == "nothing to do"
    assert [r["status"] for r in ask("runs", "list", config)["runs"]] == ["done", "done", "nothing to do"]
    assert ask("runs", "show", config, report["run"])["run"] == report["run"]
    page = ask("report", config, report["run"])
    assert (page["run"], page["page"]) == (report["run"], report["places"]["morning report"])
    assert ask("catalog", "list", config)["latest"] == 1
    entries = ask("catalog", "show", config)["entries"]
    assert [e["asset_id"] for e in sorted(entries, key=lambda e: e["asset_id"])] == ["000", "001"]
    assert len(ask("catalog", "show", config, "001")["entries"]) == 1
    assert ask("catalog", "verify", config) == {"objects": 6, "missing": [], "corrupt": []}
    toys.sheet[0]["colour"] = "blue"
    toys.write_sheet()
    assert ask("run", config)["catalog_version"] == 2
    assert ask("catalog", "diff", config, 1, 2) == {"added": [], "changed": ["000"], "removed": []}
    assert ask("reproduce", config, "001", "--out", tmp_path / "again.png")["agrees"] is True
    assert (tmp_path / "again.png").read_bytes() == get_blob(toys.store, toys.catalog.show("001")[0].master, "png")
    assert ask("catalog", "rollback", config, 1)["version"] == 3
    assert ask("run", config, code=2)["status"] == "catalog held"
    assert ask("catalog", "release", config)["was_held"]
    exported = ask("export", config, tmp_path / "files")
    assert (tmp_path / "files" / "catalog.jsonl").is_file()
    assert len(exported["written"]) >= 2
    assert json.loads(say("schema").out)["$schema"]


@pytest.mark.draws
def test_tables_for_people(toys: Production, tmp_path: Path, say: Any) -> None:
    """Without `--json` people read tables on stderr, and stdout stays empty."""
    config = toys.path
    lines = {
        ("check", config): "prompts",
        ("plan", config): "a red0 mug",
        ("run", config): "contact sheet",
        ("publish", config): "nothing to do",
        ("runs", "list", config): "done",
        ("report", config): "report.html",
        ("catalog", "list", config): "publish",
        ("catalog", "show", config): "published/master/",
        ("catalog", "diff", config, 0, 1): "000",
        ("catalog", "verify", config): "objects",
        ("export", config, tmp_path / "files"): "written",
        ("reproduce", config, "000"): "agrees",
    }
    for command, expected in lines.items():
        said = say(*command)
        assert said.code == 0, said
        assert expected in said.err
        assert said.out == ""


def test_version(say: Any) -> None:
    """`--version` prints it."""
    assert say("--version").out.strip() == __version__


def test_ids_are_no_markup(tmp_path: Path, say: Any) -> None:
    """Ids and prompts with brackets are shown as they are."""
    toys = Production(tmp_path, [{"id": "[red]x[/red]", "thing": "mug", "colour": "[bold]"}])
    assert "a [bold] mug" in say("plan", toys.path).err
    assert say("run", toys.path).code == 0
    assert "[red]x[/red]" in say("catalog", "show", toys.path).err


def test_rows_stay_whole_where_there_is_no_terminal(tmp_path: Path, say: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a pipe there is no edge to wrap at: a long text can be searched for and copied."""
    monkeypatch.delenv("COLUMNS")
    toys = Production(tmp_path, [{"id": "a", "thing": "mug", "colour": "very " * 60 + "red"}])
    assert "very " * 60 + "red mug" in say("plan", toys.path).err


# --- exit codes ---------------------------------------------------------------------------------------------


def test_done(toys: Production, say: Any) -> None:
    """0: everything was made; and again when there is nothing to do."""
    assert say("run", toys.path).code == 0
    assert say("run", toys.path).code == 0


def test_some_failed(toys: Production, say: Any) -> None:
    """1: some items failed, the rest is published, and the troubled ones are named."""
    toys.change(model={"options": {"poison": "red1"}})
    said = say("run", toys.path)
    assert said.code == 1
    assert "001" in said.err
    assert "failed" in said.err
    assert len(toys.published()) == 1


def test_corrupt_publication(toys: Production, say: Any) -> None:
    """1: `catalog verify` found a damaged or missing file, and names it."""
    say("run", toys.path)
    first, second = (toys.folder / "out" / e.object_key for e in toys.catalog.iter_entries())
    first.write_bytes(b"?")
    second.unlink()
    said = say("catalog", "verify", toys.path, "--json")
    assert said.code == 1
    assert [Path(k).name for k in said.json["corrupt"]] == [first.name]
    assert [Path(k).name for k in said.json["missing"]] == [second.name]


BAD_INPUT = {
    "no config": (["run", "nowhere.yaml"], ["the config cannot be read", "assetmill init"]),
    "no argument": (["run"], ["Missing argument", "CONFIG"]),
    "unknown option": (["run", "{config}", "--fast"], ["No such option", "--fast"]),
    "unknown command": (["rum", "{config}"], ["No such command"]),
    "unknown asset": (["run", "{config}", "--only", "x"], ["--only x: no such asset", "sheet.csv"]),
    "no plan": (["run", "{config}", "--plan", "no.json"], ["the plan cannot be read", "plan --out"]),
    "no plan file": (["run", "{config}", "--plan", "{config}"], ["not a plan file"]),
    "no such version": (["catalog", "show", "{config}", "--version", "7"], ["has no version 7"]),
    "no such run": (["runs", "show", "{config}", "x"], ["no run named 'x'", "runs list"]),
    "nothing published": (["reproduce", "{config}", "x"], ["nothing published is named 'x'"]),
    "exists": (["init", "{config}"], ["exists already", "another name"]),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input(name: str, toys: Production, say: Any) -> None:
    """2: bad input is said to be bad, with its place and the way out."""
    arguments, expected = BAD_INPUT[name]
    said = say(*(a.format(config=toys.path) for a in arguments))
    assert said.code == 2, said
    assert all(text in said.err for text in expected), said.err
    assert "Traceback" not in said.err


def test_bad_input_as_json(toys: Production, say: Any) -> None:
    """With `--json` an error is an object, too: its kind, its exit code and every problem with its place."""
    toys.sheet[0]["id"] = toys.sheet[1]["id"]
    toys.change(candidates=0, seed=-1)
    said = say("run", toys.path, "--json")
    assert said.code == said.json["exit_code"] == 2
    assert said.json["error"] == "InputError"
    assert len(said.json["problems"]) == 2
    assert all("config.yaml, row" in p for p in said.json["problems"])
    toys.change(candidates=1, seed=1)
    said = say("run", toys.path, "--json")
    assert said.code == 2
    assert any("001" in p and "row" in p for p in said.json["problems"])


def test_usage_as_json(toys: Production, say: Any) -> None:
    """Also a mistyped option is an object with `--json`."""
    said = say("run", toys.path, "--json", "--fast")
    assert said.code == said.json["exit_code"] == 2
    assert "--fast" in said.json["problems"][0]


def test_already_running(toys: Production, say: Any) -> None:
    """3: someone else holds the lock; who, since when and what to do is said."""
    with hold_lock(toys.store, NAME, owner={"run": "R7"}):
        said = say("run", toys.path)
    assert said.code == 3
    assert "toys is already running (run R7" in said.err
    assert f"pid {os.getpid()}" in said.err
    assert "wait for it or stop that process" in said.err


def test_budget_reached(toys: Production, say: Any) -> None:
    """4: a budget is used up; which, and what is left, is said."""
    toys.change(run={"chunk": 4, "budget": {"images": 4}})
    said = say("run", toys.path)
    assert said.code == 4
    assert "budget reached: 4 images" in said.err
    assert ["left", "│", "1"] in [line.split()[:3] for line in said.err.splitlines()]


def test_unavailable(toys: Production, say: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """5: the store is not to be had, and the message says where and what to do."""
    toys.change(store={"url": "ftp://somewhere", "options": {}})
    said = say("run", toys.path)
    assert said.code == 5
    assert "give a folder's path or s3://" in said.err
    toys.change(store={"url": "sheet.csv/out"})
    said = say("run", toys.path)
    assert said.code == 5
    assert "choose another store.url" in said.err

    def down(*_: object, **__: object) -> None:
        raise StoreUnavailable("s3://b: it does not answer; try later")

    monkeypatch.setattr("assetmill.operate.job.open_store", down)
    assert say("run", toys.path).code == 5


def test_bug(toys: Production, say: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """70: a bug leaves its traceback in the log and asks to be reported."""

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("never thought of that")

    monkeypatch.setattr("assetmill.pipeline.open_job", broken)
    said = say("run", toys.path, "--json")
    assert said.code == said.json["exit_code"] == 70
    assert "please report it" in said.err
    assert "never thought of that" in said.err


def test_interrupted() -> None:
    """130: someone pressed Ctrl-C before there was anything to end."""

    def press() -> None:
        raise KeyboardInterrupt

    assert cli.run_command(press) == 130


def test_unread_output() -> None:
    """A reader that went away, such as `head`, is no bug."""

    def pipe() -> None:
        raise BrokenPipeError

    assert cli.run_command(pipe) == 1


# --- a stranger's first minutes -----------------------------------------------------------------------------


def test_init_then_run(tmp_path: Path, say: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `init` writes is checked, planned and run as it is; settings may come from the environment."""
    for name, value in {
        "ASSETMILL_MODEL__ENGINE": "simulated",
        "ASSETMILL_JUDGE__ENGINE": "simulated",
        "ASSETMILL_UPSCALE__ENGINE": "lanczos",
    }.items():
        monkeypatch.setenv(name, value)
    config = tmp_path / "toys.yaml"
    said = say("init", config)
    assert said.code == 0
    assert f"assetmill run {config}" in said.err
    assert all(Path(line).is_file() for line in said.out.split())
    assert say("check", config).code == 0
    plan = say("plan", config, "--json").json
    assert (plan["new"], plan["bad_rows"]) == (6, 0)
    report = say("run", config, "--json").json
    assert (report["status"], report["published"], report["pictures"]) == ("done", 6, 26)
    assert (tmp_path / "out").is_dir()
    assert say("run", config, "--json").json["status"] == "nothing to do"


# --- processes ----------------------------------------------------------------------------------------------


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "assetmill", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_unchanged_run_is_light(toys: Production) -> None:
    """A run with nothing to do imports no model library, no pandas and no Prefect, and takes seconds."""
    toys.run()
    program = (
        "import sys, time; began = time.process_time()\n"
        f"sys.argv = ['assetmill', 'run', {str(toys.path)!r}, '--json']\n"
        "from assetmill.cli import app, run_command\n"
        "code = run_command(lambda: app(standalone_mode=False))\n"
        f"sys.stderr.write(repr((code, sorted({HEAVY!r} & set(sys.modules)), time.process_time() - began)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    code, heavy, seconds = eval(done.stderr.splitlines()[-1])
    assert json.loads(done.stdout)["status"] == "nothing to do"
    assert (code, heavy) == (0, [])
    assert seconds < 5


def test_sigterm_drains(tmp_path: Path) -> None:
    """SIGTERM ends the batch on the device, publishes what is whole, and exits within 30 s; the next run goes on."""
    settings = {"model": {"options": {"seconds": 0.02}, "batch": 4}, "run": {"chunk": 4}}
    toys = Production(tmp_path, rows(200), settings)
    process = start("run", toys.path, "--json")
    while process.poll() is None and not any(toys.folder.glob("out/records/*/*/*.jsonl")):
        time.sleep(0.05)
    process.terminate()
    began = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 30
    report = json.loads(out)
    assert (process.returncode, report["status"], report["reason"]) == (1, "stopped", "stopped by SIGTERM"), err
    assert 0 < report["published"] < 200
    assert report["left"] == 200 - report["assets"]
    toys.check_whole()
    assert not list(toys.store.list(f"runs/{NAME}/begun/"))
    assert toys.states() == {"new": report["left"], "unchanged": report["published"]}


def test_two_at_once(tmp_path: Path) -> None:
    """Of two processes that start the same run one works, the other exits with 3 and names it; nothing is doubled."""
    toys = Production(tmp_path, rows(12), {"model": {"options": {"seconds": 0.05}}})
    both = [start("run", toys.path, "--json") for _ in range(2)]
    said = [(json.loads(p.communicate(timeout=120)[0]), p.returncode, p.pid) for p in both]
    said.sort(key=lambda s: s[1])
    assert [code for _, code, _ in said] == [0, 3]
    assert said[0][0]["pictures"] == 48
    assert said[1][0]["error"] == "AlreadyRunning"
    assert f"pid {said[0][2]}" in said[1][0]["problems"][0]
    assert len(toys.candidates()) == 48
    toys.check_whole()


def test_crashing_item_is_set_aside(tmp_path: Path) -> None:
    """An image that kills the process is tried five times, then set aside by name; everything else is published."""
    settings = {"model": {"options": {"crash": "red2"}, "batch": 4}, "run": {"chunk": 4}}
    toys = Production(tmp_path, rows(5), settings)
    codes = []
    for _ in range(7):
        process = start("run", toys.path, "--json")
        out, _ = process.communicate(timeout=120)
        codes.append(process.returncode)
        if process.returncode >= 0:
            break
    assert codes == [-signal.SIGKILL] * 5 + [1]
    report = json.loads(out)
    assert report["troubled"] == {"002": "set aside"}
    assert report["status"] == "done, some items failed"
    assert {asset for asset, _ in toys.published()} == {"000", "001", "003", "004"}
    toys.check_whole()
    toys.sheet[2]["colour"] = "green"
    toys.write_sheet()
    assert toys.run()["exit_code"] == 0
    assert len(toys.published()) == 5


def test_provenance_of_a_file(say: Any, tmp_path: Path) -> None:
    """A published file says where it comes from, for people and machines; an edited one gives exit code 1."""
    from assetmill.deliver.credentials import Signer
    from assetmill.deliver.facts import facts_of
    from assetmill.deliver.metadata import describe
    from certificates import issue
    from test_deliver_metadata import PROVENANCE, entry, picture

    identity, facts = issue(), facts_of(entry(alt={"": "red \x1b[31m sword"}), PROVENANCE)
    signer = Signer(identity.chain, identity.key_pem(), "es256")
    signed = signer.sign(picture(describe(facts, "full"), "png"), "image/png", facts)
    file, roots = tmp_path / "sword.png", tmp_path / "roots.pem"
    file.write_bytes(signed)
    roots.write_bytes(identity.root)
    found = say("provenance", file, "--trust", roots, "--json")
    assert found.code == 0
    assert (found.json["verdict"], found.json["ai_generated"], found.json["settings"]["Seed"]) == ("valid", True, "7")
    shown = say("provenance", file)
    assert "valid, by a signer that no given root vouches for" in shown.err
    assert "\x1b[31m" not in shown.err
    file.write_bytes(signed[:-30] + b"\x00" + signed[-29:])
    assert say("provenance", file, "--json").code == 1
    assert say("provenance", tmp_path / "none.png").code == 2
    assert "give a PNG, JPEG, WebP or AVIF" in say("provenance", roots).err
