"""The picture holds every factor and is written whole or not at all."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from ptq_export.benchmarks.ablation.plot import COLUMNS, plot_ablation
from ptq_export.benchmarks.ablation.score import Score
from ptq_export.benchmarks.ablation.settings import FACTORS, every_setting
from ptq_export.benchmarks.ablation.summary import Outcome, summarise


def ablation(seeds: int) -> dict[str, Any]:
    outcomes = [
        Outcome(setting, seed, Score(40 + index + seed, 19, 50), None, 1, 1)
        for index, setting in enumerate(every_setting())
        for seed in range(seeds)
    ]
    return {"seeds": seeds, **summarise(outcomes)}


def test_every_factor_has_a_panel_with_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    real = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *args, **kw: (drawn.append(figure), real(figure, *args, **kw))
    )
    plot_ablation(ablation(2), tmp_path / "ablation.png")
    panels = {axis.get_title(loc="left"): axis for part in drawn[0].subfigs for axis in part.axes if axis.axison}
    assert sorted(panels) == sorted(FACTORS) == sorted(name for column in COLUMNS for name in column)
    for factor, entries in FACTORS.items():
        assert [label.get_text() for label in panels[factor].get_yticklabels()] == list(entries)
        assert len(panels[factor].containers) == len(entries)


@pytest.mark.parametrize("seeds", [1, 3])
def test_it_is_a_png_and_nothing_else_is_left(tmp_path: Path, seeds: int) -> None:
    plot_ablation(ablation(seeds), tmp_path / "ablation.png")
    assert (tmp_path / "ablation.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["ablation.png"]
