"""Training stages resume where they stopped and make what the loaders read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from assetmill.starter.data import render_split, to_pictures, to_tensor
from assetmill.starter.models import copy_text_tower, make_text_encoder
from assetmill.starter.tokenizer import build_tokenizer
from assetmill.starter.train.clip import disturb, encode_text, lie_loss, make_clip, matches
from assetmill.starter.train.loop import AveragedWeights, Progress, Stage, decayed_rate
from assetmill.starter.train.neighbours import Neighbours
from assetmill.starter.train.unet import Noise, Partnership, spread_steps


def test_a_rendered_split_is_kept_and_true(tmp_path: Path) -> None:
    """A split is rendered once, opened the second time, and its labels fit its specs."""
    split = render_split(tmp_path, "tiny", 12)
    again = render_split(tmp_path, "tiny", 12)
    assert np.array_equal(split.pictures, again.pictures)
    assert split.spec(3).object == again.spec(3).object
    assert np.array_equal(to_pictures(to_tensor(split.pictures[:4])), split.pictures[:4])


def test_a_stage_resumes_with_its_clock(tmp_path: Path) -> None:
    """A stopped stage goes on from its checkpoint: steps, samples, weights and time used."""
    stage = Stage("tiny", tmp_path, minutes=0.001)
    model = torch.nn.Linear(2, 2)
    progress = Progress(stage, {"model": model})
    for _ in progress.steps():
        progress.count(4, loss=1.0)
        progress.seconds += 0.02
    resumed = Progress(stage, {"model": torch.nn.Linear(2, 2)})
    assert (resumed.step, resumed.samples, resumed.share) == (progress.step, progress.samples, 1.0)
    assert torch.equal(resumed.state["model"].weight, model.weight)
    assert json.loads(stage.curve.read_text().splitlines()[0])["loss"] == 1.0


def test_the_rate_warms_up_and_decays_with_the_time() -> None:
    """The learning rate peaks after the warm-up and ends near zero."""
    rates = [decayed_rate(1.0, share / 100) for share in range(101)]
    assert max(rates) == rates[2] == 1.0
    assert rates[-1] < 0.02
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_averaged_weights_forget_the_start() -> None:
    """After many updates the mean is the constant that the weights have become."""
    model = torch.nn.Linear(1, 1)
    average = AveragedWeights(model, 0.9)
    torch.nn.init.constant_(model.weight, 3.0)
    for _ in range(200):
        average.update(model)
    assert abs(average.mean["weight"].item() - 3.0) < 1e-3


def test_partners_meet_at_the_weighted_mean(tmp_path: Path, monkeypatch: Any) -> None:
    """Two partners leave a meeting with the same weights, weighted by the samples of each."""
    now = {"time": 1000.0}
    monkeypatch.setattr("assetmill.starter.train.unet.time.time", lambda: now["time"])
    models = [torch.nn.Linear(1, 1, bias=False) for _ in range(2)]
    partners = [Partnership(tmp_path, rank, 2, every=10, patience=0) for rank in range(2)]
    for rank, partner in enumerate(partners):
        partner.meet(models[rank], 0)
    now["time"] += 10
    for model, value in zip(models, (0.0, 4.0), strict=True):
        torch.nn.init.constant_(model.weight, value)
    partners[0].meet(models[0], 30)
    assert partners[1].meet(models[1], 10) == 2
    assert models[1].weight.item() == 1.0


def test_the_tokenizer_ends_with_its_highest_id_and_keeps_known_words_whole(tmp_path: Path) -> None:
    """Words of the world are one piece each; unknown text still has pieces; nothing exceeds 32."""
    tokenizer = build_tokenizer(tmp_path)
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == len(tokenizer) - 1
    assert len(tokenizer("a red mug on white background").input_ids) == 8
    assert len(tokenizer("Qwertz ünï 42").input_ids) > 5
    assert len(tokenizer("zyx " * 60, truncation=True).input_ids) == 32


def test_the_text_tower_moves_into_the_pipeline_unchanged(tmp_path: Path) -> None:
    """The copied text encoder gives CLIP's hidden states, and short padding gives CLIP's embedding."""
    tokenizer = build_tokenizer(tmp_path, num_merges=60)
    clip = make_clip(len(tokenizer)).eval()
    encoder = make_text_encoder(len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id).eval()
    copy_text_tower(clip, encoder)
    full = tokenizer(["a red mug"], padding="max_length", max_length=32, return_tensors="pt").input_ids
    short = tokenizer(["a red mug"], return_tensors="pt").input_ids
    with torch.no_grad():
        ours = clip.ln_final(
            clip.transformer(clip.token_embedding(full) + clip.positional_embedding, attn_mask=clip.attn_mask)
        )
        assert torch.allclose(encoder(full)[0], ours, atol=1e-5)
        assert torch.allclose(encode_text(clip, short), clip.encode_text(full), atol=1e-5)


def test_short_captions_are_true_of_every_picture_they_fit() -> None:
    """A caption that states only some attributes matches all pictures that have them."""
    from assetmill.starter.captions import Caption

    shown = np.array([[0, 0, 0, 0, 0], [0, 0, 1, 1, 1], [1, 0, 0, 0, 0]])
    said = [Caption("a red potion", frozenset({"object", "colour"})), Caption("red", frozenset({"colour"}))]
    true = matches(said, shown[:2], shown)
    assert true.tolist() == [[True, True], [True, True], [False, True]]


def test_lies_are_told_apart_from_truth() -> None:
    """The loss against lies is small when truths score high, and large when lies do."""
    own, lies = torch.eye(3), torch.eye(3)
    none = torch.zeros(3, 6, dtype=torch.bool)
    assert lie_loss(torch.cat([own * 20, lies * 0], 1), none, 3) < 0.01
    assert lie_loss(torch.cat([own * 0, lies * 20], 1), none, 3) > 5


def test_noise_has_zero_signal_at_the_end_and_velocity_inverts() -> None:
    """The last step is pure noise, and signal·noisy − noise·velocity gives the clean latents back."""
    tables = Noise.of_scheduler()
    assert tables.signal[-1] < 1e-3
    clean, noise = torch.randn(5, 4, 4, 4), torch.randn(5, 4, 4, 4)
    steps = spread_steps(5, np.random.default_rng(0))
    assert sorted(int(step) // 200 for step in steps) == [0, 1, 2, 3, 4]
    noisy, velocity = tables.mix(clean, noise, steps)
    a, s = tables.signal[steps].view(-1, 1, 1, 1), tables.noise[steps].view(-1, 1, 1, 1)
    assert torch.allclose(a * noisy - s * velocity, clean, atol=1e-5)


def test_disturbing_gives_each_picture_its_own_dose() -> None:
    """Some pictures of a batch stay exactly as they were, others do not."""
    pictures = torch.rand(32, 3, 64, 64)
    same = (disturb(pictures, np.random.default_rng(0)) == pictures).flatten(1).all(1)
    assert 0 < same.sum() < 32


def test_neighbours_share_what_they_should() -> None:
    """A group of 16 has the first picture's twelve mixes of style and pattern, and four strangers."""
    grid = np.stack(np.meshgrid(*(np.arange(k) for k in (16, 9, 3, 4, 4)), indexing="ij"), -1).reshape(-1, 5)
    rows = Neighbours(grid).draw(3, np.random.default_rng(0))
    for group in grid[rows].reshape(3, 16, 5):
        assert len({tuple(one) for one in group}) == 16
        assert {(one[2], one[3]) for one in group[:12]} == {(p, s) for p in range(3) for s in range(4)}
        assert (group[:12, [0, 1, 4]] == group[0, [0, 1, 4]]).all()
        assert (group[12:15, 0] != group[0, 0]).all()
        assert group[15, 1] != group[0, 1]
