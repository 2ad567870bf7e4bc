"""Chunks of a run on a Ray cluster: an actor per device keeps the models warm, and Prefect's task runs are made there.

The driver (this process) plans, admits chunks, holds lock and budget, and publishes; see `assetmill.operate.elsewhere`
for what an actor does. Between them go a run's id and a chunk's number, and back come counts. Actors own their GPUs for
the whole run: plain Ray tasks on a GPU get a new process, and load the models, each time.

Ray brings an actor of a dead node back where it finds room; until then the others go on without it.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import asdict
from typing import Any
from uuid import UUID, uuid4

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # workers use the environment of their own machine

import ray
from prefect import Task, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.context import serialize_context
from prefect.settings import PREFECT_API_URL
from prefect.states import State
from prefect_ray.task_runners import PrefectRayFuture, RayTaskRunner
from ray.exceptions import ActorDiedError, GetTimeoutError, RayActorError, RayTaskError

from assetmill import pipeline
from assetmill.config import Config, RayConfig
from assetmill.engines.protocols import EngineError
from assetmill.operate.clusters import check_reach, count_workers, demand_server, machines_of
from assetmill.operate.crew import IN_HAND, Crew, Died
from assetmill.operate.elsewhere import Made, RunPlace, WorkerFailed, place_of_run
from assetmill.operate.produce import BreakerTripped, Progress, Silence
from assetmill.operate.workers import CrewWorkers, draining
from assetmill.records import InputError

log = logging.getLogger("assetmill.flows")

OBJECT_STORE_BYTES = 80 * 2**20
"""What Ray on this machine sets apart for objects; ours are counts."""

FIRST_SECONDS = 600.0
"""How long the first worker may take to load its models, and a lost one to come back."""

OTHERS_SECONDS = 60.0
"""How much longer the others may take before the work begins without them."""


# --- in a worker process of the cluster -----------------------------------------------------------------------


def _worth_retrying(_task: Any, _run: Any, state: State[Any]) -> bool:
    """A broken model or bad input stays broken; a store that did not answer may answer in a minute.

    What ran out of time may still be on the device: it waits for the next run.
    """
    if state.name == "TimedOut":
        return False
    error = state.result(raise_on_failure=False) if state.is_failed() else None
    return not isinstance(error, BreakerTripped | InputError | EngineError)


@task(
    name="make-chunk",
    task_run_name="chunk {number}",
    retries=2,
    retry_delay_seconds=[10, 60],
    retry_condition_fn=_worth_retrying,
    persist_result=False,
    cache_policy=NO_CACHE,
)
def make_chunk_there(run_id: str, number: int) -> Made:
    """Makes one chunk of a run with the models that this worker keeps warm, and commits its segment."""
    from assetmill.operate.elsewhere import make_here

    return make_here(run_id, number)


@flow(name="produce", persist_result=False)
def produce_there() -> None:
    """Stands for the flow in task runs that leave the driver: the real one holds live runs, which cannot go along."""


class Worker:
    """The actor: one run's models, and the task runs that the driver sends."""

    def __init__(self, place: dict[str, Any], threads: int | None) -> None:
        self._place, self._threads = place, threads
        self._worker: Any = None
        self._opening = threading.Lock()

    def open(self) -> str:
        """Loads the models, and what a task run needs, once. Gives where that is."""
        import prefect.task_engine  # noqa: F401 - seconds, which the first chunk should not wait for

        from assetmill.operate.elsewhere import RunPlace, describe_place, keep_worker
        from assetmill.operate.logs import set_up_logging

        with self._opening:
            if self._worker is None:
                set_up_logging(run_id=self._place["run"])
                self._worker = keep_worker(RunPlace(**self._place), threads=self._threads)
        return describe_place()

    def run_task(self, call: dict[str, Any]) -> State[Any]:
        """One Prefect task run, here. Gives its state."""
        from prefect.task_engine import run_task_sync

        self.open()
        state: State[Any] = run_task_sync(**call, return_type="state")  # type: ignore[assignment]
        return state

    def drain(self) -> None:
        """Lets the batch on the device end, and begins nothing more."""
        if self._worker is not None:
            self._worker.stop.set()


# --- in the driver --------------------------------------------------------------------------------------------


class ActorTaskRunner(RayTaskRunner[Any]):
    """Prefect's runner for Ray, with task runs sent to actors that live as long as the run."""

    def submit_to(self, actor: Any, of: Task[Any, Any], parameters: dict[str, Any]) -> PrefectRayFuture[Any]:
        """A task run in an actor's process; its state is what the future's reference holds."""
        id_ = uuid4()
        inputs: dict[str, Any] = {"task": of, "task_run_id": id_, "task_inputs": {}, "copy_to_child_ctx": True}
        context = serialize_context(asset_ctx_kwargs=inputs)
        context["flow_run_context"]["flow"] = produce_there
        call = {"task": of, "task_run_id": id_, "parameters": parameters, "context": context}
        return PrefectRayFuture(task_run_id=id_, wrapped_future=actor.run_task.remote(call))


class ActorHand:
    """One actor, as its crew sees it: it comes back by itself, where Ray finds room for it."""

    returns = True

    def __init__(self, runner: ActorTaskRunner, place: RunPlace, number: int, config: Config, gpus: float) -> None:
        self.name = f"Ray worker {number + 1}"
        self.starts = 0
        self.lives = self.gone = False
        self.problem: Exception | None = None
        self._runner, self._run_id = runner, place.run
        limit = config.run.chunk_minutes
        self._task = make_chunk_there.with_options(timeout_seconds=limit * 60) if limit else make_chunk_there
        self._changing = threading.Lock()
        threads = config.run.threads or (None if gpus else max(1, int(config.run.ray.cpus)))
        self._actor: Any = (
            ray.remote(Worker)
            .options(
                num_gpus=gpus, num_cpus=config.run.ray.cpus, max_restarts=-1, max_concurrency=IN_HAND + 2,
                scheduling_strategy="SPREAD", name=f"assetmill-{place.run}-{number + 1}",
            )
            .remote(asdict(place), threads)
        )  # fmt: skip

    def start(self) -> None:
        """Waits, in a thread of its own, until the actor has its models; then it lives."""
        threading.Thread(target=self._await, name=self.name, daemon=True).start()

    def make(self, number: int) -> Made:
        """Makes a chunk as a Prefect task run in the actor. Raises Died, or what the worker raised."""
        starts = self.starts
        future = self._runner.submit_to(self._actor, self._task, {"run_id": self._run_id, "number": number})
        try:
            state = ray.get(future.wrapped_future)
        except RayActorError as error:
            self._note_death(starts, error)
            _tell_crashed(future.task_run_id, f"{self.name} is gone")
            raise Died from error
        except RayTaskError as error:
            raise WorkerFailed(str(error)) from None
        made = state.result(raise_on_failure=False)
        if isinstance(made, Made):
            return made
        raise made if isinstance(made, Exception) else WorkerFailed(f"chunk {number}: {state.message}")

    def drain(self) -> None:
        if self.lives:
            self._actor.drain.remote()

    def ask_to_close(self) -> None:
        self.drain()

    def close(self) -> None:
        self.gone = True
        with suppress(Exception):  # a cluster that is gone has closed it already
            ray.kill(self._actor)

    # --- inside -----------------------------------------------------------------------------------------------

    def _note_death(self, starts: int, error: Exception) -> None:
        with self._changing:
            if not self.lives or self.starts != starts:
                return  # another chunk of the same process told of it
            self.lives = False
        if isinstance(error, ActorDiedError):
            self.gone = True  # Ray does not bring it back
        else:
            self.start()

    def _await(self) -> None:
        end = time.monotonic() + FIRST_SECONDS
        while not self.gone:
            try:
                where = ray.get(self._actor.open.remote(), timeout=max(end - time.monotonic(), 0.1))
            except ActorDiedError as error:
                self.problem, self.gone = EngineError(f"{self.name} died while it loaded its models: {error}"), True
            except RayActorError:
                time.sleep(1)  # on its way to another node
            except GetTimeoutError:
                self.problem, self.gone = EngineError(f"{self.name} found no place within {FIRST_SECONDS:g} s"), True
            except Exception as error:  # noqa: BLE001 - handed to who waits for it
                cause = error.cause if isinstance(error, RayTaskError) else error
                self.problem, self.gone = cause if isinstance(cause, Exception) else error, True
            else:
                log.info("%s: %s", self.name, where)
                with self._changing:
                    self.starts += 1
                    self.lives = True
                return


def _tell_crashed(task_run_id: UUID, message: str) -> None:
    """Prefect's word that a task run will not end: its process cannot say so any more."""
    from prefect.client.orchestration import get_client
    from prefect.states import Crashed

    with suppress(Exception), get_client(sync_client=True) as client:  # it is for people only
        client.set_task_run_state(task_run_id, Crashed(message=message), force=True)


@contextmanager
def ray_workers(run: pipeline.Run, progress: Progress | None = None) -> Iterator[CrewWorkers]:
    """What makes a run's chunks on a cluster: actors with their models loaded, or at least the first of them.

    Raises InputError where server or store are out of the workers' reach; EngineError without room, or what the first
    worker raised while it loaded.
    """
    config, place = run.job.config, place_of_run(run.job, run.id)
    # Classes and tasks of this file go to workers as a whole: their machines have the package, not this folder.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with _connected(config.run.ray) as runner:
        nodes = ray.nodes()
        check_reach(config, demand_server(config, PREFECT_API_URL.value()), machines_of(nodes))
        gpus = config.run.ray.gpus
        if gpus is None:
            gpus = 1.0 if ray.cluster_resources().get("GPU") else 0.0
        room = count_workers(nodes, gpus, config.run.ray.cpus)
        wanted = config.run.devices if isinstance(config.run.devices, int) else room
        num = min(wanted, room, len(run.chunks))
        if num == 0:
            raise EngineError(
                f"the Ray cluster has no room for a worker with {gpus:g} GPUs and {config.run.ray.cpus:g} CPUs; see "
                "`ray status`, and run.ray.gpus and run.ray.cpus"
            )
        hands = [ActorHand(runner, place, n, config, gpus) for n in range(num)]
        crew = Crew(hands)
        try:
            with run.stages.time("start"):
                crew.open()
                _await_first(hands)
            with draining(run, crew.drain):
                yield CrewWorkers(run, crew, progress or Silence(), dispatch=True)
        finally:
            crew.close()


def make_with(workers: Any, numbers: Sequence[int]) -> list[BaseException]:
    """Makes chunks, as many at a time as there are slots; gives what went wrong with them. For a flow's own thread."""
    with ThreadPoolExecutor(workers.num_slots, thread_name_prefix="ray") as slots:
        # Each thread needs Prefect's context of the flow, and a context has room for one.
        making = [slots.submit(copy_context().run, workers.make_one, number) for number in numbers]
        return [error for error in (made.exception() for made in making) if error is not None]


def _await_first(hands: Sequence[ActorHand]) -> None:
    """Waits for all workers, or, when one is there, for the others a while. Raises what the first failed one raised."""
    end = time.monotonic() + FIRST_SECONDS
    while time.monotonic() < end and not all(hand.lives for hand in hands):
        for hand in hands:
            if hand.problem is not None:
                raise hand.problem
        if any(hand.lives for hand in hands):
            end = min(end, time.monotonic() + OTHERS_SECONDS)
        time.sleep(0.05)
    if not any(hand.lives for hand in hands):
        raise EngineError(f"no worker of the Ray cluster was ready within {FIRST_SECONDS:g} s; see `ray status`")


@contextmanager
def _connected(config: RayConfig) -> Iterator[ActorTaskRunner]:
    """A runner on the cluster at `address`, else at RAY_ADDRESS, else on a Ray of this machine, for this run only."""
    address = config.address or os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"log_to_driver": True, "logging_level": logging.WARNING}
    if address is None:
        address = "local"
        options |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
        options |= {"_node_ip_address": "127.0.0.1"}
    runner = ActorTaskRunner(None if address == "auto" else address, init_kwargs=options)
    if address == "auto":
        runner.init_kwargs["address"] = "auto"
    try:
        runner.__enter__()
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise EngineError(f"no Ray cluster at {address}: {error}; see run.ray.address and RAY_ADDRESS") from error
    try:
        yield runner
    finally:
        with suppress(Exception):
            runner.__exit__(None, None, None)
