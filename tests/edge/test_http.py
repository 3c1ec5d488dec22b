"""The same sides over HTTP: equal results, bounded requests, one-line errors, a clean end."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from minimal import Minimal
from small import small_data

from recbench import cli
from recbench.edge import server as serving
from recbench.edge.device import Device
from recbench.edge.http import FRAMES, PATH, Http, read_token
from recbench.edge.link import InProcess
from recbench.edge.messages import Candidates, Failure, History, checksum, decode, encode
from recbench.edge.server import Bucket, Server, cloud_of, is_loopback
from recbench.errors import UsageError
from recbench.models import Popularity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from recbench.data.module import InteractionData
    from recbench.edge.cloud import Cloud

TOKEN = "correct horse battery".replace(" ", "-")
QUESTION = encode(History("", np.array([1], np.int32), 5, True))
USERS = np.arange(12)


@pytest.fixture(scope="module")
def data() -> InteractionData:
    return small_data()


@pytest.fixture(scope="module")
def model(data: InteractionData) -> Minimal:
    torch.manual_seed(0)
    found = Minimal(cloud="SASRec", num_candidates=20)
    found.build(data.catalog)
    return found.eval()


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Starts servers in threads of this process; `serve(cloud, token=...)` is the address."""
    running = []

    def start(cloud: Cloud, **options: Any) -> str:
        server = Server(cloud, host="127.0.0.1", port=0, **options)
        thread = threading.Thread(target=server.run)
        thread.start()
        running.append((server, thread))
        return server.url

    yield start
    for server, thread in running:
        server.stop()
        thread.join(timeout=10)
        assert not thread.is_alive()


def post(url: str, body: bytes, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    connection.request("POST", PATH, body, {"Content-Type": FRAMES, **headers})
    found = connection.getresponse()
    return found.status, found.read()


def raw(url: str, rest: bytes) -> bytes:
    """How the server answers a request that goes on like this, and does not end."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port), timeout=10) as line:
        line.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\n".encode() + rest)
        return line.recv(1000)


def test_over_http_devices_recommend_the_same(
    model: Minimal, data: InteractionData, serve: Callable[..., str]
) -> None:
    near = Device(model.device_side(), InProcess(model.cloud_side().handle), session=b"s")
    with Http(serve(model.cloud_side()), timeout_ms=5000) as link, torch.inference_mode():
        far = Device(model.device_side(), link, deadline_ms=5000, session=b"s")
        for user in USERS:
            batch = data.request(USERS[user : user + 1])
            one, other = near.answer(batch), far.answer(batch)
            assert other.source == ("cloud",)
            assert torch.equal(one.recommend(10).items, other.recommend(10).items)
            assert torch.equal(one.recommend(10).scores, other.recommend(10).scores)
    assert near.gate.traffic == far.gate.traffic


def test_many_questions_at_once_come_back_in_their_order(model: Minimal, serve: Callable[..., str]) -> None:
    asked = [encode(History("", np.array([item], np.int32), 5, True)) for item in range(1, 31)]
    with Http(serve(model.cloud_side()), timeout_ms=10_000) as link:
        found = [frame for ((frame, _),) in link.exchange(asked)]
    assert found == [model.cloud_side().handle([frame])[0] for frame in asked]


class TestTheServer:
    def test_bounds_the_size(self, model: Minimal, serve: Callable[..., str]) -> None:
        url = serve(model.cloud_side())
        claimed = b"Content-Length: 2000000\r\n\r\n"
        chunk = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
        unknown = b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 17
        for sent in (claimed, unknown):
            assert raw(url, sent).startswith(b"HTTP/1.1 413")

    def test_bounds_the_rate(self, model: Minimal, serve: Callable[..., str]) -> None:
        url = serve(model.cloud_side(), requests_per_s=3.0)
        statuses = [post(url, QUESTION)[0] for _ in range(12)]
        assert statuses[:3] == [200] * 3
        assert 429 in statuses

    def test_wants_its_token(self, model: Minimal, serve: Callable[..., str]) -> None:
        url = serve(model.cloud_side(), token=TOKEN)
        assert post(url, QUESTION)[0] == 401
        assert post(url, QUESTION, Authorization=f"Bearer {TOKEN}x")[0] == 401
        assert post(url, QUESTION, Authorization=TOKEN)[0] == 401
        assert post(url, QUESTION, Authorization="Bearer \xe9")[0] == 401
        assert post(url, QUESTION, Authorization=f"Bearer {TOKEN}")[0] == 200

    def test_answers_noise_with_a_failure_and_goes_on(
        self, model: Minimal, serve: Callable[..., str]
    ) -> None:
        url = serve(model.cloud_side())
        for noise in (b"", b"noise", QUESTION[:-1]):
            status, answer = post(url, noise)
            assert status == 200
            assert isinstance(decode(answer), Failure)
        assert isinstance(decode(post(url, QUESTION)[1]), Candidates)

    def test_survives_a_fault_of_the_method(
        self, serve: Callable[..., str], caplog: pytest.LogCaptureFixture
    ) -> None:
        class Broken:
            def handle(self, frames: Sequence[bytes]) -> list[bytes]:
                raise ZeroDivisionError(str(frames))

        url = serve(Broken())
        for _ in range(2):
            answer = decode(post(url, QUESTION)[1])
            assert answer == Failure("the cloud has failed; its log says why", 0.0)
        assert "ZeroDivisionError" in caplog.text

    def test_gives_up_on_a_body_that_trickles(
        self, model: Minimal, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(serving, "BODY_TIMEOUT_S", 0.2)
        url = serve(model.cloud_side())
        assert raw(url, b"Content-Length: 100\r\n\r\n!").startswith(b"HTTP/1.1 408")

    def test_tells_that_it_lives(self, model: Minimal, serve: Callable[..., str]) -> None:
        connection = http.client.HTTPConnection(urlsplit(serve(model.cloud_side())).netloc, timeout=10)
        connection.request("GET", "/health")
        assert connection.getresponse().read() == b"ok"

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
    def test_stays_on_this_machine_without_a_token(self, model: Minimal, host: str) -> None:
        with pytest.raises(UsageError, match="others can reach it, so give a token with --token-file"):
            Server(model.cloud_side(), host=host, port=0)

    def test_a_taken_port_is_told(self, model: Minimal) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            with pytest.raises(UsageError, match=f"--port {port}: .*choose another"):
                Server(model.cloud_side(), host="127.0.0.1", port=port)

    def test_any_method_can_be_a_cloud(self, data: InteractionData) -> None:
        popular = Popularity()
        popular.build(data.catalog)
        for stage in popular.stages(data):
            assert stage.solve is not None
            stage.solve()
        reply = decode(cloud_of(popular, data.catalog).handle([QUESTION])[0])
        assert isinstance(reply, Candidates)
        wanted = np.argsort(-data.catalog.popularity, kind="stable")[:5]
        counts = data.catalog.popularity
        assert counts[reply.items].tolist() == counts[wanted].tolist()


@pytest.mark.parametrize(
    ("host", "wanted"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False)],
)
def test_loopback(host: str, wanted: bool) -> None:
    assert is_loopback(host) is wanted


def test_a_bucket_fills_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    bucket = Bucket(2.0)
    assert [bucket.take() for _ in range(3)] == [True, True, False]
    now[0] += 0.5
    assert [bucket.take() for _ in range(2)] == [True, False]
    now[0] += 100
    assert [bucket.take() for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("content", ["", "short", "two words that are long enough", "a" * 20 + "\nb"])
def test_a_token_is_one_long_word(content: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(content)
    with pytest.raises(UsageError, match="a token is one line of at least 16 characters"):
        read_token(file)
    file.write_text(f"{TOKEN}\n")
    assert read_token(file) == TOKEN


class TestTheLink:
    """Whatever a server does, a device with a deadline goes on."""

    def exchange(self, answer: bytes | None, *, pause_s: float = 0.0, timeout_ms: float = 400) -> list[Any]:
        """What arrives from a server that sends `answer` bit by bit."""
        with socket.create_server(("127.0.0.1", 0)) as listening:

            def play() -> None:
                line, _ = listening.accept()
                with line:
                    line.recv(10_000)
                    with suppress(OSError):  # the other side may have had enough
                        for byte in answer or b"":
                            line.sendall(bytes([byte]))
                            time.sleep(pause_s)

            threading.Thread(target=play, daemon=True).start()
            start = time.perf_counter()
            with Http(f"http://127.0.0.1:{listening.getsockname()[1]}", timeout_ms=timeout_ms) as link:
                (found,) = link.exchange([QUESTION])
            self.problem, self.seconds = link.problem, time.perf_counter() - start
        return found

    def test_a_trickling_answer_ends_at_the_deadline(self) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {FRAMES}\r\nContent-Length: 100\r\n\r\n"
        assert self.exchange(head.encode() + bytes(100), pause_s=0.05) == []
        assert "no answer within 400 ms" in self.problem
        assert self.seconds < 3

    @pytest.mark.parametrize(
        "answer",
        [
            None,
            b"what?\r\n\r\n",
            b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi",
            b"HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n",
        ],
        ids=["hangs-up", "no-http", "error", "portal", "redirect"],
    )
    def test_no_answer_is_no_arrival(self, answer: bytes | None) -> None:
        assert self.exchange(answer, timeout_ms=5000) == []
        assert self.problem

    def test_nobody_there_is_no_arrival(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        with Http(f"http://127.0.0.1:{port}", timeout_ms=2000) as link:
            assert link.exchange([QUESTION]) == [[]]
            assert link.problem

    @pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://127.0.0.1", ""])
    def test_an_address_has_a_scheme(self, url: str) -> None:
        with pytest.raises(UsageError, match="starts with http"):
            Http(url, timeout_ms=1000)

    def test_a_wrong_token_is_told(self, model: Minimal, serve: Callable[..., str]) -> None:
        url = serve(model.cloud_side(), token=TOKEN)
        with Http(url, timeout_ms=5000) as link, pytest.raises(UsageError, match="does not accept the token"):
            link.exchange([QUESTION])
        with Http(url, timeout_ms=5000, token=TOKEN) as link:
            ((arrival,),) = link.exchange([QUESTION])
        assert isinstance(decode(arrival.frame), Candidates)
        assert checksum(QUESTION)


class TestTwoProcesses:
    """The commands, each in a process of its own, on a run that `fit` has made."""

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory: pytest.TempPathFactory, monkeypatch_class: Any) -> Path:
        place: Path = tmp_path_factory.mktemp("two")
        monkeypatch_class.chdir(place)
        words = [
            "fit",
            "--model=minimal.Minimal",
            "--data=demo",
            "--model.device=Popularity",
            "--wandb=disabled",
        ]
        words += ["--wandb=disabled", f"--results={place / 'results'}"]
        assert cli.main(words) == 0
        (run,) = (place / "runs").iterdir()
        return run

    @pytest.fixture(scope="class")
    def monkeypatch_class(self) -> Iterator[pytest.MonkeyPatch]:
        with pytest.MonkeyPatch.context() as patch:
            yield patch

    def command(self, *words: str | Path) -> list[str]:
        return [sys.executable, "-m", "recbench", *map(str, words)]

    @pytest.fixture(scope="class")
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}

    def test_the_cloud_serves_and_the_device_recommends(
        self,
        folder: Path,
        environment: dict[str, str],
        capfd: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("COLUMNS", "200")
        asked = ["--user=7", "--deadline-ms=9000"]
        cloud = subprocess.Popen(
            self.command("serve", "cloud", "--run", folder, "--port", "0"),
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert cloud.stdout is not None
            announced = cloud.stdout.readline()
            url = announced.rpartition(" ")[2].strip()
            assert announced.startswith(f"cloud of {folder.name} at http://127.0.0.1:")
            capfd.readouterr()
            assert cli.main(["device", "--cloud", url, "--run", str(folder), *asked]) == 0
            shown = capfd.readouterr().out
        finally:
            cloud.send_signal(signal.SIGTERM)
            _, complaints = cloud.communicate(timeout=60)
        assert cli.main(["recommend", str(folder), "--user=7"]) == 0
        wanted = [line for line in capfd.readouterr().out.splitlines() if "place-" in line]
        assert [line for line in shown.splitlines() if "place-" in line] == wanted
        assert len(wanted) == 10
        assert "by cloud" in shown
        assert (cloud.returncode, complaints) == (128 + signal.SIGTERM, "recbench: terminated\n")

    def test_without_a_cloud_the_device_says_so_and_recommends(
        self, folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "200")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        words = ["device", "--cloud", f"http://127.0.0.1:{port}", "--run", str(folder)]
        assert cli.main(words) == 0
        shown = capfd.readouterr().out
        assert shown.count("place-") == 10
        assert "by device" in shown
        assert "the cloud: " in shown

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["device", "--cloud", "127.0.0.1", "--run", "RUN"], "--cloud 127.0.0.1: an address starts with"),
            (
                ["device", "--cloud", "http://x", "--run", "RUN", "--user", "9999"],
                "--user 9999: demo has users 0 to",
            ),
            (["device", "--cloud", "http://x", "--run", "nowhere"], "nowhere: no such run folder"),
            (["serve", "cloud", "--run", "RUN", "--host", "0.0.0.0"], "others can reach it"),
            (["serve", "cloud", "--run", "RUN", "--token-file", "none"], "--token-file"),
            (["serve", "clown"], "did you mean"),
        ],
        ids=["address", "user", "run", "host", "token", "word"],
    )
    def test_a_mistake_is_told_in_one_line(
        self, folder: Path, words: list[str], says: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main([str(folder) if word == "RUN" else word for word in words]) in (2, 3)
        complaint = capfd.readouterr().err.strip().splitlines()
        assert len(complaint) == 1
        assert says in complaint[0]
