"""A served run in a process of its own, and clients that load it."""

import asyncio
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any

import psutil

from ptq_export.errors import GateFailed

__all__ = ["Call", "Served", "ask", "clients", "leave", "p95", "probe", "served", "started"]

GENERATIONS = "/v1/images/generations"
ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)")


@dataclass(frozen=True)
class Call:
    """One request: its status (0: no answer), when it began, how long it took, and what the answer asks to wait."""

    status: int
    began: float
    seconds: float
    retry_after_s: float = 0.0


@dataclass(frozen=True)
class Served:
    """A running service; `pid` is its process."""

    port: int
    pid: int

    @property
    def rss_bytes(self) -> int:
        """Resident memory."""
        found: int = psutil.Process(self.pid).memory_info().rss
        return found

    def metric(self, name: str, label: str = "") -> float:
        """The sum of a metric over its labels, or over those with this one."""
        _, text = asyncio.run(_exchange(self.port, "GET", "/metrics", b""))
        lines = [line for line in text.decode().splitlines() if line.startswith((f"{name}{{", f"{name} "))]
        return sum(float(line.rpartition(" ")[2]) for line in lines if label in line)


@contextmanager
def served(run: Path, *flags: str) -> Iterator[Served]:
    """`ptq-export serve RUN` on a free port, until the block ends."""
    with started([sys.executable, "-m", "ptq_export", "serve", str(run), "--port", "0", *flags]) as found:
        yield found


@contextmanager
def started(command: Sequence[str], env: Mapping[str, str] | None = None) -> Iterator[Served]:
    """A server that tells its address on stderr, until the block ends.

    Raises:
        GateFailed: it ended by itself.
    """
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    told = ""
    try:
        for line in process.stderr:
            told += line
            if found := ADDRESS.search(line):
                break
        else:
            raise GateFailed(f"{command[0]} ended: {told[-500:]}")
        threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would halt it
        yield Served(int(found[1]), process.pid)
    finally:
        _end(process)


def _end(process: "subprocess.Popen[str]") -> None:
    """End a server and the processes that it started."""
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    process.wait(timeout=60)
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.kill()


async def ask(port: int, path: str = GENERATIONS, **fields: Any) -> Call:
    """One request for pictures, to its end."""
    return await _timed(port, "POST", path, json.dumps(fields).encode())


async def probe(port: int, path: str) -> Call:
    """One look at a page."""
    return await _timed(port, "GET", path, b"")


async def _timed(port: int, method: str, path: str, body: bytes) -> Call:
    began = time.perf_counter()
    try:
        head, _ = await _exchange(port, method, path, body)
    except (OSError, asyncio.IncompleteReadError, IndexError):
        return Call(0, began, time.perf_counter() - began)
    retry = re.search(r"retry-after: (\d+)", head.lower())
    return Call(int(head.split(" ")[1]), began, time.perf_counter() - began, float(retry[1]) if retry else 0.0)


async def leave(port: int, after_s: float, **fields: Any) -> None:
    """One request whose client leaves after so many seconds."""
    _, writer = await _send(port, "POST", GENERATIONS, json.dumps(fields).encode())
    try:
        await asyncio.sleep(after_s)
    finally:
        writer.close()


def clients(
    port: int, count: int, seconds: float, fields: Callable[[int], dict[str, Any]], path: str = ""
) -> list[Call]:
    """So many clients, each of which asks again when it was answered; the calls that began within the time."""

    async def one(number: int, end: float) -> list[Call]:
        found: list[Call] = []
        while time.perf_counter() < end:
            found.append(await ask(port, path or GENERATIONS, **fields(number + count * len(found))))
        return found

    async def all_of_them() -> list[Call]:
        end = time.perf_counter() + seconds
        return [call for each in await asyncio.gather(*(one(i, end) for i in range(count))) for call in each]

    return asyncio.run(all_of_them())


def p95(values: Sequence[float]) -> float:
    """The 95th percentile."""
    return quantiles(values, n=20, method="inclusive")[-1] if len(values) > 1 else values[0]


async def _send(port: int, method: str, path: str, body: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    return reader, writer


async def _exchange(port: int, method: str, path: str, body: bytes) -> tuple[str, bytes]:
    """Head and body of the answer."""
    reader, writer = await _send(port, method, path, body)
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        return head, await reader.read()
    finally:
        writer.close()
