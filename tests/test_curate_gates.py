"""The gates: what they reject, what they let pass, and how plug-ins join them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from assetmill.config import GatesConfig
from assetmill.curate.gates import (
    GateError,
    Verdict,
    check_candidate,
    check_candidates,
    load_gates,
    measure_light,
    rejection,
)
from assetmill.records import InputError

CONFIG = GatesConfig()
SIZE = (24, 16)


def noise(mean: float = 128, deviation: float = 40, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(mean, deviation, (SIZE[1], SIZE[0], 3))
    return np.clip(values, 0, 255).round().astype(np.uint8)


def plain(*colour: int) -> np.ndarray:
    return np.full((SIZE[1], SIZE[0], 3), colour, dtype=np.uint8)


def judge(picture: np.ndarray, finite: bool = True) -> Verdict | None:
    return rejection(check_candidate(picture, finite, SIZE, CONFIG))


def test_ordinary_picture_passes_every_gate() -> None:
    """A picture with something in it passes all four gates, each with a verdict."""
    verdicts = check_candidate(noise(), True, SIZE, CONFIG)
    assert [v.gate for v in verdicts] == ["nan", "size", "black", "flat"]
    assert all(v.passed and not v.reason for v in verdicts)


def test_dim_scene_passes_and_flat_one_does_not() -> None:
    """A night scene with a standard deviation near 3 is a picture, one of a single colour is not."""
    dim = noise(mean=12, deviation=3)
    assert 2 < measure_light(dim)[1] < 4
    assert judge(dim) is None
    assert judge(plain(12, 12, 12)).gate == "flat"


@pytest.mark.parametrize(
    ("picture", "gate", "words"),
    [
        (plain(0, 0, 0), "black", "no pixel is brighter than 0 of 255"),
        (plain(8, 3, 0), "black", "limit 8"),
        (plain(200, 30, 90), "flat", "standard deviation is 0.00"),
        (plain(255, 255, 255), "flat", "flat"),
        (noise()[:, :20], "size", "20×16 pixels, wanted 24×16"),
    ],
)
def test_rejections_name_gate_and_reason(picture: np.ndarray, gate: str, words: str) -> None:
    """Each rejection names its gate and says what was measured against which limit."""
    verdict = judge(picture)
    assert verdict.gate == gate
    assert words in verdict.reason


def test_not_finite_is_the_only_verdict_on_its_picture() -> None:
    """A picture the model gave NaN for is rejected as such, whatever its pixels became."""
    verdicts = check_candidate(plain(0, 0, 0), False, SIZE, CONFIG)
    assert [v.gate for v in verdicts] == ["nan"]
    assert "NaN" in verdicts[0].reason


def test_one_varying_channel_is_enough() -> None:
    """A picture that varies in blue alone isn't flat, one whose channels merely differ is."""
    picture = plain(40, 40, 40).copy()
    picture[..., 2] = noise()[..., 2]
    assert judge(picture) is None


def test_verdicts_stay_with_their_pictures_in_a_batch() -> None:
    """In a batch every picture gets the verdicts it gets alone."""
    batch = np.stack([noise(), plain(0, 0, 0), noise(seed=1), plain(90, 9, 200), noise(seed=2)])
    finite = np.array([True, True, False, True, True])
    together = check_candidates(batch, finite, SIZE, CONFIG)
    alone = [check_candidate(p, bool(f), SIZE, CONFIG) for p, f in zip(batch, finite, strict=True)]
    assert together == alone
    assert [r.gate if r else None for r in map(rejection, together)] == [None, "black", "nan", "flat", None]


def test_empty_batch_gives_no_verdicts() -> None:
    """A batch that lost all its candidates mid-way is no error."""
    assert check_candidates(np.zeros((0, 16, 24, 3), np.uint8), np.zeros(0, bool), SIZE, CONFIG) == []


@settings(deadline=None)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3, 4]))))
def test_light_is_that_of_the_definition(picture: np.ndarray) -> None:
    """Peak and deviation agree with numpy's on any picture, alpha left out."""
    peak, deviation = measure_light(picture)
    colours = picture[..., :3]
    assert peak == colours.max()
    assert deviation == pytest.approx(colours.reshape(-1, colours.shape[-1]).std(axis=0).max(), abs=1e-5)


def test_light_of_large_bright_picture_does_not_overflow() -> None:
    """Sums of squares over many bright pixels stay exact."""
    picture = np.full((4096, 8, 3), 255, np.uint8)
    assert measure_light(picture) == (255.0, 0.0)


def test_wrong_arrays_are_refused() -> None:
    """Floats, a missing axis or flags of another length are a caller's error, not a rejected picture."""
    with pytest.raises(ValueError, match="uint8"):
        check_candidates(np.zeros((1, 8, 8, 3)), np.array([True]), (8, 8), CONFIG)
    with pytest.raises(ValueError, match="2 finite flags"):
        check_candidates(np.zeros((1, 8, 8, 3), np.uint8), np.array([True, True]), (8, 8), CONFIG)


# --- plug-ins -----------------------------------------------------------------------------------------------


class BlueGate:
    name = "blue"
    stage = "candidate"

    def __init__(self) -> None:
        self.asked = 0

    def check(self, pixels: np.ndarray) -> list[Verdict]:
        self.asked += len(pixels)
        blue = pixels[..., 2].mean(axis=(1, 2))
        return [Verdict(self.name, bool(b < 200), "" if b < 200 else "too blue", float(b)) for b in blue]


class LateGate(BlueGate):
    name = "late"
    stage = "rendition"


class MuteGate(BlueGate):
    name = "mute"

    def check(self, pixels: np.ndarray) -> list[Verdict]:
        return [Verdict(self.name, False) for _ in pixels]


class NoStage:
    name = "no-stage"
    stage = "sometime"


def broken_gate() -> None:
    raise RuntimeError("weights are missing")


@pytest.fixture
def plugins(tmp_path, monkeypatch: pytest.MonkeyPatch):
    """A real distribution's metadata on the path, with entry points into this module."""
    info = tmp_path / "sample_gates-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sample-gates\nVersion: 1.0\n")
    lines = [
        f"{name} = {__name__}:{target}"
        for name, target in [("blue", "BlueGate"), ("no-stage", "NoStage"), ("broken", "broken_gate")]
    ]
    (info / "entry_points.txt").write_text("[assetmill.gates]\n" + "\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))


def test_plugin_is_found_by_its_entry_point(plugins: None) -> None:
    """A gate of an installed package is loaded by name and asked after the built-in ones."""
    (gate,) = load_gates(["blue"])
    sky = noise().copy()
    sky[..., 2] = 250
    verdicts = check_candidate(sky, True, SIZE, CONFIG, [gate])
    assert rejection(verdicts) == Verdict("blue", False, "too blue", 250.0)


def test_all_wrong_plugins_are_told_at_once(plugins: None) -> None:
    """A misspelt name, one that doesn't load and one that isn't a gate are told together, with the known names."""
    with pytest.raises(InputError) as caught:
        load_gates(["bleu", "broken", "no-stage"])
    text = str(caught.value)
    assert len(caught.value.problems) == 3
    assert "did you mean 'blue'" in text
    assert "blue, broken, no-stage" in text
    assert "weights are missing" in text
    assert "'sometime'" in text


def test_unknown_plugin_without_any_installed() -> None:
    """Where no package offers gates the error says how one would."""
    with pytest.raises(InputError, match=r"assetmill\.gates"):
        load_gates(["blue-of-nowhere"])


def test_plugins_see_only_what_passed_and_only_their_stage() -> None:
    """A plug-in isn't asked about pictures already rejected, nor at another stage than its own."""
    gate, late = BlueGate(), LateGate()
    batch = np.stack([noise(), plain(0, 0, 0)])
    check_candidates(batch, np.array([True, True]), SIZE, CONFIG, [gate, late])
    assert (gate.asked, late.asked) == (1, 0)
    check_candidates(batch, np.array([True, True]), SIZE, CONFIG, [gate, late], stage="rendition")
    assert (gate.asked, late.asked) == (1, 1)


def test_plugin_must_give_reasons() -> None:
    """A plug-in that rejects without a reason breaks the contract and is named."""
    with pytest.raises(GateError, match="'mute' rejected a picture without a reason"):
        check_candidate(noise(), True, SIZE, CONFIG, [MuteGate()])
