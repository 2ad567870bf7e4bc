"""The docs say what the code does: generated files are current, examples are valid, commands and links exist."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

import pytest

from assetmill.config import find_base, read_config
from assetmill.intake.prompt_template import read_template
from assetmill.intake.wildcards import read_word_lists
from assetmill.yaml_text import load_yaml

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_TEST = re.compile(r"`(test_\w+\.py)(?:::(\w+))?`")


def name_of(value: Any) -> str:
    return value.name if isinstance(value, Path) else str(value)


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def command_line() -> Any:
    import typer

    from assetmill.cli import app

    return typer.main.get_command(app)


def blocks(language: str) -> Iterator[tuple[Path, int, str]]:
    """Fenced blocks of a language: page, line, text."""
    for page in PAGES:
        text = page.read_text("utf-8")
        for match in _FENCE.finditer(text):
            if match[1] == language:
                yield page, text[: match.start()].count("\n") + 1, dedent(match[2])


def commands() -> Iterator[tuple[str, list[str], bool]]:
    """Commands of the docs: place, words behind `assetmill`, and whether they are whole (those of shell blocks are)."""
    for page, line, text in blocks("sh"):
        for row in text.replace("\\\n", " ").splitlines():
            words = shlex.split(row, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words and words[0].rsplit("/", 1)[-1] == "assetmill":
                yield f"{page.name}:{line}", words[1:], True
    for page in PAGES:
        for match in re.finditer(r"`assetmill ([^`\n]+)`", _FENCE.sub("", page.read_text("utf-8"))):
            yield page.name, shlex.split(match[1]), False


def test_generated_files_are_current(builder: ModuleType) -> None:
    """The schema, the tables of keys and the pages of the command line are what the code says today."""
    for path, text in builder.build().items():
        assert path.read_text("utf-8") == text, f"{path.name} is out of date: run `python docs/build.py`"


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_shipped_configs_are_valid(path: Path) -> None:
    """Every config in configs/ is read without a problem, and names files that exist."""
    config = read_config(path)
    for named in (config.sheet.path, *config.prompts.templates):
        assert config.resolve(named).is_file(), f"{path.name} names {named}, which is not there"


@pytest.mark.parametrize(("page", "line", "text"), list(blocks("yaml")), ids=name_of)
def test_yaml_of_the_docs_is_valid(page: Path, line: int, text: str, tmp_path: Path) -> None:
    """Every YAML block of the docs is a config as it stands."""
    path = tmp_path / f"{page.stem}-{line}.yaml"
    path.write_text(text, "utf-8")
    assert find_base(path) == tmp_path
    assert read_config(path).name == load_yaml(text)["name"]


@pytest.mark.parametrize(("page", "line", "text"), list(blocks("jinja")), ids=name_of)
def test_templates_of_the_docs_are_valid(page: Path, line: int, text: str) -> None:
    """Every template in the docs is read without a problem."""
    assert read_template(f"{page.name}:{line}.j2", text, text.encode(), read_word_lists({})[0], ()).columns


def test_commands_of_the_docs_exist(command_line: Any) -> None:
    """Every `assetmill …` in the docs names a command that exists and options it takes; whole ones also parse."""
    found = list(commands())
    assert any(whole for _, _, whole in found)
    for place, words, whole in found:
        command, name, rest = command_line, "assetmill", list(words)
        while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
            assert rest[0] in command.commands, f"{place}: `{name}` has no command {rest[0]!r}"
            name = f"{name} {rest[0]}"
            command = command.commands[rest.pop(0)]
        known = {o for p in command.params for o in (*p.opts, *getattr(p, "secondary_opts", ()))} | {"-h", "--help"}
        for word in rest:
            if re.match(r"--?[a-z]", word):
                assert word.partition("=")[0] in known, f"{place}: `{name}` has no option {word!r}"
        if whole and not hasattr(command, "commands"):
            try:
                command.make_context(name, rest)
            except Exception as error:  # noqa: BLE001 - whatever the parser says, the docs are wrong
                pytest.fail(f"{place}: `assetmill {' '.join(words)}`: {error}")


def test_targets_and_scripts_of_the_docs_exist() -> None:
    """Every `make …` names a target of the Makefile, every `python path` a file."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for page in PAGES:
        text = page.read_text("utf-8")
        for target in re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE):
            assert target in targets, f"{page.name}: there is no `make {target}`"
        for script in re.findall(r"python ([\w/]+\.py)", text):
            assert (ROOT / script).is_file(), f"{page.name}: there is no {script}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file of the repository, and a heading of it where it says one."""
    for target in _LINK.findall(_FENCE.sub("", page.read_text("utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = page if not name else Path(os.path.normpath(page.parent / name))
        assert path.exists(), f"{page.name} links to {target}, which is not there"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", path.read_text("utf-8")), re.MULTILINE)
            known = {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}
            assert anchor in known, f"{page.name} links to {target}, a heading that {path.name} lacks"


def test_proofs_named_in_the_docs_exist() -> None:
    """A test that the docs call a proof is a test that exists."""
    for page in PAGES:
        for file, function in _TEST.findall(page.read_text("utf-8")):
            path = ROOT / "tests" / file
            assert path.is_file(), f"{page.name} names {file}, which is not there"
            if function:
                defined = rf"^ *def {function}\("
                assert re.search(defined, path.read_text("utf-8"), re.MULTILINE), (
                    f"{page.name}: no {function} in {file}"
                )
