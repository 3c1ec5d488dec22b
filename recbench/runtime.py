"""The machine a run runs on: threads, allocator, and the description that goes on its record."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory() -> None:
    """Let glibc reuse freed blocks up to 1 GiB instead of returning each large tensor to the kernel.

    Otherwise every step pays for mapping and zeroing the pages of its score tables anew. No effect elsewhere.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    libc.mallopt(_M_TRIM_THRESHOLD, 1 << 30)


def hardware() -> dict[str, Any]:
    """Processor, cores, threads in use, memory, whether it has bfloat16, and GPU if one is used."""
    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "bfloat16": multiplies_bfloat16(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


@cache
def multiplies_bfloat16(device: str = "cpu") -> bool:
    """Whether products of bfloat16 matrices are done by instructions made for them.

    Without these torch emulates them: a processor with AVX2 alone takes 17 times as long as for float32.

    Args:
        device: type of a torch device.
    """
    if device == "cuda":
        return torch.cuda.is_available() and bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device != "cpu":
        return True
    has: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older releases cannot tell
    return any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))  # the last is ARM's


def versions() -> dict[str, str]:
    """Releases of what the numbers depend on."""
    found = {"python": platform.python_version()}
    for package in ("recbench-suite", "torch", "lightning", "numpy", "polars"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a checkout without being installed
            continue
    return found


def commit() -> str:
    """The commit of this package's source, with + where it has been changed since; empty if unknown."""
    folder = Path(__file__).parent
    try:
        head = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", str(folder))
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + ("+" if changed else "")


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
