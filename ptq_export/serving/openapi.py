"""The OpenAPI document of the models that are served: what their conditions are is part of it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ptq_export.command_options import Serving
from ptq_export.interface import LABEL, Input
from ptq_export.schedulers import SAMPLERS
from ptq_export.serving.body import IGNORED, MOST_PICTURES, MOST_SEED, NEVER_NULL
from ptq_export.serving.fields import MOST_GUIDANCE, MOST_PROMPT
from ptq_export.serving.model import Models
from ptq_export.serving.request import Subject

__all__ = ["document"]

ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
REFUSALS = {
    "400": "A field, or the body, cannot be used.",
    "404": "There is no such model.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "415": "The body is not application/json.",
    "422": "The sample became NaN or infinite: too much guidance, or conditions far from the trained ones.",
    "429": "No room; Retry-After says when there should be some.",
    "503": "Loading, ending, or not begun within the time limit.",
    "504": "Not finished within the time limit.",
}


def document(models: Models, serving: Serving) -> dict[str, Any]:
    """The document, OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "ptq-export serve", "version": "1", "description": _about(models, serving)},
        "paths": {
            "/v1/images/generations": {"post": _generations(models)},
            "/v1/models": {"get": _get("The models that are served.", "application/json")},
            "/healthz": {"get": _get("The process lives.", "application/json")},
            "/readyz": {"get": _readyz()},
            "/metrics": {"get": _get("Figures for Prometheus.", "text/plain")},
            "/openapi.json": {"get": _get("This document.", "application/json")},
            "/docs": {"get": _get("This document as a page.", "text/html")},
            "/": {"get": _get("A page on which a picture appears step by step.", "text/html")},
        },
        "components": {"schemas": {"Error": ERROR, "Answer": _answer(), "Request": _request(models)}},
    }


def _about(models: Models, serving: Serving) -> str:
    told = f"At most {serving.queue} pictures are accepted at a time, each finished within {serving.timeout:g} s."
    drawn = [f"{name}: {list(model.subject.shape)} by {model.target}" for name, model in models.items()]
    return " ".join([told, *drawn])


def _generations(models: Models) -> dict[str, Any]:
    refused = {
        status: {"description": told, "content": {"application/json": {"schema": _ref("Error")}}}
        for status, told in REFUSALS.items()
    }
    done = {
        "description": "The pictures; with `stream`, events: image_generation.progress, .partial_image, .completed.",
        "content": {
            "application/json": {"schema": _ref("Answer")},
            "image/png": {"schema": {"type": "string", "format": "binary"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "text/event-stream": {"schema": {}},  # OpenAPI 3.1 has no words for events
        },
    }
    return {
        "operationId": "generate",
        "summary": "Draw pictures",
        "requestBody": {"required": True, "content": {"application/json": {"schema": _ref("Request")}}},
        "responses": {"200": done, **refused},
    }


def _request(models: Models) -> dict[str, Any]:
    subjects = [model.subject for model in models.values()]
    steps = min((subject.schedule.num_train_timesteps for subject in subjects), default=1000)
    conditions = [*{each.name: each for subject in subjects for each in subject.signature.conditions}.values()]
    named = [each for each in conditions if each.name != LABEL]  # a class is given as `class`
    takes_text = any(subject.encoding is not None for subject in subjects)
    needed = [it.name for it in named if all(it in subject.signature.conditions for subject in subjects)]
    needed = [] if takes_text else needed
    properties: dict[str, Any] = {
        "model": {"enum": [*models, None]},
        **_words(subjects),
        "n": _integer(1, MOST_PICTURES, 1, "How many pictures; picture i has seed + i."),
        "seed": _integer(0, MOST_SEED, None, "Of the initial noise; drawn if absent."),
        "steps": _integer(1, steps, 20, "Denoising steps."),
        "sampler": {"enum": [*SAMPLERS], "description": "Not every sampler takes every number of steps."},
        "guidance": {"type": "number", "minimum": -MOST_GUIDANCE, "maximum": MOST_GUIDANCE, **_scale(subjects)},
        "conditions": {**_conditions(named, "One picture's, as nested lists."), "required": needed},
        "unconditional": _conditions(conditions, "With guidance: what stands in their place in the second row."),
        "size": {"enum": sorted({subject.size for subject in subjects} | {"auto"})},
        "response_format": {"enum": ["b64_json", "png", "npy"], "default": "b64_json"},
        "output_format": {"enum": ["png"]},
        "stream": {"type": "boolean", "default": False},
        "partial_images": _integer(0, steps, 0, "Previews of each picture in a stream."),
        "preview": {"enum": ["estimate", "sample"], "default": "estimate"},
        **{name: {"description": "Ignored, whatever it holds."} for name in IGNORED},
    }
    if any(subject.classes for subject in subjects):
        most = max(subject.classes or 1 for subject in subjects) - 1
        properties["class"] = _integer(0, most, None, "Drawn by the seed if absent.")
    properties = {name: each if name in NEVER_NULL else _or_null(each) for name, each in properties.items()}
    return {"type": "object", "additionalProperties": False, "properties": properties, **_rules(takes_text, needed)}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """What may be null, which stands for its absence."""
    if "enum" in schema:
        return schema | {"enum": [*dict.fromkeys([*schema["enum"], None])]}
    return schema | {"type": [schema["type"], "null"]} if "type" in schema else schema


def _rules(takes_text: bool, needed: Sequence[str]) -> dict[str, Any]:
    """Which fields there must be, and which go together."""
    if takes_text:
        prompt = {"required": ["prompt"], "properties": {"prompt": {"type": "string"}}}
        either = [prompt, {"required": ["conditions"]}]
        return {"anyOf": either, "dependentRequired": {"unconditional": ["guidance", "conditions"]}}
    both = {"guidance": ["unconditional"], "unconditional": ["guidance"]}
    return {"required": ["conditions"] if needed else [], "dependentRequired": both}


def _words(subjects: Sequence[Subject]) -> dict[str, Any]:
    encodings = [subject.encoding for subject in subjects if subject.encoding is not None]
    if not encodings:
        no = {"enum": ["", None], "description": "The engine takes no text."}
        return {"prompt": no, "negative_prompt": no}
    tokens = encodings[0].tokens
    cut = f"Past {tokens} tokens it is cut, and `cut` says so."
    text = {"type": "string", "maxLength": MOST_PROMPT}
    beside = f"In place of {', '.join(encodings[0].parts.conditions)} in `conditions`."
    return {
        "prompt": {**text, "description": f"What the picture shows. {cut} {beside}"},
        "negative_prompt": {**text, "default": "", "description": f"What guidance leads away from. {cut}"},
    }


def _scale(subjects: Sequence[Subject]) -> dict[str, Any]:
    scale = next((subject.encoding.parts.scale for subject in subjects if subject.encoding is not None), None)
    return {} if scale is None else {"default": scale, "description": "1 for none. The default is a prompt's."}


def _conditions(inputs: Sequence[Input], about: str) -> dict[str, Any]:
    properties = {each.name: _condition(each) for each in sorted(inputs, key=lambda each: each.name)}
    return {"type": "object", "additionalProperties": False, "properties": properties, "description": about}


def _condition(wanted: Input) -> dict[str, Any]:
    most = float(np.nextafter(2.0**128 - 2.0**103, 0.0))  # the largest number that float32 does not round to infinity
    bounded = {"type": "number", "minimum": -most, "maximum": most}
    schema: dict[str, Any] = bounded if wanted.dtype == "float32" else {"type": "integer"}
    if wanted.limit is not None:
        schema |= {"minimum": 0, "maximum": wanted.limit - 1}
    for size in reversed(wanted.shape):
        exact = {"minItems": 1} if isinstance(size, str) else {"minItems": size, "maxItems": size}
        schema = {"type": "array", "items": schema, **exact}
    return {**schema, "description": str(wanted)}


def _answer() -> dict[str, Any]:
    fields = {"b64_json": {"type": "string"}, "seed": {"type": "integer"}}
    picture = {"type": "object", "required": [*fields], "properties": fields}
    cut = {"type": "array", "items": {"type": "string"}, "description": "The fields whose text was cut."}
    properties = {"created": {"type": "integer"}, "data": {"type": "array", "items": picture}, "cut": cut}
    return {"type": "object", "required": ["created", "data"], "properties": properties}


def _integer(least: int, most: int, default: int | None, about: str) -> dict[str, Any]:
    given = {} if default is None else {"default": default}
    return {"type": "integer", "minimum": least, "maximum": most, "description": about, **given}


def _get(about: str, kind: str) -> dict[str, Any]:
    return {"summary": about, "responses": {"200": {"description": about, "content": {kind: {"schema": {}}}}}}


def _readyz() -> dict[str, Any]:
    found = _get("Requests are accepted.", "application/json")
    no = {"description": "Loading, or ending.", "content": {"application/json": {"schema": {}}}}
    return {**found, "responses": {**found["responses"], "503": no}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
