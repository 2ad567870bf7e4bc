"""The shipped pack loads by the field's own loaders and does what it says, at small counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from assetmill.starter.locations import (
    WEIGHTS,
    clip_folder,
    judge_file,
    pipeline_folder,
    shipped_settings,
    upscaler_file,
)


@pytest.fixture(scope="module")
def pipeline() -> Any:
    from assetmill.starter.sampling import load_pipeline

    return load_pipeline()


@pytest.fixture(scope="module")
def clip() -> Any:
    from assetmill.starter.sampling import load_clip

    return load_clip()


@pytest.fixture(scope="module")
def judge() -> Any:
    from assetmill.starter.judge import load_judge

    return load_judge(judge_file())


def test_the_pack_is_small() -> None:
    """All weights are at most 40 MB, no file over 16 MB, and each model has its card."""
    files = [file for file in WEIGHTS.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 40e6
    assert max(file.stat().st_size for file in files) <= 16e6
    for folder in (pipeline_folder(), clip_folder(), upscaler_file().parent, judge_file().parent):
        assert "Apache-2.0" in (folder / "README.md").read_text()


def test_a_missing_pack_names_the_file_and_the_way_out(tmp_path: Any) -> None:
    """Looking for weights where there are none says which file is missing and how to make it."""
    with pytest.raises(FileNotFoundError, match=r"model_index\.json is missing: .*starter\.train"):
        pipeline_folder(tmp_path)


def test_the_pipeline_draws_what_was_asked(pipeline: Any, judge: Any) -> None:
    """At the shipped settings most of four plain prompts come out right, and none is flat."""
    from assetmill.starter.captions import plain_caption
    from assetmill.starter.data import labels_of
    from assetmill.starter.judge import attributes_right, read_attributes
    from assetmill.starter.renderer import sample_spec
    from assetmill.starter.sampling import generate

    settings = shipped_settings()
    specs = [sample_spec("smoke", index) for index in range(4)]
    texts = [plain_caption(spec) for spec in specs]
    pictures = generate(pipeline, texts, range(4), steps=settings.steps, guidance=settings.guidance)
    assert pictures.shape == (4, settings.size, settings.size, 3)
    assert (pictures.std((1, 2, 3)) > 5).all()
    right = attributes_right(read_attributes(judge, pictures), np.array([labels_of(spec) for spec in specs]))
    assert right.mean() >= 3.5


def test_the_folder_loads_for_every_task(pipeline: Any) -> None:
    """AutoPipeline takes the same folder for image-to-image and inpainting."""
    from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting
    from PIL import Image

    start, mask = Image.new("RGB", (64, 64), "red"), Image.new("L", (64, 64), 255)
    image = AutoPipelineForImage2Image.from_pipe(pipeline)
    paint = AutoPipelineForInpainting.from_pipe(pipeline)
    for one in (image, paint):
        one.set_progress_bar_config(disable=True)
    drawn = image("a red mug", image=start, strength=0.6, num_inference_steps=4).images[0]
    filled = paint("a red mug", image=start, mask_image=mask, height=64, width=64, num_inference_steps=4).images[0]
    assert drawn.size == filled.size == (64, 64)


def test_the_text_encoder_knows_the_tokenizer(pipeline: Any, clip: Any) -> None:
    """Pipeline and CLIP read a text into the same ids, ended by the highest id."""
    text = "a striped RED mug, pixel art style"
    ids = pipeline.tokenizer(text, padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert ids.tolist() == clip[2]([text]).tolist()
    assert pipeline.tokenizer.eos_token_id == len(pipeline.tokenizer) - 1 == int(ids.max())


def test_clip_finds_the_caption_among_hard_ones(clip: Any) -> None:
    """On 32 unseen renders CLIP picks the true caption out of 16 at least three times in four."""
    from assetmill.starter.evaluate import measure_clip

    assert measure_clip(clip, 32)["clip_hard_caption_accuracy"]["value"] >= 0.75


def test_the_judge_reads_renders_and_reconstructions(judge: Any, pipeline: Any) -> None:
    """The judge is right on at least 98 % of attributes of renders, and 95 % after the VAE."""
    from assetmill.starter.evaluate import measure_judge

    figures = measure_judge(judge, pipeline.vae, 100)
    assert figures["judge_accuracy"]["value"] >= 0.98
    assert figures["judge_accuracy_decoded"]["value"] >= 0.95


def test_the_upscaler_beats_lanczos() -> None:
    """spandrel loads the upscaler as ×4 and it gains at least 2 dB on held-out renders."""
    from assetmill.starter.evaluate import measure_upscaler

    assert measure_upscaler(upscaler_file(), 8)["upscaler_psnr_gain_db"]["value"] >= 2
