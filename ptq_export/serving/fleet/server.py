"""`ptq-export serve RUN --ray`: the front door on a socket, the replicas behind it."""

from collections.abc import Callable
from pathlib import Path

from ptq_export.command_options import Fleet, Serving
from ptq_export.pipeline.commands.reopened import finished_manifest
from ptq_export.serving.fleet.deployment import deploy, replica_calls, shut_down
from ptq_export.serving.fleet.front import Front
from ptq_export.serving.metrics import Metrics
from ptq_export.serving.server import Backend, serve_app

__all__ = ["serve_fleet"]


def serve_fleet(run: Path, serving: Serving, fleet: Fleet, say: Callable[[str], object]) -> None:
    """Serve until a signal asks for the end; returns when every accepted request was answered.

    Raises:
        InputError: no finished run; or the address cannot be had.
    """
    finished_manifest(run)
    front = Front(serving, Metrics())

    def load() -> str:
        handle = deploy(run, serving, fleet)
        told = str(handle.shown.remote().result())
        front.call = replica_calls(handle)
        return f"{told}, {fleet.replicas} replicas"

    serve_app(front, Backend(front, load, shut_down), serving, say)
