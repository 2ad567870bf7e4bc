"""What S3's answers mean: which refusals may pass by themselves, and how long to wait before asking again."""

from __future__ import annotations

import random
import time
from typing import Any

_BROKEN_ON_ITS_WAY = {"BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "InvalidDigest"}


def passes(error: Any) -> bool:
    """Whether a refusal may pass by itself.

    A 409 is a race not yet decided; Ceph's gateway answers 500 to some losers of a race. botocore repeats a 5xx
    too, but only while few requests of a client fail.
    """
    return status_of(error) in (409, 429, 500, 502, 503, 504) or code_of(error) in _BROKEN_ON_ITS_WAY


def repeated(error: Any) -> bool:
    """Whether botocore had asked before and got no answer: this one is then an answer to the repeated request."""
    return int(response_of(error).get("ResponseMetadata", {}).get("RetryAttempts", 0)) > 0


def status_of(error: Any) -> int:
    """The HTTP status of a ClientError, 0 of anything else."""
    return int(response_of(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code_of(error: Any) -> str:
    """The S3 error code of a ClientError, empty of anything else."""
    return str(response_of(error).get("Error", {}).get("Code", ""))


def response_of(error: Any) -> dict[str, Any]:
    from botocore.exceptions import ClientError

    return dict(error.response) if isinstance(error, ClientError) else {}


def pause(attempt: int) -> None:
    """Full jitter: clients that collided once come back apart."""
    time.sleep(random.uniform(0, min(5.0, 0.1 * 2**attempt)))
