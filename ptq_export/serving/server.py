"""The process: a socket, uvicorn on it, the engines loaded meanwhile, and an orderly end."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn

from ptq_export.errors import InputError
from ptq_export.options import Serving
from ptq_export.serving.app import make_app
from ptq_export.serving.metrics import Metrics
from ptq_export.serving.model import load_models
from ptq_export.serving.protocol import BoundedHeads
from ptq_export.serving.service import Service
from ptq_export.signals import SIGNALS, end_now

__all__ = ["serve"]

MOST_CONNECTIONS = 1024
LOOKS_S = 0.05


def serve(run: Path, serving: Serving, say: Callable[[str], object]) -> None:
    """Serve until a signal asks for the end; returns when every accepted request was answered.

    Raises:
        EnvironmentMissing: this machine cannot run the engine.
        InputError: no finished run; or the address cannot be had.
    """
    with _listening(serving.host, serving.port) as listener:
        asyncio.run(_serve(run, serving, listener, say))


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are ours."""
        yield


async def _serve(run: Path, serving: Serving, listener: socket.socket, say: Callable[[str], object]) -> None:
    service = Service(serving, Metrics())
    config = uvicorn.Config(
        make_app(service),
        http=BoundedHeads,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=max(MOST_CONNECTIONS, 4 * serving.queue),
    )
    server = _Server(config)
    asked = _on_signals(say)
    serving_task = asyncio.create_task(server.serve([listener]))
    try:
        await _load(service, run, serving, asked)
        if not asked.is_set():
            host, port = listener.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            rows = ", ".join(f"{name} (at most {it.batcher.most_rows} rows)" for name, it in service.models.items())
            say(f"serving {rows} on http://{shown}:{port}")
            await asked.wait()
        service.draining = True
        while service.answering:
            await asyncio.sleep(LOOKS_S)
    finally:
        server.should_exit = True
        await serving_task
    for model in service.models.values():
        await asyncio.to_thread(model.batcher.close)


async def _load(service: Service, run: Path, serving: Serving, asked: asyncio.Event) -> None:
    """Load the models while the service answers that it lives; a signal does not wait for them."""
    loading = asyncio.create_task(asyncio.to_thread(load_models, run, serving, service.metrics))
    ending = asyncio.create_task(asked.wait())
    await asyncio.wait({loading, ending}, return_when=asyncio.FIRST_COMPLETED)
    ending.cancel()
    if loading.done():
        service.models = loading.result()


def _on_signals(say: Callable[[str], object]) -> asyncio.Event:
    """Set by the first signal; the second ends the process at once."""
    asked, loop = asyncio.Event(), asyncio.get_running_loop()

    def arrived(number: int) -> None:
        if asked.is_set():
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
