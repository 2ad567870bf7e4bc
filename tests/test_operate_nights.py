"""One night per date and config, whatever clocks, machines and people do: shown with clocks that are given."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from assetmill.config.operation import ScheduleConfig
from assetmill.operate.nights import (
    NightDone,
    due_night,
    mark_done,
    missed_nights,
    night_at,
    night_named,
    night_to_make,
    overdue_night,
    read_mark,
    refuse_done,
)
from assetmill.pipeline import run_job
from assetmill.records import InputError
from productions import NAME, Production

BERLIN = ZoneInfo("Europe/Berlin")
AT_TWO = ScheduleConfig(cron="30 2 * * *", timezone="Europe/Berlin")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.fixture
def toys(tmp_path: Path) -> Production:
    return Production(tmp_path, settings={"schedule": {"cron": "30 2 * * *", "timezone": "Europe/Berlin"}})


def run(toys: Production, scheduled: str, now: str, **options: object) -> dict[str, object]:
    job = toys.job()
    night = night_to_make(job.config.schedule, utc(scheduled), utc(now))
    return run_job(job, night=night, **options)  # type: ignore[arg-type]


# --- the date -----------------------------------------------------------------------------------------------------


def test_the_zone_of_the_config_decides_the_date() -> None:
    """One moment is the 27th in Berlin and the 26th in New York; that it begins late changes nothing."""
    moment = utc("2026-11-27T01:30")
    assert night_at(AT_TWO, moment).name == "2026-11-27"
    in_new_york = ScheduleConfig(cron="30 20 * * *", timezone="America/New_York")
    assert night_at(in_new_york, moment).name == "2026-11-26"
    assert night_to_make(AT_TWO, moment, moment + timedelta(hours=20)).name == "2026-11-27"


def test_spring_has_one_night_though_its_hour_is_missing() -> None:
    """At 2:30 on 29 March 2026 there is no 2:30 in Berlin: the night begins at 3:00, once, with its own date."""
    before, after = utc("2026-03-29T00:59:59"), utc("2026-03-29T01:00:00")
    assert due_night(AT_TWO, before).name == "2026-03-28"
    night = due_night(AT_TWO, after)
    assert (night.name, night.scheduled) == ("2026-03-29", datetime(2026, 3, 29, 3, tzinfo=BERLIN))
    assert due_night(AT_TWO, utc("2026-03-30T00:29:59")).name == "2026-03-29"
    assert due_night(AT_TWO, utc("2026-03-30T00:30:00")).name == "2026-03-30"


def test_autumn_has_one_night_though_its_hour_comes_twice(toys: Production) -> None:
    """A scheduler that fires at both 2:30 of 25 October 2026 makes one night: the second start finds it done."""
    first, second = utc("2026-10-25T00:30"), utc("2026-10-25T01:30")
    assert {due_night(AT_TWO, t).name for t in (first, second)} == {"2026-10-25"}
    assert run(toys, first.isoformat()[:16], "2026-10-25T00:30")["status"] == "done"
    with pytest.raises(NightDone, match=r"night of 2026-10-25 is done"):
        run(toys, second.isoformat()[:16], "2026-10-25T01:30")


@settings(max_examples=40, deadline=None)
@given(
    start=st.datetimes(datetime(2025, 1, 1), datetime(2027, 1, 1)), minute=st.integers(0, 59), hour=st.integers(0, 5)
)
def test_every_date_has_one_night(start: datetime, minute: int, hour: int) -> None:
    """Whatever the hour, seven days on the clock are seven nights with seven dates, also where clocks change."""
    schedule = ScheduleConfig(cron=f"{minute} {hour} * * *", timezone="Europe/Berlin")
    began = start.replace(tzinfo=UTC)
    nights = [due_night(schedule, began + timedelta(hours=n)) for n in range(24 * 7)]
    names = list(dict.fromkeys(n.name for n in nights))
    assert names == sorted(names)
    days = [datetime.fromisoformat(n).date() for n in names]
    assert all(b - a == timedelta(days=1) for a, b in pairwise(days))
    assert 7 <= len(days) <= 8
    assert len({(n.name, n.scheduled.timestamp()) for n in nights}) == len(names)


def test_a_date_with_several_starts_has_several_nights() -> None:
    """A schedule of every six hours is not cut down to one run a day."""
    often = ScheduleConfig(cron="0 */6 * * *", timezone="UTC")
    assert night_at(often, utc("2026-11-27T06:00")).name == "2026-11-27T06:00"
    assert due_night(often, utc("2026-11-27T17:59")).name == "2026-11-27T12:00"
    with pytest.raises(InputError, match="several starts"):
        night_named(often, "2026-11-27", utc("2026-11-28T00:00"))
    assert night_named(often, "2026-11-27T06:00", utc("2026-11-28T00:00")).name == "2026-11-27T06:00"


def test_people_name_nights_by_date_or_as_due() -> None:
    """`due` is the newest one that has begun; what is no date, or has not come, is refused with the way out."""
    now = utc("2026-11-27T12:00")
    assert night_named(AT_TWO, "due", now).name == "2026-11-27"
    assert night_named(AT_TWO, "2026-11-20", now).name == "2026-11-20"
    for wrong in ("yesterday", "2026-13-01", "20261127", "2026-11-27T12"):
        with pytest.raises(InputError, match="no night"):
            night_named(AT_TWO, wrong, now)
    with pytest.raises(InputError, match="has not come"):
        night_named(AT_TWO, "2026-11-28", now)


@pytest.mark.parametrize(
    "schedule",
    [{"cron": "0 2 * *"}, {"cron": "0 0 2 * * *"}, {"cron": "0 25 * * *"}, {"cron": "0 2 30 2 *"},
     {"timezone": "Mars/Base"}, {"timezone": "../etc/passwd"}],
)  # fmt: skip
def test_schedules_that_never_begin_are_refused(schedule: dict[str, str]) -> None:
    """Wrong fields, impossible dates and unknown zones are found when the config is read."""
    with pytest.raises(ValidationError, match=r"five fields|never begins|no time zone"):
        ScheduleConfig(**schedule)


# --- once ---------------------------------------------------------------------------------------------------------


def test_a_date_is_done_once(toys: Production) -> None:
    """The second start of a date does nothing and names the run that did it; `again` runs it once more."""
    first = run(toys, "2026-11-27T01:30", "2026-11-27T01:30")
    assert (first["status"], first["night"]) == ("done", "2026-11-27")
    with pytest.raises(NightDone, match=str(first["run"])):
        run(toys, "2026-11-27T01:30", "2026-11-27T05:00")
    assert run(toys, "2026-11-27T01:30", "2026-11-27T05:00", again=True)["status"] == "nothing to do"
    assert run(toys, "2026-11-28T01:30", "2026-11-28T01:30")["night"] == "2026-11-28"


def test_a_run_without_a_date_is_nobodys_night(toys: Production) -> None:
    """What a person starts in between neither is refused nor counts as the night."""
    assert "night" not in toys.run()
    assert run(toys, "2026-11-27T01:30", "2026-11-27T01:30")["status"] == "nothing to do"
    assert toys.run()["status"] == "nothing to do"


def test_a_night_that_was_stopped_is_not_done(toys: Production) -> None:
    """After a SIGTERM the same date goes on; after a budget it is done, until the next night or `again`."""
    toys.change(run={"chunk": 4})
    scheduled = "2026-11-27T01:30"
    stopped = run(toys, scheduled, scheduled, on_run=lambda r: (setattr(r, "reason", "stopped"), r.stop.set()))
    assert stopped["status"] == "stopped"
    toys.change(run={"chunk": 4, "budget": {"images": 4}})
    assert run(toys, scheduled, scheduled)["status"] == "budget reached"
    with pytest.raises(NightDone, match="budget reached"):
        run(toys, scheduled, scheduled)
    again = run(toys, scheduled, scheduled, again=True)
    assert (again["status"], again["pictures"]) == ("budget reached", 4)


def test_a_damaged_mark_counts_as_not_done(toys: Production) -> None:
    """A mark that cannot be read costs a run that finds nothing to do, never a night."""
    run(toys, "2026-11-27T01:30", "2026-11-27T01:30")
    toys.store.replace(f"nights/{NAME}/2026-11-27.json", b"{")
    assert run(toys, "2026-11-27T01:30", "2026-11-27T01:30")["status"] == "nothing to do"
    assert read_mark(toys.store, NAME, "2026-11-27") is not None


def test_two_configs_in_one_store_have_nights_of_their_own(toys: Production) -> None:
    """A night that is done for one config is not done for another."""
    night = night_at(AT_TWO, utc("2026-11-27T01:30"))
    run(toys, "2026-11-27T01:30", "2026-11-27T01:30")
    refuse_done(toys.store, "others", night)
    with pytest.raises(NightDone):
        refuse_done(toys.store, NAME, night)


# --- missed nights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(25, 26, 27), (27, 25, 26), (26, 27, 25)])
def test_three_missed_nights_are_caught_up_once(toys: Production, order: tuple[int, ...]) -> None:
    """Late starts of three nights come in any order: the first makes the newest date, the others find it done."""
    run(toys, "2026-11-24T01:30", "2026-11-24T01:30")
    toys.sheet.append({"id": "new", "thing": "mug", "colour": "blue"})
    toys.write_sheet()
    first = run(toys, f"2026-11-{order[0]}T01:30", "2026-11-27T09:00")
    assert (first["night"], first["missed"], first["assets"]) == ("2026-11-27", ["2026-11-25", "2026-11-26"], 1)
    for day in order[1:]:
        with pytest.raises(NightDone):
            run(toys, f"2026-11-{day}T01:30", "2026-11-27T10:00")
    assert run(toys, "2026-11-28T01:30", "2026-11-28T01:30")["missed"] == []


def test_what_is_overdue(toys: Production) -> None:
    """A store that has seen no night has missed none; later, a night is overdue from its start until it is done."""
    store, schedule = toys.store, toys.job().config.schedule
    assert overdue_night(store, NAME, schedule, utc("2026-11-27T12:00")) is None
    run(toys, "2026-11-24T01:30", "2026-11-24T01:30")
    assert overdue_night(store, NAME, schedule, utc("2026-11-25T01:29")) is None
    night = overdue_night(store, NAME, schedule, utc("2026-11-27T12:00"))
    assert night is not None
    assert night.name == "2026-11-27"
    assert missed_nights(store, NAME, schedule, night) == ("2026-11-25", "2026-11-26")


def test_a_clock_that_jumps_back_makes_no_second_night(toys: Production) -> None:
    """A machine whose clock was a day ahead: the dates that are done stay done, and the next date is made."""
    run(toys, "2026-11-27T01:30", "2026-11-28T09:00")
    assert read_mark(toys.store, NAME, "2026-11-28") is not None
    with pytest.raises(NightDone):
        run(toys, "2026-11-28T01:30", "2026-11-28T01:30")
    assert run(toys, "2026-11-29T01:30", "2026-11-29T01:30")["night"] == "2026-11-29"


def test_marks_know_how_a_run_ended(toys: Production) -> None:
    """Only a run that came to its end marks its night."""
    night = night_at(AT_TWO, utc("2026-11-27T01:30"))
    for status in ("stopped", "crashed", "unknown"):
        assert not mark_done(toys.store, NAME, night, {"run": "x", "status": status})
    assert read_mark(toys.store, NAME, night.name) is None
    assert mark_done(toys.store, NAME, night, {"run": "x", "status": "done"})
