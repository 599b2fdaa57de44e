"""The time embedding becomes a table, and the net computes what it did before."""

import numpy as np
import onnx_ir as ir
import pytest
from graph_models import TIME_NET, Array, model_bytes, noise, ops, parse, run, unet

from ptq_export.graph.passes.fold_time_embedding import ACCEPTED_TIMESTEPS, FoldTimeEmbedding

T = 1000
FIXED_AND_DYNAMIC = [(None, 1), (None, 3), (1, 1), pytest.param(3, 3, marks=pytest.mark.slow)]
TABLE, MERGED = 2**30, 2**19  # bytes: all of the U-Net's frontier; SiLU(temb) alone


def relative_error(model: ir.Model, folded: ir.Model, sample: Array, timestep: Array) -> float:
    eps = run(model, sample, timestep)
    return float(np.abs(run(folded, sample, timestep) - eps).max() / np.abs(eps).max())


@pytest.mark.parametrize("max_table_bytes", [TABLE, MERGED], ids=["table", "merged"])
@pytest.mark.parametrize(("exported", "batch"), FIXED_AND_DYNAMIC)
def test_eps_of_a_unet_is_the_same(exported: int | None, batch: int, max_table_bytes: int) -> None:
    model, folded = unet(exported), unet(exported)
    assert FoldTimeEmbedding(T, max_table_bytes=max_table_bytes)(folded).modified
    assert ops(folded).count("Gemm") == (0 if max_table_bytes == TABLE else 1)
    for first in (0, 1, 500, 999):
        timestep = np.array([first, 999 - first, first // 2])[:batch]
        assert relative_error(model, folded, noise(batch, 1, 8, 8), timestep) <= 1e-5


def test_one_gather_and_one_split_replace_everything_that_depends_on_t_alone() -> None:
    model = parse(TIME_NET)
    assert FoldTimeEmbedding(10)(model).modified
    assert ops(model) == ["Gather", "Split", "Add", "Sigmoid", "Add"]
    tables = {name: list(value.shape or ()) for name, value in model.graph.initializers.items()}
    assert tables == {"time_table_0": [10, 6, 1, 1], "time_table_0_split_widths": [2]}
    assert model.metadata_props[ACCEPTED_TIMESTEPS] == "0..9"
    timestep = model.graph.inputs[1]
    assert (timestep.name, timestep.dtype, timestep.shape) == ("timestep", ir.DataType.INT64, ir.Shape(["N"]))
    sample, steps = noise(3, 3, 2, 2), np.array([9, 0, 4])
    assert relative_error(parse(TIME_NET), model, sample, steps) <= 1e-6


def test_a_fixed_batch_that_does_not_divide_the_steps_is_tabulated_whole() -> None:
    text = TIME_NET.replace("[N", "[4")
    model = parse(text)
    assert FoldTimeEmbedding(10)(model).modified
    assert list(model.graph.initializers["time_table_0"].shape or ()) == [10, 6, 1, 1]
    assert relative_error(parse(text), model, noise(4, 3, 2, 2), np.array([9, 0, 4, 8])) <= 1e-6


def test_too_large_a_table_becomes_a_table_of_the_embedding_and_one_gemm() -> None:
    model = parse(TIME_NET)
    assert FoldTimeEmbedding(10, max_table_bytes=10 * 8)(model).modified
    assert ops(model) == ["Gather", "Gemm", "Unsqueeze", "Split", "Add", "Sigmoid", "Add"]
    assert list(model.graph.initializers["time_table_0"].shape or ()) == [10, 2]
    assert relative_error(parse(TIME_NET), model, noise(3, 3, 2, 2), np.array([9, 0, 4])) <= 1e-6


def test_known_sampler_steps_make_a_small_table_that_refuses_others() -> None:
    model = parse(TIME_NET)
    assert FoldTimeEmbedding(10, timesteps=[7, 3, 3], max_table_bytes=2 * 24)(model).modified
    assert list(model.graph.initializers["time_table_0"].shape or ()) == [2, 6, 1, 1]
    assert model.metadata_props[ACCEPTED_TIMESTEPS] == "3,7"
    sample = noise(2, 3, 2, 2)
    assert relative_error(parse(TIME_NET), model, sample, np.array([7, 3])) <= 1e-6
    with pytest.raises(Exception, match="out of data bounds"):
        run(model, sample, np.array([7, 4]))


@pytest.mark.parametrize("max_table_bytes", [TABLE, 80], ids=["table", "merged"])
def test_the_engine_refuses_a_time_step_past_the_end(max_table_bytes: int) -> None:
    model = parse(TIME_NET)
    FoldTimeEmbedding(10, max_table_bytes=max_table_bytes)(model)
    with pytest.raises(Exception, match="out of data bounds"):
        run(model, noise(1, 3, 2, 2), np.array([10]))


def test_a_merged_fold_can_be_folded_further() -> None:
    twice, once = parse(TIME_NET), parse(TIME_NET)
    FoldTimeEmbedding(10, max_table_bytes=80)(twice)
    assert FoldTimeEmbedding(10)(twice).modified
    FoldTimeEmbedding(10)(once)
    assert ops(twice) == ops(once)
    np.testing.assert_allclose(
        *(m.graph.initializers["time_table_0"].const_value.numpy() for m in (twice, once)), rtol=1e-6
    )


def test_quantised_nodes_elsewhere_stay_as_they_are() -> None:
    text = TIME_NET.replace(
        "y = Sigmoid(x)", "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Sigmoid(d)"
    )
    text = text.replace("<int64[1] one", "<float s = {0.05}, uint8 z = {128}, int64[1] one")
    model = parse(text)
    assert FoldTimeEmbedding(10)(model).modified
    assert ops(model) == ["Gather", "Split", "Add", "QuantizeLinear", "DequantizeLinear", "Sigmoid", "Add"]
    assert {"s", "z"} < set(model.graph.initializers)
    assert relative_error(parse(text), model, noise(3, 3, 2, 2), np.array([9, 0, 4])) <= 1e-6


def test_values_of_unlike_shape_get_tables_of_their_own() -> None:
    text = TIME_NET.replace(
        "eps = Add(y, shift2)", "z = Add(y, shift2) flat = Flatten(z) f = Add(flat, h2) eps = Reshape(f, full)"
    )
    text = text.replace("y = Sigmoid(x)", "y = Sigmoid(x) h2 = Gemm<transB = 1>(temb, w3)")
    text = text.replace("<int64[1] one", "<int64[4] full = {-1, 3, 2, 2}, float[1,2] w3 = {1, 2}, int64[1] one")
    model = parse(text)
    assert FoldTimeEmbedding(10)(model).modified
    assert {"time_table_0", "time_table_1"} < set(model.graph.initializers)
    assert ops(model).count("Gather") == 2
    assert relative_error(parse(text), model, noise(3, 3, 2, 2), np.array([9, 0, 4])) <= 1e-6


@pytest.mark.parametrize(
    ("text", "max_table_bytes"),
    [
        (TIME_NET.replace("int64[N] timestep", "float[N] timestep"), TABLE),
        (TIME_NET.replace("timestep", "label"), TABLE),
        (TIME_NET.replace("float[N,3,2,2] sample", "float[N,3,H,2] sample"), TABLE),
        (
            TIME_NET.replace("Cast<to = 1>(column)", "Cast<to = 1>(column) m = ReduceMax<keepdims = 1>(t0)")
            .replace("t = Cast", "t0 = Cast")
            .replace("(t, w, b)", "(t, w, b)")
            .replace("h = Gemm", "t = Div(t0, m) h = Gemm"),
            TABLE,
        ),
        (
            """<ir_version: 10, opset_import: ["": 18]> net (float[N] sample, int64[N] timestep) => (float[N] eps)
            { t = Cast<to = 1>(timestep) eps = Add(sample, t) }""",
            TABLE,
        ),
    ],
    ids=["float time", "no time", "dynamic height", "rows depend on each other", "no matrix product"],
)
def test_a_net_that_cannot_be_folded_is_left_alone(text: str, max_table_bytes: int) -> None:
    model = parse(text)
    before = model_bytes(model)
    assert not FoldTimeEmbedding(10, max_table_bytes=max_table_bytes)(model).modified
    assert model_bytes(model) == before


@pytest.mark.parametrize("max_table_bytes", [TABLE], ids=["table"])
def test_a_folded_net_is_left_alone(max_table_bytes: int) -> None:
    model = parse(TIME_NET)
    FoldTimeEmbedding(10, max_table_bytes=max_table_bytes)(model)
    before = model_bytes(model)
    assert not FoldTimeEmbedding(10, max_table_bytes=max_table_bytes)(model).modified
    assert model_bytes(model) == before


def test_listed_steps_outside_the_training_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.\.9"):
        FoldTimeEmbedding(10, timesteps=[3, 10])
