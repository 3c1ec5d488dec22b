"""The guard of conftest.py itself."""

from __future__ import annotations

import socket

import pytest


@pytest.mark.parametrize("method", ["connect", "connect_ex"])
@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")]
)
def test_a_connection_to_elsewhere_is_refused(method: str, family: int, address: str) -> None:
    with socket.socket(family) as line, pytest.raises(RuntimeError, match=f"connects to .*{address}"):
        getattr(line, method)((address, 80))


def test_this_machine_can_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as line:
        line.connect(server.getsockname())
        assert line.connect_ex(server.getsockname()) != 0  # connected already, and no error of ours
