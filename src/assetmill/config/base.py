"""What every section of a config is made of."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def _parse_size(value: Any) -> Any:
    """`512` or `"512x768"` (width × height) as a pair of pixels."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return (value, value)
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+)\s*(?:[x×*,]\s*(\d+)\s*)?", value)
        if match:
            return (int(match[1]), int(match[2] or match[1]))
    return value


Size = Annotated[
    tuple[Annotated[int, Field(ge=8, le=16384)], Annotated[int, Field(ge=8, le=16384)]],
    BeforeValidator(_parse_size, json_schema_input_type=int | str | tuple[int, int]),
]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
