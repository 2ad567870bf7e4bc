"""The first config, sheet and template that `init` writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from assetmill.config import config_schema, read_config
from assetmill.intake.prompts import load_templates
from assetmill.intake.sample import write_sample
from assetmill.intake.sheet import read_assets
from assetmill.records import InputError


def test_sample_fits_together(tmp_path: Path) -> None:
    """The config names the sheet and the template beside it, and every row renders."""
    written = write_sample(tmp_path / "shop.yaml")
    assert [p.name for p in written] == ["shop.yaml", "shop.csv", "shop.j2", "assetmill.schema.json"]
    config = read_config(written[0])
    assert config.name == "shop"
    sheet = read_assets(config.sheet, config.resolve(config.sheet.path))
    book = load_templates(config.prompts, config.resolve)
    book.check(sheet.headers)
    prompts = {a.id: book.render(a, seed=config.seed) for a in sheet.assets}
    assert len(prompts) == len(sheet.assets) >= 5
    assert not sheet.bad_rows
    assert all(p.positive and p.rank_text for rendered in prompts.values() for p in rendered)
    assert json.loads(written[3].read_text()) == json.loads(json.dumps(config_schema()))


def test_names(tmp_path: Path) -> None:
    """Whatever the file is called, the config's name is one that a store takes; an ending is added."""
    names = {"My Shop!.yml": "my-shop", "a.b": "a", "___.yaml": "assets", "Ü.yaml": "assets", "x" * 90: "x" * 64}
    for number, (given, name) in enumerate(names.items()):
        written = write_sample(tmp_path / str(number) / given)
        assert written[0].suffix in (".yaml", ".yml")
        assert read_config(written[0]).name == name


def test_never_over_a_file(tmp_path: Path) -> None:
    """Nothing is written over a file that exists: all of them are named, and none is touched."""
    (tmp_path / "shop.csv").write_text("mine")
    (tmp_path / "shop.j2").write_text("mine, too")
    with pytest.raises(InputError, match="exists already; give another name") as error:
        write_sample(tmp_path / "shop.yaml")
    assert len(error.value.problems) == 2
    assert not (tmp_path / "shop.yaml").exists()
    assert (tmp_path / "shop.csv").read_text() == "mine"
