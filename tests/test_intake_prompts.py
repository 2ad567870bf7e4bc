"""Assets to prompts."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assetmill.config import PromptsConfig
from assetmill.intake.prompts import PromptBook, load_templates, load_templates_from
from assetmill.records import Asset, InputError, Overrides, Prompt

ROOT = Path(__file__).parents[1]


def book(templates: str | Mapping[str, str], words: Mapping[str, str] | None = None, **settings: Any) -> PromptBook:
    """A book of templates by name (or of one, `t`), straight from texts."""
    templates = {"t": templates} if isinstance(templates, str) else templates
    sources = {f"templates/{name}.j2": text.encode() for name, text in templates.items()}
    config = PromptsConfig(templates=tuple(map(Path, sources)), wildcards=Path("w") if words else None, **settings)
    return load_templates_from({**sources, **{f"w/{n}.txt": t.encode() for n, t in (words or {}).items()}}, config)


def asset(asset_id: str = "k1", *, overrides: Overrides = Overrides(), **columns: str) -> Asset:
    return Asset(asset_id, columns, (7,), overrides=overrides)


def problems(found: PromptBook, one: Asset) -> list[str]:
    with pytest.raises(InputError) as raised:
        found.render(one, seed=0)
    return [str(problem) for problem in raised.value.problems]


def test_one_asset_one_prompt() -> None:
    """The three texts are rendered; the rank text is the prompt where the template has none."""
    found = book("---\nnegative: no {{ colour }}\n---\na {{ colour }},\n {{ size }}, mug")
    prompts = found.render(asset(colour="red", size=""), seed=1)
    assert prompts == [Prompt("k1", "t", {}, "a red, mug", "no red", "a red, mug", ("empty: size",))]
    ranked = book("---\nrank_text: '{{ colour }} mug'\n---\na {{ colour }} mug, game item")
    assert ranked.render(asset(colour="red"), seed=1)[0].rank_text == "red mug"


def test_every_template_renders_every_asset() -> None:
    """Templates come in the config's order, under their file's name."""
    found = book({"b": "x {{ a }}", "a": "y {{ a }}"})
    assert [(p.template, p.positive) for p in found.render(asset(a="1"), seed=0)] == [("b", "x 1"), ("a", "y 1")]


def test_axes_and_words_are_paired_between_templates() -> None:
    """Cells of equal axes draw equal words, so two templates compare like with like."""
    head = "---\naxes: {angle: [front, side]}\nrank_text: '__colour__ mug'\n---\n"
    found = book(
        {"a": head + "__colour__ mug {{ angle }}", "b": head + "{{ angle }} of a __colour__ mug"},
        {"colour": "red\nblue\ngreen"},
    )
    for i in range(20):
        prompts = found.render(asset(f"k{i}"), seed=3)
        words = [(p.positive + p.rank_text).count(c) for p in prompts for c in ("red", "blue", "green")]
        assert sorted(words) == [0] * 8 + [2] * 4
        assert [p.rank_text for p in prompts[:2]] == [p.rank_text for p in prompts[2:]]


def test_a_rows_own_words_win() -> None:
    """The row's negative replaces the template's, and its seed the config's."""
    found = book("---\nnegative: blurry\n---\n{a|b|c|d|e|f|g|h} {{ x }}")
    (own,) = found.render(asset(x="1", overrides=Overrides(negative="hand ", seed=5)), seed=0)
    assert own.negative == "hand"
    assert own.positive == found.render(asset(x="1"), seed=5)[0].positive
    assert len({found.render(asset(x="1"), seed=seed)[0].positive for seed in range(40)}) > 4


def test_locales_swap_columns() -> None:
    """Each locale is a cell with its columns in place of others, in texts and in axes."""
    found = book(
        "---\naxes: {size: {from: size}}\n---\n{{ title }} {{ size }} {{ locale }}",
        locales={"en": {}, "de": {"title": "title_de", "size": "size_de"}},
    )
    found.check(["title", "title_de", "size", "size_de"])
    prompts = found.render(asset(title="mug", title_de="Becher", size="big", size_de="groß"), seed=0)
    assert [(p.cell, p.positive) for p in prompts] == [
        ({"locale": "en", "size": "big"}, "mug big en"),
        ({"locale": "de", "size": "groß"}, "Becher groß de"),
    ]
    with pytest.raises(InputError, match=r"prompts.locales.de.title.*no column 'title_de'.*did you mean 'titel_de'"):
        found.check(["title", "titel_de", "size", "size_de"])


def test_a_misspelt_column_is_refused_before_anything() -> None:
    """All missing columns of all templates at once, with file and line (fault 30)."""
    found = book({"a": "{{ colour }}", "b": "x\n{{ objct }}"})
    with pytest.raises(InputError) as raised:
        found.check(["color", "object"])
    assert [(p.file, p.row, p.column, p.way_out) for p in raised.value.problems] == [
        ("templates/a.j2", 1, "colour", "did you mean 'color'?"),
        ("templates/b.j2", 2, "objct", "did you mean 'object'?"),
    ]
    found.check(["colour", "objct", "more"])


@pytest.mark.parametrize(
    ("template", "columns", "place", "way_out"),
    [
        ("{{ a }}", {"a": " "}, "row 7, column 'a'", "fill 'a'"),
        ("a photo of {{ a }}", {"a": ""}, "row 7, column 'a'", "fill 'a'"),
        ("---\naxes: {m: [calm]}\n---\n{{ m }} {{ a }}", {}, "row 7, column 'a'", "fill 'a'"),
        ("{% if a %}{{ a }}{% endif %},", {}, "row 7, column 'a'", "fill 'a'"),
        ("---\nrank_text: '{{ b }}'\n---\n{{ a }}", {"a": "x"}, "row 7, column 'b'", "fill 'b'"),
        ("---\naxes: {s: {from: a}}\n---\n{{ s }}", {}, "row 7, column 'a'", "default"),
        ("{{ a }}", {"a": "x" * 9000}, "row 7", "truncate"),
        ("{{ a }}", {"a": "__x__"}, "row 7", "x.txt"),
        ("{{ a }}", {"a": "{b|c"}, "row 7", "close it"),
        ("{{ a }}", {"a": "\ud800"}, "row 7", "correct the cell"),
        ("x\n{{ a[0] ~ b }}", {"a": "", "b": "y"}, "(line 2)", "correct that expression"),
    ],
)
def test_bad_cells_name_row_and_way_out(template: str, columns: dict[str, str], place: str, way_out: str) -> None:
    """An empty, endless or broken prompt is an error that names the row, the column and the way out."""
    (found,) = problems(book(template), asset(**columns))
    assert place in found
    assert "templates/t.j2" in found
    assert "'k1'" in found
    assert way_out in found


def test_a_guarded_column_may_be_empty() -> None:
    """Where the template provides for an empty cell there is neither error nor flag."""
    found = book("a {{ a|default('plain') }} mug{% if b %}, {{ b }}{% endif %}")
    assert found.render(asset(), seed=0) == [Prompt("k1", "t", {}, "a plain mug", "", "a plain mug")]


def test_denied_terms_name_row_template_and_term(tmp_path: Path) -> None:
    """Terms are found in rendered prompts and rank texts, drawn words included; all of them are named."""
    found = book(
        {"a": "{{ x }}, __w__", "b": "---\nrank_text: '{{ y }}'\n---\n{{ x }}"}, {"w": "Zelda"}, deny=("zelda", "Nike")
    )
    assert [line.split(" (value")[0] for line in problems(found, asset(x="NIKÉ'S mug", y="Nike"))] == [
        "row 7, column 'x': templates/a.j2: asset 'k1': the prompt holds the denied term 'Nike'",
        "row 7: templates/a.j2: asset 'k1': the prompt holds the denied term 'zelda'",
        "row 7, column 'x': templates/b.j2: asset 'k1': the prompt holds the denied term 'Nike'",
    ]


cell_texts = st.text(alphabet="ab ,{}|é", max_size=6)


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=3), cell_texts, min_size=1, max_size=6),
    st.integers(0, 2**32 - 1),
    st.randoms(use_true_random=False),
)
def test_order_of_rows_does_not_matter(rows: dict[str, str], seed: int, random: Any) -> None:
    """An asset's prompts depend on it and the seed alone: any order, any neighbours, a second time."""
    text = (
        "---\naxes:\n  mood: {values: [x, y, z], mode: sample, pick: 2}\n---\nmug {{ mood }} __w__ {{ a|default('') }}"
    )
    one, two = book(text, {"w": "red\nblue\n{dark|light} green"}), book(text, {"w": "blue\n{dark|light} green\nred"})

    def render(found: PromptBook, asset_id: str) -> list[Prompt] | str:
        try:
            return found.render(asset(asset_id, a=rows[asset_id]), seed=seed)
        except InputError as error:
            return str(error)

    expected = {asset_id: render(one, asset_id) for asset_id in rows}
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert {asset_id: render(two, asset_id) for asset_id in shuffled} == expected


def test_a_book_is_rebuilt_from_its_sources() -> None:
    """Sources and config give the same book: for pinned plans, run snapshots and other processes."""
    found = book({"a": "__w__ {{ a }}"}, {"w": "red\nblue"}, deny=("x",))
    again = pickle.loads(pickle.dumps(found))
    assert again.fingerprint == found.fingerprint
    assert again.sources() == found.sources() == {"templates/a.j2": b"__w__ {{ a }}", "w/w.txt": b"red\nblue"}
    assert again.render(asset(a="1"), seed=0) == found.render(asset(a="1"), seed=0)
    others = [
        book({"a": "__w__  {{ a }}"}, {"w": "red\nblue"}, deny=("x",)),
        book({"a": "__w__ {{ a }}"}, {"w": "red\nblue\n"}, deny=("x",)),
        book({"a": "__w__ {{ a }}"}, {"w": "red\nblue"}, deny=("y",)),
        book({"a": "__w__ {{ a }}"}, {"w": "red\nblue"}, deny=("x",), locales={"de": {}}),
    ]
    assert len({found.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_files_are_read_with_all_their_problems(tmp_path: Path) -> None:
    """Missing files, broken templates, bad lists and wrong encodings are named together where that is possible."""
    (tmp_path / "w" / "sub").mkdir(parents=True)
    (tmp_path / "w" / "sub" / "list.txt").write_text("red\n")
    (tmp_path / "good.j2").write_text("__sub/list__ {{ a }}")
    (tmp_path / "deny.txt").write_text("# brands\nNike\n")
    config = PromptsConfig(templates=(Path("good.j2"),), wildcards=Path("w"), deny_file=Path("deny.txt"))
    found = load_templates(config, lambda p: tmp_path / p)
    assert set(found.sources()) == {"good.j2", "w/sub/list.txt", "deny.txt"}
    assert found.render(asset(a="x"), seed=0)[0].positive == "red x"
    assert "Nike" in problems(found, asset(a="nike"))[0]

    config = PromptsConfig(templates=(Path("god.j2"), Path("none.x")), wildcards=Path("no"), deny_file=Path("q"))
    with pytest.raises(InputError) as raised:
        load_templates(config, lambda p: tmp_path / p)
    assert [(p.file, p.way_out) for p in raised.value.problems][:2] == [
        ("no", "make it, or take prompts.wildcards out"),
        ("god.j2", "did you mean 'good.j2'?"),
    ]
    (tmp_path / "god.j2").write_bytes(b"a\n\xff")
    (tmp_path / "none.x").write_text("x" * 300_000)
    for name, message in (("god.j2", "row 2: is not UTF-8"), ("none.x", "larger than")):
        with pytest.raises(InputError, match=message):
            load_templates(PromptsConfig(templates=(Path(name),)), lambda p: tmp_path / p)
    (tmp_path / "god.j2").write_text("{{ a * 2 }}")
    (tmp_path / "w" / "bad.txt").write_text("__nope__\n")
    with pytest.raises(InputError) as raised:
        load_templates(
            PromptsConfig(templates=(Path("god.j2"), Path("good.j2")), wildcards=Path("w")), lambda p: tmp_path / p
        )
    assert [(p.file, p.row) for p in raised.value.problems] == [("w/bad.txt", 1), ("god.j2", 1)]


def test_two_templates_need_two_names(tmp_path: Path) -> None:
    """A prompt's template is the file's stem, so stems may not repeat."""
    sources = {"a/t.j2": b"x", "b/t.j2": b"y"}
    with pytest.raises(InputError, match=r"a second template named 't', beside a/t.j2"):
        load_templates_from(sources, PromptsConfig(templates=tuple(map(Path, sources))))


# --- the shipped templates ------------------------------------------------------------------------------------


def shipped(name: str) -> PromptBook:
    config = PromptsConfig(templates=(Path(f"templates/{name}.j2"),), wildcards=Path("templates/wildcards"))
    return load_templates(config, lambda p: ROOT / p)


def test_game_assets() -> None:
    """The game template speaks as the starter model's captions do, and provides for empty cells."""
    found = shipped("game-asset")
    found.check(["id", "name", "object", "colour", "pattern", "style", "ground"])
    full = asset(name="Draught", object="potion", colour="red", pattern="striped", style="pixel", ground="dark")
    (prompt,) = found.render(full, seed=0)
    assert prompt.positive == "a striped red potion, pixel art style, dark background, game item"
    assert prompt.rank_text == "a striped red potion, pixel art style, dark background"
    (bare,) = found.render(asset(name="Lamp", object="", colour="", pattern="", style="", ground=""), seed=0)
    assert (bare.positive, bare.rank_text, bare.flags) == ("a plain Lamp, game item", "a plain Lamp", ())
    assert "the prompt is empty" in problems(found, asset(name="", object=""))[0]


def test_product_shots() -> None:
    """The product template makes sense of a Shopify export with hardly a cell filled."""
    found = shipped("product-shot")
    found.check(["handle", "title", "type", "tags", "body", "options"])
    texts = {"title": "Ocean Blue Shirt", "type": "", "tags": "men", "body": "", "options": "Default Title"}
    (prompt,) = found.render(asset(**texts), seed=0)
    assert prompt.positive == "a photo of ocean blue shirt, men, white background, product shot"
    assert prompt.rank_text == "a photo of ocean blue shirt"
    texts |= {"tags": "", "body": "<p>Soft &amp; warm</p><p>with a very long neck that goes on and on and on</p>"}
    (prompt,) = found.render(asset(**{**texts, "options": "Red"}), seed=0)
    assert prompt.positive == (
        "a photo of ocean blue shirt, soft & warm with a very long neck that goes on and on and on, red, "
        "white background, product shot"
    )
    assert "fill 'title'" in problems(found, asset(title=""))[0]


def test_moods() -> None:
    """The example of axes and word lists gives the cells that it promises."""
    found = shipped("moods")
    found.check(["object", "colour"])
    prompts = found.render(asset(object="key", colour="red"), seed=0)
    assert len(prompts) == 4
    assert len({p.cell["mood"] for p in prompts}) == 1
    assert {(p.cell["light"], p.cell["backdrop"]) for p in prompts} == {
        ("studio lighting", "white"),
        ("soft light", "gradient"),
    }
    assert all("__" not in p.positive and "{" not in p.positive for p in prompts)
    assert all(f"{p.cell['backdrop']} background" not in p.negative for p in prompts)
