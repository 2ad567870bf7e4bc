"""`assetmill ranker`: what is learned from people's decisions, how it is measured, and which ranker counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from assetmill.cli.shared import AsJson, By, ConfigPath, print_facts, stderr_console, who
from assetmill.operate.exits import print_json

ranker_app = typer.Typer(help="The house ranker: learn from decisions, measure, promote.", no_args_is_help=True)

Key = Annotated[str, typer.Argument(metavar="[RANKER]", help="The beginning of its key.", show_default=False)]
Note = Annotated[str, typer.Option("--note", help="Why; kept on record.")]


@ranker_app.command("train")
def ranker_train(config: ConfigPath, as_json: AsJson = False) -> None:
    """Learn from all decisions, measure on held-out assets, and store the ranker. Selection doesn't use it yet."""
    from assetmill.operate.rankers import train_ranker

    _show("trained", train_ranker(config), as_json)


@ranker_app.command("eval")
def ranker_eval(config: ConfigPath, ranker: Key = "", as_json: AsJson = False) -> None:
    """How a ranker agrees with people: on assets held out in training, and on those decided about since.

    Where none is named, the promoted one, else the latest that was trained with the config's settings.
    """
    from assetmill.operate.rankers import evaluate_ranker

    found = evaluate_ranker(config, ranker)
    if as_json:
        print_json(found.as_dict())
        return
    _print_agreement("held out in training", found.stored)
    fresh = found.as_dict()["fresh"]
    if fresh is not None:
        _print_agreement("decided about since", fresh)
    else:
        stderr_console().print("no asset was decided about since", style="dim")


@ranker_app.command("promote")
def ranker_promote(
    config: ConfigPath, ranker: Key = "", by: By = None, note: Note = "", as_json: AsJson = False
) -> None:
    """Let selection use a ranker from the next run on.

    Where none is named, the latest that was trained with the config's settings.
    Refused (exit 2) where its gain in agreement over the judge alone isn't above zero beyond chance.
    """
    from dataclasses import asdict

    from assetmill.operate.rankers import promote_ranker

    made = promote_ranker(config, ranker, by=who(by), note=note)
    print_facts("promoted", asdict(made), as_json)


@ranker_app.command("retire")
def ranker_retire(config: ConfigPath, by: By = None, note: Note = "", as_json: AsJson = False) -> None:
    """Let selection go by the judge alone again, from the next run on."""
    from dataclasses import asdict

    from assetmill.operate.rankers import retire_ranker

    print_facts("retired", asdict(retire_ranker(config, by=who(by), note=note)), as_json)


@ranker_app.command("list")
def ranker_list(config: ConfigPath, as_json: AsJson = False) -> None:
    """List rankers, the latest first, and which one counts."""
    from assetmill.operate.rankers import list_rankers

    found = list_rankers(config)
    if as_json:
        print_json({"rankers": found})
        return
    from assetmill.operate.console import make_table

    rows = [
        (
            r["ranker"][:12], "yes" if r["promoted"] else "", r["assets"], r["pairs"], len(r["groups"]), r["weight"],
            f"{r['agreement']['judge']['value']:.3f}", f"{r['agreement']['both']['value']:.3f}",
            _gain(r["agreement"]["gain"]),
        )
        for r in found
    ]  # fmt: skip
    names = ("ranker", "counts", "assets", "pairs", "groups", "weight", "judge", "with taste", "gain")
    stderr_console().print(make_table("rankers", names, rows))


# --- inside -------------------------------------------------------------------------------------------------


def _show(title: str, found: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(dict(found))
        return
    facts = {k: v for k, v in found.items() if k not in ("agreement", "left_out", "groups", "fallbacks")}
    facts |= {f"left out, {reason}": count for reason, count in found["left_out"].items()}
    facts |= {f"group {name}": f"{count} assets" for name, count in found["groups"].items()}
    facts |= {f"group {name}": f"as all: {why}" for name, why in found["fallbacks"].items()}
    print_facts(title, facts, as_json=False)
    _print_agreement("held out in training", found["agreement"])


def _print_agreement(title: str, found: Mapping[str, Any]) -> None:
    from assetmill.operate.console import make_table

    rows = [
        (name, _share(found[key]), top)
        for name, key, top in (
            ("judge alone", "judge", f"{found['top_judge']:.3f}"),
            ("taste alone", "taste", ""),
            ("judge and taste", "both", f"{found['top_both']:.3f}"),
        )
    ]
    rows.append(("gain", _gain(found["gain"]), ""))
    title = f"agreement with people on {found['num_assets']} assets {title} ({found['num_pairs']} pairs)"
    stderr_console().print(make_table(title, ("ranked by", "pairs in their order", "best picture"), rows))


def _share(estimate: Mapping[str, float]) -> str:
    return f"{estimate['value']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"


def _gain(estimate: Mapping[str, float]) -> str:
    return f"{estimate['value']:+.3f} ({estimate['low']:+.3f} to {estimate['high']:+.3f})"
