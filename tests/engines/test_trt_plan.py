"""A plan is used only where its sidecar says that it may be; else it is built again, or the difference is told."""

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from convolutions import SIZE, Stack, quantised
from exported_net import exported

from ptq_export.artifacts import sha256_file
from ptq_export.engines.build_cache import differences, read_identity, stale_reasons, workshop, write_identity
from ptq_export.engines.cuda.driver import Gpu
from ptq_export.engines.trt.options import TrtOptions
from ptq_export.engines.trt.plan import RTX, BuilderSettings
from ptq_export.engines.trt.reuse import PlanRequest, fitted, plan_name, ready_plan
from ptq_export.errors import EnvironmentMissing, GateFailed
from ptq_export.graph.model_file import save_model
from ptq_export.graph.passes.half_precision import HalfPrecision
from ptq_export.graph.passes.name_layers import NameLayers
from ptq_export.nn.code_type import UINT8
from ptq_export.nn.scheme import TENSORRT

with_rtx = pytest.mark.skipif(find_spec(RTX) is None, reason="TensorRT for RTX has no package for this platform")
with_cuda = pytest.mark.skipif(find_spec("cuda") is None, reason="cuda-python is not installed")
ORIN, DESKTOP = (
    Gpu("Orin", (8, 7), "12.6", "0000:00:00.0"),
    Gpu("NVIDIA GeForce RTX 4090", (8, 9), "13.0", "0000:01:00.0"),
)


@pytest.fixture
def request_rtx(tmp_path: Path) -> PlanRequest:
    """A plan of a small int8 graph by TensorRT for RTX, for batches 1 to 2."""
    graph = exported(quantised(Stack(16, 1), TENSORRT), (16, SIZE, SIZE))
    NameLayers()(graph)
    source = tmp_path / "denoiser.trt-rtx-int8.onnx"
    save_model(HalfPrecision()(graph).model, source)
    version = import_module(RTX).__version__ if find_spec(RTX) else ""
    return PlanRequest(RTX, version, source, sha256_file(source), (1, 1, 2), BuilderSettings(), None)


def fake_plan(request: PlanRequest, path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"plan")
    write_identity(path, request.identity)
    return path


@with_cuda
def test_a_plan_of_tensorrt_is_bound_to_gpu_version_and_options() -> None:
    request = PlanRequest("tensorrt", "10.12.0", Path("a.onnx"), "ab" * 32, (1, 4, 64), BuilderSettings(), DESKTOP)
    assert request.identity.device == "NVIDIA GeForce RTX 4090, sm89"
    assert set(request.identity.versions) == {"tensorrt", "cuda"}
    for change, field in (
        ({"gpu": ORIN}, "device"),
        ({"version": "11.0"}, "versions"),
        ({"onnx_sha256": "cd" * 32}, "onnx_sha256"),
        ({"batch": (1, 4, 16)}, "options"),
        ({"settings": BuilderSettings(5)}, "options"),
        ({"settings": BuilderSettings(workspace_mib=256)}, "options"),
        ({"settings": BuilderSettings(compute_capabilities=("7.5",))}, "options"),
    ):
        (reason,) = differences(replace(request, **change).identity, request.identity)
        assert reason.startswith(f"{field}: ")


def test_a_plan_of_tensorrt_for_rtx_serves_every_gpu(request_rtx: PlanRequest) -> None:
    assert replace(request_rtx, gpu=DESKTOP).identity == replace(request_rtx, gpu=ORIN).identity
    assert request_rtx.identity.device == ""


@pytest.mark.parametrize(
    ("options", "batch"),
    [
        (TrtOptions(), (1, 4, 64)),
        (TrtOptions(batch=8), (8, 8, 8)),
        (TrtOptions(batches=(2, 4, 8)), (2, 4, 8)),
    ],
)
def test_the_batches_of_a_plan(options: TrtOptions, batch: tuple[int, int, int]) -> None:
    assert (options.batch_range, options.usual_batch) == (batch, batch[1])


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        (1, [[0, 0, 0]]),
        (2, [[0, 1, 0]]),
        (3, [[0, 1, 2]]),
        (5, [[0, 1, 2, 3, 4]]),
        (6, [[0, 1, 2, 3, 4], [1, 2, 3, 4, 5]]),
        (11, [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [6, 7, 8, 9, 10]]),
    ],
    ids=str,
)
@pytest.mark.parametrize("make", [np.arange, torch.arange])
def test_any_number_of_samples_fits_the_plan(
    given: int, parts: list[list[int]], make: Callable[[int], np.ndarray | torch.Tensor]
) -> None:
    rows = make(given)
    fed, slices = fitted({"sample": rows, "timestep": rows}, (3, 4, 5))
    taken, again = fed.values()
    assert [taken[part].tolist() for part in slices] == [again[part].tolist() for part in slices] == parts
    eps = np.empty(len(taken), int)
    for part in slices:
        eps[part] = taken[part]
    assert eps[:given].tolist() == list(range(given))


@with_rtx
def test_a_plan_is_built_once_with_its_sidecar(request_rtx: PlanRequest, tmp_path: Path) -> None:
    plan = ready_plan(request_rtx, tmp_path / "engine")
    assert stale_reasons(plan, request_rtx.identity) == []
    before = plan.stat()
    assert ready_plan(request_rtx, tmp_path / "engine") == plan
    assert plan.stat().st_mtime_ns == before.st_mtime_ns
    assert len(list((tmp_path / "engine").iterdir())) == 2


@with_rtx
def test_plans_for_other_batches_lie_beside_each_other(request_rtx: PlanRequest, tmp_path: Path) -> None:
    other = replace(request_rtx, batch=(4, 4, 4))
    plans = [ready_plan(each, tmp_path / "engine") for each in (request_rtx, other)]
    assert ready_plan(request_rtx, tmp_path / "engine") == plans[0] != plans[1]
    assert all(stale_reasons(plan, each.identity) == [] for plan, each in zip(plans, (request_rtx, other), strict=True))


@with_rtx
def test_plans_for_other_gpus_lie_beside_each_other_and_say_which(request_rtx: PlanRequest, tmp_path: Path) -> None:
    turing = replace(request_rtx, settings=BuilderSettings(compute_capabilities=("7.5",)))
    plans = [ready_plan(each, tmp_path / "engine") for each in (request_rtx, turing)]
    assert plans[1].name == "denoiser.trt-rtx-int8.tensorrt_rtx-batch1-2-sm75.engine.plan"
    assert stale_reasons(plans[1], turing.identity) == stale_reasons(plans[0], request_rtx.identity) == []
    assert read_identity(plans[1])[0].options["compute_capabilities"] == ["7.5"]
    (reason,) = stale_reasons(plans[0], turing.identity)
    assert reason.startswith("options: ") and "7.5" in reason


def test_the_plan_that_was_shipped_beside_the_graph_is_taken(request_rtx: PlanRequest, tmp_path: Path) -> None:
    shipped = fake_plan(request_rtx, tmp_path / plan_name(request_rtx.source, request_rtx.batch, request_rtx.settings))
    assert ready_plan(request_rtx, tmp_path / "engine") == shipped
    assert not (tmp_path / "engine").exists()


@with_rtx
def test_a_plan_of_another_version_is_built_again(request_rtx: PlanRequest, tmp_path: Path) -> None:
    old = replace(request_rtx, version="1.0")
    shipped = fake_plan(old, tmp_path / plan_name(request_rtx.source, request_rtx.batch, request_rtx.settings))
    plan = ready_plan(request_rtx, tmp_path / "engine")
    assert plan.parent == tmp_path / "engine" and shipped.read_bytes() == b"plan"


@with_cuda
@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed here")
def test_a_plan_of_another_gpu_that_cannot_be_built_here_says_what_differs(
    request_rtx: PlanRequest, tmp_path: Path
) -> None:
    here = replace(request_rtx, package="tensorrt", version="10.12.0", gpu=DESKTOP)
    fake_plan(replace(here, gpu=ORIN), tmp_path / plan_name(here.source, here.batch, here.settings))
    with pytest.raises(EnvironmentMissing) as caught:
        ready_plan(here, tmp_path / "engine")
    assert "device: Orin, sm87 instead of NVIDIA GeForce RTX 4090, sm89" in caught.value.cause
    assert "tensorrt cannot be imported" in caught.value.cause and caught.value.exit_code == 3
    assert list((tmp_path / "engine").iterdir()) == []


@with_rtx
def test_a_graph_that_is_refused_leaves_no_plan(request_rtx: PlanRequest, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(request_rtx.source.read_bytes())
    save_model(exported(quantised(Stack(16, 1), replace(TENSORRT, activations=UINT8)), (16, SIZE, SIZE)), damaged)
    with pytest.raises(GateFailed, match="zero point"):
        ready_plan(replace(request_rtx, source=damaged), tmp_path / "engine")
    assert list((tmp_path / "engine").iterdir()) == []


def test_the_workshop_is_one_folder_for_the_process() -> None:
    assert workshop() == workshop() and workshop().is_dir()
