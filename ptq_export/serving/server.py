"""The process: a socket, uvicorn on it, the engines loaded meanwhile, and an orderly end."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import uvicorn
from starlette.types import ASGIApp

from ptq_export.command_options import Serving
from ptq_export.errors import InputError
from ptq_export.serving.app import make_app
from ptq_export.serving.metrics import Metrics
from ptq_export.serving.model import load_models
from ptq_export.serving.protocol import BoundedHeads
from ptq_export.serving.service import Service
from ptq_export.signals import SIGNALS, end_now

__all__ = ["Backend", "Door", "serve", "serve_app"]

MOST_CONNECTIONS = 1024
LOOKS_S = 0.05


def serve(run: Path, serving: Serving, say: Callable[[str], object]) -> None:
    """Serve until a signal asks for the end; returns when every accepted request was answered.

    Raises:
        EnvironmentMissing: this machine cannot run the engine.
        InputError: no finished run; or the address cannot be had.
    """
    service = Service(serving, Metrics())

    def load() -> str:
        service.models = load_models(run, serving, service.metrics)
        return _shown(service)

    def close() -> None:
        for model in service.models.values():
            model.batcher.close()

    serve_app(make_app(service), Backend(service, load, close), serving, say)


class Door(Protocol):
    """What counts the requests that are being answered, and refuses new ones while `draining`."""

    draining: bool
    answering: int

    @property
    def ready(self) -> bool:
        """Whether requests are accepted."""


@dataclass(frozen=True)
class Backend:
    """What is behind a socket: `load` takes its time and tells what is served, `close` lets go of it."""

    door: Door
    load: Callable[[], str]
    close: Callable[[], None]


def serve_app(app: ASGIApp, backend: Backend, serving: Serving, say: Callable[[str], object]) -> None:
    """Serve `app` until a signal asks for the end.

    Raises:
        InputError: the address cannot be had.
    """
    with _listening(serving.host, serving.port) as listener:
        asyncio.run(_serve(app, backend, serving, listener, say))
    backend.close()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are ours."""
        yield


async def _serve(
    app: ASGIApp, backend: Backend, serving: Serving, listener: socket.socket, say: Callable[[str], object]
) -> None:
    config = uvicorn.Config(
        app,
        http=BoundedHeads,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=max(MOST_CONNECTIONS, 4 * serving.queue),
    )
    server, door = _Server(config), backend.door
    asked = _on_signals(door, say)
    running = asyncio.create_task(server.serve([listener]))
    try:
        shown = await asyncio.to_thread(backend.load)
        say(f"serving {shown} on {_address(listener)}")
        await asked.wait()
        door.draining = True
        while door.answering:
            await asyncio.sleep(LOOKS_S)
    finally:
        server.should_exit = True
        await running


def _shown(service: Service) -> str:
    return ", ".join(f"{name} ({it.batcher.rows} rows a step)" for name, it in service.models.items())


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _on_signals(door: Door, say: Callable[[str], object]) -> asyncio.Event:
    """Set by the first signal; the second ends the process at once, and so does one before anything was accepted."""
    asked, loop = asyncio.Event(), asyncio.get_running_loop()

    def arrived(number: int) -> None:
        if asked.is_set() or not door.ready:
            end_now(number)
        say("ending: accepted requests are finished, new ones refused; a second signal ends at once")
        asked.set()

    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            loop.add_signal_handler(number, arrived, number)
    return asked


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise InputError(
            f"cannot listen on {host}:{port}: {error.strerror}", "give another --host or --port"
        ) from error
    with listener:
        yield listener
