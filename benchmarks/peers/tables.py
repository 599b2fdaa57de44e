"""The results as tables of text."""

from collections.abc import Sequence

from ptq_export.benchmarks.environment import Environment
from ptq_export.benchmarks.peers.peer import Entry
from ptq_export.benchmarks.peers.results import Results
from ptq_export.benchmarks.peers.rivals import by_fidelity
from ptq_export.benchmarks.peers.speed import LOOP_STEPS, Speed, image_s
from ptq_export.processor import adds_in_16_bits, has_vnni
from ptq_export.report.units import ABSENT, decibel, duration, milliseconds, percent, size

__all__ = ["tables"]

Rows = Sequence[Sequence[str]]
SATURATION = (
    "what peers make by default saturates silently here, since kernels add pairs of uint8 x int8 products in 16 bits "
    "and 2 x 255 x 127 is above 32767"
)


def tables(results: Results, environment: Environment) -> dict[str, Rows]:
    """Tables by title, headers in their first row; ours are marked by `>`. The first is that of the models."""
    found: dict[str, Rows] = {_sums(environment): _models(results)}
    for threads in dict.fromkeys(speed.threads for speed in results.speeds):
        speeds = [speed for speed in results.speeds if speed.threads == threads]
        plural = "s" if threads > 1 else ""
        found[f"ms per denoising step, {threads} thread{plural}: median (least)"] = _steps(results.entries, speeds)
        found[f"seconds per image of a {LOOP_STEPS}-step loop, {threads} thread{plural}"] = _images(
            results.entries, speeds
        )
    if results.loops:
        found[f"our engines in a {LOOP_STEPS}-step DDIM loop: what Python adds to its calls, least of the rounds"] = (
            _loops(results)
        )
    if results.absent:
        found["not in the tables"] = [["peer", "because"], *([name, why] for name, why in results.absent.items())]
    return found


def _sums(environment: Environment) -> str:
    """The processor, and what its sums of int8 products mean for the figures."""
    if adds_in_16_bits(environment.isa):
        return f"{environment.cpu}, without VNNI: {SATURATION}"
    return f"{environment.cpu}{', with VNNI' if has_vnni(environment.isa) else ''}"


def _models(results: Results) -> Rows:
    header = ["", "int8", "PSNR dB", "least", "SQNR dB", "worst step", "digit-FID", "size", "to quantise"]
    return [header, *(_model(results, entry) for entry in by_fidelity(results.entries, results.scores))]


def _model(results: Results, entry: Entry) -> list[str]:
    layers = results.int8_layers.get(entry.name)
    row = [_name(entry), ABSENT if layers is None else f"{layers}/{results.layers}"]
    score = results.scores.get(entry.name)
    if score is None:
        row += [ABSENT] * 5
    else:
        fid = ABSENT if score.digit_fid is None else f"{score.digit_fid:.2f}"
        least = min(score.psnr_db, default=None)
        figures = (score.psnr_mean_db, least, score.sqnr_median_db, min(score.sqnr_db))
        row += [*map(decibel, figures), fid]
    return [*row, size(entry.size_bytes), duration(entry.seconds)]


def _steps(entries: Sequence[Entry], speeds: Sequence[Speed]) -> Rows:
    rows = []
    for entry in _by_latency(entries, speeds):
        found = [speed.latencies.get(entry.name) for speed in speeds]
        cells = [f"{milliseconds(it.median_ms)} ({milliseconds(it.min_ms)})" if it else ABSENT for it in found]
        rows.append([_name(entry), *cells])
    return [["", *(f"batch {speed.batch}" for speed in speeds)], *rows]


def _images(entries: Sequence[Entry], speeds: Sequence[Speed]) -> Rows:
    rows = []
    for entry in _by_latency(entries, speeds):
        found = [(speed.latencies.get(entry.name), speed.batch) for speed in speeds]
        cells = [f"{image_s(latency, batch):.3f}" if latency else ABSENT for latency, batch in found]
        rows.append([_name(entry), *cells])
    return [["", *(f"batch {speed.batch}" for speed in speeds)], *rows]


def _loops(results: Results) -> Rows:
    header = ["engine", "threads", "batch", "loop, s", "its calls alone, s", "added"]
    rows = [
        [
            each.target,
            str(each.threads),
            str(each.loop.batch),
            f"{each.loop.loop.min_ms / 1e3:.3f}",
            f"{each.loop.runtime.min_ms / 1e3:.3f}",
            percent(each.loop.share),
        ]
        for each in results.loops
    ]
    return [header, *rows]


def _by_latency(entries: Sequence[Entry], speeds: Sequence[Speed]) -> list[Entry]:
    first = speeds[0].latencies
    timed = [entry for entry in entries if any(entry.name in speed.latencies for speed in speeds)]
    return sorted(timed, key=lambda entry: first[entry.name].median_ms if entry.name in first else float("inf"))


def _name(entry: Entry) -> str:
    return f"{'>' if entry.own else ' '} {entry.name}"
