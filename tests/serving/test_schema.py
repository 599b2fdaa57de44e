"""The OpenAPI document is true: what it allows and what it does not is answered as it says (schemathesis)."""

from collections import Counter
from typing import Any

import pytest
import schemathesis
from caller import Caller, Start
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import positive_data_acceptance

from ptq_export.engines.base import Engine

SEMANTIC = [positive_data_acceptance]
"""A document cannot say which sampler takes how many steps: that is a 400, with the numbers that it takes."""


def answered(caller: Caller, operation: Any, mode: GenerationMode, examples: int) -> Counter[int]:
    """Calls by their status; each was answered as the document says, and never with a 500."""
    found: Counter[int] = Counter()

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def call(case: Case) -> None:
        base = f"http://127.0.0.1:{caller.port}"
        found[case.call_and_validate(base_url=base, excluded_checks=SEMANTIC, timeout=60).status_code] += 1

    call()
    return found


@pytest.mark.parametrize("examples", [25, pytest.param(2000, marks=pytest.mark.slow)])
def test_every_answer_is_one_that_the_document_names(engine: Engine, start: Start, examples: int) -> None:
    service, caller = start(engine)
    schema = schemathesis.openapi.from_dict(caller.get("/openapi.json").json)
    for operation in (result.ok() for result in schema.get_all_operations()):
        if operation.method == "get":
            answered(caller, operation, GenerationMode.POSITIVE, 1)
            continue
        allowed = answered(caller, operation, GenerationMode.POSITIVE, examples)
        assert allowed[200] and {*allowed} <= {200, 400, 422}
        refused = answered(caller, operation, GenerationMode.NEGATIVE, examples)
        assert refused[400] and {*refused} <= {400, 404, 405, 415}
    assert service.models["tiny"].batcher.accepted == 0
