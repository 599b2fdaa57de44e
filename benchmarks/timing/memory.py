"""Peak memory of a candidate, in a process of its own that only loads the engine and runs a few steps."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from ptq_export.errors import PtqExportError
from ptq_export.scratch import scratch_folder

__all__ = ["peak_memory_bytes"]


def peak_memory_bytes(
    load: Callable[..., Callable[..., object]],
    arguments: Sequence[str],
    feeds: Mapping[str, NDArray[Any]],
    calls: int = 3,
) -> int:
    """Peak resident memory of a fresh Python that calls `load(*arguments)(**feeds)` on numpy.

    `load` is a function at the top level of an installed module, `arguments` a path, say. Interpreter and libraries are
    included: it is what a container would need.

    Raises:
        PtqExportError: the process failed; the end of its trace is in the message.
    """
    request: dict[str, Any] = {"module": load.__module__, "function": load.__qualname__, "arguments": list(arguments)}
    # The working folder must not shadow installed packages in the child (Python >= 3.11 honours this).
    environment = os.environ | {"PYTHONSAFEPATH": "1"}
    with scratch_folder() as folder:
        request |= {"feeds": str(Path(folder) / "feeds.safetensors"), "calls": calls}
        save_file(dict(feeds), request["feeds"])
        command = [sys.executable, "-m", "ptq_export.benchmarks.timing.memory", json.dumps(request)]
        child = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if child.returncode != 0:
        trace = "\n".join(child.stderr.strip().splitlines()[-4:])
        raise PtqExportError(
            f"the memory of {' '.join(arguments)} could not be measured (exit {child.returncode})", trace
        )
    return int(child.stdout.splitlines()[-1])


def main() -> None:
    """The child's side: run the request in argv[1] and print the peak in bytes."""
    request = json.loads(sys.argv[1])
    load = getattr(import_module(request["module"]), request["function"])
    _run_engine(load(*request["arguments"]), request)
    print(_own_peak_bytes())


def _run_engine(engine: Callable[..., object], request: dict[str, Any]) -> None:
    # numpy: an engine that needs no torch is measured without it.
    feeds = load_file(request["feeds"])
    for _ in range(request["calls"]):
        engine(**feeds)


def _own_peak_bytes() -> int:
    """High-water mark of this process's resident memory.

    On Linux not `ru_maxrss`: it survives exec, so that a child starts with its parent's peak.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
