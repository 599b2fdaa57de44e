"""The 3 x 3 convolutions of a run, alone: ONNX Runtime's int8 kernel beside this package's WinogradConv.

    python -m ptq_export.benchmarks.convolutions RUN [--batch 1] [--threads 1]

Both take turns on every shape that the run's int8 graph has; their codes are the same. Each shape's time is the least
of several passes over all shapes: a slow spell of the machine does not decide about one of them. A call computes
sixteen layers of one shape, each with weights of its own: threads that sleep between calls are slow to wake, and a
network wakes them once per step. A sum counts each shape as often as the graph has it: under `best` by the faster of
the two, as an engine does.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial, reduce
from pathlib import Path

from ptq_export.benchmarks.environment import describe_environment
from ptq_export.engines.ort.channels_last import ChannelsLast
from ptq_export.engines.ort.operators import library, missing_operators
from ptq_export.engines.ort.winograd import Convolution, convolution_of
from ptq_export.engines.ort.winograd_race import Times, race
from ptq_export.errors import EnvironmentMissing, PtqExportError
from ptq_export.graph.model_file import load_model

__all__ = ["convolutions_of", "least_times", "main", "rows"]

SECONDS = 2.0
PASSES, LAYERS = 5, 16


def convolutions_of(source: Path) -> Counter[Convolution]:
    """The convolutions of an int8 graph that WinogradConv could compute, and how many layers have each shape."""
    graph = load_model(source)
    ChannelsLast()(graph)
    return Counter(found for node in graph.graph if (found := convolution_of(node)) is not None)


def least_times(shapes: Collection[Convolution], threads: int, batch: int, seconds: float) -> dict[Convolution, Times]:
    """The least seconds of each shape, which is raced for `seconds` in all."""
    each = partial(race, threads=threads, images=batch, seconds=seconds / PASSES, layers=LAYERS)
    passes = ({shape: each(shape) for shape in shapes} for _ in range(PASSES))
    return reduce(lambda some, more: {shape: some[shape].least(more[shape]) for shape in some}, passes)


def rows(counts: Mapping[Convolution, int], times: Mapping[Convolution, Times]) -> Iterator[str]:
    """A line per shape, and the sums."""
    yield f"{'image':>9} {'channels':>12} {'layers':>6} {'direct':>10} {'Winograd':>10}"
    direct_s = winograd_s = best_s = 0.0
    for shape, count in counts.items():
        it = times[shape]
        direct_s, winograd_s = direct_s + count * it.direct_s, winograd_s + count * it.winograd_s
        best_s += count * min(it.direct_s, it.winograd_s)
        image, channels = f"{shape.height} x {shape.width}", f"{shape.inputs} -> {shape.outputs}"
        direct, winograd = f"{it.direct_s * 1e3:7.3f} ms", f"{it.winograd_s * 1e3:7.3f} ms"
        yield f"{image:>9} {channels:>12} {count:6} {direct} {winograd} {it.direct_s / it.winograd_s:5.2f}x"
    yield f"{'all':>9} {'':>12} {sum(counts.values()):6} {direct_s * 1e3:7.2f} ms {winograd_s * 1e3:7.2f} ms"
    yield f"{'best':>9} {'':>12} {'':>6} {'':>10} {best_s * 1e3:7.2f} ms {direct_s / best_s:5.2f}x"


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns the exit code."""
    parser = argparse.ArgumentParser(prog="convolutions", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder of ort-int8")
    parser.add_argument("--batch", type=int, default=1, help="images at once (default: 1)")
    parser.add_argument("--threads", type=int, default=1, help="default: 1")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"per shape (default: {SECONDS:g})")
    options = parser.parse_args(arguments)
    if options.batch < 1 or options.threads < 1:
        parser.error("--batch and --threads must be 1 or more")
    try:
        if library() is None:
            raise EnvironmentMissing("the operators are missing", missing_operators())
        counts = convolutions_of(options.run / "denoiser.ort-int8.onnx")
        times = least_times(counts, options.threads, options.batch, options.seconds)
    except PtqExportError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    environment = describe_environment()
    print(f"{environment.cpu}, {', '.join(environment.isa)}; batch {options.batch}, threads {options.threads}")
    print("\n".join(rows(counts, times)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
