"""The press: makes the files of one draft, channel by channel, and stores them.

The order of steps is fixed: the picture is composed from its master or its cut-out, described, encoded, signed last,
stored, and what was signed is read back and validated. A file's name carries the hash of its bytes, so a name never
changes its bytes.

All that decides a file's bytes is named by its recipe. Where a file of the same recipe is published already it is
taken as it is: a night that changed a licence makes only the files that embed it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from assetmill.config import ChannelConfig, Config, RenditionConfig
from assetmill.deliver.facts import Facts, facts_of
from assetmill.deliver.metadata import Embed, describe, sidecar
from assetmill.deliver.picture import EXTENSIONS, decode
from assetmill.operate.naming import PLAIN, folder_of, name_of
from assetmill.operate.settle import extension_of
from assetmill.operate.stages import Stages
from assetmill.records import GateRecord, InputError, Problem, blob_key, content_key
from assetmill.storage.entries import CatalogEntry, Rendition
from assetmill.storage.layout import blob_path, published_path
from assetmill.storage.store import CorruptObject, MissingObject, Store, get_blob, set_aside

if TYPE_CHECKING:
    import numpy as np

EPOCH = 1
"""Part of every recipe: raised by hand when files should be made again although no setting changed."""


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel with all that it says resolved: its renditions with their recipes, and the pattern of file names."""

    name: str
    settings: ChannelConfig
    specs: tuple[tuple[RenditionConfig, str], ...]
    pattern: str


@dataclass(frozen=True, slots=True)
class Order:
    """One file that is wanted: where it goes, what it shall look like and say, and its recipe."""

    channel: Channel
    spec: RenditionConfig
    folder: str
    stem: str
    facts: Facts
    recipe: str


@dataclass(frozen=True, slots=True)
class Printed:
    """What became of a draft: its entry with the files it has, and verdicts on those it has not.

    `trouble` says why the entry cannot be published at all; `lost` that this is because its master is gone or damaged,
    so that the picture must be made again. `num_made` counts files that were not there before.
    """

    entry: CatalogEntry
    refused: tuple[GateRecord, ...] = ()
    num_made: int = 0
    trouble: str = ""
    lost: bool = False


def open_channels(config: Config) -> tuple[Channel, ...]:
    """The channels of a config, the first one first; without any, one of masters as they are.

    Raises InputError where a palette cannot be read.
    """
    from assetmill.deliver.renditions import channel_renditions, recipe_of

    publish = config.publish
    channels: Mapping[str, ChannelConfig] = publish.channels
    if not channels:
        plain = {"name": PLAIN, "format": "png" if publish.format == "png" else "webp-lossless"}
        channels = {publish.channel: ChannelConfig.model_validate({"renditions": [plain]})}
    return tuple(
        Channel(
            name,
            settings,
            tuple((spec, recipe_of(spec)) for spec in channel_renditions(settings, config.base)),
            settings.name or publish.name,
        )
        for name, settings in channels.items()
    )


def publishing_key(config: Config) -> str:
    """Names all settings that decide what files there are and what is in them, for plans: 64 hex digits.

    A palette counts by its colours and a certificate by its bytes, so that a changed file is a changed setting.
    """
    channels = [
        [
            channel.name,
            channel.pattern,
            channel.settings.model_dump(mode="json", include={"embed", "sidecar", "sign"}),
            [[spec.name, key] for spec, key in channel.specs],
        ]
        for channel in open_channels(config)
    ]
    own = config.publish.model_dump(mode="json", include={"columns", "provenance", "alt"})
    return content_key("publishing", {"epoch": EPOCH, "channels": channels, "signer": _signer_key(config), **own})


def _signer_key(config: Config) -> str:
    """The hash of the certificate that channels sign with; empty where none signs."""
    credentials = config.publish.credentials
    if credentials is None or not any(channel.sign for channel in config.publish.channels.values()):
        return ""
    path = config.resolve(credentials.certificate)
    try:
        return blob_key(path.read_bytes())
    except OSError as error:
        problem = Problem(f"publish.credentials.certificate: {error.strerror}", "correct the path", file=str(path))
        raise InputError(problem) from error


def foresee_refusals(channels: Sequence[Channel], sizes: Iterable[tuple[int, int]]) -> list[str]:
    """Which files will be refused whatever the pictures show, by the sizes (width, height) of the masters to come."""
    from assetmill.deliver.renditions import too_small

    remarks = []
    counted = Counter(sizes)
    for channel in channels:
        for spec, _ in channel.specs:
            found = {size: too_small(spec, *size) for size in counted}
            refused = {size: problem for size, problem in found.items() if problem}
            if refused:
                (width, height), problem = next(iter(refused.items()))
                count = sum(counted[size] for size in refused)
                remarks.append(
                    f"{channel.name}/{spec.name} will be refused of {count} assets: {problem} (of {width}x{height})"
                )
    return remarks


class Press:
    """Makes files from masters. Safe to call from several threads. InputError where credentials cannot be used."""

    def __init__(self, store: Store, config: Config, stages: Stages) -> None:
        self.store, self.config, self.stages = store, config, stages
        self.channels = open_channels(config)
        self._signer_key = _signer_key(config)
        self._signer = None
        if self._signer_key and config.publish.credentials is not None:
            from assetmill.deliver.credentials import load_signer

            self._signer = load_signer(config.publish.credentials, config.resolve)

    def orders(self, draft: CatalogEntry) -> Iterator[Order]:
        """The files that a draft should have. Reads no picture."""
        folder = folder_of(draft.asset_id)
        facts = facts_of(draft, self.config.publish.provenance)
        for channel in self.channels:
            name = name_of(channel.pattern, draft)
            same = {
                "epoch": EPOCH,
                "channel": channel.name,
                "master": draft.master,
                "folder": folder,
                "says": _says(facts, channel.settings.embed),
                "signer": self._signer_key if channel.settings.sign else "",
            }
            for spec, key in channel.specs:
                stem = name if spec.name == PLAIN else f"{name}-{spec.name}"
                own = {"stem": stem, "spec": key, "cutout": draft.cutout if spec.cut_out else ""}
                yield Order(channel, spec, folder, stem, facts, content_key("file", {**same, **own}))

    def print(self, draft: CatalogEntry, known: Mapping[str, Rendition]) -> Printed:
        """Makes a draft's files, save those of a known recipe that are still there.

        Raises StoreUnavailable; what is wrong with one picture is said in the answer.
        """
        from assetmill.deliver.credentials import SigningError

        files: list[Rendition] = []
        refused: list[GateRecord] = []
        num_made = 0
        pictures = _Pictures(self.store, draft)
        try:
            for order in self.orders(draft):
                file: Rendition | str | None = known.get(order.recipe)
                if not isinstance(file, Rendition) or not self._is_there(file):
                    file = self._make(pictures, order)
                    num_made += isinstance(file, Rendition)
                if isinstance(file, Rendition):
                    files.append(self._with_sidecar(file, order))
                else:
                    gate = f"{order.channel.name}/{order.spec.name}"
                    refused.append(GateRecord(draft.variant_key, gate, "rendition", False, file))
        except _LostPicture as error:
            return Printed(draft, trouble=str(error), lost=True)
        except (ValueError, OSError, CorruptObject, SigningError) as error:
            return Printed(draft, trouble=str(error))
        if not files:
            reasons = "; ".join(f"{gate.gate}: {gate.reason}" for gate in refused)
            return Printed(draft, tuple(refused), trouble=f"no channel takes it: {reasons}")
        entry = replace(draft, renditions=tuple(files), object_key=files[0].object_key)
        return Printed(entry, tuple(refused), num_made)

    # --- inside -----------------------------------------------------------------------------------------------

    def _is_there(self, file: Rendition) -> bool:
        found = self.store.stat(file.object_key)
        return found is not None and found.size == file.size

    def _make(self, pictures: _Pictures, order: Order) -> Rendition | str:
        """Makes and stores a file, or says why a gate refuses it."""
        from assetmill.deliver.encoding import encode_rendition
        from assetmill.deliver.renditions import compose

        settings, spec = order.channel.settings, order.spec
        signer = self._signer if settings.sign else None
        with self.stages.time("render", 1):
            if spec.cut_out and pictures.cutout is None:
                return "it was not cut out"
            source = pictures.cutout if spec.cut_out and pictures.cutout is not None else pictures.master
            alpha = pictures.cutout[..., 3] if pictures.cutout is not None else None
            composed = compose(source, spec, alpha=alpha)
            if composed.problem:
                return composed.problem
            metadata = describe(order.facts, settings.embed)
            reserve = signer.reserve if signer is not None else 0
            encoded = encode_rendition(composed.pixels, spec, metadata, reserve=reserve)
            if encoded.problem:
                return encoded.problem
        data = encoded.data
        if signer is not None:
            with self.stages.time("sign", 1):
                data = signer.sign(data, encoded.media_type, order.facts)
        key = self._key(order, data, EXTENSIONS[encoded.media_type])
        with self.stages.time("upload", 1):
            self._put(key, data, encoded.media_type)
        if signer is not None:
            self._validate(key)
        height, width = composed.pixels.shape[:2]
        return Rendition(
            channel=order.channel.name,
            name=spec.name,
            object_key=key,
            sha256=blob_key(data),
            size=len(data),
            media_type=encoded.media_type,
            width=width,
            height=height,
            alpha=composed.alpha,
            recipe=order.recipe,
            signed=signer is not None,
        )

    def _with_sidecar(self, file: Rendition, order: Order) -> Rendition:
        """With the JSON file beside it, where the channel wants one."""
        if not order.channel.settings.sidecar:
            return replace(file, sidecar="", sidecar_sha256="")
        data = sidecar(order.facts, order.channel.settings.embed, picture=file.sha256)
        key = self._key(order, data, "json")
        if file.sidecar != key or self.store.stat(key) is None:
            self._put(key, data, "application/json")
        return replace(file, sidecar=key, sidecar_sha256=blob_key(data))

    def _key(self, order: Order, data: bytes, extension: str) -> str:
        return published_path(order.channel.name, order.folder, order.stem, blob_key(data)[:8], extension)

    def _put(self, key: str, data: bytes, media_type: str) -> None:
        """Stores a file. One that is there already must be the same: it is never replaced."""
        cache = self.config.publish.cache_control
        if self.store.put_if_absent(key, data, media_type=media_type, cache_control=cache):
            return
        if self.store.get(key) != data:
            raise CorruptObject(key, "it is published with other bytes than its name says")

    def _validate(self, key: str) -> None:
        """Reads a signed file back: what readers will find must hold."""
        from assetmill.deliver.credentials import check_credentials

        found = check_credentials(self.store.get(key))
        if not found.valid:
            raise CorruptObject(key, f"its credentials do not hold after upload: {'; '.join(found.problems)}")


class _Pictures:
    """The pictures of a draft, read when the first file needs them: uint8 (H, W, 4)."""

    def __init__(self, store: Store, draft: CatalogEntry) -> None:
        self._store, self._draft = store, draft

    @cached_property
    def master(self) -> np.ndarray:
        return self._read(self._draft.master)

    @cached_property
    def cutout(self) -> np.ndarray | None:
        return self._read(self._draft.cutout) if self._draft.cutout else None

    def _read(self, sha256: str) -> np.ndarray:
        extension = extension_of(self._draft.media_type)
        try:
            data = get_blob(self._store, sha256, extension)
        except (MissingObject, CorruptObject) as error:
            set_aside(self._store, blob_path(sha256, extension))
            raise _LostPicture(str(error)) from error
        return decode(data, alpha=True)


class _LostPicture(Exception):
    """The master or the cut-out that files should be made from is gone or damaged."""


def _says(facts: Facts, embed: Embed) -> dict[str, Any]:
    """What is embedded or signed, without the tool's version: an update alone makes no file anew."""
    found = describe(replace(facts, tool=""), embed)
    signed = (facts.digital_source, facts.system, facts.system_version, facts.data_mining)
    return {"text": dict(found.text), "exif": found.exif.hex(), "xmp": found.xmp.decode(), "signed": signed}
