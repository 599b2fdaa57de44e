"""The settings are one factor away from a middle, which is what the product ships but for its rounding."""

import re
from dataclasses import asdict, replace
from typing import get_type_hints

import pytest

from ptq_export.benchmarks.ablation.settings import FACTORS, FID_SETTINGS, MIDDLE, every_setting
from ptq_export.calibrators.ranges import METRICS
from ptq_export.calibrators.timesteps import NDTC_MEAN, NDTC_STD, POLICIES, find_policy
from ptq_export.options import Options


@pytest.mark.parametrize("factor", FACTORS)
def test_a_factor_holds_the_middle_and_varies_one_field_alone(factor: str) -> None:
    settings = list(FACTORS[factor].values())
    assert settings.count(MIDDLE) == 1 and len(set(settings)) == len(settings)
    changed = {name for each in settings for name in asdict(each) if getattr(each, name) != getattr(MIDDLE, name)}
    assert len(changed) == 1


def test_what_the_product_ships_is_compared() -> None:
    shipped = Options().resolved()
    assert (shipped.policy, shipped.rounding) == ("ndtc", "learned")
    assert MIDDLE.policy == f"ndtc:{NDTC_MEAN}:{NDTC_STD}"
    assert replace(MIDDLE, rounding="learned") in FACTORS["rounding"].values()
    assert (MIDDLE.metric, MIDDLE.pairs) == (shipped.metric, shipped.samples)
    assert (MIDDLE.skip, shipped.split_shortcut) == ("joint", False)


def test_every_policy_and_metric_of_the_product_is_compared() -> None:
    settings = every_setting()
    assert {setting.metric for setting in settings} == set(METRICS)
    assert {setting.policy.partition(":")[0] for setting in settings} == set(POLICIES)
    assert all(callable(find_policy(setting.policy)) for setting in settings)


@pytest.mark.parametrize(("option", "registry"), [("metric", METRICS), ("policy", POLICIES)])
def test_every_policy_and_metric_of_the_product_is_named_in_its_help(option: str, registry: dict[str, object]) -> None:
    hint = get_type_hints(Options, include_extras=True)[option]
    named = set(re.findall(r"[\w.-]*\w", hint.__metadata__[0].help))
    assert set(registry) <= named


def test_each_setting_is_there_once_the_middle_first() -> None:
    settings = every_setting()
    assert settings[0] == MIDDLE and len(set(settings)) == len(settings)
    assert set(settings) == {setting for entries in FACTORS.values() for setting in entries.values()}
    assert len(FID_SETTINGS) == 5 and set(FID_SETTINGS) <= set(settings)
