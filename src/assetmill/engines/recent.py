"""A memory of tensors that forgets the least recently used ones once they hold too many bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class RecentTensors:
    """Named groups of tensors, at most `max_bytes` together; the least recently used group goes first.

    One group larger than the limit is not kept at all.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._groups: OrderedDict[Hashable, dict[str, torch.Tensor]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._groups)

    def get(self, key: Hashable) -> dict[str, torch.Tensor] | None:
        """The group of a key, which counts as used now; None if it is not held."""
        group = self._groups.get(key)
        if group is not None:
            self._groups.move_to_end(key)
        return group

    def put(self, key: Hashable, group: dict[str, torch.Tensor]) -> None:
        """Keeps a group, forgetting others where needed."""
        old = self._groups.pop(key, None)
        if old is not None:
            self.num_bytes -= _num_bytes(old)
        size = _num_bytes(group)
        if size > self.max_bytes:
            return
        self._groups[key] = group
        self.num_bytes += size
        while self.num_bytes > self.max_bytes:
            _, gone = self._groups.popitem(last=False)
            self.num_bytes -= _num_bytes(gone)


def _num_bytes(group: dict[str, torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in group.values())
