"""The engine kinds that compute in float32 on a CPU, from the registry: a new one is held to what all are."""

from pathlib import Path

import pytest

from ptq_export.engines.base import Engine, EngineOptions
from ptq_export.engines.registry import RUNTIMES, build_engine

__all__ = ["CPU_KINDS", "built"]

CPU_KINDS = tuple(name for name, it in RUNTIMES.items() if it.device == "cpu" and not name.endswith("bf16"))


def built(kind: str, source: Path, options: EngineOptions | None = None, sha256: str | None = None) -> Engine:
    """The engine of `source`, on one thread; the test is skipped where the kind's package is absent."""
    if missing := RUNTIMES[kind].missing():
        pytest.skip(missing.cause)
    return build_engine(kind, source, source.parent / "engine", options or EngineOptions(threads=1), sha256)
