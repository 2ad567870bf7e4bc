"""Sections of a config: how and when a night works."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from assetmill.config.base import Section


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
    budget: BudgetConfig = BudgetConfig()


class ScheduleConfig(Section):
    cron: str = "0 2 * * *"
    timezone: str = "UTC"
