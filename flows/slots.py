"""One night at a time per GPU: a slot of a Prefect concurrency limit, held while models are loaded and used.

The limit is Prefect's and shared by all flows of its server. It is made when it is missing, with one slot; more are
given in the UI. A slot is a lease that its holder renews, so one of a dead process becomes free by itself.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from threading import Event

from assetmill.config import Config

LEASE_SECONDS = 60.0
"""How long a dead holder's slot stays taken; Prefect's least."""

_LOOK_SECONDS = 5.0
"""How often who waits asks again, and looks whether it was told to stop."""

log = logging.getLogger("assetmill.flows")


def limit_of(config: Config) -> str:
    """The limit that a config's flows hold: the one it names, else one for its GPU on this machine; empty on a CPU."""
    if config.run.device_limit is not None:
        return config.run.device_limit
    if config.run.execution == "ray" or config.model.engine == "simulated" or config.model.device == "cpu":
        return ""  # Ray gives out the GPUs of its cluster itself
    from assetmill.engines.devices import pick_device

    device = pick_device(config.model.device)
    return "" if device.type == "cpu" else f"{socket.gethostname()}-{str(device).replace(':', '-')}"


@contextmanager
def device_slot(name: str, stop: Event) -> Iterator[bool]:
    """Waits for a slot of the limit and holds it while the block runs. An empty name is no limit.

    Gives False where `stop` was set while it waited: then nothing is held. A server that dies later changes nothing
    for who holds the slot.
    """
    if not name:
        yield True
        return
    _make_limit(name)
    slot = _wait_for_slot(name, stop)
    try:
        yield slot is not None
    finally:
        if slot is not None:
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
