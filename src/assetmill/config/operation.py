"""Sections of a config: how and when a night works."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from assetmill.config.base import Section
from assetmill.config.execution import Devices, Execution, RayConfig


class BudgetConfig(Section):
    images: int | None = Field(None, ge=1)
    device_minutes: float | None = Field(None, gt=0)
    bytes: int | None = Field(None, ge=1)


class RunConfig(Section):
    chunk: int = Field(128, ge=1, le=4096, description="Candidates per chunk of whole assets (64-256 is usual).")
    lanes: int | None = Field(
        None,
        ge=1,
        le=64,
        description="Copies of the model that work side by side: one per core for small models on a CPU, else 1.",
    )
    threads: int | None = Field(None, ge=1, description="torch threads of each lane; the cores shared out if left out.")
    candidates: Literal["webp", "png"] = Field("webp", description="Format candidates are kept in, lossless both.")
    writers: int = Field(2, ge=1, le=64, description="Threads that encode, hash and store.")
    max_minutes: float | None = Field(
        None,
        gt=0,
        description="Minutes after which a run drains: the batch on the device ends, what is whole is published, the "
        "exit code is 1.",
    )
    execution: Execution = Field(
        "local", description="Where chunks are made: in this process, in one process per device, or on a Ray cluster."
    )
    devices: Devices = Field(
        "auto",
        description="With `processes`: every GPU of this machine (else one process), a list, or a number of processes. "
        "With `ray`: as many workers as there is room for, or a number.",
    )
    ray: RayConfig = RayConfig()
    chunk_minutes: float | None = Field(
        None,
        gt=0,
        description="Minutes that a flow gives a chunk, looked at between batches; then it waits for the next run, and "
        "the others go on.",
    )
    device_limit: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._ -]{0,127}$",
        description="Prefect's global concurrency limit that a flow holds while it uses the device, made if it is "
        "missing. Left out: one per GPU of a machine, none on a CPU.",
    )
    budget: BudgetConfig = BudgetConfig()


class ScheduleConfig(Section):
    """When nights begin."""

    cron: str = Field("0 2 * * *", description="Five fields: minute, hour, day, month, weekday.")
    timezone: str = Field(
        "UTC", description="Time zone of the cron fields, as `Europe/Berlin`; it decides which date a night has."
    )

    @field_validator("cron")
    @classmethod
    def _check_cron(cls, value: str) -> str:
        from cronsim import CronSim, CronSimError

        if len(value.split()) != 5:
            raise ValueError("give five fields: minute, hour, day, month, weekday; `0 2 * * *` is every night at two")
        try:
            next(CronSim(value, datetime(2024, 1, 1)))
        except (CronSimError, StopIteration) as error:
            raise ValueError(f"{value!r} never begins a night: {str(error) or 'no such date'}") from error
        return value

    @field_validator("timezone")
    @classmethod
    def _check_zone(cls, value: str) -> str:
        from zoneinfo import ZoneInfo

        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"{value!r} is no time zone; give one as `Europe/Berlin` or `UTC`") from error
        return value


class NotifyConfig(Section):
    """Whom to tell how a night ended. The address is a secret, so a config names only where it stands."""

    url_env: str = Field(
        "ASSETMILL_NOTIFY_URL",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Environment variable with the webhook's address (https, or http on this machine); "
        "unset, nobody is told.",
    )
    url_file: Path | None = Field(None, description="File that holds the address, where the variable is not set.")
    on: tuple[Literal["success", "partial", "failure"], ...] = Field(
        ("success", "partial", "failure"), description="Which ends are told of."
    )
    format: Literal["slack", "json"] = Field(
        "slack",
        description="`slack`: a text, as Slack, Mattermost and Discord (`/slack`) take it; `json`: the counts as an "
        "object.",
    )
