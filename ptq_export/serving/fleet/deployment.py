"""The deployment: replicas of one run, as many as their queues ask for."""

import logging
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import ray
from ray import serve
from starlette.types import Message

from ptq_export.command_options import Fleet, Serving
from ptq_export.serving.fleet.front import Call
from ptq_export.serving.fleet.replica import Forwarded, Replica

__all__ = ["deploy", "replica_calls", "shut_down"]

NAME = "ptq-export"
SPARE = 64
"""Requests that a replica is handed beyond those that it accepts: it answers them itself, with 429 and when to come."""
ROWS = 8
"""Requests per replica at which another one is wanted, where `--max-batch` does not say it: about a batch."""


def deploy(run: Path, serving: Serving, fleet: Fleet) -> Any:
    """Start Ray here, or join the cluster of `RAY_ADDRESS`, and deploy; the handle of running replicas."""
    least, most = fleet.range
    # A cluster that is there has what it has; one that begins here needs no dashboard.
    begun: dict[str, Any] = {} if "RAY_ADDRESS" in os.environ else {"include_dashboard": False}
    ray.init(log_to_driver=False, **begun)
    scaling = {
        "min_replicas": least,
        "initial_replicas": least,
        "max_replicas": most,
        "target_ongoing_requests": serving.max_batch or ROWS,
    }
    deployed: Any = serve.deployment(Replica)
    deployment = deployed.options(
        name=NAME,
        autoscaling_config=scaling,
        max_ongoing_requests=serving.queue + SPARE,
        ray_actor_options={"num_cpus": fleet.cpus},
        health_check_period_s=2,
        health_check_timeout_s=30,
    )
    serve.start(proxy_location="Disabled")
    return serve.run(deployment.bind(str(run.resolve()), serving), name=NAME, route_prefix=None)


def replica_calls(handle: Any) -> Call:
    """What the front door calls."""
    answers = handle.options(stream=True).answer

    async def call(request: Forwarded) -> AsyncGenerator[Message, None]:
        messages = answers.remote(request)
        ended = False
        try:
            async for message in messages:
                yield message
            ended = True
        finally:
            if not ended:
                messages.cancel()

    return call


def shut_down() -> None:
    """A cluster that was begun here ends; another one, which may serve more than this, loses this deployment. Whoever
    calls has no request at work."""
    if "RAY_ADDRESS" in os.environ:
        serve.delete(NAME)
    logging.getLogger("ray.serve").setLevel(logging.CRITICAL)  # its threads find no Ray any more, and say so at length
    ray.shutdown()
