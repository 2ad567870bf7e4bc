"""The benchmark of a GPU: its shapes are the published ones, and its code runs at tiny sizes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

pytestmark = pytest.mark.filterwarnings(
    # diffusers' schedulers hand tensors to numpy in the old way
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
    "ignore:__array_wrap__ must accept context:DeprecationWarning",
)

PARAMETERS = {
    ("sd15", "unet"): 859_520_964,
    ("sd15", "vae"): 83_653_863,
    ("sd15", "text_encoder"): 123_060_480,
    ("sdxl", "unet"): 2_567_463_684,
    ("sdxl", "text_encoder_2"): 694_659_840,
    ("flux-schnell", "transformer"): 11_891_178_560,
    ("flux-schnell", "vae"): 83_819_683,
    ("flux-schnell", "text_encoder_2"): 4_762_310_656,
}
"""Of the published weights."""


@pytest.mark.parametrize(("model", "part"), PARAMETERS)
def test_shapes_are_the_published_ones(model: str, part: str) -> None:
    """Each network, built on the meta device, has exactly as many parameters as the published weights."""
    import torch

    from architectures import MODELS, build_part

    network = build_part(MODELS[model].parts[part], "meta", torch.bfloat16)
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[model, part]
    assert {p.dtype for p in network.parameters()} == {torch.bfloat16}
    assert {p.device.type for p in network.parameters()} == {"meta"}


def test_judges_and_upscaler_are_the_published_ones() -> None:
    """ViT-B-32, ViT-L-14 and the RRDB network have the parameters of the published weights, and open_clip's configs."""
    import open_clip
    import torch

    from architectures import JUDGES, RRDB_X4, build_judge, build_upscaler

    counts = {
        name: sum(p.numel() for p in build_judge(config, "meta", torch.float32).parameters())
        for name, config in JUDGES.items()
    }
    assert counts == {"ViT-B-32": 151_277_313, "ViT-L-14": 427_616_513}
    assert {name: open_clip.get_model_config(name) for name in JUDGES} == JUDGES
    assert sum(p.numel() for p in build_upscaler(RRDB_X4, "meta", torch.float32).parameters()) == 16_697_987


@pytest.mark.parametrize(
    ("model", "size", "denoise", "decode", "upscale"),
    [("sd15", 512, 0.80, 2.5, 9.4), ("sdxl", 1024, 6.76, 10.5, 37.6),
     ("flux-schnell", 1024, 69.5, 10.5, 37.6)],
)  # fmt: skip
def test_flops_of_a_forward(model: str, size: int, denoise: float, decode: float, upscale: float) -> None:
    """Counted TFLOP of denoiser, decoder and upscaler are the known limits within 5 %."""
    from architectures import MODELS
    from forwards import count_flops

    found = count_flops(MODELS[model], size=size)
    assert found.denoise == pytest.approx(denoise, rel=0.05)
    assert found.decode == pytest.approx(decode, rel=0.05)
    assert found.upscale == pytest.approx(upscale, rel=0.05)
    assert found.judge == pytest.approx(0.16, rel=0.05)
    once = found.of_run(10, 4, guided=False, upscales=2)
    assert once == pytest.approx(10 * (4 * found.denoise + found.decode + found.judge) + 2 * found.upscale)
    assert found.of_run(10, 4, guided=True, upscales=2) == pytest.approx(once + 40 * found.denoise)


def test_judge_flops() -> None:
    """The image tower of ViT-B-32 takes 0.009 TFLOP a picture."""
    from architectures import JUDGES
    from forwards import judge_tflop

    assert judge_tflop(JUDGES["ViT-B-32"]) == pytest.approx(0.009, rel=0.05)


def test_tokenizer_of_t5_size() -> None:
    """The stand-in for T5's tokenizer fits the encoder's 32,128 rows, ends with its end mark and pads with 0."""
    from architectures import t5_tokenizer

    tokenizer = t5_tokenizer()
    assert 30_000 < len(tokenizer) <= 32_128
    ids = tokenizer("a red mug, studio light", padding="max_length", max_length=16).input_ids
    assert len(ids) == 16
    assert ids[-1] == tokenizer.pad_token_id == 0
    assert tokenizer.eos_token_id in ids
    assert tokenizer.unk_token_id not in ids


def test_pure_forwards_sample_what_the_pipeline_samples() -> None:
    """From the same noise and prompts, the bare loop and diffusers' pipeline end at the same pictures."""
    import torch

    from architectures import MODELS, build_pipeline, tiny_twin
    from forwards import Forwards

    for name, real in MODELS.items():
        tiny = tiny_twin(real)
        pipe = build_pipeline(tiny, "cpu", torch.float32)
        pipe.set_progress_bar_config(disable=True)
        forwards = Forwards(getattr(pipe, tiny.denoiser), pipe.vae)
        with torch.inference_mode():
            told = forwards.conditions(4 if tiny.guided else 2, 64, 64, 8)
            noise = forwards.latents(2, 64, 64)
            texts = told["encoder_hidden_states"]
            given: dict[str, Any] = {"prompt_embeds": texts[-2:]}
            pooled = told.get("added_cond_kwargs", {}).get("text_embeds", told.get("pooled_projections"))
            if pooled is not None:
                given["pooled_prompt_embeds"] = pooled[-2:]
            if tiny.guided:
                given |= {f"negative_{key}": {"prompt_embeds": texts, "pooled_prompt_embeds": pooled}[key][:2]
                          for key in list(given)}  # fmt: skip
            wanted = pipe(
                **given, latents=noise.clone(), width=64, height=64, num_inference_steps=3,
                guidance_scale=tiny.guidance, output_type="pt",
            ).images  # fmt: skip
            scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
            found = forwards.decode(forwards.sample(scheduler, noise, told, 3, tiny.guidance), 64, 64)
        assert torch.allclose(found.div(2).add(0.5).clamp(0, 1), wanted, atol=1e-4), name


def test_tiny_run_is_kept_and_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All parts run at tiny sizes; a second call goes on where the first ended, in memory too; the page shows it."""
    import gpu
    import write

    out = tmp_path / "gpu.json"
    usual = [
        "--tiny",
        "--device",
        "cpu",
        "--out",
        str(out),
        "--alternations",
        "1",
        "--writers",
        "2",
        "--batches",
        "1,2",
    ]
    gpu.main([*usual, "--models", "flux-schnell"])
    figures = json.loads(out.read_text())
    parts = figures["models"]["flux-schnell"]
    assert list(parts) == ["loading", "flops", "batches", "techniques", "whole"]
    assert [b["batch"] for b in parts["batches"]] == [1, 2]
    names = [t["name"] for t in parts["techniques"]["techniques"]]
    assert names[:5] == ["channels_last", "cudnn.benchmark", "fused q, k, v", "compile", "compile, fixed shapes"]
    whole = parts["whole"]
    assert (whole["pictures"], whole["upscales"], whole["steps"]) == (8, 2, 2)
    assert whole["useful_tflop"] > 0 < whole["P_over_F"]
    assert 0 < whole["judge_share"] < 1
    capsys.readouterr()

    gpu.main([*usual, "--models", "flux-schnell,sdxl", "--parts", "whole", "--in-memory"])
    said = capsys.readouterr().out
    assert "flux-schnell: nothing to measure now" in said
    figures = json.loads(out.read_text())
    assert figures["models"]["flux-schnell"] == parts
    assert list(figures["models"]["sdxl"]) == ["loading", "flops", "whole"]
    assert figures["models"]["sdxl"]["loading"]["in_memory"] is True

    gpu.main([*usual, "--models", "sd15", "--stop-after", "0"])
    assert "sd15" not in json.loads(out.read_text())["models"]
    page = write._gpu(figures)
    for words in ("One GPU: cpu", "at tiny sizes", "FLUX.1-schnell: gains on one forward", "### The whole job", "RRDB"):
        assert words in page


def test_figures_of_another_machine_are_not_mixed(tmp_path: Path) -> None:
    """Figures of another device, or of other sizes, are refused with the way out."""
    import gpu

    file = tmp_path / "gpu.json"
    file.write_text(json.dumps({"machine": {"device": "a large one", "tiny": False}}))
    with pytest.raises(SystemExit, match="figures of a large one; give another file with --out"):
        gpu.main(["--tiny", "--device", "cpu", "--out", str(file)])


def test_the_best_batch_gains_something() -> None:
    """A larger batch counts as better only from one hundredth more pictures per second on."""
    import gpu

    rates = {1: 1.0, 2: 1.8, 4: 2.0, 8: 2.01}
    assert gpu.best_batch([{"batch": b, "images_per_second": r} for b, r in rates.items()]) == 4
    assert gpu.best_batch([]) == 0
