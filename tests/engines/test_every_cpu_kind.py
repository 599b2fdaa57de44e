"""What every engine kind on a CPU holds, whatever runs it: a kind is tested here as soon as the registry has it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from cpu_kinds import CPU_KINDS, built
from exported_net import inputs_of
from layer_net import Net

from ptq_export.engines.base import EngineOptions, Signature
from ptq_export.errors import InputError

Write = Callable[..., Path]
SAMPLE = np.random.default_rng(1).standard_normal((3, 2, 4, 4)).astype(np.float32)
TIMESTEP = np.array([0, 9, 4])
pytestmark = pytest.mark.parametrize("kind", CPU_KINDS)


def test_eps_is_what_the_graph_says_at_any_batch_and_the_callers_own(
    kind: str, denoiser_onnx: Write, reference: Callable[..., np.ndarray]
) -> None:
    engine = built(kind, denoiser_onnx())
    assert engine.signature == Signature(inputs_of((2, 4, 4)), 2, None, 10)
    found = {batch: engine(SAMPLE[:batch], TIMESTEP[:batch]) for batch in (1, 2, 3)}
    engine(2 * SAMPLE, TIMESTEP)
    for batch, eps in found.items():
        np.testing.assert_allclose(eps, reference(SAMPLE[:batch], TIMESTEP[:batch]), rtol=1e-5, atol=1e-6)


def test_a_fixed_batch_refuses_others(kind: str, denoiser_onnx: Write) -> None:
    engine = built(kind, denoiser_onnx(), EngineOptions(batch=2, threads=1))
    assert engine.signature.batch == 2 and engine(SAMPLE[:2], TIMESTEP[:2]).shape == (2, 2, 4, 4)
    with pytest.raises(InputError, match="compiled for batch 2"):
        engine(SAMPLE, TIMESTEP)


def test_a_file_of_another_digest_is_refused(kind: str, denoiser_onnx: Write) -> None:
    with pytest.raises(InputError, match=r"denoiser\.fp32\.onnx is damaged"):
        built(kind, denoiser_onnx(), sha256="0" * 64)


@dataclass(frozen=True, kw_only=True)
class Foreign(EngineOptions):
    """Another runtime's."""

    speed: int = 11


def test_another_runtimes_options_are_refused(kind: str, denoiser_onnx: Write) -> None:
    with pytest.raises(InputError, match="Foreign are not for this engine, which knows no speed"):
        built(kind, denoiser_onnx(), Foreign())


def test_a_part_of_a_graph_is_executed_as_the_whole(kind: str, denoiser_onnx: Write) -> None:
    engine, source = built(kind, denoiser_onnx()), denoiser_onnx()
    found = engine.run_graph(source.read_bytes(), {"sample": SAMPLE, "timestep": TIMESTEP})
    np.testing.assert_allclose(found, engine(SAMPLE, TIMESTEP), rtol=1e-5, atol=1e-6)


def test_every_layer_is_read_back_and_timed_by_its_name(kind: str, tmp_path: Path) -> None:
    net = Net().conv("plain", False).op("Relu").quantise().conv("quantised", True)
    engine = built(kind, net.quantise().save(tmp_path / "net.onnx"))
    plain, quantised = engine.executed_layers({"quantised": "int8"})
    assert (plain.name, plain.intended, plain.precision) == ("plain", "float", "float")
    assert (quantised.name, quantised.intended) == ("quantised", "int8")
    assert quantised.precision == "int8" or quantised.reason, "an engine may want another pattern, and says so"
    times_ms = engine.layer_times_ms(engine.signature.nothing(2))
    assert set(times_ms) == {"plain", "quantised"} and min(times_ms.values()) >= 0
    with pytest.raises(InputError, match="no layer lost"):
        engine.executed_layers({"lost": "int8"})
