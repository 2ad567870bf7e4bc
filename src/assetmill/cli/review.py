"""`assetmill review`: the page where people look at pictures and decide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from assetmill.cli.shared import AsJson, ConfigPath, stderr_console
from assetmill.operate.exits import print_json

if TYPE_CHECKING:
    from assetmill.storage.reviews import Draft


def add_to(app: typer.Typer) -> None:
    """Adds the command to the program."""
    app.command()(review)


def review(
    config: ConfigPath,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Where to listen; 8765, or a free one, if left out.")
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
    host: Annotated[str, typer.Option(help="Address to listen on; others than loopback need a token.")] = "127.0.0.1",
    token: Annotated[
        str, typer.Option(envvar="ASSETMILL_REVIEW_TOKEN", help="What people must know to be let in.", show_envvar=True)
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Open a page to look at the pictures and approve, reject or ask for more. Ctrl+C ends it."""
    from assetmill.config import read_config
    from assetmill.review.serving import serve
    from assetmill.storage.store import open_store

    settings = read_config(config)

    def tell(url: str) -> None:
        if as_json:
            print_json({"url": url, "config": settings.name})
        else:
            stderr_console().print(f"Review {settings.name}: {url}   (Ctrl+C ends it)", highlight=False, soft_wrap=True)
        if browser:
            import webbrowser

            webbrowser.open(url)

    def check_wish(draft: Draft) -> None:
        from assetmill.pipeline import open_job

        open_job(config).check_wish(draft)

    store = open_store(settings.store, settings.store_url)
    serve(store, settings, host=host, port=port, token=token, check_wish=check_wish, on_ready=tell)
