"""`ptq-export serve --ray` for real: two replicas, one killed under load, clients that leave, an orderly end."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("ray", reason="pip install 'ptq-export[ray]'")
QUEUE, LOAD = 32, 26
FEW_CPUS = ("--replica-cpus", "0.2", "--queue", str(QUEUE))


class Fleet(NamedTuple):
    """The process of the front door, and its port."""

    process: psutil.Popen
    port: int

    def replicas(self) -> list[psutil.Process]:
        children = self.process.children(recursive=True)
        return [each for each in children if "ServeReplica" in " ".join(each.cmdline())]

    def open(self, name: str, **fields: Any) -> HTTPConnection:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=120)
        headers = {"content-type": "application/json", "x-request-id": name}
        connection.request("POST", "/v1/images/generations", json.dumps(fields), headers)
        return connection

    def ask(self, name: str, **fields: Any) -> tuple[int, bytes]:
        connection = self.open(name, **fields)
        try:
            answer = connection.getresponse()
            assert answer.getheader("x-request-id") == name
            return answer.status, answer.read()
        finally:
            connection.close()


@contextmanager
def started(run: Path, *flags: str) -> Iterator[Fleet]:
    command = [sys.executable, "-m", "ptq_export", "serve", str(run), "--port", "0", "--ray", *flags]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    process = psutil.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    found = next(found for line in process.stderr if (found := re.search(r"http://[^:]+:(\d+)", line)))
    try:
        yield Fleet(process, int(found[1]))
    finally:
        left = [process, *process.children(recursive=True)] if process.is_running() else []
        for each in left:
            each.kill()


@pytest.fixture(scope="module")
def fleet(finished: Path) -> Iterator[Fleet]:
    with started(finished, "--replicas", "2", *FEW_CPUS) as two:
        yield two


def test_every_replica_draws_the_same_picture_of_a_seed(fleet: Fleet) -> None:
    assert len(fleet.replicas()) == 2
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda it: fleet.ask(f"same-{it}", seed=5, steps=20, response_format="png"), range(12)))
    assert {status for status, _ in answers} == {200} and len({picture for _, picture in answers}) == 1


def test_what_a_replica_refuses_is_passed_on(fleet: Fleet) -> None:
    status, answer = fleet.ask("refused", steps=-1)
    assert status == 400 and json.loads(answer)["error"]["param"] == "steps"


def test_a_client_that_leaves_frees_its_place_at_its_replica(fleet: Fleet) -> None:
    streams: list[HTTPConnection] = []
    for number in range(60):  # a full replica refuses, the other one takes them until it is full, too
        stream = fleet.open(f"left-{number}", steps=1000, n=4, stream=True)
        streams += [stream] if stream.getresponse().status == 200 else []
        if len(streams) == 2 * QUEUE // 4:
            break
    assert fleet.ask("full", steps=1, n=4)[0] == 429
    for each in streams:
        each.close()
    deadline = time.monotonic() + 20
    while fleet.ask("room", steps=1, n=10)[0] != 200 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert fleet.ask("room", steps=1, n=10)[0] == 200


def outcome(fleet: Fleet, name: str, stream: bool) -> str:
    """How a request ended; `lost` is what must not be."""
    status, answer = fleet.ask(name, seed=1, steps=250, stream=stream)
    if status == 200 and (b"image_generation.completed" in answer if stream else b"b64_json" in answer):
        return "finished"
    return "named" if f"request {name} was not finished".encode() in answer else f"lost: {status} {answer[-200:]!r}"


def test_no_request_is_lost_without_a_word_when_a_replica_is_killed(fleet: Fleet) -> None:
    with ThreadPoolExecutor(LOAD) as pool:
        ends = [pool.submit(outcome, fleet, f"load-{it}", it % 2 == 0) for it in range(LOAD)]
        time.sleep(1.0)
        assert not all(end.done() for end in ends)
        fleet.replicas()[0].kill()
        found = [end.result() for end in ends]
    whole, streamed = Counter(found[1::2]), Counter(found[::2])
    assert whole == {"finished": LOAD // 2}, "drawn again by the other replica"
    assert streamed["named"] >= 1 and {*streamed} <= {"finished", "named"}, streamed


def test_the_end_waits_for_what_was_accepted_and_leaves_no_process(fleet: Fleet) -> None:
    children = fleet.process.children(recursive=True)
    with ThreadPoolExecutor() as pool:
        accepted = pool.submit(outcome, fleet, "last", False)
        time.sleep(0.5)
        fleet.process.send_signal(signal.SIGTERM)
        assert accepted.result() == "finished"
    assert fleet.process.wait(90) == 0
    _, alive = psutil.wait_procs(children, timeout=90)  # Ray's agents look for their raylet only now and then
    assert alive == []


def test_a_replica_is_added_when_the_queue_is_long(finished: Path) -> None:
    flags = ("--replicas", "1:2", "--max-batch", "2", *FEW_CPUS)
    with started(finished, *flags) as growing, ThreadPoolExecutor(LOAD) as pool:
        assert len(growing.replicas()) == 1
        ends: list[Future[str]] = []
        deadline = time.monotonic() + 180
        while len(growing.replicas()) < 2 and time.monotonic() < deadline:
            for _ in range(LOAD - sum(not end.done() for end in ends)):
                ends.append(pool.submit(outcome, growing, f"grow-{len(ends)}", False))
            time.sleep(1)
        assert len(growing.replicas()) == 2
        assert {end.result() for end in ends} == {"finished"}
