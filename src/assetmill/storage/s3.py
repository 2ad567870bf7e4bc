"""A store in a bucket of any S3-compatible server that keeps to conditional writes.

Every object is one PUT, or one completion of an upload in parts (`storage.multipart`), so it is there whole or not at
all. `put_if_absent` is `If-None-Match: *`, `swap` is
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
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from assetmill.storage import layout, multipart
from assetmill.storage.s3_errors import code_of, passes, pause, repeated, status_of
from assetmill.storage.store import CorruptObject, MissingObject, ObjectInfo, StoreRefused, StoreUnavailable

if TYPE_CHECKING:
    from assetmill.config import StoreConfig

MAX_OBJECT_BYTES = 5 * 1024**3
"""S3's limit for one PUT. Larger objects need an upload in parts, whose condition some servers ignore."""

CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 60.0
"""Seconds without an answer after which a request is tried again."""

TRIES = 5
"""Tries of one operation, by botocore within each of ours (see `_passes`)."""

PAGE = 1000
"""Objects asked for at once by a list; S3's own limit."""

_OURS = {"Bucket", "Key", "Body", "ContentType", "ContentLength", "ContentMD5", "IfMatch", "IfNoneMatch"}
_PROBED: dict[tuple[Any, ...], str] = {}
"""Stores found fit in this process, and the form of ETags that `If-Match` wants there."""

_TAKES_PARTS: dict[tuple[Any, ...], bool] = {}
"""Whether the completion of an upload in parts keeps to its condition there."""


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
    store = BucketStore(
        client, bucket, prefix.strip("/"), options=_put_options(client, config.options),
        part_bytes=config.multipart_bytes,
    )  # fmt: skip
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
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=READ_TIMEOUT,
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
        if name.startswith("SSECustomer"):
            raise StoreRefused(
                f"store.options.{name}: a key of your own would stand in the config and be needed by every reader; use "
                "ServerSideEncryption: aws:kms with SSEKMSKeyId"
            )
        kind = getattr(members.get(name), "type_name", None)
        if kind not in ("string", "boolean", "integer") or name in _OURS or "Checksum" in name:
            known = sorted(n for n, s in members.items() if s.type_name == "string" and n not in _OURS)
            raise StoreRefused(f"store.options: put_object takes no {name!r} here; it knows {', '.join(known)}")
        if kind == "boolean" and value.lower() not in ("true", "false"):
            raise StoreRefused(f"store.options.{name} is {value!r}; give 'true' or 'false'")
        found[name] = value if kind == "string" else value.lower() == "true" if kind == "boolean" else int(value)
    return found


class BucketStore:
    """Implements `Store` over a boto3 client. `etag_form` is how `If-Match` wants an ETag: quoted or bare.

    Objects larger than `part_bytes` go up in parts of that size.
    """

    def __init__(
        self,
        client: Any,
        bucket: str,
        prefix: str,
        *,
        options: dict[str, Any] | None = None,
        part_bytes: int = 64 * 2**20,
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._options = options or {}
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self.etag_form = '"{}"'
        self._part_bytes = part_bytes
        self._parts_lock = threading.Lock()

    # --- fitness ---

    def check_bucket(self) -> None:
        """Raises StoreUnavailable when the bucket does not exist or the server does not answer."""
        try:
            self._ask("", lambda: self._client.head_bucket(Bucket=self._bucket))
        except StoreUnavailable as error:
            if status_of(error.__cause__) != 403:  # a reader may be allowed to read objects and nothing else
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
            if code_of(error.__cause__) in ("NoSuchKey", "404"):
                raise MissingObject(key, self.url) from error
            if type(error.__cause__).__name__ == "FlexibleChecksumError":
                raise CorruptObject(key, f"{self.url} hands out other bytes than it was given") from error
            raise

    def stat(self, key: str) -> ObjectInfo | None:
        where = {"Bucket": self._bucket, "Key": self._key(key)}
        try:
            found = self._ask(key, lambda: self._client.head_object(**where))
        except StoreUnavailable as error:
            if status_of(error.__cause__) == 404:
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

    def replace(
        self, key: str, data: bytes, *, media_type: str = "application/octet-stream", cache_control: str = ""
    ) -> None:
        self._put(key, data, {}, media_type, cache_control)

    def swap(
        self, key: str, data: bytes, *, expected: str, media_type: str = "application/octet-stream"
    ) -> bool:  # fmt: skip
        return self._put(key, data, {"IfMatch": self.etag_form.format(expected)}, media_type) is not None

    def delete(self, key: str) -> None:
        where = {"Bucket": self._bucket, "Key": self._key(key)}
        try:
            self._ask(key, lambda: self._client.delete_object(**where))
        except StoreUnavailable as error:
            if code_of(error.__cause__) != "NoSuchKey":
                raise

    def _put(
        self, key: str, data: bytes, condition: dict[str, str], media_type: str, cache_control: str = ""
    ) -> str | None:
        """Stores an object and gives its ETag, or None when the condition was not met."""
        from botocore.exceptions import BotoCoreError, ClientError

        where = {"Bucket": self._bucket, "Key": self._key(key)}
        if len(data) > self._part_bytes and "IfMatch" not in condition and self._takes_parts(bool(condition)):
            return self._put_parts(key, data, condition, media_type)
        if len(data) > MAX_OBJECT_BYTES:
            raise ValueError(
                f"{key} has {len(data)} bytes; this server takes at most {MAX_OBJECT_BYTES} in one conditional PUT "
                "and ignores the condition of uploads in parts: split it, or use a server that keeps to it"
            )
        sha256 = base64.b64encode(hashlib.sha256(data).digest()).decode()
        what = {**self._options, "Body": data, "ContentType": media_type, "ChecksumSHA256": sha256}
        if cache_control:
            what["CacheControl"] = cache_control
        answer_lost = False
        for attempt in range(TRIES):
            if attempt:
                pause(attempt)
            try:
                answer = self._client.put_object(**where, **what, **condition)
            except ClientError as error:
                # A try before this answer may have landed: only then can the object be our own.
                answer_lost |= repeated(error)
                if condition and (status_of(error) == 412 or code_of(error) == "NoSuchKey"):
                    return self._own_etag(key, data) if answer_lost else None
                if passes(error):
                    answer_lost |= status_of(error) >= 500
                    last: Exception = error
                    continue
                if condition and status_of(error) == 501:
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

    def _takes_parts(self, conditional: bool) -> bool:
        """Whether an upload in parts is safe here. Asked once per process and store, at the first large object."""
        place = (os.getpid(), self.url, self._endpoint)
        with self._parts_lock:
            if place not in _TAKES_PARTS:
                multipart.sweep_uploads(self._client, self._bucket, self._prefix)
                key = f"probe/{uuid.uuid4().hex}"
                self._put(key, b"first", {"IfNoneMatch": "*"}, "text/plain")
                try:
                    where = {"Bucket": self._bucket, "Key": self._key(key)}
                    _TAKES_PARTS[place] = multipart.keeps_condition(
                        self._client, where, lambda call: self._ask(key, call)
                    )
                finally:
                    with contextlib.suppress(StoreUnavailable):
                        self.delete(key)
        return _TAKES_PARTS[place] or not conditional

    def _put_parts(self, key: str, data: bytes, condition: dict[str, str], media_type: str) -> str | None:
        """Stores a large object in parts and gives its ETag, or None when the condition was not met."""
        where = {"Bucket": self._bucket, "Key": self._key(key)}

        def ask(call: Callable[[], Any]) -> Any:
            return self._ask(key, call)

        upload = multipart.begin_upload(self._client, where, media_type, self._options, ask)
        etag = None
        try:
            size = multipart.part_size(len(data), self._part_bytes)
            parts = multipart.send_parts(self._client, where, upload, data, size, ask)
            etag = self._complete(key, upload, parts, data, condition)
        finally:
            if etag is None:
                multipart.abort_upload(self._client, where, upload)
        return etag

    def _complete(
        self, key: str, upload: str, parts: Sequence[multipart.Part], data: bytes, condition: dict[str, str]
    ) -> str | None:
        """Completes an upload. What is found there after a lost answer is compared: it may be our own."""
        from botocore.exceptions import BotoCoreError, ClientError

        where = {"Bucket": self._bucket, "Key": self._key(key)}
        answer_lost = False
        for attempt in range(TRIES):
            if attempt:
                pause(attempt)
            try:
                return multipart.complete_upload(self._client, where, upload, parts, condition)
            except ClientError as error:
                last: Exception = error
                answer_lost |= repeated(error)
                if condition and status_of(error) == 412:
                    return self._own_parts(key, data, parts) if answer_lost else None
                if code_of(error) == "NoSuchUpload":  # completed, by a request whose answer we never saw
                    own = self._own_parts(key, data, parts)
                    if own is not None or condition:
                        return own
                if not passes(error):
                    break
                answer_lost |= status_of(error) >= 500
            except BotoCoreError as error:  # no answer, after botocore's own tries
                last = error
                own = self._own_parts(key, data, parts)
                if own is not None:
                    return own
                break
        raise self._unavailable(key, last) from last

    def _own_parts(self, key: str, data: bytes, parts: Sequence[multipart.Part]) -> str | None:
        """The ETag of what is there when that is the object of these parts."""
        info = self.stat(key)
        if info is None or info.size != len(data):
            return None
        return info.version if info.version == multipart.expected_etag(parts) else self._own_etag(key, data)

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
                pause(attempt)
            try:
                return call()
            except ClientError as error:
                last: Exception = error
                if not passes(error):
                    break
            except BotoCoreError as error:
                last = error
                if not isinstance(error, broken_downloads):
                    break  # no answer at all, which botocore has tried again by itself, or nothing that would pass
            except multipart.BrokenPart as error:
                last = error
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

        code = code_of(error)
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


def _bare(etag: str) -> str:
    return etag.strip('"')
