"""What a record says of the machine and the code it was made with."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from recbench import runtime

CPUINFO = Path("/proc/cpuinfo")


def test_hardware_names_processor_cores_threads_and_memory() -> None:
    found = runtime.hardware()
    assert found["processor"]
    assert found["cores"] >= 1
    assert found["threads"] == torch.get_num_threads()
    assert found["memory_gib"] > 0.1
    assert ("gpu" in found) == torch.cuda.is_available()


@pytest.mark.skipif(platform.machine() != "x86_64" or not CPUINFO.exists(), reason="flags of another name")
@pytest.mark.skipif(not hasattr(torch.cpu, "get_capabilities"), reason="torch cannot tell")
def test_bfloat16_is_what_the_kernel_says_of_the_processor() -> None:
    flags = set(re.findall(r"\w+", CPUINFO.read_text()))
    assert runtime.multiplies_bfloat16("cpu") == bool(flags & {"avx512_bf16", "amx_bf16"})
    assert runtime.hardware()["bfloat16"] == runtime.multiplies_bfloat16()


def test_threads_are_those_in_use() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert runtime.hardware()["threads"] == 3
    finally:
        torch.set_num_threads(before)


def test_versions_are_those_installed() -> None:
    found = runtime.versions()
    assert found["python"] == platform.python_version()
    assert found.keys() >= {"torch", "lightning", "numpy", "polars"}
    for name in found.keys() - {"python"}:
        assert found[name] == version(name)


class TestCommit:
    @pytest.fixture
    def package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A package of one file in a repository of one commit, in place of recbench."""
        if not shutil.which("git"):
            pytest.skip("needs git")
        package = tmp_path / "package"
        package.mkdir()
        (package / "runtime.py").write_text("a = 1\n")
        monkeypatch.setattr(runtime, "__file__", str(package / "runtime.py"))
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        for words in (["init"], ["add", "."], [*who, "commit", "-m", "one"]):
            subprocess.run(["git", "-C", tmp_path, *words], check=True, capture_output=True)
        return package

    def test_names_the_checked_out_one(self, package: Path) -> None:
        head = subprocess.check_output(["git", "-C", package, "rev-parse", "HEAD"], text=True).strip()
        assert re.fullmatch(r"[0-9a-f]{40}", head)
        assert runtime.commit() == head

    def test_a_changed_source_is_marked(self, package: Path) -> None:
        (package / "runtime.py").write_text("a = 2\n")
        assert runtime.commit().endswith("+")

    def test_what_lies_beside_the_package_does_not_matter(self, package: Path) -> None:
        (package.parent / "notes.txt").write_text("a record, say")
        assert not runtime.commit().endswith("+")

    def test_without_a_repository_it_is_unknown(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(runtime, "__file__", str(tmp_path / "runtime.py"))
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
        assert runtime.commit() == ""

    def test_without_git_it_is_unknown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "")
        assert runtime.commit() == ""


@pytest.mark.parametrize("libc", ["glibc", "musl", ""])
def test_the_allocator_is_told_where_it_listens(libc: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: (libc, "2.31"))
    if libc == "glibc" and platform.system() != "Linux":
        pytest.skip("glibc is Linux's")
    runtime.keep_freed_memory()
    assert torch.ones(1 << 20).sum() == 1 << 20
