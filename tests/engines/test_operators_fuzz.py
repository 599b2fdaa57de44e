"""Hostile graphs do not reach past a buffer, nor into undefined behaviour; well-formed ones are computed right."""

import platform

import pytest
from fuzz_operators import compiler, fuzz

SECONDS = 60


@pytest.mark.slow
@pytest.mark.skipif(platform.system() != "Linux" or compiler() is None, reason="needs g++ and its sanitizers")
def test_hostile_graphs_under_the_sanitizers() -> None:
    outcomes = fuzz(SECONDS, seed=0, count=500)
    assert outcomes["right"] > 100 and outcomes["refused"] > 50
