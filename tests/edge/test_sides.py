"""Neither side reaches the other by an import, and the boundary needs no method."""

from __future__ import annotations

import pytest
from test_architecture import FILES, imports


def reached(module: str) -> set[str]:
    """Modules of recbench that importing `module` imports, near or far."""
    found, left = set(), [module]
    while left:
        names = {name.removeprefix("recbench.") for name in imports(left.pop(), at_runtime=True)}
        left += (new := (names & set(FILES)) - found)
        found |= new
    return found


@pytest.mark.parametrize(
    ("side", "never"),
    [
        ("edge.device", {"edge.cloud", "edge.server", "edge.lists"}),
        ("edge.lists", {"edge.cloud", "edge.server", "edge.link"}),
        (
            "edge.cloud",
            {"edge.device", "edge.brain", "edge.answer", "edge.lists", "edge.cache", "edge.policy"},
        ),
        ("edge.messages", {"edge.link", "edge.cloud", "edge.device"}),
    ],
)
def test_a_side_does_not_import_the_other(side: str, never: set[str]) -> None:
    assert reached(side) & never == set()


@pytest.mark.parametrize(
    "module", [name for name in FILES if name.startswith("edge.") and name != "edge.server"]
)
def test_the_boundary_imports_no_method(module: str) -> None:
    assert [name for name in reached(module) if name.split(".")[0] == "models"] == []


def test_what_is_reached_is_followed_further() -> None:
    assert {"edge.wire", "errors"} <= reached("edge.device")
    assert "edge.cloud" in reached("edge.server")
