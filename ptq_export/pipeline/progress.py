"""Whoever watches a job: what it is told."""

from typing import Protocol

__all__ = ["SILENT", "Progress"]


class Progress(Protocol):
    """Hears what the job is doing."""

    def stage(self, name: str, total: int | None) -> None:
        """A stage of `total` parts begins (None: unknown)."""

    def advance(self, n: int = 1) -> None:
        """`n` more parts are done."""

    def message(self, text: str) -> None:
        """Something the user should read."""


class _Silent:
    """Progress that nobody watches."""

    def stage(self, name: str, total: int | None) -> None:
        """Ignored."""

    def advance(self, n: int = 1) -> None:
        """Ignored."""

    def message(self, text: str) -> None:
        """Ignored."""


SILENT = _Silent()
