"""Checkpoints are whole or refused: damage, foreign files, malice, a full disk."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import logging
import os
import pickle
import random
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from recbench import checkpoint
from recbench.errors import CheckpointError, ResourceError

if TYPE_CHECKING:
    from collections.abc import Callable

CONTENT = {
    "weights": {"items": torch.arange(60.0).view(12, 5), "half": torch.ones(3, dtype=torch.bfloat16)},
    "cost": {"train_s": 1.5, "num_epochs": 2},
    "nested": [1, "two", None, (3.0, True)],
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A good checkpoint."""
    checkpoint.save(CONTENT, tmp_path / "train.ckpt", owner="SASRec, data demo")
    return tmp_path / "train.ckpt"


def refusal(path: Path, **options: Any) -> str:
    """The one line with which `path` is refused."""
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(path, **options)
    message = str(caught.value)
    assert caught.value.exit_code == 4
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def with_header(payload: bytes, **changes: object) -> bytes:
    """`payload` behind a header that is true, but for `changes`."""
    header = {"format": 1, "bytes": len(payload), "sha256": hashlib.sha256(payload).hexdigest()} | changes
    return checkpoint.MAGIC + json.dumps(header).encode() + b"\n" + payload


def archived(content: object) -> bytes:
    """`content` as torch writes it."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


class TestRoundTrip:
    def test_tensors_and_containers_come_back(self, path: Path) -> None:
        found = checkpoint.load(path)
        assert found.keys() == CONTENT.keys()
        assert found["cost"] == CONTENT["cost"]
        assert found["nested"] == CONTENT["nested"]
        for name, tensor in CONTENT["weights"].items():
            assert found["weights"][name].dtype == tensor.dtype
            assert torch.equal(found["weights"][name], tensor)

    def test_the_replaced_file_is_kept_as_the_previous_one(self, path: Path) -> None:
        checkpoint.save({"epoch": 2}, path)
        checkpoint.save({"epoch": 3}, path)
        assert checkpoint.load(path) == {"epoch": 3}
        assert checkpoint.load(checkpoint.previous(path)) == {"epoch": 2}
        assert sorted(file.name for file in path.parent.iterdir()) == ["train.ckpt", "train.ckpt.previous"]

    def test_a_file_system_without_hard_links(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def unsupported(self: Path, target: Path) -> None:
            raise OSError(errno.EPERM, "Operation not permitted", str(self), str(target))

        monkeypatch.setattr(Path, "hardlink_to", unsupported)
        checkpoint.save({"epoch": 2}, path)
        assert checkpoint.load(path) == {"epoch": 2}
        assert checkpoint.load(checkpoint.previous(path)).keys() == CONTENT.keys()

    def test_remove_leaves_nothing(self, path: Path) -> None:
        checkpoint.save({}, path)
        checkpoint.remove(path)
        assert list(path.parent.iterdir()) == []

    def test_where_temporary_files_lie_does_not_matter(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tempfile, "tempdir", "/nowhere")  # a rename from there could not be atomic
        checkpoint.save({"epoch": 2}, path)
        assert checkpoint.load(path) == {"epoch": 2}


class TestDamage:
    def test_200_flipped_bits(self, path: Path) -> None:
        whole = path.read_bytes()
        draw = random.Random(0)
        for _ in range(200):
            changed = bytearray(whole)
            changed[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
            path.write_bytes(changed)
            refusal(path)

    def test_every_bit_of_the_header(self, path: Path) -> None:
        whole = path.read_bytes()
        for place in range(8 * (whole.index(b"\n") + 1)):
            changed = bytearray(whole)
            changed[place // 8] ^= 1 << place % 8
            path.write_bytes(changed)
            refusal(path)

    def test_20_truncations(self, path: Path) -> None:
        whole = path.read_bytes()
        draw = random.Random(0)
        for length in [1, len(whole) - 1, *(draw.randrange(len(whole)) for _ in range(18))]:
            path.write_bytes(whole[:length])
            refusal(path)

    def test_something_appended(self, path: Path) -> None:
        path.write_bytes(path.read_bytes() + b"\0")
        refusal(path)

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "not a recbench checkpoint"),
            (b"epoch,loss\n1,0.5\n", "not a recbench checkpoint"),
            (pickle.dumps({"weights": 1}), "not a recbench checkpoint"),
            (with_header(b"whatever", format=2), "format 2 is not 1"),
            (checkpoint.MAGIC + b"[1]\n", "the header is damaged"),
            (checkpoint.MAGIC + b"{}" * 5000, "the header is damaged"),
            (with_header(b"no archive"), "something other than tensors"),
        ],
        ids=["empty", "text", "pickle", "newer", "list", "endless", "payload"],
    )
    def test_other_files(self, content: bytes, reason: str, tmp_path: Path) -> None:
        path = tmp_path / "a.ckpt"
        path.write_bytes(content)
        assert reason in refusal(path)

    def test_a_payload_that_is_no_mapping(self, tmp_path: Path) -> None:
        (tmp_path / "a.ckpt").write_bytes(with_header(archived([1, 2])))
        assert "something other than" in refusal(tmp_path / "a.ckpt")

    def test_no_file_and_no_folder(self, tmp_path: Path) -> None:
        assert "no such checkpoint" in refusal(tmp_path / "a.ckpt")
        assert "a checkpoint is a file" in refusal(tmp_path)


class Malice:
    """Leaves `path` behind wherever it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("pack", [archived, partial(pickle.dumps, protocol=2)], ids=["archive", "bare"])
def test_a_payload_that_would_run_code_is_refused_unrun(
    pack: Callable[[object], bytes], tmp_path: Path
) -> None:
    trace, path = tmp_path / "trace", tmp_path / "a.ckpt"
    content = {"weights": Malice(trace)}
    path.write_bytes(with_header(pack(content)))
    assert "so it was not opened" in refusal(path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(content))
    assert trace.exists(), "the payload is harmless, so this test proves nothing"


class TestFallback:
    @pytest.fixture
    def two(self, tmp_path: Path) -> Path:
        """Epoch 2, and epoch 1 as its predecessor."""
        for epoch in (1, 2):
            checkpoint.save({"epoch": epoch}, tmp_path / "last.ckpt")
        return tmp_path / "last.ckpt"

    def test_a_good_newest_is_taken_silently(self, two: Path, caplog: pytest.LogCaptureFixture) -> None:
        assert checkpoint.load_newest(two) == {"epoch": 2}
        assert caplog.records == []

    @pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:-9]), Path.unlink])
    def test_a_damaged_newest_gives_way_with_one_warning(
        self, two: Path, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
    ) -> None:
        damage(two)
        with caplog.at_level(logging.WARNING):
            assert checkpoint.load_newest(two) == {"epoch": 1}
        (warning,) = caplog.records
        assert warning.getMessage().endswith("; going on from last.ckpt.previous")

    def test_both_damaged(self, two: Path) -> None:
        for file in (two, checkpoint.previous(two)):
            file.write_bytes(b"")
        with pytest.raises(CheckpointError, match=r"last\.ckpt\.previous: not a recbench checkpoint"):
            checkpoint.load_newest(two)

    def test_a_damaged_only_one(self, path: Path) -> None:
        path.write_bytes(b"")
        with pytest.raises(CheckpointError):
            checkpoint.load_newest(path)

    def test_nothing_was_ever_written(self, tmp_path: Path) -> None:
        assert checkpoint.load_newest(tmp_path / "last.ckpt") is None

    def test_lightning_is_told_the_same(self, two: Path, tmp_path: Path) -> None:
        door = checkpoint.CheckedIO()
        assert door.load_checkpoint(two) == {"epoch": 2}
        two.write_bytes(b"")
        assert door.load_checkpoint(two) == {"epoch": 1}
        with pytest.raises(CheckpointError, match="no such checkpoint"):
            door.load_checkpoint(tmp_path / "never.ckpt")
        door.remove_checkpoint(two)
        assert list(tmp_path.iterdir()) == []


class TestOwner:
    def test_anothers_is_refused_by_name(self, path: Path) -> None:
        assert checkpoint.load(path, owner="SASRec, data demo").keys() == CONTENT.keys()
        message = refusal(path, owner="SASRec, data beauty")
        assert "it is of SASRec, data demo, wanted is SASRec, data beauty" in message

    def test_lightning_is_told_the_same(self, tmp_path: Path) -> None:
        checkpoint.CheckedIO("GRU4Rec").save_checkpoint({"epoch": 1}, tmp_path / "last.ckpt")
        with pytest.raises(CheckpointError, match="it is of GRU4Rec, wanted is SASRec"):
            checkpoint.CheckedIO("SASRec").load_checkpoint(tmp_path / "last.ckpt")

    def test_weights_fill_a_module(self, tmp_path: Path) -> None:
        saved, fresh = nn.Linear(3, 2), nn.Linear(3, 2)
        checkpoint.save({"weights": saved.state_dict(), "cost": 7}, tmp_path / "a.ckpt")
        assert checkpoint.restore(fresh, tmp_path / "a.ckpt")["cost"] == 7
        assert torch.equal(fresh.weight, saved.weight)

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            ({"weights": nn.Linear(4, 2).state_dict()}, "size mismatch for weight"),
            ({"weights": {}}, "Missing key"),
            ({}, "'weights'"),
        ],
    )
    def test_weights_of_other_shapes_are_refused(
        self, content: dict[str, Any], reason: str, tmp_path: Path
    ) -> None:
        checkpoint.save(content, tmp_path / "a.ckpt")
        with pytest.raises(CheckpointError, match="not the weights of this method and data") as caught:
            checkpoint.restore(nn.Linear(3, 2), tmp_path / "a.ckpt")
        assert reason in str(caught.value)
        assert "\n" not in str(caught.value)


class TestFullDisk:
    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
    def test_what_was_there_stays(self, path: Path, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(_: int) -> None:
            raise OSError(code, os.strerror(code))

        before = path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(ResourceError) as caught:
                checkpoint.save({"epoch": 2}, path)
        assert caught.value.exit_code == 6
        assert str(caught.value).startswith(f"{path}: cannot be written: {os.strerror(code)}")
        assert "\n" not in str(caught.value)
        assert path.read_bytes() == before
        assert {file.name for file in path.parent.iterdir()} <= {"train.ckpt", "train.ckpt.previous"}
        checkpoint.save({"epoch": 2}, path)
        assert checkpoint.load(path) == {"epoch": 2}

    def test_a_real_one(self, tmp_path: Path) -> None:
        mount = 'mount -t tmpfs -o size=512k none "$1" && exec "$0" -c "$2" "$1"'
        own_mounts = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
        if subprocess.run(
            [*own_mounts, mount, "true", tmp_path], capture_output=True, check=False
        ).returncode:
            pytest.skip("needs a kernel that lets users mount a tmpfs of their own")
        done = subprocess.run(
            [*own_mounts, mount, sys.executable, tmp_path, FILL],
            check=True,
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        message, left = done.stdout.splitlines()
        assert message.startswith(f"{tmp_path}/train.ckpt: cannot be written: No space left on device")
        assert json.loads(left) == {"epoch": 1, "files": ["train.ckpt", "train.ckpt.previous"]}


FILL = """
import json, sys, torch
from pathlib import Path
from recbench import checkpoint, errors
path = Path(sys.argv[1]) / "train.ckpt"
checkpoint.save({"epoch": 1, "weights": torch.zeros(50_000)}, path)
try:
    checkpoint.save({"epoch": 2, "weights": torch.zeros(100_000)}, path)
except errors.ResourceError as error:
    print(error)
files = sorted(file.name for file in path.parent.iterdir())
print(json.dumps({"epoch": checkpoint.load(path)["epoch"], "files": files}))
"""  # 200 kB and 400 kB do not fit into 512 kB
