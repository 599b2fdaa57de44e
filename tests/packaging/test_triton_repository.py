"""The format `triton`: descriptions that Triton's own schema accepts, and that say what the ONNX files take."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from google.protobuf import descriptor_pool, message_factory, text_format
from made_runs import GRAPH, labelled_run
from safetensors.numpy import save_file

from ptq_export.artifacts import describe_file, sha256_file
from ptq_export.command_options import Packaging
from ptq_export.engines import load_engine
from ptq_export.engines.base import EngineOptions
from ptq_export.engines.build_cache import current, write_identity
from ptq_export.errors import EnvironmentMissing, InputError
from ptq_export.graph import model_file
from ptq_export.interface import Input
from ptq_export.packaging import check_package, package

PROMPT = "denoiser.ort-int8.prompt.onnx"
SCHEMA = Path(__file__).parents[1] / "data" / "triton_model_config.binpb"
BESIDE: dict[str, dict[str, str]] = {
    "labelled": {},
    "prompted": {"denoiser_prompt": PROMPT},
    "worded": {"denoiser_prompt": PROMPT, "text_encoder": "text_encoder.onnx", "decoder": "decoder.onnx"},
}
KINDS = {"tensor(float)": "TYPE_FP32", "tensor(int64)": "TYPE_INT64"}


def described(path: Path) -> Any:
    """A config.pbtxt, read as Triton reads it."""
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(SCHEMA.read_bytes())
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))()
    return text_format.Parse(path.read_text(), message)


def kind_of(tensor: Any) -> str:
    return str(tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[tensor.data_type].name)


def written(run: Path, engine: str = "native", **options: Any) -> Path:
    out = run.parent / f"out-{engine}"
    return Path(package(run, Packaging(out, "triton", engine, **options))["package"])


def stated(config: Any) -> list[tuple[str, str, list[int]]]:
    """Name, type and sizes of every input and output, as the model behind Triton sees them."""
    tensors = [*config.input, *config.output]
    return [(it.name, kind_of(it), [-1, *(it.reshape.shape if it.HasField("reshape") else it.dims)]) for it in tensors]


def opened(path: Path) -> list[tuple[str, str, list[int]]]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    tensors = [*session.get_inputs(), *session.get_outputs()]
    return [(it.name, KINDS[it.type], [-1 if isinstance(size, str) else size for size in it.shape]) for it in tensors]


@pytest.mark.parametrize("kind", ["labelled", "prompted", "worded"])
def test_configurations_say_what_the_graphs_take_and_make(kind: str, request: pytest.FixtureRequest) -> None:
    out = written(request.getfixturevalue(kind))
    models = {"denoiser_step": GRAPH, **BESIDE[kind]}
    assert {path.name for path in out.iterdir() if path.is_dir()} == {*models, "sampler"}
    for name, graph in models.items():
        config = described(out / name / "config.pbtxt")
        assert (config.name, config.backend, config.default_model_filename) == (name, "onnxruntime", graph)
        assert sorted(stated(config)) == sorted(opened(out / name / "1" / graph))


def test_steps_are_batched_warmed_up_and_run_by_one_instance(labelled: Path) -> None:
    config = described(written(labelled, max_batch=16) / "denoiser_step" / "config.pbtxt")
    assert (config.max_batch_size, list(config.dynamic_batching.preferred_batch_size)) == (16, [16])
    assert config.dynamic_batching.max_queue_delay_microseconds == 100
    [group] = config.instance_group
    assert (group.count, group.kind) == (1, group.KIND_CPU)
    assert [warm.batch_size for warm in config.model_warmup] == [1, 16]
    for warm in config.model_warmup:
        assert {name: (kind_of(it), list(it.dims), it.zero_data) for name, it in warm.inputs.items()} == {
            "sample": ("TYPE_FP32", [1, 8, 8], True),
            "timestep": ("TYPE_INT64", [1], True),
            "label": ("TYPE_INT64", [1], True),
        }


def test_open_sizes_stay_open_and_are_one_in_the_warm_up(prompted: Path) -> None:
    config = described(written(prompted) / "denoiser_prompt" / "config.pbtxt")
    assert [(it.name, list(it.dims)) for it in config.input] == [("text", [-1, 3])]
    assert list(config.model_warmup[0].inputs["text"].dims) == [1, 3]


def test_the_sampler_is_decoupled_and_wants_conditions_alone(labelled: Path) -> None:
    config = described(written(labelled) / "sampler" / "config.pbtxt")
    assert config.model_transaction_policy.decoupled and (config.backend, config.max_batch_size) == ("python", 0)
    assert {it.name: it.optional for it in config.input} == {
        **dict.fromkeys(("seed", "steps", "guidance", "preview", "unconditional_label"), True), "label": False,
    }  # fmt: skip
    assert {it.name: (kind_of(it), list(it.dims)) for it in config.output} == {
        "sample": ("TYPE_FP32", [1, 8, 8]),
        "image": ("TYPE_UINT8", [8, 8, 1]),
        "step": ("TYPE_INT32", [1]),
        "steps": ("TYPE_INT32", [1]),
        "seed": ("TYPE_INT64", [1]),
    }


def test_samples_without_a_range_have_no_image(prompted: Path) -> None:
    config = described(written(prompted) / "sampler" / "config.pbtxt")
    assert [it.name for it in config.output] == ["sample", "step", "steps", "seed"]


def test_a_run_that_takes_prompts_has_models_around_the_step(worded: Path) -> None:
    out = written(worded, max_batch=16)
    for name, most in {"denoiser_step": 16, "text_encoder": 8, "decoder": 4}.items():
        config = described(out / name / "config.pbtxt")
        assert (config.max_batch_size, list(config.dynamic_batching.preferred_batch_size)) == (most, [most])
        assert [warm.batch_size for warm in config.model_warmup] == [1, most]
        assert config.instance_group[0].kind == config.instance_group[0].KIND_CPU
    config = described(out / "sampler" / "config.pbtxt")
    assert {it.name: it.optional for it in config.input if it.name in ("text", "sizes")} == {
        "text": True,
        "sizes": True,
    }
    assert {it.name: (kind_of(it), list(it.dims)) for it in config.output} == {
        "sample": ("TYPE_FP32", [2, 4, 4]),
        "image": ("TYPE_UINT8", [8, 8, 3]),
        "step": ("TYPE_INT32", [1]),
        "steps": ("TYPE_INT32", [1]),
        "seed": ("TYPE_INT64", [1]),
        "cut": ("TYPE_INT32", [2]),
    }
    assert {path.name for path in (out / "sampler" / "1").iterdir()} == {"manifest.json", "model.py", "tokenizer.json"}
    page = (out / "README.md").read_text()
    assert "`negative_prompt`" in page and "'ptq-export[text]==" in page and "$" not in page


def test_a_condition_that_differed_in_calibration_must_be_given(worded: Path) -> None:
    save_file({"sizes": np.arange(8, dtype=np.float32).reshape(4, 2)}, worded / "pairs.safetensors")
    config = described(written(worded) / "sampler" / "config.pbtxt")
    assert {it.name: it.optional for it in config.input if it.name in ("text", "sizes")} == {
        "text": True,
        "sizes": False,
    }


def test_the_weights_of_a_large_text_encoder_go_along(worded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_file, "SELF_CONTAINED_BYTES", 64)
    monkeypatch.setattr(model_file, "INSIDE_BYTES", 16)
    path, manifest = worded / "text_encoder.onnx", json.loads((worded / "manifest.json").read_text())
    model_file.save_model(model_file.load_model(path), path)
    manifest["artefacts"] |= {it.name: describe_file(it) for it in worded.glob("text_encoder.onnx*")}
    (worded / "manifest.json").write_text(json.dumps(manifest))
    for engine in ("native", "python"):
        place = written(worded, engine) / "text_encoder" / "1"
        assert (place / "text_encoder.onnx.data").is_file() and opened(place / "text_encoder.onnx")


@pytest.mark.parametrize("kind", ["labelled", "large", "prompted", "worded"])
def test_in_the_python_form_the_step_s_folder_is_a_package(kind: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(kind)
    out = written(run, "python")
    config = described(out / "denoiser_step" / "config.pbtxt")
    assert config.backend == "python" and config.dynamic_batching.preferred_batch_size
    engine = load_engine(out / "denoiser_step" / "1", options=EngineOptions(threads=1))
    assert engine.signature == load_engine(run, options=EngineOptions(threads=1)).signature
    assert sorted(name for name, *_ in stated(config)) == sorted(
        [it.name for it in engine.signature.step_inputs] + ["eps"]
    )
    for name, graph in BESIDE.get(kind, {}).items():
        config = described(out / name / "config.pbtxt")
        assert (config.backend, config.parameters["onnx"].string_value) == ("python", graph)
        assert sorted(stated(config)) == sorted(opened(out / name / "1" / graph))
    for path in out.glob("*/1/model.py"):
        compile(path.read_text(), path.name, "exec")
    assert check_package(out)["engine"] == "not loaded"


def retarget(run: Path, target: str) -> str:
    """Let the run be one for another target; its graph's name."""
    manifest = json.loads((run / "manifest.json").read_text())
    name = f"denoiser.{target}.onnx"
    (run / GRAPH).rename(run / name)
    manifest |= {"target": target, "artefacts": {name: manifest["artefacts"][GRAPH]}}
    (run / "manifest.json").write_text(json.dumps(manifest))
    return name


def test_an_engine_without_a_backend_of_triton_is_refused_but_in_the_python_form(labelled: Path) -> None:
    retarget(labelled, "openvino-int8")
    with pytest.raises(InputError, match="no backend of its own") as refused:
        written(labelled)
    assert "--engine python" in refused.value.remedy and not (labelled.parent / "out-native").exists()
    assert (written(labelled, "python") / "denoiser_step" / "1" / "denoiser.openvino-int8.onnx").is_file()


def test_a_plan_is_taken_if_it_was_built_of_the_run_s_graph(labelled: Path) -> None:
    graph = labelled / retarget(labelled, "trt-int8")
    with pytest.raises(EnvironmentMissing, match="holds no TensorRT plan"):
        written(labelled)
    for most, sha256 in ((4, sha256_file(graph)), (64, "another graph's")):
        plan = labelled / "engine" / f"denoiser.trt-int8.tensorrt-batch1-{most}.engine.plan"
        plan.parent.mkdir(exist_ok=True)
        plan.write_bytes(b"plan")
        write_identity(plan, current("trt", {"tensorrt": "10"}, sha256, {"batch": [1, 2, most]}, isa=(), device="GPU"))
    out = written(labelled)
    config = described(out / "denoiser_step" / "config.pbtxt")
    assert (config.backend, config.max_batch_size, config.instance_group[0].kind) == ("tensorrt", 4, 1)
    assert [path.name for path in (out / "denoiser_step" / "1").iterdir()] == [config.default_model_filename]
    assert config.default_model_filename.endswith("batch1-4.engine.plan")


def test_a_condition_that_is_called_as_a_setting_is_refused(tmp_path: Path) -> None:
    run = labelled_run(tmp_path / "run", Input("steps", "int64", (), 10))
    with pytest.raises(InputError, match="a condition steps"):
        written(run)
