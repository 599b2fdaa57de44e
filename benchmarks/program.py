"""What the programs share: the argument RUN, the line about the machine, errors as exit codes."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from ptq_export.benchmarks.environment import describe_environment
from ptq_export.errors import PtqExportError

__all__ = ["parser_of", "run_program"]


def parser_of(name: str, text: str | None) -> argparse.ArgumentParser:
    """A parser that knows RUN."""
    parser = argparse.ArgumentParser(prog=name, description=(text or "").partition("\n")[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    return parser


def run_program(measure: Callable[[], list[str]]) -> int:
    """Print the machine and what `measure` tells; the exit code."""
    environment = describe_environment()
    load = os.getloadavg()[0]
    print(f"{environment.cpu}, {', '.join(environment.isa)}; load average before: {load:.1f}")
    try:
        print("\n".join(measure()))
    except PtqExportError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"load average after: {os.getloadavg()[0]:.1f}")
    return 0
