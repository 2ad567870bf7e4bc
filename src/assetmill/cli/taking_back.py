"""Commands that find, take back, give back and let go. All but `gc` belong to `assetmill catalog`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from assetmill.cli.shared import (
    AsJson,
    By,
    ConfigPath,
    Reason,
    open_store_of,
    print_facts,
    stderr_console,
    who,
)
from assetmill.operate.exits import SOME_FAILED, print_json

if TYPE_CHECKING:
    from assetmill.operate.query import Found

_SHOWN = 200
"""Lines of a table; `--json` has them all."""

Many = list[str] | None


def _key(name: str, text: str) -> Any:
    return typer.Option(f"--{name}", metavar=name.upper(), help=text)


Model = _key("model", "Id, `id@revision` or revision of a model, or an upscaler's key; `*` stands for any text.")
AdapterKey = _key("adapter", "File of an adapter, its SHA-256 or the first 8 digits of that.")
Licence = _key("licence", "Licence of a model, say `cc-by-nc*`.")
Template = _key("template", "Template.")
Asset = _key("asset", "Id of an asset.")
Reviewer = _key("reviewer", "Who approved it.")
Blob = _key("blob", "SHA-256 (or its first 8 digits) of a candidate, master, published file or reference picture.")


def recall(
    config: ConfigPath,
    model: Annotated[str | None, Model] = None,
    adapter: Annotated[str | None, AdapterKey] = None,
    licence: Annotated[str | None, Licence] = None,
    template: Annotated[str | None, Template] = None,
    asset: Annotated[str | None, Asset] = None,
    reviewer: Annotated[str | None, Reviewer] = None,
    blob: Annotated[str | None, Blob] = None,
    reason: Reason = "",
    by: By = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take back what was made with something: ban it, publish a version without it, list what to take down."""
    from assetmill.config import read_config
    from assetmill.operate.outlets import Outlets, write_outlets
    from assetmill.operate.recall import recall as take_back
    from assetmill.records import InputError, Problem
    from assetmill.storage.catalog import open_catalog
    from assetmill.storage.store import open_store

    keys = {"model": model, "adapter": adapter, "licence": licence, "template": template, "asset": asset,
            "reviewer": reviewer, "blob": blob}  # fmt: skip
    given = [(kind, value) for kind, value in keys.items() if value is not None]
    if len(given) != 1:
        raise InputError(Problem(f"{len(given)} keys are given", f"give one of --{', --'.join(keys)}"))
    (kind, value) = given[0]
    settings = read_config(config)
    store = open_store(settings.store, settings.store_url, read_only=dry_run)
    found = take_back(
        store, settings.name, kind, value, reason=reason, by=who(by), dry_run=dry_run,
        base_url=settings.publish.base_url or "",
    )  # fmt: skip
    # Atlases and feeds show what the catalog shows: they lose it too, now and not with the next night.
    outlets = Outlets() if dry_run else write_outlets(store, settings, open_catalog(store, settings.name))
    if as_json:
        print_json({**found.as_json(), **outlets.as_dict()})
        return
    facts = {
        "ban": found.ban.id if found.ban else "none: a dry run",
        "version": found.version,
        "assets": len(found.assets),
        "variants": found.variants,
        "to take down": len(found.takedown),
        "problems of outlets": outlets.problems,
    }
    print_facts("would be recalled" if dry_run else "recalled", facts, as_json)
    rows = [(t.asset_id, t.rank or "", "live" if t.live else "before", t.url or t.key) for t in found.takedown]
    _print_table("to take down", ("asset", "rank", "shown", "file"), rows)


def lift(
    config: ConfigPath,
    ids: Annotated[list[str], typer.Argument(metavar="BAN…", help="Ids of bans, or their beginnings: see `bans`.")],
    reason: Reason = "",
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Lift bans: from the next run on what they covered is made, chosen and published again."""
    from assetmill.storage.bans import lift as lift_bans

    name, store = open_store_of(config, read_only=False)
    lifted = lift_bans(store, name, ids, reason=reason, by=who(by))
    print_facts("lifted", {ban.id: f"{ban.kind} {ban.value}" for ban in lifted}, as_json)


def bans(
    config: ConfigPath,
    every: Annotated[bool, typer.Option("--all", help="Lifted ones too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List bans."""
    from dataclasses import asdict

    from assetmill.storage.bans import read_bans

    name, store = open_store_of(config)
    found = [(ban, lifted) for ban, lifted in read_bans(store, name) if every or lifted is None]
    if as_json:
        print_json({"bans": [{**asdict(ban), "lifted": dict(lifted) if lifted else None} for ban, lifted in found]})
        return
    rows = [
        (ban.id, ban.kind, ban.value[:40], ban.by, ban.at[:16], ban.reason, str(lifted["at"])[:16] if lifted else "")
        for ban, lifted in found
    ]
    _print_table("bans", ("id", "kind", "value", "by", "at", "reason", "lifted"), rows)


def query(
    config: ConfigPath,
    model: Annotated[Many, Model] = None,
    adapter: Annotated[Many, AdapterKey] = None,
    licence: Annotated[Many, Licence] = None,
    template: Annotated[Many, Template] = None,
    asset: Annotated[Many, Asset] = None,
    reviewer: Annotated[Many, Reviewer] = None,
    blob: Annotated[Many, Blob] = None,
    where: Annotated[
        Many, typer.Option("--where", metavar="COLUMN=VALUE", help="Column of `publish.columns` (repeatable).")
    ] = None,
    all_versions: Annotated[bool, typer.Option("--all-versions", help="What was ever published, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find published files by what they were made with; values of one key are alternatives, keys must all hold."""
    from assetmill.config import read_config
    from assetmill.operate.query import Question
    from assetmill.operate.query import query as find
    from assetmill.operate.recall import resolve_hash
    from assetmill.records import InputError, Problem
    from assetmill.storage.catalog import open_catalog
    from assetmill.storage.store import open_store

    settings = read_config(config)
    store = open_store(settings.store, settings.store_url, read_only=True)
    catalog = open_catalog(store, settings.name)
    columns: dict[str, list[str]] = {}
    for text in where or ():
        column, equals, value = text.partition("=")
        if not equals or not column:
            raise InputError(Problem("--where needs a column and a value", "write COLUMN=VALUE", value=text))
        columns.setdefault(column, []).append(value)
    kinds = {"model": model, "licence": licence, "template": template, "asset": asset, "reviewer": reviewer}
    asked = {kind: values for kind, values in kinds.items() if values}
    for kind, values in (("adapter", adapter), ("blob", blob)):
        if values:
            asked[kind] = [resolve_hash(catalog, kind, v) for v in values]
    base_url = settings.publish.base_url or ""
    found = find(catalog, Question(asked, columns), all_versions=all_versions, base_url=base_url)
    if as_json:
        print_json({"variants": len(found), "found": [f.as_json() for f in found]})
    else:
        _print_table("published", ("asset", "rank", "model", "licence", "template", "versions", "file"), _rows(found))


def _rows(found: list[Found]) -> list[tuple[Any, ...]]:
    return [
        (f.asset_id, f.rank, f.model, f.licence, f.template, "{}-{}".format(*f.versions), file)
        for f in found
        for file in f.files
    ]


def _print_table(title: str, names: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    from assetmill.operate.console import make_table

    console = stderr_console()
    console.print(make_table(title, names, rows[:_SHOWN]))
    if len(rows) > _SHOWN:
        console.print(f"{len(rows) - _SHOWN} more: --json has them all")


def add_to(catalog_app: typer.Typer) -> None:
    for command in (recall, lift, bans, query):
        catalog_app.command(command.__name__)(command)


def gc(
    config: ConfigPath,
    delete: Annotated[bool, typer.Option("--delete", help="Delete it; without this only list it.")] = False,
    as_json: AsJson = False,
) -> None:
    """List what `retention` lets go of (pictures not chosen, old versions and runs, orphans), or delete it."""
    from assetmill.config import read_config
    from assetmill.operate.gc import collect
    from assetmill.storage.store import open_store

    settings = read_config(config)
    store = open_store(settings.store, settings.store_url, read_only=not delete)
    found = collect(store, settings, delete=delete)
    if as_json:
        print_json(found.as_json())
    else:
        rows = [(s.kind, len(s.keys), f"{s.size / 2**20:.1f} MiB", s.why) for s in found.sweeps]
        _print_table("deleted" if delete else "may be deleted", ("what", "objects", "size", "why"), rows)
        for problem in found.problems:
            stderr_console().print(f"left alone: {problem}", markup=False)
    if found.problems:
        raise typer.Exit(SOME_FAILED)
