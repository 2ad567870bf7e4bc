"""A package that adds an engine of each role and a gate: installed, named by a config, used end to end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assetmill.config import JudgeConfig, UpscaleConfig
from assetmill.engines import registry
from assetmill.engines.protocols import EngineError, JudgeSpec
from assetmill.engines.registry import resolve_judge, resolve_upscaler
from assetmill.records import GateRecord, InputError
from productions import Production, rows

HERE = Path(__file__).parent
EXAMPLE = HERE / "plugin_example"
PAGE = HERE.parent / "docs" / "plugins.md"

SETTINGS: dict[str, Any] = {
    "candidates": 8,
    "model": {"engine": "stripes", "options": {"count": 6}, "size": 24, "steps": 1, "batch": 8},
    "judge": {"engine": "likeness"},
    "gates": {"plugins": ["bright"]},
    "upscale": {"engine": "smooth", "scale": 3, "options": {"sharp": True}},
}


def install(folder: Path) -> Path:
    """What an installer leaves of the example: its module and its metadata, entry points as pyproject.toml says."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines))
    (info / "RECORD").write_text("")
    (folder / "assetmill_stripes.py").write_bytes((EXAMPLE / "assetmill_stripes.py").read_bytes())
    return folder


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The example on this process's path."""
    folder = install(tmp_path / "site")
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    sys.modules.pop("assetmill_stripes", None)


def make(folder: Path, **settings: Any) -> Production:
    made = Production(folder, sheet=rows(4))
    made.settings = {**SETTINGS, **settings}
    plain = {**made.config(), **made.settings}
    import yaml

    made.path.write_text(yaml.safe_dump(plain))
    return made


def test_end_to_end(installed: Path, tmp_path: Path) -> None:
    """The example's four parts make, judge, gate and enlarge what is published, and a second run does nothing."""
    flags = make(tmp_path / "flags")
    report = flags.run()
    assert report["exit_code"] == 0
    entries = list(flags.catalog.iter_entries())
    assert len(entries) == 4
    config = UpscaleConfig(engine="smooth", scale=3, options={"sharp": True})
    for entry in entries:
        assert (entry.engine, entry.licence, entry.width) == ("stripes", "apache-2.0", 72)
        assert entry.judge == resolve_judge(JudgeConfig(engine="likeness"), Path).key
        assert entry.upscaler == resolve_upscaler(config, Path).key
        assert entry.versions == {"assetmill-stripes": "1.0"}
    verdicts = [r for r in flags.records() if isinstance(r, GateRecord) and r.gate == "bright"]
    assert {v.passed for v in verdicts} == {True, False}
    assert all("limit 96" in v.reason for v in verdicts if not v.passed)
    assert flags.states() == {"unchanged": 4}
    flags.check_whole()


def test_as_a_user_runs_it(tmp_path: Path) -> None:
    """Installed beside assetmill, the command line finds the package by its entry points alone."""
    flags = make(tmp_path / "flags")
    environment = {**os.environ, "PYTHONPATH": str(install(tmp_path / "site"))}
    command = [sys.executable, "-m", "assetmill", "run", str(flags.path), "--json"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["published"] == 4
    result = subprocess.run([*command[:3], "check", *command[4:]], capture_output=True, text=True, timeout=120)
    assert result.returncode == 2
    assert "the engine 'stripes' is unknown" in result.stderr


def test_a_segmenter_cuts_out(installed: Path, tmp_path: Path) -> None:
    """A plug-in's segmenter makes the cut-outs of channels that want them, and its licence is shown."""
    from assetmill.operate.cutouts import open_cutter

    channels = {"icons": {"renditions": [{"name": "icon", "ground": "transparent"}]}}
    job = make(tmp_path / "flags", cutout={"engine": "corner"}, publish={"channels": channels}).job()
    assert job.licences["cutout"] == "apache-2.0 (commercial use)"
    cutter = open_cutter(job.config, registry.load_segmenter(job.segmenter, job.config.cutout))
    assert cutter is not None
    pixels = np.full((32, 32, 3), 255, np.uint8)
    pixels[8:24, 8:24] = (20, 60, 120)
    rgba, verdicts = cutter.cut(pixels)
    assert np.array_equal(rgba[..., 3] == 255, (pixels != 255).any(-1))
    assert all(v.passed for v in verdicts)


def test_in_a_combination(installed: Path, tmp_path: Path) -> None:
    """A plug-in's judge can be one of several, on the scale its spec says."""
    parts = [{"engine": "likeness"}, {"engine": "simulated", "weight": 0.5}]
    flags = make(tmp_path / "flags", judge={"combine": parts})
    flags.run()
    spec = resolve_judge(JudgeConfig(combine=parts), Path)
    assert (spec.parts[0].centre, spec.parts[0].spread) == (0.5, 0.2)
    assert {e.judge for e in flags.catalog.iter_entries()} == {spec.key}


def test_what_a_plugin_refuses(installed: Path) -> None:
    """A plug-in's own complaints about the config are shown as any other."""
    with pytest.raises(InputError, match=r"smooth has no option 'soft'.*known options: sharp"):
        resolve_upscaler(UpscaleConfig(engine="smooth", options={"soft": 1}), Path)


class Half:
    resolve = print


class Odd:
    @staticmethod
    def resolve(config: Any, resolve: Any) -> Any:
        return {"key": "a"}

    load = resolve


class Named(Odd):
    @staticmethod
    def resolve(config: Any, resolve: Any) -> Any:
        return JudgeSpec("my-judge", "named", "named")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Half", "'x'.*lacks `resolve` or `load`"),
        ("Odd", "'x' of assetmill.judges gave dict, not a JudgeSpec"),
        ("Named", "the key 'my-judge'; make it with records.content_key"),
    ],
)
def test_contracts_are_checked(name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plug-in that breaks its contract is told when the job is opened, not in the middle of a night."""
    from importlib.metadata import EntryPoint, EntryPoints

    points = EntryPoints([EntryPoint("x", f"{__name__}:{name}", "assetmill.judges")])
    monkeypatch.setattr(registry.metadata, "entry_points", lambda group: points.select(group=group))
    with pytest.raises(EngineError, match=message):
        resolve_judge(JudgeConfig(engine="x"), Path)


def test_the_page_shows_the_example() -> None:
    """Code and entry points on the page are those of the package that the other tests run."""
    text = PAGE.read_text("utf-8")
    module = (EXAMPLE / "assetmill_stripes.py").read_text()
    shown = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert shown
    for block in shown:
        assert block in module
    (points,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert points in (EXAMPLE / "pyproject.toml").read_text()
