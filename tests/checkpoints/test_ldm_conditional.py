"""Stable Diffusion's and latent diffusion's checkpoints with cross-attention, against their authors' own code."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ldm_reference import golden
from safetensors.torch import save_file
from tiny_pipelines import LENGTH, MERGES, PROMPTS, text_config, tokenizer
from torch import Tensor, nn
from transformers import CLIPTextModel

from ptq_export.checkpoints import load_checkpoint
from ptq_export.errors import InputError

DATA = Path(__file__).parents[1] / "data"
CLOSE = 1e-5
NET = "model.diffusion_model."
State = dict[str, Tensor]


def off(found: Tensor, wanted: Tensor) -> float:
    assert found.shape == wanted.shape
    return float((found - wanted).abs().max() / wanted.abs().max())


class ResidualAttention(nn.Module):
    """`ResidualAttentionBlock` of open_clip/transformer.py."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, width // 64)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        """`[length, N, width]`."""
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, attn_mask=torch.full([len(x)] * 2, -torch.inf).triu(1))[0]
        return x + self.mlp["c_proj"](nn.functional.gelu(self.mlp["c_fc"](self.ln_2(x))))


class OpenClip(nn.Module):
    """The text tower of OpenCLIP, as `FrozenOpenCLIPEmbedder` calls it: all but the last layer, and the final norm."""

    def __init__(self, vocabulary: int, width: int, layers: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.randn(LENGTH, width))
        blocks = nn.ModuleList(ResidualAttention(width) for _ in range(layers))
        self.transformer = nn.ModuleDict({"resblocks": blocks})
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, width) / 8)
        self.logit_scale = nn.Parameter(torch.ones(()))

    def states(self, ids: Tensor, left_out: int) -> Tensor:
        x = (self.token_embedding(ids) + self.positional_embedding).transpose(0, 1)
        for block in self.transformer["resblocks"][: len(self.transformer["resblocks"]) - left_out]:
            x = block(x)
        return x.transpose(0, 1)


def under(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": value.detach().contiguous() for name, value in state.items()}


def save(folder: Path, *parts: State) -> str:
    tensors = {name: value for part in parts for name, value in part.items()}
    save_file(tensors, folder / "model.safetensors")
    return str(folder / "model.safetensors")


@pytest.fixture
def words(tmp_path: Path) -> int:
    """How many tokens the tokenizer knows whose folder stands beside the checkpoint."""
    return len(tokenizer(tmp_path / "tokenizer"))


@pytest.fixture
def first(words: int) -> State:
    """Stable Diffusion 1: the net, CLIP under transformers' names, the decoder."""
    torch.manual_seed(0)
    clip = CLIPTextModel(text_config(words, 64, num_attention_heads=1, eos_token_id=2)).state_dict()
    return {
        **under("model.diffusion_model.", golden(DATA, "text")[0]),
        **under("cond_stage_model.transformer.text_model.", clip),
        **under("first_stage_model.", golden(DATA, "decoder")[0]),
    }


def test_net_of_stable_diffusion_1_answers_as_its_authors_code(first: State, tmp_path: Path) -> None:
    denoiser = load_checkpoint(save(tmp_path, first))
    _, told = golden(DATA, "text")
    found = denoiser(told["sample"], told["timestep"], encoder_hidden_states=told["context"])
    assert off(found, told["output"]) < CLOSE
    assert denoiser.sample_shape == (4, 64, 64)
    assert (denoiser.schedule.beta_start, denoiser.schedule.beta_end) == (0.00085, 0.012)
    assert any("heads=8, predict=eps, betas=scaled_linear" in note for note in denoiser.source.notes)


def test_decoder_answers_as_its_authors_code(first: State, tmp_path: Path) -> None:
    denoiser = load_checkpoint(save(tmp_path, first), resolution=16)
    _, told = golden(DATA, "decoder")
    with torch.no_grad():
        assert off(denoiser.decoder(told["latents"]), told["output"]) < CLOSE
    other = load_checkpoint(save(tmp_path, {**first, "scale_factor": torch.tensor(0.5)}), resolution=16)
    with torch.no_grad():
        assert off(other.decoder(told["latents"] * (0.5 / 0.18215)), told["output"]) < CLOSE
    assert other.sample_shape == (4, 8, 8)


def test_prompts_of_stable_diffusion_1_are_those_of_its_text_model(first: State, words: int, tmp_path: Path) -> None:
    denoiser = load_checkpoint(save(tmp_path, first))
    clip = CLIPTextModel(text_config(words, 64, num_attention_heads=1, eos_token_id=2)).eval()
    prefix = "cond_stage_model.transformer.text_model."
    clip.load_state_dict({name.removeprefix(prefix): value for name, value in first.items() if name.startswith(prefix)})
    ids = torch.from_numpy(denoiser.text.tokens[0].ids(PROMPTS))
    assert ids[1, 2:].unique().tolist() == [words - 1]  # <|endoftext|> fills up
    with torch.no_grad():
        assert off(denoiser.text.encode(PROMPTS)["encoder_hidden_states"], clip(ids)[0]) < CLOSE


def test_average_and_betas_of_the_file_are_taken(first: State, tmp_path: Path) -> None:
    net = {name: value for name, value in first.items() if name.startswith("model.")}
    average = {f"model_ema.{name.removeprefix('model.').replace('.', '')}": 2 * value for name, value in net.items()}
    betas = {"betas": torch.linspace(0.001**0.5, 0.02**0.5, 500) ** 2}
    torch.save({"state_dict": {**first, **average, **betas}}, tmp_path / "model.ckpt")
    denoiser = load_checkpoint(str(tmp_path / "model.ckpt"))
    assert denoiser.source.ema is True
    assert torch.equal(denoiser.module.unet.conv_in.bias, 2 * first["model.diffusion_model.input_blocks.0.0.bias"])
    assert (denoiser.schedule.num_train_timesteps, denoiser.schedule.beta_schedule) == (500, "scaled_linear")


@pytest.fixture
def second(words: int) -> tuple[State, OpenClip]:
    """Stable Diffusion 2: linear projections, OpenCLIP."""
    torch.manual_seed(0)
    clip = OpenClip(words, 64, 3).eval()
    parts = {
        **under("model.diffusion_model.", golden(DATA, "linear")[0]),
        **under("cond_stage_model.model.", {**clip.state_dict(), "attn_mask": torch.zeros(LENGTH, LENGTH)}),
        **under("first_stage_model.", golden(DATA, "decoder")[0]),
    }
    return parts, clip


def test_stable_diffusion_2_answers_as_its_authors_code(second: tuple[State, OpenClip], tmp_path: Path) -> None:
    state, clip = second
    denoiser = load_checkpoint(save(tmp_path, state))
    _, told = golden(DATA, "linear")
    found = denoiser(told["sample"], told["timestep"], encoder_hidden_states=told["context"])
    assert off(found, told["output"]) < CLOSE
    ids = torch.from_numpy(denoiser.text.tokens[0].ids(PROMPTS))
    assert ids[1, 2:].unique().tolist() == [0]  # '!' fills up
    with torch.no_grad():
        wanted = clip.ln_final(clip.states(ids, left_out=1))
    assert off(denoiser.text.encode(PROMPTS)["encoder_hidden_states"], wanted) < CLOSE


@pytest.mark.parametrize(("share", "prediction", "size"), [(1.0, "epsilon", 64), (0.0, "v_prediction", 96)])
def test_what_stable_diffusion_2_predicts_is_told_by_its_answer_to_noise(
    share: float, prediction: str, size: int, second: tuple[State, OpenClip], tmp_path: Path
) -> None:
    state = dict(second[0])
    answer(state, share)
    denoiser = load_checkpoint(save(tmp_path, state))
    assert denoiser.schedule.prediction_type == prediction
    assert denoiser.sample_shape == (4, size, size)
    assert any(note.startswith("predict=") and "times the noise" in note for note in denoiser.source.notes)
    assert load_checkpoint(save(tmp_path, state), assume={"predict": "v"}).schedule.prediction_type == "v_prediction"


def answer(state: State, share: float) -> None:
    """Let the sample go by the outermost skip through the last block unchanged, and `share` of it, normed, come out:
    SiLU is linear far from zero."""
    last = max(int(name.split(".")[3]) for name in state if name.startswith(f"{NET}output_blocks."))
    for name in [name for name in state if name.startswith((f"{NET}input_blocks.0.", f"{NET}output_blocks.{last}."))]:
        state[name] = torch.zeros_like(state[name])
    channels, far = range(4), 10.0
    stem, skip = (f"{NET}{name}.weight" for name in ("input_blocks.0.0", f"output_blocks.{last}.0.skip_connection"))
    state[stem][channels, channels, 1, 1] = 1.0
    state[skip][channels, [channel - 64 for channel in channels]] = 1.0
    for name, value in {"0.weight": 1.0, "0.bias": far, "2.weight": 0.0, "2.bias": -far * share}.items():
        state[f"{NET}out.{name}"] = torch.full_like(state[f"{NET}out.{name}"], value)
    state[f"{NET}out.2.weight"][channels, channels, 1, 1] = share


def test_stable_diffusion_xl_answers_as_its_authors_code(words: int, tmp_path: Path) -> None:
    """Both encoders before their last layer, the second one's projection of the token that ends the prompt."""
    torch.manual_seed(0)
    clip = CLIPTextModel(text_config(words, 64, num_attention_heads=1, eos_token_id=2)).eval()
    other = OpenClip(words, 128, 3).eval()
    net, told = golden(DATA, "vector")
    parts = [
        under(NET, net),
        under("conditioner.embedders.0.transformer.text_model.", clip.state_dict()),
        under("conditioner.embedders.1.model.", other.state_dict()),
        under("first_stage_model.", golden(DATA, "decoder")[0]),
    ]
    denoiser = load_checkpoint(save(tmp_path, *parts), resolution=32)
    given = {name: told[name] for name in ("text_embeds", "time_ids")} | {"encoder_hidden_states": told["context"]}
    assert off(denoiser(told["sample"], told["timestep"], **given), told["output"]) < CLOSE
    prompts = [each for each in PROMPTS if each]
    ids = [torch.from_numpy(tokens.ids(prompts)) for tokens in denoiser.text.tokens]
    with torch.no_grad():
        states = [clip(ids[0], output_hidden_states=True).hidden_states[-2], other.states(ids[1], left_out=1)]
        last = other.ln_final(other.states(ids[1], left_out=0))
        whole = last[torch.arange(len(prompts)), ids[1].argmax(-1)] @ other.text_projection
    found = denoiser.text.encode(prompts)
    assert off(found["encoder_hidden_states"], torch.cat(states, -1)) < CLOSE
    assert off(found["text_embeds"], whole) < CLOSE
    assert denoiser.text.encode([""])["text_embeds"].abs().max() == 0
    assert (denoiser.schedule.prediction_type, denoiser.sample_shape) == ("epsilon", (4, 16, 16))


def test_net_that_sees_classes_answers_as_its_authors_code(tmp_path: Path) -> None:
    net, told = golden(DATA, "classes")
    table = torch.randn(7, 16)
    labels = torch.tensor([6, 2])
    table[labels] = told["context"][:, 0]
    path = save(tmp_path, under("model.diffusion_model.", net), {"cond_stage_model.embedding.weight": table})
    denoiser = load_checkpoint(path, resolution=8)
    assert off(denoiser(told["sample"], told["timestep"], label=labels), told["output"]) < CLOSE
    assert (denoiser.classes, denoiser.sample_shape, denoiser.text) == (7, (3, 8, 8), None)
    assert denoiser.schedule.beta_start == 0.0015
    assert load_checkpoint(path).sample_shape == (3, 64, 64)


def drop(prefix: str) -> Callable[[State], None]:
    def change(state: State) -> None:
        for name in [name for name in state if name.startswith(prefix)]:
            del state[name]

    return change


def put(name: str, value: Tensor) -> Callable[[State], None]:
    return lambda state: state.update({name: value})


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (drop("cond_stage_model."), "no text encoder of CLIP or OpenCLIP, or not in the file"),
        (drop("first_stage_model."), "lacks the tensors decoder.up.0"),
        (drop("first_stage_model.decoder.mid"), "lacks the tensors"),
        (drop(f"{NET}middle_block.1.transformer_blocks"), "cannot express"),
        (drop(f"{NET}output_blocks.3.1.norm"), "lacks the tensors|are not those"),
        (put(f"{NET}input_blocks.1.2.weight", torch.zeros(3)), "unexpected tensors input_blocks.1.2.weight"),
        (put(f"{NET}input_blocks.0.0.bias", torch.full([32], torch.nan)), "conv_in.bias holds NaN"),
        (
            put("cond_stage_model.transformer.text_model.final_layer_norm.weight", torch.full([64], torch.inf)),
            "final_layer_norm.weight holds NaN or infinite",
        ),
        (put("first_stage_model.quantize.embedding.weight", torch.zeros(9, 4)), "quantises its latents"),
        (put("first_stage_model.decoder.up.0.attn.0.q.weight", torch.zeros(3)), "has attention beside that"),
    ],
)
def test_checkpoint_with_a_part_missing_or_damaged_is_refused(
    change: Callable[[State], None], cause: str, first: State, tmp_path: Path
) -> None:
    change(first)
    with pytest.raises(InputError, match=cause) as caught:
        load_checkpoint(save(tmp_path, first))
    assert caught.value.remedy


def test_checkpoint_without_a_tokenizer_asks_for_one(
    first: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    path = save(tmp_path / "elsewhere", first)
    monkeypatch.setattr("ptq_export.checkpoints.clip_tokens._PACKAGES", ("no_such_package",))
    with pytest.raises(InputError, match="holds no tokenizer") as caught:
        load_checkpoint(path)
    assert "open_clip_torch" in caught.value.remedy


def test_vocabulary_of_the_package_open_clip_is_the_tokenizers(
    first: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its list of merges, from which OpenAI's code makes the vocabulary."""
    beside = load_checkpoint(save(tmp_path, first)).text.tokens[0].ids(PROMPTS)
    package = tmp_path / "packages" / "open_clip"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('nobody imports it')")
    with gzip.open(package / "bpe_simple_vocab_16e6.txt.gz", "wt") as file:
        file.write("\n".join(["#version", *MERGES, ""]))
    monkeypatch.syspath_prepend(package.parent)
    (tmp_path / "elsewhere").mkdir()
    found = load_checkpoint(save(tmp_path / "elsewhere", first)).text.tokens[0].ids(PROMPTS)
    assert found.tolist() == beside.tolist()


@pytest.mark.parametrize(
    ("assume", "cause"),
    [({"heads": "3"}, "cannot be split by heads=3"), ({"qkv": "new"}, "q, k and v apart"), ({"x": "1"}, "no 'x'")],
)
def test_what_cannot_be_assumed_is_refused(assume: dict[str, str], cause: str, first: State, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=cause):
        load_checkpoint(save(tmp_path, first), assume=assume)
