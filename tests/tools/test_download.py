"""Downloads: resumed, checked, and taken from the next mirror where one fails."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from download import DownloadError, RemoteFile, download

BODY = np.random.default_rng(0).bytes(300_000)


class FileServer(ThreadingHTTPServer):
    """Serves BODY under /good; each other path has a fault. `ranges` is what the clients asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), FileHandler)
        self.ranges: list[str | None] = []

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"


class FileHandler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        self.server.ranges.append(wanted)
        fault = self.path.strip("/")
        if fault == "missing":
            self.send_error(404)
            return
        body = b"x" * len(BODY) if fault == "wrong" else BODY
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and fault != "rangeless" else 0
        if start and start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        end = start + 100_000 if fault == "cuts" else len(body)
        self.wfile.write(body[start:end])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as running:
        thread = Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def remote(server: FileServer, *paths: str) -> RemoteFile:
    return RemoteFile("file.bin", hashlib.sha256(BODY).hexdigest(), tuple(server.url(path) for path in paths))


def part_of(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def test_download_writes_the_file_and_reports_progress(server: FileServer, tmp_path: Path) -> None:
    target, seen = tmp_path / "new" / "file.bin", []
    download(remote(server, "good"), target, lambda done, total: seen.append((done, total)))
    assert target.read_bytes() == BODY
    assert seen[-1] == (len(BODY), len(BODY))
    assert list(target.parent.iterdir()) == [target]


def test_download_asks_only_for_the_bytes_that_an_earlier_run_left_out(
    server: FileServer, tmp_path: Path
) -> None:
    target = tmp_path / "file.bin"
    part_of(target).write_bytes(BODY[:123_456])
    download(remote(server, "good"), target)
    assert target.read_bytes() == BODY
    assert server.ranges == ["bytes=123456-"]


def test_download_begins_again_where_the_server_knows_no_ranges(server: FileServer, tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    part_of(target).write_bytes(BODY[:1000])
    download(remote(server, "rangeless"), target)
    assert target.read_bytes() == BODY


def test_download_goes_on_after_a_cut_connection(server: FileServer, tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    download(remote(server, "cuts"), target)
    assert target.read_bytes() == BODY
    assert server.ranges == [None, "bytes=100000-", "bytes=200000-"]


@pytest.mark.parametrize("left", [BODY, b"y" * len(BODY), b"y" * 1000, BODY + b"more"])
def test_download_mends_whatever_an_earlier_run_left(server: FileServer, tmp_path: Path, left: bytes) -> None:
    target = tmp_path / "file.bin"
    part_of(target).write_bytes(left)
    download(remote(server, "good"), target)
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("fault", ["missing", "wrong"])
def test_download_turns_to_the_next_mirror(server: FileServer, tmp_path: Path, fault: str) -> None:
    target = tmp_path / "file.bin"
    download(remote(server, fault, "good"), target)
    assert target.read_bytes() == BODY


def test_download_of_wrong_bytes_leaves_no_file_and_says_what_each_mirror_did(
    server: FileServer, tmp_path: Path
) -> None:
    target = tmp_path / "file.bin"
    with pytest.raises(DownloadError) as caught:
        download(remote(server, "missing", "wrong"), target)
    assert "404" in str(caught.value)
    assert hashlib.sha256(b"x" * len(BODY)).hexdigest() in str(caught.value)
    assert list(tmp_path.iterdir()) == []
