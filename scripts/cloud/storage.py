"""Put a large file into Object Storage so that a broken upload goes on where it stopped.

The state is the service's own: an unfinished upload of the object's name, and the parts it holds with their MD5. Object
names carry a checksum of the content, so parts of two files never meet. Knows buckets, objects, parts and links. Knows
nothing of images. The SDK's UploadManager is not used: it sends parts without their Content-MD5, and when it resumes it
takes the parts that are there on trust.
"""

from __future__ import annotations

import base64
import hashlib
import io
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import oci

from ..problem import Problem
from ..progress import Progress
from .image import PATIENT
from .session import Session, asking, list_all

MODELS = oci.object_storage.models
PART_BYTES = 64 << 20  # up to 10,000 parts of 10 MiB to 50 GiB are allowed; three at once must fit into memory
AT_ONCE = 3
TRIES = 3
PAUSE_S = 2.0  # before the second try, twice that before the third
SHA256 = "opc-meta-sha256"
Sleep = Callable[[float], None]


@dataclass(frozen=True)
class Bucket:
    """A bucket in the tenancy's namespace."""

    session: Session
    namespace: str
    name: str

    @property
    def place(self) -> tuple[str, str]:
        return self.namespace, self.name


@dataclass(frozen=True)
class Part:
    """One stretch of the file, and what the service calls it once it has it."""

    number: int  # from 1
    offset: int
    n_bytes: int


def open_bucket(session: Session, name: str) -> tuple[Bucket, bool]:
    """The bucket, and whether it is there."""
    with asking("the Object Storage namespace"):
        namespace = session.storage.get_namespace(**PATIENT).data
    bucket = Bucket(session, namespace, name)
    try:
        session.storage.get_bucket(*bucket.place, **PATIENT)
    except oci.exceptions.ServiceError as error:
        if error.status == 404:
            return bucket, False
        with asking(f"bucket {name}", "storage"):
            raise
    return bucket, True


def make_bucket(bucket: Bucket, compartment_ocid: str) -> None:
    """A private bucket for images."""
    details = MODELS.CreateBucketDetails(
        name=bucket.name,
        compartment_id=compartment_ocid,
        public_access_type=MODELS.CreateBucketDetails.PUBLIC_ACCESS_TYPE_NO_PUBLIC_ACCESS,
        freeform_tags={"product": "llamakiln"},
    )
    hint = "the name may be taken by a bucket that you may not see: choose another with BUCKET=name"
    with asking(f"bucket {bucket.name}", "storage", hint=hint):
        try:
            bucket.session.storage.create_bucket(bucket.namespace, details)
        except oci.exceptions.ServiceError as error:
            if error.status != 409:
                raise
            raise Problem(f"bucket {bucket.name}: the tenancy has it already, and you may not see it", hint) from error


def has_object(bucket: Bucket, name: str, n_bytes: int, sha256: str) -> bool:
    """Whether the object is there with this size and this checksum in its metadata."""
    try:
        headers = bucket.session.storage.head_object(*bucket.place, name, **PATIENT).headers
    except oci.exceptions.ServiceError as error:
        if error.status == 404:
            return False
        with asking(f"object {name}", "storage"):
            raise
    return (headers.get("content-length"), headers.get(SHA256)) == (str(n_bytes), sha256)


def upload(
    bucket: Bucket, name: str, file: Path, sha256: str, log: Callable[[str], None], sleep: Sleep = time.sleep
) -> None:
    """Send what the service does not have yet of the file, and make the object of it."""
    total = file.stat().st_size
    parts = [
        Part(number, offset, min(PART_BYTES, total - offset))
        for number, offset in enumerate(range(0, total, PART_BYTES), 1)
    ]
    with asking(f"uploads to bucket {bucket.name}", "storage"):
        upload_id = find_upload(bucket, name) or start_upload(bucket, name, sha256)
        there = {
            one.part_number: one
            for one in list_all(
                bucket.session.storage.list_multipart_upload_parts, *bucket.place, name, upload_id, **PATIENT
            )
        }
    etags = {part.number: there[part.number].etag for part in parts if is_there(file, part, there)}
    n_done = sum(part.n_bytes for part in parts if part.number in etags)
    if n_done:
        log(f"going on: {len(etags)} of {len(parts)} parts are there")
    sender = Sender(bucket, name, upload_id, file, Progress(f"uploading {file.name}", total, n_done), sleep)
    missing = [part for part in parts if part.number not in etags]
    # Daemon threads: Ctrl-C ends the program at once instead of after the parts on their way.
    with ThreadPool(AT_ONCE) as pool:
        etags.update(pool.imap_unordered(sender.send, missing))
    sender.progress.close()
    details = MODELS.CommitMultipartUploadDetails(
        parts_to_commit=[
            MODELS.CommitMultipartUploadPartDetails(part_num=part.number, etag=etags[part.number]) for part in parts
        ],
        parts_to_exclude=sorted(set(there) - set(etags)),
    )
    with asking(f"the upload of {name}", "storage"):
        bucket.session.storage.commit_multipart_upload(*bucket.place, name, upload_id, details)


def find_upload(bucket: Bucket, name: str) -> str | None:
    """The unfinished upload of this object, the newest if there are several."""
    found = [one for one in list_uploads(bucket) if one.object == name]
    return max(found, key=lambda one: one.time_created).upload_id if found else None


def list_uploads(bucket: Bucket) -> list[Any]:
    return list_all(bucket.session.storage.list_multipart_uploads, *bucket.place, **PATIENT)


def start_upload(bucket: Bucket, name: str, sha256: str) -> str:
    details = MODELS.CreateMultipartUploadDetails(object=name, metadata={SHA256: sha256})
    return bucket.session.storage.create_multipart_upload(*bucket.place, details).data.upload_id


def is_there(file: Path, part: Part, there: dict[int, Any]) -> bool:
    """Whether the service holds these very bytes."""
    one = there.get(part.number)
    return bool(one) and one.size == part.n_bytes and one.md5 == md5_text(read_part(file, part))


def read_part(file: Path, part: Part) -> bytes:
    with file.open("rb") as data:
        data.seek(part.offset)
        return data.read(part.n_bytes)


def md5_text(content: bytes) -> str:
    """MD5 as the service writes it; it guards the way there, not against people."""
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


class Sender:
    """Sends parts, from several threads."""

    def __init__(self, bucket: Bucket, name: str, upload_id: str, file: Path, progress: Progress, sleep: Sleep) -> None:
        self.bucket, self.name, self.upload_id, self.file = bucket, name, upload_id, file
        self.progress, self._sleep, self._lock = progress, sleep, threading.Lock()

    def send(self, part: Part) -> tuple[int, str]:
        """The part's number and ETag once the service has it; TRIES times, then a Problem."""
        content = read_part(self.file, part)
        for attempt in range(1, TRIES + 1):
            body = Heard(content, self._count)
            try:
                with asking(f"part {part.number} of {self.name}", "storage"):
                    return part.number, self._put(part, body, md5_text(content))
            except Problem as problem:
                self._count(-body.n_heard)
                if attempt == TRIES or not may_pass(problem.__cause__):
                    raise
            self._sleep(PAUSE_S * attempt)
        raise AssertionError("every try returns, raises or is followed by another")

    def _put(self, part: Part, body: Heard, md5: str) -> str:
        put = self.bucket.session.storage.upload_part
        answer = put(*self.bucket.place, self.name, self.upload_id, part.number, body, content_md5=md5)
        return answer.headers["etag"]

    def _count(self, n_bytes: int) -> None:
        with self._lock:
            self.progress.add(n_bytes)


class Heard(io.BytesIO):
    """Bytes that tell how many of them were read; sent in small pieces, so that no timeout meets a whole part."""

    def __init__(self, content: bytes, on_bytes: Callable[[int], None]) -> None:
        super().__init__(content)
        self._on_bytes = on_bytes
        self.n_heard = 0

    def read(self, size: int | None = -1) -> bytes:
        piece = super().read(size)
        self.n_heard += len(piece)
        self._on_bytes(len(piece))
        return piece


def may_pass(error: BaseException | None) -> bool:
    """Whether the same call may succeed when it is made again: damaged or broken on its way, or a busy service."""
    if isinstance(error, oci.exceptions.ServiceError):
        return error.status in (409, 429) or error.status >= 500 or error.code == "UnmatchedContentMD5"
    return isinstance(error, (oci.exceptions.RequestException, oci.exceptions.ConnectTimeout))


def make_link(bucket: Bucket, name: str, days: int) -> tuple[str, datetime]:
    """A link that reads this one object without credentials, and when it ends. OCI shows it only now."""
    expires = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(days=days)
    details = MODELS.CreatePreauthenticatedRequestDetails(
        name=f"{name}, {days} days",
        object_name=name,
        access_type=MODELS.CreatePreauthenticatedRequestDetails.ACCESS_TYPE_OBJECT_READ,
        time_expires=expires,
    )
    with asking(f"a link to {name}", "storage"):
        link = bucket.session.storage.create_preauthenticated_request(*bucket.place, details).data
    return link.full_path or f"{bucket.session.storage.base_client.endpoint}{link.access_uri}", expires


def list_objects(bucket: Bucket, prefix: str) -> Iterator[Any]:
    """Every object whose name begins so. This list has its own way of paging."""
    start = None
    while True:
        with asking(f"objects in bucket {bucket.name}", "storage"):
            answer = bucket.session.storage.list_objects(*bucket.place, prefix=prefix, start=start, **PATIENT).data
        yield from answer.objects
        start = answer.next_start_with
        if not start:
            return


def abort_upload(bucket: Bucket, upload: Any) -> None:
    """Give up the parts of an unfinished upload."""
    with asking(f"the upload of {upload.object}", "storage"):
        bucket.session.storage.abort_multipart_upload(*bucket.place, upload.object, upload.upload_id, **PATIENT)


def delete_object(bucket: Bucket, name: str) -> None:
    with asking(f"object {name}", "storage"):
        bucket.session.storage.delete_object(*bucket.place, name, **PATIENT)
