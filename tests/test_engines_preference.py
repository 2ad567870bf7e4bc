"""Judges beyond the first: open_clip's families, preference models, aesthetic heads, several combined."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assetmill.config import JudgeConfig, JudgePartConfig, read_config
from assetmill.engines import facts
from assetmill.engines.protocols import EngineError
from assetmill.engines.registry import load_judge, resolve_judge
from assetmill.records import InputError
from tiny_judges import OPEN_CLIP, write_head, write_open_clip, write_pickscore, write_siglip

TEXTS = ["a red mug", "A Key!", ""]


@pytest.fixture(scope="session")
def judges(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    base, made = tmp_path_factory.mktemp("judge-folders"), {}

    def folder(name: str) -> Path:
        if name not in made:
            if name in OPEN_CLIP:
                made[name] = write_open_clip(base / name, name, card="cc-by-nc-4.0" if name == "MetaCLIP" else "")
            else:
                made[name] = {"pickscore": write_pickscore, "siglip": write_siglip}[name](base / name)
        return made[name]

    return folder


def load(**settings: Any) -> Any:
    settings = settings if "combine" in settings else {"device": "cpu", **settings}
    config = JudgeConfig(**settings)
    return load_judge(resolve_judge(config, Path), config)


def make_pictures(count: int = 3, height: int = 48, width: int = 64) -> np.ndarray:
    """Smooth random pictures that stay off black and white."""
    from PIL import Image

    coarse = np.random.default_rng(0).integers(60, 196, (count, 6, 6, 3), dtype=np.uint8)
    resized = [Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR) for picture in coarse]
    return np.stack([np.asarray(picture) for picture in resized])


@pytest.mark.parametrize("name", sorted(OPEN_CLIP))
def test_families_of_open_clip(judges: Callable[[str], Path], name: str) -> None:
    """Each architecture's folder scores as open_clip's own model, transform and tokenizer do."""
    import open_clip
    import torch
    from PIL import Image

    path = f"local-dir:{judges(name)}"
    model, _, transform = open_clip.create_model_and_transforms(path)
    tokenize = open_clip.get_tokenizer(path)
    pictures = make_pictures()
    with torch.no_grad():
        seen = model.eval().encode_image(torch.stack([transform(Image.fromarray(p)) for p in pictures]))
        theirs = torch.cosine_similarity(seen, model.encode_text(tokenize(TEXTS))).numpy()
    judge = load(source=str(judges(name)))
    judged = judge.judge(pictures, TEXTS)
    np.testing.assert_allclose(judged.scores, theirs, atol=4e-3)
    np.testing.assert_allclose((judged.embeddings * judge.embed_texts(TEXTS)).sum(axis=1), judged.scores, atol=1e-5)
    # a bias or a scale on top of the cosine would rank the same: SigLIP's scores stay cosines, in [-1, 1]
    assert np.abs(judged.scores).max() <= 1
    np.testing.assert_allclose(judge.embed_pictures(pictures), judged.embeddings, atol=1e-6)


def test_a_weight_file_for_an_architecture(tmp_path: Path) -> None:
    """An architecture of open_clip by its name takes its weights from a file, as HPSv2's ViT-H-14 does."""
    import open_clip
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    torch.manual_seed(17)
    model, _, transform = open_clip.create_model_and_transforms("ViT-S-32-alt")
    file = tmp_path / "HPS_v2.1.safetensors"
    save_file({name: tensor.half() for name, tensor in model.state_dict().items()}, str(file))
    model.load_state_dict({name: tensor.half().float() for name, tensor in model.state_dict().items()})
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    pictures = make_pictures()
    with torch.no_grad():
        seen = model.eval().encode_image(torch.stack([transform(Image.fromarray(p)) for p in pictures]))
        theirs = torch.cosine_similarity(seen, model.encode_text(open_clip.tokenize(TEXTS))).numpy()
    judge = load(source="ViT-S-32-alt", pretrained=str(file))
    np.testing.assert_allclose(judge.judge(pictures, TEXTS).scores, theirs, atol=4e-3)
    assert (judge.spec.licence, judge.spec.commercial) == ("apache-2.0", True)


def test_weights_by_name_are_prepared_as_their_family(tmp_path: Path) -> None:
    """A weight file says nothing of preprocessing: it comes from the published weights of its architecture."""
    import open_clip

    from assetmill.engines.clip import _preprocessing
    from assetmill.engines.protocols import JudgeSpec

    def found(name: str) -> dict[str, Any]:
        return _preprocessing(JudgeSpec("key", "open_clip", name, "file", "0" * 64))

    assert found("ViT-B-16-SigLIP2")["resize_mode"] == "squash"
    assert found("PE-Core-B-16")["interpolation"] == "bilinear"
    assert found("ViT-H-14-CLIPA")["mean"] != open_clip.OPENAI_DATASET_MEAN
    assert found("ViT-L-14") == {}  # CLIP's first weights and LAION's differ


@pytest.mark.parametrize("name", ["pickscore", "siglip"])
def test_preference_models(judges: Callable[[str], Path], name: str) -> None:
    """A folder of transformers scores as its own processor and logits do."""
    import torch
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    folder, pictures = judges(name), make_pictures()
    model = AutoModel.from_pretrained(folder).eval()
    tokens = AutoTokenizer.from_pretrained(folder)(
        TEXTS, padding="max_length", truncation=True, max_length=64 if name == "siglip" else 77, return_tensors="pt"
    )
    values = AutoImageProcessor.from_pretrained(folder)(list(pictures), return_tensors="pt")
    with torch.no_grad():
        theirs = model(**tokens, **values).logits_per_image.diagonal().numpy()
    judge = load(engine="transformers", source=str(folder))
    judged = judge.judge(pictures, TEXTS)
    np.testing.assert_allclose(judged.scores, theirs, atol=0.02 * np.exp(model.logit_scale.item()))
    np.testing.assert_allclose(np.linalg.norm(judged.embeddings, axis=1), 1, atol=1e-5)
    floats = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    np.testing.assert_allclose(judge.judge(floats, TEXTS).scores, judged.scores, atol=1e-4)
    floats[0, 0, 24, 32] = torch.nan
    assert np.isnan(judge.judge(floats, TEXTS).scores[0])
    judge.batch = 1
    np.testing.assert_allclose(judge.judge(pictures, TEXTS).scores, judged.scores, atol=1e-4)
    assert judge.judge(pictures[:0], []).scores.shape == (0,)


@pytest.mark.parametrize(("base", "engine"), [("MetaCLIP", "open_clip"), ("pickscore", "transformers")])
@pytest.mark.parametrize("activation", ["", "relu"])
def test_an_aesthetic_head(
    judges: Callable[[str], Path], tmp_path: Path, base: str, engine: str, activation: str
) -> None:
    """A head's score is its layers' product with the other judge's unit embedding, whatever the text."""
    from safetensors.numpy import load_file

    file = write_head(tmp_path / "head.safetensors", **({"activation": activation} if activation else {}))
    judge = load(engine="aesthetic", source=str(judges(base)), head=str(file))
    pictures = make_pictures()
    judged = judge.judge(pictures, TEXTS)
    values = load(engine=engine, source=str(judges(base))).judge(pictures, TEXTS).embeddings
    state = load_file(file)
    for number in range(3):
        values = values @ state[f"layers.{2 * number}.weight"].T + state[f"layers.{2 * number}.bias"]
        values = np.maximum(values, 0) if activation and number < 2 else values
    np.testing.assert_allclose(judged.scores, values[:, 0], atol=1e-5)
    np.testing.assert_array_equal(judge.judge(pictures, ["other"] * 3).scores, judged.scores)


def test_combined(judges: Callable[[str], Path], tmp_path: Path) -> None:
    """Scores are the weighted mean on fixed scales; a picture's score does not depend on its neighbours."""
    head = write_head(tmp_path / "head.safetensors")
    parts: list[dict[str, Any]] = [
        {"source": str(judges("MetaCLIP")), "weight": 3, "device": "cpu"},
        {"engine": "transformers", "source": str(judges("pickscore")), "centre": 1.0, "spread": 2.0, "device": "cpu"},
        {"engine": "aesthetic", "source": str(judges("MetaCLIP")), "head": str(head), "weight": -1, "device": "cpu"},
    ]
    judge = load(combine=parts)
    pictures = make_pictures()
    judged = judge.judge(pictures, TEXTS)
    one, two, three = (load(**{k: v for k, v in p.items() if k not in ("weight", "centre", "spread")}) for p in parts)
    scores = [each.judge(pictures, TEXTS).scores for each in (one, two, three)]
    expected = (3 * (scores[0] - 0.2) / 0.05 + (scores[1] - 1) / 2 - (scores[2] - 5)) / 5
    np.testing.assert_allclose(judged.scores, expected, rtol=1e-4)
    np.testing.assert_allclose(judged.embeddings, one.judge(pictures, TEXTS).embeddings)
    alone = [judge.judge(pictures[i : i + 1], TEXTS[i : i + 1]).scores[0] for i in range(3)]
    np.testing.assert_allclose(judged.scores, alone, rtol=1e-3)


def test_keys_and_licences(judges: Callable[[str], Path], tmp_path: Path) -> None:
    """Every part, weight and scale is in a combination's key; licences are joined, and one refusal refuses all."""

    def spec(*parts: dict[str, Any]) -> Any:
        return resolve_judge(JudgeConfig(combine=tuple(JudgePartConfig(**p) for p in parts)), Path)

    starter, meta = {}, {"source": str(judges("MetaCLIP"))}
    keys = {
        spec(starter).key, spec(starter, meta).key, spec(meta, starter).key, spec({"weight": 2}, meta).key,
        spec({"centre": 0.1}, meta).key, spec({"spread": 0.1}, meta).key,
        resolve_judge(JudgeConfig(), Path).key,
    }  # fmt: skip
    assert len(keys) == 7
    both = spec(starter, meta)
    assert (both.licence, both.commercial) == ("apache-2.0 and cc-by-nc-4.0", False)
    assert spec(starter, {"engine": "simulated"}).commercial is True
    assert spec(starter, {"source": str(judges("DFN"))}).commercial is None
    head = write_head(tmp_path / "head.safetensors")
    aesthetic = JudgeConfig(engine="aesthetic", head=head)
    assert resolve_judge(aesthetic, Path).licence == "apache-2.0 and unknown"
    write_head(tmp_path / "other" / "head.safetensors", (32, 1))
    other = JudgeConfig(engine="aesthetic", head=tmp_path / "other" / "head.safetensors")
    assert resolve_judge(other, Path).key != resolve_judge(aesthetic, Path).key
    # cosines of models with a bias lie lower
    siglip, clip = spec({"source": str(judges("SigLIP2"))}), spec(meta)
    assert siglip.parts[0].centre < clip.parts[0].centre


@pytest.mark.parametrize(
    ("architecture", "tag", "licence", "commercial"),
    [
        ("ViT-B-16-SigLIP2", "webli", "apache-2.0", True),
        ("PE-Core-B-16", "meta", "apache-2.0", True),
        ("ViT-H-14-quickgelu", "metaclip_fullcc", "cc-by-nc-4.0", False),
        ("ViT-H-14-quickgelu", "dfn5b", "apple-amlr", False),
        ("MobileCLIP2-S0", "dfndr2b", "apple-amlr", False),
        ("MobileCLIP-S1", "datacompdr", "apple-amlr", False),
        ("ViT-B-32", "laion2b_s34b_b79k", "mit", True),
        ("ViT-B-32", "openai", "mit", True),
        ("convnext_base", "something", "", None),
    ],
)
def test_licences_of_tags(architecture: str, tag: str, licence: str, commercial: bool | None) -> None:
    """What is known of open_clip's published weights is said before they are fetched."""
    spec = resolve_judge(JudgeConfig(source=architecture, pretrained=tag), Path)
    assert (spec.licence, spec.commercial) == (licence, commercial)
    assert facts.judge_licence(architecture, "") == ""


def test_what_cannot_be_used(judges: Callable[[str], Path], tmp_path: Path) -> None:
    """Heads that are none, folders without a processor and settings that would be ignored are refused."""
    import shutil

    from safetensors.numpy import save_file

    bare = Path(shutil.copytree(judges("pickscore"), tmp_path / "bare"))
    for name in ("preprocessor_config.json", "processor_config.json"):
        (bare / name).unlink(missing_ok=True)
    odd = Path(shutil.copytree(judges("pickscore"), tmp_path / "odd"))
    (odd / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))
    (tmp_path / "head.pth").write_bytes(b"x")
    mute = Path(shutil.copytree(judges("SigLIP2"), tmp_path / "mute"))
    (mute / "tokenizer.json").unlink()
    far = Path(shutil.copytree(judges("MetaCLIP"), tmp_path / "far"))
    (far / "open_clip_config.json").write_text('{"model_cfg": {"text_cfg": {"hf_model_name": "owner/roberta"}}}')
    save_file({"weight": np.zeros((4, 8), np.float32)}, tmp_path / "wide.safetensors")
    save_file({"weight": np.zeros((1, 8), np.float32), "mean": np.zeros(8)}, tmp_path / "more.safetensors")
    write_head(tmp_path / "head.safetensors")
    meta = str(judges("MetaCLIP"))
    for settings, message in [
        ({"engine": "transformers", "source": str(tmp_path / "gone")}, "no folder with a config.json"),
        ({"engine": "transformers", "source": str(bare)}, "copy its preprocessor_config.json"),
        ({"engine": "transformers", "source": str(odd)}, "BertModel is no judge"),
        ({"source": str(mute)}, "its tokenizer 'timm/ViT-B-16-SigLIP2' is missing"),
        ({"source": str(far)}, "its text tower is the hub model 'owner/roberta'"),
        ({"engine": "aesthetic", "source": meta}, "needs a head"),
        ({"engine": "aesthetic", "source": meta, "head": tmp_path / "gone.safetensors"}, "no such weight file"),
        ({"engine": "aesthetic", "source": meta, "head": tmp_path / "head.pth"}, "is not safetensors"),
        ({"engine": "aesthetic", "source": meta, "head": tmp_path / "wide.safetensors"}, "gives 4 numbers, not one"),
        ({"engine": "aesthetic", "source": meta, "head": tmp_path / "more.safetensors"}, "holds mean"),
        ({"engine": "open_clip", "head": tmp_path / "head.safetensors"}, "has no head"),
        ({"engine": "open_clip", "options": {"a": 1}}, "has no options"),
        ({"combine": ({"weight": 0},)}, "all judges weigh 0"),
    ]:
        with pytest.raises(InputError, match=message):
            resolve_judge(JudgeConfig(**settings), Path)
    write_head(tmp_path / "long" / "head.safetensors", (768, 1))
    judge = load(engine="aesthetic", source=meta, head=str(tmp_path / "long" / "head.safetensors"))
    with pytest.raises(EngineError, match="reads embeddings of 768 numbers"):
        judge.judge(make_pictures(1), ["a"])
    write_head(tmp_path / "gelu" / "head.safetensors", activation="gelu")
    with pytest.raises(EngineError, match="the activation 'gelu'"):
        load(engine="aesthetic", source=meta, head=str(tmp_path / "gelu" / "head.safetensors"))


def test_a_config_names_one_judge_or_several(tmp_path: Path) -> None:
    """Settings beside `combine` would be ignored, and are refused."""
    text = "name: a\nsheet: {path: s.csv, id: id}\nprompts: {templates: [t.j2]}\n"
    (tmp_path / "c.yaml").write_text(text + "judge: {combine: [{engine: simulated}, {weight: 2}]}\n")
    assert [part.weight for part in read_config(tmp_path / "c.yaml").judge.combine] == [1, 2]
    (tmp_path / "c.yaml").write_text(text + "judge: {source: x, combine: [{engine: simulated}]}\n")
    with pytest.raises(InputError, match="put source into its parts"):
        read_config(tmp_path / "c.yaml")


def test_a_plan_imports_no_torch(judges: Callable[[str], Path], tmp_path: Path) -> None:
    """Combinations, preference models and heads are named without torch."""
    write_head(tmp_path / "head.safetensors")
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from assetmill.config import JudgeConfig\n"
        "from assetmill.engines.registry import resolve_judge\n"
        f"parts = [{{'engine': 'transformers', 'source': {str(judges('pickscore'))!r}}},"
        f" {{'engine': 'aesthetic', 'head': {str(tmp_path / 'head.safetensors')!r}}}]\n"
        "assert len(resolve_judge(JudgeConfig(combine=parts), Path).key) == 64\n"
        "assert not {'torch', 'open_clip', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
