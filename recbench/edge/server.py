"""A cloud over HTTP: one route that takes a frame and returns a frame.

It listens on this machine alone unless it is given a token, which any other device then has to show. Requests
are bounded in size, number per second and time to arrive; the model computes in one thread, so a slow answer
keeps nobody from being refused quickly. It speaks plain HTTP: across a network that others can read, put a
proxy with TLS in front of it.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from recbench.edge.cloud import Cloud, Lister
from recbench.edge.http import FRAMES, PATH
from recbench.edge.messages import Failure, History, encode
from recbench.errors import UsageError
from recbench.models.collaborative import Collaborative, catalog_version

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from recbench.data.catalog import Catalog
    from recbench.models.base import Recommender

MAX_REQUEST = 1 << 20  # bytes
BODY_TIMEOUT_S = 10.0
MAX_CONNECTIONS = 256
_OVERHEAD = 64  # bytes of a frame around its body
log = logging.getLogger(__name__)


class Bucket:
    """Lets through so many a second on average, and as many at once.

    Args:
        rate: per second.
    """

    def __init__(self, rate: float) -> None:
        self.rate = self.left = rate
        self.then = time.monotonic()

    def take(self) -> bool:
        """Whether one more may pass now."""
        now = time.monotonic()
        self.left = min(self.rate, self.left + (now - self.then) * self.rate)
        self.then = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`; a name is, if all its addresses are."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None)
    except OSError:
        raise UsageError(f"--host {host}: no such host; give an address of this machine") from None
    return all(ipaddress.ip_address(address[4][0]).is_loopback for address in found)


def cloud_of(model: Recommender, catalog: Catalog) -> Cloud:
    """The cloud side of a method; of one that has none, a lister of its candidates."""
    if isinstance(model, Collaborative):
        return model.cloud_side()
    lister = Lister(model, num_items=catalog.num_items, version=catalog_version(catalog))
    return Cloud({History: lister})


def application(cloud: Cloud, *, token: str = "", requests_per_s: float = 100.0) -> Starlette:
    """The cloud as an ASGI application.

    Args:
        cloud: who answers.
        token: what requests must show as `Authorization: Bearer`; empty for none.
        requests_per_s: more are refused with status 429.
    """
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse, Response
    from starlette.routing import Route

    bucket = Bucket(requests_per_s)
    worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="cloud")

    def refuse(status: int, why: str, **headers: str) -> Response:
        return PlainTextResponse(why, status, {"Connection": "close", **headers})

    async def exchange(request: Request) -> Response:
        shown = request.headers.get("authorization", "")
        if token and not hmac.compare_digest(shown.encode(), f"Bearer {token}".encode()):
            return refuse(401, "show the token", **{"WWW-Authenticate": "Bearer"})
        if not bucket.take():
            return refuse(429, "too many requests", **{"Retry-After": "1"})
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                frame = await _read(request)
        except TimeoutError:
            return refuse(408, "the body came too slowly")
        if frame is None:
            return refuse(413, f"a request has at most {MAX_REQUEST} bytes")
        answer = await asyncio.get_running_loop().run_in_executor(worker, _answer, cloud, frame)
        return Response(answer, media_type=FRAMES)

    async def health(_: Request) -> Response:
        return PlainTextResponse("ok")

    return Starlette(routes=[Route(PATH, exchange, methods=["POST"]), Route("/health", health)])


async def _read(request: Request) -> bytes | None:
    """The body, or None as soon as it is too long."""
    claimed = request.headers.get("content-length", "0")
    if claimed.isdigit() and int(claimed) > MAX_REQUEST + _OVERHEAD:
        return None
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_REQUEST + _OVERHEAD:
            return None
    return bytes(body)


def _answer(cloud: Cloud, frame: bytes) -> bytes:
    """A fault of ours is told as a failure and kept in the log; the next request is served."""
    try:
        (answer,) = cloud.handle([frame])
    except Exception:
        log.exception("a question could not be answered")
        return encode(Failure("the cloud has failed; its log says why", retry_after_ms=0.0))
    return answer


class Server:
    """A cloud listening at an address.

    Attributes:
        url: where it can be reached.

    Args:
        cloud: who answers.
        host: address to listen at.
        port: 0 for any that is free.
        token: as in `application`.
        requests_per_s: as in `application`.

    Raises:
        UsageError: the address is taken or not of this machine, or packages are missing.
    """

    def __init__(
        self, cloud: Cloud, *, host: str, port: int, token: str = "", requests_per_s: float = 100.0
    ) -> None:
        try:
            import starlette  # noqa: F401 - told here, not at the first request
            import uvicorn
        except ImportError:
            raise UsageError("serving needs a web server: pip install 'recbench-suite[serve]'") from None
        if not is_loopback(host) and not token:
            raise UsageError(f"--host {host}: others can reach it, so give a token with --token-file")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family)
        except (OSError, OverflowError) as error:
            raise UsageError(f"--host {host} --port {port}: {error}; choose another") from None
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._socket.getsockname()[1]}"
        options: dict[str, Any] = {"log_level": "warning", "access_log": False, "server_header": False}
        options |= {"limit_concurrency": MAX_CONNECTIONS, "timeout_graceful_shutdown": 5, "lifespan": "off"}
        app = application(cloud, token=token, requests_per_s=requests_per_s)
        self._server = uvicorn.Server(uvicorn.Config(app, **options))

    def run(self) -> None:
        """Serve until the process is asked to end; what is under way is finished."""
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """Ask `run`, in another thread, to return."""
        self._server.should_exit = True
