"""Each setting calibrates what its name promises; a study goes on where it stopped and refuses another's folder."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ablation_net import tiny

from ptq_export.benchmarks.ablation import command as ablation
from ptq_export.benchmarks.ablation import score as ablation_score
from ptq_export.benchmarks.ablation import study as ablation_study
from ptq_export.benchmarks.ablation import summary as ablation_summary
from ptq_export.benchmarks.ablation.command import calibrate, collect, main
from ptq_export.benchmarks.ablation.settings import Setting
from ptq_export.benchmarks.memoised import memoised
from ptq_export.calibrators.pairs import collect_pairs
from ptq_export.calibrators.quantise import quantised_modules
from ptq_export.calibrators.timesteps import POLICIES
from ptq_export.sampling import initial_noise, sample_loop
from ptq_export.schedulers import make_scheduler

FEW = Setting(pairs=4, metric="min-max")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> list[Setting]:
    """A study of three quick settings on the tiny net, with loops of three steps and two held-out samples."""
    settings = [FEW, dataclasses.replace(FEW, source="images"), dataclasses.replace(FEW, pairs=2)]
    for module in (ablation, ablation_score, ablation_study):
        monkeypatch.setattr(module, "STEPS", 3)
    monkeypatch.setattr(ablation_score, "HELD_OUT", 2)
    monkeypatch.setattr(ablation, "every_setting", lambda: settings)
    monkeypatch.setattr(ablation, "plot_ablation", lambda value, path: path.touch())
    monkeypatch.setattr(ablation, "load_checkpoint", lambda spec, *_: tiny(int(spec)))
    return settings


def outcomes(folder: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads((folder / "ablation.json").read_text())["outcomes"]
    return found


@pytest.mark.parametrize("policy", POLICIES)
def test_the_samplers_own_pairs_are_the_products(policy: str) -> None:
    pairs = collect(memoised(tiny()), Setting(policy=policy, pairs=6), seed=5)
    wanted = collect_pairs(tiny(), 6, ablation.STEPS, policy, 5, lambda _: None)
    assert torch.equal(pairs.timestep, wanted.timestep)
    torch.testing.assert_close(pairs.sample, wanted.sample)


def test_every_source_differs_from_the_sampler_in_the_samples_alone() -> None:
    denoiser, count = tiny(), 64
    pairs = {
        source: collect(denoiser, Setting(source=source, pairs=count), seed=1)
        for source in ("denoising", "noise", "images", "training-mimic")
    }
    noise, images = pairs["noise"].sample, pairs["images"].sample
    assert all(torch.equal(each.timestep, pairs["denoising"].timestep) for each in pairs.values())
    assert noise.std() == pytest.approx(1, abs=0.03)
    final = sample_loop(denoiser, make_scheduler(denoiser.schedule), noise, ablation.STEPS)
    torch.testing.assert_close(images, final.clamp(-1, 1))
    kept = make_scheduler(denoiser.schedule).alphas_cumprod[pairs["noise"].timestep].reshape(-1, 1, 1, 1)
    added = (pairs["training-mimic"].sample - kept.sqrt() * images) / (1 - kept).sqrt()
    assert added.mean() == pytest.approx(0, abs=0.05) and added.std() == pytest.approx(1, abs=0.05)
    assert abs((added * noise).mean()) < 0.05, "x_0 must not be diffused with the noise that it was made of"


def test_no_eps_is_computed_twice() -> None:
    denoiser, seen = tiny(), []
    denoiser.module.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    sampler = memoised(denoiser)
    collect(sampler, Setting(source="images", pairs=4), seed=1)
    assert sum(seen) == 4 * ablation.STEPS
    collect(sampler, Setting(source="training-mimic", policy="uniform", pairs=4), seed=1)
    assert sum(seen) == 4 * ablation.STEPS


def test_one_sample_has_another_eps_in_another_class() -> None:
    sampler, (sample, timestep) = memoised(tiny(classes=3)), (torch.ones(2, 1, 8, 8), torch.tensor([500, 500]))
    first, second = sampler(sample, timestep, label=torch.tensor([0, 2]))
    assert not torch.allclose(first, second)


def test_labels_stay_with_their_trajectories_whatever_the_source() -> None:
    denoiser = tiny(classes=3)
    pairs = [collect(denoiser, Setting(source=source, pairs=8), seed=1) for source in ("denoising", "images")]
    labels = denoiser.draw(8, 1)["label"]
    assert all(torch.equal(each.conditions["label"], labels) for each in pairs)
    scheduler, noise = make_scheduler(denoiser.schedule), initial_noise((8, 1, 8, 8), 1)
    final = sample_loop(denoiser, scheduler, noise, ablation.STEPS, {"label": labels})
    torch.testing.assert_close(pairs[1].sample, final.clamp(-1, 1))


def test_a_class_conditional_net_is_studied_like_any_other(
    short: list[Setting], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablation, "load_checkpoint", lambda *_: tiny(classes=3))
    monkeypatch.setattr(ablation, "every_setting", lambda: short[:1])
    assert main(["--seeds", "1", "--out", str(tmp_path)]) == 0
    score = outcomes(tmp_path)[0]["score"]
    assert isinstance(score, dict) and 10 < score["sqnr_median_db"] < 70


@pytest.mark.parametrize(
    ("change", "layers"),
    [({}, 16), ({"skip": "split"}, 18), ({"rounding": "learned"}, 16), ({"metric": "l1"}, 16)],
    ids=str,
)
def test_a_setting_calibrates_what_it_names(
    change: dict[str, str], layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablation, "ITERATIONS", 3)
    setting = dataclasses.replace(FEW, **change)
    pairs = collect(tiny(), setting, seed=0)
    found = quantised_modules(calibrate(tiny(), setting, pairs, seed=0))
    assert len(found) == layers
    plain = quantised_modules(calibrate(tiny(), FEW, pairs, seed=0))
    same = all(
        torch.allclose(found[name].input_scale, plain[name].input_scale, rtol=1e-5)
        for name in found.keys() & plain.keys()
    )
    assert same == (not change or "skip" in change)


def test_a_study_goes_on_with_what_is_left(
    short: list[Setting], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = calibrate

    def interrupted(*arguments: object) -> object:
        if len(outcomes(tmp_path)) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(ablation, "calibrate", interrupted)
    assert main(["--ckpt", "8", "--seeds", "1", "--out", str(tmp_path)]) == 130
    assert "the same command goes on" in capsys.readouterr().err
    before = outcomes(tmp_path)
    assert [entry["setting"] for entry in before] == [dataclasses.asdict(setting) for setting in short[:2]]
    assert [path.name for path in tmp_path.iterdir()] == ["ablation.json"]
    monkeypatch.setattr(ablation, "calibrate", real)
    assert main(["--ckpt", "8", "--seeds", "1", "--out", str(tmp_path)]) == 0
    assert outcomes(tmp_path)[:2] == before and len(outcomes(tmp_path)) == 3
    assert {path.name for path in tmp_path.iterdir()} == {"ablation.json", "ablation.png"}


def test_an_interruption_changes_no_figure(short: list[Setting], tmp_path: Path) -> None:
    assert main(["--ckpt", "8", "--seeds", "2", "--out", str(tmp_path / "whole")]) == 0
    assert main(["--ckpt", "8", "--seeds", "1", "--out", str(tmp_path / "parts")]) == 0
    file = tmp_path / "parts" / "ablation.json"
    value = json.loads(file.read_text())
    value["outcomes"] = value["outcomes"][1:2]
    file.write_text(json.dumps(value))
    assert main(["--ckpt", "8", "--seeds", "2", "--out", str(tmp_path / "parts")]) == 0
    whole, parts = (
        {(str(entry["setting"]), entry["seed"]): entry["score"] for entry in outcomes(tmp_path / name)}
        for name in ("whole", "parts")
    )
    assert whole == parts and len(whole) == 6


def _damage(value: dict[str, object]) -> None:
    value.clear()


def _raise_steps(value: dict[str, object]) -> None:
    request = value["request"]
    assert isinstance(request, dict)
    request["steps"] = 50


@pytest.mark.parametrize(
    ("spoil", "ckpt", "reason"),
    [
        (lambda _: None, "16", "checkpoint: tiny 8 there, tiny 16 now"),
        (_raise_steps, "8", "(steps: 50 there, 3 now)"),
        (_damage, "8", "steps: None there"),
    ],
    ids=["another model", "another protocol", "another file"],
)
def test_the_folder_of_another_study_is_refused_and_left_alone(
    short: list[Setting],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[dict[str, object]], None],
    ckpt: str,
    reason: str,
) -> None:
    assert main(["--ckpt", "8", "--seeds", "1", "--out", str(tmp_path)]) == 0
    file = tmp_path / "ablation.json"
    value = json.loads(file.read_text())
    spoil(value)
    file.write_text(json.dumps(value))
    before = file.read_bytes()
    assert main(["--ckpt", ckpt, "--seeds", "1", "--out", str(tmp_path)]) == 2
    assert reason in capsys.readouterr().err
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("spec", "measured"), [("embedded:digits", [True, False, False, False]), ("other", [False] * 4)]
)
def test_the_digits_alone_get_a_digit_fid_for_the_first_seed(
    short: list[Setting], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, measured: list[bool]
) -> None:
    digits = dataclasses.replace(tiny(), source=dataclasses.replace(tiny().source, spec=spec))
    monkeypatch.setattr(ablation, "load_checkpoint", lambda *_: digits)
    monkeypatch.setattr(ablation, "FID_SETTINGS", short[:1])
    monkeypatch.setattr(ablation, "every_setting", lambda: short[:2])
    monkeypatch.setattr(ablation, "fid_of_samples", lambda *_: 51.0)
    assert main(["--seeds", "2", "--out", str(tmp_path)]) == 0
    assert [entry["digit_fid"] is not None for entry in outcomes(tmp_path)] == measured


def test_an_unwritable_folder_is_refused_before_work(
    short: list[Setting], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ablation, "full_precision", lambda _: pytest.fail("work has begun"))
    (tmp_path / "file").touch()
    assert main(["--ckpt", "8", "--out", str(tmp_path / "file")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_the_result_goes_to_stdout_and_all_else_to_stderr(
    short: list[Setting], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ablation_summary, "MIDDLE", FEW)
    monkeypatch.setattr(ablation_summary, "FACTORS", {"source": {"sampler": short[0], "images": short[1]}})
    assert main(["--ckpt", "8", "--seeds", "1", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    score = outcomes(tmp_path)[0]["score"]
    assert isinstance(score, dict)
    row = next(line for line in printed.out.splitlines() if "sampler (middle)" in line)
    assert f"{score['sqnr_median_db']:.2f}" in row and f"{score['psnr_db']:.2f}" in row
    assert "ablation: " in printed.err and "ablation" not in printed.out
    assert str(tmp_path / "ablation.png") in printed.err
