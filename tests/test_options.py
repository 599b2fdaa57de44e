"""Options that are texts with a grammar of their own."""

from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest

from ptq_export.errors import InputError
from ptq_export.options import Options


@pytest.mark.parametrize(
    ("text", "pairs"),
    [(None, {}), ("", {}), ("heads=4", {"heads": "4"}), (" heads = 4 , qkv=new", {"heads": "4", "qkv": "new"})],
)
def test_assumptions_are_keys_and_values(text: str | None, pairs: dict[str, str]) -> None:
    assert Options(assume=text).assumptions == pairs


@pytest.mark.parametrize("text", ["heads", "=4", "heads=", "heads=4,qkv"])
def test_an_assumption_without_key_or_value_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not KEY=VALUE"):
        _ = Options(assume=text).assumptions


@pytest.mark.parametrize(
    ("text", "db", "patterns"),
    [(None, None, ()), ("auto:42.5", 42.5, ()), ("*.to_q, mid.*", None, ("*.to_q", "mid.*"))],
)
def test_layers_to_keep_are_patterns_or_a_number_of_db(
    text: str | None, db: float | None, patterns: tuple[str, ...]
) -> None:
    options = Options(keep_float=text)
    assert (options.keep_float_db, options.keep_float_patterns) == (db, patterns)


@pytest.mark.parametrize(
    ("text", "fixed", "span"), [(None, None, None), ("8", 8, None), (8, 8, None), ("1:4:16", None, (1, 4, 16))]
)
def test_a_batch_is_one_or_a_range(text: str | None, fixed: int | None, span: tuple[int, int, int] | None) -> None:
    assert (Options(batch=text).fixed_batch, Options(batch=text).batch_range) == (fixed, span)


@pytest.mark.parametrize("text", ["0", "-1", "four", "1:4", "4:1:16", "0:1:2", "", "²", "9" * 5000, "1:2:9999999999"])
def test_what_is_no_batch_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is no batch"):
        _ = Options(batch=text).fixed_batch


@pytest.mark.parametrize(
    ("text", "names"), [(None, ()), ("7.5", ("7.5",)), ("12.0, 8.6", ("8.6", "12.0")), ("8.9,8.9", ("8.9",))]
)
def test_compute_capabilities_are_names_in_rising_order(text: str | None, names: tuple[str, ...]) -> None:
    assert Options(compute_capability=text).compute_capabilities == names


@pytest.mark.parametrize(("text", "unknown"), [("9.0", "9.0"), ("86", "86"), ("8.6,", "empty one"), ("", "empty one")])
def test_an_unknown_compute_capability_is_refused_with_the_known_ones(text: str, unknown: str) -> None:
    with pytest.raises(InputError, match=f"there is no {unknown}") as caught:
        _ = Options(compute_capability=text).compute_capabilities
    assert "7.5, 8.0, 8.6, 8.9, 12.0, 12.1" in caught.value.remedy


@pytest.mark.parametrize("name", ["seconds", "tune", "tune_loss"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_times_and_losses_are_finite(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')} {value} is no number"):
        Options(**{name: value})


@pytest.mark.parametrize("text", ["auto:nan", "auto:inf", "auto:", "auto:many"])
def test_layers_to_keep_for_no_number_of_db_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="is no number of dB"):
        _ = Options(keep_float=text).keep_float_db


def test_paths_may_be_strings() -> None:
    named = {it.name for it in fields(Options) if "Path" in str(get_type_hints(Options)[it.name])}
    given = Options("x", **dict.fromkeys(named, "a/b"))
    assert len(named) == 5 and all(getattr(given, name) == Path("a/b") for name in named)
