"""Nets of continuous noise levels, flows and texts are refused by name, told by what their authors' files have."""

from pathlib import Path

import pytest
import torch
from openai_reference import random_state

from ptq_export.checkpoints import load_checkpoint
from ptq_export.checkpoints.openai_layout import Layout
from ptq_export.checkpoints.schedule import noise_schedule
from ptq_export.errors import InputError

TINY = Layout(3, 3, 32, (32, 64), 1, (1,), resblock_updown=True, scale_shift=True, classes=5)
# the first tensors of a state dict of each authors' code
NETS = {
    "score_sde": {"sigmas": (10,), "all_modules.0.weight": (128, 32), "all_modules.3.bias": (8,)},
    "NCSNv2": {"sigmas": (10,), "begin_conv.weight": (8, 3, 3, 3)},
    "edm": {"model.map_layer0.weight": (128, 32), "model.enc.16x16_conv.weight": (32, 3, 3, 3)},
    "edm2": {"unet.emb_fourier.freqs": (32,), "unet.enc.64x64_block0.conv_res0.weight": (8, 8, 3, 3)},
    "k-diffusion net \\(inner": {"inner_model.proj_in.weight": (8, 3, 1, 1)},
    "k-diffusion net \\(Fourier": {"timestep_embed.weight": (32, 1), "u_net.d_blocks.0.0.main.0.weight": (8, 8, 3, 3)},
    "Flux": {"double_blocks.0.img_attn.qkv.weight": (24, 8)},
    "Stable Diffusion 3": {"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": (24, 8)},
    "DiT or SiT": {"x_embedder.proj.weight": (8, 4, 2, 2), "blocks.0.adaLN_modulation.1.weight": (48, 8)},
    "a LoRA": {"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight": (4, 32)},
    "LoRA": {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight": (32, 4), "lora_unet_mid.alpha": ()},
    "LoRA: it holds": {"unet.mid_block.attentions.0.processor.to_q_lora.down.weight": (4, 32)},
    "bitsandbytes \\(NF4": {
        "down_blocks.0.resnets.0.conv1.weight": (9, 1),
        "mid_block.attentions.0.proj_in.weight.quant_state.bitsandbytes__nf4": (80,),
    },
    "GLIDE": {"input_blocks.4.1.encoder_kv.weight": (128, 64, 1), "time_embed.0.weight": (8, 8)},
}


def _refusal(state: dict[str, torch.Tensor], folder: Path) -> InputError:
    torch.save(state, folder / "model.pt")
    with pytest.raises(InputError) as caught:
        load_checkpoint(str(folder / "model.pt"))
    assert caught.value.exit_code == 2
    assert caught.value.remedy
    return caught.value


def test_consistency_model_is_told_from_adm_by_its_qkv(tmp_path: Path) -> None:
    """openai/consistency_models makes qkv by a convolution over images: four dimensions where ADM has three."""
    state = random_state(TINY)
    assert load_checkpoint(_saved(state, tmp_path)).classes == 5
    for name in [name for name in state if name.endswith("qkv.weight")]:
        state[name] = state[name][..., None]
    assert "openai/consistency_models" in _refusal(state, tmp_path).cause


def _saved(state: dict[str, torch.Tensor], folder: Path) -> str:
    torch.save(state, folder / "model.pt")
    return str(folder / "model.pt")


@pytest.mark.parametrize("name", NETS)
def test_net_is_refused_by_name_and_reason(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{name}.*which is not supported"):
        load_checkpoint(_saved({key: torch.zeros(shape) for key, shape in NETS[name].items()}, tmp_path))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"_class_name": "EDMEulerScheduler", "sigma_data": 0.5}, "continuous noise level"),
        ({"_class_name": "KarrasVeScheduler", "sigma_max": 100}, "continuous noise level"),
        ({"_class_name": "CMStochasticIterativeScheduler", "sigma_max": 80.0}, "consistency model"),
        ({"_class_name": "ScoreSdeVeScheduler", "sigma_max": 1348.0}, "variance-exploding"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}, "velocity of a flow"),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "beta_schedule": "linear", "use_flow_sigmas": True},
            "velocity of a flow",
        ),
        (
            {"_class_name": "EulerDiscreteScheduler", "beta_schedule": "scaled_linear", "timestep_type": "continuous"},
            "continuous noise level",
        ),
    ],
)
def test_scheduler_of_such_a_net_is_refused(config: dict[str, object], reason: str) -> None:
    with pytest.raises(InputError, match=f"a net of {config['_class_name']} .*{reason}.*which is not supported"):
        noise_schedule(config, "scheduler_config.json")


def test_euler_with_v_prediction_is_no_stranger() -> None:
    config = {"_class_name": "EulerDiscreteScheduler", "beta_schedule": "scaled_linear", "timestep_type": "discrete"}
    assert noise_schedule({**config, "prediction_type": "v_prediction"}, "").prediction_type == "v_prediction"
