"""The licence policy: what weights may be used is settled before anything is planned."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from assetmill.config import Config
from assetmill.engines.protocols import ModelSpec, Part, SegmenterSpec, UpscalerSpec
from assetmill.operate.licences import check_licences, declare
from assetmill.records import InputError
from productions import NAME, Production, rows
from tiny_segmenters import save_segmenter

MODEL = ModelSpec(
    "org/painter", "diffusers", 1, "a" * 40, "sdxl", "openrail++", True, ("text-to-image",), 64, 64, 4, 1.0
)
UPSCALER = UpscalerSpec("key", "spandrel", 4, file="/models/4x.safetensors", fingerprint="b" * 64, licence="mit",
                        commercial=True)  # fmt: skip


def config(**licences: Any) -> Config:
    plain = {"name": NAME, "sheet": {"path": "s.csv", "id": "id"}, "prompts": {"templates": ["t.j2"]}}
    return Config.model_validate({**plain, "licences": licences})


def problems(policy: Config, *models: ModelSpec, upscaler: UpscalerSpec = UPSCALER) -> list[str]:
    named = {"" if n == 0 else f"m{n}": declare(m, policy.licences) for n, m in enumerate(models or (MODEL,))}
    try:
        check_licences(policy, named, declare(upscaler, policy.licences))
    except InputError as error:
        return [str(p) for p in error.problems]
    return []


def test_no_policy_asks_nothing() -> None:
    """By default every licence is fine, an unknown one too."""
    assert problems(config(), replace(MODEL, licence="", commercial=None)) == []


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"deny": ["OpenRAIL*"]}, "the model org/painter has the licence openrail++ (commercial use); licences.deny "
         "has 'OpenRAIL*'; choose another one, or change the policy"),
        ({"allow": ["apache-2.0", "mit"]}, "licences.allow has only apache-2.0, mit"),
        ({"allow": ["openrail++"]}, "the upscaler 4x.safetensors has the licence mit"),
    ],
)  # fmt: skip
def test_refused(policy: dict[str, Any], said: str) -> None:
    """The error names the weights, their licence, the key that refuses them and the way out."""
    (problem,) = problems(config(**policy))
    assert said in problem


@pytest.mark.parametrize(
    "policy", [{"allow": ["openrail++", "mit"]}, {"deny": ["cc-by-nc*"]}, {"commercial": "required"}, {"allow": ["*"]}]
)
def test_allowed(policy: dict[str, Any]) -> None:
    """What every rule lets pass passes."""
    assert problems(config(**policy)) == []


def test_deny_counts_more_than_allow() -> None:
    """A licence on both lists is refused."""
    assert "licences.deny" in problems(config(allow=["*"], deny=["mit"]))[0]


def test_commercial_use() -> None:
    """A licence that forbids selling is refused, and one of which nobody knows; each model is named."""
    research = replace(MODEL, id="org/study", licence="cc-by-nc-4.0", commercial=False)
    unknown = replace(MODEL, id="org/stranger", licence="", commercial=None)
    found = problems(config(commercial="required"), MODEL, research, unknown)
    assert len(found) == 2
    assert "org/study has the licence cc-by-nc-4.0 (no commercial use); licences.commercial is 'required'" in found[0]
    assert "models.m1.source" in found[0]
    assert "org/stranger has no licence that is known" in found[1]
    assert "name its licence in licences.known" in found[1]


def test_known_licences() -> None:
    """A licence can be told for weights that name none; what they name themselves counts more."""
    policy = config(commercial="required", known={"org/stranger": "apache-2.0", "org/painter": "cc-by-nc-4.0"})
    stranger = declare(replace(MODEL, id="org/stranger", licence="", commercial=None), policy.licences)
    assert (stranger.licence, stranger.commercial) == ("apache-2.0", True)
    assert problems(policy, stranger, MODEL) == []


def safetensors(path: Path, **metadata: str) -> Path:
    header = json.dumps({"__metadata__": metadata} if metadata else {}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    return path


def test_what_is_laid_over_a_model(tmp_path: Path) -> None:
    """LoRAs and ControlNets are asked as models are: by their file's metadata, their card, or what the config knows."""
    said = safetensors(tmp_path / "said.safetensors", **{"modelspec.license": "CC-BY-NC-4.0"})
    silent = safetensors(tmp_path / "silent.safetensors")
    control = tmp_path / "edges"
    control.mkdir()
    (control / "README.md").write_text("---\nlicense: mit\n---\n")
    parts = (
        Part("lora", "said", str(said), "1" * 64),
        Part("lora", "silent", str(silent), "2" * 64),
        Part("control", "edge", str(control), "3" * 64),
        Part("preview", "tiny", str(tmp_path / "gone"), "4" * 64),
    )
    model = replace(MODEL, parts=parts)
    found = problems(config(commercial="required"), model)
    assert len(found) == 2
    assert "the lora said.safetensors has the licence CC-BY-NC-4.0" in found[0]
    assert "the lora silent.safetensors has no licence" in found[1]
    assert "model.adapters" in found[1]
    assert len(problems(config(commercial="required", known={"silent.safetensors": "mit"}), model)) == 1
    assert len(problems(config(commercial="required", known={"2" * 64: "mit"}), model)) == 1


def test_segmenters(tmp_path: Path) -> None:
    """Cut-outs by a model are asked too: some of the well-known ones may not be sold with."""
    segmenter = SegmenterSpec("key", "rembg", "bria-rmbg", "/models/bria.onnx", "c" * 64, "cc-by-nc-4.0", False)
    with pytest.raises(InputError, match="the segmenter bria-rmbg has the licence cc-by-nc-4.0 .no commercial use"):
        check_licences(config(commercial="required"), {"": MODEL}, UPSCALER, segmenter)
    own = replace(segmenter, licence="", commercial=None)
    policy = config(commercial="required", known={"bria.onnx": "mit"})
    check_licences(policy, {"": MODEL}, UPSCALER, declare(own, policy.licences))


def test_a_production_with_a_segmenter_is_refused(tmp_path: Path) -> None:
    """The segmenter that a production's channels need is asked when it is opened."""
    save_segmenter(tmp_path / "bria.onnx")
    toys = Production(
        tmp_path / "p",
        rows(1),
        {
            "publish": {"channels": {"web": {"renditions": [{"name": "icon", "size": 32, "ground": "transparent"}]}}},
            "cutout": {"engine": "rembg", "model": "bria-rmbg", "source": str(tmp_path / "bria.onnx")},
            "licences": {"deny": ["cc-by-nc*"]},
        },
    )
    with pytest.raises(InputError, match="the segmenter bria-rmbg .*licences.deny"):
        toys.plan()


def test_a_plan_stops_before_anything_is_made(tmp_path: Path) -> None:
    """A whole production refuses to open under a policy that its model fails; nothing is written."""
    toys = Production(tmp_path / "p", rows(2), {"licences": {"deny": ["apache-*"]}})
    with pytest.raises(InputError, match="the model simulated has the licence apache-2.0 .*licences.deny"):
        toys.plan()
    toys.change(licences={"deny": [], "commercial": "required"})
    assert toys.states() == {"new": 2}


def test_empty_texts() -> None:
    """An empty licence would match nothing, or all: it is refused."""
    for policy in ({"allow": [""]}, {"deny": [" "]}, {"known": {"a": ""}}):
        with pytest.raises(ValidationError, match="a licence is empty"):
            config(**policy)
