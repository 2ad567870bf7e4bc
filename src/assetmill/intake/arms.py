"""How pictures of an experiment are called: by the template they stand for, with the arm's name behind it."""

from __future__ import annotations

from assetmill.config import Config


def label_of(template: str, arm: str) -> str:
    """`game-asset` and `shorter` as `game-asset@shorter`."""
    return f"{template}@{arm}"


def template_of(label: str, config: Config) -> str:
    """The template of the config that an arm's pictures stand for; any other name as it is."""
    names = {path.stem for path in config.prompts.templates}
    template, _, arm = label.rpartition("@")
    return template if arm and template in names and label not in names else label
