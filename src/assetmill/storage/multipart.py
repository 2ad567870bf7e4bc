"""Large objects in parts: each part checked and tried again by itself, the whole put if absent or not at all.

The object appears with the completion of its upload, and `If-None-Match: *` goes with that. Some servers ignore it
there although they honour it on a plain PUT (Ceph's gateway up to 16 at least), so that is tried out before the first
conditional upload of a process (`keeps_condition`); on such a server conditional writes stay one PUT.

What a dead process left under way costs money and is seen by nobody: uploads older than a day are ended
(`sweep_uploads`), as a folder's leftovers are.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from assetmill.storage.s3_errors import status_of

MIN_PART_BYTES = 5 * 2**20
"""S3's smallest part, the last one aside."""

MAX_PARTS = 10_000
"""S3's largest number of parts."""

LEFT_OVER = timedelta(days=1)
"""Age from which an upload that is still under way belongs to a dead process."""

_AT_ONCE = 4
"""Parts under way at a time: enough to fill a line, few enough that one large file does not take all connections."""

Ask = Callable[[Callable[[], Any]], Any]
"""Repeats a request that may be repeated, within bounds, and raises what remains."""


class BrokenPart(Exception):
    """A part arrived with other bytes than were sent."""

    def __init__(self, number: int) -> None:
        super().__init__(f"part {number} was changed on its way to the server")


@dataclass(frozen=True, slots=True)
class Part:
    """One part as the server confirmed it; `md5` is that of its bytes."""

    number: int
    etag: str
    sha256: str
    md5: bytes


def part_size(size: int, wanted: int) -> int:
    """Bytes of a part: `wanted`, or more where an object would have over 10,000 parts. Whole mebibytes then."""
    least = -(-size // MAX_PARTS)
    return max(wanted, MIN_PART_BYTES, -(-least // 2**20) * 2**20 if least > wanted else 0)


def begin_upload(client: Any, where: Mapping[str, str], media_type: str, options: Mapping[str, Any], ask: Ask) -> str:
    """Begins an upload and gives its id."""
    known = client.meta.service_model.operation_model("CreateMultipartUpload").input_shape.members
    chosen = {name: value for name, value in options.items() if name in known}
    answer = ask(
        lambda: client.create_multipart_upload(
            **where, **chosen, ContentType=media_type, ChecksumAlgorithm="SHA256"
        )
    )  # fmt: skip
    return str(answer["UploadId"])


def send_parts(client: Any, where: Mapping[str, str], upload: str, data: bytes, size: int, ask: Ask) -> list[Part]:
    """Sends all parts, a few at a time, and gives them in order. Raises what `ask` raises; nothing is undone here."""
    view = memoryview(data)
    starts = range(0, len(data), size)

    def send(number: int) -> Part:
        piece = view[(number - 1) * size : number * size]
        sha256 = base64.b64encode(hashlib.sha256(piece).digest()).decode()
        md5 = hashlib.md5(piece, usedforsecurity=False).digest()

        def once() -> Any:
            answer = client.upload_part(
                **where, UploadId=upload, PartNumber=number, Body=bytes(piece), ChecksumSHA256=sha256
            )
            told = answer.get("ChecksumSHA256")
            # Under a server's key an ETag is no MD5: then the server's own check of our SHA-256 must do.
            encrypted = "kms" in str(answer.get("ServerSideEncryption", ""))
            arrived = told == sha256 if told else encrypted or answer["ETag"].strip('"') == md5.hex()
            if not arrived:
                raise BrokenPart(number)
            return answer

        answer = ask(once)
        return Part(number, answer["ETag"], sha256, md5)

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="part") as pool:
        jobs = [pool.submit(send, number) for number in range(1, len(starts) + 1)]
        try:
            return [job.result() for job in jobs]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def complete_upload(
    client: Any, where: Mapping[str, str], upload: str, parts: Sequence[Part], condition: Mapping[str, str]
) -> str:
    """Makes the object of its parts and gives its ETag. Asks once; raises botocore's errors."""
    listed = [{"PartNumber": p.number, "ETag": p.etag, "ChecksumSHA256": p.sha256} for p in parts]
    answer = client.complete_multipart_upload(
        **where, UploadId=upload, MultipartUpload={"Parts": listed}, **condition
    )  # fmt: skip
    return str(answer["ETag"]).strip('"')


def expected_etag(parts: Sequence[Part]) -> str:
    """The ETag of an object made of these parts, on servers whose ETags are MD5s: that of the parts' MD5s, counted."""
    digest = hashlib.md5(b"".join(p.md5 for p in parts), usedforsecurity=False).hexdigest()
    return f"{digest}-{len(parts)}"


def abort_upload(client: Any, where: Mapping[str, str], upload: str) -> None:
    """Ends an upload and frees its parts; what cannot be ended now is swept another day."""
    from botocore.exceptions import BotoCoreError, ClientError

    with suppress(ClientError, BotoCoreError):
        client.abort_multipart_upload(**where, UploadId=upload)


def keeps_condition(client: Any, where: Mapping[str, str], ask: Ask) -> bool:
    """Whether this server refuses to complete an upload onto a key that is taken. `where` names an object there is."""
    from botocore.exceptions import ClientError

    upload = begin_upload(client, where, "text/plain", {}, ask)
    try:
        parts = send_parts(client, where, upload, b"probe", MIN_PART_BYTES, ask)
        complete_upload(client, where, upload, parts, {"IfNoneMatch": "*"})
    except ClientError as error:
        abort_upload(client, where, upload)
        if status_of(error) in (412, 501):  # refused, or not known there and said so
            return status_of(error) == 412
        raise
    return False


def sweep_uploads(client: Any, bucket: str, prefix: str, *, now: datetime | None = None) -> int:
    """Ends uploads below a prefix that are older than a day; gives their number. A server that cannot list them: 0."""
    from botocore.exceptions import BotoCoreError, ClientError

    oldest = (now or datetime.now(UTC)) - LEFT_OVER
    ended = 0
    try:
        pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix)
        for page in pages:
            for found in page.get("Uploads", ()):
                if found["Initiated"] < oldest:
                    abort_upload(client, {"Bucket": bucket, "Key": found["Key"]}, found["UploadId"])
                    ended += 1
    except (ClientError, BotoCoreError):
        return ended
    return ended
