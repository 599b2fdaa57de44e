"""One job for nets of every shape: prompts, images, vectors, sequences, and everything that a net may predict."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import families
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import tiny
import torch
from safetensors.numpy import load_file

from ptq_export.artifacts import sha256_file
from ptq_export.benchmarks.peers.subject import open_subject
from ptq_export.benchmarks.second_opinion import RunFiles
from ptq_export.command_options import Sampling
from ptq_export.engines import EngineOptions
from ptq_export.engines.ort.engine import OrtEngine
from ptq_export.engines.prompt import PromptSession
from ptq_export.errors import GateFailed, InputError
from ptq_export.graph.model_file import load_model
from ptq_export.graph.prompt_file import load_whole
from ptq_export.guidance import Guided
from ptq_export.nn.probe import noise
from ptq_export.pipeline import bench, load_engine, run, sample, verify
from ptq_export.pipeline.graphs import export_graph
from ptq_export.pipeline.progress import SILENT
from ptq_export.sampling import initial_noise, sample_loop
from ptq_export.schedulers import make_scheduler

NETS = ("text", "low_res", "sequence", "velocity", "clean", "flow")
TOLD_BY_ONE = dict.fromkeys(("low_res", "sequence", "velocity", "clean"), pytest.mark.slow)
"""A second engine sees graphs alone: of the last two that is the one of `flow`, and `text` has a prompt graph as the
first two have."""
NEAREST = {"rounding": "nearest", "samples": 8, "held_out": 16, "min_sqnr": 0.0}


def quantised(name: str, target: str, folder: Path) -> Path:
    return run(replace(tiny.options(folder, f"families:{name}"), target=target, **NEAREST))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The ort-int8 run of a net; do not change it."""
    return cache(lambda name: quantised(name, "ort-int8", tmp_path_factory.mktemp("families") / name))


@pytest.mark.parametrize("name", NETS)
def test_every_proof_holds_and_layers_are_int8(made: Callable[[str], Path], name: str) -> None:
    verdict = json.loads((made(name) / "manifest.json").read_text())["verdict"]
    assert verdict["ok"] and verdict["int8_layers"] >= 2, verdict
    assert verify(made(name), SILENT, f"families:{name}")["parity"] >= 2


@pytest.mark.parametrize("name", [pytest.param(name, marks=TOLD_BY_ONE.get(name, ())) for name in NETS])
def test_every_proof_holds_on_openvino(name: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    verdict = json.loads((quantised(name, "openvino-int8", tmp_path / "run") / "manifest.json").read_text())["verdict"]
    assert verdict["ok"] and verdict["int8_layers"] >= 2, verdict


@pytest.mark.parametrize("name", NETS)
def test_the_engine_is_near_the_float_net_by_names(made: Callable[[str], Path], name: str) -> None:
    denoiser = getattr(families, name)()
    noise = torch.randn(3, *denoiser.sample_shape, generator=torch.Generator().manual_seed(0))
    times, given = denoiser.schedule.timesteps([0, 400, 900]), denoiser.draw(3, 0)
    wanted = denoiser(noise, times, **given)
    for which, least_db in (("ort-fp32", 90), ("ort-int8", 12)):
        found = load_engine(made(name), which)(noise, times, **given)
        assert 10 * torch.log10(wanted.square().sum() / (wanted - found).square().sum()) > least_db


HOISTED = {"text": {"attention.to_k", "attention.to_v"}, "low_res": {"see"}, "sequence": {"see"}}
FLOAT, INT8 = "denoiser.fp32", "denoiser.ort-int8"


@pytest.mark.parametrize("name", NETS)
def test_layers_of_conditions_alone_are_in_the_prompt_graph_of_every_engine(
    made: Callable[[str], Path], name: str
) -> None:
    run = made(name)
    artefacts = json.loads((run / "manifest.json").read_text())["artefacts"]
    rows = json.loads((run / "layers.json").read_text())["layers"]
    hoisted = HOISTED.get(name, set())
    for graph in (FLOAT, INT8):
        assert (f"{graph}.prompt.onnx" in artefacts) == (run / f"{graph}.prompt.onnx").is_file() == bool(hoisted)
        step = {node.name for node in onnx.load(run / f"{graph}.onnx").graph.node}
        assert not hoisted & step
        if hoisted:
            assert hoisted <= {node.name for node in onnx.load(run / f"{graph}.prompt.onnx").graph.node}
    assert not (run / "denoiser.fp32-unfolded.prompt.onnx").exists(), "the network as it was trained"
    assert hoisted == {row["name"] for row in rows if "once per prompt" in row["reason"]}
    step = json.loads((run / "latency.json").read_text())["steps"][0]
    assert [*step.get("prompt_ms", {})] == (["ort-int8", "ort-fp32"] if hoisted else [])
    assert ("The prompt graph, once per prompt" in (run / "report.html").read_text()) == bool(hoisted)


@pytest.mark.parametrize("name", HOISTED)
def test_the_two_graphs_compute_what_the_unsplit_one_does(made: Callable[[str], Path], name: str) -> None:
    run, denoiser = made(name), getattr(families, name)()
    whole = export_graph(denoiser, denoiser.module)
    joined = load_whole(run / f"{FLOAT}.onnx")
    pairs = noise(denoiser, 3, 500, 0)
    feeds = {key: value.numpy() for key, value in pairs.feeds.items()}
    assert [value.name for value in joined.graph.inputs] == [*feeds]
    wanted, found = (OrtEngine.run_graph(ir.to_proto(it).SerializeToString(), feeds) for it in (whole, joined))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(load_engine(run, "ort-fp32")(**feeds), wanted, rtol=1e-4, atol=1e-5)


def test_other_programs_get_the_whole_network(made: Callable[[str], Path]) -> None:
    files = RunFiles(made("text"))
    takes = [[value.name for value in load_model(path).graph.inputs] for path in (files.reference, files.int8)]
    assert takes == [["sample", "timestep", "encoder_hidden_states", "mask"]] * 2


def test_the_peers_get_the_step_alone_with_what_its_prompt_makes(made: Callable[[str], Path], tmp_path: Path) -> None:
    run = made("text")
    subject = open_subject([run], tmp_path)
    assert "encoder_hidden_states" not in subject.pairs() and "prompt_attention_to_k" in subject.pairs()
    whole = load_file(run / "pairs.safetensors")
    alone = OrtEngine(subject.graph, tmp_path / "engine", EngineOptions())
    np.testing.assert_array_equal(alone(**subject.pairs()), load_engine(run, "ort-fp32")(**whole))


def test_a_sampling_loop_computes_its_prompt_once_and_guidance_too(
    made: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    compute = PromptSession.compute
    monkeypatch.setattr(PromptSession, "compute", lambda self, feeds: calls.append(1) or compute(self, feeds))
    denoiser, engine = families.text(), load_engine(made("text"))
    scheduler, given = make_scheduler(denoiser.schedule), denoiser.draw(2, 0)
    sample_loop(engine, scheduler, initial_noise((2, *families.IMAGE), 0), 6, given)
    assert len(calls) == 1
    guided = Guided(engine, 3.0, {"encoder_hidden_states": torch.zeros(1, families.TOKENS, families.TEXT)})
    sample_loop(guided, scheduler, initial_noise((2, *families.IMAGE), 0), 6, given)
    assert len(calls) == 2


@pytest.mark.parametrize("graph", [FLOAT, INT8])
def test_a_run_without_its_prompt_graph_or_with_another_s_is_refused_by_name(
    made: Callable[[str], Path], graph: str, tmp_path: Path
) -> None:
    run, which = Path(shutil.copytree(made("text"), tmp_path / "run")), "ort-fp32" if graph == FLOAT else None
    beside = run / f"{graph}.prompt.onnx"
    shutil.copyfile(made("low_res") / beside.name, beside)
    with pytest.raises(InputError, match=f"{beside.name} is damaged, or another graph's"):
        load_engine(run, which)
    with pytest.raises(GateFailed, match=f"{beside.name} is damaged"):
        verify(run, SILENT, "families:text")
    beside.unlink()
    with pytest.raises(InputError, match=f"{beside.name} is not there"):
        bench(run, SILENT) if which is None else load_engine(run, which)


def test_a_resumed_run_makes_a_lost_prompt_graph_again(made: Callable[[str], Path], tmp_path: Path) -> None:
    run = Path(shutil.copytree(made("text"), tmp_path / "run"))
    lost = [run / f"{graph}.prompt.onnx" for graph in (FLOAT, INT8)]
    before = [sha256_file(path) for path in lost]
    for path in lost:
        path.unlink()
    assert quantised("text", "ort-int8", run) == run
    assert [sha256_file(path) for path in lost] == before


def test_a_prompt_of_another_length_is_served(made: Callable[[str], Path]) -> None:
    denoiser, engine = families.text(), load_engine(made("text"), "ort-fp32")
    noise = torch.zeros(2, *families.IMAGE)
    prompt, mask = torch.randn(2, 9, families.TEXT), torch.ones(2, 9, dtype=torch.int64)
    wanted = denoiser(noise, torch.tensor([5, 5]), encoder_hidden_states=prompt, mask=mask)
    torch.testing.assert_close(engine(noise, 5, encoder_hidden_states=prompt, mask=mask), wanted, atol=1e-4, rtol=1e-4)


def test_a_masked_token_changes_nothing(made: Callable[[str], Path]) -> None:
    engine = load_engine(made("text"))
    noise, prompt = np.zeros((1, *families.IMAGE), np.float32), np.ones((1, 3, families.TEXT), np.float32)
    mask = np.array([[1, 1, 0]])
    other = prompt.copy()
    other[0, 2] = 7
    first, second = (engine(noise, 5, encoder_hidden_states=it, mask=mask) for it in (prompt, other))
    np.testing.assert_allclose(first, second, atol=1e-5)


PROMPT, MASK = np.zeros((2, 5, families.TEXT), np.float32), np.ones((2, 5), np.int64)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"encoder_hidden_states": PROMPT}, r"mask \[N, tokens\] int64 is missing"),
        ({"encoder_hidden_states": PROMPT, "mask": MASK, "label": 3}, "no input label"),
        ({"encoder_hidden_states": PROMPT.astype(np.float64), "mask": MASK}, "takes float32"),
        ({"encoder_hidden_states": PROMPT[0], "mask": MASK}, r"\[5, 24\], this engine takes"),
        ({"encoder_hidden_states": PROMPT[:, :, :8], "mask": MASK}, r"\[2, 5, 8\], this engine takes"),
        ({"encoder_hidden_states": PROMPT, "mask": MASK[:, :4]}, "tokens is 5 elsewhere"),
        ({"encoder_hidden_states": PROMPT[:1], "mask": MASK}, "1 rows, the sample 2"),
        ({"encoder_hidden_states": PROMPT, "mask": MASK + 1}, r"known: 0\.\.1"),
        ({"encoder_hidden_states": PROMPT * np.nan, "mask": MASK}, "NaN or infinite"),
    ],
)
def test_unfit_conditions_are_refused_by_name(
    made: Callable[[str], Path], given: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load_engine(made("text"))(np.zeros((2, *families.IMAGE), np.float32), 5, **given)


def test_open_sizes_are_refused_where_a_plan_wants_numbers(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="trt-rtx-int8 is built for fixed sizes, and tokens is open"):
        quantised("text", "trt-rtx-int8", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["text", "sequence", "flow"])
def test_samples_are_drawn_under_the_run_s_own_conditions(
    made: Callable[[str], Path], name: str, tmp_path: Path
) -> None:
    sampler = getattr(families, name)().schedule.sampler
    facts = sample(made(name), Sampling(tmp_path / "a.png", 2, 3, sampler), SILENT)
    assert facts["sampler"] == sampler and (tmp_path / "a.png").stat().st_size > 0


def test_a_flow_is_calibrated_along_itself_from_its_very_end(made: Callable[[str], Path]) -> None:
    pairs = json.loads((made("flow") / "calibration.json").read_text())
    assert max(pairs["timesteps"]) == 1000.0 and pairs["sampler"] == "flow-euler"
    schedule = json.loads((made("flow") / "manifest.json").read_text())["denoiser"]["schedule"]
    assert schedule["prediction_type"] == "flow"


@pytest.mark.parametrize("target", ["ort-int8", pytest.param("openvino-int8", marks=pytest.mark.slow)])
def test_linears_with_a_step_per_token_are_int8_in_the_engine_and_proved(target: str, tmp_path: Path) -> None:
    options = replace(tiny.options(tmp_path / "run", "families:text"), target=target, linears="token", **NEAREST)
    folder = run(options)
    rows = json.loads((folder / "layers.json").read_text())["layers"]
    precision = {row["name"]: row["precision"] for row in rows}
    assert precision["attention.to_q"] == precision["attention.to_out.0"] == "int8"
    graph = onnx.load(folder / f"denoiser.{target}.onnx")
    assert sum(node.op_type == "ReduceMax" for node in graph.graph.node) == 2, "one per int8 linear"
