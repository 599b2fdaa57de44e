"""Options that are texts with a grammar of their own."""

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
