"""Tiny pipelines of diffusers' own classes with random weights, saved as they save themselves."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

__all__ = ["BUILDERS", "PROMPTS", "autoencoder", "save_vocabulary", "saved", "text_config", "tokenizer", "unet_config"]

PROMPTS = ["a Red  apple", "", "é 日本 \U0001f34e it's 12!", "apple " * 40, "red<|endoftext|>"]
"""Ordinary, empty, unicode, too long, and a special token."""

MERGES = ["a p", "ap p", "l e</w>", "app le</w>", "r e", "re d</w>"]
LENGTH = 24


def save_vocabulary(folder: Path, **settings: Any) -> Path:
    """`vocab.json`, `merges.txt` and a configuration, as Stable Diffusion's `tokenizer/` has them."""
    letters = sorted(ByteLevel.alphabet())
    merged = [pair.replace(" ", "") for pair in MERGES]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *merged, "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": LENGTH, **settings}))
    return folder


def tokenizer(folder: Path, **settings: Any) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(save_vocabulary(folder, **settings))


def text_config(vocabulary: int, width: int = 32, **changes: Any) -> CLIPTextConfig:
    own = {"bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1, "pad_token_id": 0}
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "projection_dim": 24}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": LENGTH}
    return CLIPTextConfig(vocab_size=vocabulary, **{**own, **sizes, **layers, **changes})


def unet_config(**changes: Any) -> dict[str, Any]:
    return {
        "sample_size": 8,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 32,
        "attention_head_dim": 4,
        **changes,
    }


def autoencoder(**changes: Any) -> AutoencoderKL:
    widths = {"block_out_channels": (32, 32, 32), "layers_per_block": 1, "scaling_factor": 0.2}
    down, up = ("DownEncoderBlock2D",) * 3, ("UpDecoderBlock2D",) * 3
    return AutoencoderKL(down_block_types=down, up_block_types=up, **{**widths, **changes})


def stable(folder: Path, kind: str = "StableDiffusionPipeline", **changes: Any) -> DiffusionPipeline:
    """Stable Diffusion 1: the scheduler of its folders is PNDM."""
    tokens = tokenizer(folder / "made")
    return getattr(diffusers, kind)(
        vae=autoencoder(),
        text_encoder=CLIPTextModel(text_config(len(tokens), hidden_act="quick_gelu", eos_token_id=2)),
        tokenizer=tokens,
        unet=UNet2DConditionModel(**unet_config(**changes)),
        scheduler=diffusers.PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
        ),
        **({} if kind.startswith("Latent") else {"image_encoder": None}),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def second(folder: Path) -> DiffusionPipeline:
    """Stable Diffusion 2: v-prediction, OpenCLIP's activation, '!' for padding, linear projections."""
    pipeline = stable(folder, use_linear_projection=True, attention_head_dim=(2, 4))
    pipeline.tokenizer = tokenizer(folder / "padded", pad_token="!")
    pipeline.text_encoder = CLIPTextModel(text_config(len(pipeline.tokenizer), hidden_act="gelu"))
    pipeline.scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return pipeline


def inpainting(folder: Path) -> DiffusionPipeline:
    return stable(folder, "StableDiffusionInpaintPipeline", in_channels=9)


def consistency(folder: Path) -> DiffusionPipeline:
    """LCM: the guidance scale as a condition."""
    pipeline = stable(folder, "LatentConsistencyModelPipeline", time_cond_proj_dim=16)
    pipeline.scheduler = diffusers.LCMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", set_alpha_to_one=True
    )
    return pipeline


def extra_large(folder: Path, **further: Any) -> DiffusionPipeline:
    """SDXL: two encoders, the second one's tokenizer pads with '!'."""
    first, other = tokenizer(folder / "first"), tokenizer(folder / "other", pad_token="!")
    embeddings = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "cross_attention_dim": 48}
    return diffusers.StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=CLIPTextModel(text_config(len(first))),
        text_encoder_2=CLIPTextModelWithProjection(text_config(len(other), 16, hidden_act="gelu")),
        tokenizer=first,
        tokenizer_2=other,
        unet=UNet2DConditionModel(
            **unet_config(
                **embeddings,
                projection_class_embeddings_input_dim=24 + 6 * 8,
                transformer_layers_per_block=(1, 2),
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                use_linear_projection=True,
            )
        ),
        scheduler=diffusers.EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="leading",
            steps_offset=1,
        ),
        **further,
    )


BUILDERS: dict[str, Callable[[Path], DiffusionPipeline]] = {
    "sd1": stable,
    "sd2": second,
    "sdxl": extra_large,
    "inpaint": inpainting,
    "lcm": consistency,
}


def saved(kind: str, folder: Path) -> Path:
    """The folder of such a pipeline; its weights are drawn from a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BUILDERS[kind](folder).save_pretrained(folder / kind)
    return folder / kind
