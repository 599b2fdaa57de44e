"""`--jetpack`: which releases are known, and for which targets it means something."""

import pytest

from ptq_export.engines.registry import check_target
from ptq_export.errors import InputError
from ptq_export.jetpack import JETPACKS, find_jetpack
from ptq_export.options import Options
from ptq_export.targets import TARGETS, find_target


@pytest.mark.parametrize(
    ("release", "tensorrt", "float_dtype"),
    [(5, "8.5", "float32"), (6, "10.3", "float16"), (7, "10.13 or newer", "float16")],
)
def test_each_release_has_its_tensorrt_and_what_that_parses(release: int, tensorrt: str, float_dtype: str) -> None:
    found = find_jetpack(release)
    assert (found.release, found.tensorrt, found.float_dtype) == (release, tensorrt, float_dtype)


def test_the_default_is_known_and_another_release_is_refused() -> None:
    assert find_jetpack(None) is JETPACKS[6]
    with pytest.raises(InputError, match="--jetpack 4 is not known\none of 5, 6, 7"):
        find_jetpack(4)


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "jetson-int8"])
def test_other_targets_refuse_it(name: str) -> None:
    with pytest.raises(InputError, match=f"--jetpack means nothing for {name}\nleave it out, or .*: jetson-int8"):
        check_target(find_target(name), Options(jetpack=6))
