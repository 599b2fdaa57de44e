"""Grids that are no layer's input, in the graph: the calibrated ones, where they belong, and gone if not wanted."""

from collections import Counter
from functools import cache

import numpy as np
import onnx_ir as ir
import pytest
import torch
import two_blocks
from graph_models import noise, ops, run

from ptq_export.benchmarks.parity import local_parity
from ptq_export.calibrators.quantise import integer_parts, quantised_grids, quantised_modules
from ptq_export.engines.ort.engine import OrtEngine
from ptq_export.errors import GateFailed
from ptq_export.graph.audit import check_codes, check_grids
from ptq_export.graph.grid_pairs import DropGrids, find_pair
from ptq_export.graph.passes.float_layers import FloatLayers
from ptq_export.nn.grid_point import QuantisedGrid, owner_of
from ptq_export.pairs import Pairs

CALL = noise(2, 1, 8, 8), np.array([10, 700])
GRIDS = ("conv1_grid", "residual_grid")
COUNTED = ("QuantizeLinear", "DequantizeLinear", "Conv", "Add")


@cache
def _exported() -> ir.Model:
    return two_blocks.export()


def exported() -> ir.Model:
    return _exported().clone()


def pair(graph: ir.Model, name: str) -> tuple[ir.Node, ir.Node]:
    grid = quantised_grids(two_blocks.simulation())[name]
    [layer] = [node for node in graph.graph if node.name == owner_of(name, grid)]
    found = find_pair(layer, grid.place)
    assert found is not None
    return found


def test_codes_and_grids_are_the_calibrated_ones_and_every_block_is_its_simulation() -> None:
    simulation = two_blocks.simulation()
    grids = quantised_grids(simulation)
    assert list(grids) == [f"{block}.{grid}" for block in ("first", "second") for grid in GRIDS]
    check_codes(exported(), quantised_modules(simulation))
    check_grids(exported(), grids)
    blocks = dict.fromkeys(name.rpartition(".")[0] for name in grids)
    pairs = Pairs(*map(torch.from_numpy, CALL))
    reference = two_blocks.subject().module
    rows = local_parity(reference, simulation, exported(), blocks, OrtEngine.run_graph, pairs)
    assert all(row.ok and row.sqnr_db > 100 for row in rows), "no code differs"


@pytest.mark.parametrize("name", GRIDS)
def test_another_scale_is_refused_with_the_grid_s_name(name: str) -> None:
    grids = quantised_grids(two_blocks.simulation())
    for index in (0, 1):
        graph = exported()
        node = pair(graph, f"first.{name}")[index]
        scale = np.nextafter(node.inputs[1].const_value.numpy(), np.float32(1))
        other = ir.val(f"other_{index}", const_value=ir.tensor(scale, name=f"other_{index}"))
        graph.graph.register_initializer(other)
        node.replace_input_with(1, other)
        with pytest.raises(GateFailed, match=f"first.{name}: the grid in the graph is not the calibrated one"):
            check_grids(graph, grids)


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_that_is_absent_is_refused_with_its_name(name: str) -> None:
    grids = quantised_grids(two_blocks.simulation())
    graph = exported()
    assert DropGrids({f"first.{name}": grids[f"first.{name}"]})(graph).modified
    with pytest.raises(GateFailed, match=f"first.{name} is not in the exported graph"):
        check_grids(graph, grids)


def test_layers_go_back_to_float_with_their_own_grids_and_leave_others() -> None:
    """The result of the shortcut is beside conv2, whose grid that is: it stays."""
    parts = integer_parts(two_blocks.simulation())
    names = ("first.conv2", "second.conv1", "second.conv_shortcut")
    gone = {path: part for name in names for path, part in parts[name].items()}
    graph = exported()
    drop = DropGrids({path: part for path, part in gone.items() if isinstance(part, QuantisedGrid)})
    assert drop(graph).modified and not drop(graph).modified
    FloatLayers({name: two_blocks.subject().module.get_submodule(name) for name in names})(graph)
    fresh = two_blocks.export(gone)
    np.testing.assert_allclose(run(graph, *CALL), run(fresh, *CALL), atol=1e-5)
    found, wanted, before = (Counter(ops(each)) for each in (graph, fresh, exported()))
    assert [found[op] for op in COUNTED] == [wanted[op] for op in COUNTED]
    assert found["QuantizeLinear"] == before["QuantizeLinear"] - len(gone) == 4
    assert np.abs(run(graph, *CALL) - run(exported(), *CALL)).max() > 1e-4
