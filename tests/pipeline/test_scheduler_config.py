"""`--scheduler-config FILE`: the run keeps what the file held, resumes under it alone, and reopens without it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from watcher import Watcher

from ptq_export.errors import InputError
from ptq_export.options import Options
from ptq_export.pipeline.commands.reopened import reopen
from ptq_export.pipeline.run import prepare

CKPT = Path(__file__).parents[1] / "data" / "ddim_tiny.pt"
CONFIG = {"num_train_timesteps": 500, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}


@pytest.fixture
def options(tmp_path: Path) -> Options:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    plain = tiny.options(tmp_path / "run", str(CKPT))
    return replace(plain, resolution=16, scheduler_config=tmp_path / "config.json").resolved()


def test_run_resumes_under_the_same_content_only(options: Options, watcher: Watcher) -> None:
    schedule = prepare(options, watcher).denoiser.schedule
    assert (schedule.num_train_timesteps, schedule.prediction_type) == (500, "v_prediction")
    assert prepare(options, watcher).denoiser.schedule == schedule
    assert options.scheduler_config is not None
    options.scheduler_config.write_text(json.dumps({**CONFIG, "num_train_timesteps": 400}))
    with pytest.raises(InputError, match="inputs, scheduler_config"):
        prepare(options, watcher)


def test_run_reopens_without_the_file(options: Options, finished: Path, watcher: Watcher) -> None:
    job = prepare(replace(options, linears="tensor"), watcher)  # without what a whole run has chosen
    path, schedule, sha256 = job.folder.path, job.denoiser.schedule, job.denoiser.source.sha256
    del job
    manifest = json.loads((finished / "manifest.json").read_text())
    told = json.loads((path / "request.json").read_text())["options"]
    manifest["denoiser"]["sha256"] = sha256
    (path / "manifest.json").write_text(json.dumps({**manifest, "options": told}))
    assert options.scheduler_config is not None
    options.scheduler_config.unlink()
    assert reopen(path, watcher).denoiser.schedule == schedule


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_file_that_is_no_configuration_is_refused(content: str, options: Options, watcher: Watcher) -> None:
    assert options.scheduler_config is not None
    options.scheduler_config.write_text(content)
    with pytest.raises(InputError, match="--scheduler-config") as caught:
        prepare(options, watcher)
    assert caught.value.remedy == "give a scheduler_config.json as diffusers saves it"
