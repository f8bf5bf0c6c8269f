"""Fetches a published file: from the first mirror that works, resumed after a break, its digest checked."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

BLOCK = 1 << 16
TIMEOUT_SECONDS = 30
ATTEMPTS = 4  # transfers from one mirror, each going on where the one before broke off

Report = Callable[[int, int], None]  # bytes so far, bytes in all (0 if the server does not say)


class DownloadError(Exception):
    """A file that no mirror delivered whole; the message says what each of them did."""


class BrokenTransferError(Exception):
    """The connection ended before the file did."""


@dataclass(frozen=True)
class RemoteFile:
    """A published file: its name, the SHA-256 of its bytes, and the addresses that hold it."""

    name: str
    sha256: str
    urls: tuple[str, ...]


def fetch(file: RemoteFile, folder: Path) -> Path:
    """The path of `file` in `folder`, fetched with a progress bar unless it is there already and whole."""
    target = folder / file.name
    if target.exists() and sha256(target) == file.sha256:
        return target
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        task = progress.add_task(file.name, total=None)
        return download(
            file, target, lambda done, total: progress.update(task, completed=done, total=total or None)
        )


def download(file: RemoteFile, target: Path, report: Report = lambda done, total: None) -> Path:
    """Fetches `file` to `target`; what has come so far waits in `<target>.part`, from run to run.

    Raises DownloadError if no mirror delivers bytes of the right digest.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    failures = []
    for url in file.urls:
        leftover = part.exists()
        try:
            receive(url, part, report)
            if (
                leftover and sha256(part) != file.sha256
            ):  # what an earlier run left may be at fault: once from the start
                part.unlink()
                receive(url, part, report)
            found = sha256(part)
            if found == file.sha256:
                publish(part, target)
                return target
            part.unlink()
            failures.append(f"{url}: SHA-256 is {found}, expected {file.sha256}")
        except (OSError, http.client.HTTPException, BrokenTransferError) as error:
            failures.append(f"{url}: {error}")
    raise DownloadError("\n  ".join([f"{file.name} could not be fetched:", *failures]))


def receive(url: str, part: Path, report: Report) -> None:
    """Brings `part` up to the whole file behind `url`; goes on after a break as long as bytes still come."""
    for attempt in range(1, ATTEMPTS + 1):
        before = size_of(part)
        try:
            transfer(url, part, report)
            return
        except urllib.error.HTTPError:
            raise
        except (OSError, http.client.HTTPException, BrokenTransferError):
            if attempt == ATTEMPTS or size_of(part) == before:
                raise


def transfer(url: str, part: Path, report: Report) -> None:
    """One request: asks for the bytes that `part` lacks, or for all where the server knows no ranges."""
    start = size_of(part)
    request = urllib.request.Request(url, headers={"User-Agent": "netc", "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
            raise
        # Nothing lies beyond what is here: it is the whole file, or not this file at all.
        if whole_length(error.headers) != start:
            part.unlink()
            transfer(url, part, report)
        return
    with response:
        resumed = (
            response.status == http.HTTPStatus.PARTIAL_CONTENT and range_start(response.headers) == start
        )
        if response.status == http.HTTPStatus.PARTIAL_CONTENT and not resumed:
            raise BrokenTransferError(f"asked for byte {start} on, got {response.headers['Content-Range']}")
        store(response, part, start if resumed else 0, report)


def store(response: http.client.HTTPResponse, part: Path, start: int, report: Report) -> None:
    """Writes the response behind the first `start` bytes of `part`.

    Raises BrokenTransferError if it ends too early.
    """
    total = start + int(response.headers["Content-Length"] or 0)
    done = start
    with part.open("ab" if start else "wb") as file:
        while block := response.read(BLOCK):
            file.write(block)
            done += len(block)
            report(done, total)
    if response.headers["Content-Length"] and done < total:
        raise BrokenTransferError(f"the transfer ended after {done} of {total} bytes")


def range_start(headers: Message) -> int | None:
    """The first byte that a partial answer holds."""
    match = re.match(r"bytes (\d+)-", headers["Content-Range"] or "")
    return int(match[1]) if match else None


def whole_length(headers: Message) -> int | None:
    """The length of the whole file, as an answer of status 416 states it."""
    match = re.match(r"bytes \*/(\d+)", headers["Content-Range"] or "")
    return int(match[1]) if match else None


def publish(part: Path, target: Path) -> None:
    """Gives the finished file its name, once its bytes are on the disk."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(target)


def size_of(path: Path) -> int:
    """The bytes in a file, 0 if there is none."""
    return path.stat().st_size if path.exists() else 0


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def fetch_all(files: Sequence[RemoteFile], folder: Path) -> list[Path]:
    """The paths of all `files` in `folder`, fetched where they are not there yet."""
    return [fetch(file, folder) for file in files]
