"""Answers: OpenAI's error form, its list of pictures, and the raw forms."""

import base64
import json
import math
from collections.abc import Sequence
from typing import Any

from starlette.responses import JSONResponse, Response
from torch import Tensor, cat

from ptq_export.serving.body import Asked, FieldError
from ptq_export.serving.guards import BodyTooLarge, BodyTooSlow
from ptq_export.serving.pictures import Range, npy, picture

__all__ = ["KINDS", "encoded", "error", "error_body", "no_body", "refusal", "text_of"]

KINDS = {400: "invalid_request_error", 429: "rate_limit_error", 500: "server_error"}


def error_body(status: int, code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """`{"error": {...}}`."""
    kind = KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error(
    status: int,
    code: str,
    message: str,
    param: str | None = None,
    retry_after_s: float | None = None,
    close: bool = False,
) -> Response:
    """An answer that tells why there is no other; `close` ends the connection, too."""
    headers = {} if retry_after_s is None else {"retry-after": str(max(1, math.ceil(retry_after_s)))}
    headers |= {"connection": "close"} if close else {}
    return JSONResponse(error_body(status, code, message, param), status, headers)


def no_body(found: BodyTooLarge | BodyTooSlow, most: int) -> Response:
    """The answer where the body, of at most so many bytes, was not read."""
    if isinstance(found, BodyTooLarge):
        return error(413, "too_large", f"the body is larger than {most} bytes", close=True)
    return error(408, "too_slow", "the body did not arrive in time", close=True)


def refusal(found: FieldError) -> Response:
    """The answer to a field that cannot be used."""
    return error(found.status, found.code, found.message, found.param)


def encoded(asked: Asked, samples: Sequence[Tensor], limits: Range, created: int) -> Response:
    """The pictures `[1, C, ...]` in the form that was asked for. It takes time: not for the event loop."""
    seeds = {"x-seed": ",".join(str(each.seed) for each in asked.pictures)}
    if asked.format == "npy":
        return Response(npy(cat(list(samples))), headers=seeds, media_type="application/octet-stream")
    if asked.format == "png":
        return Response(picture(samples[0][0], limits), headers=seeds, media_type="image/png")
    data = [
        {"b64_json": text_of(picture(sample[0], limits)), "seed": each.seed}
        for sample, each in zip(samples, asked.pictures, strict=True)
    ]
    return Response(json.dumps({"created": created, "data": data}), media_type="application/json")


def text_of(content: bytes) -> str:
    """Base 64."""
    return base64.b64encode(content).decode()
