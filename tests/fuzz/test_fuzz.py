"""Every reader of foreign files answers or refuses; `fuzz.py` does the same for as long as one likes."""

import pytest
from fuzz import READERS, run


@pytest.mark.parametrize("reader", READERS)
def test_damaged_files_are_read_or_refused(reader: str) -> None:
    counts = run(reader, 0, at_once=25)
    assert counts["total"] == counts["read"] + counts["refused"] > 20
