"""A job: a config with everything it names opened, read and checked, but no model loaded."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assetmill.config import Config, read_config
from assetmill.engines.facts import describe_terms
from assetmill.engines.protocols import JudgeSpec, ModelSpec, SafetySpec, SegmenterSpec, UpscalerSpec
from assetmill.engines.registry import resolve_judge, resolve_safety, resolve_upscaler
from assetmill.intake.families import families_of
from assetmill.intake.frames import FRAME_FILE, frame_to_csv
from assetmill.intake.plan import PlanContext
from assetmill.intake.prompts import PromptBook, flag_long_prompts, load_templates
from assetmill.intake.sheet import Sheet, read_assets, read_sheet_file
from assetmill.operate.cutouts import cutter_key, resolve_cutouts
from assetmill.operate.drafts import Terms
from assetmill.operate.experiments import Experiment, open_experiment
from assetmill.operate.licences import check_licences, declare
from assetmill.operate.naming import check_column, check_name_pattern
from assetmill.operate.overrides import Wishes, wishes_of
from assetmill.operate.press import foresee_refusals, open_channels, publishing_key
from assetmill.operate.recipes import Recipes, open_recipes
from assetmill.operate.taste import HouseRanker, open_ranker
from assetmill.records import Asset, InputError, Problem, Prompt, Request, asset_key, content_key
from assetmill.storage.bans import Bans, open_bans
from assetmill.storage.catalog import Catalog, open_catalog
from assetmill.storage.decisions import Decision, DecisionLog, Draft, read_decisions
from assetmill.storage.index import Index, open_index
from assetmill.storage.reviews import fold_decisions
from assetmill.storage.store import Store, open_store

if TYPE_CHECKING:
    import pandas as pd


@dataclass(slots=True)
class Job:
    """A config with everything it names opened, read and checked, but no model loaded."""

    path: Path
    config: Config
    store: Store
    sheet: Sheet
    sheet_data: bytes
    book: PromptBook
    recipes: Recipes
    judge: JudgeSpec
    upscaler: UpscalerSpec
    index: Index
    catalog: Catalog
    decisions: DecisionLog
    wishes: Wishes
    only: frozenset[str] = frozenset()
    limit: int | None = None
    force: bool = False
    safety: SafetySpec | None = None
    bans: Bans = field(default_factory=Bans)
    segmenter: SegmenterSpec | None = None
    ranker: HouseRanker | None = None
    experiment: Experiment | None = None

    @property
    def model(self) -> ModelSpec:
        """The model of rows that name none."""
        return self.recipes.specs[""]

    @property
    def base(self) -> Request:
        """The request that pictures of rows start from which say nothing of the engine."""
        return self.recipes.base

    @property
    def subset(self) -> bool:
        return bool(self.only) or self.limit is not None

    @property
    def terms(self) -> Terms:
        return Terms(self.model.licence, self.model.commercial, self.judge.key, self.recipes.licences())

    @property
    def licences(self) -> dict[str, str]:
        """What may be done with the weights of each role, as a person reads it."""
        specs: dict[str, ModelSpec | JudgeSpec | UpscalerSpec | SafetySpec | SegmenterSpec] = {
            **{f"model {name}".rstrip(): spec for name, spec in self.recipes.specs.items()},
            "judge": self.judge,
            "upscaler": self.upscaler,
        }
        if self.safety is not None:
            specs["safety"] = self.safety
        if self.segmenter is not None:
            specs["cutout"] = self.segmenter
        return {role: describe_terms(spec.licence, spec.commercial) for role, spec in specs.items()}

    @property
    def select_context(self) -> str:
        """All that decides the choice among the same candidates."""
        config = self.config
        payload: dict[str, Any] = {
            "judge": self.judge.key,
            "upscaler": self.upscaler.key,
            "select": config.select.model_dump(mode="json", exclude={"family"}),
            "gates": config.gates.model_dump(mode="json", exclude={"max_rejected", "safety"}),
            "publish": config.publish.model_dump(mode="json", include={"policy", "min_score", "format"}),
        }
        # Left out while off: a catalog made before there were such settings stays as chosen.
        if config.cut.at:
            payload["cut"] = config.cut.model_dump(mode="json")
        if config.adaptive:
            payload["adaptive"] = True
        if self.safety is not None:
            payload["safety"] = self.safety.key
        if self.ranker is not None:
            payload["ranker"] = self.ranker.key
        if config.select.family is not None:
            payload["family"] = config.select.family.model_dump(mode="json", exclude={"most"})
        cutter = cutter_key(config, self.segmenter.key if self.segmenter is not None else "")
        if cutter:
            payload["cutout"] = cutter
        return content_key("select-context", payload)

    @property
    def meta_context(self) -> str:
        """All that is published beside an asset's columns."""
        payload: dict[str, Any] = {
            "publishing": publishing_key(self.config), "licence": self.model.licence,
            "commercial": self.model.commercial,
        }  # fmt: skip
        if self.config.models:
            payload["models"] = self.recipes.licences()
        return content_key("meta-context", payload)

    def render(self, asset: Asset) -> list[Prompt]:
        """An asset's prompts, those that the text encoder would cut flagged."""
        row = self.wishes.rows.get(asset.id)
        prompts = self.book.render(row or asset, seed=self.config.seed)
        self.recipes.check(row or asset, prompts)
        if row is not None:
            try:
                self.recipes.base_of(asset)
                prompts = self.wishes.reword(prompts, self.recipes.spec_of(asset))
                self.recipes.check(asset, prompts)
            except InputError as error:
                raise self.wishes.explain(error, asset) from error
        counter, limit = self.recipes.token_limit(self.recipes.name_of(asset))
        if counter is not None and limit is not None:
            prompts = flag_long_prompts(prompts, counter, limit)
        return prompts

    def check_wish(self, draft: Draft) -> None:
        """Raises InputError where a reroll or vary asks for what the asset's model cannot make. Loads no model."""
        review = self.decisions.of(asset_key(draft.asset_id))
        wanted = Decision(**asdict(draft), number=review.number + 1, id="", at="")
        row = next((a for a in self.sheet.assets if a.id == draft.asset_id), None)
        if row is None:
            raise InputError(Problem(f"{draft.asset_id}: the sheet has no such asset", "use an id of the sheet"))
        reviews = {row.id: fold_decisions([*review.decisions, wanted])}
        wishes = wishes_of(reviews, [row], self.config)
        replace(self, wishes=wishes).render(wishes.assets[0])

    def foresee_refusals(self, assets: Iterable[Asset]) -> list[str]:
        """Which files channels will refuse of assets, because their masters will be too small."""
        scale = self.upscaler.scale
        sizes = []
        for asset in assets:
            own = asset.overrides
            base = self.base if own.engine is None else self.recipes.base_of(asset)
            sizes.append(((own.width or base.width) * scale, (own.height or base.height) * scale))
        return foresee_refusals(open_channels(self.config), sizes)

    def refresh(self) -> None:
        """Reads index, catalog and decisions again: another run may have ended since the job was opened."""
        self.index = open_index(self.store, self.config.name)
        self.catalog = open_catalog(self.store, self.config.name)
        self.bans = open_bans(self.store, self.config.name)
        self.decisions.refresh()
        self.ranker = open_ranker(self.store, self.config, self.judge.key)
        self.wishes = wishes_of(self.decisions.states(), self.sheet.assets, self.config)

    def context(self) -> PlanContext:
        return PlanContext(
            self.config, self.recipes.base_of, self.select_context, self.meta_context, self.index.statuses(),
            self.index.outcomes(), self.catalog.fingerprints(), bans=self.bans, upscaler=self.upscaler.key,
            licences={r: licence for r, (licence, _) in self.recipes.licences().items()}, force=self.force,
            reviews=self.wishes.reviews, families=families_of(self.wishes.assets, self.config),
        )  # fmt: skip


def open_job(
    path: Path | str,
    *,
    only: Collection[str] = (),
    limit: int | None = None,
    force: bool = False,
    config: Config | None = None,
    frame: pd.DataFrame | None = None,
) -> Job:
    """Opens a config. Everything wrong with config, sheet, templates or model folders is found here.

    A pandas DataFrame as `frame` stands in for the config's sheet file. Raises InputError, StoreUnavailable,
    StoreRefused, EngineError.
    """
    path = Path(path)
    config = config or read_config(path)
    if frame is not None:
        config = config.model_copy(update={"sheet": config.sheet.model_copy(update={"path": Path(FRAME_FILE)})})
        sheet_path, sheet_data = Path(FRAME_FILE), frame_to_csv(frame)
    else:
        # Read once: a run works on this snapshot, whatever happens to the file.
        sheet_path = config.resolve(config.sheet.path)
        sheet_data = read_sheet_file(config.sheet, sheet_path)
    sheet = read_assets(config.sheet, sheet_path, sheet_data)
    book = load_templates(config.prompts, config.resolve)
    book.check(sheet.headers)
    experiment = open_experiment(config, book, sheet.headers)
    check_name_pattern(config, sheet.headers)
    check_column(sheet.headers, config.ranker.group, "ranker.group")
    if config.select.family is not None:
        check_column(sheet.headers, config.select.family.column, "select.family.column")
    store = open_store(config.store, config.store_url)
    decisions = read_decisions(store, config.name)
    wishes = wishes_of(decisions.states(), sheet.assets, config)
    wanted = [a for a in wishes.assets if not only or a.id in only][:limit]
    recipes = open_recipes(config, store, wanted)
    uncut = [spec for spec in recipes.specs.values() if config.cut.at and not spec.cuts]
    if uncut:
        message = "candidates of {0.id} ({0.family}) cannot be cut mid-way"
        raise InputError([Problem(message.format(s), "remove cut.at", str(path), column="cut.at") for s in uncut])
    upscaler = declare(resolve_upscaler(config.upscale, config.resolve), config.licences)
    segmenter = resolve_cutouts(config)
    segmenter = declare(segmenter, config.licences) if segmenter is not None else None
    check_licences(config, recipes.specs, upscaler, segmenter)
    unknown = sorted(set(only) - {a.id for a in sheet.assets})
    if unknown:
        raise InputError(
            [Problem(f"--only {i}: no such asset", "use an id of the sheet", str(sheet_path)) for i in unknown]
        )
    judge = resolve_judge(config.judge, config.resolve)
    return Job(
        path, config, store, sheet, sheet_data, book, recipes, judge,
        upscaler, open_index(store, config.name),
        open_catalog(store, config.name), decisions, wishes, frozenset(only), limit, force,
        resolve_safety(config.gates.safety, config.resolve), open_bans(store, config.name),
        segmenter, open_ranker(store, config, judge.key), experiment,
    )  # fmt: skip
