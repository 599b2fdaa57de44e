"""The same service on many processes or machines: a front door here, replicas as a deployment of Ray Serve."""

import os
from importlib.util import find_spec

from ptq_export.errors import EnvironmentMissing

__all__ = ["require_ray"]


def require_ray() -> None:
    """Refuse where the extra `ray` was not installed. Before Ray is imported: it is told here to leave signals alone,
    of which SIGTERM asks for an orderly end, and not to begin another cluster for a thread of its own after that end.

    Raises:
        EnvironmentMissing: with the command that installs it.
    """
    if find_spec("ray") is None:
        raise EnvironmentMissing("--ray wants Ray Serve", "pip install 'ptq-export[ray]'")
    os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
