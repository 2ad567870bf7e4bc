"""The review page in numbers: first paint, keys, key presses for a hundred assets, scrolling, start-up.

python benchmarks/review.py [--assets 2500] [--large 50000] [--folder DIR]

Needs Debian's chromium. Writes docs/figures/review.json. Takes about five minutes, most of them to make pictures.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from assetmill import pipeline
from assetmill.config import read_config
from assetmill.review.gallery import load_gallery
from assetmill.review.pictures import Pictures
from assetmill.storage.store import open_store
from plan import fill_store, write_inputs
from write import save_figures

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run",
]  # fmt: skip
CANDIDATES = 4
PAUSE_MS = 100
"""Between two key presses: ten a second are more than anybody makes."""

TALL = {"width": 1920, "height": 4200}
"""A window that shows two hundred thumbnails at once."""

TIMER = """() => {
  window.answers = [];
  addEventListener("keydown", (event) => {
    const began = event.timeStamp;
    requestAnimationFrame(() => { const channel = new MessageChannel();
      channel.port1.onmessage = () => window.answers.push(performance.now() - began);
      channel.port2.postMessage(0); });
  }, true);
}"""
"""The time from a key press to the frame after it: a message sent in a frame's callback comes when it was painted."""

SCROLL = """async () => {
  const sheet = document.querySelector(".sheet");
  const frames = [];
  let last = performance.now();
  const end = sheet.scrollHeight - sheet.clientHeight;
  for (let at = 0; at < end; at += 240) {
    sheet.scrollTop = at;
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    frames.push(now - last);
    last = now;
  }
  return frames;
}"""


APPROVED = """(count) => {
  const tally = document.querySelectorAll(".tab")[1].querySelector(".tally");
  return Number(tally.textContent.replace(/\\D/g, "")) >= count;
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", type=int, default=2500, help="with four pictures each; 2,500 are 10,000 pictures")
    parser.add_argument("--large", type=int, default=50_000, help="candidates of the index that start-up is timed over")
    parser.add_argument("--folder", type=Path, help="work here and leave it filled")
    parser.add_argument("--no-save", action="store_true", help="only print")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = options.folder or Path(temporary)
        pictures = make_pictures(root / "pictures", options.assets)
        large = make_index(root / "large", options.large)
        figures = {
            "pictures": options.assets * CANDIDATES,
            "start_up": {"candidates": options.large, **time_start(large)},
            **measure_page(pictures),
            "keys_after_scroll": measure_page(pictures, scroll_first=True)["keys"],
        }
    print(json.dumps(figures, indent=1))
    if not options.no_save:
        save_figures("review", figures)


def make_pictures(folder: Path, num_assets: int) -> Path:
    """A production with pictures that a run really made, its thumbnails warm; gives its config."""
    config = folder / "config.yaml"
    if not (folder / "warm").exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_inputs(folder, num_assets, CANDIDATES)
        text = config.read_text().replace("{engine: simulated}\njudge", "{engine: simulated, size: 128}\njudge")
        config.write_text(text.replace("scale: 4", "scale: 2"))
        pipeline.run_job(pipeline.open_job(config))
        settings = read_config(config)
        store = open_store(settings.store, settings.store_url)
        copies = Pictures(store)
        for card in load_gallery(store, settings).cards:
            for picture in card.pictures:
                copies.thumbnail(picture.blob, picture.media_type)
        (folder / "warm").touch()
    return config


def make_index(folder: Path, num_candidates: int) -> Path:
    """The index of so many candidates, compacted, without pictures: start-up reads none. Gives the config."""
    if not (folder / "filled").exists():
        folder.mkdir(parents=True, exist_ok=True)
        fill_store(write_inputs(folder, num_candidates // 8, 8))
        (folder / "filled").touch()
    return folder / "config.yaml"


@contextmanager
def page_of(config: Path) -> Iterator[tuple[str, float]]:
    """`assetmill review` in a process of its own: its address, and the seconds until it gave its first assets."""
    command = [sys.executable, "-m", "assetmill", "review", str(config), "--no-browser", "--json"]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        assert process.stdout is not None
        text = ""
        while not text.rstrip().endswith("}"):
            line = process.stdout.readline()
            if not line:
                raise SystemExit("the page did not start")
            text += line
        url = json.loads(text)["url"]
        with urllib.request.urlopen(f"{url}api/assets?status=review") as answer:
            answer.read()
        yield url, time.perf_counter() - began
    finally:
        process.terminate()
        process.wait()


def time_start(config: Path, repeats: int = 3) -> dict[str, Any]:
    seconds = []
    for _ in range(repeats):
        with page_of(config) as (_, took):
            seconds.append(took)
    return {"seconds": statistics.median(seconds), "runs": seconds}


def measure_page(config: Path, *, scroll_first: bool = False) -> dict[str, Any]:
    """`scroll_first`: only the keys, right after the browser was sent through all pictures."""
    from playwright.sync_api import sync_playwright

    with page_of(config) as (url, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        context = browser.new_context(viewport=TALL)
        page = context.new_page()
        page.goto(url)
        page.fill("dialog input", "Benchmark")
        page.keyboard.press("Enter")
        page.wait_for_selector("dialog", state="detached")
        page.evaluate("localStorage.setItem('assetmill-size', '0')")
        figures = {"first_paint": first_paint(context, url)}
        page.set_viewport_size({"width": 1440, "height": 900})
        page.reload()
        page.wait_for_selector(".row.here .thumb.spot")
        if scroll_first:
            return {"scroll": scroll(page), "keys": clear(page)}
        figures["keys"] = clear(page)
        figures["scroll"] = scroll(page)
        browser.close()
    return figures


def first_paint(context: Any, url: str, repeats: int = 5) -> dict[str, Any]:
    """From the start of the navigation, in a new window with an empty cache: the first paint, and 200 thumbnails."""
    counts, first, whole = [], [], []
    for _ in range(repeats):
        window = context.browser.new_context(viewport=TALL, storage_state=context.storage_state())
        page = window.new_page()
        page.goto(url, wait_until="commit")
        page.wait_for_function(
            "() => { const all = [...document.querySelectorAll('.thumb img')];"
            " return all.length >= 200 && all.slice(0, 200).every((i) => i.complete && i.naturalWidth); }",
            polling="raf",
        )
        whole.append(page.evaluate("() => new Promise((done) => requestAnimationFrame(() => done(performance.now())))"))
        first.append(page.evaluate("() => performance.getEntriesByName('first-contentful-paint')[0].startTime"))
        counts.append(page.locator(".thumb img").count())
        window.close()
    return {
        "thumbnails": min(counts),
        "first_paint_ms": statistics.median(first),
        "all_painted_ms": statistics.median(whole),
        "runs_ms": whole,
    }


def scroll(page: Any) -> dict[str, Any]:
    """The frames of a scroll from the first to the last asset, 240 pixels a frame."""
    frames = sorted(page.evaluate(SCROLL))
    page.keyboard.press("Home")
    return {
        "frames": len(frames),
        "median_ms": statistics.median(frames),
        "p99_ms": frames[int(len(frames) * 0.99)],
        "longest_ms": frames[-1],
    }


def clear(page: Any, num_assets: int = 100) -> dict[str, Any]:
    """A person who likes the best picture of seven assets in ten, another one of two, and rejects the best of one."""
    taste = random.Random(7)
    before = approved(page)
    page.evaluate(TIMER)
    presses = 0
    for _ in range(num_assets):
        wish = taste.random()
        keys = ["a"] if wish < 0.7 else [str(taste.randint(2, CANDIDATES)), "a"] if wish < 0.9 else ["x", "a"]
        for key in keys:
            page.keyboard.press(key)
            presses += 1
            page.wait_for_timeout(PAUSE_MS)
    page.wait_for_function(APPROVED, arg=before + num_assets, timeout=60_000)
    answers = sorted(page.evaluate("() => window.answers"))
    return {
        "assets": approved(page) - before,
        "presses": presses,
        "median_ms": statistics.median(answers),
        "p95_ms": answers[int(len(answers) * 0.95)],
        "longest_ms": answers[-1],
    }


def approved(page: Any) -> int:
    text = page.locator(".tab").nth(1).locator(".tally").inner_text()
    return int("".join(c for c in text if c.isdigit()))


if __name__ == "__main__":
    main()
