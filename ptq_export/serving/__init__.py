"""`ptq-export serve RUN`: pictures over HTTP, every request at its own time-step of one batch."""

from importlib.util import find_spec

from ptq_export.errors import EnvironmentMissing

__all__ = ["require_packages"]

PACKAGES = ("starlette", "uvicorn", "prometheus_client")


def require_packages() -> None:
    """Refuse where the extra `serve` was not installed.

    Raises:
        EnvironmentMissing: with the command that installs it.
    """
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise EnvironmentMissing(f"serving wants {', '.join(missing)}", "pip install 'ptq-export[serve]'")
