"""The ONNX Runtime engine: right numbers, one optimisation per graph and machine, damage noticed."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper

from ptq_export.artifacts import sha256_file
from ptq_export.engines.base import EngineOptions
from ptq_export.engines.ort.engine import OrtEngine
from ptq_export.engines.ort.options import OrtOptions
from ptq_export.errors import InputError

Write = Callable[..., Path]
ONE = EngineOptions(threads=1)
SAMPLE = np.random.default_rng(1).standard_normal((3, 2, 4, 4)).astype(np.float32)
TIMESTEP = np.array([0, 9, 4])


def optimised_again(caplog: pytest.LogCaptureFixture) -> bool:
    return any(record.message.startswith("optimising") for record in caplog.records)


def test_a_graph_of_fixed_batch_says_so(denoiser_onnx: Write, tmp_path: Path) -> None:
    engine = OrtEngine(denoiser_onnx(batch=2), tmp_path / "engine", ONE)
    assert engine.signature.batch == 2
    with pytest.raises(InputError, match="compiled for batch 2"):
        engine(SAMPLE, TIMESTEP)


def test_the_second_start_takes_the_cached_graph(
    denoiser_onnx: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = denoiser_onnx()
    first = OrtEngine(source, tmp_path / "engine", ONE)
    written = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "engine").iterdir()}
    assert set(written) == {"denoiser.fp32.optimised.onnx", "denoiser.fp32.identity.json"}
    with caplog.at_level(logging.INFO, logger="ptq_export"):
        second = OrtEngine(source, tmp_path / "engine", OrtOptions(threads=2, arena=False))
    assert not optimised_again(caplog)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "engine").iterdir()} == written
    assert np.array_equal(first(SAMPLE, TIMESTEP), second(SAMPLE, TIMESTEP))


def truncate(engine: Path) -> None:
    path = engine / "denoiser.fp32.optimised.onnx"
    path.write_bytes(path.read_bytes()[:100])


def drop_sidecar(engine: Path) -> None:
    (engine / "denoiser.fp32.identity.json").unlink()


def move_to_another_machine(engine: Path) -> None:
    path = engine / "denoiser.fp32.identity.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"isa": ["asimd"], "arch": "aarch64"}))


@pytest.mark.parametrize("harm", [truncate, drop_sidecar, move_to_another_machine])
def test_an_unusable_cache_is_built_again(
    harm: Callable[[Path], None], denoiser_onnx: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, cache = denoiser_onnx(), tmp_path / "engine"
    eps = OrtEngine(source, cache, ONE)(SAMPLE, TIMESTEP)
    harm(cache)
    with caplog.at_level(logging.INFO, logger="ptq_export"):
        assert np.array_equal(OrtEngine(source, cache, ONE)(SAMPLE, TIMESTEP), eps)
    assert optimised_again(caplog)
    caplog.clear()
    OrtEngine(source, cache, ONE)
    assert not optimised_again(caplog)
    assert len(list(cache.iterdir())) == 2


def test_another_graph_of_the_same_name_is_not_served_from_the_cache(denoiser_onnx: Write, tmp_path: Path) -> None:
    OrtEngine(denoiser_onnx(batch=3), tmp_path / "engine", ONE)
    assert OrtEngine(denoiser_onnx(batch=4), tmp_path / "engine", ONE).signature.batch == 4


def test_a_damaged_source_is_refused_with_both_hashes(denoiser_onnx: Write, tmp_path: Path) -> None:
    source = denoiser_onnx()
    recorded = sha256_file(source)
    source.write_bytes(source.read_bytes()[:-1] + b"!")
    with pytest.raises(InputError) as caught:
        OrtEngine(source, tmp_path / "engine", ONE, sha256=recorded)
    assert recorded in str(caught.value) and sha256_file(source) in str(caught.value)
    assert not (tmp_path / "engine").exists()


@pytest.mark.parametrize("content", [None, b"", b"not an ONNX"], ids=["absent", "empty", "text"])
def test_what_is_no_onnx_is_refused(content: bytes | None, tmp_path: Path) -> None:
    source = tmp_path / "denoiser.fp32.onnx"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(InputError, match=r"denoiser\.fp32\.onnx"):
        OrtEngine(source, tmp_path / "engine", ONE)
    assert not list(tmp_path.glob("engine/*"))


def test_a_net_of_something_else_is_refused(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("tokens", TensorProto.FLOAT, ["N", 7])
    graph = helper.make_graph([helper.make_node("Identity", ["tokens"], ["y"])], "net", [value], [])
    graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 7]))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "n.onnx")
    with pytest.raises(InputError, match=r"not a denoiser of \(sample, timestep\): it takes tokens \['N', 7\]"):
        OrtEngine(tmp_path / "n.onnx", tmp_path / "engine", ONE)
    assert not list(tmp_path.glob("engine/*"))


def test_a_folder_that_cannot_be_written_does_not_stop_serving(
    denoiser_onnx: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "engine").write_bytes(b"a file is in the way")
    engine = OrtEngine(denoiser_onnx(), tmp_path / "engine", ONE)
    folder = engine.optimised_path.parent
    assert engine(SAMPLE, TIMESTEP).shape == SAMPLE.shape
    assert "cannot be written" in caplog.text
    del engine
    assert not folder.exists()


def test_a_graph_that_fails_is_told_by_its_exception_alone(capfd: pytest.CaptureFixture[str]) -> None:
    node = helper.make_node("Reshape", ["x", "shape"], ["y"], name="\x1b[2Jreshape")
    inputs = [helper.make_tensor_value_info("x", 1, ["N"]), helper.make_tensor_value_info("shape", 7, ["K"])]
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", 1, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    with pytest.raises(Exception, match="reshape"):
        OrtEngine.run_graph(model.SerializeToString(), {"x": np.zeros(3, np.float32), "shape": np.array([2])})
    assert capfd.readouterr().err == ""


INT8 = """<ir_version: 10, opset_import: ["": 18]>
denoiser (float[N,2,4,4] sample, int64[N] timestep) => (float[N,2,4,4] eps)
<float one = {1}, float wide = {32258}, int8 zero = {0}, int8[2,2,1,1] weight = {127, 127, 127, 127},
 float nothing = {0}, int64[3] axes = {1, 2, 3}, float[2] bias = {0, 0}>
{
    q = QuantizeLinear(sample, one, zero)
    x = DequantizeLinear(q, one, zero)
    w = DequantizeLinear(weight, one, zero)
    y = Conv(x, w, bias)
    p = QuantizeLinear(y, wide, zero)
    hidden = DequantizeLinear(p, wide, zero)
    t = Cast<to = 1>(timestep)
    still = Mul(t, nothing)
    shift = Unsqueeze(still, axes)
    eps = Add(hidden, shift)
}"""
"""One layer between int8 grids, all its weights 127: two products of them leave 16 bits."""


def test_a_graph_with_int8_activations_is_proved_as_it_is_written(tmp_path: Path) -> None:
    """2 x 127 x 127 is one step of the last grid: no integer kernel, which without VNNI would make something else."""
    source, sample = tmp_path / "denoiser.onnx", np.full((1, 2, 4, 4), 127, np.float32)
    onnx.save(onnx.parser.parse_model(INT8), source)
    engine = OrtEngine(source, tmp_path / "engine", ONE)
    assert not any(node.op_type == "QLinearConv" for node in onnx.load(engine.optimised_path).graph.node)
    for eps in (
        engine(sample, TIMESTEP[:1]),
        OrtEngine.run_graph(source.read_bytes(), {"sample": sample, "timestep": TIMESTEP[:1]}),
    ):
        assert np.array_equal(eps, np.full_like(sample, 32258))
