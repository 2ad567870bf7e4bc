"""Published models on this machine: which are known, which are here, fetching them by pinned revision, checking them.

Nothing is fetched but by `pull`, and only what may be loaded: safetensors, configurations, tokenizers and cards.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assetmill.engines import facts
from assetmill.engines.folders import check_weights, hash_files, model_files
from assetmill.engines.protocols import EngineError
from assetmill.records import InputError, Problem

PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model", "README.md", "LICENSE*", "*/*.json", "*/*/*.json")
"""Files that are fetched; pickles and code never are. A `*` also stands for slashes here."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Checked:
    """What checking a model's files found: how many were read, how many of those have a hash to compare with.

    `problems` say which are damaged or incomplete.
    """

    folder: Path
    num_files: int
    num_hashed: int
    problems: tuple[str, ...]


def list_models() -> Iterator[dict[str, Any]]:
    """Every model of the registry as plain values, in its order; `here`: its revision is on this machine."""
    for model_id, known in facts.MODELS.items():
        yield describe(model_id, known)


def describe(model_id: str, known: facts.ModelFacts) -> dict[str, Any]:
    """What the registry knows of a model, as plain values."""
    family = facts.family_named(known.family)
    operations = known.operations
    if not operations and known.engine != "stage":
        does = family.does if family is not None else facts.Does()
        operations = (
            "text-to-image",
            *(["image-to-image"] if does.image_to_image else []),
            *(["inpaint", "keep-product"] if does.inpaint else []),
            *(["control"] if does.control else []),
            *(["variation"] if does.ip_adapter else []),
        )
    return {
        "id": model_id,
        "family": known.family,
        "engine": known.engine,
        "operations": list(operations),
        "licence": known.licence,
        "commercial": known.commercial,
        "revision": known.revision,
        "size": known.size or (family.size if family is not None else 0),
        "steps": known.steps or (family.steps if family is not None else 0),
        "guidance": known.guidance if known.guidance is not None else (family.guidance if family is not None else None),
        "gib": known.gib,
        "stages": dict(known.stages),
        "note": known.note,
        "here": bool(known.revision) and find_snapshot(model_id, known.revision) is not None,
    }


def config_of(model_id: str, known: facts.ModelFacts) -> str:
    """The `model` section of a config that names a model, as one line of YAML."""
    said = f"engine: {known.engine}, source: {model_id}, revision: {known.revision or '<commit>'}"
    stages = ", ".join(
        f"{name}: {{source: {part}, revision: {facts.MODELS[part].revision or '<commit>'}}}"
        for name, part in known.stages
    )
    return f"model: {{{said}{f', stages: {{{stages}}}' if stages else ''}}}"


def find_model(model_id: str) -> facts.ModelFacts:
    """What the registry knows of an id. Raises InputError naming those nearest."""
    known = facts.MODELS.get(model_id)
    if known is None:
        import difflib

        near = difflib.get_close_matches(model_id, list(facts.MODELS), n=3, cutoff=0.4)
        raise InputError(
            Problem(
                f"the registry has no model {model_id!r}",
                f"did you mean {', '.join(near)}?" if near else "see `assetmill models list`",
            )
        )
    return known


def pinned_revision(model_id: str, revision: str | None) -> str:
    """The commit asked for, else the registry's. Raises InputError for a branch or tag, and where none is known."""
    if not _HUB_ID.fullmatch(model_id):
        raise InputError(Problem(f"{model_id!r} is no hub id", "give one as owner/name"))
    known = facts.MODELS.get(model_id)
    wanted = revision or (known.revision if known is not None else "")
    if not _COMMIT.fullmatch(wanted):
        what = f"{revision!r} is no commit" if revision else f"no revision of {model_id} is pinned here"
        raise InputError(Problem(what, "give --revision with the commit, 40 hex digits, from the model's history"))
    return wanted


def find_snapshot(model_id: str, revision: str) -> Path | None:
    """The folder of a revision in the hub's cache on this machine; None where it is not here. Asks nobody."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    place = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=model_id, repo_type="model")
    folder = place / "snapshots" / revision
    return folder if folder.is_dir() else None


def pull_model(model_id: str, revision: str | None = None) -> Path:
    """Fetches a model at its pinned commit into the hub's cache, and gives its folder.

    Raises InputError where no commit is pinned, EngineError where the hub does not hand it out.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    wanted = pinned_revision(model_id, revision)
    try:
        return Path(snapshot_download(model_id, revision=wanted, allow_patterns=list(PATTERNS)))
    except GatedRepoError as error:
        raise EngineError(
            f"{model_id} is handed out only to those who accepted its terms: do so at its page, then log in "
            "with `hf auth login`"
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise EngineError(f"the hub has no {model_id} at {wanted[:12]}: check id and revision") from error
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise EngineError(
            f"{model_id} could not be fetched ({reason}): check the connection, or HF_ENDPOINT"
        ) from error


def verify_model(folder: Path) -> Checked:
    """Reads every file of a model's folder again and compares it with the SHA-256 that the hub's cache names it by.

    Large files in the cache are named by their SHA-256; small ones and folders that did not come from a hub have none,
    and are checked for being whole. Raises InputError where there is nothing to check.
    """
    if not folder.is_dir():
        raise InputError(Problem("there is no such folder", "give a model's folder, or a hub id", file=str(folder)))
    files = model_files(folder)
    if not files:
        raise InputError(Problem("the folder holds no model", "give a model's folder", file=str(folder)))
    broken = {name: path for name, path in files.items() if not path.exists()}
    whole: Mapping[str, Path] = {name: path for name, path in files.items() if name not in broken}
    digests = hash_files(list(whole.values()), trust_cache=False)
    problems = [f"{name}: its bytes are not in the cache; pull the model again" for name in broken]
    hashed = 0
    for name, path in whole.items():
        wanted = path.resolve().name
        if path.is_symlink() and _SHA256.fullmatch(wanted):
            hashed += 1
            if digests[path] != wanted:
                problems.append(f"{name}: its SHA-256 is {digests[path]}, not {wanted}; delete it and pull again")
    problems += [f"{Path(p.file).name}: {p.message}; {p.way_out}" for p in check_weights(whole, folder)]
    return Checked(folder, len(files), hashed, tuple(problems))
