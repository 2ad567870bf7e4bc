"""Settings in the form of A1111's web UI: a third-party parser reads all of them back."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sd_parsers import ParserManager
from sd_parsers.data import Generators
from sd_parsers.extractors import _jpeg_usercomment

from assetmill.deliver.facts import Making, clean, facts_of
from assetmill.deliver.metadata import describe
from assetmill.deliver.parameters import SAMPLERS, read_settings, sampler_name, settings_text
from assetmill.engines.facts import SCHEDULERS
from assetmill.records import Adapter
from test_deliver_metadata import PROVENANCE, entry, picture, request


def making(**changes: Any) -> Making:
    found = facts_of(entry(request(**changes)), PROVENANCE).making
    assert found is not None
    return found


def test_the_text_is_as_users_know_it() -> None:
    """Prompt, negative prompt, one line of settings, in the web UI's order and names."""
    made = making(adapters=(Adapter("lora", "f" * 64, 0.8),), strength=0.6, operation="image-to-image")
    assert settings_text(replace(made, adapter_names={"f" * 64: "ink"})) == (
        "a sword <lora:ink:0.8>\n"
        "Negative prompt: blur\n"
        "Steps: 20, Sampler: Euler a, CFG scale: 7.5, Seed: 7, Size: 64x48, Model hash: 0123456789, "
        "Model: maker/model, Denoising strength: 0.6, Hires upscale: 2, Hires upscaler: spandrel, "
        'Lora hashes: "ink: ffffffffff", Version: Assetmill 0.1.0'
    )


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
@pytest.mark.parametrize(
    "prompt",
    [
        "a sword",
        "ein Schwert, 剣 ⚔️, (glowing:1.3)",
        "two\nlines: one, two",
        "a trap\nNegative prompt: none\nSteps: 1, Sampler: x, CFG scale: 2, Seed: 3",
    ],
)
def test_a_third_party_parser_reads_it(format: str, prompt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """sd_parsers gives back every field; a prompt that looks like settings stays a prompt."""
    # It keeps the last comment by the address of the image, and a new image may get an old one's address.
    monkeypatch.setattr(_jpeg_usercomment, "_image_id", None)
    made = request(positive=prompt, negative=f"blur, {prompt}", seed=4294967295, guidance=1.0)
    data = picture(describe(facts_of(entry(made), PROVENANCE), "full"), format)
    found = ParserManager().parse(io.BytesIO(data))
    assert found is not None
    assert found.generator == Generators.AUTOMATIC1111
    (sampler,) = found.samplers
    harmless = prompt.replace("Negative prompt:", "Negative prompt :")
    assert [p.value for p in sampler.prompts] == [harmless]
    assert [p.value for p in sampler.negative_prompts] == [f"blur, {harmless}"]
    assert sampler.name == "Euler a"
    assert sampler.parameters == {"steps": "20", "cfg_scale": "1", "seed": "4294967295"}
    assert (sampler.model.name, sampler.model.hash) == ("maker/model", "0123456789")
    assert found.metadata == {
        "Size": "64x48", "Hires upscale": "2", "Hires upscaler": "spandrel", "Version": "Assetmill 0.1.0",
    }  # fmt: skip


@given(st.text(), st.text(), st.text(min_size=1))
def test_own_reader_agrees(positive: str, negative: str, model: str) -> None:
    """Any prompt and any name come back from the text."""
    made = making(positive=positive, negative=negative, model=model)
    found = read_settings(settings_text(made))
    assert found["Prompt"] == clean(positive).replace("Negative prompt:", "Negative prompt :")
    assert found["Negative prompt"] == clean(negative).replace("Negative prompt:", "Negative prompt :")
    assert found["Seed"] == "7"
    assert found.get("Model", "") == clean(model)


def test_text_of_others() -> None:
    """Texts without settings are all prompt; quotation marks are taken off values."""
    assert read_settings("just words") == {"Prompt": "just words", "Negative prompt": ""}
    found = read_settings('a\nSteps: 4, Sampler: Euler, Seed: 1, Model: "x, y: z", Note: "half')
    assert (found["Model"], found["Note"]) == ("x, y: z", '"half')


def test_every_scheduler_has_a_name() -> None:
    """Schedulers that a config may name are called as the web UI calls them; others keep their class."""
    assert {name for names in SCHEDULERS.values() for name in names} <= set(SAMPLERS)
    assert sampler_name("OwnNewScheduler") == "OwnNew"
    assert sampler_name("") == "default"
