"""A config is read without YAML's traps, and what is wrong with it is said with its place."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest

from assetmill.config import Config, config_schema, find_base, read_config
from assetmill.records import InputError
from assetmill.yaml_text import load_yaml

MINIMAL = "name: icons\nsheet: {path: a.csv, id: id}\nprompts: {templates: [t.j2]}\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_minimal_config_has_working_defaults(tmp_path: Path) -> None:
    """A name, a sheet and a template are all a config needs: models are the starter pack's, the store a folder."""
    config = read_config(write(tmp_path, MINIMAL))
    assert config.model.source == "starter"
    assert config.store_url == str(tmp_path / "out")
    assert config.candidates == 4


def test_yaml_traps_are_disarmed() -> None:
    """`1e3` is a number, `12:30`, `no` and dates stay text, `007` is seven."""
    assert load_yaml("[1e3, 12:30, no, 2026-01-01, 007, 1.5, ~, true, .5, 0x1F]") == [
        1000.0, "12:30", "no", "2026-01-01", 7, 1.5, None, True, 0.5, 31,
    ]  # fmt: skip


def test_a_key_given_twice_is_an_error(tmp_path: Path) -> None:
    """The second of two equal keys doesn't win silently."""
    with pytest.raises(InputError, match="given twice"):
        read_config(write(tmp_path, MINIMAL + "name: other\n"))


def test_all_problems_at_once_with_line_and_way_out(tmp_path: Path) -> None:
    """Every wrong key is named with its line; a misspelt one gets its nearest neighbour."""
    with pytest.raises(InputError) as caught:
        read_config(write(tmp_path, MINIMAL + "model:\n  step: 3\n  guidance: high\nselect: {keep: 0}\n"))
    text = str(caught.value)
    assert len(caught.value.problems) == 3
    assert "row 5" in text
    assert "did you mean 'steps'?" in text
    assert "model.guidance" in text


def test_broken_yaml_names_the_line(tmp_path: Path) -> None:
    """A syntax error says where."""
    with pytest.raises(InputError, match="row 2"):
        read_config(write(tmp_path, "name: a\nsheet: {path: [}\n"))


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    """No config: `assetmill init` makes one."""
    with pytest.raises(InputError, match="assetmill init"):
        read_config(tmp_path / "none.yaml")


def test_environment_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ASSETMILL_STORE__URL` and the like win over the file; foreign names are ignored."""
    monkeypatch.setenv("ASSETMILL_STORE__URL", "s3://bucket/prefix")
    monkeypatch.setenv("ASSETMILL_MODEL__STEPS", "8")
    monkeypatch.setenv("ASSETMILL_LOG", "json")
    config = read_config(write(tmp_path, MINIMAL))
    assert config.store_url == "s3://bucket/prefix"
    assert config.model.steps == 8


def test_paths_resolve_against_the_project(tmp_path: Path) -> None:
    """The nearest ancestor with a pyproject.toml is the base, else the config's own folder."""
    inner = tmp_path / "configs"
    inner.mkdir()
    path = write(inner, MINIMAL)
    assert find_base(path) == inner
    (tmp_path / "pyproject.toml").touch()
    assert read_config(path).resolve("templates/x.j2") == tmp_path / "templates" / "x.j2"


@pytest.mark.parametrize(("text", "size"), [("64", (64, 64)), ('"512x768"', (512, 768)), ("[64, 32]", (64, 32))])
def test_sizes(tmp_path: Path, text: str, size: tuple[int, int]) -> None:
    """A size is one number, `WxH` or a pair."""
    assert read_config(write(tmp_path, MINIMAL + f"model: {{size: {text}}}\n")).model.size == size


def test_the_schema_accepts_what_the_reader_accepts(tmp_path: Path) -> None:
    """The JSON Schema for editors agrees with the validation, and knows no inner field."""
    schema = config_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(load_yaml(MINIMAL + "model: {size: 64x64, steps: 3}\n"), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(load_yaml(MINIMAL + "sheeet: {}\n"), schema)
    assert "base" not in schema["properties"]


def test_configs_are_frozen(tmp_path: Path) -> None:
    """Nobody edits settings mid-run."""
    config = read_config(write(tmp_path, MINIMAL))
    with pytest.raises(ValueError, match="frozen"):
        config.name = "x"  # type: ignore[misc]
    assert isinstance(config, Config)
