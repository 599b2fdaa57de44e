"""A text-to-image model through the whole job: prompts, guidance, pictures, beside diffusers' own pipeline."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx_ir as ir
import prompted_net
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from diffusers.configuration_utils import FrozenDict
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from watcher import Watcher

from ptq_export.benchmarks.peers.subject import open_subject
from ptq_export.command_options import Sampling
from ptq_export.engines import load_engine
from ptq_export.engines.ort.engine import OrtEngine
from ptq_export.engines.text_to_image import load_latent_decoder, load_prompt_encoder
from ptq_export.errors import InputError
from ptq_export.graph.model_file import load_model
from ptq_export.options import Options
from ptq_export.pipeline import bench, run, sample, verify
from ptq_export.pipeline.progress import SILENT, Progress
from ptq_export.sampling import initial_noise, sample_loop
from ptq_export.schedulers import make_scheduler

SPEC, STEPS, ROWS = "prompted_net:factory", 5, 2
NOISE = initial_noise((ROWS, 4, 8, 8), 0)


@pytest.fixture(scope="module")
def net() -> prompted_net.Denoiser:
    return prompted_net.factory()


@pytest.fixture(scope="module")
def finished_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantised(tmp_path_factory.mktemp("runs") / "prompted", "ort-int8")


def quantised(folder: Path, target: str, progress: Progress = SILENT, spec: str = SPEC) -> Path:
    """Its drawn weights make a wild net: the floor is low."""
    quick = {"samples": 8, "steps": 4, "held_out": 2, "rounds": 10, "seconds": 0.0, "threads": 1}
    options = Options(spec, target=target, out=folder, rounding="nearest", guidance=3.0, min_sqnr=5.0, **quick)
    return run(options, progress)


def float_types(graph: Path) -> set[ir.DataType]:
    """Of its weights; the factors of a Resize are float32 by definition."""
    values = load_model(graph).graph.initializers.values()
    weights = [value for value in values if all(use.node.op_type != "Resize" for use in value.uses())]
    return {weight.dtype for weight in weights} & {ir.DataType.FLOAT, ir.DataType.FLOAT16}


@pytest.mark.slow
@pytest.mark.parametrize("target", ["openvino-int8", "trt-rtx-int8", "jetson-int8"])
def test_every_proof_holds_for_every_target(tmp_path: Path, target: str) -> None:
    manifest = json.loads((quantised(tmp_path / "run", target) / "manifest.json").read_text())
    assert manifest["verdict"]["ok"], manifest["verdict"]
    assert {"text_encoder.onnx", "tokenizer.json", "decoder.onnx"} <= set(manifest["artefacts"])
    checked = tmp_path / "run" / "tensorrt.json"
    plans = json.loads(checked.read_text())["plans"].values() if checked.exists() else []
    assert all(plan["weights"]["bytes_per_weight"] == 1.0 for plan in plans)
    assert load_prompt_encoder(tmp_path / "run") is not None
    wanted = ir.DataType.FLOAT if target == "openvino-int8" else ir.DataType.FLOAT16
    assert float_types(tmp_path / "run" / "decoder.onnx") == {wanted}
    assert target != "jetson-int8" or (tmp_path / "run" / "jetson" / "bundle.json").is_file()


@pytest.mark.slow
def test_a_decoder_that_float16_cannot_hold_stays_float32_and_is_said(tmp_path: Path, watcher: Watcher) -> None:
    folder = quantised(tmp_path / "run", "trt-rtx-int8", watcher, "prompted_net:loud")
    assert float_types(folder / "decoder.onnx") == {ir.DataType.FLOAT}
    assert any("decoder.onnx stays float32" in message for message in watcher.messages)


def test_every_second_pair_is_a_call_without_the_prompt(finished_text: Path, net: prompted_net.Denoiser) -> None:
    assert net.text is not None
    empty = net.text.encode([""])["encoder_hidden_states"][0]
    rows = load_file(finished_text / "pairs.safetensors")["encoder_hidden_states"]
    assert [torch.allclose(row, empty) for row in rows] == [index % 2 == 1 for index in range(len(rows))]


def test_prompts_and_pictures_need_no_torch_module(finished_text: Path, net: prompted_net.Denoiser) -> None:
    encoder, decoder = load_prompt_encoder(finished_text), load_latent_decoder(finished_text)
    assert encoder is not None and decoder is not None and net.text is not None and net.decoder is not None
    prompts = ["a red dog", "", "a green house a red apple a dog"]
    wanted = net.text.encode(prompts)["encoder_hidden_states"]
    np.testing.assert_allclose(encoder(prompts)["encoder_hidden_states"], wanted, atol=2e-6)
    with torch.no_grad():
        np.testing.assert_allclose(decoder(NOISE.numpy()), net.decoder(NOISE).clamp(-1, 1), atol=1e-5)


def pipeline_of(unet: nn.Module, net: prompted_net.Denoiser) -> StableDiffusionPipeline:
    """diffusers' own, around `unet`."""
    assert isinstance(net.decoder, prompted_net.Decoder)
    betas = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
    asked = {"prediction_type": "v_prediction", "clip_sample": False, "steps_offset": 1, "set_alpha_to_one": False}
    parts = (net.decoder.vae, None, None, unet, DDIMScheduler(**betas, **asked), None, None)
    pipeline = StableDiffusionPipeline(*parts, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("kind", ["float", "int8"])
def test_a_guided_loop_is_the_one_of_stable_diffusion(
    finished_text: Path, net: prompted_net.Denoiser, kind: str
) -> None:
    """Of the float network, and of the engine in the pipeline's place of a U-Net."""
    text = net.text
    assert text is not None and isinstance(net.module, prompted_net.Net)
    engine = load_engine(finished_text)
    pipeline = pipeline_of(net.module.unet if kind == "float" else engine.as_unet(), net)
    conditions = text.encode(prompted_net.PROMPTS[:ROWS])
    side = 8 * pipeline.vae_scale_factor
    wanted: Tensor = pipeline(
        prompt_embeds=conditions["encoder_hidden_states"],
        negative_prompt_embeds=text.encode([""] * ROWS)["encoder_hidden_states"],
        latents=NOISE,
        guidance_scale=3.0,
        num_inference_steps=STEPS,
        output_type="latent",
        height=side,
        width=side,
    ).images
    guided = prompted_net.guided_like(net, 3.0).guided(net if kind == "float" else engine)
    found = sample_loop(guided, make_scheduler(net.schedule), NOISE, STEPS, conditions)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 if kind == "float" else 0)


def test_the_engine_tells_a_pipeline_what_a_network_would(finished_text: Path) -> None:
    config = load_engine(finished_text).as_unet().config
    assert isinstance(config, FrozenDict) and config.time_cond_proj_dim is None and config.sample_size == 8


def test_peers_meet_our_step_as_the_run_serves_it(finished_text: Path, tmp_path: Path) -> None:
    subject = open_subject([finished_text], tmp_path)
    (own,) = subject.own
    assert any((gain != 1).any() for gain in own.gains.values()), "channels of values are balanced in this run"
    step = {name: rows[:ROWS] for name, rows in subject.pairs().items()}
    whole = {name: rows[:ROWS].numpy() for name, rows in load_file(finished_text / "pairs.safetensors").items()}
    found = OrtEngine(own.graph, tmp_path / "engine").run(subject.as_read(own.graph, step))
    np.testing.assert_allclose(found, load_engine(finished_text)(**whole), atol=1e-3)


def test_the_report_tells_the_prompts_and_what_a_picture_takes(finished_text: Path) -> None:
    once = json.loads((finished_text / "latency.json").read_text())["once"]
    page = (finished_text / "report.html").read_text()
    assert {*once} == {"text_encoder_ms", "decoder_ms"} and min(once.values()) > 0
    assert "ms text encoder + " in page and "guided by 3" in page and "Before the decoder the latents" in page
    prompts = json.loads((finished_text / "fidelity.json").read_text())["prompts"]
    assert {*prompts} <= {*prompted_net.PROMPTS} and all(f"<td>{prompt}</td>" in page for prompt in prompts)


def test_the_bench_times_what_the_run_timed(finished_text: Path, tmp_path: Path) -> None:
    """Two rows for a picture, and all its parts: not the unguided steps of a net without text."""
    folder = Path(shutil.copytree(finished_text, tmp_path / "run"))
    before = json.loads((folder / "latency.json").read_text())
    again = bench(folder, SILENT)
    assert [step["batch"] for step in again["steps"]] == [step["batch"] for step in before["steps"]] == [2, 16]
    assert set(again["once"]) == set(before["once"]) == {"text_encoder_ms", "decoder_ms"}
    assert [loop["batch"] for loop in again["loops"]] == [loop["batch"] for loop in before["loops"]]


def test_a_prompt_is_drawn(finished_text: Path, tmp_path: Path, watcher: Watcher) -> None:
    pictures = {}
    for name, prompt, scale in (("a", "a red dog", 3.0), ("b", "a green house", 3.0), ("c", "a red dog", 1.0)):
        path = tmp_path / f"{name}.png"
        facts = sample(finished_text, Sampling(path, 3, 2, prompt=prompt, guidance=scale), watcher)
        pictures[name] = np.asarray(Image.open(path))
        assert facts["prompts"] == [prompt] and facts["guidance"] == (None if scale == 1 else scale)
    assert not np.array_equal(pictures["a"], pictures["b"]) and not np.array_equal(pictures["a"], pictures["c"])


def test_a_prompt_that_is_too_long_is_cut_and_said(finished_text: Path, tmp_path: Path, watcher: Watcher) -> None:
    sample(finished_text, Sampling(tmp_path / "a.png", 1, 1, prompt="a red dog " * 5), watcher)
    assert any("cut to 6 tokens: 'a red dog" in message for message in watcher.messages)


def test_without_a_prompt_those_of_the_run_are_drawn(finished_text: Path, tmp_path: Path, watcher: Watcher) -> None:
    facts = sample(finished_text, Sampling(tmp_path / "a.png", len(prompted_net.PROMPTS) + 1, 1), watcher)
    assert facts["prompts"] == [*prompted_net.PROMPTS]


def test_a_negative_prompt_without_guidance_is_refused(finished_text: Path, tmp_path: Path, watcher: Watcher) -> None:
    with pytest.raises(InputError, match="says nothing without guidance"):
        sample(finished_text, Sampling(tmp_path / "a.png", 1, 1, negative="a dog", guidance=1.0), watcher)


def test_a_run_without_text_takes_no_prompt(finished: Path, tmp_path: Path, watcher: Watcher) -> None:
    with pytest.raises(InputError, match="takes no prompts"):
        sample(finished, Sampling(tmp_path / "a.png", prompt="a dog"), watcher)


@pytest.mark.parametrize("name", ["text_encoder.onnx", "tokenizer.json", "decoder.onnx"])
def test_a_damaged_part_is_refused_by_name(finished_text: Path, name: str) -> None:
    path = finished_text / name
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-1])
        with pytest.raises(InputError, match=f"{name} is damaged or gone"):
            load_prompt_encoder(finished_text), load_latent_decoder(finished_text)
    finally:
        path.write_bytes(whole)


def test_it_is_verified_with_its_prompts(finished_text: Path, watcher: Watcher) -> None:
    assert verify(finished_text, watcher, SPEC)["parity"] > 0
    assert json.loads((finished_text / "manifest.json").read_text())["denoiser"]["text"]["scale"] == 3.0
