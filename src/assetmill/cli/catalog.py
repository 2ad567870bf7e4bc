"""`assetmill catalog`: what is published, by version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from assetmill.cli import taking_back
from assetmill.cli.shared import (
    AsJson,
    By,
    ConfigPath,
    Reason,
    Version,
    open_catalog_of,
    print_facts,
    stderr_console,
    who,
)
from assetmill.operate.exits import SOME_FAILED, print_json

catalog_app = typer.Typer(help="What is published, by version.", no_args_is_help=True, rich_markup_mode=None)


@catalog_app.command("list")
def catalog_list(config: ConfigPath, as_json: AsJson = False) -> None:
    """List versions."""
    from dataclasses import asdict

    catalog = open_catalog_of(config)
    rows = [asdict(v) for v in catalog.versions()]
    if as_json:
        print_json({"latest": catalog.latest(), "held": catalog.held(), "versions": rows})
    else:
        from assetmill.operate.console import make_table

        names = ("version", "created", "assets", "variants", "action", "run", "note")
        short = [
            {**r, "created": r["created"][:16], "run": r["run"][-6:], "note": r["note"] or r["problem"]} for r in rows
        ]
        stderr_console().print(make_table("catalog", names, [[r[n] for n in names] for r in short]))


@catalog_app.command("show")
def catalog_show(
    config: ConfigPath,
    asset: Annotated[str | None, typer.Argument(metavar="[ID]", help="One asset; all if left out.")] = None,
    version: Version = None,
    as_json: AsJson = False,
) -> None:
    """Show what is published, a line for each file."""
    catalog = open_catalog_of(config)
    entries = catalog.show(asset, version) if asset else list(catalog.iter_entries(version))
    if as_json:
        print_json({"version": version or catalog.latest(), "entries": [e.as_json() for e in entries]})
    else:
        from assetmill.operate.console import make_table

        rows = [
            (e.asset_id, e.rank, "" if e.score is None else f"{e.score:.3f}", f"{f.width}x{f.height}", f.object_key,
             e.request_key[:12])
            for e in entries
            for f in e.files
        ]  # fmt: skip
        stderr_console().print(make_table("published", ("asset", "rank", "score", "size", "file", "key"), rows))


@catalog_app.command("diff")
def catalog_diff(
    config: ConfigPath,
    old: Annotated[int, typer.Argument(min=0, metavar="OLD", help="A version; 0 is the empty catalog.")],
    new: Annotated[int, typer.Argument(min=0, metavar="NEW", help="Another version.")],
    as_json: AsJson = False,
) -> None:
    """Say which assets two versions differ in."""
    from dataclasses import asdict

    found = asdict(open_catalog_of(config).diff(old, new))
    print_facts(f"version {old} to {new}", {k: list(v) for k, v in found.items()}, as_json)


@catalog_app.command("export")
def catalog_export(
    config: ConfigPath,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .jsonl or .parquet file to write.")],
    version: Version = None,
    as_json: AsJson = False,
) -> None:
    """Write all that made each variant (prompts, seeds, models, scores, keys) as JSON lines or Parquet."""
    catalog = open_catalog_of(config)
    writers = {".jsonl": catalog.export_jsonl, ".parquet": catalog.export_parquet}
    if file.suffix not in writers:
        raise typer.BadParameter(f"{file} ends neither in .jsonl nor in .parquet", param_hint="FILE")
    print_facts("exported", {"file": str(file), "variants": writers[file.suffix](file, version)}, as_json)


@catalog_app.command("verify")
def catalog_verify(config: ConfigPath, version: Version = None, as_json: AsJson = False) -> None:
    """Read every file the catalog names and compare its bytes with its hash."""
    found = open_catalog_of(config).verify(version)
    facts = {"objects": found.objects, "missing": list(found.missing), "corrupt": list(found.corrupt)}
    print_facts("verified", facts, as_json)
    if found.missing or found.corrupt:
        raise typer.Exit(SOME_FAILED)


@catalog_app.command("rollback")
def catalog_rollback(
    config: ConfigPath,
    version: Annotated[int, typer.Argument(min=1, metavar="VERSION", help="See `list`.")],
    reason: Reason = "",
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Publish an older version again, without what was recalled since, and hold it there until `release`."""
    from assetmill.config import read_config
    from assetmill.operate.outlets import write_outlets
    from assetmill.operate.recall import roll_back
    from assetmill.storage.catalog import open_catalog
    from assetmill.storage.store import open_store

    settings = read_config(config)
    store = open_store(settings.store, settings.store_url)
    new = roll_back(store, settings.name, version, reason=reason, by=who(by))
    facts = {"version": new, "like": version, "held": "until `assetmill catalog release`"}
    problems = write_outlets(store, settings, open_catalog(store, settings.name)).problems
    print_facts("rolled back", {**facts, **({"problems of outlets": problems} if problems else {})}, as_json)


@catalog_app.command("release")
def catalog_release(config: ConfigPath, reason: Reason = "", by: By = None, as_json: AsJson = False) -> None:
    """Let publishing go on after a rollback."""
    catalog = open_catalog_of(config, read_only=False)
    was = catalog.held()
    catalog.release(reason=reason, by=who(by))
    print_facts("released", {"was_held": was or "not held"}, as_json)


@catalog_app.command("feed")
def catalog_feed(
    config: ConfigPath,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A feed of publish.feeds.")],
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="File to write; the store's feed if left out.")
    ] = None,
    version: Version = None,
    as_json: AsJson = False,
) -> None:
    """Write one feed from the catalog, into a file or into the store, and say what it leaves out and why."""
    from assetmill.config import read_config
    from assetmill.operate.feeds import write_feed_file, write_feeds
    from assetmill.storage.catalog import open_catalog
    from assetmill.storage.store import open_store

    settings = read_config(config)
    store = open_store(settings.store, settings.store_url, read_only=file is not None)
    catalog = open_catalog(store, settings.name)
    if file is not None:
        written = write_feed_file(store, settings, catalog, name, file, version)
        facts: dict[str, Any] = {"file": str(file), "rows": written.num_rows, "left_out": written.num_left_out}
        problems = [str(p) for p in written.problems]
    else:
        (feed,) = write_feeds(store, settings, catalog, version, [name])
        facts = {"key": feed.key, "address": feed.url or feed.address, "rows": feed.num_rows}
        facts["left_out"] = feed.num_left_out
        problems = list(feed.problems)
    print_facts(f"feed {name}", {**facts, "problems": problems}, as_json)
    if problems:
        raise typer.Exit(SOME_FAILED)


@catalog_app.command("atlas")
def catalog_atlas(
    config: ConfigPath,
    channel: Annotated[str, typer.Argument(metavar="CHANNEL", help="A channel with an atlas.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for CHANNEL.png and CHANNEL.json.")],
    as_json: AsJson = False,
) -> None:
    """Copy a channel's newest atlas into a folder, under plain names that stay from night to night."""
    from assetmill.config import read_config
    from assetmill.operate.atlases import copy_atlas
    from assetmill.storage.store import open_store

    settings = read_config(config)
    store = open_store(settings.store, settings.store_url, read_only=True)
    print_facts("copied", {"files": [str(p) for p in copy_atlas(store, settings, channel, folder)]}, as_json)


taking_back.add_to(catalog_app)
