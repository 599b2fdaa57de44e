"""The prompts that a denoiser is calibrated with: read from a file, or ours; and what they make of it."""

import sys
from pathlib import Path

import pytest
import torch

from ptq_export.errors import InputError
from ptq_export.prompts import prompted, read_prompts

sys.path.insert(0, str(Path(__file__).parent / "pipeline"))
import prompted_net
import tiny


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"\n  \n", "has no prompts"),
        (b"a" * (2 << 20), "more than"),
    ],
)
def test_a_file_that_has_no_prompts_is_refused_by_name(tmp_path: Path, content: bytes | None, told: str) -> None:
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f"prompts.txt.*{told}"):
        read_prompts(path)


def test_one_prompt_per_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a red dog\n\n  ein grünes Haus  \n", encoding="utf-8")
    assert read_prompts(path) == ("a red dog", "ein grünes Haus")
    assert read_prompts(None) == ()


def test_prompts_become_examples_and_the_empty_one_is_what_guidance_takes_away() -> None:
    net = prompted_net.factory()
    assert net.text is not None
    found = prompted(net, ["a dog", "a red house"], 4.0)
    assert found.guidance is not None and found.guidance.scale == 4.0
    torch.testing.assert_close(found.examples, net.text.encode(["a dog", "a red house"]))
    torch.testing.assert_close(found.guidance.unconditional, net.text.encode([""]))
    assert not found.source.notes, "nothing was assumed"


def test_what_is_assumed_is_said() -> None:
    notes = prompted(prompted_net.factory(), (), None).source.notes
    assert "4 prompts of the model's own" in notes[0] and "guidance 3 is the model's own" in notes[1]


def test_a_prompt_that_is_cut_is_said() -> None:
    assert "were cut, e.g. 'a a a" in prompted(prompted_net.factory(), ["a " * 40], 1.0).source.notes[0]


def test_guidance_of_one_is_none() -> None:
    assert prompted(prompted_net.factory(), ["a dog"], 1.0).guidance is None


@pytest.mark.parametrize(("prompts", "scale", "told"), [(["a"], None, "--prompts"), ([], 2.0, "--guidance")])
def test_a_net_without_prompts_takes_none(prompts: list[str], scale: float | None, told: str) -> None:
    with pytest.raises(InputError, match=told):
        prompted(tiny.denoiser(), prompts, scale)
