"""A link to a cloud in another process or on another machine: each frame is the body of one POST.

Imports no torch, and httpx only when a link is made.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Self

from recbench.edge.link import Arrival, Link
from recbench.edge.messages import MAX_FRAME
from recbench.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    import httpx

PATH = "/exchange"
FRAMES = "application/octet-stream"
MAX_PARALLEL = 8
MIN_TOKEN = 16  # characters
_REFUSALS = {
    401: "the cloud does not accept the token; give the cloud's own with --token-file",
    404: "no recbench cloud answers there; give the address that recbench serve cloud has printed",
    413: "the frame is larger than the cloud allows",
}


def read_token(file: Path | None) -> str:
    """The token in `file`; empty where there is no file.

    Raises:
        UsageError: the file cannot be read, or holds no token worth the name.
    """
    if file is None:
        return ""
    try:
        token = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--token-file {file}: cannot be read: {error}") from None
    if len(token) < MIN_TOKEN or not token.isprintable() or " " in token:
        raise UsageError(
            f"--token-file {file}: a token is one line of at least {MIN_TOKEN} characters; "
            "make one with: python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return token


class Http(Link):
    """POSTs frames to a cloud; times are real.

    What goes wrong on the way is what no network promises against, and brings no arrival: no route, a
    timeout, a busy or failing server. A wrong address or token is a mistake of the user's, and raises.

    Args:
        url: of the cloud, such as http://127.0.0.1:8000.
        timeout_ms: after which an exchange is given up, whatever has come by then.
        token: the cloud's, where it wants one.
    """

    def __init__(self, url: str, *, timeout_ms: float, token: str = "") -> None:
        try:
            import httpx
        except ImportError:
            raise UsageError("a link over HTTP needs httpx: pip install 'recbench-suite[serve]'") from None
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"--cloud {url}: an address starts with http:// or https://")
        self.url, self.timeout_ms = url.rstrip("/"), timeout_ms
        headers = {"Content-Type": FRAMES} | ({"Authorization": f"Bearer {token}"} if token else {})
        self._runner = asyncio.Runner()
        # no proxy and no redirect: a frame goes where the user said, or nowhere
        self._client = httpx.AsyncClient(headers=headers, trust_env=False, timeout=None)
        self._lost: tuple[type[Exception], ...] = (httpx.TransportError, TimeoutError)
        self.problem = ""  # why the last exchange brought nothing

    def exchange(self, requests: Sequence[bytes], *, sent_ms: float = 0.0) -> list[list[Arrival]]:
        """The answers that came in time.

        Raises:
            UsageError: the cloud refuses to talk: wrong address, wrong token, too large a frame.
        """
        return self._runner.run(self._all(requests, sent_ms))

    async def _all(self, requests: Sequence[bytes], sent_ms: float) -> list[list[Arrival]]:
        turn = asyncio.Semaphore(MAX_PARALLEL)
        return await asyncio.gather(*(self._one(request, sent_ms, turn) for request in requests))

    async def _one(self, request: bytes, sent_ms: float, turn: asyncio.Semaphore) -> list[Arrival]:
        async with turn:
            start = time.perf_counter()
            try:
                async with asyncio.timeout(self.timeout_ms / 1000):
                    frame = await self._post(request)
            except self._lost as error:
                self.problem = str(error) or f"no answer within {self.timeout_ms:g} ms"
                return []
            return [Arrival(frame, sent_ms + 1000 * (time.perf_counter() - start))] if frame else []

    async def _post(self, request: bytes) -> bytes:
        async with self._client.stream("POST", f"{self.url}{PATH}", content=request) as response:
            if response.status_code in _REFUSALS:
                raise UsageError(f"{self.url}: {_REFUSALS[response.status_code]}")
            if response.status_code != 200 or response.headers.get("Content-Type") != FRAMES:
                self.problem = f"status {response.status_code}"
                return b""
            return await _body(response)

    def close(self) -> None:
        """Hang up."""
        self._runner.run(self._client.aclose())
        self._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def _body(response: httpx.Response) -> bytes:
    """All of it, unless it is longer than a frame can be; then what came so far, which is none."""
    parts, size = [], 0
    async for part in response.aiter_raw():
        size += len(part)
        if size > MAX_FRAME + 64:
            return b""
        parts.append(part)
    return b"".join(parts)
