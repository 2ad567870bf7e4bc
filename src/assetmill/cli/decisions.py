"""`assetmill decisions`, `approve` and `reject`: what people decided, and deciding without a browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assetmill.cli.shared import AsJson, ConfigPath, open_store_of, print_facts, stderr_console
from assetmill.operate.exits import print_json

if TYPE_CHECKING:
    from assetmill.config import Config
    from assetmill.operate.deciding import Shown
    from assetmill.storage.decisions import Decision, DecisionLog
    from assetmill.storage.index import Index
    from assetmill.storage.store import Store

decisions_app = typer.Typer(help="What people decided about pictures.", no_args_is_help=True, rich_markup_mode=None)

Asset = Annotated[str, typer.Argument(metavar="ID", help="An asset.", show_default=False)]
Picture = Annotated[
    str, typer.Option("--picture", "-p", metavar="N|HASH", help="Its rank as `decisions show` lists it, or its hash.")
]
By = Annotated[
    str | None, typer.Option(metavar="NAME", envvar="ASSETMILL_REVIEWER", help="Who decides; your login if left out.")
]
Note = Annotated[str, typer.Option(metavar="TEXT", help="What else there is to say.")]
Seeds = Annotated[int, typer.Option(min=0, help="How many more pictures.")]
Strength = Annotated[float | None, typer.Option(help="How far from the picture, above 0 up to 1.")]


def add_to(app: typer.Typer) -> None:
    """Adds `approve`, `reject` and the group `decisions`."""
    app.command()(approve)
    app.command()(reject)
    app.add_typer(decisions_app, name="decisions")


class _Desk:
    """What commands decide with."""

    def __init__(self, config_path: Path, asset: str = "") -> None:
        from assetmill.config import read_config
        from assetmill.storage.decisions import read_decisions
        from assetmill.storage.index import open_index
        from assetmill.storage.store import open_store

        self.config: Config = read_config(config_path)
        self.store: Store = open_store(self.config.store, self.config.store_url)
        self.log: DecisionLog = read_decisions(self.store, self.config.name)
        self.index: Index = open_index(self.store, self.config.name)
        self.asset = asset

    @property
    def seen(self) -> int:
        from assetmill.records import asset_key

        return self.log.of(asset_key(self.asset)).number

    def pictures(self) -> list[Shown]:
        from assetmill.operate.deciding import list_pictures
        from assetmill.operate.taste import find_promoted
        from assetmill.records import asset_key

        history = self.index.history([self.asset])[self.asset]
        return list_pictures(history, self.log.of(asset_key(self.asset)), find_promoted(self.store, self.config))

    def decide(self, kind: str, by: str | None, *, picture: str = "", **more: Any) -> Decision:
        from assetmill.operate.deciding import find_picture, ranking_shown
        from assetmill.storage.decisions import Draft, decide

        shown: dict[str, object] = {}
        blob = ""
        if picture:
            pictures = self.pictures()
            blob = find_picture(self.asset, pictures, picture).blob
            shown = ranking_shown(pictures)
        draft = Draft(asset_id=self.asset, kind=kind, by=by or _login(), blob=blob, shown=shown, **more)
        return decide(self.store, self.config.name, draft, self.seen, index=self.index, log=self.log)


def approve(
    config: ConfigPath, asset: Asset, picture: Picture = "1", by: By = None, note: Note = "", as_json: AsJson = False
) -> None:
    """Approve a picture: it is pinned and leaves, until it is reopened."""
    _tell(_Desk(config, asset).decide("approve", by, picture=picture, note=note), as_json)


def reject(
    config: ConfigPath,
    asset: Asset,
    picture: Picture = "1",
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why.")] = "",
    by: By = None,
    note: Note = "",
    as_json: AsJson = False,
) -> None:
    """Reject a picture: it is taken out and never chosen again; the next in rank takes its place."""
    _tell(_Desk(config, asset).decide("reject", by, picture=picture, reason=reason, note=note), as_json)


@decisions_app.command("list")
def decisions_list(
    config: ConfigPath,
    asset: Annotated[list[str] | None, typer.Option("--asset", metavar="ID", help="Only of this (repeatable).")] = None,
    by: Annotated[str | None, typer.Option(metavar="NAME", help="Only what this person decided.")] = None,
    kind: Annotated[str | None, typer.Option(metavar="KIND", help="Only this kind: approve, reject …")] = None,
    as_json: AsJson = False,
) -> None:
    """List decisions in the order they were made."""
    found, log = _select(config, asset, by, kind)
    if as_json:
        print_json({"decisions": [d.as_json() for d in found], "problems": log.problems})
        return
    from assetmill.operate.console import make_table

    names = ("when", "asset", "no.", "what", "picture", "by", "why")
    rows = [(d.at[:16], d.asset_id, d.number, _what(d), d.blob[:12], d.by, d.reason or d.note) for d in found]
    stderr_console().print(make_table("decisions", names, rows))
    for problem in log.problems:
        stderr_console().print(problem)


@decisions_app.command("show")
def decisions_show(config: ConfigPath, asset: Asset, as_json: AsJson = False) -> None:
    """Show an asset's pictures, and what people decided about it."""
    from dataclasses import asdict

    from assetmill.records import asset_key

    desk = _Desk(config, asset)
    review, pictures = desk.log.of(asset_key(asset)), desk.pictures()
    if as_json:
        print_json(
            {
                "asset": asset,
                "status": review.status,
                "number": review.number,
                "overrides": review.overrides.as_json(),
                "pictures": [asdict(p) for p in pictures],
                "decisions": [{**d.as_json(), "undone": d.number in review.undone} for d in review.decisions],
            }
        )
        return
    from assetmill.operate.console import make_table

    rows = [
        (
            p.rank, p.blob[:12], "" if p.score is None else f"{p.score:.3f}", f"{p.taste:+.3f}" if p.taste else "",
            p.standing, p.reason, p.file,
        )
        for p in pictures
    ]  # fmt: skip
    names = ("no.", "picture", "score", "taste", "is", "why", "file")
    stderr_console().print(make_table(f"{asset}: {review.status}", names, rows))
    said = []
    for d in review.decisions:
        why = "undone" if d.number in review.undone else d.reason or d.note
        said.append((d.number, d.at[:16], _what(d), d.blob[:12], d.by, why))
    stderr_console().print(make_table("decisions", ("no.", "when", "what", "picture", "by", "why"), said))


@decisions_app.command("export")
def decisions_export(
    config: ConfigPath,
    out: Annotated[Path, typer.Option(metavar="FILE", help="A .csv, .json or .jsonl file.")],
    asset: Annotated[list[str] | None, typer.Option("--asset", metavar="ID", help="Only of this (repeatable).")] = None,
    by: Annotated[str | None, typer.Option(metavar="NAME", help="Only what this person decided.")] = None,
    kind: Annotated[str | None, typer.Option(metavar="KIND", help="Only this kind: approve, reject …")] = None,
    as_json: AsJson = False,
) -> None:
    """Write decisions into a file. Cells of a CSV that a spreadsheet would run as formulas are written as text."""
    from assetmill.deliver.decision_files import write_decisions

    found, _ = _select(config, asset, by, kind)
    write_decisions(found, out)
    print_facts("decisions", {"decisions": len(found), "file": str(out)}, as_json)


@decisions_app.command("reopen")
def decisions_reopen(
    config: ConfigPath,
    asset: Asset,
    picture: Annotated[str, typer.Option("--picture", "-p", metavar="N|HASH", help="Only this one.")] = "",
    by: By = None,
    note: Note = "",
    as_json: AsJson = False,
) -> None:
    """Reopen an approved asset, or a rejected picture: what is chosen follows prompt and rank again."""
    _tell(_Desk(config, asset).decide("reopen", by, picture=picture, note=note), as_json)


@decisions_app.command("undo")
def decisions_undo(
    config: ConfigPath,
    asset: Asset,
    number: Annotated[int, typer.Argument(min=1, metavar="NO", help="The decision's number.", show_default=False)],
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Take a decision back. That is a record too: undo it to have the decision again."""
    _tell(_Desk(config, asset).decide("undo", by, undoes=number), as_json)


@decisions_app.command("note")
def decisions_note(
    config: ConfigPath,
    asset: Asset,
    note: Annotated[str, typer.Argument(metavar="TEXT", show_default=False)],
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Write a note beside an asset."""
    _tell(_Desk(config, asset).decide("note", by, note=note), as_json)


@decisions_app.command("reroll")
def decisions_reroll(
    config: ConfigPath,
    asset: Asset,
    seeds: Seeds = 0,
    positive: Annotated[str | None, typer.Option(metavar="TEXT", help="A prompt instead of the template's.")] = None,
    negative: Annotated[str | None, typer.Option(metavar="TEXT", help="A negative prompt.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(min=0, help="Guidance scale.")] = None,
    strength: Strength = None,
    by: By = None,
    note: Note = "",
    as_json: AsJson = False,
) -> None:
    """Ask for other pictures of one asset: the next run makes them, and every later one keeps to it."""
    asked = {
        "seeds": seeds or None, "positive": positive, "negative": negative, "steps": steps, "guidance": guidance,
        "strength": strength,
    }  # fmt: skip
    override = {name: value for name, value in asked.items() if value is not None}
    _wish(config, asset, "reroll", by, override, note, as_json)


@decisions_app.command("vary")
def decisions_vary(
    config: ConfigPath,
    asset: Asset,
    picture: Picture = "1",
    seeds: Annotated[int, typer.Option(min=1, help="How many variations.")] = 4,
    strength: Strength = None,
    by: By = None,
    note: Note = "",
    as_json: AsJson = False,
) -> None:
    """Ask for variations of a picture: the next run makes them, to be chosen among with the others."""
    override = {"seeds": seeds} | ({} if strength is None else {"strength": strength})
    _wish(config, asset, "vary", by, override, note, as_json, picture)


@decisions_app.command("adopt")
def decisions_adopt(
    config: ConfigPath,
    asset: Asset,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A PNG, JPEG, WebP or AVIF.", show_default=False)],
    approve_it: Annotated[bool, typer.Option("--approve", help="Approve it as well: it is then what leaves.")] = False,
    licence: Annotated[str, typer.Option(metavar="TEXT", help="Its licence, for the catalog.")] = "",
    digital_source: Annotated[str, typer.Option(metavar="URI", help="Its IPTC digital source type.")] = "",
    by: By = None,
    note: Note = "",
    as_json: AsJson = False,
) -> None:
    """Bring in a picture from outside as one of the asset's, marked as such."""
    from assetmill.operate.adopting import Outside, adopt
    from assetmill.pipeline import open_job
    from assetmill.records import InputError, Problem

    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(Problem(f"cannot be read: {error.strerror}", "give a picture's file", str(file))) from error
    job = open_job(config, only=[asset])
    row = next(a for a in job.sheet.assets if a.id == asset)
    desk = _Desk(config, asset)
    outside = Outside(data, file.name, licence, digital_source)
    made = adopt(
        desk.store, desk.config, asset, outside, desk.seen, by=by or _login(), note=note, prompt=job.render(row)[0],
        index=desk.index, log=desk.log,
    )  # fmt: skip
    if approve_it:
        from assetmill.storage.decisions import Draft, decide

        draft = Draft(asset_id=asset, kind="approve", by=made.by, blob=made.blob, note=note)
        made = decide(desk.store, desk.config.name, draft, made.number, log=desk.log)
    _tell(made, as_json)


# --- inside -------------------------------------------------------------------------------------------------


def _wish(
    config: Path, asset: str, kind: str, by: str | None, override: dict[str, Any], note: str, as_json: bool,
    picture: str = "",
) -> None:  # fmt: skip
    """Decides on a reroll or vary that the asset's model can make; else raises InputError."""
    from assetmill.operate.deciding import find_picture
    from assetmill.pipeline import open_job
    from assetmill.storage.decisions import Draft

    desk = _Desk(config, asset)
    blob = find_picture(asset, desk.pictures(), picture).blob if picture else ""
    draft = Draft(asset_id=asset, kind=kind, by=by or _login(), blob=blob, override=override)
    open_job(config).check_wish(draft)
    _tell(desk.decide(kind, by, picture=picture, override=override, note=note), as_json)


def _select(
    config: Path, assets: list[str] | None, by: str | None, kind: str | None
) -> tuple[list[Decision], DecisionLog]:
    from assetmill.storage.decisions import read_decisions

    name, store = open_store_of(config)
    log = read_decisions(store, name)
    found = [
        d for d in log if (not assets or d.asset_id in assets) and by in (None, d.by) and kind in (None, d.kind)
    ]  # fmt: skip
    return found, log


def _tell(made: Decision, as_json: bool) -> None:
    if as_json:
        print_json(made.as_json())
    else:
        facts = {"decision": f"{made.number} of {made.asset_id}", "what": _what(made), "by": made.by}
        print_facts("decided", facts | ({"picture": made.blob} if made.blob else {}), as_json=False)


def _what(decision: Decision) -> str:
    if decision.kind == "undo":
        return f"undo {decision.undoes}"
    asked = ", ".join(f"{name} {value}" for name, value in decision.override.items())
    return f"{decision.kind} {asked}".strip()


def _login() -> str:
    import getpass

    return getpass.getuser()
