"""From what the user names (a file, a folder, `embedded:`, `random:`, `package.module:factory`) to a denoiser."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ptq_export.checkpoints.assume import NOTHING, check_assumptions
from ptq_export.checkpoints.diffusers_folder import read_folder, with_config
from ptq_export.checkpoints.embedded import load_embedded
from ptq_export.checkpoints.factory import load_factory
from ptq_export.checkpoints.hub import refuse_hub_id
from ptq_export.checkpoints.reading import read_weights
from ptq_export.checkpoints.registry import FORMATS, identify
from ptq_export.checkpoints.told import SCHEDULE_KEYS, require_one_source, retell
from ptq_export.checkpoints.untrained import load_untrained
from ptq_export.checkpoints.weights import Weights
from ptq_export.denoiser import Denoiser
from ptq_export.errors import InputError

__all__ = ["load_checkpoint", "runs_code"]

_CARRIED: dict[str, Callable[[str, int | None], Denoiser]] = {"embedded": load_embedded, "random": load_untrained}
_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def load_checkpoint(
    spec: str,
    resolution: int | None = None,
    assume: Mapping[str, str] = NOTHING,
    scheduler: Mapping[str, Any] = NOTHING,
    config: Path | str | None = None,
) -> Denoiser:
    """The denoiser that `spec` names: float32, on the CPU, in evaluation mode, without gradients.

    Args:
        spec: a checkpoint file, a diffusers folder, `embedded:NAME`, `random:NAME` or `package.module:factory`.
        resolution: height and width of the samples, of the images where latents are decoded; without it the
            checkpoint's own, or a default that `source.notes` states.
        assume: what the tensors of some formats do not tell (`Format.assumable`), in place of the defaults that
            `source.notes` states.
        scheduler: a diffusers scheduler's configuration, in place of the noise schedule that the file or its family
            has; empty for none.
        config: the config.json of a `UNet2DModel` whose state dict stands alone.

    Raises:
        InputError: the checkpoint is absent, damaged, unsafe, of an unknown net, or does not fit; or there is nothing
            such to assume.
    """
    if resolution is not None and resolution < 1:
        raise InputError(f"resolution {resolution} is not positive", "give --resolution as a number of pixels")
    require_one_source(assume, scheduler)
    kind, _, name = spec.partition(":")
    path = Path(spec)
    if config is not None and (kind in _CARRIED or _is_folder(path)):
        raise InputError(f"--config {config}: {spec} has a configuration of its own", "leave --config out")
    if kind in _CARRIED:
        check_assumptions(assume, SCHEDULE_KEYS if kind == "embedded" else {}, spec)
        return retell(_CARRIED[kind](name, resolution), assume, scheduler)
    if runs_code(spec):
        check_assumptions(assume, SCHEDULE_KEYS, spec)
        return retell(load_factory(spec, resolution), assume, scheduler)
    refuse_hub_id(spec)
    return _of_format(_read(path, spec, config), resolution, assume, scheduler)


def _of_format(
    weights: Weights, resolution: int | None, assume: Mapping[str, str], scheduler: Mapping[str, Any]
) -> Denoiser:
    """The denoiser in `weights`; a format that lists keys of the schedule sets them itself."""
    entry = identify(weights)
    own = {key: value for key, value in assume.items() if key in entry.assumable}
    shared = {} if entry.assumable.keys() & SCHEDULE_KEYS.keys() else SCHEDULE_KEYS
    check_assumptions(assume, {**entry.assumable, **shared}, entry.name)
    weights = replace(weights, scheduler=scheduler) if scheduler else weights
    rest = {key: value for key, value in assume.items() if key not in own}
    return retell(entry.load(weights, resolution, own), rest, scheduler)


def _read(path: Path, spec: str, config: Path | str | None) -> Weights:
    try:
        if spec and _is_folder(path):
            return read_folder(path, spec)
        return with_config(read_weights(path, spec, _is_known), config)
    except OSError as error:
        raise InputError(f"{spec} cannot be read: {error}", "check the path and its permissions") from error


def _is_known(weights: Weights) -> bool:
    return any(entry.matches(weights) for entry in FORMATS.values())


def runs_code(spec: str) -> bool:
    """Whether `load_checkpoint` would import what `spec` names."""
    return spec.partition(":")[0] not in _CARRIED and _FACTORY.fullmatch(spec) is not None and not Path(spec).exists()


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name too long, a folder that may not be entered: reading it says so
        return False
