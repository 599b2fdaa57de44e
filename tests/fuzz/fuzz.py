"""Damaged and hostile files against every reader: each must answer, or refuse by a `PtqExportError`, in bounds.

    python tests/fuzz/fuzz.py READER|all [--seconds 600] [--seed 0]

Bounds: 20 seconds and a gigabyte more memory than at the start. Exit code 1 where a reader did anything else; the file
that made it is shown small, and is kept as `fuzz-READER.bin` in the present folder. `readers.py` lists the readers.
"""

import argparse
import contextlib
import faulthandler
import gc
import logging
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

sys.path += [str(Path(__file__).parents[1] / name) for name in ("fuzz", "", "report", "checkpoints")]

from mutations import mutated
from readers import READERS, Reader

from ptq_export.errors import PtqExportError

__all__ = ["Fault", "main", "run"]

AT_ONCE = 200
MAX_SECONDS, MAX_MORE_KIB = 20, 1 << 20


class Fault(Exception):
    """A reader took too long, or too much memory."""


def run(
    name: str, seconds: float, first_seed: int = 0, kept: Path | None = None, at_once: int = AT_ONCE
) -> Counter[str]:
    """Fuzz a reader for so long, or with `at_once` files where that is 0 seconds; how often it `read` and `refused`,
    `total` of both.

    Raises:
        Exception: whatever it raised, on the smallest input that was found; the file is written to `kept`.
    """
    reader, counts = READERS[name], Counter[str]()
    ends = time.monotonic() + seconds if seconds else float("inf")
    started_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory(prefix="ptq-export-fuzz-") as place:
        seeds, work = Path(place, "seeds"), Path(place, "work")
        seeds.mkdir()
        reader.make(seeds)
        _try(reader, seeds, work, counts, None, b"")
        if counts["read"] != 1:
            raise Fault(f"{name}: the seeds themselves are refused")

        @settings(
            max_examples=at_once,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        )
        @given(st.data())
        def one(data: st.DataObject) -> None:
            file = data.draw(st.sampled_from(list(reader.changed)), label="file")
            content = data.draw(mutated((seeds / file).read_bytes(), file.endswith(".json")))
            if time.monotonic() > ends and not counts["lost"]:
                return
            if kept is not None:
                kept.write_bytes(content)
            _try(reader, seeds, work, counts, file, content)
            if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - started_kib > MAX_MORE_KIB:
                counts["lost"] += 1
                raise Fault(f"{name} took more than a gigabyte")

        seed(first_seed)(one)()
        while seconds and time.monotonic() < ends:
            first_seed += 1
            seed(first_seed)(one)()
            gc.collect()
    if kept is not None:
        kept.unlink(missing_ok=True)
    return counts


def _try(reader: Reader, seeds: Path, work: Path, counts: Counter[str], file: str | None, content: bytes) -> None:
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(seeds, work)
    if file is not None:
        (work / file).write_bytes(content)
    try:
        with _in_time():
            reader.read(work)
        counts["read"] += 1
    except PtqExportError:
        counts["refused"] += 1
    except BaseException:
        counts["lost"] += 1
        raise
    counts["total"] += 1


@contextlib.contextmanager
def _in_time() -> Iterator[None]:
    def late(*_: object) -> None:
        raise Fault(f"more than {MAX_SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(MAX_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns the exit code."""
    parser = argparse.ArgumentParser(prog="fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("reader", choices=[*READERS, "all"])
    parser.add_argument("--seconds", type=float, default=600.0, help="for each reader (default: 600)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    faulthandler.enable()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    failed = False
    for name in READERS if options.reader == "all" else [options.reader]:
        began = time.monotonic()
        try:
            counts = run(name, options.seconds, options.seed, Path(f"fuzz-{name}.bin"))
        except Exception:
            failed = True
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
            print(f"{name}: FAILED after {time.monotonic() - began:.0f} s")
            continue
        print(f"{name}: {counts['total']} files, {counts['read']} read, {counts['refused']} refused", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
