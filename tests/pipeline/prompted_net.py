"""A whole latent text-to-image model with drawn weights, small enough for a test: `prompted_net:factory`."""

import json
from dataclasses import replace

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from ptq_export.checkpoints.conventions import LATENT_DIFFUSION
from ptq_export.denoiser import Denoiser, NoiseSchedule, Source
from ptq_export.guidance import Guidance
from ptq_export.interface import Input
from ptq_export.text import Text
from ptq_export.tokens import Tokens

__all__ = ["PROMPTS", "TOKENS", "factory", "guided_like", "tokens"]

TOKENS, WIDTH = 6, 16
WORDS = ("a", "red", "green", "apple", "dog", "house")
PROMPTS = ("a red apple", "a green dog", "a red house", "a green apple")


class Net(nn.Module):
    """`UNet2DConditionModel` as a function of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            down_block_types=("CrossAttnDownBlock2D",),
            mid_block_type=None,
            up_block_types=("UpBlock2D",),
            block_out_channels=(16,),
            layers_per_block=1,
            cross_attention_dim=WIDTH,
            attention_head_dim=2,
            norm_num_groups=8,
        )

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        return self.unet(sample, timestep, encoder_hidden_states, return_dict=False)[0]


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        config = CLIPTextConfig(
            vocab_size=len(WORDS) + 2,
            hidden_size=WIDTH,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=TOKENS,
            bos_token_id=0,
            eos_token_id=1,
        )
        self.model = CLIPTextModel(config)

    def forward(self, ids: Tensor) -> tuple[Tensor]:
        return (self.model(ids).last_hidden_state,)


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.vae = AutoencoderKL(block_out_channels=(8, 8), latent_channels=4, norm_num_groups=4, **_two_levels())

    def forward(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents, return_dict=False)[0]


class Loud(Decoder):
    """The same, by way of numbers that float16 does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.louder, self.softer = nn.Conv2d(4, 4, 1, bias=False), nn.Conv2d(4, 4, 1, bias=False)
        with torch.no_grad():
            self.louder.weight.copy_(5e4 * torch.eye(4)[..., None, None])
            self.softer.weight.copy_(2e-5 * torch.eye(4)[..., None, None])

    def forward(self, latents: Tensor) -> Tensor:
        return super().forward(self.softer(self.louder(latents)))


def tokens() -> Tokens:
    """Words, cut and padded to `TOKENS`."""
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(("<s>", "</s>", *WORDS))}, "</s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS, pad_id=1, pad_token="</s>")
    return Tokens(json.dumps(json.loads(tokenizer.to_str())))


def factory() -> Denoiser:
    torch.manual_seed(0)
    encoder, decoder = Encoder().eval().requires_grad_(False), Decoder().eval().requires_grad_(False)
    text = Text(encoder, (tokens(),), ("encoder_hidden_states",), 3.0, PROMPTS)
    return Denoiser(
        Net(),
        NoiseSchedule(prediction_type="v_prediction", clip_sample=False, settings=dict(LATENT_DIFFUSION)),
        (4, 8, 8),
        Source("prompted_net", "", ""),
        (Input("encoder_hidden_states", "float32", (TOKENS, WIDTH)),),
        text.encode([""]),
        decoder,
        text,
    )


def loud() -> Denoiser:
    return replace(factory(), decoder=Loud().eval().requires_grad_(False))


def _two_levels() -> dict[str, tuple[str, ...]]:
    return {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}


def guided_like(denoiser: Denoiser, scale: float) -> Denoiser:
    """The denoiser under a guidance away from the empty prompt."""
    assert denoiser.text is not None
    return replace(denoiser, guidance=Guidance(scale, denoiser.text.encode([""])))
