"""Denied terms."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assetmill.intake.deny import DenyList, read_deny_list

DENIED = DenyList(["Coca-Cola", "Pokémon", "Maße", "art", "H&M", "任天堂", "Łódź", "Mickey Mouse"])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a can of COCA COLA", ["Coca-Cola"]),
        ("coca‑cola's red, coca_cola", ["Coca-Cola"]),
        ("pokemon, POKÉMON, poke\u0301mon", ["Pokémon"]),
        ("ｐｏｋｅｍｏｎ po\u00adkemon", ["Pokémon"]),
        ("die MASSE", ["Maße"]),
        ("a party in a cart, artful", []),
        ("Art, abstract", ["art"]),
        ("an h m logo", ["H&M"]),
        ("任天堂风格的蘑菇", ["任天堂"]),
        ("lodz", ["Łódź"]),
        ("mickey, mouse", ["Mickey Mouse"]),
        ("mickey the mouse", []),
        ("Coca-Cola™ and H&M®", ["Coca-Cola", "H&M"]),
        ("", []),
    ],
)
def test_terms_are_found_on_word_borders(text: str, found: list[str]) -> None:
    """Case, accents and marks between words don't hide a term; parts of words are no term."""
    assert DENIED.find(text) == found


@settings(deadline=None)
@given(st.text(max_size=10), st.sampled_from(DENIED.terms), st.text(max_size=10))
def test_a_term_between_spaces_is_always_found(before: str, term: str, after: str) -> None:
    """Whatever stands around it, and in upper case too."""
    assert term in DENIED.find(f"{before} {term} {after}")
    assert term in DENIED.find(f"{before} {term.upper()} {after}")


def test_files_and_bad_terms() -> None:
    """A deny file has one term a line and remarks; a term without letters is named with its place."""
    denied, problems = read_deny_list(("Nike", "®™"), "deny.txt", "# brands\nZelda  # a game\n\n***\n")
    assert denied.terms == ("Nike", "Zelda")
    assert [(p.file, p.row, p.column) for p in problems] == [("", None, "prompts.deny"), ("deny.txt", 4, "")]
    assert DenyList([]).find("anything") == []
