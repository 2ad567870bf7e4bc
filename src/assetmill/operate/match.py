"""What is in stock and looks like what was published: the nearest pictures of an inventory folder, by embedding.

    assetmill match config.yaml photos/              # for each published variant
    assetmill match config.yaml photos/ --text "a red wool hat"

Embeddings are those of the config's judge. They are kept in the store by the hash of the picture, so that only new
pictures cost time.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assetmill.config import Config, JudgeConfig, JudgePartConfig, read_config
from assetmill.deliver.picture import PictureError, decode
from assetmill.engines.protocols import EngineError, Judge, JudgeSpec
from assetmill.engines.registry import load_judge, resolve_judge
from assetmill.operate.settle import extension_of
from assetmill.records import InputError, Problem, blob_key, content_key
from assetmill.storage.catalog import open_catalog
from assetmill.storage.entries import CatalogEntry
from assetmill.storage.layout import embeddings_prefix
from assetmill.storage.parallel import map_ahead
from assetmill.storage.store import CorruptObject, MissingObject, Store, get_blob, open_store, set_aside

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console

log = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".avif")
"""Files of an inventory that are looked at; everything else in it is left alone."""

_ROWS = 2048
"""Embeddings per object of the store: what a killed run may have to make again."""

_BATCH, _BATCH_BYTES = 32, 2**28


@dataclass(frozen=True, slots=True)
class Match:
    """A picture of the inventory, by its path inside, and its cosine similarity in [-1, 1]."""

    file: str
    score: float


@dataclass(frozen=True, slots=True)
class Matched:
    """The nearest pictures for one published variant (`asset`, `rank`, `object_key`) or for one `text`."""

    asset: str = ""
    rank: int = 0
    object_key: str = ""
    text: str = ""
    matches: tuple[Match, ...] = ()


@dataclass(frozen=True, slots=True)
class Matching:
    """What was compared: pictures in the inventory, those embedded anew, those that cannot be used with the reason."""

    judge: str
    licence: str
    inventory: int
    embedded: int
    unusable: Mapping[str, str]
    found: tuple[Matched, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def as_csv(self) -> str:
        """A line per match: asset, rank, object key and text of what was looked for, place, file, score."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(("asset", "rank", "object_key", "text", "place", "match", "score"))
        for each in self.found:
            for place, match in enumerate(each.matches, 1):
                row = (each.asset, each.rank or "", each.object_key, each.text, place, match.file, f"{match.score:.4f}")
                writer.writerow(row)
        return out.getvalue()


def match_inventory(
    path: Path | str, folder: Path, *, texts: Sequence[str] = (), top: int = 5, version: int | None = None
) -> Matching:
    """The `top` nearest pictures of an inventory folder for each published variant, or for texts where given.

    Raises InputError for a folder without pictures and an empty catalog, EngineError, StoreUnavailable.
    """
    config = read_config(path)
    files = list_pictures(folder)
    store = open_store(config.store, config.store_url)
    entries: list[CatalogEntry] = []
    if not texts:
        published = open_catalog(store, config.name).iter_entries(version)
        entries = sorted(published, key=lambda e: (e.asset_id, e.rank))
        if not entries:
            raise InputError(
                Problem("nothing is published yet", "run `assetmill run CONFIG` first, or look for a text with --text")
            )
    spec, judge = load_embedder(config)
    memory = Embeddings(store, judge)
    hashes = dict(zip(files, map_ahead(lambda name: _hash(folder / name), files), strict=True))
    readers = {digest: (folder / name).read_bytes for name, digest in hashes.items() if digest}
    stock, bad = memory.of_pictures(readers)
    unusable = {name: bad.get(digest, "cannot be read") for name, digest in hashes.items() if digest not in stock}
    usable = [name for name in files if hashes[name] in stock]
    if texts:
        queries = embed_texts(judge, texts)
        targets = [Matched(text=text) for text in texts]
    else:
        made, bad = memory.of_pictures({e.master: partial(read_master, store, e) for e in entries})
        unusable |= {e.object_key: bad[e.master] for e in entries if e.master in bad}
        entries = [e for e in entries if e.master in made]
        queries = _stack([made[e.master] for e in entries])
        targets = [Matched(e.asset_id, e.rank, e.object_key) for e in entries]
    found = nearest(queries, _stack([stock[hashes[name]] for name in usable]), usable, top)
    results = tuple(replace(t, matches=matches) for t, matches in zip(targets, found, strict=True))
    return Matching(judge.key, spec.licence, len(usable), memory.num_made, dict(sorted(unusable.items())), results)


def list_pictures(folder: Path) -> list[str]:
    """Paths of the pictures inside a folder and below it, with `/`, sorted; hidden ones are left out."""
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(n for n in folders if not n.startswith("."))
        inside = [Path(root, n) for n in names if n.lower().endswith(SUFFIXES) and not n.startswith(".")]
        found += [p.relative_to(folder).as_posix() for p in inside]
    if not found:
        kinds = ", ".join(SUFFIXES)
        raise InputError(Problem("no inventory: no pictures there", f"give a folder with {kinds} files", str(folder)))
    return sorted(found)


def load_embedder(config: Config) -> tuple[JudgeSpec, Judge]:
    """The judge whose embeddings are compared: of several combined the first, of an aesthetic one what it stands on."""
    spec, part = resolve_judge(config.judge, config.resolve), config.judge
    settings: JudgeConfig | JudgePartConfig = part
    if spec.engine == "combined":
        spec, settings = spec.parts[0].spec, part.combine[0]
    if spec.engine == "aesthetic":
        spec = spec.parts[0].spec
    return spec, load_judge(spec, settings)


def embed_texts(judge: Judge, texts: Sequence[str]) -> np.ndarray:
    """Unit embeddings of texts, (N, D). Raises EngineError where a judge has none that lie beside its pictures'."""
    embed = getattr(judge, "embed_texts", None)
    if embed is None:
        raise EngineError(
            f"the judge {type(judge).__name__} has no embeddings of texts; use an open_clip or transformers judge"
        )
    return embed(texts)


def nearest(queries: np.ndarray, stock: np.ndarray, names: Sequence[str], top: int) -> Iterator[tuple[Match, ...]]:
    """For each query (N, D) its `top` most similar rows of the stock (M, D), best first, equal ones by name."""
    import numpy as np

    for query in queries:
        scores = stock @ query
        if top < len(scores):
            # all that tie with the last one stay in, so that the name decides and not the order in memory
            limit = np.partition(scores, len(scores) - top)[len(scores) - top]
            rows = np.flatnonzero(scores >= limit)
        else:
            rows = np.arange(len(scores))
        best = sorted(rows.tolist(), key=lambda i: (-scores[i], names[i]))[:top]
        yield tuple(Match(names[i], round(float(scores[i]), 6)) for i in best)


class Embeddings:
    """Embeddings of pictures by the hash of their bytes, kept in the store under the judge's key.

    `num_made` counts those that had to be made. Several matchings at once are safe: objects are only ever added.
    """

    def __init__(self, store: Store, judge: Judge) -> None:
        self.store = store
        self.judge = judge
        self.num_made = 0
        self._known = self._read()

    def of_pictures(self, readers: Mapping[str, Callable[[], bytes]]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """Embeddings by hash, and why there is none. Only what is not known yet is read, decoded and embedded."""
        bad: dict[str, str] = {}
        missing = [digest for digest in readers if digest not in self._known]
        fresh: dict[str, np.ndarray] = {}
        for digest, vector in self._embed(((d, readers[d]) for d in missing), bad):
            fresh[digest] = vector
            if len(fresh) >= _ROWS:
                self._write(fresh)
                fresh = {}
        if fresh:
            self._write(fresh)
        return {d: self._known[d] for d in readers if d in self._known}, bad

    def _embed(
        self, readers: Iterable[tuple[str, Callable[[], bytes]]], bad: dict[str, str]
    ) -> Iterator[tuple[str, np.ndarray]]:
        import numpy as np

        groups: dict[Any, list[tuple[str, np.ndarray]]] = {}
        held = 0

        def judge(group: list[tuple[str, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
            found = self.judge.judge(np.stack([pixels for _, pixels in group]), [""] * len(group)).embeddings
            yield from ((digest, vector) for (digest, _), vector in zip(group, found, strict=True))

        for digest, pixels in map_ahead(_decode, readers, threads=4):
            if isinstance(pixels, str):
                bad[digest] = pixels
                continue
            group = groups.setdefault(pixels.shape, [])
            group.append((digest, pixels))
            held += pixels.nbytes
            if len(group) >= _BATCH:
                held -= sum(p.nbytes for _, p in group)
                yield from judge(groups.pop(pixels.shape))
            elif held > _BATCH_BYTES:
                for each in groups.values():
                    yield from judge(each)
                groups, held = {}, 0
        for each in groups.values():
            yield from judge(each)

    # --- in the store -----------------------------------------------------------------------------------------

    def _read(self) -> dict[str, np.ndarray]:
        import numpy as np

        known: dict[str, np.ndarray] = {}
        for item in self.store.list(embeddings_prefix(self.judge.key)):
            try:
                with np.load(io.BytesIO(self.store.get(item.key)), allow_pickle=False) as held:
                    hashes, vectors = held["hashes"], held["vectors"].astype(np.float32)
                    rows = {bytes(h).hex(): v for h, v in zip(hashes, vectors, strict=True)}
            except (ValueError, KeyError, OSError, zipfile.BadZipFile, CorruptObject) as error:
                log.warning("%s cannot be read (%s); its pictures are embedded again", item.key, error)
                set_aside(self.store, item.key)
                continue
            known |= rows
        return known

    def _write(self, fresh: Mapping[str, np.ndarray]) -> None:
        import numpy as np

        file = io.BytesIO()
        hashes = np.stack([np.frombuffer(bytes.fromhex(digest), np.uint8) for digest in fresh])
        np.savez(file, hashes=hashes, vectors=np.stack(list(fresh.values())).astype(np.float32))
        name = content_key("embeddings", {"pictures": sorted(fresh)})
        self.store.put_if_absent(f"{embeddings_prefix(self.judge.key)}{name}.npz", file.getvalue())
        self.num_made += len(fresh)
        self._known |= fresh


def show_matches(console: Console, found: Matching) -> None:
    """A table of what was found, and the pictures that could not be used."""
    from assetmill.operate.console import make_table

    rows = [
        (each.text or each.asset, each.rank or "", match.file, f"{match.score:.3f}")
        for each in found.found
        for match in each.matches
    ]
    console.print(make_table("nearest in the inventory", ("for", "rank", "picture", "cosine"), rows))
    console.print(f"{found.inventory} pictures, {found.embedded} embedded anew", style="dim", highlight=False)
    for name, reason in found.unusable.items():
        console.print(f"{name}: {reason}", style="yellow", markup=False, highlight=False)


def write_matches(found: Matching, file: Path) -> None:
    """Writes a matching as .csv or .json. Raises InputError for other endings."""
    texts = {".csv": found.as_csv, ".json": lambda: json.dumps(found.as_dict(), ensure_ascii=False, indent=1) + "\n"}
    file.write_text(texts[check_ending(file)](), encoding="utf-8")


def check_ending(file: Path) -> str:
    """`.csv` or `.json`; InputError for another ending, before anything is computed."""
    if file.suffix.lower() not in (".csv", ".json"):
        raise InputError(Problem("ends neither in .csv nor in .json", "name it so", str(file), column="--out"))
    return file.suffix.lower()


# --- inside -------------------------------------------------------------------------------------------------


def _decode(item: tuple[str, Callable[[], bytes]]) -> tuple[str, np.ndarray | str]:
    """The pixels of a picture, or why there are none: one bad file must not end a matching of thousands."""
    digest, read = item
    try:
        return digest, decode(read())
    except (PictureError, MissingObject, CorruptObject, OSError) as error:
        return digest, str(error)


def _hash(path: Path) -> str:
    """SHA-256 of a file in hex, empty where it cannot be read."""
    try:
        return blob_key(path.read_bytes())
    except OSError:
        return ""


def read_master(store: Store, entry: CatalogEntry) -> bytes:
    """The bytes of an entry's master, checked. Raises MissingObject or CorruptObject."""
    return get_blob(store, entry.master, extension_of(entry.media_type))


def _stack(vectors: Sequence[np.ndarray]) -> np.ndarray:
    import numpy as np

    return np.stack(vectors) if vectors else np.zeros((0, 1), np.float32)
