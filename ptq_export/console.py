"""What the command line shows: results on stdout; logs, errors and progress on stderr, with bars only on a terminal.

Whatever is shown passes through a `Plain` console, which lets no control character of a name or a file through.
"""

import io
import json
import logging
import re
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from ptq_export.errors import InputError, PtqExportError
from ptq_export.options import Flag
from ptq_export.printable import one_line, printable

__all__ = ["Output", "Plain", "Screen"]

Rows = Sequence[Sequence[str]]
PIPE_WIDTH = 120
PLAIN_INTERVAL_S = 30.0


@dataclass(frozen=True)
class Output:
    """How much is said, and in which form."""

    json: Annotated[
        bool,
        Flag("Output", "Print the result as JSON, and nothing else on stdout.", {"show_default": False}, ("--json",)),
    ] = False
    verbose: Annotated[
        int,
        Flag(
            "Output",
            "Say more; -vv adds the traces of errors.",
            {"count": True, "metavar": "", "show_default": False},
            ("--verbose", "-v"),
        ),
    ] = 0
    quiet: Annotated[
        bool,
        Flag("Output", "Say nothing but errors and the result.", {"show_default": False}, ("--quiet", "-q")),
    ] = False


class Plain(Console):
    """A console that shows controls in texts as escapes, and their further lines indented: no name can drive the
    terminal, or pass for a message of ours. A pipe whose reader has gone is the caller's to see."""

    def __init__(self, stderr: bool = False, quiet: bool = False, width: int | None = None) -> None:
        super().__init__(
            stderr=stderr, quiet=quiet, width=width, soft_wrap=stderr, highlight=not stderr, emoji=False, markup=False
        )

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)

    def say(self, text: str) -> None:
        """Print a message, which may have lines."""
        self.print(re.sub(r"\n(?=[^ ])", "\n  ", text))

    def on_broken_pipe(self) -> NoReturn:
        raise


class Screen:
    """The two streams of one command."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._answered = False
        self._out = Plain(width=None if sys.stdout.isatty() else PIPE_WIDTH)
        self._err = Plain(stderr=True)
        self._take_logs()

    def result(self, value: Mapping[str, Any], tables: Mapping[str, Rows]) -> None:
        """Print a result: as JSON if that was asked for, else as `tables` by title, headers in their first row.

        Raises:
            InputError: standard output takes no more, as on a full disk.
            BrokenPipeError: its reader has gone.
        """
        self._answered = True
        try:
            if self._output.json:
                sys.stdout.write(json.dumps(value, indent=1, default=str) + "\n")
            else:
                self._print(tables)
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            cause = f"the result cannot be written to standard output: {error.strerror}"
            raise InputError(cause, "the run folder holds what a run made; the others are asked again") from error

    def _print(self, tables: Mapping[str, Rows]) -> None:
        for title, (headers, *rows) in tables.items():
            table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
            for header, *cells in zip(*([one_line(cell) for cell in row] for row in (headers, *rows)), strict=True):
                figures = all(re.match(r"[−+-]?[\d∞–]", cell) for cell in cells)
                table.add_column(Text(header), justify="right" if figures else "left")
            for row in rows:
                table.add_row(*(Text(one_line(cell)) for cell in row))
            self._out.print(table)

    def facts(self, value: Mapping[str, Any]) -> None:
        """Print a result that is made of names and values."""
        self.result(value, {"": [["name", "value"], *_flat(value)]})

    def note(self, text: str) -> None:
        """Say something beside the result."""
        if not self._output.quiet:
            self._err.say(text)

    def error(self, error: PtqExportError) -> None:
        """Show the cause and the remedy; under --json stdout names them too, unless it holds a result already."""
        if self._output.verbose > 1:
            self._err.say("".join(traceback.format_exception(error)).rstrip())
        self._err.print("error:", style="bold red", end=" ")
        self._err.say(error.cause)
        if error.remedy:
            self._err.say(error.remedy)
        if self._output.json and not self._answered:
            self.result({"error": {"cause": error.cause, "remedy": error.remedy, "exit_code": error.exit_code}}, {})

    def _take_logs(self) -> None:
        """Show what this package logs from the asked level on, and what libraries warn about only with -v."""
        level = logging.ERROR if self._output.quiet else logging.WARNING - 10 * min(self._output.verbose, 2)
        libraries = logging.WARNING if self._output.verbose else logging.ERROR
        logging.basicConfig(level=libraries, format="%(levelname)s %(name)s: %(message)s", handlers=[_Log(self._err)])
        logging.getLogger("ptq_export").setLevel(level)
        logging.captureWarnings(True)

    @contextmanager
    def progress(self) -> Iterator["_Bars | _Lines"]:
        """Progress for the length of the block; whatever a library prints meanwhile goes to stderr."""
        console = Plain(stderr=True, quiet=True) if self._output.quiet else self._err
        stages = _Bars(console) if console.is_terminal else _Lines(console)
        with redirect_stdout(_Prints(self._err)), stages.live:
            yield stages
            stages.finish()


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[list[str]]:
    rows = []
    for name, item in value.items():
        if isinstance(item, Mapping):
            rows += _flat(item, f"{prefix}{name}.")
        else:
            text = ", ".join(map(str, item)) if isinstance(item, list | tuple) else str(item)
            rows.append([f"{prefix}{name}", text])
    return rows


class _Prints(io.StringIO):
    """What libraries print, line by line."""

    def __init__(self, console: Plain) -> None:
        super().__init__()
        self._console, self._begun = console, ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._console.print(line)
        return len(text)


class _Log(logging.Handler):
    """Log records as lines that do not tear a progress bar."""

    def __init__(self, console: Plain) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.say(self.format(record))


class _Bars:
    """One bar per stage, with the time left."""

    def __init__(self, console: Plain) -> None:
        self._console = console
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        self.live = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)
        self._task: TaskID | None = None

    def stage(self, name: str, total: int | None) -> None:
        self.finish()
        self._task = self.live.add_task(one_line(name), total=total)

    def advance(self, n: int = 1) -> None:
        if self._task is not None:
            self.live.advance(self._task, n)

    def message(self, text: str) -> None:
        self._console.say(text)

    def finish(self) -> None:
        if self._task is not None:
            done = self.live.tasks[-1].completed or 1
            self.live.update(self._task, total=done, completed=done)


class _Lines:
    """One line per stage, and one every half minute, for logs and pipes."""

    def __init__(self, console: Plain) -> None:
        self.live: AbstractContextManager[None] = nullcontext()
        self._console = console
        self._stage: _Stage | None = None

    def stage(self, name: str, total: int | None) -> None:
        self.finish()
        self._stage = _Stage(one_line(name), total)

    def advance(self, n: int = 1) -> None:
        if self._stage is not None and (line := self._stage.advance(n)):
            self.message(line)

    def message(self, text: str) -> None:
        self._console.say(text)

    def finish(self) -> None:
        if self._stage is not None:
            self.message(f"{self._stage.name}: {self._stage.elapsed_s():.1f} s")


class _Stage:
    """The state behind those lines."""

    def __init__(self, name: str, total: int | None) -> None:
        self.name = name
        self._total, self._done = total, 0
        self._began = self._said = time.monotonic()

    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def advance(self, n: int) -> str:
        """The line to say now, if it is time for one."""
        self._done += n
        if not self._total or time.monotonic() - self._said < PLAIN_INTERVAL_S:
            return ""
        self._said = time.monotonic()
        left_s = self.elapsed_s() / self._done * (self._total - self._done)
        return f"{self.name}: {self._done}/{self._total}, about {left_s:.0f} s left"
