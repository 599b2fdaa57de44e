"""The parts of the pipeline, as diffusers and transformers name them, and the tokenizer of its prompts."""

import json
from collections.abc import Sequence
from pathlib import Path

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

__all__ = ["TOKENS", "autoencoder", "denoiser", "scheduler", "text_encoder", "tokenizer"]

TOKENS, WIDTH, VOCABULARY = 16, 192, 2048


def autoencoder() -> AutoencoderKL:
    """64 x 64 RGB to latents of 16 x 16 x 4 and back."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        norm_num_groups=16,
        latent_channels=4,
        sample_size=64,
    )


def denoiser() -> UNet2DConditionModel:
    """The U-Net, with cross-attention to the prompt at 8 x 8 and 4 x 4."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 96, 128),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def text_encoder(tokens: CLIPTokenizer) -> CLIPTextModel:
    """A CLIP text model, three layers."""
    config = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    return CLIPTextModel(config)


def scheduler() -> DDIMScheduler:
    """The schedule of Stable Diffusion, with the velocity as prediction (arXiv:2202.00512)."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


def tokenizer(folder: Path, prompts: Sequence[str]) -> CLIPTokenizer:
    """Byte pairs of the prompts, in CLIP's files."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    pairs.normalizer = normalizers.Lowercase()
    pairs.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    special = ["<|startoftext|>", "<|endoftext|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(special),
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    pairs.train_from_iterator(prompts, trainer)
    learned = json.loads(pairs.to_str())["model"]
    words = sorted(learned["vocab"], key=learned["vocab"].get)
    missing = [f"{sign}</w>" for sign in alphabet if f"{sign}</w>" not in learned["vocab"]]
    words = [*words[: VOCABULARY - len(special) - len(missing)], *missing, *special]
    known = {*words}
    merges = [pair for pair in learned["merges"] if "".join(pair) in known and {*pair} <= known]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=TOKENS, pad_token="<|endoftext|>")
