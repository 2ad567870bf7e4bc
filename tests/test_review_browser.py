"""The page in a real browser: a run is cleared by keys alone, compared, undone, asked for again, from two windows."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from assetmill.config import read_config
from assetmill.deliver.picture import encode_png
from assetmill.pipeline import open_job, run_job
from assetmill.review.desk import Desk
from assetmill.storage.decisions import read_decisions
from assetmill.storage.store import open_store
from fixtures_s3 import Endpoint, make_bucket
from productions import NAME, Production, rows
from review_pages import desk_over, served

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run",
)  # fmt: skip

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not CHROMIUM.exists() and not os.environ.get("CI"), reason="needs Debian's chromium (apt-get install chromium)"
    ),
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Production:
    """Twelve assets of four pictures that a run has made; tests lay their decisions over a copy."""
    production = Production(tmp_path_factory.mktemp("browser"), [*rows(8, group="a"), *rows(12, group="b")[8:]])
    production.settings = {"model": {"size": 64}}
    production.write()
    production.run()
    return production


@pytest.fixture
def desk(made: Production) -> Iterator[Desk]:
    yield desk_over(made)
    for info in list(made.store.list(f"decisions/{NAME}/")):
        made.store.delete(info.key)


@pytest.fixture
def url(desk: Desk) -> Iterator[str]:
    with served(desk) as address:
        yield address


class Window:
    """One window: errors of the page's scripts, or anything its policy blocks, fail the test."""

    def __init__(self, chromium: Any, url: str, name: str = "Mia", **options: Any) -> None:
        self.context = chromium.new_context(viewport={"width": 1280, "height": 800}, **options)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._hear)
        self.page.goto(url)
        self.page.fill("dialog input", name)
        self.page.keyboard.press("Enter")
        self.page.wait_for_selector("dialog", state="detached")
        self.page.wait_for_selector(".row.here .thumb.spot")

    def _hear(self, message: Any) -> None:
        if message.type in ("error", "warning") and "409" not in message.text:
            self.complaints.append(message.text)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def tally(self, tab: str) -> int:
        text = self.page.locator(".tab", has_text=re.compile(f"^{tab}")).locator(".tally").inner_text()
        return int(text.replace(",", ""))

    def settled(self, tab: str, count: int) -> None:
        """Waits until the counts say so."""
        self.page.wait_for_function(
            "([tab, count]) => [...document.querySelectorAll('.tab')].some((t) => t.textContent === tab + count)",
            arg=[tab, count],
            timeout=8000,
        )

    def here(self) -> str:
        return self.page.locator(".row.here").get_attribute("aria-label")

    def close(self) -> None:
        self.context.close()
        assert not self.complaints, self.complaints


@pytest.fixture
def window(chromium: Any, url: str) -> Iterator[Window]:
    opened = Window(chromium, url)
    yield opened
    opened.close()


def test_a_run_is_cleared_by_keys_alone(window: Window, desk: Desk) -> None:
    """One key an asset where the best is right, two where another is; every decision is on record."""
    keys = ["a", "a", "2", "a", "a", "Shift+3", "a", "x", "a", "a", "a", "a", "a", "a"]
    window.press(*keys)
    window.settled("Approved", 12)
    assert window.tally("To review") == 0
    assert "Nothing is left" in window.page.locator("#toasts").inner_text()
    log = read_decisions(desk.store, NAME)
    assert len([d for d in log if d.kind == "approve"]) == 12
    assert len(keys) / 12 < 1.5
    third, fifth = desk.gallery.cards[2], desk.gallery.cards[4]
    assert log.of(third.key).approved == (third.pictures[1].blob,)
    assert log.of(fifth.key).approved == (fifth.pictures[2].blob,)
    window.page.wait_for_selector("text=All done")


def test_keys_reject_with_a_reason_and_undo(window: Window, desk: Desk) -> None:
    """R and a number reject; the next picture is in focus; U takes it back and returns to it."""
    first = desk.gallery.cards[0]
    window.press("r")
    window.page.wait_for_selector("dialog .reason")
    window.press("2")
    window.page.wait_for_selector(".row.here .thumb.rejected")
    assert window.page.locator(".row.here .thumb.spot").get_attribute("data-blob") == first.pictures[1].blob
    window.press("a")
    assert window.here() == "001"
    window.settled("Approved", 1)
    state = read_decisions(desk.store, NAME).of(first.key)
    assert state.rejected[first.pictures[0].blob]
    assert state.approved == (first.pictures[1].blob,)
    window.press("u")
    window.settled("Approved", 0)
    assert window.here() == "000"
    window.page.reload()  # what can be undone outlives it
    window.page.wait_for_selector(".row.here .thumb.rejected")
    window.press("u")
    window.page.wait_for_selector(".row.here .thumb.rejected", state="detached")
    desk.log.refresh()
    assert desk.log.of(first.key).status == "open"
    assert desk.log.of(first.key).number == 4


def test_pictures_are_compared_side_by_side(window: Window, desk: Desk) -> None:
    """Two and four panes, zoomed together, with what differs in their settings; the better one is approved there."""
    window.press("c")
    window.page.wait_for_selector(".compare-grid.n2")
    window.page.wait_for_function(
        "() => [...document.querySelectorAll('.pane-stage img')].every((i) => i.complete && i.naturalWidth)"
    )
    window.press("+", "+")
    transforms = window.page.eval_on_selector_all(".pane-stage img", "all => all.map((i) => i.style.transform)")
    assert len(transforms) == 2
    assert transforms[0] == transforms[1]
    assert "scale(1.96" in transforms[0]
    box = window.page.locator(".pane-stage").first.bounding_box()
    window.page.mouse.move(box["x"] + 50, box["y"] + 50)
    window.page.mouse.wheel(0, -300)
    window.page.wait_for_function(
        "() => !document.querySelector('.pane-stage img').style.transform.includes('scale(1.96')"
    )
    moved = window.page.eval_on_selector_all(".pane-stage img", "all => all.map((i) => i.style.transform)")
    assert moved[0] == moved[1]
    window.press("d")
    window.page.wait_for_selector(".differences th:has-text('seed')")
    window.press("Escape", "Shift+C")
    window.page.wait_for_selector(".compare-grid.n4")
    window.press("3", "a")
    window.settled("Approved", 1)
    first = desk.gallery.cards[0]
    assert read_decisions(desk.store, NAME).of(first.key).approved == (first.pictures[2].blob,)


def test_more_is_asked_for_and_seen(window: Window, desk: Desk) -> None:
    """G queues seeds and a changed prompt for the next run; the card says so until it is undone."""
    window.press("g")
    window.page.wait_for_selector("dialog textarea")
    window.page.fill("dialog textarea[name=positive]", "a blue mug, seen from above")
    window.press("Control+Enter")
    window.settled("Queued", 1)
    assert "4 more pictures, changed prompt" in window.page.locator(".row .chip.hold").first.inner_text()
    card = desk.gallery.cards[0]
    override = read_decisions(desk.store, NAME).of(card.key).overrides
    assert override.seeds == 4
    assert override.texts[0].positive == "a blue mug, seen from above"
    window.press("v")
    window.page.wait_for_selector("dialog input[name=strength]")
    window.press("Enter")
    window.settled("Queued", 2)
    assert read_decisions(desk.store, NAME).of(desk.gallery.cards[1].key).overrides.variations[0].seeds == 4
    window.press("u")
    window.page.wait_for_function(
        "() => [...document.querySelectorAll('.tab')].some((t) => t.textContent === 'Queued1')"
    )


def test_two_windows_at_once(chromium: Any, window: Window, url: str, desk: Desk) -> None:
    """The slower of two is told who decided what, and sees it; nothing it did is kept."""
    other = Window(chromium, url, "Tom")
    window.press("a")
    window.settled("Approved", 1)
    other.press("2", "a")
    other.page.wait_for_selector(".toast.bad")
    assert re.search(r"000: Mia approved it at .*Yours was not kept", other.page.locator(".toast.bad").inner_text())
    card = desk.gallery.cards[0]
    row = other.page.locator(f".row[data-key='{card.key}']")
    assert row.locator(".thumb.approved").get_attribute("data-blob") == card.pictures[0].blob
    assert len(read_decisions(desk.store, NAME)) == 1
    # What others do shows up by itself.
    other.press("a")
    window.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    window.settled("Approved", 2)
    other.close()


def test_blind_mode_shows_no_scores(window: Window, desk: Desk) -> None:
    """No score in the page, another order, and decisions that say they were made blind."""
    captions = window.page.locator(".caption").all_inner_texts()
    assert any("0." in text for text in captions)
    window.press("Shift+B")
    window.page.wait_for_selector("body.is-blind")
    window.page.wait_for_function(
        "() => [...document.querySelectorAll('.caption')].every((c) => !c.textContent.includes('0.'))"
    )
    assert "score" not in (window.page.locator(".row").first.inner_html()).lower()
    shown = window.page.eval_on_selector_all(".row.here .thumb", "all => all.map((t) => t.dataset.blob)")
    window.press("a")
    window.settled("Approved", 1)
    (decision,) = read_decisions(desk.store, NAME)
    assert decision.shown["blind"] is True
    assert [blob for blob, _ in decision.shown["ranking"]] == shown
    window.press("Shift+B")
    window.page.wait_for_selector("body:not(.is-blind)")


def test_one_asset_shows_all_there_is(window: Window) -> None:
    """The large picture, the row, the prompt, gates, settings and what is published; the keys work as in the sheet."""
    window.press("Space")
    window.page.wait_for_selector(".panel section:has-text('Settings')")
    text = window.page.locator(".panel").inner_text()
    for expected in ("000", "a red0 mug", "Sheet, row 2", "Published now", "Passed: ", "seed", "judge "):
        assert expected in text
    window.page.wait_for_function("() => document.querySelector('.stage img')?.naturalWidth === 64")
    window.press("n")
    window.page.fill("dialog textarea", "handle too thin")
    window.press("Control+Enter")
    window.page.wait_for_selector(".history:has-text('handle too thin')")
    window.press("a")
    window.page.wait_for_function("() => document.querySelector('.panel h2').textContent === '001'")
    window.press("b")
    assert window.page.locator("body").get_attribute("data-ground") == "black"
    window.press("z", "Escape")
    window.page.wait_for_selector(".row.here")


def test_filters_and_search(window: Window) -> None:
    """Tabs, a column's value and words narrow the list; the address keeps it over a reload."""
    window.page.select_option("select[aria-label=Column]", "group")
    window.page.select_option("select[aria-label='Value of the column']", "b")
    window.page.wait_for_function("() => document.querySelectorAll('.row').length === 4")
    window.press("/")
    window.page.keyboard.type("red9")
    window.page.wait_for_function("() => document.querySelectorAll('.row').length === 1")
    window.page.reload()
    window.page.wait_for_function("() => document.querySelectorAll('.row').length === 1")
    assert window.here() == "009"
    window.page.locator(".tab", has_text="Rejected").click()
    window.page.wait_for_selector("text=No asset passes this filter.")


def test_the_best_are_approved_in_bulk_and_taken_back(window: Window, desk: Desk) -> None:
    """The dialog counts before it acts; one undo takes all of it back."""
    window.press("Shift+A")
    window.page.wait_for_selector("dialog .count:has-text('12 pictures of 12 assets')")
    middle = sorted(c.best or 0 for c in desk.gallery.cards)[6]
    window.page.fill("dialog input[name=threshold]", str(middle))
    window.page.wait_for_selector("dialog .count:has-text('6 pictures of 6 assets')")
    window.press("Enter")
    window.settled("Approved", 6)
    window.press("u")
    window.settled("Approved", 0)
    window.settled("To review", 12)


def test_a_picture_is_brought_in(window: Window, desk: Desk, tmp_path: Path) -> None:
    """A file becomes a picture of the asset in focus, marked, in focus, ready to be approved."""
    file = tmp_path / "shot.png"
    file.write_bytes(encode_png(np.full((40, 60, 3), 200, np.uint8)))
    window.press("End", "Space")
    with window.page.expect_file_chooser() as chooser:
        window.page.get_by_label("Bring in a picture").click()
    chooser.value.set_files(file)
    window.page.fill("dialog input[name=licence]", "own work")
    window.press("Enter")
    window.page.wait_for_selector(".film .spot .caption:has-text('from outside')")
    window.press("a")
    window.settled("Approved", 1)
    state = read_decisions(desk.store, NAME).of(desk.gallery.cards[-1].key)
    assert state.approved == state.adopted


def test_markup_in_a_sheet_stays_text(chromium: Any, tmp_path: Path) -> None:
    """An id, a column and a note full of markup are shown as they are, in every view, and nothing runs."""
    bad = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    production = Production(tmp_path, [{"id": bad, "thing": bad, "colour": "red"}])
    production.run()
    desk = desk_over(production)
    with served(desk) as url:
        window = Window(chromium, url, name=bad)
        assert bad in window.page.locator(".row .id").inner_text()
        window.press("Space")
        window.page.wait_for_selector(".panel section")
        window.press("n")
        window.page.fill("dialog textarea", bad)
        window.press("Control+Enter")
        window.page.wait_for_selector(".history .quote")
        window.press("c", "d", "Escape", "Escape", "?")
        assert "owned" not in window.page.title()
        window.close()


def test_it_can_be_used_in_the_dark_by_touch_and_by_name(chromium: Any, url: str) -> None:
    """Dark by the system's wish and by the button; every picture and button has a name; a narrow screen has room."""
    window = Window(chromium, url, color_scheme="dark", reduced_motion="reduce")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = window.page.evaluate(ground)
    window.press("t")
    light = window.page.evaluate(ground)
    assert sum(map(int, re.findall(r"\d+", dark))) < 120 < sum(map(int, re.findall(r"\d+", light)))
    nameless = window.page.evaluate(
        "[...document.querySelectorAll('button, a, input, select')].filter((e) => e.offsetParent && !(e.ariaLabel || "
        "e.textContent.trim() || e.labels?.length || e.title || e.placeholder)).map((e) => e.outerHTML)"
    )
    assert not nameless
    assert window.page.locator(".thumb").first.get_attribute("aria-label").startswith("picture 1 of 4 of 000")
    window.page.set_viewport_size({"width": 560, "height": 900})
    window.page.wait_for_selector(".field.narrow")
    assert window.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    window.close()


def test_colours_keep_their_contrast(window: Window) -> None:
    """Texts of both themes stand out from their ground by at least 4.5 to 1 (WCAG 2.2, 1.4.3)."""
    pairs = [
        ("ink", "ground"), ("ink", "panel"), ("muted", "ground"), ("muted", "panel"), ("muted", "soft"),
        ("muted", "well"), ("accent", "panel"), ("on-accent", "accent"), ("good", "good-soft"), ("good", "panel"),
        ("bad", "bad-soft"), ("bad", "ground"), ("hold", "hold-soft"),
    ]  # fmt: skip
    for theme in ("light", "dark"):
        window.page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
        for text, ground in pairs:
            one, other = sorted(luminance(window.page.evaluate(VALUE, f"--{name}")) for name in (text, ground))
            assert (other + 0.05) / (one + 0.05) >= 4.5, (theme, text, ground)


VALUE = "(name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim()"


def luminance(colour: str) -> float:
    """Relative luminance of a #rrggbb colour (WCAG 2.2)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_a_run_in_a_bucket(chromium: Any, moto_endpoint: Endpoint, tmp_path: Path) -> None:
    """Over a bucket the page shows its pictures and keeps its decisions there, as over a folder."""
    production = Production(tmp_path, rows(2), {"model": {"size": 64}})
    plain = production.config() | {"store": make_bucket(moto_endpoint).model_dump(mode="json", exclude_unset=True)}
    production.path.write_text(yaml.safe_dump(plain))
    config = read_config(production.path)
    run_job(open_job(production.path))
    with served(Desk(open_store(config.store, config.store_url), config)) as address:
        window = Window(chromium, address)
        window.page.wait_for_function(
            "() => { const all = [...document.querySelectorAll('.thumb img')];"
            " return all.length === 8 && all.every((i) => i.complete && i.naturalWidth > 0); }"
        )
        window.press("a", "a")
        window.settled("Approved", 2)
        window.close()
    log = read_decisions(open_store(config.store, config.store_url), NAME)
    assert [d.kind for d in log] == ["approve", "approve"]
