"""The routes of the service."""

from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from ptq_export.serving.answers import error
from ptq_export.serving.docs_page import docs_page
from ptq_export.serving.generations import generate
from ptq_export.serving.guards import SendBound
from ptq_export.serving.metrics import CONTENT_TYPE
from ptq_export.serving.openapi import document
from ptq_export.serving.page import page
from ptq_export.serving.service import Service

__all__ = ["make_app"]


def make_app(service: Service) -> Starlette:
    """The service as an ASGI application; no route blocks the event loop."""

    async def generations(request: Request) -> Response:
        return await generate(service, request)

    async def models(_: Request) -> Response:
        shown = {"object": "model", "owned_by": "ptq-export"}
        data = [{"id": name, **shown, "target": it.target} for name, it in service.models.items()]
        return JSONResponse({"object": "list", "data": data})

    async def healthz(_: Request) -> Response:
        dead = [name for name, model in service.models.items() if not model.batcher.alive]
        return JSONResponse({"status": "dead", "models": dead} if dead else {"status": "alive"}, 503 if dead else 200)

    async def readyz(_: Request) -> Response:
        state = "ready" if service.ready else "draining" if service.draining else "loading"
        return JSONResponse({"status": state}, 200 if service.ready else 503)

    async def metrics(_: Request) -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    async def openapi(_: Request) -> Response:
        return JSONResponse(document(service.models, service.serving))

    async def docs(_: Request) -> Response:
        return HTMLResponse(docs_page(document(service.models, service.serving)))

    async def start(_: Request) -> Response:
        return page()

    routes = [
        Route("/", start),
        Route("/v1/images/generations", generations, methods=["POST"]),
        Route("/v1/models", models),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", metrics),
        Route("/openapi.json", openapi),
        Route("/docs", docs),
    ]
    handlers: dict[Any, Any] = {HTTPException: _refused, Exception: _fault}
    return Starlette(routes=routes, middleware=[Middleware(SendBound)], exception_handlers=handlers)


async def _refused(_: Request, found: Exception) -> Response:
    """What starlette itself refuses: no such path, no such method."""
    assert isinstance(found, HTTPException)
    answer = error(found.status_code, "not_found" if found.status_code == 404 else "refused", found.detail)
    answer.headers.update(found.headers or {})
    return answer


async def _fault(_: Request, found: Exception) -> Response:
    return error(500, "fault", f"a fault of the service: {type(found).__name__}")
