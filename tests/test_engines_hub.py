"""The registry of published models is whole, and files on this machine are what their names say."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save
from typer.testing import CliRunner

from assetmill.cli import app
from assetmill.config import ModelConfig
from assetmill.engines import facts, hub
from assetmill.engines.hub import config_of, find_model, list_models, pinned_revision, verify_model
from assetmill.records import OPERATIONS, InputError
from assetmill.yaml_text import load_yaml

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache of this machine with one model of one weight file, as huggingface_hub lays it out."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    place = tmp_path / "models--owner--name"
    snapshot = place / "snapshots" / COMMIT
    (snapshot / "unet").mkdir(parents=True)
    (place / "blobs").mkdir()
    weights = save({"w": np.arange(64, dtype=np.float32)})
    for name, data, digest in (
        ("unet/diffusion_pytorch_model.safetensors", weights, hashlib.sha256(weights).hexdigest()),
        ("model_index.json", b"{}", hashlib.sha1(b"{}").hexdigest()),
    ):
        (place / "blobs" / digest).write_bytes(data)
        (snapshot / name).symlink_to(place / "blobs" / digest)
    return snapshot


def test_every_model_is_described() -> None:
    """Each has a licence, known operations and a pinned or no revision, and its config line is one that can be read."""
    for model in list_models():
        assert model["licence"]
        assert set(model["operations"]) <= set(OPERATIONS)
        assert model["operations"] or model["engine"] == "stage"
        assert re.fullmatch(r"([0-9a-f]{40})?", model["revision"])
        assert {"id", "family", "operations", "licence", "commercial"} <= set(model)
        assert all(part in facts.MODELS for part in model["stages"].values())
        section = load_yaml(config_of(model["id"], facts.MODELS[model["id"]]))["model"]
        assert ModelConfig.model_validate(section).source == model["id"]


def test_revisions_are_commits() -> None:
    """Branches, tags and unknown models without a commit are refused: what is pulled never changes overnight."""
    known = "stabilityai/sdxl-turbo"
    assert pinned_revision(known, None) == facts.MODELS[known].revision
    assert pinned_revision("owner/name", COMMIT) == COMMIT
    for model, revision in ((known, "main"), ("owner/name", None), ("owner/name", "v1.0"), ("../name", COMMIT)):
        with pytest.raises(InputError):
            pinned_revision(model, revision)
    with pytest.raises(InputError, match="did you mean stabilityai/sdxl-turbo"):
        find_model("stabilityai/sdxl-turb")


def test_verify_reads_every_byte(cache: Path) -> None:
    """A flipped byte, a lost blob and a cut-off file are each named; a sound model passes without asking anyone."""
    found = verify_model(cache)
    assert (found.num_files, found.num_hashed, found.problems) == (2, 1, ())
    weights = (cache / "unet/diffusion_pytorch_model.safetensors").resolve()
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + b"\x01")
    (problem,) = verify_model(cache).problems
    assert "its SHA-256 is" in problem
    weights.write_bytes(data[:-4])
    assert any("it is cut off" in p for p in verify_model(cache).problems)
    weights.unlink()
    assert any("not in the cache" in p for p in verify_model(cache).problems)
    with pytest.raises(InputError, match="no such folder"):
        verify_model(cache / "nothing")


def test_the_commands(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`models list|show|verify` say it as tables and as JSON; nothing is fetched by them."""
    run = CliRunner().invoke
    listed = json.loads(run(app, ["models", "list", "--json", "--commercial", "--operation", "inpaint"]).stdout)[
        "models"
    ]
    assert listed
    assert all(m["commercial"] is True and "inpaint" in m["operations"] for m in listed)
    assert {"id", "family", "operations", "licence", "commercial"} <= set(listed[0])
    shown = json.loads(run(app, ["models", "show", listed[0]["id"], "--json"]).stdout)
    assert shown["config"].startswith("model: {engine: ")
    done = run(app, ["models", "verify", "owner/name", "--revision", COMMIT, "--json"])
    assert (done.exit_code, json.loads(done.stdout)["compared"]) == (0, 1)
    (cache / "unet/diffusion_pytorch_model.safetensors").resolve().write_bytes(b"x")
    assert run(app, ["models", "verify", str(cache), "--json"]).exit_code == 1
    assert run(app, ["models", "list"]).exit_code == 0
    missing = run(app, ["models", "verify", "owner/other", "--revision", COMMIT])
    assert isinstance(missing.exception, InputError)
    assert "models pull owner/other" in str(missing.exception)


def test_pull_takes_the_stages_along(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model is fetched at its commit with the stages it names, and checked afterwards."""
    asked: list[tuple[str, str | None]] = []

    def pull(model: str, revision: str | None = None) -> Path:
        asked.append((model, revision))
        return cache

    monkeypatch.setattr(hub, "pull_model", pull)
    model = "kandinsky-community/kandinsky-2-2-decoder"
    done = CliRunner().invoke(app, ["models", "pull", model, "--revision", COMMIT, "--json"])
    assert done.exit_code == 0
    assert asked == [(model, COMMIT), *((part, None) for _, part in facts.MODELS[model].stages)]
    assert json.loads(done.stdout)["problems"] == []
