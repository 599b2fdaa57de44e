"""What the routes share: the models, whether requests are accepted, and how each ended."""

import asyncio
import logging

from ptq_export.command_options import Serving
from ptq_export.errors import explained
from ptq_export.serving.body import FieldError
from ptq_export.serving.guards import ClientGone
from ptq_export.serving.job import Job, JobFailed
from ptq_export.serving.metrics import Metrics
from ptq_export.serving.model import Model, Models

__all__ = ["Service", "Told"]

log = logging.getLogger(__name__)

Told = tuple[int, str, str]
"""Status, code and message of a failure."""


class Service:
    """`models` is empty until they are loaded; `draining` refuses new requests; `answering` counts those at work."""

    def __init__(self, serving: Serving, metrics: Metrics) -> None:
        self.serving, self.metrics = serving, metrics
        self.models: Models = {}
        self.draining = False
        self.answering = 0

    @property
    def ready(self) -> bool:
        """Whether requests are accepted."""
        return bool(self.models) and not self.draining

    def model(self, name: object) -> Model:
        """The model of this name, the first one for None.

        Raises:
            FieldError: there is none.
        """
        if name is None:
            return next(iter(self.models.values()))
        if not isinstance(name, str) or name not in self.models:
            known = ", ".join(self.models)
            raise FieldError(f"there is no such model; there are: {known}", "model", "model_not_found", 404)
        return self.models[name]

    def ended(self, job: Job, failure: BaseException | None) -> Told:
        """Count how a job ended, and say it."""
        outcome, told = _outcome(job, failure)
        self.metrics.ended(job.model.name, outcome, job.seconds if failure is None else None)
        return told


def _outcome(job: Job, failure: BaseException | None) -> tuple[str, Told]:
    match failure:
        case None:
            return "finished", (200, "", "")
        case TimeoutError():
            limit = f"within {job.time_limit_s:g} s"
            if job.begun:
                return "timed_out", (504, "timeout", f"the pictures were not finished {limit}")
            return "timed_out", (503, "queue_timeout", f"the pictures were not begun {limit}: the service is busy")
        case JobFailed() if failure.by_input:
            return "refused", (422, "not_finite", str(failure.error).replace("\n", ": "))
        case ClientGone() | asyncio.CancelledError() | OSError():
            return "disconnected", (499, "disconnected", "the client has gone")
    error = failure.error if isinstance(failure, JobFailed) else failure
    told = explained(error).cause if isinstance(error, Exception) else str(error)
    log.error("a request failed: %s", told, exc_info=error)
    return "failed", (500, "fault", f"a fault of the service: {told}")
