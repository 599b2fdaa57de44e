"""`POST /v1/images/generations`: read, check, submit, wait, encode."""

import asyncio
import math
import random
import time

from starlette.requests import Request
from starlette.responses import Response

from ptq_export.serving.answers import encoded, error, no_body, refusal
from ptq_export.serving.batcher import Busy, Closed
from ptq_export.serving.body import Asked, FieldError, fields_of, parse
from ptq_export.serving.connection import while_connected
from ptq_export.serving.events import EventStream
from ptq_export.serving.guards import BodyTooLarge, BodyTooSlow, ClientGone, read_body
from ptq_export.serving.job import Job
from ptq_export.serving.model import Model
from ptq_export.serving.service import Service

__all__ = ["generate"]

DRAWN_SEEDS = 2**31
RAW = {"image/png": "png", "application/octet-stream": "npy"}


async def generate(service: Service, request: Request) -> Response:
    """The answer, whatever was sent."""
    service.answering += 1
    streams = False
    try:
        answer = await _answer(service, request)
        streams = isinstance(answer, EventStream)
        return answer
    finally:
        if not streams:  # else it counts down itself
            service.answering -= 1


async def _answer(service: Service, request: Request) -> Response:
    model_name = next(iter(service.models), "")
    try:
        content = await read_body(request.scope, request.receive, service.serving.max_body)
        if not service.ready:
            service.metrics.ended(model_name, "draining")
            told = "the service is ending" if service.draining else "the service is loading its engine"
            return error(503, "draining" if service.draining else "loading", told, retry_after_s=1, close=True)
        model, asked = await asyncio.to_thread(_read, service, request, content)
        job = Job(model, asked, service.serving.timeout)
    except (BodyTooLarge, BodyTooSlow) as found:
        service.metrics.ended(model_name, "refused")
        return no_body(found, service.serving.max_body)
    except ClientGone:
        service.metrics.ended(model_name, "disconnected")
        return Response(status_code=400)
    except FieldError as wrong:
        service.metrics.ended(model_name, "refused")
        return refusal(wrong)
    except Busy as busy:
        service.metrics.ended(model_name, "busy")
        told = f"{service.serving.queue} pictures are accepted already; try again in {math.ceil(busy.retry_after_s)} s"
        return error(429, "busy", told, retry_after_s=busy.retry_after_s)
    except Closed:
        service.metrics.ended(model_name, "draining")
        return error(503, "draining", "the service is ending", retry_after_s=1, close=True)
    return EventStream(service, job) if asked.stream else await _whole(service, job, request)


def _read(service: Service, request: Request, content: bytes) -> tuple[Model, Asked]:
    """Parsing checks shapes and samplers, and a large body takes its time: not for the event loop."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise FieldError("the body must be application/json", None, "unsupported_media_type", 415)
    fields = fields_of(content)
    raw = RAW.get(request.headers.get("accept", "").partition(";")[0].strip().lower())
    if raw is not None:
        fields.setdefault("response_format", raw)
    model = service.model(fields.get("model"))
    asked = parse(fields, model.subject, random.randrange(DRAWN_SEEDS))
    if len(asked.pictures) > service.serving.queue:  # there will never be room
        raise FieldError(f"n is {len(asked.pictures)}, this service accepts {service.serving.queue} at a time", "n")
    return model, asked


async def _whole(service: Service, job: Job, request: Request) -> Response:
    """All pictures in one answer."""
    created = int(time.time())
    with job:
        try:
            async with asyncio.timeout(job.time_limit_s):
                samples = await while_connected(request.receive, job.finished())
        except BaseException as failure:
            status, code, message = service.ended(job, failure)
            if not isinstance(failure, Exception):
                raise
            return error(status, code, message)
    service.ended(job, None)
    return await asyncio.to_thread(encoded, job.asked, samples, job.model.range, created)
