"""The OpenAPI document as a page that loads nothing."""

import json
from html import escape
from typing import Any

__all__ = ["docs_page"]

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; width: 100% }
td { border-bottom: 1px solid #ddd; padding: .3rem; vertical-align: top }
code { font: 14px/1.4 ui-monospace, monospace }
"""


def docs_page(document: dict[str, Any]) -> str:
    """HTML."""
    request = document["components"]["schemas"]["Request"]["properties"]
    fields = [[f"<code>{escape(name)}</code>", _shown(schema)] for name, schema in request.items()]
    paths = [
        [f"<code>{method.upper()} {escape(path)}</code>", escape(operation["summary"])]
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    answers = document["paths"]["/v1/images/generations"]["post"]["responses"]
    told = [[status, escape(answer["description"])] for status, answer in answers.items()]
    title, about = escape(document["info"]["title"]), escape(document["info"]["description"])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        f"<h1>{title}</h1><p>{about}</p>{_table(paths)}<h2>Fields of a request</h2>{_table(fields)}"
        f'<h2>Answers</h2>{_table(told)}<p>The document: <a href="openapi.json">openapi.json</a></p></html>'
    )


def _shown(schema: dict[str, Any]) -> str:
    rest = {key: value for key, value in schema.items() if key != "description"}
    return f"{escape(schema.get('description', ''))} <code>{escape(json.dumps(rest))}</code>"


def _table(rows: list[list[str]]) -> str:
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table>{body}</table>"
