"""Calibration on another device than the CPU: nothing stays behind, nothing is drawn there, and the codes are equal."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from calibrators_toys import memory_store, plain_denoiser, random_pairs, unet_denoiser
from other_device import OTHER, OtherDevice, elsewhere
from torch import Tensor

from ptq_export.calibrators.pairs import collect_pairs
from ptq_export.calibrators.quantise import Method, QuantisationState, quantise
from ptq_export.calibrators.reconstruct import Recipe
from ptq_export.calibrators.sites import find_sites
from ptq_export.denoiser import Denoiser
from ptq_export.device import exact_floats, find_device
from ptq_export.errors import EnvironmentMissing
from ptq_export.nn.scheme import ORT_CPU, TENSORRT, Scheme

LEARNED = Recipe(iterations=3, batch=4)
SMALL = replace(TENSORRT, min_channels=1)
with_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
schemes = pytest.mark.parametrize("scheme", [ORT_CPU, SMALL], ids=["ort", "tensorrt"])


def units_of(denoiser: Denoiser, on: Denoiser, method: Method) -> dict[int, QuantisationState]:
    kept: dict[int, QuantisationState] = {}
    sites = find_sites(denoiser, method.scheme)
    quantise(on, sites, random_pairs(denoiser, 4), method, memory_store(kept), lambda _: None)
    return kept


def equal_codes(first: dict[int, QuantisationState], second: dict[int, QuantisationState]) -> float:
    """The share of equal weight codes, 0 to 1."""
    pairs = [
        (state[key], second[index][key]) for index, state in first.items() for key in state if "weight_codes" in key
    ]
    return float(torch.cat([(a == b).flatten() for a, b in pairs]).double().mean())


def check_device(make: Callable[[], Denoiser], method: Method) -> None:
    here = units_of(make(), make(), method)
    with OtherDevice():
        there = units_of(make(), elsewhere(make()), method)
    tensors = [value for state in there.values() for value in state.values()]
    assert {type(value) for value in tensors} == {Tensor}, "a kept state is not on the CPU"
    assert equal_codes(here, there) >= 0.999


@schemes
@pytest.mark.parametrize("metric", ["l2.4", "kl"])
@pytest.mark.parametrize("recipe", [None, LEARNED], ids=["nearest", "learned"])
def test_calibration_stays_on_the_denoisers_device(scheme: Scheme, metric: str, recipe: Recipe | None) -> None:
    check_device(plain_denoiser, Method(scheme, metric, recipe, seed=0))


@pytest.mark.slow
def test_a_unet_is_calibrated_there_too() -> None:
    check_device(unet_denoiser, Method(SMALL, "min-max", Recipe(iterations=1, batch=2), seed=0))


def test_a_resumed_calibration_is_put_back_on_the_device() -> None:
    method = Method(ORT_CPU, "l2.4", None, seed=0)
    kept = units_of(plain_denoiser(), plain_denoiser(), method)
    sites = find_sites(plain_denoiser(), ORT_CPU)
    with OtherDevice():
        denoiser = elsewhere(plain_denoiser())
        pairs = random_pairs(denoiser, 6)
        model = quantise(denoiser, sites, pairs, method, memory_store(kept), lambda _: None)
    assert {value.device for value in (*model.parameters(), *model.buffers())} == {OTHER}


def test_pairs_are_drawn_on_the_cpu_whatever_computes_them() -> None:
    here = collect_pairs(plain_denoiser(), 6, 10, "ndtc", 0, lambda _: None)
    with OtherDevice():
        there = collect_pairs(elsewhere(plain_denoiser()), 6, 10, "ndtc", 0, lambda _: None)
    assert type(there.sample) is Tensor and torch.equal(here.timestep, there.timestep)
    torch.testing.assert_close(here.sample, there.sample)


def test_calibration_is_exact_and_leaves_the_settings_as_they_were() -> None:
    conv = torch.backends.cudnn.conv
    before = conv.fp32_precision
    with pytest.raises(ZeroDivisionError), exact_floats():
        assert conv.fp32_precision == "ieee" and torch.backends.cuda.matmul.fp32_precision == "ieee"
        raise ZeroDivisionError
    assert conv.fp32_precision == before and not torch.backends.cudnn.deterministic


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_names_the_remedy() -> None:
    with pytest.raises(EnvironmentMissing, match="leave out --device cuda"):
        find_device("cuda")


@pytest.mark.gpu
@with_cuda
@schemes
@pytest.mark.parametrize("recipe", [None, LEARNED], ids=["nearest", "learned"])
def test_cuda_gives_the_codes_of_the_cpu(scheme: Scheme, recipe: Recipe | None) -> None:
    method = Method(scheme, "l2.4", recipe, seed=0)
    here = units_of(unet_denoiser(), unet_denoiser(), method)
    there = units_of(unet_denoiser(), unet_denoiser().on(torch.device("cuda")), method)
    assert equal_codes(here, there) >= 0.999


@pytest.mark.gpu
@with_cuda
def test_cuda_collects_the_pairs_of_the_cpu() -> None:
    here = collect_pairs(unet_denoiser(), 8, 10, "ndtc", 0, lambda _: None)
    there = collect_pairs(unet_denoiser().on(torch.device("cuda")), 8, 10, "ndtc", 0, lambda _: None)
    assert torch.equal(here.timestep, there.timestep)
    torch.testing.assert_close(here.sample, there.sample, rtol=1e-3, atol=1e-4)
