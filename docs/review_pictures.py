"""The screenshots of docs/review.md: plays a reviewer over a production that a run has made.

    assetmill run configs/game-assets.yaml && python docs/review_pictures.py configs/game-assets.yaml

Needs Debian's chromium. It decides about pictures: give it a store that you can throw away.
"""

from __future__ import annotations

import io
import sys
import threading
import time
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
SIZE = {"width": 1360, "height": 850}


def main(config: Path) -> None:
    from playwright.sync_api import sync_playwright

    from assetmill.config import read_config
    from assetmill.review.serving import serve
    from assetmill.storage.store import open_store

    settings = read_config(config)
    addresses: list[str] = []
    store = open_store(settings.store, settings.store_url)
    threading.Thread(
        target=serve, args=(store, settings), kwargs={"on_ready": addresses.append}, daemon=True
    ).start()  # fmt: skip
    while not addresses:
        time.sleep(0.05)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu", "--no-first-run"]
        )
        window = browser.new_context(viewport=SIZE, color_scheme="light")
        page = window.new_page()
        page.goto(addresses[0])
        page.fill("dialog input", "Mia")
        page.keyboard.press("Enter")
        page.wait_for_selector("dialog", state="detached")
        page.wait_for_selector(".row.here")
        for key in ("a", "2", "a", "a", "x", "a", "a", "m", "3", "m"):
            page.keyboard.press(key)
            page.wait_for_timeout(900)  # a pace that a person could have
        keep(page, "review-sheet")
        page.keyboard.press("c")
        page.keyboard.press("d")
        keep(page, "review-compare")
        page.keyboard.press("Escape")
        page.keyboard.press("t")
        keep(page, "review-asset-dark")
        page.keyboard.press("Escape")
        page.keyboard.press("m")
        page.keyboard.press("Shift+B")
        page.set_viewport_size({"width": 1024, "height": 768})
        page.wait_for_timeout(5500)  # the word about it goes by itself
        keep(page, "review-blind-dark")
        browser.close()


def keep(page: Any, name: str) -> None:
    """Writes what is to be seen into docs/img, once all pictures are there."""
    from PIL import Image

    page.wait_for_function("() => [...document.querySelectorAll('#view img')].every((i) => i.complete)")
    page.wait_for_timeout(700)
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(DOCS / "img" / f"{name}.webp", quality=82, method=6)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
