"""Hostile graphs of our operators, run under AddressSanitizer and UndefinedBehaviorSanitizer.

    python tests/engines/fuzz_operators.py --seconds 600 --seed 0

Compiles the operators with the sanitizers into a temporary folder and runs rounds of random nets in processes of their
own, round by round on another instruction set. A finding ends it: exit 1, with the round's seed and what was reported.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from hostile_nets import Case, make_case
from operator_nets import exact, run
from own_copy import WINOGRAD_ISAS

__all__ = ["Finding", "compiler", "fuzz"]

SOURCES = Path(__file__).parents[2] / "engines" / "ort" / "custom_ops"
FLAGS = ["-std=c++17", "-O1", "-g", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]
SANITIZERS = ["-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"]


class Finding(Exception):
    """A crash, a sanitizer's report, a wrong number or a refusal without cause."""


def judge(case: Case, library: Path) -> str:
    """What became of a case, in a word.

    Raises:
        Finding: a number is wrong, or a well-formed net was refused.
    """
    try:
        found = run(library, case.op, case.inputs, case.attributes, case.threads)
    except Exception as error:  # ONNX Runtime's own exceptions have no base class of theirs.
        if case.odd:
            return "refused"
        raise Finding(f"{case.op} was refused: {error}") from error
    if case.odd or case.wild:
        return "computed, odd"
    wanted = exact(case.op, case.inputs, case.attributes)
    if found.shape != wanted.shape:
        raise Finding(f"{case.op} gives {found.shape} for {wanted.shape}")
    if found.dtype == np.uint8:
        wanted, bound = wanted.clip(0, 255), np.array(0.6)
    else:
        bound = 1e-4 * (1 + np.abs(wanted))
    if (np.abs(found - wanted) > bound).any():
        raise Finding(f"{case.op} is off by {np.abs(found - wanted).max()}")
    return "right"


def fuzz(seconds: float, seed: int, count: int = 2000) -> Counter[str]:
    """Rounds of `count` cases until the time is over, one at least: how many ended how.

    Raises:
        Finding: something was found.
    """
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        library = _compile(Path(folder))
        end = time.monotonic() + seconds
        while not total or time.monotonic() < end:
            total += _round(library, seed, count)
            seed += 1
    return total


def compiler() -> str | None:
    """The compiler whose sanitizers are used."""
    return shutil.which("g++")


def _compile(folder: Path) -> Path:
    library = folder / "operators.so"
    sources = map(str, sorted(SOURCES.glob("*.cpp")))
    subprocess.run([str(compiler()), *FLAGS, *SANITIZERS, "-o", str(library), *sources], check=True)
    return library


def _round(library: Path, seed: int, count: int) -> Counter[str]:
    isa = WINOGRAD_ISAS[seed % len(WINOGRAD_ISAS)]
    environment = os.environ | {
        "LD_PRELOAD": " ".join(_runtime(name) for name in ("libasan.so", "libstdc++.so.6")),
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PTQ_EXPORT_ISA": isa,
    }
    command = [sys.executable, __file__, "--worker", str(library), "--seed", str(seed), "--count", str(count)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode == 0:
        return Counter(json.loads(done.stdout))
    if "PTQ_EXPORT_ISA names none" in done.stderr:
        return Counter({f"{isa} is not here": 1})
    raise Finding(f"seed {seed}, {isa}, exit {done.returncode}:\n{done.stderr[-6000:]}")


def _runtime(name: str) -> str:
    found = subprocess.run([str(compiler()), f"-print-file-name={name}"], check=True, capture_output=True, text=True)
    return found.stdout.strip()


def _work(library: Path, seed: int, count: int) -> None:
    outcomes: Counter[str] = Counter()
    rng = np.random.default_rng(seed)
    for number in range(count):
        case = make_case(rng)
        print(number, case.op, case.attributes, *_shapes(case), file=sys.stderr)
        outcomes[judge(case, library)] += 1
    print(json.dumps(outcomes))


def _shapes(case: Case) -> list[str]:
    return [f"{value.dtype}{list(value.shape)}" for value in case.inputs.values() if value is not None]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=2000, help="cases in a round")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        _work(options.worker, options.seed, options.count)
        return 0
    try:
        print(dict(fuzz(options.seconds, options.seed, options.count)))
    except Finding as finding:
        print(finding, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
