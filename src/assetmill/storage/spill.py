"""Sorting more facts than memory holds: they are dealt out by asset key, and wait in temporary files."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from assetmill.storage.segments import Fact

SPILL_BYTES = 8 << 20
"""Record text that is kept in memory at a time."""


class Spill:
    """Facts dealt out by the first digits of their asset key, in memory up to a bound, then in temporary files."""

    def __init__(self, folder: Path, expected_bytes: int) -> None:
        """`expected_bytes` of record text decide how many partitions there are: each should fit in memory."""
        self.folder = folder
        self.digits = 0
        while expected_bytes >> (4 * self.digits) > SPILL_BYTES and self.digits < 4:
            self.digits += 1
        self.held: dict[str, list[tuple[int, str, str, str, str, str, str]]] = {}
        self.size = 0

    def add(self, number: int, facts: Iterable[Fact]) -> None:
        """Takes in what segment `number` says; numbers must ascend."""
        for f in facts:
            self.held.setdefault(f.asset_key[: self.digits], []).append(
                (number, f.asset_key, f.kind, f.key, f.slot, f.signal, f.line)
            )
            self.size += len(f.line)
        if self.digits and self.size > SPILL_BYTES:
            for name, some in self.held.items():
                block = zlib.compress(json.dumps(some).encode(), 1)
                with (self.folder / f"part-{name}").open("ab") as file:
                    file.write(len(block).to_bytes(8, "big") + block)
            self.held, self.size = {}, 0

    def partitions(self) -> Iterator[Sequence[tuple[int, Fact]]]:
        """Each partition's facts in the order they came, partitions in order of asset key."""
        names = {path.name.removeprefix("part-") for path in self.folder.iterdir()} | set(self.held)
        for name in sorted(names):
            facts: list[tuple[int, Fact]] = []
            path = self.folder / f"part-{name}"
            if path.exists():
                with path.open("rb") as file:
                    while head := file.read(8):
                        block = json.loads(zlib.decompress(file.read(int.from_bytes(head, "big"))))
                        facts.extend((number, Fact(*rest)) for number, *rest in block)
            facts.extend((number, Fact(*rest)) for number, *rest in self.held.pop(name, []))
            yield facts
