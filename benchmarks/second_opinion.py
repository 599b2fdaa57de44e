"""A second opinion on a run's int8 error: NVIDIA's Polygraphy runs the graphs, without any of our engine code.

    python -m ptq_export.benchmarks.second_opinion RUN [--pairs 64] [--out FILE.json]

Polygraphy opens the files, feeds them the run's calibration pairs, and computes the signal to noise ratio of every
output against the FP32 graph. It runs the int8 graph

  as written  by ONNX Runtime without any optimisation: every Q/DQ node in float, what the file means;
  as served   by ONNX Runtime's default session, which fuses Q/DQ into int8 kernels;
  the plan    by TensorRT, for target trt-int8 where the plan, the package tensorrt and a GPU are there.

A flipped code flips its successors, so that two correct executions of a deep int8 network differ as much from each
other as each does from FP32: they are not compared bit by bit. Each must be as far from FP32 as the graph as written:
the same SNR within 0.5 dB on average over 64 pairs, widened by the gap's 95 % interval (Student's) for fewer.

Exit codes: 0 they agree, 1 they do not, 2 no such run, or a file of it is damaged, 3 polygraphy is not installed, or
TensorRT does not load the plan.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ptq_export.artifacts import inside, sha256_file, write_json
from ptq_export.benchmarks.environment import describe_environment
from ptq_export.benchmarks.fidelity import finite_db
from ptq_export.benchmarks.timing.stats import student_95
from ptq_export.errors import EnvironmentMissing, InputError, PtqExportError
from ptq_export.graph.prompt_file import whole_file
from ptq_export.provenance import sidecar_path, was_built_here
from ptq_export.schemas import MANIFEST, read_options, read_part
from ptq_export.scratch import lasting_folder
from ptq_export.targets import FP32, find_target

__all__ = ["Opinion", "RunFiles", "judge", "main", "measure", "missing_plan"]

MAX_GAP_DB, FULL_PAIRS = 0.5, 64
REFERENCE, WRITTEN, SERVED, PLAN = "fp32", "as written", "as served", "the plan"


@dataclass(frozen=True)
class Opinion:
    """One output of one execution: its mean SNR against FP32, by how much that is above the graph's as written and
    within which bound it must be (None: it is the graph as written), and its largest differences from both."""

    execution: str
    output: str
    snr_db: float
    gap_db: float
    bound_db: float | None
    max_difference: float
    max_difference_from_written: float

    @property
    def ok(self) -> bool:
        """Whether it is as far from FP32 as the graph as written."""
        return self.bound_db is None or abs(self.gap_db) <= self.bound_db


class RunFiles:
    """The graphs, the plan if there is one, and the inputs of a run."""

    def __init__(self, folder: Path) -> None:
        """Read a run folder.

        Raises:
            InputError: it is not a finished run, or a file is not the one that its manifest names.
        """
        manifest = read_part(folder, MANIFEST)
        self.target = find_target(manifest["target"])
        names = [FP32, self.target.onnx, "pairs.safetensors"]
        plans = [name for name in manifest["artefacts"] if name.endswith(".plan") and self.target.engine == "trt"]
        for name in (*names, *plans):
            entry = manifest["artefacts"].get(name)
            if entry is None or not inside(folder, name).is_file() or sha256_file(folder / name) != entry["sha256"]:
                raise InputError(f"{folder / name} is damaged or gone", "make the run again")
        # Read here first: Polygraphy would follow whatever weights they name. It takes the whole network as one file.
        self.reference, self.int8 = (whole_file(folder / name, lasting_folder(self)) for name in names[:2])
        pairs = folder / names[2]
        self.plan = folder / plans[0] if plans else None
        self.plan_is_ours = self.plan is not None and _was_built_here(self.plan)
        try:
            self.pairs: Mapping[str, NDArray[Any]] = load_file(pairs)
        except (SafetensorError, TypeError) as error:
            raise InputError(f"{pairs} cannot be read: {error}", "make the run again") from error
        options = read_options(manifest, folder / MANIFEST)
        self.batch = options.fixed_batch or (options.batch_range or (1,))[0]

    def feeds(self, pairs: int) -> list[dict[str, NDArray[Any]]]:
        """At most that many pairs, evenly spaced, in the smallest batch that every execution takes.

        Raises:
            InputError: there are fewer than two.
        """
        found = len(self.pairs["sample"])
        chosen = np.linspace(0, found - 1, min(pairs, found)).round().astype(int)
        rows = [chosen[first : first + self.batch] for first in range(0, len(chosen), self.batch)]
        full = [each for each in rows if len(each) == self.batch]
        if len(full) < 2:
            raise InputError(f"{found} pairs are no two batches of {self.batch}", "run with more --samples")
        return [{name: value[each] for name, value in self.pairs.items()} for each in full]


def measure(run: RunFiles, feeds: Sequence[Mapping[str, NDArray[Any]]]) -> list[Opinion]:
    """Run everything that can run here on the same inputs.

    Raises:
        EnvironmentMissing: polygraphy is not installed, or a runner cannot be started.
    """
    if find_spec("polygraphy") is None:
        raise EnvironmentMissing("the package polygraphy is not installed", "pip install 'ptq-export[second-opinion]'")
    comparator, logger = import_module("polygraphy.comparator"), import_module("polygraphy.logger").G_LOGGER
    failure = import_module("polygraphy.exception").PolygraphyException
    names = [REFERENCE, WRITTEN, SERVED, *([] if missing_plan(run) else [PLAN])]
    functions = [comparator.SnrCompareFunc(), comparator.SimpleCompareFunc(check_error_stat="max")]
    pairs = [(names.index(base), index) for base in (REFERENCE, WRITTEN) for index in range(1, len(names))]
    with logger.verbosity(logger.CRITICAL):  # its own verdicts have thresholds that mean nothing here
        try:
            results = comparator.Comparator.run(_runners(run, names), data_loader=list(feeds))
            snr, simple = comparator.Comparator.compare_accuracy(results, comparisons=pairs, compare_func=functions)
        except failure as error:
            raise EnvironmentMissing(f"Polygraphy cannot run {run.int8.name}: {error}", "see its message") from error
    return [
        opinion
        for name in names[1:]
        for opinion in judge(name, snr, simple, sum(len(feed["sample"]) for feed in feeds))
    ]


def missing_plan(run: RunFiles) -> str:
    """Why no plan can be run; empty where one can."""
    if run.plan is None:
        return "the run holds none of TensorRT's"
    if not run.plan_is_ours:
        return "this account did not build the plan on this machine, and a plan is machine code"
    if find_spec("tensorrt") is None:
        return "the package tensorrt is not installed"
    return "" if torch.cuda.is_available() else "there is no GPU"


def _was_built_here(plan: Path) -> bool:
    try:
        identity = read_part(plan.parent, sidecar_path(plan).name, "identity.json")
    except InputError:
        return False
    return was_built_here({key: it for key, it in identity.items() if key != "file_sha256"}, sha256_file(plan))


def judge(name: str, snr: Mapping[Any, Any], simple: Mapping[Any, Any], pairs: int) -> list[Opinion]:
    """What Polygraphy's results of all iterations say of the execution `name`, output by output."""
    opinions = []
    for output in snr[REFERENCE, name][0]:
        own, written = ([finite_db(each[output].snr) for each in snr[REFERENCE, other]] for other in (name, WRITTEN))
        gaps = [first - second for first, second in zip(own, written, strict=True)]
        stderr = statistics.stdev(gaps) / math.sqrt(len(gaps))
        bound = (
            None if name == WRITTEN else MAX_GAP_DB + (0.0 if pairs >= FULL_PAIRS else student_95(len(gaps)) * stderr)
        )
        differences = (
            0.0 if base == name else max(float(each[output].max_absdiff) for each in simple[base, name])
            for base in (REFERENCE, WRITTEN)
        )
        opinions.append(Opinion(name, output, statistics.fmean(own), statistics.fmean(gaps), bound, *differences))
    return opinions


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns the exit code."""
    parser = argparse.ArgumentParser(prog="second_opinion", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="a finished run folder")
    parser.add_argument(
        "--pairs", type=int, default=FULL_PAIRS, help="of the calibration pairs, 2 or more (default: 64)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the results here")
    options = parser.parse_args(arguments)
    if options.pairs < 2:
        parser.error("--pairs must be 2 or more")
    try:
        run = RunFiles(options.run)
        feeds = run.feeds(options.pairs)
        opinions = measure(run, feeds)
    except PtqExportError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    ok = all(opinion.ok for opinion in opinions)
    if options.out is not None:
        rows = [asdict(opinion) | {"ok": opinion.ok} for opinion in opinions]
        environment = describe_environment().to_json()
        value = {"schema": 1, "target": run.target.name, "batches": len(feeds), "batch": run.batch, "ok": ok}
        value |= {"plan_not_run": missing_plan(run), "opinions": rows, "environment": environment}
        write_json(options.out, value)
    print("\n".join(_lines(opinions, len(feeds), run.batch)))
    if missing := missing_plan(run):
        print(f"no plan was run: {missing}")
    return 0 if ok else 1


def _runners(run: RunFiles, names: Sequence[str]) -> list[Any]:
    onnxrt = import_module("polygraphy.backend.onnxrt")
    level = onnxruntime.GraphOptimizationLevel
    graphs = {
        REFERENCE: (run.reference, level.ORT_ENABLE_ALL),
        WRITTEN: (run.int8, level.ORT_DISABLE_ALL),
        SERVED: (run.int8, level.ORT_ENABLE_ALL),
    }
    runners = [
        onnxrt.OnnxrtRunner(onnxrt.SessionFromOnnx(str(graph), graph_optimization_level=optimised), name=name)
        for name, (graph, optimised) in graphs.items()
    ]
    if PLAN in names:
        trt, common = import_module("polygraphy.backend.trt"), import_module("polygraphy.backend.common")
        runners.append(trt.TrtRunner(trt.EngineFromBytes(common.BytesFromPath(str(run.plan))), name=PLAN))
    return runners


def _lines(opinions: Sequence[Opinion], batches: int, batch: int) -> list[str]:
    shown = [
        f"{batches} batches of {batch}, Polygraphy's SNR against the FP32 graph",
        f"{'':12}{'output':<8}{'SNR':>9}{'gap':>9}{'bound':>9}{'max difference':>17}{'from as written':>17}",
    ]
    for it in opinions:
        bound = "" if it.bound_db is None else f"{it.bound_db:.2f}"
        figures = f"{it.snr_db:9.2f}{it.gap_db:+9.2f}{bound:>9}{it.max_difference:17.3g}"
        mark = "" if it.ok else "  another error than the graph's"
        shown.append(f"{it.execution:12}{it.output:<8}{figures}{it.max_difference_from_written:17.3g}{mark}")
    return shown


if __name__ == "__main__":
    sys.exit(main())
