"""A DataFrame is read like a file: verbatim texts, the same checks."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from assetmill.config import SheetConfig
from assetmill.intake.frames import FRAME_FILE, frame_to_csv
from assetmill.intake.sheet import read_assets
from assetmill.records import InputError

CONFIG = SheetConfig(path=Path(FRAME_FILE), id="id")


def test_texts_stay_verbatim() -> None:
    """What pandas must not touch comes through: leading zeros, NA, exponents, commas, quotes and line breaks."""
    texts = ["00123", "NA", "null", "1E5", "TRUE", 'a "quoted", one', "two\nlines", "2026-01-01"]
    frame = pd.DataFrame({"id": [f"{n:02d}" for n in range(len(texts))], "text": texts})
    sheet = read_assets(CONFIG, Path(FRAME_FILE), frame_to_csv(frame))
    assert [a.columns["text"] for a in sheet.assets] == texts
    assert [a.id for a in sheet.assets] == list(frame["id"])


def test_missing_values_are_empty_cells() -> None:
    """NaN, None and NaT are empty, not the words that pandas prints."""
    frame = pd.DataFrame({"id": ["a", "b", "c"], "x": ["v", None, float("nan")], "when": [pd.NaT, pd.NaT, pd.NaT]})
    sheet = read_assets(CONFIG, Path(FRAME_FILE), frame_to_csv(frame))
    assert [a.columns["x"] for a in sheet.assets] == ["v", "", ""]
    assert {a.columns["when"] for a in sheet.assets} == {""}


def test_doubled_columns_are_named() -> None:
    """Two columns of one name would lose one of them."""
    frame = pd.DataFrame([["a", "b"]], columns=["id", "id"])
    with pytest.raises(InputError, match="id.*twice"):
        frame_to_csv(frame)
