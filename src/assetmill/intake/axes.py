"""Axes: the lists in a template's front matter along which one asset gets several prompts.

```yaml
axes:
  angle: [front, side]                                              # every value
  mood: {values: {calm: 3, fierce: 1}, mode: sample, pick: 1}       # one by weighted chance, the same every night
  light: {values: [dawn, noon], mode: zip}                          # light and ground advance together
  ground: {values: [meadow, beach], mode: zip}
  size: {from: sizes, split: ";"}                                   # the asset's own values, from a column
  stuff: {wildcard: material, mode: sample, pick: 2}                # from a word list
```

An asset's cells are the product of its `all` axes, its samples and its groups of zipped axes, in the order in which
the axes are declared, the last one running fastest.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import yaml

from assetmill.intake.chance import Choices, chance_key
from assetmill.intake.template_guard import MAPPINGS, nearest
from assetmill.intake.wildcards import WordLists
from assetmill.records import InputError, Problem

MAX_CELLS = 4_096
"""Cells of one asset in one template."""

MODES = ("all", "sample", "zip")
_KEYS = ("values", "weights", "from", "split", "default", "wildcard", "mode", "pick", "group")

Cell = dict[str, str]


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis. Its values are given (`values`), or come from the column `source`, cut at `split` where given.

    `default` stands in for an empty column. `choices` are what a sample draws `pick` values from.
    """

    name: str
    line: int
    mode: str = "all"
    values: tuple[str, ...] = ()
    weights: tuple[float, ...] | None = None
    pick: int = 1
    group: str = ""
    source: str = ""
    split: str = ""
    default: str | None = None
    choices: Choices | None = field(default=None, repr=False)


class AxisError(ValueError):
    """An asset's cells cannot be made; `column` is the sheet's column to look at."""

    def __init__(self, message: str, way_out: str, column: str = "") -> None:
        super().__init__(message)
        self.way_out = way_out
        self.column = column


class Axes:
    """The axes of one template."""

    def __init__(self, axes: Sequence[Axis]) -> None:
        self.axes = tuple(axes)
        self._fixed = self._product([axis.values for axis in axes]) if self._is_fixed() else None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(axis.name for axis in self.axes)

    @property
    def sources(self) -> dict[str, int]:
        """The columns that axes take values from, each with its first line."""
        return {axis.source: axis.line for axis in reversed(self.axes) if axis.source}

    def cells(self, asset_id: str, seed: int, texts: Callable[[str], Sequence[str]]) -> list[Cell]:
        """An asset's cells. `texts` gives the texts of a column. Raises AxisError.

        Samples depend on `seed`, the asset's id and the axis's name, and on no other axis, row or night.
        """
        if self._fixed is not None:
            return self._fixed
        drawn = []
        for axis in self.axes:
            values = _texts_of(axis, texts) if axis.source else axis.values
            if axis.mode == "sample":
                choices = axis.choices or Choices(values)
                count = min(axis.pick, len(choices.values))
                chosen = set(choices.draw(chance_key("axis", seed, asset_id, axis.name), count))
                values = tuple(value for value in choices.values if value in chosen)
            drawn.append(values)
        return self._product(drawn)

    def _is_fixed(self) -> bool:
        return all(not axis.source and axis.mode != "sample" for axis in self.axes)

    def _product(self, values: Sequence[Sequence[str]]) -> list[Cell]:
        """All cells for these values per axis, in declared order. Raises AxisError for unequal groups, or too many."""
        factors: dict[tuple[str, str], list[Cell]] = {}
        for axis, own in zip(self.axes, values, strict=True):
            key = ("group", axis.group) if axis.mode == "zip" else ("axis", axis.name)
            steps = factors.get(key)
            if steps is None:
                factors[key] = [{axis.name: value} for value in own]
            elif len(steps) != len(own):
                raise AxisError(
                    f"axes that advance together have {len(steps)} and {len(own)} values ({axis.name!r})",
                    "give them equally many values, or another `group`",
                    axis.source,
                )
            else:
                for step, value in zip(steps, own, strict=True):
                    step[axis.name] = value
        num_cells = 1
        for steps in factors.values():
            num_cells *= len(steps)
        if num_cells > MAX_CELLS:
            raise AxisError(
                f"the axes make {num_cells:,} cells for one asset, more than {MAX_CELLS:,}",
                "give some axis mode: sample and pick: 1",
            )
        names = self.names
        cells = []
        for combination in itertools.product(*factors.values()):
            merged = {name: value for step in combination for name, value in step.items()}
            cells.append({name: merged[name] for name in names})
        return cells


def _texts_of(axis: Axis, texts: Callable[[str], Sequence[str]]) -> tuple[str, ...]:
    found = list(texts(axis.source))
    if axis.split:
        found = [part for text in found for part in text.split(axis.split)]
    values = tuple(dict.fromkeys(stripped for text in found if (stripped := text.strip())))
    if not values:
        if axis.default is not None:
            return (axis.default,)
        raise AxisError(
            f"the axis {axis.name!r} takes its values from an empty cell",
            "fill it, or give the axis a `default`",
            axis.source,
        )
    return values


# --- reading --------------------------------------------------------------------------------------------------


def read_axes(nodes: Mapping[str, tuple[yaml.Node, int]], file: str, words: WordLists) -> Axes:
    """The axes of a template's front matter. InputError with everything wrong, each with its line."""
    problems: list[Problem] = []
    axes: list[Axis] = []
    for name, (node, line) in nodes.items():
        try:
            axes.append(_read_axis(name, node, line, words))
        except AxisError as error:
            problems.append(Problem(str(error), error.way_out, file=file, row=line, column=f"axes.{name}"))
    if not problems:
        try:
            Axes([axis for axis in axes if axis.mode == "zip" and not axis.source])  # columns are as long as they are
            return Axes(axes)
        except AxisError as error:
            problems.append(Problem(str(error), error.way_out, file=file, row=axes[0].line, column="axes"))
    raise InputError(problems)


def _read_axis(name: str, node: yaml.Node, line: int, words: WordLists) -> Axis:
    if not name.isidentifier() or name.startswith("_") or name in (*MAPPINGS, "loop", "locale"):
        raise AxisError(f"{name!r} cannot name an axis", "use a word such as angle or mood")
    if isinstance(node, yaml.SequenceNode):
        return Axis(name, line, values=_distinct(_scalars(node)))
    if not isinstance(node, yaml.MappingNode):
        raise AxisError("not a list of values", f"write {name}: [front, side], or {name}: {{values: […], mode: …}}")
    settings = {str(key.value): value for key, value in node.value}
    for key in settings:
        if key not in _KEYS:
            near = nearest(key, _KEYS)
            raise AxisError(f"unknown key {key!r}", f"did you mean {near!r}?" if near else f"keys: {', '.join(_KEYS)}")
    sources = [key for key in ("values", "from", "wildcard") if key in settings]
    if len(sources) != 1:
        raise AxisError("values come from exactly one of `values`, `from` and `wildcard`", "give one of them")
    plain = {key: _scalar(key, value) for key, value in settings.items() if key not in ("values", "weights")}
    mode = plain.get("mode", "all")
    if mode not in MODES:
        near = nearest(mode, MODES)
        raise AxisError(f"unknown mode {mode!r}", f"did you mean {near!r}?" if near else f"modes: {', '.join(MODES)}")
    if "pick" in plain and not (plain["pick"].isascii() and plain["pick"].isdigit() and int(plain["pick"][:6]) > 0):
        raise AxisError(f"pick is {plain['pick']!r}", "give a whole number from 1 up")
    for key, needed in (("pick", "sample"), ("group", "zip")):
        if key in plain and mode != needed:
            raise AxisError(f"`{key}` means nothing with mode {mode}", f"set mode: {needed}, or take `{key}` out")
    for key in ("split", "default"):
        if key in plain and "from" not in settings:
            raise AxisError(f"`{key}` is for axes that take values `from` a column", f"take `{key}` out")
    if "split" in plain and not plain["split"]:
        raise AxisError("`split` is empty", 'give the separator, say split: ";"')
    values, weights = _values(settings, plain, words)
    if weights is not None and mode != "sample":
        raise AxisError(f"weights mean nothing with mode {mode}", "set mode: sample, or take the weights out")
    choices = None
    if mode == "sample" and "from" not in settings:
        try:
            choices = Choices(values, weights)
        except ValueError as error:
            raise AxisError(str(error), "correct the weights") from error
        if int(plain.get("pick", "1")) > len(choices.values):
            raise AxisError(f"pick is {plain['pick']} and there are {len(choices.values)} values", "pick fewer")
    return Axis(
        name,
        line,
        mode=mode,
        values=values,
        weights=weights,
        pick=int(plain.get("pick", "1")),
        group=plain.get("group", ""),
        source=plain.get("from", ""),
        split=plain.get("split", ""),
        default=plain.get("default"),
        choices=choices,
    )


def _values(
    settings: Mapping[str, yaml.Node], plain: Mapping[str, str], words: WordLists
) -> tuple[tuple[str, ...], tuple[float, ...] | None]:
    """An axis's given values and weights; none for an axis over a column."""
    weights = settings.get("weights")
    if "from" in settings or "wildcard" in settings:
        if weights is not None:
            raise AxisError("weights belong to given `values`", "take `weights` out (word lists carry their own)")
        if "from" in settings:
            return (), None
        found = words.lists.get(plain["wildcard"])
        if found is None:
            raise AxisError(*words.explain_missing(plain["wildcard"]))
        return found.values, found.weights if plain.get("mode") == "sample" else None
    node = settings["values"]
    if isinstance(node, yaml.MappingNode):
        if weights is not None:
            raise AxisError("weights are given twice", "keep either `weights` or the mapping of values to weights")
        values = _distinct([_scalar("values", key) for key, _ in node.value])
        return values, tuple(_number(value) for _, value in node.value)
    if not isinstance(node, yaml.SequenceNode):
        raise AxisError("`values` is not a list", "write values: [front, side]")
    values = _distinct(_scalars(node))
    if weights is None:
        return values, None
    if not isinstance(weights, yaml.SequenceNode) or len(weights.value) != len(values):
        raise AxisError(f"`weights` is not a list of {len(values)} numbers", "give one weight per value")
    return values, tuple(_number(value) for value in weights.value)


def _scalars(node: yaml.SequenceNode) -> list[str]:
    return [_scalar("values", value) for value in node.value]


def _scalar(key: str, node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise AxisError(f"`{key}` holds something else than a text", "write plain texts, quoted where they hold : or ,")
    return str(node.value)


def _distinct(values: Sequence[str]) -> tuple[str, ...]:
    if not values:
        raise AxisError("there are no values", "give at least one")
    twice = next((value for i, value in enumerate(values) if value in values[:i]), None)
    if twice is not None:
        raise AxisError(f"the value {twice!r} is given twice", "take one out")
    return tuple(values)


def _number(node: yaml.Node) -> float:
    try:
        return float(_scalar("weights", node))
    except ValueError as error:
        if isinstance(error, AxisError):
            raise
        raise AxisError(f"the weight {node.value!r} is not a number", "write numbers from 0 up") from error
