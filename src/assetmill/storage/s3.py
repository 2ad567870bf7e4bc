"""A store in a bucket of any S3-compatible server that keeps to conditional writes.

Every object is one PUT, so it is there whole or not at all. `put_if_absent` is `If-None-Match: *`, `swap` is
`If-Match` with the ETag. Both are tried out at opening: some servers ignore them and overwrite. Some (Ceph's
gateway up to 16 at least) compare `If-Match` with the bare ETag and refuse it in the quotes that HTTP asks for; which
form a server understands is found out at opening too.

An upload is checked three ways: its SHA-256 goes with it, for servers that verify it; the server's answer must
show that SHA-256, or the MD5 of our bytes as ETag; where it shows neither, the object is read back.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import os
import random
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from assetmill.storage import layout
from assetmill.storage.store import CorruptObject, MissingObject, ObjectInfo, StoreRefused, StoreUnavailable

if TYPE_CHECKING:
    from assetmill.config import StoreConfig

MAX_OBJECT_BYTES = 5 * 1024**3
"""S3's limit for one PUT. Larger objects need a multipart upload, whose condition some servers ignore."""

TRIES = 5
"""Tries of one operation, by botocore within each of ours (see `_passes`)."""

PAGE = 1000
"""Objects asked for at once by a list; S3's own limit."""

_OURS = {"Bucket", "Key", "Body", "ContentType", "ContentLength", "ContentMD5", "IfMatch", "IfNoneMatch"}
_BROKEN_ON_ITS_WAY = {"BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "InvalidDigest"}
_PROBED: dict[tuple[Any, ...], str] = {}
"""Stores found fit in this process, and the form of ETags that `If-Match` wants there."""


def open_bucket(config: StoreConfig, url: str, *, read_only: bool = False) -> BucketStore:
    """A store in `s3://bucket/prefix`; see `open_store` for the errors."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    if not bucket or "@" in bucket:
        raise StoreRefused(
            "store.url of a bucket is s3://bucket/prefix, without credentials: those come from the environment "
            "(AWS_ACCESS_KEY_ID …), ~/.aws or the machine's role"
        )
    if config.endpoint_url and "@" in urlsplit(config.endpoint_url).netloc:
        raise StoreRefused("store.endpoint_url holds credentials; take them out and give them in the environment")
    # The process is part of the key: a client does not survive a fork.
    client = _client(os.getpid(), config.endpoint_url, config.region, config.profile)
    store = BucketStore(client, bucket, prefix.strip("/"), options=_put_options(client, config.options))
    place = (os.getpid(), store.url, config.endpoint_url, config.region, config.profile)
    if read_only:
        store.check_bucket()
    elif place in _PROBED:
        store.etag_form = _PROBED[place]
    else:
        store.probe()
        _PROBED[place] = store.etag_form
    return store


@functools.lru_cache(maxsize=8)
def _client(pid: int, endpoint_url: str | None, region: str | None, profile: str | None) -> Any:
    """One client per process and server: a client holds the connections and is safe to share between threads."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    own_server = endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    settings = Config(
        max_pool_connections=32,
        connect_timeout=10,
        read_timeout=60,
        retries={"mode": "standard", "total_max_attempts": TRIES},
        # Other servers rarely have a DNS name per bucket.
        s3={"addressing_style": "path"} if own_server else None,
        # We send SHA-256 where it matters; the default CRC of newer SDKs is sent in a way older servers refuse.
        request_checksum_calculation="when_required",
        user_agent_extra="assetmill",
    )
    try:
        session = boto3.Session(profile_name=profile, region_name=region)
        return session.client("s3", endpoint_url=endpoint_url, config=settings)
    except (BotoCoreError, ValueError) as error:
        raise StoreUnavailable(
            f"no S3 client for {endpoint_url or 'AWS'} ({error}); check store.endpoint_url, store.region and "
            "store.profile"
        ) from error


def _put_options(client: Any, options: Any) -> dict[str, Any]:
    """`store.options` as arguments of put_object, refused when it has no such argument."""
    members = client.meta.service_model.operation_model("PutObject").input_shape.members
    found: dict[str, Any] = {}
    for name, value in options.items():
        kind = getattr(members.get(name), "type_name", None)
        if kind not in ("string", "boolean", "integer") or name in _OURS or "Checksum" in name:
            known = sorted(n for n, s in members.items() if s.type_name == "string" and n not in _OURS)
            raise StoreRefused(f"store.options: put_object takes no {name!r} here; it knows {', '.join(known)}")
        if kind == "boolean" and value.lower() not in ("true", "false"):
            raise StoreRefused(f"store.options.{name} is {value!r}; give 'true' or 'false'")
        found[name] = value if kind == "string" else value.lower() == "true" if kind == "boolean" else int(value)
    return found


class BucketStore:
    """Implements `Store` over a boto3 client. `etag_form` is how `If-Match` wants an ETag: quoted or bare."""

    def __init__(self, client: Any, bucket: str, prefix: str, *, options: dict[str, Any] | None = None) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._options = options or {}
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self.etag_form = '"{}"'

    # --- fitness ---

    def check_bucket(self) -> None:
        """Raises StoreUnavailable when the bucket does not exist or the server does not answer."""
        try:
            self._ask("", lambda: self._client.head_bucket(Bucket=self._bucket))
        except StoreUnavailable as error:
            if _status(error.__cause__) != 403:  # a reader may be allowed to read objects and nothing else
                raise

    def probe(self) -> None:
        """Raises StoreRefused unless the server keeps to conditional writes; leaves nothing behind."""
        key = f"probe/{uuid.uuid4().hex}"
        first = self._put(key, b"first", {"IfNoneMatch": "*"}, "text/plain")
        if first is None:
            raise self._refused("it says of a new key that it is taken")
        try:
            if self._put(key, b"second", {"IfNoneMatch": "*"}, "text/plain") is not None:
                raise self._refused("it ignores If-None-Match and overwrites")
            if self._put(key, b"third", {"IfMatch": f'"{"0" * 32}"'}, "text/plain") is not None:
                raise self._refused("it ignores If-Match and overwrites")
            for form in ('"{}"', "{}"):
                if self._put(key, b"fourth", {"IfMatch": form.format(first)}, "text/plain") is not None:
                    self.etag_form = form
                    return
            raise self._refused("it refuses If-Match with the object's own ETag")
        finally:
            with contextlib.suppress(StoreUnavailable):  # rather an object too many than another error's place taken
                self.delete(key)

    def _refused(self, why: str) -> StoreRefused:
        return StoreRefused(
            f"{self.url} at {self._endpoint}: this server does not keep to conditional writes ({why}), so two runs "
            "could overwrite each other; use one that does (AWS S3, Ceph, MinIO, R2 …), or a folder as store.url"
        )

    # --- reading ---

    def get(self, key: str) -> bytes:
        where = {"Bucket": self._bucket, "Key": self._key(key)}
        try:
            # botocore tries requests again, but not the download of a body: so that is part of what we try
            return self._ask(key, lambda: self._client.get_object(**where)["Body"].read())
        except StoreUnavailable as error:
            if _code(error.__cause__) in ("NoSuchKey", "404"):
                raise MissingObject(key, self.url) from error
            if type(error.__cause__).__name__ == "FlexibleChecksumError":
                raise CorruptObject(key, f"{self.url} hands out other bytes than it was given") from error
            raise

    def stat(self, key: str) -> ObjectInfo | None:
        where = {"Bucket": self._bucket, "Key": self._key(key)}
        try:
            found = self._ask(key, lambda: self._client.head_object(**where))
        except StoreUnavailable as error:
            if _status(error.__cause__) == 404:
                return None
            raise
        return ObjectInfo(key, found["ContentLength"], _bare(found["ETag"]), found["LastModified"].timestamp())

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        from botocore.exceptions import BotoCoreError, ClientError

        layout.check_prefix(prefix)
        pages = self._client.get_paginator("list_objects_v2")
        try:
            where = {"Bucket": self._bucket, "Prefix": self._prefix + prefix}
            for page in pages.paginate(**where, PaginationConfig={"PageSize": PAGE}):
                for found in page.get("Contents", ()):
                    yield ObjectInfo(
                        found["Key"][len(self._prefix) :],
                        found["Size"],
                        _bare(found["ETag"]),
                        found["LastModified"].timestamp(),
                    )
        except (ClientError, BotoCoreError) as error:
            raise self._unavailable(prefix, error) from error

    def local_path(self, key: str) -> Path | None:
        layout.check_key(key)
        return None

    # --- writing ---

    def put_if_absent(
        self, key: str, data: bytes, *, media_type: str = "application/octet-stream", cache_control: str = ""
    ) -> bool:
        return self._put(key, data, {"IfNoneMatch": "*"}, media_type, cache_control) is not None

    def replace(self, key: str, data: bytes, *, media_type: str = "application/octet-stream") -> None:
        self._put(key, data, {}, media_type)

    def swap(
        self, key: str, data: bytes, *, expected: str, media_type: str = "application/octet-stream"
    ) -> bool:  # fmt: skip
        return self._put(key, data, {"IfMatch": self.etag_form.format(expected)}, media_type) is not None

    def delete(self, key: str) -> None:
        where = {"Bucket": self._bucket, "Key": self._key(key)}
        try:
            self._ask(key, lambda: self._client.delete_object(**where))
        except StoreUnavailable as error:
            if _code(error.__cause__) != "NoSuchKey":
                raise

    def _put(
        self, key: str, data: bytes, condition: dict[str, str], media_type: str, cache_control: str = ""
    ) -> str | None:
        """Stores an object and gives its ETag, or None when the condition was not met."""
        from botocore.exceptions import BotoCoreError, ClientError

        if len(data) > MAX_OBJECT_BYTES:
            raise ValueError(f"{key} has {len(data)} bytes; a bucket takes at most {MAX_OBJECT_BYTES}: split it")
        where = {"Bucket": self._bucket, "Key": self._key(key)}
        sha256 = base64.b64encode(hashlib.sha256(data).digest()).decode()
        what = {**self._options, "Body": data, "ContentType": media_type, "ChecksumSHA256": sha256}
        if cache_control:
            what["CacheControl"] = cache_control
        answer_lost = False
        for attempt in range(TRIES):
            if attempt:
                _pause(attempt)
            try:
                answer = self._client.put_object(**where, **what, **condition)
            except ClientError as error:
                # A try before this answer may have landed: only then can the object be our own.
                answer_lost |= error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0) > 0
                if condition and (_status(error) == 412 or _code(error) == "NoSuchKey"):
                    return self._own_etag(key, data) if answer_lost else None
                if _passes(error):
                    answer_lost |= _status(error) >= 500
                    last: Exception = error
                    continue
                if condition and _status(error) == 501:
                    raise self._refused("it does not know them") from error
                raise self._unavailable(key, error) from error
            except BotoCoreError as error:
                raise self._unavailable(key, error) from error
            etag = _bare(answer["ETag"])
            if self._arrived(key, data, sha256, answer):
                return etag
            last = CorruptObject(key, "it was changed on its way to the server")
            if "IfNoneMatch" in condition:
                self.delete(key)
            elif "IfMatch" in condition:
                condition = {"IfMatch": self.etag_form.format(etag)}
        raise self._unavailable(key, last) from last

    def _own_etag(self, key: str, data: bytes) -> str | None:
        info = self.stat(key)
        try:
            return info.version if info and self.get(key) == data else None
        except (MissingObject, CorruptObject):
            return None

    def _arrived(self, key: str, data: bytes, sha256: str, answer: dict[str, Any]) -> bool:
        if answer.get("ChecksumSHA256"):
            return answer["ChecksumSHA256"] == sha256
        if _bare(answer["ETag"]) == hashlib.md5(data, usedforsecurity=False).hexdigest():
            return True
        try:
            return self.get(key) == data
        except (MissingObject, CorruptObject):
            return False

    # --- helpers ---

    def _ask(self, key: str, call: Callable[[], Any]) -> Any:
        """The answer to a request that may be repeated; StoreUnavailable carries the last error as its cause."""
        from botocore import exceptions
        from botocore.exceptions import BotoCoreError, ClientError

        broken_downloads = (
            exceptions.IncompleteReadError,
            exceptions.ResponseStreamingError,
            exceptions.ReadTimeoutError,
            exceptions.FlexibleChecksumError,
        )
        for attempt in range(TRIES):
            if attempt:
                _pause(attempt)
            try:
                return call()
            except ClientError as error:
                last: Exception = error
                if not _passes(error):
                    break
            except BotoCoreError as error:
                last = error
                if not isinstance(error, broken_downloads):
                    break  # no answer at all, which botocore has tried again by itself, or nothing that would pass
        raise self._unavailable(key, last) from last

    @property
    def _endpoint(self) -> str:
        return self._client.meta.endpoint_url

    def _key(self, key: str) -> str:
        return self._prefix + layout.check_key(key, prefix=self._prefix)

    def _unavailable(self, key: str, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self.url}{'/' + key if key else ''} at {self._endpoint}: {error}; {self._way_out(error)}"
        )

    def _way_out(self, error: Exception) -> str:
        from botocore.exceptions import NoCredentialsError, ParamValidationError

        code = _code(error)
        if isinstance(error, NoCredentialsError):
            return "give credentials in the environment (AWS_ACCESS_KEY_ID …), in ~/.aws, or as the machine's role"
        if code in ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"):
            return "renew the credentials, then run again: it resumes"
        if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "401", "403"):
            return "check the credentials and what they may do (get, put, delete and list objects in this bucket)"
        if code in ("NoSuchBucket", "404"):
            return f"create the bucket {self._bucket!r}, or correct store.url"
        if code == "InvalidBucketName" or isinstance(error, ParamValidationError):
            return "correct store.url and store.options"
        if code in ("RequestTimeTooSkewed",):
            return "set this machine's clock"
        if code in ("QuotaExceeded", "InsufficientCapacity", "XMinioStorageFull"):
            return "free some space or raise the quota, then run again: it resumes"
        return "check store.endpoint_url and the server, then run again: it resumes"


def _passes(error: Any) -> bool:
    """Whether a refusal may pass by itself.

    A 409 is a race not yet decided; Ceph's gateway answers 500 to some losers of a race. botocore repeats a 5xx
    too, but only while few requests of a client fail.
    """
    return _status(error) in (409, 429, 500, 502, 503, 504) or _code(error) in _BROKEN_ON_ITS_WAY


def _status(error: Any) -> int:
    """The HTTP status of a ClientError, 0 of anything else."""
    return int(_response(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: Any) -> str:
    """The S3 error code of a ClientError, empty of anything else."""
    return str(_response(error).get("Error", {}).get("Code", ""))


def _response(error: Any) -> dict[str, Any]:
    from botocore.exceptions import ClientError

    return dict(error.response) if isinstance(error, ClientError) else {}


def _bare(etag: str) -> str:
    return etag.strip('"')


def _pause(attempt: int) -> None:
    """Full jitter: clients that collided once come back apart."""
    time.sleep(random.uniform(0, min(5.0, 0.1 * 2**attempt)))
