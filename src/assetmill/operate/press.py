"""The press: makes the files of one draft, channel by channel, and stores them.

The order of steps is fixed: the picture is composed from its master, described, encoded, signed last, stored, and what
was signed is read back and validated. A file's name carries the hash of its bytes, so a name never changes its bytes.

All that decides a file's bytes is named by its recipe. Where a file of the same recipe is published already it is
taken as it is: a night that changed a licence makes only the files that embed it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from assetmill.config import ChannelConfig, Config, RenditionConfig
from assetmill.deliver.picture import EXTENSIONS
from assetmill.operate.naming import PLAIN, folder_of, name_of
from assetmill.operate.settle import extension_of
from assetmill.operate.stages import Stages
from assetmill.records import GateRecord, blob_key, content_key
from assetmill.storage.entries import CatalogEntry, Rendition
from assetmill.storage.layout import blob_path, published_path
from assetmill.storage.store import CorruptObject, MissingObject, Store, get_blob, set_aside

EPOCH = 1
"""Part of every recipe: raised by hand when files should be made again although no setting changed."""


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel with all that it says resolved: its renditions, and the pattern of its files' names."""

    name: str
    settings: ChannelConfig
    specs: tuple[RenditionConfig, ...]
    pattern: str


@dataclass(frozen=True, slots=True)
class Order:
    """One file that is wanted: where it goes, what it shall look like, and its recipe."""

    channel: Channel
    spec: RenditionConfig
    folder: str
    stem: str
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
    """The channels of a config, the first one first; without any, one of masters as they are."""
    publish = config.publish
    if not publish.channels:
        form: str = "png" if publish.format == "png" else "webp-lossless"
        plain = RenditionConfig.model_validate({"name": PLAIN, "format": form})
        return (Channel(publish.channel, ChannelConfig(), (plain,), publish.name),)
    return tuple(
        Channel(name, settings, settings.renditions, settings.name or publish.name)
        for name, settings in publish.channels.items()
    )


class Press:
    """Makes files from masters. Safe to call from several threads."""

    def __init__(self, store: Store, config: Config, stages: Stages) -> None:
        self.store, self.config, self.stages = store, config, stages
        self.channels = open_channels(config)

    def orders(self, draft: CatalogEntry) -> Iterator[Order]:
        """The files that a draft should have. Reads no picture."""
        folder = folder_of(draft.asset_id)
        for channel in self.channels:
            name = name_of(channel.pattern, draft)
            for spec in channel.specs:
                stem = name if spec.name == PLAIN else f"{name}-{spec.name}"
                payload = {
                    "epoch": EPOCH,
                    "channel": channel.name,
                    "master": draft.master,
                    "folder": folder,
                    "stem": stem,
                    "spec": spec.model_dump(mode="json"),
                }
                yield Order(channel, spec, folder, stem, content_key("rendition", payload))

    def print(self, draft: CatalogEntry, known: Mapping[str, Rendition]) -> Printed:
        """Makes a draft's files, save those of a known recipe that are still there.

        Raises StoreUnavailable; what is wrong with one picture is said in the answer.
        """
        files: list[Rendition] = []
        refused: list[GateRecord] = []
        num_made = 0
        try:
            for order in self.orders(draft):
                file = known.get(order.recipe)
                if file is None or not self._is_there(file):
                    file = self._make(draft, order)
                    num_made += 1
                files.append(file)
        except _LostMaster as error:
            return Printed(draft, trouble=str(error), lost=True)
        except (ValueError, OSError, CorruptObject) as error:
            return Printed(draft, trouble=str(error))
        entry = replace(draft, renditions=tuple(files), object_key=files[0].object_key)
        return Printed(entry, tuple(refused), num_made)

    # --- inside -----------------------------------------------------------------------------------------------

    def _is_there(self, file: Rendition) -> bool:
        found = self.store.stat(file.object_key)
        return found is not None and found.size == file.size

    def _make(self, draft: CatalogEntry, order: Order) -> Rendition:
        data = self._master(draft)
        sha256 = blob_key(data)
        extension = EXTENSIONS[draft.media_type]
        key = published_path(order.channel.name, order.folder, order.stem, sha256[:8], extension)
        with self.stages.time("upload", 1):
            self._put(key, data, draft.media_type)
        return Rendition(
            channel=order.channel.name,
            name=order.spec.name,
            object_key=key,
            sha256=sha256,
            size=len(data),
            media_type=draft.media_type,
            width=draft.width,
            height=draft.height,
            recipe=order.recipe,
        )

    def _master(self, draft: CatalogEntry) -> bytes:
        extension = extension_of(draft.media_type)
        try:
            return get_blob(self.store, draft.master, extension)
        except (MissingObject, CorruptObject) as error:
            set_aside(self.store, blob_path(draft.master, extension))
            raise _LostMaster(str(error)) from error

    def _put(self, key: str, data: bytes, media_type: str) -> None:
        """Stores a file. One that is there already must be the same: it is never replaced."""
        if self.store.put_if_absent(key, data, media_type=media_type):
            return
        if self.store.get(key) != data:
            raise CorruptObject(key, "it is published with other bytes than its name says")


class _LostMaster(Exception):
    """The master that files should be made from is gone or damaged."""
