"""Large objects in parts, on moto and on a real S3 server, over good lines and bad ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assetmill.config import StoreConfig
from assetmill.storage import multipart, s3
from assetmill.storage.store import StoreUnavailable, open_store
from fixtures_s3 import make_bucket
from servers.faulty_proxy import Faults, faulty_proxy
from test_storage_store import race

BUCKETS = ["moto", pytest.param("ceph", marks=pytest.mark.s3)]
PART = 5 * 2**20
DATA = os.urandom(2 * PART + 1234)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries without their waits: botocore's back-off is not what is tested."""
    monkeypatch.setattr(s3, "pause", lambda attempt: None)
    monkeypatch.setattr("botocore.retries.standard.RetryPolicy.compute_retry_delay", lambda self, context: 0)


@pytest.fixture
def line(request: pytest.FixtureRequest, kind: str, quick: None) -> Iterator[tuple[Any, Faults]]:
    """A store behind a proxy, that sends parts of 5 MiB, and the proxy's faults."""
    endpoint = request.getfixturevalue(f"{kind}_endpoint")
    made = make_bucket(endpoint)
    with faulty_proxy(endpoint.url) as (url, faults):
        config = made.model_copy(update={"endpoint_url": url, "multipart_bytes": PART})
        yield open_store(config, config.url), faults


def uploads(store: Any) -> list[Any]:
    """Uploads under way in the store's bucket."""
    return list(store._client.list_multipart_uploads(Bucket=store._bucket).get("Uploads", ()))


@pytest.mark.parametrize("kind", BUCKETS)
class TestParts:
    def test_a_large_object_is_whole_and_the_first_one_wins(self, line: tuple[Any, Faults]) -> None:
        """It comes back byte for byte; a second writer is told that the key is taken; nothing stays under way."""
        store, _ = line
        assert store.put_if_absent("big.bin", DATA, media_type="image/png") is True
        assert store.get("big.bin") == DATA
        assert store.put_if_absent("big.bin", DATA[::-1]) is False
        assert store.get("big.bin") == DATA
        found = store._client.head_object(Bucket=store._bucket, Key="pre/fix/big.bin")
        assert found["ContentType"] == "image/png"
        assert uploads(store) == []
        assert [info.key for info in store.list("probe/")] == []

    def test_replacing_goes_in_parts_everywhere(self, line: tuple[Any, Faults]) -> None:
        """Without a condition there is nothing a server could ignore: three parts, on every server."""
        store, faults = line
        store.put_if_absent("hint.bin", b"old")
        store.replace("warm.bin", DATA)  # the first large object tries the server out
        before = faults.forwarded
        store.replace("hint.bin", DATA)
        assert faults.forwarded - before == 3
        assert store.get("hint.bin") == DATA

    def test_of_racing_large_writers_one_wins(self, line: tuple[Any, Faults]) -> None:
        """Exactly one of six is told True, and the object holds that one's bytes."""
        store, _ = line
        versions = [DATA[:-1] + bytes([n]) for n in range(6)]
        won = race(6, lambda n: store.put_if_absent("race.bin", versions[n]))
        assert won.count(True) == 1
        assert store.get("race.bin") == versions[won.index(True)]
        assert uploads(store) == []

    def test_a_broken_part_is_sent_again(self, line: tuple[Any, Faults]) -> None:
        """A bit flipped in one part, a part cut off half-way and a part refused: the object is right all the same."""
        store, faults = line
        store.replace("warm.bin", DATA)
        faults.on_put = ["break", "half", "503"]
        store.replace("a.bin", DATA)
        assert faults.on_put == []
        assert store.get("a.bin") == DATA

    def test_a_lost_answer_to_the_completion_is_no_failure(self, line: tuple[Any, Faults]) -> None:
        """The completion landed and its answer was lost: what is there is compared, and it is ours."""
        store, faults = line
        store.put_if_absent("warm.bin", DATA)
        faults.on_post = ["", "lose"]  # beginning, completion
        faults.on_put = [] if s3._TAKES_PARTS[next(iter(_places(store)))] else ["lose"]
        assert store.put_if_absent("a.bin", DATA) is True
        faults.on_post = []
        assert store.get("a.bin") == DATA
        assert store.put_if_absent("a.bin", DATA[::-1]) is False

    def test_a_server_that_goes_on_refusing_leaves_nothing(self, line: tuple[Any, Faults]) -> None:
        """After bounded tries the store is unavailable; no object, no parts that someone pays for."""
        store, faults = line
        store.replace("warm.bin", DATA)
        faults.on_put = ["503"] * 200
        with pytest.raises(StoreUnavailable, match="run again: it resumes"):
            store.replace("a.bin", DATA)
        faults.on_put = []
        assert store.stat("a.bin") is None
        assert uploads(store) == []


def _places(store: Any) -> list[tuple[Any, ...]]:
    return [place for place in s3._TAKES_PARTS if place[1] == store.url and place[2] == store._endpoint]


@pytest.mark.s3
@pytest.mark.parametrize("kind", ["ceph"])  # moto says of every upload that it began in 2010
def test_what_dead_processes_left_is_ended_a_day_later(line: tuple[Any, Faults]) -> None:
    """Uploads below our prefix and older than a day go; younger ones and those of others stay."""
    store, _ = line
    for key in ("pre/fix/dead.bin", "other/alive.bin"):
        store._client.create_multipart_upload(Bucket=store._bucket, Key=key)
    later = datetime.now(UTC) + timedelta(days=1, minutes=1)
    assert multipart.sweep_uploads(store._client, store._bucket, "pre/fix/") == 0
    assert multipart.sweep_uploads(store._client, store._bucket, "pre/fix/", now=later) == 1
    assert [u["Key"] for u in uploads(store)] == ["other/alive.bin"]


@pytest.mark.parametrize("kind", ["moto"])  # a real server's signatures notice when a proxy takes headers away
def test_a_server_that_ignores_the_condition_gets_one_put(line: tuple[Any, Faults]) -> None:
    """Where a completion would overwrite, conditional writes of large objects stay one PUT: nothing is overwritten."""
    store, faults = line
    real = faults.take

    def ignoring(method: str) -> str:
        faults.ignore = ("if-none-match",) if method == "POST" else ()
        return real(method)

    faults.take = ignoring  # type: ignore[method-assign]
    assert store.put_if_absent("a.bin", DATA) is True
    assert [s3._TAKES_PARTS[place] for place in _places(store)] == [False]
    assert store.put_if_absent("a.bin", DATA[::-1]) is False
    assert store.get("a.bin") == DATA
    before = faults.seen["POST"]
    assert store.put_if_absent("b.bin", DATA) is True
    assert faults.seen["POST"] == before


def test_put_options_go_with_parts_too(moto_endpoint) -> None:
    """Encryption, storage class and access of store.options hold for large objects as for small ones."""
    options = {"ServerSideEncryption": "AES256", "StorageClass": "STANDARD_IA", "Tagging": "team=art"}
    config = make_bucket(moto_endpoint).model_copy(update={"options": options, "multipart_bytes": PART})
    store: Any = open_store(config, config.url)
    assert store.put_if_absent("a.bin", DATA)
    found = store._client.head_object(Bucket=store._bucket, Key="pre/fix/a.bin")
    assert (found["ServerSideEncryption"], found["StorageClass"]) == ("AES256", "STANDARD_IA")
    tags = store._client.get_object_tagging(Bucket=store._bucket, Key="pre/fix/a.bin")["TagSet"]
    assert tags == [{"Key": "team", "Value": "art"}]


@given(size=st.integers(1, 5 * 2**40), wanted=st.integers(multipart.MIN_PART_BYTES, 5 * 2**30))
def test_parts_are_few_enough(size: int, wanted: int) -> None:
    """For any object there are at most 10,000 parts, none smaller than S3 takes nor than was asked for."""
    part = multipart.part_size(size, wanted)
    assert part >= wanted
    assert -(-size // part) <= multipart.MAX_PARTS


def test_the_smallest_part_is_checked_when_the_config_is_read() -> None:
    """A part size that S3 refuses is refused before any night."""
    with pytest.raises(ValueError, match="multipart_bytes"):
        StoreConfig(multipart_bytes=1000)
