"""Downloads from a real HTTP server on loopback: what arrives, what is refused, what is resumed."""

from __future__ import annotations

import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from recbench.data import raw
from recbench.data.download import DownloadError, download
from recbench.data.raw import RawFile
from recbench.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTENT = b"".join(b"%d 1 2 3\n" % user for user in range(1, 20_001))
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class _Server(ThreadingHTTPServer):
    """Serves CONTENT.

    `most` bytes per answer, then the connection ends; `knows_ranges` or not; `status` other than 200 for
    every request; `stall_s` before the body. `ranges` lists what was asked for.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.most = len(CONTENT)
        self.knows_ranges = True
        self.status = 200
        self.stall_s = 0.0
        self.ranges: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/Data.txt"


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        start = (
            int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.server.knows_ranges else 0
        )
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        time.sleep(self.server.stall_s)
        self.wfile.write(CONTENT[start : start + self.server.most])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield running
        running.shutdown()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "new" / "Data.txt"


def test_a_file_arrives_whole_and_alone(server: _Server, target: Path) -> None:
    download(server.url, SHA256, target)
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["Data.txt"]


def test_first_digits_of_a_hash_are_enough(server: _Server, target: Path) -> None:
    download(server.url, SHA256[:8], target)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("sha256", ["0" * 64, "00000000"])
def test_wrong_hash_leaves_nothing(server: _Server, target: Path, sha256: str) -> None:
    with pytest.raises(DownloadError, match=f"does not have sha256 {sha256}"):
        download(server.url, sha256, target)
    assert list(target.parent.iterdir()) == []


def test_missing_page_is_reported_with_its_status_and_not_asked_for_again(
    server: _Server, target: Path
) -> None:
    server.status = 404
    with pytest.raises(DownloadError, match="404"):
        download(server.url, SHA256, target)
    assert server.ranges == [None]
    assert not target.exists()


def test_broken_off_body_goes_on_where_it_stopped(server: _Server, target: Path) -> None:
    server.most = len(CONTENT) // 2 + 1
    download(server.url, SHA256, target)
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={server.most}-"]


def test_truncated_body_is_an_error_and_the_next_call_resumes(server: _Server, target: Path) -> None:
    server.most = 1000
    with pytest.raises(DownloadError, match="broke off 3 times"):
        download(server.url, SHA256, target)
    assert not target.exists()
    assert target.with_name("Data.txt.part").read_bytes() == CONTENT[:3000]
    server.most = len(CONTENT)
    download(server.url, SHA256, target)
    assert target.read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=3000-"


def test_server_without_ranges_sends_the_whole_file(server: _Server, target: Path) -> None:
    server.knows_ranges = False
    target.parent.mkdir()
    target.with_name("Data.txt.part").write_bytes(CONTENT[:500])
    download(server.url, SHA256, target)
    assert target.read_bytes() == CONTENT


def test_part_of_another_file_is_dropped(server: _Server, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("Data.txt.part").write_bytes(b"x" * 500)
    download(server.url, SHA256, target)
    assert target.read_bytes() == CONTENT
    assert server.ranges == ["bytes=500-", None]


def test_part_longer_than_the_file_is_dropped(server: _Server, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("Data.txt.part").write_bytes(b"x" * (len(CONTENT) + 5))
    download(server.url, SHA256, target)
    assert target.read_bytes() == CONTENT


def test_silent_server_is_given_up(server: _Server, target: Path) -> None:
    server.stall_s = 5.0
    start = time.monotonic()
    with pytest.raises(DownloadError, match="broke off 3 times"):
        download(server.url, SHA256, target, timeout_s=0.1)
    assert time.monotonic() - start < 3


def test_fetch_downloads_once_and_then_uses_the_cache(server: _Server, cache: Path) -> None:
    file = RawFile("folder", "Data.txt", server.url, SHA256)
    first, second = raw.fetch(file), raw.fetch(file)
    assert first == second == raw.Raw(cache / "raw" / "folder" / "Data.txt", CONTENT, SHA256)
    assert len(server.ranges) == 1


def test_without_a_connection_one_line_says_what_to_do(cache: Path) -> None:
    url = "http://127.0.0.1:9/Data.txt"
    with pytest.raises(DataError) as caught:
        raw.fetch(RawFile("folder", "Data.txt", url, SHA256))
    message = str(caught.value)
    assert "\n" not in message
    for needed in ("Data.txt", url, SHA256, str(cache / "raw" / "folder"), "no connection"):
        assert needed in message
