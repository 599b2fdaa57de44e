from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ptq_export.benchmarks.environment import Environment, describe_environment
from ptq_export.benchmarks.peers.accuracy import Score
from ptq_export.benchmarks.peers.peer import Entry
from ptq_export.benchmarks.peers.plot import plot_peers
from ptq_export.benchmarks.peers.results import Overhead, Results
from ptq_export.benchmarks.peers.speed import Speed, image_s
from ptq_export.benchmarks.peers.tables import tables
from ptq_export.benchmarks.timing.loop import LoopOverhead
from ptq_export.benchmarks.timing.stats import Latency

HERE = describe_environment()
OURS, PEER, FLOAT = "ptq-export ort-int8", "ort minmax", "float, ONNX Runtime"


def on(*isa: str) -> Environment:
    """This machine with other instruction sets."""
    return replace(HERE, cpu="a processor", isa=isa)


def latency(median_ms: float) -> Latency:
    noise = np.random.default_rng(int(median_ms * 100)).normal(0, 0.01, 30)
    return Latency.from_samples(median_ms * (1 + noise))


def results(ours_ms: float = 3.0, peer_ms: float = 4.0, ours_db: float = 50.0, peer_db: float = 45.0) -> Results:
    entries = [
        Entry(OURS, "ort", Path("ours.onnx"), 3.0, 1000, own=True),
        Entry(PEER, "ort", Path("peer.onnx"), 9.0, 2000, tool="ORT", is_default=True),
        Entry(FLOAT, "ort", Path("float.onnx"), size_bytes=4000, is_float=True),
    ]
    exact = Score([150.0] * 4, [150.0] * 4)
    spread = np.array([-0.3, 0.1, 0.0, 0.2])
    scores = {OURS: Score([*ours_db + spread], [40.0] * 4), PEER: Score([*peer_db - spread], [35.0] * 4), FLOAT: exact}
    found = Results(entries, 52, 64, dict.fromkeys((OURS, PEER), 49) | {FLOAT: 0}, scores)
    for batch in (1, 4):
        times = {OURS: latency(ours_ms * batch), PEER: latency(peer_ms * batch), FLOAT: latency(8.0 * batch)}
        found.speeds.append(Speed(2, batch, times))
    found.loops.append(Overhead("ort-int8", 2, LoopOverhead(50, 1, latency(153.0), latency(150.0))))
    return found


def test_who_is_most_faithful_and_fastest_is_said_with_its_margin() -> None:
    faithful, first, second = results().findings()
    assert OURS in faithful and PEER in faithful and "+5.0" in faithful and "±" in faithful
    assert first.startswith("2 threads, batch 1") and "1.3" in first and PEER in first
    assert second.startswith("2 threads, batch 4")


def test_a_peer_that_is_ahead_is_said_as_plainly() -> None:
    faithful, first, _ = results(ours_ms=4.0, peer_ms=3.0, ours_db=44.0).findings()
    assert "-1.0" in faithful
    assert f"{OURS} is 0.75" in first


@pytest.mark.parametrize(
    ("ours_ms", "ours_db", "lost"), [(5.0, 40.0, True), (5.0, 50.0, False), (3.0, 40.0, False), (5.0, 44.9, False)]
)
def test_ours_loses_where_one_peer_is_surely_faster_and_more_faithful(
    ours_ms: float, ours_db: float, lost: bool
) -> None:
    """Fidelity 44.9 against 45 is within the spread: nobody's."""
    assert results(ours_ms=ours_ms, ours_db=ours_db).losses() == lost * [
        f"{PEER} is faster and more faithful than {OURS}"
    ]


def test_each_tool_is_met_at_its_best_with_its_default_beside() -> None:
    found = results()
    for name, tool, is_default, db in (("7 bits", "ORT", False, 48.0), ("nncf", "NNCF", True, 49.0)):
        found.entries.append(Entry(name, "ort", None, tool=tool, is_default=is_default))
        found.int8_layers[name], found.scores[name] = 49, Score([db] * 4, [35.0] * 4)
    nncf, ort = found.findings()[:2]
    assert f"{OURS} against NNCF at its best (nncf): +1.0" in nncf and nncf.endswith("dB, which is its default")
    assert f"{OURS} against ORT at its best (7 bits): +2.0" in ort and f"; by default ({PEER}): +5.0" in ort
    assert not set(found.to_json(HERE, {})["models"][OURS]["tool"])
    assert found.to_json(HERE, {})["models"]["nncf"]["default"]


def test_a_default_that_was_not_scored_is_not_said() -> None:
    found = results()
    found.entries[1] = replace(found.entries[1], is_default=False)
    assert found.findings()[0].endswith("dB")


@pytest.mark.parametrize(
    ("isa", "title", "vnni"),
    [
        (("sse4_1", "avx2"), "a processor, without VNNI: what peers make by default saturates", False),
        (("sse4_1", "avx2", "avx512f", "avx512bw"), "a processor, without VNNI: what", False),
        (("sse4_1", "avx2", "avx_vnni"), "a processor, with VNNI", True),
        (("sse4_1", "avx2", "avx512f", "avx512_vnni"), "a processor, with VNNI", True),
        (("asimd", "asimddp"), "a processor", False),
    ],
)
def test_the_results_say_what_16_bit_sums_do_where_the_processor_has_them(
    isa: tuple[str, ...], title: str, vnni: bool
) -> None:
    said = next(iter(tables(results(), on(*isa))))
    assert said.startswith(title) and ("2 x 255 x 127" in said) is ("without" in title)
    assert results().to_json(on(*isa), {})["environment"]["vnni"] is vnni


def test_a_peer_that_its_runtime_computes_in_float_is_no_rival_in_fidelity() -> None:
    found = results(peer_db=60.0)
    assert PEER in found.findings()[0]
    found.int8_layers[PEER] = 0
    assert not any("PSNR" in sentence for sentence in found.findings())


def test_a_float_network_beats_nobody() -> None:
    found = results(ours_ms=9.0)
    assert found.losses() == []


def test_cost_of_an_image_is_fifty_steps_of_a_batch_shared() -> None:
    assert image_s(Latency((8.0,)), batch=4) == pytest.approx(0.1)


def test_tables_mark_ours_and_name_the_absent() -> None:
    found = results()
    found.absent["torchao"] = "not installed: pip install torchao"
    shown = tables(found, on("asimd"))
    models = {row[0]: row[1:] for row in shown["a processor"]}
    assert models[f"> {OURS}"][:2] == ["49/52", "50.0"]
    assert models[f"  {FLOAT}"][1] == "∞"
    assert [row[0] for row in shown["a processor"][1:]] == [f"  {FLOAT}", f"> {OURS}", f"  {PEER}"]
    steps = next(rows for title, rows in shown.items() if "per denoising step" in title)
    assert steps[0] == ["", "batch 1", "batch 4"] and steps[1][0] == f"> {OURS}"
    assert steps[1][1].startswith(("2.9", "3.0")) and "(" in steps[1][1]
    assert shown["not in the tables"][1] == ["torchao", "not installed: pip install torchao"]
    [loops] = [rows for title, rows in shown.items() if "adds" in title]
    assert loops[1][-1].endswith("%")


def test_json_holds_every_figure_and_the_plot_is_drawn_from_it(tmp_path: Path) -> None:
    value = results().to_json(HERE, {"nncf": "3.4.0"})
    assert value["models"][PEER]["accuracy"]["psnr_mean_db"] == pytest.approx(45.0)
    assert value["speed"][0]["models"][OURS]["image_s"] == pytest.approx(0.15, rel=0.02)
    assert value["environment"]["peers"] == {"nncf": "3.4.0"}
    assert value["loops"][0]["share"] == pytest.approx(0.02, abs=0.01)
    plot_peers(value, tmp_path / "peers.png")
    assert (tmp_path / "peers.png").stat().st_size > 10_000


def test_without_scores_nothing_is_said_of_fidelity() -> None:
    found = results()
    found.scores.clear()
    assert len(found.findings()) == 2 and found.losses() == []
    assert tables(found, on("asimd"))["a processor"][1][2] == "–"
