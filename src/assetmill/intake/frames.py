"""Assets from a pandas DataFrame, for those whose sheet comes out of a query and never was a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assetmill.records import InputError, Problem

if TYPE_CHECKING:
    import pandas as pd

FRAME_FILE = "frame.csv"
"""The name under which a frame's rows are spoken of in problems. Row 1 is the header."""


def frame_to_csv(frame: pd.DataFrame) -> bytes:
    """The frame as UTF-8 CSV, which `read_assets` reads like any other: same checks, same snapshot.

    Missing values (NaN, None, NaT) are empty cells; texts stay verbatim; other values are written as Python prints
    them, so give ids as texts: an integer column with a missing value is a float column to pandas. The index is left
    out. Raises InputError when columns have no name or the same one.
    """
    names = [str(c) for c in frame.columns]
    doubled = sorted({n for n in names if names.count(n) > 1 or not n.strip()})
    if doubled:
        raise InputError(
            [
                Problem("the frame has this column twice, or without a name", "rename it", FRAME_FILE, column=n)
                for n in doubled
            ]
        )
    cells = frame.astype(object).where(frame.notna(), "")
    return cells.to_csv(index=False, header=names, lineterminator="\n").encode()
