"""A night and its date: which scheduled start a run answers, whether that one is done, and what was missed.

The scheduled start decides a night's date, read in the time zone of the config, however late the run begins and
whatever the clocks did meanwhile. A night that came to its end leaves a mark in the store; who starts it again is told
so. Missed nights are made up for by one run: a late start takes the place of the newest night that is due.

    night = night_to_make(config.schedule, scheduled=flow_run.scheduled_start_time, now=datetime.now(UTC))
    refuse_done(store, config.name, night)
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

from assetmill.config.operation import ScheduleConfig
from assetmill.records import InputError, Problem
from assetmill.storage.layout import night_path, nights_prefix
from assetmill.storage.store import CorruptObject, MissingObject, Store

log = logging.getLogger(__name__)

MAX_MISSED = 100
"""Missed nights that are named at most."""

_ENDED = (
    "done",
    "done, some items failed",
    "nothing to do",
    "budget reached",
    "cancelled",
    "timed out",
    "catalog held",
)
"""How a night's run ended that needs no other one. Runs that died or were stopped by their machine are made again."""

_NAME = re.compile(r"\d{4}-\d{2}-\d{2}(T\d{2}:\d{2})?")


@dataclass(frozen=True, slots=True)
class Night:
    """One scheduled start. `name` is its date, `2026-11-27`; with the time where a date has several, `…T14:30`."""

    name: str
    scheduled: datetime


class NightDone(Exception):
    """The night that a run was started for is done; there is nothing to do."""

    def __init__(self, config_name: str, night: Night, mark: Mapping[str, Any]) -> None:
        self.night, self.mark = night, dict(mark)
        super().__init__(
            f"{config_name}: the night of {night.name} is done (run {mark.get('run', 'unknown')}, "
            f"{mark.get('status', 'unknown')}); nothing was started. --again runs it once more"
        )


# --- which night ------------------------------------------------------------------------------------------------


def night_at(schedule: ScheduleConfig, scheduled: datetime) -> Night:
    """The night of a scheduled start, an aware time: its date in the schedule's zone.

    A date with several starts has several nights. One that comes twice on the clock, in the hour that is repeated in
    autumn, is one night.
    """
    local = scheduled.astimezone(ZoneInfo(schedule.timezone))
    several = len(_starts_on(schedule, local.date())) > 1
    return Night(f"{local:%Y-%m-%dT%H:%M}" if several else f"{local:%Y-%m-%d}", local)


def due_night(schedule: ScheduleConfig, now: datetime) -> Night:
    """The newest night whose start is not after `now`, an aware time."""
    whole = now.astimezone(UTC).replace(microsecond=0)
    return night_at(schedule, next(_starts(schedule, whole + timedelta(seconds=1), back=True)))


def night_to_make(schedule: ScheduleConfig, scheduled: datetime, now: datetime) -> Night:
    """The night that a start makes which was scheduled for then and begins now: the newest one that is due.

    So three starts that were missed, and come all at once when the machine is back, are one night and two that find
    it done.
    """
    due = due_night(schedule, now)
    return due if due.scheduled.timestamp() > scheduled.timestamp() else night_at(schedule, scheduled)


def night_named(schedule: ScheduleConfig, name: str, now: datetime) -> Night:
    """The night that people call `due`, `2026-11-27` or `2026-11-27T14:30`. InputError for what is no night yet."""
    if name == "due":
        return due_night(schedule, now)
    zone = ZoneInfo(schedule.timezone)
    try:
        if not _NAME.fullmatch(name):
            raise ValueError(name)
        start = datetime.fromisoformat(name).replace(tzinfo=zone)
    except ValueError as error:
        raise InputError(
            Problem(f"{name!r} is no night", "give a date such as 2026-11-27, or `due` for the newest one that is due")
        ) from error
    today = now.astimezone(zone).date()
    if start.date() > today:
        raise InputError(
            Problem(f"the night of {name} has not come: it is {today}", "leave the date out for a run of its own")
        )
    starts = _starts_on(schedule, start.date())
    if "T" not in name and len(starts) > 1:
        raise InputError(
            Problem(f"{name} has several starts", f"give one of them, such as {night_at(schedule, starts[0]).name}")
        )
    return Night(name, start if "T" in name or not starts else starts[0])


def _starts_on(schedule: ScheduleConfig, day: date) -> list[datetime]:
    """The first two starts of a date in the schedule's zone."""
    before = datetime.combine(day, time(), ZoneInfo(schedule.timezone)) - timedelta(seconds=1)
    return [s for s in islice(_starts(schedule, before), 2) if s.date() == day]


def _starts(schedule: ScheduleConfig, after: datetime, *, back: bool = False) -> Iterator[datetime]:
    """Starts after a time, or before it with the newest first.

    As cron of Debian has it: a start in the hour that spring leaves out comes right after, one in the hour that
    autumn repeats comes once.
    """
    from cronsim import CronSim

    yield from CronSim(schedule.cron, after.astimezone(ZoneInfo(schedule.timezone)), reverse=back)


# --- what is done -----------------------------------------------------------------------------------------------


def read_mark(store: Store, config_name: str, name: str) -> Mapping[str, Any] | None:
    """What a night that is done left behind: run, status, when. None for one that is not done."""
    try:
        mark = json.loads(store.get(night_path(config_name, name)))
        return mark if isinstance(mark, dict) else None
    except MissingObject:
        return None
    except (CorruptObject, ValueError) as error:
        log.warning("the mark of the night %s cannot be read, it counts as not done: %s", name, error)
        return None


def refuse_done(store: Store, config_name: str, night: Night) -> None:
    """Raises NightDone for a night that is done, also by the run that made up for a later one."""
    done = read_mark(store, config_name, night.name)
    if done is not None:
        raise NightDone(config_name, night, done)


def mark_done(store: Store, config_name: str, night: Night, report: Mapping[str, Any]) -> bool:
    """Marks a night as done when its report says that it came to its end; gives whether it did."""
    if report["status"] not in _ENDED:
        return False
    mark = {
        "schema": 1,
        "run": report["run"],
        "status": report["status"],
        "scheduled": night.scheduled.isoformat(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "missed": report.get("missed", []),
    }
    store.replace(night_path(config_name, night.name), (json.dumps(mark, indent=1) + "\n").encode())
    return True


def missed_nights(store: Store, config_name: str, schedule: ScheduleConfig, night: Night) -> tuple[str, ...]:
    """Nights between the last one that is done and this one, oldest first: what this one makes up for."""
    last = _last_done(store, config_name)
    if last is None or last >= night.name:
        return ()
    missed: list[str] = []
    for start in islice(_starts(schedule, night.scheduled, back=True), MAX_MISSED):
        name = night_at(schedule, start).name
        if name <= last:
            break
        if name != night.name and name not in missed:
            missed.append(name)
    return tuple(reversed(missed))


def overdue_night(store: Store, config_name: str, schedule: ScheduleConfig, now: datetime) -> Night | None:
    """The night that is due and was missed, in a store that has seen nights before; else None."""
    due = due_night(schedule, now)
    last = _last_done(store, config_name)
    return due if last is not None and last < due.name else None


def _last_done(store: Store, config_name: str) -> str | None:
    prefix = nights_prefix(config_name)
    return max((i.key.removeprefix(prefix).removesuffix(".json").replace(".", ":") for i in store.list(prefix)),
               default=None)  # fmt: skip
