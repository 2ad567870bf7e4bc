"""One night at a time per GPU: slots of Prefect concurrency limits, held while models are loaded and used.

The limit is Prefect's and shared by all flows of its server. It is made when it is missing, with one slot; more are
given in the UI. A slot is a lease that its holder renews, so one of a dead process becomes free by itself.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from threading import Event

from assetmill.config import Config
from assetmill.operate.devices import VISIBLE, devices_of

LEASE_SECONDS = 60.0
"""How long a dead holder's slot stays taken; Prefect's least."""

_LOOK_SECONDS = 5.0
"""How often who waits asks again, and looks whether it was told to stop."""

log = logging.getLogger("assetmill.flows")


def limits_of(config: Config) -> tuple[str, ...]:
    """The limits that a config's flows hold: the one it names, else one for each of its GPUs on this machine.

    Empty on a CPU. GPUs are named by the machine's own numbers, so that nights kept to different ones by
    CUDA_VISIBLE_DEVICES don't wait for each other.
    """
    run = config.run
    if run.device_limit is not None:
        return (run.device_limit,)
    if run.execution == "ray" or config.model.engine == "simulated" or config.model.device == "cpu":
        return ()  # Ray gives out the GPUs of its cluster itself
    from assetmill.engines.devices import pick_device

    wishes = devices_of(config) if run.execution == "processes" else ("",)
    devices = {str(pick_device(wish or config.model.device)) for wish in wishes}
    return tuple(sorted(f"{socket.gethostname()}-{_own_name(device)}" for device in devices - {"cpu"}))


def _own_name(device: str) -> str:
    """The name of a device on its machine, whatever this process sees: `cuda-4`."""
    kind, _, number = device.partition(":")
    seen = [part.strip() for part in os.environ.get(VISIBLE, "").split(",") if part.strip()] if kind == "cuda" else []
    own = seen[int(number)] if number and int(number) < len(seen) else number
    return f"{kind}-{own}" if own else kind


@contextmanager
def device_slots(names: Sequence[str], stop: Event) -> Iterator[bool]:
    """Waits for a slot of every limit and holds them while the block runs. Without names nothing is waited for.

    Gives False where `stop` was set while it waited: then nothing is held. A server that dies later changes nothing
    for who holds a slot. All flows ask in the same order, so that no two wait for each other.
    """
    held: list[tuple[str, ExitStack]] = []
    try:
        for name in sorted(names):
            _make_limit(name)
            slot = _wait_for_slot(name, stop)
            if slot is None:
                break
            held.append((name, slot))
        all_held = len(held) == len(names)
        if not all_held:
            _give_back(held)
        yield all_held
    finally:
        _give_back(held)


def _give_back(held: list[tuple[str, ExitStack]]) -> None:
    while held:
        name, slot = held.pop()
        try:
            slot.close()
        except Exception as error:  # noqa: BLE001 - the lease runs out by itself
            log.warning("the slot of %s could not be given back, it becomes free by itself: %s", name, error)


def _wait_for_slot(name: str, stop: Event) -> ExitStack | None:
    """Holds a slot until the stack is closed; None when told to stop."""
    from prefect.concurrency.sync import concurrency

    told = False
    # Prefect logs each look that ends without a slot as a failure of its own.
    logging.getLogger("prefect._internal.concurrency").setLevel(logging.CRITICAL)
    while not stop.is_set():
        slot = ExitStack()
        try:
            slot.enter_context(
                concurrency(name, timeout_seconds=_LOOK_SECONDS, lease_duration=LEASE_SECONDS, strict=True,
                            raise_on_lease_renewal_failure=False)
            )  # fmt: skip
            return slot
        except TimeoutError:
            if not told:
                log.warning("another flow holds the device: waiting for a slot of %s", name)
                told = True
    return None


def _make_limit(name: str) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            with suppress(ObjectAlreadyExists):  # another flow was quicker
                client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
