"""What conditions alone decide is computed once per prompt, on any runtime, and by no graph but the stated one."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import onnx
import pytest
from cpu_kinds import CPU_KINDS, built
from exported_net import inputs_of
from nets_by_hand import PROMPT_CONDITIONS, PROMPTED, net_by_hand

from ptq_export.artifacts import prompt_beside, sha256_file
from ptq_export.engines.base import Engine, EngineOptions, GpuEngine
from ptq_export.engines.ort.engine import OrtEngine
from ptq_export.engines.signature import read_signature
from ptq_export.errors import InputError
from ptq_export.graph.prompt_file import load_whole, save_split
from ptq_export.interface import PROMPT, Input

ONE = EngineOptions(threads=1)
SAMPLE, SHIFT = np.ones((2, 2, 4), np.float32), np.zeros((2, 2, 4), np.float32)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The step graph, its prompt graph beside it."""
    return save_split(net_by_hand(PROMPTED, (2, 4), *PROMPT_CONDITIONS), tmp_path / "denoiser.onnx")


class Counted:
    """A session that counts its calls."""

    def __init__(self, session: Any) -> None:
        self.session, self.calls = session, 0

    def run(self, *given: Any) -> Any:
        self.calls += 1
        return self.session.run(*given)


def counted(engine: Engine) -> Counted:
    assert engine.prompt is not None
    engine.prompt.session = Counted(engine.prompt.session)
    return engine.prompt.session


def ort(source: Path, options: EngineOptions = ONE) -> Engine:
    return OrtEngine(source, source.parent / "engine", options)


def text(seed: int, tokens: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((2, tokens, 3)).astype(np.float32)


def wanted(given: np.ndarray, sample: np.ndarray = SAMPLE) -> np.ndarray:
    k = given @ np.array([[1, 0, 2, 1], [0, 1, -1, 2], [3, 1, 0, -1]], np.float32)
    result: np.ndarray = sample @ k.transpose(0, 2, 1) @ k
    return result


@pytest.mark.parametrize("kind", CPU_KINDS)
def test_a_loop_computes_its_prompt_once_and_another_prompt_again(kind: str, source: Path) -> None:
    engine = built(kind, source)
    prompt = counted(engine)
    for step in range(5):
        sample = SAMPLE * step
        found = engine(sample, step, text=text(0), shift=SHIFT + step)
        np.testing.assert_allclose(found, wanted(text(0), sample) + step, rtol=1e-4, atol=1e-4)
    assert prompt.calls == 1
    for other in (text(1), text(1, tokens=3), text(1)[:1].repeat(2, axis=0)):
        np.testing.assert_allclose(engine(SAMPLE, 0, text=other, shift=SHIFT), wanted(other), rtol=1e-4, atol=1e-4)
    assert prompt.calls == 4


def test_a_prompt_that_is_written_into_the_same_array_is_another(source: Path) -> None:
    engine, given = ort(source), text(0)
    engine(SAMPLE, 0, text=given, shift=SHIFT)
    given[1, 2] += 1
    np.testing.assert_allclose(engine(SAMPLE, 0, text=given, shift=SHIFT), wanted(given), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", CPU_KINDS)
def test_an_engine_for_one_batch_serves_prompts_of_any_length(kind: str, source: Path) -> None:
    engine = built(kind, source, EngineOptions(batch=2, threads=1))
    for given in (text(0), text(1, tokens=2)):
        found = engine(SAMPLE, 0, text=given, shift=SHIFT)
        np.testing.assert_allclose(found, wanted(given), rtol=1e-4, atol=1e-4)


def test_threads_with_prompts_of_their_own_get_their_own(source: Path) -> None:
    engine, faults = ort(source), []

    def loop(seed: int) -> None:
        for _ in range(200):
            found = engine(SAMPLE, 0, text=text(seed), shift=SHIFT)
            if not np.allclose(found, wanted(text(seed)), rtol=1e-3, atol=1e-3):
                faults.append(seed)

    threads = [Thread(target=loop, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


def test_the_signature_is_the_denoisers_and_the_graph_takes_values(source: Path) -> None:
    signature = read_signature(source)
    assert signature.inputs == inputs_of((2, 4), *PROMPT_CONDITIONS)
    values = [Input("prompt_node_k", "float32", ("tokens", 4)), Input("prompt_node_k_2", "float32", (4, "tokens"))]
    assert [*signature.step_inputs] == [*inputs_of((2, 4)), PROMPT_CONDITIONS[1], *values]


def gone(beside: Path) -> None:
    beside.unlink()


def cut(beside: Path) -> None:
    beside.write_bytes(beside.read_bytes()[:-9])


def foreign(beside: Path) -> None:
    model = onnx.load(beside)
    model.graph.name = "another"
    onnx.save(model, beside)


def folder(beside: Path) -> None:
    beside.unlink()
    beside.mkdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [(gone, "is not there"), (cut, "damaged, or another"), (foreign, "damaged, or another"), (folder, "is a folder")],
)
@pytest.mark.parametrize("read", [ort, load_whole])
def test_a_prompt_graph_that_is_not_the_stated_one_is_refused_by_name(
    read: Callable[[Path], Any], damage: Callable[[Path], None], message: str, source: Path
) -> None:
    damage(prompt_beside(source))
    with pytest.raises(InputError, match=rf"denoiser\.prompt\.onnx .*{message}"):
        read(source)


def restate(source: Path, **parts: Any) -> None:
    """Let a step graph state the prompt graph as it is now, or something else about it."""
    model = onnx.load(source)
    facts = {item.key: item.value for item in model.metadata_props}
    stated: Mapping[str, Any] = json.loads(facts[PROMPT])
    facts[PROMPT] = json.dumps({**stated, "sha256": sha256_file(prompt_beside(source)), **parts})
    onnx.helper.set_model_props(model, facts)
    onnx.save(model, source)


def test_a_prompt_graph_with_other_outputs_is_refused(source: Path) -> None:
    model = onnx.load(prompt_beside(source))
    del model.graph.output[1]
    onnx.save(model, prompt_beside(source))
    restate(source)
    with pytest.raises(InputError, match="another graph than its step graph says: prompt_node_k_2"):
        ort(source)


def test_a_prompt_graph_that_makes_other_sizes_is_refused(source: Path) -> None:
    model = onnx.load(prompt_beside(source))
    first, second = model.graph.output
    first.name, second.name = second.name, first.name
    for node in model.graph.node:
        names = {"prompt_node_k": "prompt_node_k_2", "prompt_node_k_2": "prompt_node_k"}
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    onnx.save(model, prompt_beside(source))
    restate(source)
    with pytest.raises(InputError, match=r"makes prompt_node_k \[2, 4, 5\]"):
        ort(source)(SAMPLE, 0, text=text(0), shift=SHIFT)


@pytest.mark.parametrize(
    "parts",
    [
        {"values": []},
        {"values": None},
        {"instead_of": ["sample"]},
        {"instead_of": [1]},
        {"sha256": None},
        {"values": 7},
    ],
    ids=str,
)
def test_what_a_step_graph_says_wrongly_is_refused(parts: dict[str, Any], source: Path) -> None:
    restate(source, **parts)
    with pytest.raises(InputError, match=r"denoiser\.onnx"):
        read_signature(source)


def test_an_engine_on_a_gpu_refuses_half_a_network(source: Path) -> None:
    on_gpu = type("OnGpu", (GpuEngine,), dict.fromkeys(GpuEngine.__abstractmethods__))
    with pytest.raises(InputError, match="built from the whole network"):
        on_gpu(read_signature(source))
