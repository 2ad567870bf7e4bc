"""Contact sheets: everything is on them, in place, and nothing a sheet or a store holds makes them fail."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from assetmill.deliver.contact_sheet import ContactRow, contact_pages, draw_contact_sheet, fit
from assetmill.deliver.picture import decode, encode_png

FRAME = (13, 128, 96)
RIM = 16


def sprite(seed: int, size: int = 32, alpha: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    ground = (0, 0, 0, 0) if alpha else tuple(int(c) for c in rng.integers(150, 250, 3))
    image = Image.new("RGBA" if alpha else "RGB", (size, size), ground)
    draw = ImageDraw.Draw(image)
    left, top = (int(v) for v in rng.integers(2, size // 2, 2))
    draw.ellipse((left, top, left + size // 3, top + size // 3), fill=(200, 40, int(rng.integers(256))))
    return np.asarray(image)


def sheet_row(number: int, num_pictures: int = 3, **changes: object) -> ContactRow:
    values = {
        "asset_id": f"sword-{number}",
        "label": "A sword of the north",
        "pictures": [encode_png(sprite(10 * number + i)) for i in range(num_pictures)],
        "captions": [f"0.{40 - i}\nranked {i + 1} of {num_pictures}" for i in range(num_pictures)],
        "chosen": (0,),
    }
    return ContactRow(**{**values, **changes})


def find(page: np.ndarray, picture: np.ndarray) -> list[tuple[int, int]]:
    """Where the middle of a picture lies on the page; the rim is under badges and round corners."""
    core = picture[RIM:-RIM, RIM:-RIM]
    height, width = core.shape[:2]
    anchor = int(core.std(axis=1).sum(axis=-1).argmax())  # its most telling line
    found = []
    for y in range(page.shape[0] - height + 1):
        start = page[y + anchor].tobytes().find(core[anchor].tobytes())
        x = start // 3
        if start >= 0 and np.array_equal(page[y : y + height, x : x + width], core):
            found.append((y, x))
    return found


def test_every_picture_is_on_the_sheet_enlarged_without_blur() -> None:
    """Each candidate stands on the sheet, enlarged by a whole factor pixel by pixel."""
    rows = [sheet_row(i) for i in range(3)]
    page = decode(draw_contact_sheet(rows))
    for row in rows:
        for data in row.pictures:
            assert len(find(page, decode(data).repeat(4, axis=0).repeat(4, axis=1))) == 1


def test_pictures_stand_in_rank_order_and_chosen_ones_are_framed() -> None:
    """Left to right as given, and the frame is around the chosen one alone."""
    page = decode(draw_contact_sheet([sheet_row(1, chosen=(1,))]))
    spots = [find(page, decode(d).repeat(4, 0).repeat(4, 1))[0] for d in sheet_row(1).pictures]
    assert [x for _, x in spots] == sorted(x for _, x in spots)
    framed = [(page[y + 48, x - RIM - 3] == FRAME).all() for y, x in spots]  # three pixels left of the picture
    assert framed == [False, True, False]


def test_large_pictures_are_fitted_and_small_ones_multiplied() -> None:
    """Proportions are kept; enlarging is by whole factors, shrinking fills the room."""
    assert fit(sprite(1, 64), 144).shape == (128, 128, 3)
    assert fit(sprite(1, 64)[:32], 144).shape == (64, 128, 3)
    assert fit(np.zeros((300, 600, 3), np.uint8), 144).shape == (72, 144, 3)
    assert fit(np.zeros((1, 4000, 3), np.uint8), 100).shape == (1, 100, 3)


def test_transparency_shows_a_checkerboard() -> None:
    """A cut-out lies on a checkerboard, not on black."""
    page = decode(draw_contact_sheet([sheet_row(1, pictures=[sprite(1, alpha=True)], captions=["0.3"])]))
    assert (page == (232, 231, 228)).all(axis=-1).sum() > 500


def test_missing_and_damaged_pictures_are_shown_as_such() -> None:
    """A candidate without a picture, or with bytes that are none, has a place of its own and stops nothing."""
    whole = decode(draw_contact_sheet([sheet_row(1)]))
    broken = decode(draw_contact_sheet([sheet_row(1, pictures=[encode_png(sprite(10)), None, b"junk"])]))
    assert broken.shape == whole.shape


def test_rejected_pictures_are_pale() -> None:
    """What a gate rejected is there to be looked at, but paler than the others."""
    plain = sheet_row(1, 1, chosen=())
    pale = sheet_row(1, 1, chosen=(), rejected=(0,))
    assert decode(draw_contact_sheet([pale])).mean() > decode(draw_contact_sheet([plain])).mean()


@pytest.mark.parametrize(
    "text",
    [
        "剣-ключ-ñandú-العربية-हिन्दी-🗡️👩‍🚀",
        "a\x00b\x1b[31m\n\r\tc",
        "\ud800 lone",
        "\u202ereversed\u202c",
        "<script>alert(1)</script>",
        "e\u0301" * 40,
        "x" * 5000,
        "",
        " ",
        "\U0010ffff",
    ],
    ids=range(10),
)
def test_any_text_can_be_drawn(text: str) -> None:
    """No id, label, caption, note or title makes a sheet fail."""
    row = sheet_row(1, asset_id=text, label=text, captions=[text, f"{text}\n{text}"], note=text)
    assert decode(draw_contact_sheet([row], title=text or "?", date=text)).shape[2] == 3


def test_pages_end_after_so_many_rows(tmp_path: Path) -> None:
    """Long lists go on further pages, each written beside the first; the bytes returned are the first page's."""
    rows = [sheet_row(i, 1) for i in range(7)]
    path = tmp_path / "deep" / "sheet.png"
    first = draw_contact_sheet(rows, path, rows_per_page=3)
    assert sorted(p.name for p in path.parent.iterdir()) == ["sheet-2.png", "sheet-3.png", "sheet.png"]
    assert path.read_bytes() == first
    assert len(list(contact_pages(rows, rows_per_page=7))) == 1
    with pytest.raises(ValueError, match="at least 1"):
        next(contact_pages(rows, rows_per_page=0))


def test_empty_sheet_says_so() -> None:
    """Without assets there is still a sheet, with its header."""
    assert decode(draw_contact_sheet([], title="nothing")).shape[2] == 3
    assert decode(draw_contact_sheet([ContactRow("lonely")])).shape[2] == 3


def test_same_rows_give_the_same_bytes() -> None:
    """A sheet is a function of its rows, so an unchanged run leaves an unchanged file."""
    rows = [sheet_row(1), sheet_row(2)]
    assert draw_contact_sheet(rows, date="today") == draw_contact_sheet(rows, date="today")


def test_many_candidates_break_into_lines() -> None:
    """More candidates than fit beside one another go below, all of them."""
    row = sheet_row(1, 19, chosen=(0, 17))
    page = decode(draw_contact_sheet([row], edge=64))
    lines = {find(page, decode(d).repeat(2, 0).repeat(2, 1))[0][0] for d in itertools.islice(row.pictures, 1, None, 3)}
    assert len(lines) == 3
