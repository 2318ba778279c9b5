"""Speak to a model hub: the only file here that imports huggingface_hub.

Knows addresses, the token, retries, and what each refusal means for the person at the keyboard. Knows nothing of the
catalogue or of the cache, and does not check what it received: who asks for a file does.

Honours HF_ENDPOINT (a mirror), HF_TOKEN or a stored login, HF_HUB_OFFLINE and HF_HUB_DOWNLOAD_TIMEOUT.

Trap: hf_hub_download of huggingface_hub 2.x deletes its partial file when it fails, so a download cut at 1.7 of 1.8 GB
begins again. download() sends the same request with that library's session, address, headers and errors, and appends to
a partial file that outlives the process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ..problem import Problem
from .catalog import closest

# Read once, when huggingface_hub is imported. Without telemetry it asks the endpoint nothing but what we ask.
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
import httpx2
import huggingface_hub
from huggingface_hub import constants, errors
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

PASSING_STATUS = frozenset((408, 429, 500, 502, 503, 504))
WAITS_S = (1, 2, 4, 5)  # before the second, third ... try; the last one repeats
DEFAULT_TRIES = 5


@dataclasses.dataclass(frozen=True)
class HubFile:
    """What the hub says of one file. `context` is what the model was trained for, 0 where the hub does not know."""

    commit: str
    bytes: int
    sha256: str
    license: str
    context: int
    has_template: bool
    is_gated: bool


class _Interrupted(Exception):
    """A failure that may pass: worth another try from where the partial file ends."""


def endpoint() -> str:
    """The hub's address; raises Problem when HF_ENDPOINT is not one."""
    address = constants.ENDPOINT
    if not re.fullmatch(r"https?://[^/\s]+.*", address):
        raise Problem(f"HF_ENDPOINT={address}: must begin with http:// or https://")
    return address


def _refused(status: int, repo: str) -> Problem:
    page = f"{endpoint()}/{repo}"
    if huggingface_hub.get_token():
        way_out = f"check that your token (HF_TOKEN) may read it: open {page} with its account and accept the licence"
    else:
        way_out = f"open {page}; if it asks, accept the licence, then run again with HF_TOKEN=<your token>"
    return Problem(f"{endpoint()} refused {repo} ({status}): private, gated, or not there at all", way_out)


@contextlib.contextmanager
def _explained(repo: str, file: str, revision: str) -> Iterator[None]:
    """Turn the library's exceptions into a Problem, or into _Interrupted when trying again may help."""
    try:
        yield
    except errors.OfflineModeIsEnabled as error:
        raise Problem(
            f"{file} is not in the cache and HF_HUB_OFFLINE forbids fetching it", "unset HF_HUB_OFFLINE, or MODEL=demo"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise _refused(status, repo) from error
        if status == 404:
            what = {
                errors.RevisionNotFoundError: f"{repo} has no revision {revision}",
                errors.RemoteEntryNotFoundError: f"{repo} has no file {file} at revision {revision}",
            }.get(type(error), f"{endpoint()} has no {repo}, or no {file} in it at revision {revision}")
            raise Problem(f"{what} (404)", "check the spelling; `make lock-model` pins what is there today") from error
        if status in PASSING_STATUS or status == 416:
            raise _Interrupted(f"{endpoint()} answered {status}") from error
        raise Problem(f"{endpoint()} answered {status} for {repo}/{file}") from error
    except httpx2.ConnectError as error:
        raise _Interrupted(f"cannot reach {endpoint()}: {error}") from error
    except httpx2.TimeoutException as error:
        raise _Interrupted(f"{endpoint()} sent nothing for {constants.HF_HUB_DOWNLOAD_TIMEOUT} s") from error
    except httpx2.TransportError as error:
        raise _Interrupted(f"the connection broke: {error or type(error).__name__}") from error


def _total_bytes(response: httpx2.Response) -> int | None:
    """The whole file's size according to this answer, whole or partial; None where it does not say."""
    if response.status_code == 206:
        match = re.search(r"/(\d+)$", response.headers.get("Content-Range", ""))
    else:
        match = re.fullmatch(r"\d+", response.headers.get("Content-Length", ""))
    return int(match.group().lstrip("/")) if match else None


def _announced_sha256(response: httpx2.Response) -> str:
    """The sha256 that the hub announces on its redirect to the file; '' from a mirror that does not."""
    for answer in (*response.history, response):
        etag = answer.headers.get(constants.HUGGINGFACE_HEADER_X_LINKED_ETAG, "").strip('"')
        if re.fullmatch(r"[0-9a-f]{64}", etag):
            return etag
    return ""


def _require_pinned(response: httpx2.Response, url: str, expected_bytes: int, expected_sha256: str) -> None:
    """Raise Problem when the hub announces another file than the pinned one: a minute saved on every gigabyte."""
    way_out = "the pinned row is wrong, or HF_ENDPOINT is no true mirror; `make lock-model` writes a right row"
    total, sha256 = _total_bytes(response), _announced_sha256(response)
    if total not in (None, expected_bytes):
        raise Problem(f"{url}: the hub's file has {total} bytes, expected {expected_bytes}", way_out)
    if sha256 not in ("", expected_sha256):
        raise Problem(f"{url}: the hub's file has sha256 {sha256}, expected {expected_sha256}", way_out)


def _receive(url: str, part: Path, expected_bytes: int, expected_sha256: str, on_bytes: Callable[[int], None]) -> None:
    """Ask for what `part` lacks and append it."""
    have = part.stat().st_size
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}  # a compressed answer has no ranges
    if have:
        headers["Range"] = f"bytes={have}-"
    client = huggingface_hub.get_session()
    with client.stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
        hf_raise_for_status(response)
        _require_pinned(response, url, expected_bytes, expected_sha256)
        with part.open("ab") as file:
            if have and not (
                response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            ):
                file.truncate(0)  # the server ignored the range and sends from the start
                on_bytes(-have)
            for piece in response.iter_bytes():
                file.write(piece)
                on_bytes(len(piece))


def download(
    repo: str,
    revision: str,
    file: str,
    part: Path,
    expected_bytes: int,
    expected_sha256: str,
    on_bytes: Callable[[int], None] = lambda n_bytes: None,
    tries: int = DEFAULT_TRIES,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Fetch `file` into `part`, which must exist, going on where it ends, until it holds `expected_bytes`.

    Gives up after `tries` attempts in a row that brought no byte (one that brought some starts the count anew) and
    leaves `part` for the next run. `on_bytes` hears of each piece, and of lost bytes as a negative number.
    """
    url = huggingface_hub.hf_hub_url(repo, file, revision=revision, endpoint=endpoint())
    failures = 0
    while (have := part.stat().st_size) != expected_bytes:
        try:
            if have > expected_bytes:
                os.truncate(part, 0)
                on_bytes(-have)
            with _explained(repo, file, revision):
                _receive(url, part, expected_bytes, expected_sha256, on_bytes)
                if part.stat().st_size < expected_bytes:
                    raise _Interrupted("the answer ended early")
        except _Interrupted as reason:
            now = part.stat().st_size
            failures = 1 if now > have else failures + 1
            if failures >= tries:
                kept = f"; the {now} bytes so far are kept and the next run goes on from there" if now else ""
                raise Problem(
                    f"could not fetch {file} from {repo}: {reason}{kept}",
                    "check the network or proxy and run the same command again; HF_ENDPOINT=<url> names a mirror",
                ) from reason
            wait_s = WAITS_S[min(failures, len(WAITS_S)) - 1]
            print(f"{reason}; trying again in {wait_s} s ({failures} of {tries})", file=sys.stderr)
            sleep(wait_s)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise Problem(
                f"the disk of {part.parent} is full; {part.stat().st_size} of {expected_bytes} bytes are kept",
                "free some space, or set LLAMAKILN_CACHE to a larger disk, and run again",
            ) from error


def describe(repo: str, file: str, revision: str = "main") -> HubFile:
    """Ask the hub what `file` of `repo` is at `revision` (commit, branch or tag); raises Problem."""
    try:
        with _explained(repo, file, revision):
            info = huggingface_hub.HfApi(endpoint=endpoint()).model_info(repo, revision=revision, files_metadata=True)
    except errors.HFValidationError as error:
        raise Problem(f"REPO={repo}: must be OWNER/NAME as on the hub") from error
    except _Interrupted as reason:
        raise Problem(str(reason), "check the network or proxy; HF_ENDPOINT=<url> names a mirror") from reason
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    if file not in siblings:
        ggufs = sorted(name for name in siblings if name.endswith(".gguf"))
        raise Problem(
            f"{repo} has no file {file} at revision {revision}{closest(file, ggufs)}",
            f"one of {', '.join(ggufs)}" if ggufs else "a repository with GGUF files: this one has none",
        )
    lfs = siblings[file].lfs
    if lfs is None:
        raise Problem(f"{repo}/{file} is not kept as a large file, so the hub tells no sha256 of it; is it a model?")
    card = info.card_data
    license = (card.get("license_name") or card.get("license") or "") if card else ""
    gguf = info.gguf or {}
    return HubFile(
        commit=info.sha or "",
        bytes=lfs.size,
        sha256=lfs.sha256,
        license=license if isinstance(license, str) else "",
        context=int(gguf.get("context_length") or 0),
        has_template=bool(gguf.get("chat_template")),
        is_gated=bool(info.gated),
    )
