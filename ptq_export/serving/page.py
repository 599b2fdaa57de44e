"""The page at `/`: a picture appears step by step. It loads nothing but this service's own answers."""

from importlib.resources import files

from starlette.responses import HTMLResponse

__all__ = ["page"]

POLICY = "; ".join(
    (
        "default-src 'none'",
        "connect-src 'self'",
        "img-src data:",
        "script-src 'unsafe-inline'",
        "style-src 'unsafe-inline'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""The page is one file that nothing is written into."""


def page() -> HTMLResponse:
    """The page, and what it may load."""
    content = (files("ptq_export.serving") / "page.html").read_text("utf-8")
    return HTMLResponse(content, headers={"content-security-policy": POLICY, "cache-control": "no-cache"})
