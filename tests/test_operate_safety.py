"""The separate safety check in a run: refused pictures have a reason, are kept as they are, and are never chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from assetmill.deliver.picture import decode
from assetmill.records import CandidateRecord, GateRecord, InputError
from productions import Production
from tiny_judges import write_classifier


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_classifier(tmp_path_factory.mktemp("safety") / "classifier")
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    return folder


def candidate_pixels(toys: Production, made: CandidateRecord) -> np.ndarray:
    extension = made.media_type.removeprefix("image/")
    return decode(toys.store.get(f"blobs/{made.blob[:2]}/{made.blob}.{extension}"))


def middle(folder: Path, classifier: Path) -> float:
    """The threshold that about a half of a production's candidates reach: random weights find all much alike."""
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    toys = Production(folder, settings={"candidates": 8})
    toys.run()
    processor = AutoImageProcessor.from_pretrained(classifier)
    model = AutoModelForImageClassification.from_pretrained(classifier).eval()
    pictures = [candidate_pixels(toys, c) for c in toys.candidates()]
    with torch.no_grad():
        shares = model(**processor(pictures, return_tensors="pt")).logits.softmax(-1)[:, 1]
    return float(shares.median()) + 1e-6


def make(folder: Path, classifier: Path, threshold: float) -> Production:
    safety = {"source": str(classifier), "reject": ["nsfw"], "threshold": threshold}
    return Production(folder, settings={"candidates": 8, "gates": {"safety": safety, "regenerate": 0}})


def test_refused_pictures(classifier: Path, tmp_path: Path) -> None:
    """What the classifier refuses is rejected by the gate `safety`, its picture kept as it was made; a chosen picture
    is one that passed."""
    toys = make(tmp_path / "toys", classifier, middle(tmp_path / "before", classifier))
    report = toys.run()
    assert report["licences"]["safety"] == "cc-by-nc-4.0 (no commercial use)"
    verdicts = [r for r in toys.records() if isinstance(r, GateRecord) and r.gate == "safety"]
    assert {v.passed for v in verdicts} == {True, False}
    refused = {v.subject for v in verdicts if not v.passed}
    assert all("the classifier sees 'nsfw'" in v.reason for v in verdicts if v.subject in refused)
    for candidate in toys.candidates():
        if candidate.request_key in refused:
            assert np.ptp(candidate_pixels(toys, candidate)) > 10
    assert not {e.request_key for e in toys.catalog.iter_entries()} & refused
    assert toys.states() == {"unchanged": 4}


def test_a_stricter_check_chooses_again(classifier: Path, tmp_path: Path) -> None:
    """Another threshold judges what is there again and generates nothing; a check that is off changes no choice."""
    toys = Production(tmp_path / "toys")
    toys.run()
    made = len(toys.candidates())
    context = toys.job().select_context
    toys.change(gates={"safety": {"source": None}})
    assert toys.job().select_context == context
    toys.change(gates={"safety": {"source": str(classifier), "reject": ["nsfw"], "threshold": 0.0}, "regenerate": 0})
    assert toys.job().select_context != context
    report = toys.run()
    assert len(toys.candidates()) == made
    assert set(report["troubled"].values()) == {"exhausted"}
    assert toys.published()  # what is out stays out until somebody takes it back


def test_found_when_the_job_is_opened(classifier: Path, tmp_path: Path) -> None:
    """A label that the classifier lacks stops a plan, not a night."""
    toys = make(tmp_path / "toys", classifier, 0.5)
    toys.change(gates={"safety": {"source": str(classifier), "reject": ["porn"]}})
    with pytest.raises(InputError, match="no label 'porn'"):
        toys.plan()
