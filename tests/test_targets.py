"""What a target refuses, and that each names baselines that exist."""

import pytest

from ptq_export.engines.registry import check_target
from ptq_export.errors import InputError
from ptq_export.nn.scheme import PLACEMENTS
from ptq_export.options import Options
from ptq_export.targets import TARGETS, find_target

BUILDER = {
    "--batch MIN:OPT:MAX": {"batch": "1:4:16"},
    "--builder-level": {"builder_level": 5},
    "--workspace": {"workspace": 512},
}


@pytest.mark.parametrize("flag", BUILDER)
@pytest.mark.parametrize("name", ["ort-int8", "openvino-int8"])
def test_a_cpu_target_refuses_the_options_of_tensorrts_builder(name: str, flag: str) -> None:
    with pytest.raises(InputError, match=f"{flag} means nothing for {name}"):
        check_target(find_target(name), Options(**BUILDER[flag]))


@pytest.mark.parametrize("flag", BUILDER)
@pytest.mark.parametrize("name", ["trt-int8", "trt-rtx-int8", "ort-trt-int8"])
def test_tensorrts_targets_take_them(name: str, flag: str) -> None:
    check_target(find_target(name), Options(**BUILDER[flag]))


def test_a_jetson_builds_for_itself_and_takes_a_range_of_batches() -> None:
    check_target(find_target("jetson-int8"), Options(batch="1:4:16"))
    with pytest.raises(InputError, match="--workspace means nothing for jetson-int8"):
        check_target(find_target("jetson-int8"), Options(workspace=512))


@pytest.mark.parametrize("name", ["trt-int8", "ort-trt-int8", "jetson-int8", "ort-int8"])
def test_compute_capabilities_are_for_tensorrt_for_rtx_alone(name: str) -> None:
    check_target(find_target("trt-rtx-int8"), Options(compute_capability="7.5"))
    with pytest.raises(InputError, match=f"--compute-capability means nothing for {name}"):
        check_target(find_target(name), Options(compute_capability="7.5"))


@pytest.mark.parametrize("check", ["rtx", "none"])
def test_only_a_graph_for_tensorrt_can_be_tried_there(check: str) -> None:
    for name in ("trt-int8", "trt-rtx-int8", "ort-trt-int8", "jetson-int8"):
        check_target(find_target(name), Options(check=check))
    for name in ("ort-int8", "openvino-int8"):
        with pytest.raises(InputError, match=f"--check means nothing for {name}"):
            check_target(find_target(name), Options(check=check))


def test_placements_are_for_tensorrt_and_tuning_for_what_runs_here() -> None:
    for name in ("trt-int8", "trt-rtx-int8", "ort-trt-int8", "jetson-int8"):
        check_target(find_target(name), Options(placement=",".join(PLACEMENTS)))
    for name in ("ort-int8", "trt-int8", "ort-trt-int8"):
        check_target(find_target(name), Options(tune=60.0))
    for name in PLACEMENTS:
        with pytest.raises(InputError, match="--placement means nothing for ort-int8"):
            check_target(find_target("ort-int8"), Options(placement=name))
    with pytest.raises(InputError, match=r"--tune means nothing for jetson-int8\nleave it out, or .*: ort-int8"):
        check_target(find_target("jetson-int8"), Options(tune=60.0))


@pytest.mark.parametrize("name", TARGETS)
def test_baselines_are_float_targets(name: str) -> None:
    assert all(TARGETS[baseline].scheme is None for baseline in TARGETS[name].baselines)


@pytest.mark.parametrize("name", [name for name, it in TARGETS.items() if it.scheme is not None and it.baselines])
def test_the_verdict_s_baseline_differs_in_the_precision_and_not_in_the_runtime(name: str) -> None:
    assert TARGETS[TARGETS[name].baselines[0]].engine == TARGETS[name].engine
