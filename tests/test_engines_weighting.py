r"""Prompt weights and long prompts: what is a weight, what the embeddings become, and that neighbours don't matter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assetmill.config import ModelConfig
from assetmill.engines.latent import LatentGenerator
from assetmill.engines.protocols import EngineError
from assetmill.engines.registry import check_request, load_generator, resolve_model
from assetmill.engines.weighting import MAX_PIECES, Fragment, plain_text, read_fragments, repeat_to_length
from assetmill.records import InputError, Request
from tiny_models import write_tiny_sd, write_tiny_sdxl

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
    "ignore:__array_wrap__ must accept context:DeprecationWarning",
)

LONG = "a red mug with a handle, " * 20
LONGER = LONG + "and a blue key on a white table, " * 12


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["sd", "sdxl"])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LatentGenerator:
    write = {"sd": write_tiny_sd, "sdxl": write_tiny_sdxl}[request.param]
    return load(write(tmp_path_factory.mktemp("models") / f"tiny-{request.param}"))


def load(folder: Path | str) -> LatentGenerator:
    config = ModelConfig(source=str(folder), device="cpu", options={"weights": True})
    generator = load_generator(resolve_model(config, Path), config)
    assert isinstance(generator, LatentGenerator)
    return generator


def make_requests(generator: LatentGenerator, *texts: str, **changes: Any) -> list[Request]:
    spec = generator.spec
    first = Request(
        "diffusers", spec.epoch, spec.id, spec.revision, "", 0, 32, 32, steps=3, guidance=3.0,
        options=(("weights", True),),
    )  # fmt: skip
    return [replace(first, positive=text, **{"seed": 7 + i, **changes}) for i, text in enumerate(texts)]


def test_what_a_weight_is() -> None:
    r"""`(words:1.3)` alone is a weight; other brackets, C++ and escaped brackets are text as they stand."""
    assert read_fragments("a (red:1.3) mug") == (Fragment("a "), Fragment("red", 1.3), Fragment(" mug"))
    assert read_fragments("(red mug: .5)") == (Fragment("red mug", 0.5),)
    for text in ("a mug (blue)", "C++ in (brackets: none)", "at 12:30 (noon)", "(a:b)", "()", ""):
        assert read_fragments(text) == (Fragment(text),)
    assert read_fragments(r"a \(red:1.3\) mug") == (Fragment("a (red:1.3) mug"),)
    assert plain_text(r"a (red:1.3) mug \(new\)") == "a red mug (new)"
    with pytest.raises(ValueError, match="above 3"):
        read_fragments("a (red:9) mug")


@given(st.text(alphabet="ab (),.:+-13\\", max_size=40))
def test_fragments_hold_the_whole_text(text: str) -> None:
    """No word is lost: the fragments joined are the plain text, up to blanks between them."""
    try:
        parts = read_fragments(text)
    except ValueError:
        return
    assert "".join(p.text for p in parts).split() == plain_text(text).split() or not plain_text(text).strip()


def test_plain_prompts_are_as_without_the_option(tiny: LatentGenerator) -> None:
    """A prompt without weights that fits gives bit for bit the picture it gives without the option."""
    (weighted,) = make_requests(tiny, "a red mug", negative="blurry")
    plain = replace(weighted, options=())
    np.testing.assert_array_equal(tiny.generate([weighted]).pixels, tiny.generate([plain]).pixels)


def test_weights_pull_embeddings_to_and_fro(tiny: LatentGenerator) -> None:
    """The weight 1 changes nothing, 2 moves a word's embedding on from the empty prompt's, 0.3 moves it elsewhere."""
    import torch

    encode = tiny._encoder.arguments
    empty, once = (encode([t], None, None, weights=True)["prompt_embeds"] for t in ("", "a red mug"))
    one, two, third = (
        encode([f"a (red:{w}) mug"], None, None, weights=True)["prompt_embeds"] for w in ("1.0", "2", "0.3")
    )
    torch.testing.assert_close(one, once, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(two[:, 2] - empty[:, 2], 2 * (once[:, 2] - empty[:, 2]), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(two[:, 1], once[:, 1], rtol=1e-4, atol=1e-5)
    assert float((third - once).abs().max()) > 1e-4


def test_long_prompts_are_read_to_their_end(tiny: LatentGenerator) -> None:
    """Words past the encoder's length change the picture, and no limit is counted; without the option they don't."""
    assert tiny.spec.token_limit is None
    first, second = make_requests(tiny, LONG + " red", LONG + " green", seed=3)
    pictures = tiny.generate([first, second]).device_pixels
    assert float((pictures[0] - pictures[1]).abs().max()) > 1e-5
    cut = [replace(r, options=()) for r in (first, second)]
    pictures = tiny.generate(cut).device_pixels
    assert float((pictures[0] - pictures[1]).abs().max()) < 1e-6


def test_neighbours_of_other_lengths_do_not_matter(tiny: LatentGenerator) -> None:
    """Short, weighted, long and longer prompts in one batch give each the picture it has alone, up to rounding."""
    requests = make_requests(tiny, "a mug", "a (red:1.4) mug", LONG, LONGER, negative="blurry, (text:1.2)")
    whole = tiny.generate(requests).device_pixels
    for i, request in enumerate(requests):
        alone = tiny.generate([request]).device_pixels[0]
        assert float((alone - whole[i]).abs().max()) < 1e-4


def test_each_text_is_encoded_once(tiny: LatentGenerator) -> None:
    """A weighted text that was read lately is not read again."""
    requests = make_requests(tiny, "a (blue:1.2) key", LONG, negative="(text:1.3)")
    first = tiny.generate(requests).pixels
    calls: list[int] = []
    handle = tiny.pipeline.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    try:
        np.testing.assert_array_equal(tiny.generate(requests).pixels, first)
        assert not calls
    finally:
        handle.remove()


def test_too_much_is_refused(tiny: LatentGenerator) -> None:
    """A weight above the limit is refused at plan, a prompt of too many pieces when it is read."""
    (request,) = make_requests(tiny, "a (red:7) mug")
    (problem,) = check_request(tiny.spec, request)
    assert "above 3" in problem.message
    with pytest.raises(EngineError, match="shorten"):
        tiny.generate(make_requests(tiny, "a red mug with a handle, " * 16 * (MAX_PIECES + 1)))


def test_families_without_weights_say_so(tmp_path: Path) -> None:
    """The option is unknown to families that cannot weigh, odd values and clip_skip beside it are refused."""
    for options, column in (
        ({"weights": "yes"}, "model.options.weights"),
        ({"weights": True, "clip_skip": 1}, "model.options.clip_skip"),
    ):
        with pytest.raises(InputError) as caught:
            resolve_model(ModelConfig(options=options), Path)
        assert [p.column for p in caught.value.problems] == [column]
    from tiny_models import write_tiny_flux

    folder = write_tiny_flux(tmp_path / "flux")
    with pytest.raises(InputError, match="unknown here"):
        resolve_model(ModelConfig(source=str(folder), options={"weights": True}), Path)


def test_starter_takes_weights_within_its_length() -> None:
    """The starter model, which pools its text, weighs words, keeps its limit and refuses longer prompts."""
    starter = load("starter")
    assert starter.spec.token_limit == 32
    texts = ("a (red:1.5) mug", "a red mug")
    requests = [replace(r, width=64, height=64) for r in make_requests(starter, *texts, guidance=1.0, seed=1)]
    pictures = starter.generate(requests).pixels
    assert (pictures[0] != pictures[1]).any()
    with pytest.raises(EngineError, match="too long for this model"):
        starter.generate([replace(requests[0], positive=LONG)])


def test_repeating_changes_no_attention() -> None:
    """Attention over repeated keys and values is attention over them once."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention as attend

    torch.manual_seed(0)
    query, short, long = torch.randn(1, 5, 8), torch.randn(1, 4, 8), torch.randn(1, 6, 8)
    first, second = repeat_to_length([short, long])
    assert first.shape == second.shape == (1, 12, 8)
    torch.testing.assert_close(attend(query, first, first), attend(query, short, short), rtol=1e-5, atol=1e-6)
