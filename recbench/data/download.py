"""One file over HTTP, with pooch; a broken download goes on where it stopped.

pooch checks the hash and puts the file in place in one step, but starts every download at its first byte.
`Resuming` is the downloader it is given: bytes are appended to `<file>.part`, and a request for a file with a
part asks for the rest only. A server that ignores the range sends the whole file, which replaces the part.
"""

from __future__ import annotations

import http.client
import logging
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from email.message import Message
    from pathlib import Path

_log = logging.getLogger(__name__)
_CHUNK = 1 << 16


class DownloadError(Exception):
    """Why a file could not be had, as a clause of a sentence."""


class Resuming:
    """A pooch downloader that keeps what arrived.

    Args:
        part: where the bytes are kept until all have come.
        timeout_s: longest wait for the server's next bytes.
        deadline_s: longest time for the whole file.
        num_attempts: requests made before a broken connection is an error.
    """

    def __init__(
        self, part: Path, *, timeout_s: float = 15.0, deadline_s: float = 600.0, num_attempts: int = 3
    ) -> None:
        self.part = part
        self.timeout_s = timeout_s
        self.deadline_s = deadline_s
        self.num_attempts = num_attempts

    def __call__(self, url: str, output_file: str, _pooch: object = None) -> None:
        """Bring `url` to `output_file`.

        Raises:
            DownloadError: the server says no, cannot be reached, or breaks off too often.
        """
        end = time.monotonic() + self.deadline_s
        for attempt in range(1, self.num_attempts + 1):
            try:
                self._request(url, end)
            except (_BrokenOffError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
                if attempt == self.num_attempts or time.monotonic() > end:
                    raise DownloadError(
                        f"broke off {attempt} times: {error or type(error).__name__}"
                    ) from None
            else:
                self.part.replace(output_file)
                return

    def _request(self, url: str, end: float) -> None:
        """One request for what `part` lacks."""
        done = self.part.stat().st_size if self.part.exists() else 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if done else {})
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, headers=headers), timeout=self.timeout_s
            ) as response:
                is_rest = response.status == 206 and _starts_at(response.headers, done)
                self._append(response, is_rest=is_rest, end=end)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # the part is no beginning of this file
                self.part.unlink(missing_ok=True)
                raise _BrokenOffError("the server refuses to continue the partial file") from None
            raise DownloadError(f"the server answers {error.code} {error.reason}") from None
        except urllib.error.URLError as error:
            raise DownloadError(f"no connection ({error.reason})") from None

    def _append(self, response: http.client.HTTPResponse, *, is_rest: bool, end: float) -> None:
        """Write the body to `part` and check that all of it came."""
        length = response.headers.get("Content-Length")
        num_bytes = 0
        with self.part.open("ab" if is_rest else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                num_bytes += len(chunk)
                if time.monotonic() > end:
                    raise _BrokenOffError(f"not finished after {self.deadline_s:g} s")
        if length is not None and num_bytes < int(length):
            raise _BrokenOffError(f"{num_bytes} of {length} bytes came")


class _BrokenOffError(Exception):
    """The connection ended before the file did."""


def _starts_at(headers: Message | Mapping[str, str], position: int) -> bool:
    """Whether a partial answer begins where it was asked to."""
    return (headers.get("Content-Range") or "").startswith(f"bytes {position}-")


def download(url: str, sha256: str, target: Path, *, timeout_s: float = 15.0) -> None:
    """Bring `url` to `target`, whole and with the right hash, or leave no `target`.

    Args:
        url: where the file is.
        sha256: its hash in hex, or the first digits of it.
        target: where it goes; what arrived of a broken download stays beside it as `<name>.part`.
        timeout_s: longest wait for the server's next bytes.

    Raises:
        DownloadError: no connection, an error of the server, a broken-off body, or the wrong hash.
    """
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        was_partial = part.exists()
        if not _retrieve(url, sha256, target, Resuming(part, timeout_s=timeout_s)):
            # a part of some other file leads to a wrong hash: the whole file may still be right
            again = was_partial and _retrieve(url, sha256, target, Resuming(part, timeout_s=timeout_s))
            if not again:
                raise DownloadError(f"what the server sent does not have sha256 {sha256}")
    except OSError as error:
        raise DownloadError(f"{error.filename or target}: {error.strerror or error}") from None


def _retrieve(url: str, sha256: str, target: Path, downloader: Resuming) -> bool:
    """Let pooch fetch, check and place the file; False when the hash is wrong."""
    import pooch  # takes 0.1 s, and only a download needs it

    pooch.get_logger().setLevel(logging.WARNING)
    _log.info("downloading %s", url)
    is_whole_hash = len(sha256) == 64
    try:
        pooch.retrieve(
            url,
            known_hash=f"sha256:{sha256}" if is_whole_hash else None,
            fname=target.name,
            path=target.parent,
            downloader=downloader,
        )
    except ValueError:
        return False
    if not is_whole_hash and not pooch.file_hash(str(target)).startswith(sha256):
        target.unlink()
        return False
    return True
