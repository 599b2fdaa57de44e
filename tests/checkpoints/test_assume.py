"""`--assume KEY=VALUE`: only a format's own keys and their values pass, and every refusal lists them."""

import pytest

from ptq_export.checkpoints import load_checkpoint
from ptq_export.checkpoints.assume import NOTHING, NUMBER, check_assumptions
from ptq_export.errors import InputError

KEYS = {"heads": NUMBER, "qkv": ("legacy", "new")}


@pytest.mark.parametrize("assume", [{}, {"heads": "4"}, {"heads": "99999", "qkv": "new"}])
def test_known_keys_with_their_values_pass(assume: dict[str, str]) -> None:
    check_assumptions(assume, KEYS, "a net")


@pytest.mark.parametrize(
    ("assume", "cause"),
    [
        ({"head": "4"}, "a net has no 'head'"),
        ({"": "4"}, "a net has no ''"),
        ({"qkv": "old"}, "'old' is no value of 'qkv'"),
        ({"qkv": ""}, "'' is no value of 'qkv'"),
        *(
            ({"heads": value}, f"{value!r} is no value of 'heads'")
            for value in ("N", "0", "-1", "4.0", "100000", "٣", "4 ")
        ),
    ],
)
def test_anything_else_is_refused_with_all_keys_and_values(assume: dict[str, str], cause: str) -> None:
    with pytest.raises(InputError) as caught:
        check_assumptions(assume, KEYS, "a net")
    assert cause in caught.value.cause
    assert caught.value.remedy == "known: heads=N, qkv=legacy|new"
    assert caught.value.exit_code == 2


def test_random_nets_leave_nothing_to_assume() -> None:
    with pytest.raises(InputError, match="--assume qkv=new: random:iddpm-cifar10 leaves nothing to assume"):
        load_checkpoint("random:iddpm-cifar10", assume={"qkv": "new"})


def test_nothing_is_assumed_by_default() -> None:
    assert dict(NOTHING) == {}
