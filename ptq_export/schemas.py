"""What the JSON files of a run folder hold, field by field, and the one reader that holds them to it.

A run folder may come from anyone: a field that is absent, of another type or out of range is refused by its name before
anything is done with it. Fields that are not named here are kept as they are, and nothing but a table prints them.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ptq_export.artifacts import inside, read_json
from ptq_export.errors import InputError
from ptq_export.options import Flag, Options
from ptq_export.validation import (
    LARGEST,
    Check,
    Refused,
    anything,
    flag,
    items,
    named,
    null_or,
    number,
    one_of,
    record,
    text,
    whole,
)

__all__ = ["MANIFEST", "SCHEMA", "check_value", "read_options", "read_part"]

SCHEMA = 2
MANIFEST = "manifest.json"
TEXT, FLAG, ANY = text(), flag(), anything()
NUMBER, DURATION, POSITIVE = number(), number(0), number(1e-12)
COUNT, ONE_OR_MORE, BATCH, TIMESTEP = whole(0), whole(1), whole(1, 10**6), number(0, 1e7)
SIZE, SIDE = whole(1, 1 << 50), whole(1, 1 << 14)
MOST_LAYERS, MOST_TIMESTEPS = 10**5, 10**4


def _file(parts: Mapping[str, Check]) -> Check:
    return record({"schema": one_of(SCHEMA)} | dict(parts))


VERDICT = {
    "ok": FLAG,
    "valid": null_or(FLAG),
    "speedup": null_or(POSITIVE),
    "baseline": null_or(TEXT),
    "psnr_db": null_or(NUMBER),
    "median_sqnr_db": null_or(NUMBER),
    "int8_layers": COUNT,
    "layers": COUNT,
    "failures": items(TEXT),
    "layers_read_from?": TEXT,
}
DENOISER = {
    "spec": TEXT,
    "format?": TEXT,
    "sha256": TEXT,
    "ema?": null_or(FLAG),
    "notes": items(TEXT),
    "parameters?": null_or(COUNT),
    "sample_shape": items(SIDE, 2, 4),
    "inputs": items(record({"name": TEXT, "dtype": TEXT, "shape": items(ANY, 0, 7), "limit": null_or(SIZE)}), 2, 50),
    "schedule?": named(ANY),
    "text?": null_or(
        record({"conditions": items(TEXT, 1, 50), "tokenizers": ONE_OR_MORE, "scale": NUMBER, "prompts": items(TEXT)})
    ),
}
MANIFEST_PARTS = _file(
    {
        "ptq_export": TEXT,
        "command": TEXT,
        "created": TEXT,
        "options": named(ANY),
        "denoiser": record(DENOISER),
        "target": TEXT,
        "scheme": named(ANY),
        "versions": named(TEXT),
        "environment": named(ANY),
        "artefacts": named(record({"sha256": TEXT, "size_bytes?": COUNT})),
        "timings_s": named(DURATION),
        "verdict": record(VERDICT),
        "package?": record(
            {
                **{"format": TEXT, "engine?": TEXT, "prompt?": ANY, "prompt_reads?": items(TEXT)},
                **{"examples?": named(ANY), "decodes?": FLAG},
            }
        ),
    }
)
REQUEST = _file({"options": named(ANY), "inputs?": named(ANY), "versions": named(TEXT), "machine?": named(ANY)})

TIMING = dict.fromkeys(("mean_ms", "median_ms", "p95_ms", "p99_ms", "min_ms"), DURATION)
STEP = {
    "batch": BATCH,
    "candidates": named(record({"n": COUNT, "p90_ms": POSITIVE, "raw_ms": items(DURATION)} | TIMING), 1),
    "speedup": named(POSITIVE),
    "speedup_spread?": named(record({"margin": null_or(NUMBER)})),
    "valid": FLAG,
    "reason?": TEXT,
    "rounds?": COUNT,
    "shortened?": FLAG,
    "prompt_ms?": named(DURATION),
}
LOOP = {
    "sampler": TEXT,
    "steps": ONE_OR_MORE,
    "batch": BATCH,
    "candidates": named(record({"total_s": DURATION, "per_step_ms": DURATION, "outside_share": null_or(NUMBER)})),
}
MEDIAN = record({"median_ms": DURATION})
GPU_CALLS = record({"compute": MEDIAN, "enqueue": MEDIAN, "warnings": items(TEXT)})
GPU_TIMING = {"graph": GPU_CALLS, "kernels": GPU_CALLS, "with_transfers": MEDIAN, "energy_mj": null_or(DURATION)}
GPU_STEP = {"batch": BATCH, "candidates": named(record(GPU_TIMING))}
LATENCY = _file(
    {
        "environment": named(ANY),
        "protocol": record({"warmup": COUNT, "min_rounds": COUNT, "min_seconds": DURATION, "max_seconds?": DURATION}),
        "steps": items(record(STEP), 1),
        "loops": items(record(LOOP)),
        "size_bytes": named(SIZE),
        "peak_memory_bytes": named(null_or(COUNT)),
        "gpu?": items(record(GPU_STEP)),
        "once?": record({"text_encoder_ms?": DURATION, "decoder_ms?": DURATION}),
    }
)
TIMED = _file(
    {
        "conditions": named(ANY),
        "step": record(STEP),
        "gpu": null_or(record(GPU_STEP)),
        "loops": items(record(LOOP)),
        "peak_memory_bytes": named(null_or(COUNT)),
    }
)

CURVE = {"sqnr_db": items(null_or(NUMBER)), "step_error": items(null_or(NUMBER))}
DECIBELS = named(record({"mean_db": null_or(NUMBER), "min_db": null_or(NUMBER)}))
PSNR = {"sampler": TEXT, "steps": ONE_OR_MORE, "samples": COUNT, "range?": items(NUMBER, 2, 2)}
FID = {"network": TEXT, "samples": COUNT, "fp32": NUMBER, "int8": NUMBER, "ratio": NUMBER}
FIDELITY = _file(
    {
        "pairs_per_timestep": COUNT,
        "timesteps": items(TIMESTEP, 1, MOST_TIMESTEPS),
        "curves": named(record(CURVE), 1),
        "psnr": record(PSNR | {"values": DECIBELS, "latents?": DECIBELS}),
        "guidance?": null_or(NUMBER),
        "prompts?": items(TEXT),
        "fid?": null_or(record(FID)),
    }
)
PRECISION = one_of("int8", "float")
LAYER = {"name": TEXT, "op": TEXT, "precision": PRECISION, "intended": PRECISION, "reason": TEXT}
LAYER |= {"executed?": TEXT, "ms?": null_or(DURATION), "float_ms?": null_or(DURATION)}
LAYERS = _file({"read_from?": TEXT, "layers": items(record(LAYER), 1, MOST_LAYERS)})
LOCAL = {"block": TEXT, "kind": TEXT, "sqnr_db": null_or(NUMBER), "bound_db": null_or(NUMBER), "max_steps": NUMBER}
GLOBAL = {"timestep": TIMESTEP, "simulation_db": NUMBER, "engine_db": NUMBER, "bound_db": NUMBER, "ok": FLAG}
PARITY = _file(
    {
        "local": items(record(LOCAL | {"share_off": NUMBER, "ok": FLAG}), 0, MOST_LAYERS),
        "global": items(record(GLOBAL), 0, MOST_TIMESTEPS),
    }
)
CALIBRATION = _file(
    {
        "policy": TEXT,
        "metric": TEXT,
        "rounding": TEXT,
        "pairs": COUNT,
        "timesteps": items(TIMESTEP),
        "sampler": TEXT,
        "steps": ANY,
        "seconds": DURATION,
    }
)
SENSITIVITY = _file(
    {
        "pairs_per_timestep": COUNT,
        "timesteps": items(TIMESTEP, 1, MOST_TIMESTEPS),
        "all_db": null_or(NUMBER),
        "layers": items(record({"name": TEXT, "sqnr_db": null_or(NUMBER), "share": null_or(NUMBER)}), 0, MOST_LAYERS),
    }
)
CHOICE = {"readers": items(TEXT, 1, MOST_LAYERS), "source": TEXT, "first": COUNT, "alpha": null_or(NUMBER)}
CHOICE |= {
    "by_token": FLAG,
    "sqnr_db": record({"tensor": NUMBER, "balanced": NUMBER, "token?": NUMBER}),
    "share?": null_or(NUMBER),
}
LINEARS = _file(
    {
        "rule": record(dict.fromkeys(("balanced_at_most", "token_at_most", "token_pays_from"), NUMBER)),
        "readings": items(record(CHOICE), 0, MOST_LAYERS),
    }
)
KEPT = _file({"wanted_db": NUMBER, "layers": items(TEXT, 0, MOST_LAYERS)})
WEIGHTS = {"count": COUNT, "as_int8": COUNT, "as_float16": COUNT, "bytes_per_weight": null_or(NUMBER)}
PLAN = {"version": TEXT, "size_bytes": COUNT, "warnings": items(TEXT), "weights?": record(WEIGHTS)}
FINDING = dict.fromkeys(("rule", "node", "seen", "reason", "severity"), TEXT)
TENSORRT = _file(
    {
        "rules": items(TEXT),
        "findings": items(record(FINDING)),
        "own": TEXT,
        "plans": named(record(PLAN)),
        "refusals": named(TEXT),
    }
)
RACE = {"before_ms": DURATION, "after_ms": DURATION, "speedup": POSITIVE, "low": NUMBER, "high": NUMBER}
TRIAL = {"what": TEXT, "layers": items(TEXT), "sqnr_db": null_or(NUMBER), "kept": FLAG, "why": TEXT} | RACE
TUNING_PARTS: dict[str, Check] = {
    "budget_s": DURATION,
    "seconds": DURATION,
    "batch": BATCH,
    "chosen": record({"split_shortcut": FLAG, "float_layers": named(TEXT)}),
    "total": null_or(record(RACE)),
    "sqnr_db": record({"untuned": NUMBER, "tuned": NUMBER, "loss_allowed": NUMBER}),
    "trials": items(record(TRIAL)),
    "not_reached": items(record({"what": TEXT, "layers": items(TEXT)})),
}
IDENTITY = record(
    {
        "engine": TEXT,
        "versions": named(TEXT),
        "onnx_sha256": TEXT,
        "options": named(ANY),
        "os": TEXT,
        "arch": TEXT,
        "isa": items(TEXT),
        "device?": TEXT,
        "file_sha256": TEXT,
    }
)
SCHEMAS: Mapping[str, Check] = {
    "calibration.json": CALIBRATION,
    "fidelity.json": FIDELITY,
    "identity.json": IDENTITY,
    "kept.json": KEPT,
    "latency.json": LATENCY,
    "layers.json": LAYERS,
    "ledger.json": named(TEXT),
    "linears.json": LINEARS,
    MANIFEST: MANIFEST_PARTS,
    "parity.json": PARITY,
    "request.json": REQUEST,
    "sensitivity.json": SENSITIVITY,
    "tensorrt.json": TENSORRT,
    "timed.json": TIMED,
    "timings.json": named(DURATION),
    "tuned.json": _file({"key": named(ANY), "digest": TEXT, "tuning": record(TUNING_PARTS)}),
    "tuning.json": _file(TUNING_PARTS | {"reused": FLAG}),
    "verdict.json": _file(VERDICT),
}


def read_part(run: Path, name: str, kind: str | None = None) -> dict[str, Any]:
    """The JSON file `name` of a run folder; `kind` is the file in `SCHEMAS` whose schema it has, itself by default.

    Raises:
        InputError: it is absent, damaged, outside the folder, or a field of it is not what it must be.
    """
    value = read_json(inside(run, name))
    found = value.get("schema", SCHEMA)
    if found != SCHEMA:
        older = isinstance(found, int) and found < SCHEMA
        remedy = "make the run again, in a new folder" if older else "update ptq-export"
        raise InputError(f"{run / name} has schema {found!r}, this version reads {SCHEMA}", remedy)
    check_value(value, kind or name, str(run / name))
    return value


def check_value(value: Mapping[str, Any], kind: str, shown: str) -> None:
    """Hold a value to the schema of the file `kind`; `shown` names it.

    Raises:
        InputError: a field is not what it must be; the message names it.
    """
    try:
        SCHEMAS[kind](value, "")
        if kind in CROSS_CHECKS:
            CROSS_CHECKS[kind](value)
    except Refused as error:
        raise InputError(f"{shown}: {error}", "copy the folder again, or make the run again in a new one") from error


def read_options(manifest: Mapping[str, Any], shown: Path) -> Options:
    """The options of a run, as its manifest holds them; `out` is left open, those of other versions are left out. A run
    from before `--linears` had one step for every input.

    Raises:
        InputError: one is of another type than it must be, or out of the range of its flag.
    """
    given = manifest["options"]
    found = {"linears": "tensor"} | {it.name: given[it.name] for it in fields(Options) if it.name in given}
    hints = get_type_hints(Options, include_extras=True)
    try:
        for name, value in found.items():
            _check_option(value, hints[name], f"options.{name}")
    except Refused as error:
        raise InputError(f"{shown}: {error}", "copy the folder again, or make the run again in a new one") from error
    paths = {name: Path(found[name]) for name in found if found[name] is not None and _kind(hints[name]) is Path}
    return Options(**found | paths | {"out": None})


def _check_option(value: Any, hint: Any, where: str) -> None:
    """`hint` is `Annotated[kind, Flag]`, the kind perhaps a union."""
    kind, flag = get_args(hint)[:2]
    if value is None and type(None) in get_args(kind):
        return
    _option_check(_kind(hint), flag)(value, where)


def _kind(hint: Any) -> Any:
    """The type of an option that is given."""
    kind = get_args(hint)[0]
    kinds = get_args(kind) if isinstance(kind, UnionType) or get_origin(kind) is Union else (kind,)
    return next(each for each in kinds if each is not type(None))


def _option_check(kind: Any, flag: Flag) -> Check:
    low, high = flag.details.get("min", -LARGEST), flag.details.get("max", LARGEST)
    if get_origin(kind) is Literal:
        return one_of(*get_args(kind))
    checks: dict[Any, Check] = {bool: FLAG, int: whole(low, high), float: number(low, high), str: _word, Path: TEXT}
    return checks.get(kind, ANY)


def _word(value: Any, where: str) -> None:
    """Text; from Python also a number, `batch=8`."""
    if type(value) is not int:
        TEXT(value, where)


def _manifest_fits(value: Mapping[str, Any]) -> None:
    verdict = value["verdict"]
    if verdict["speedup"] is not None and verdict["baseline"] is None:
        raise Refused("verdict.baseline is null, and there is a speedup")


def _fidelity_fits(value: Mapping[str, Any]) -> None:
    for name, curve in value["curves"].items():
        for key in ("sqnr_db", "step_error"):
            if len(curve[key]) != len(value["timesteps"]):
                told = f"curves.{name[:80]}.{key} has {len(curve[key])} items"
                raise Refused(f"{told} for {len(value['timesteps'])} timesteps")


CROSS_CHECKS: Mapping[str, Callable[[Mapping[str, Any]], None]] = {
    "fidelity.json": _fidelity_fits,
    MANIFEST: _manifest_fits,
}
