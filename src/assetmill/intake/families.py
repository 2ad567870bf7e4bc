"""Families of assets: those with the same text in the column that `select.family` names are chosen together.

A run chooses for those of a family that have work. What the others have was chosen before and stands: they are the kin.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from assetmill.config import Config
from assetmill.records import Asset, InputError, OutcomeRecord, Problem, asset_key

if TYPE_CHECKING:
    from assetmill.intake.plan import AssetPlan


def family_name(asset: Asset, config: Config) -> str:
    """The family of an asset; empty where it has none, or families are off."""
    family = config.select.family
    return asset.columns.get(family.column, "").strip() if family is not None else ""


def families_of(assets: Iterable[Asset], config: Config) -> dict[str, tuple[str, ...]]:
    """The ids of assets by their family, in the order given; empty where families are off."""
    found: dict[str, list[str]] = {}
    if config.select.family is not None:
        for asset in assets:
            if name := family_name(asset, config):
                found.setdefault(name, []).append(asset.id)
    return {name: tuple(ids) for name, ids in found.items()}


def join_families(
    plans: Sequence[AssetPlan],
    families: Mapping[str, Sequence[str]],
    outcomes: Mapping[str, OutcomeRecord],
    *,
    config: Config,
) -> list[AssetPlan]:
    """Plans with their kin: the ids of those in the family that have chosen pictures and aren't chosen again.

    `outcomes` are the last ones, by asset key. Raises InputError for families with work that are too large.
    """
    todo: dict[str, list[AssetPlan]] = {}
    for plan in plans:
        if plan.todo and plan.family:
            todo.setdefault(plan.family, []).append(plan)
    _check_sizes(todo, families, config)
    banned = {plan.asset.id for plan in plans if plan.state == "banned"}
    kin: dict[str, tuple[str, ...]] = {}
    for name, some in todo.items():
        gone = banned | {plan.asset.id for plan in some}
        others = [(i, outcomes.get(asset_key(i))) for i in families.get(name, ()) if i not in gone]
        kin[name] = tuple(i for i, outcome in others if outcome is not None and outcome.chosen)
    return [replace(p, kin=kin[p.family]) if p.todo and kin.get(p.family) else p for p in plans]


def _check_sizes(
    todo: Mapping[str, Sequence[AssetPlan]], families: Mapping[str, Sequence[str]], config: Config
) -> None:
    settings = config.select.family
    assert settings is not None
    problems = []
    for name, some in todo.items():
        size = max(len(families.get(name, ())), len(some))
        if size > settings.most:
            problems.append(
                Problem(
                    f"the family {name!r} has {size} assets, more than select.family.most ({settings.most})",
                    "raise it, or use a column that tells smaller families apart",
                    str(config.sheet.path), column=settings.column,
                )
            )  # fmt: skip
    if problems:
        raise InputError(problems)
