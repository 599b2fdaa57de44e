"""Our int8 engines and their peers, side by side, in one run, on the CPU.

    python -m ptq_export.benchmarks.peers RUN [RUN2] [--peers 'nncf*' ...] [--batch 1 4 16] [--threads 1 2]

RUN and RUN2 are finished runs of one network (`ort-int8`, `openvino-int8`) on the same calibration pairs. Every peer
gets the FP32 graph and these pairs, no others: `onnxruntime.quantization`, NNCF, ModelOpt, torchao, each by its own
defaults and in the other forms that it offers; the headline compares with its best form, the default beside it. Where
its interface allows it, the layers are those that are int8 in our engines; how many each has in the end is read back
from its runtime.

Every model is served in its best form: compiled for the batch size, with as many threads as the others, weights frozen.
Fidelity to the FP32 graph is told on noise that calibration never used; a step is timed in interleaved rounds over all
models. The float network in each runtime is there, too, and OpenVINO's bfloat16 where the processor has it.

What a peer made is kept in the folder `--out` and not made again; its own words are in `logs` there. Exit code 1: a
peer on the same runtime is at once faster, in every setting, and more faithful than our engine.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ptq_export.artifacts import write_json
from ptq_export.benchmarks.environment import describe_environment
from ptq_export.benchmarks.peers.accuracy import Judge
from ptq_export.benchmarks.peers.estimate import Work, estimate_s
from ptq_export.benchmarks.peers.overhead import loop_overhead
from ptq_export.benchmarks.peers.peer import Entry, Peer, slug
from ptq_export.benchmarks.peers.plot import plot_peers
from ptq_export.benchmarks.peers.registry import FLOATS, PEERS, chosen
from ptq_export.benchmarks.peers.results import Overhead, Results
from ptq_export.benchmarks.peers.runtimes import RUNTIMES
from ptq_export.benchmarks.peers.session import Session
from ptq_export.benchmarks.peers.speed import measure_speed
from ptq_export.benchmarks.peers.subject import Subject, open_subject
from ptq_export.benchmarks.peers.tables import tables
from ptq_export.benchmarks.peers.worker import PeerFailed, Worker
from ptq_export.benchmarks.peers.workshop import Workshop
from ptq_export.benchmarks.timing.clock import Protocol
from ptq_export.console import Output, Screen
from ptq_export.errors import GateFailed, PtqExportError
from ptq_export.pipeline.progress import Progress
from ptq_export.report.units import duration

__all__ = ["main"]

SCORED_BATCH = 16
OWN_RUNTIMES = {
    "ort-int8": (("ort-operators", ""), ("ort", ", ORT's operators")),
    "openvino-int8": (("openvino", ""), ("openvino-bf16", ", bf16")),
}
INTERRUPTED = 130
FID_SAMPLES, SAMPLES = 256, 32


@dataclass(frozen=True)
class _Plan:
    floats: Sequence[str]
    peers: Sequence[Peer]
    batches: Sequence[int]
    threads: Sequence[int]
    protocol: Protocol
    samples: int
    pairs: int
    accuracy: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    for flag in ("samples", "pairs"):
        if getattr(options, flag) is not None and getattr(options, flag) < 2:
            parser.error(f"--{flag} must be 2 or more")
    if min(*options.batch, *options.threads, options.rounds) < 1:
        parser.error("--batch, --threads and --rounds must be 1 or more")
    screen = Screen(Output())
    try:
        return _compare(options, screen)
    except KeyboardInterrupt:
        screen.note("interrupted; the same command goes on with the peers that have quantised")
        return INTERRUPTED
    except PtqExportError as error:
        screen.error(error)
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ptq_export.benchmarks.peers", description=(__doc__ or "").partition("\n")[0]
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = [1, 2] if cores > 1 else [1]
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="finished runs of ort-int8, openvino-int8")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: peers, beside the first run")
    parser.add_argument(
        "--peers", nargs="+", default=["*"], metavar="PATTERN", help=f"default: all of {'; '.join((*FLOATS, *PEERS))}"
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 16], metavar="N", help="default: 1 4 16")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=threads, metavar="N", help=f"default: {' '.join(map(str, threads))}"
    )
    parser.add_argument("--rounds", type=int, default=30, metavar="N", help="rounds of timing (default: 30)")
    parser.add_argument(
        "--samples", type=int, metavar="N", help="final samples (default: 256 digits, else 32; never of random weights)"
    )
    parser.add_argument("--pairs", type=int, default=16, metavar="N", help="pairs per time-step of SQNR (default: 16)")
    parser.add_argument("--no-accuracy", action="store_true", help="latency alone")
    return parser


def _compare(options: argparse.Namespace, screen: Screen) -> int:
    folder = options.out or options.runs[0].resolve().parent / "peers"
    subject = open_subject(options.runs, folder / "steps")
    names = chosen(options.peers)
    plan = _Plan(
        floats=[name for name in names if name in FLOATS],
        peers=[PEERS[name] for name in names if name in PEERS],
        batches=sorted(set(options.batch)),
        threads=sorted(set(options.threads)),
        protocol=Protocol(warmup=2, min_rounds=options.rounds, min_seconds=0.0),
        samples=options.samples or (FID_SAMPLES if subject.draws_digits else SAMPLES),
        pairs=options.pairs,
        accuracy=not options.no_accuracy,
    )
    workshop = Workshop(folder, subject)
    results = Results([], len(subject.layers) + len(subject.float_layers), len(subject.pairs()["sample"]))
    began = time.monotonic()
    screen.note(f"estimate: {duration(_estimate_s(subject, workshop, plan))}")
    with screen.progress() as progress:
        _quantise(subject, workshop, plan, results, progress)
        if plan.accuracy:
            _score(subject, workshop, plan, results, progress)
        _time(subject, workshop, plan, results, progress)
    environment = describe_environment()
    versions = {name: found for peer in plan.peers for name, found in peer.versions.items()}
    value = results.to_json(environment, versions)
    write_json(folder / "peers.json", value)
    if plan.accuracy:
        plot_peers(value, folder / "peers.png")
    screen.result(value, tables(results, environment))
    for sentence in results.findings():
        screen.note(sentence)
    screen.note(f"{time.monotonic() - began:.0f} s; written: {folder / 'peers.json'}")
    if losses := results.losses():
        raise GateFailed("; ".join(losses), "see the tables")
    return 0


def _estimate_s(subject: Subject, workshop: Workshop, plan: _Plan) -> float:
    here = [peer for peer in plan.peers if not peer.missing]
    rows = [FLOATS[name] for name in plan.floats] + [name for peer in here for name in peer.runtimes]
    rows += [entry.runtime for entry in _own(subject)]
    scored = plan.accuracy * (plan.samples * subject.is_trained)
    work = Work(
        peers=sum(not workshop.has(peer) for peer in here),
        calibration_pairs=len(subject.pairs()["sample"]),
        models=sum(not RUNTIMES[name].missing for name in rows),
        compiled=rows.count("torch-compile"),
        own=len(subject.own),
        samples=scored,
        pairs=plan.accuracy * plan.pairs,
        rounds=plan.protocol.min_rounds,
        batches=plan.batches,
        threads=plan.threads,
    )
    reference = Entry("reference", "ort", subject.graph)
    with Session(subject, workshop, max(plan.threads)) as session:
        session.open(reference, 1)
        return estimate_s(work, min(session.step_ms(reference) for _ in range(5)) / 1e3)


def _quantise(subject: Subject, workshop: Workshop, plan: _Plan, results: Results, progress: Progress) -> None:
    """Fill `results.entries`: ours, the float network, the peers that could quantise."""
    results.entries += _own(subject)
    for name in plan.floats:
        runtime = FLOATS[name]
        if missing := RUNTIMES[runtime].missing or _unfit(subject, [runtime]):
            results.absent[name] = missing
        else:
            file = None if runtime.startswith("torch") else subject.graph
            size_bytes = None if file is None else file.stat().st_size
            results.entries.append(Entry(name, runtime, file, size_bytes=size_bytes, is_float=True))
    progress.stage("peers quantise", len(plan.peers))
    for peer in plan.peers:
        try:
            missing = peer.missing or _unfit(subject, peer.runtimes)
            results.absent |= {peer.name: missing} if missing else {}
            results.entries += [] if missing else workshop.entries(peer)
        except PeerFailed as error:
            results.absent[peer.name] = error.cause
        progress.advance()


def _unfit(subject: Subject, runtimes: Sequence[str]) -> str:
    """Why what runs on these alone cannot be compared; empty where it can."""
    in_torch = all(RUNTIMES[name].family == "torch" for name in runtimes)
    return "takes the network in torch, which computes the prompt at every step" if subject.is_step and in_torch else ""


def _own(subject: Subject) -> list[Entry]:
    """Our engines; ONNX Runtime's also without our operators, OpenVINO's also with the floats that it would choose."""
    entries = []
    for own in subject.own:
        for runtime, how in OWN_RUNTIMES[own.target]:
            name = f"ptq-export {own.target}{how}"
            if not RUNTIMES[runtime].missing:
                size_bytes = own.graph.stat().st_size
                entries.append(Entry(name, runtime, own.graph, own.seconds, size_bytes, own=True))
    return entries


def _score(subject: Subject, workshop: Workshop, plan: _Plan, results: Results, progress: Progress) -> None:
    reference = Entry("reference", "ort", subject.graph)
    with Session(subject, workshop, max(plan.threads)) as session:
        progress.stage("fidelity: the FP32 reference", None)
        session.open(reference, SCORED_BATCH)
        judge = Judge(subject, session.model(reference, SCORED_BATCH), plan.samples, plan.pairs)
        progress.stage("fidelity", len(results.entries))
        for entry in results.entries:
            try:
                results.int8_layers[entry.name] = session.open(entry, SCORED_BATCH)
                results.scores[entry.name] = judge.score(session.model(entry, SCORED_BATCH))
            except PeerFailed as error:
                results.absent[entry.name] = error.cause
            progress.advance()


def _time(subject: Subject, workshop: Workshop, plan: _Plan, results: Results, progress: Progress) -> None:
    def failed(entry: Entry, cause: str) -> None:
        results.absent[entry.name] = cause

    for threads in plan.threads:
        present = [entry for entry in results.entries if entry.name not in results.absent]
        progress.stage(f"latency per step, {threads} thread{'s' if threads > 1 else ''}", 100)
        share = _percent(progress)
        results.speeds += measure_speed(subject, workshop, present, threads, plan.batches, plan.protocol, failed, share)
        for own in subject.own:
            progress.stage(f"{own.target} in a sampling loop", len(plan.batches))
            with Worker(workshop.log(f"loop {own.target}")) as worker:
                for batch in plan.batches:
                    brief = Protocol(warmup=1, min_rounds=3, min_seconds=6.0)
                    cache = workshop.cache / slug(f"loop {own.target}")
                    loop = worker.ask(loop_overhead, subject, own, cache, batch, threads, brief)
                    results.loops.append(Overhead(own.target, threads, loop))
                    progress.advance()


def _percent(progress: Progress) -> Callable[[float], None]:
    told = 0

    def share(done: float) -> None:
        nonlocal told
        progress.advance(int(done * 100) - told)
        told = int(done * 100)

    return share


if __name__ == "__main__":
    sys.exit(main())
