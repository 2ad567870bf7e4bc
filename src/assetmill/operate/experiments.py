"""Template experiments: what arms ask for, drawn assets, and the work that is still to be done for them.

An arm is the config as it stands but for its own templates or settings, which is what the other side, the control,
is made with. Both see the same assets, places and seeds, and are scored against the same text, the control's. Pictures
of arms are records like all others under a name of their own (`intake.arms`); no choice looks at them, so that what is
published stays as it is until a person approves one of them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from assetmill.config import ArmConfig, Config
from assetmill.config.experiments import ENGINE_SETTINGS
from assetmill.intake.arms import label_of
from assetmill.intake.plan import TRIAL, AssetPlan, Plan, PlanContext, leave_out_banned, look_up
from assetmill.intake.prompts import PromptBook, load_templates
from assetmill.records import Asset, EngineOverrides, InputError, Problem, Prompt, content_key

if TYPE_CHECKING:
    from assetmill.operate.job import Job

log = logging.getLogger(__name__)

_NO_ENGINE = EngineOverrides()
_OUT_OF_IT = ("failed", "banned")


@dataclass(frozen=True, slots=True)
class Arm:
    """An arm with its templates read. `settings` are those of the engine, `book` is the config's where it has none."""

    name: str
    settings: Mapping[str, Any]
    negative: str | None
    book: PromptBook

    def lay_over(self, asset: Asset) -> Asset:
        """The asset as the arm makes it."""
        own = asset.overrides
        engine = replace(own.engine or _NO_ENGINE, **self.settings) if self.settings else own.engine
        negative = own.negative if self.negative is None else self.negative
        return replace(asset, overrides=replace(own, engine=engine, negative=negative))

    def is_open(self, asset: Asset) -> bool:
        """Whether the row leaves to the config what the arm changes; else both sides would be the same."""
        said = asset.overrides.engine or _NO_ENGINE
        taken = any(getattr(said, name) is not None for name in self.settings)
        return not taken and (self.negative is None or asset.overrides.negative is None)


@dataclass(frozen=True, slots=True)
class Experiment:
    """A config's experiment, opened."""

    name: str
    arms: tuple[Arm, ...]
    fingerprint: str
    """Names all that the arms are, but for models."""

    def sources(self) -> dict[str, bytes]:
        """The bytes of the arms' templates, by path as the config writes it."""
        return {name: data for arm in self.arms for name, data in arm.book.sources().items()}


@dataclass(frozen=True, slots=True)
class Pair:
    """The prompts of one place: the control's and the arm's, each with the asset as that side makes it."""

    control: tuple[Asset, Prompt]
    arm: tuple[Asset, Prompt]


def open_experiment(config: Config, book: PromptBook, headers: Sequence[str]) -> Experiment | None:
    """The experiment of a config, None where it has none. Raises InputError with all that is wrong in its templates."""
    if config.experiment is None:
        return None
    arms: list[Arm] = []
    problems: list[Problem] = []
    for section in config.experiment.arms:
        try:
            arms.append(_open_arm(section, config, book, headers))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    payload = {
        "name": config.experiment.name,
        "arms": [[a.name, dict(a.settings), a.negative, a.book.fingerprint] for a in arms],
    }
    return Experiment(config.experiment.name, tuple(arms), content_key("experiment", payload))


def drawn_assets(job: Job) -> tuple[Asset, ...]:
    """The assets that take part, in the order of the sheet: the same ones every night, whatever else the sheet holds.

    Rows that say themselves what an arm would change, and assets for which people asked for other pictures, are left
    out: the two sides would differ by more, or by nothing.
    """
    section, experiment = job.config.experiment, job.experiment
    if section is None or experiment is None:
        return ()
    able = [
        a for a in job.wishes.assets if a.id not in job.wishes.rows and all(arm.is_open(a) for arm in experiment.arms)
    ]
    if section.assets == "all" or len(able) <= section.assets:
        return tuple(able)
    order = {a.id: content_key("drawn", {"experiment": section.name, "asset": a.id}) for a in able}
    drawn = {a.id for a in sorted(able, key=lambda a: order[a.id])[: section.assets]}
    return tuple(a for a in able if a.id in drawn)


def pairs_of(job: Job, arm: Arm, asset: Asset) -> list[Pair]:
    """An asset's prompts on both sides, place by place. Raises InputError where one of them cannot be made."""
    laid = arm.lay_over(asset)
    control = {(p.template, tuple(sorted(p.cell.items()))): p for p in job.render(asset)}
    names = dict(
        zip((t.name for t in arm.book.templates), (t.name for t in job.book.templates), strict=True)
    )  # fmt: skip
    pairs = []
    for prompt in arm.book.render(laid, seed=job.config.seed):
        template = names[prompt.template]
        twin = control.get((template, tuple(sorted(prompt.cell.items()))))
        if twin is not None:
            # Against one text, else the scores of the two sides would not compare.
            own = replace(prompt, template=label_of(template, arm.name), rank_text=twin.rank_text)
            pairs.append(Pair((asset, twin), (laid, own)))
    job.recipes.check(laid, [pair.arm[1] for pair in pairs])
    return pairs


def trials_of(job: Job, plan: Plan, context: PlanContext) -> tuple[AssetPlan, ...]:
    """What the experiment still lacks of the assets in a plan, arm by arm within each asset.

    Raises InputError where an arm cannot be made for any asset.
    """
    if job.experiment is None:
        return ()
    drawn = {a.id for a in drawn_assets(job)}
    taking_part = [p.asset for p in plan.assets if p.asset.id in drawn and p.state not in _OUT_OF_IT]
    trials: list[AssetPlan] = []
    failed: dict[str, list[InputError]] = {}
    for asset in taking_part:
        for arm in job.experiment.arms:
            try:
                trial = _trial(job, arm, asset, context)
            except InputError as error:
                failed.setdefault(arm.name, []).append(error)
                continue
            if trial.missing:
                trials.append(trial)
    for name, errors in failed.items():
        log.warning("experiment: %d assets cannot be made as %r: %s", len(errors), name, errors[0])
        if len(errors) == len(taking_part):
            raise InputError([replace(p, message=f"experiment, arm {name!r}: {p.message}") for p in errors[0].problems])
    return tuple(trials)


# --- inside -------------------------------------------------------------------------------------------------


def _open_arm(section: ArmConfig, config: Config, book: PromptBook, headers: Sequence[str]) -> Arm:
    settings = {n: getattr(section, n) for n in ENGINE_SETTINGS if getattr(section, n) is not None}
    if section.templates is None:
        return Arm(section.name, settings, section.negative, book)
    own = load_templates(config.prompts.model_copy(update={"templates": section.templates}), config.resolve)
    own.check(headers)
    problems = [
        Problem(
            f"the arm {section.name!r} has the axes {', '.join(theirs.axes.names) or 'none'}, and "
            f"{ours.path} has {', '.join(ours.axes.names) or 'none'}",
            "give both the same axes: pictures are compared place by place", theirs.path, column="axes",
        )
        for ours, theirs in zip(book.templates, own.templates, strict=True)
        if ours.axes.names != theirs.axes.names
    ]  # fmt: skip
    if problems:
        raise InputError(problems)
    return Arm(section.name, settings, section.negative, own)


def _trial(job: Job, arm: Arm, asset: Asset, context: PlanContext) -> AssetPlan:
    pairs = pairs_of(job, arm, asset)
    kept, _ = leave_out_banned(asset, [pair.control[1] for pair in pairs], context)
    allowed = {id(prompt) for prompt in kept}
    laid = arm.lay_over(asset)
    prompts = tuple(pair.arm[1] for pair in pairs if id(pair.control[1]) in allowed)
    work_key, missing, known = look_up(asset.key, laid, prompts, context)
    reason = f"experiment {job.config.experiment.name}: {arm.name}" if job.config.experiment is not None else ""
    return AssetPlan(
        laid, TRIAL, reason, prompts, asset.overrides.candidates or job.config.candidates, missing, work_key, TRIAL, "",
        to_choose=True, known=known,
    )  # fmt: skip
