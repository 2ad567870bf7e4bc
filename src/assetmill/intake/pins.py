"""What people's decisions fix of an asset: approved pictures are its choice, whatever prompt, model and judge say now.

An approval holds for the place its picture was made for: with `select.per: cell` for one template and cell, else for
the whole asset. Other places go on as before. Pictures that were taken back are no pins, nor are approvals of people
whose approval was.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from assetmill.config import Config
from assetmill.intake.arms import template_of
from assetmill.records import OutcomeRecord, Prompt, content_key
from assetmill.storage.bans import Bans
from assetmill.storage.reviews import Decision, Place, ReviewState

Pins = Mapping[Place | None, tuple[Decision, ...]]
"""The approvals that hold, by place, in the order of approval; under None for the whole asset."""


def pins_of(review: ReviewState, config: Config, bans: Bans) -> Pins:
    """At most `select.keep` approvals for each place that is chosen for."""
    if not review.approved:
        return {}
    valid = [
        d for blob in review.approved
        if (d := review.approvals[blob]).by not in bans.reviewers and blob not in bans.blobs
    ]  # fmt: skip
    found: dict[Place | None, tuple[Decision, ...]] = {}
    for decision in valid:
        place = settled_place(decision.place, config) if config.select.per == "cell" else None
        if len(found.get(place, ())) < config.select.keep:
            found[place] = (*found.get(place, ()), decision)
    return found


def place_of(prompt: Prompt) -> Place:
    """Where a prompt's pictures belong."""
    return Place(prompt.template, tuple(sorted(prompt.cell.items())))


def settled_place(place: Place, config: Config) -> Place:
    """Where a picture belongs once it is chosen: that of an arm, at the template it was tried against."""
    return replace(place, template=template_of(place.template, config))


def free_prompts(prompts: Sequence[Prompt], pins: Pins) -> Sequence[Prompt]:
    """The prompts whose pictures are chosen by rank."""
    if not pins:
        return prompts
    return () if None in pins else [p for p in prompts if place_of(p) not in pins]


def pinned_blobs(pins: Pins) -> list[str]:
    return [d.blob for of in pins.values() for d in of]


def pinned_key(pins: Pins, free: str) -> str:
    """The `work_key` of an asset with pins. `free` is that of its other prompts, empty where there are none.

    Neither prompt nor model is in it.
    """
    places = [[p.template if p else "", p.cell if p else (), [d.blob for d in of]] for p, of in pins.items()]
    return content_key("pinned", {"free": free, "pins": sorted(places, key=str)})


def are_made(pins: Pins, outcome: OutcomeRecord | None, upscaler: str) -> bool:
    """Whether all pinned pictures were upscaled, this way, when the asset was last chosen for."""
    if not pins or outcome is None:
        return False
    made: Collection[str] = outcome.chosen
    return all(variant_key(blob, upscaler) in made for blob in pinned_blobs(pins))


def say_pinned(pins: Pins) -> str:
    """Why nothing is made, as a plan says it."""
    names = dict.fromkeys(d.by for of in pins.values() for d in of)
    return f"approved by {', '.join(names)}; pinned until it is reopened"


def variant_key(blob: str, upscaler: str) -> str:
    """Names a variant: a base picture and the way it is upscaled."""
    return content_key("variant", {"blob": blob, "upscaler": upscaler})
