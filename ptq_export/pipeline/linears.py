"""`--linears auto`: the gains of channels and the steps per token that were chosen, kept in the run folder.

`linears.json` holds each choice with the noise that it was made by, `gains.safetensors` the gains. What comes behind is
made of the denoiser with its channels balanced, which is the same function: proved whenever it is made.

A step per token is kept where it is proposed and the readers, alone, make at least `PAYS` of the noise of the network
with all int8 layers: what costs time in every step must be seen in the result.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log10
from typing import Any

import torch
from torch import Tensor

from ptq_export.benchmarks.fidelity import finite_db
from ptq_export.benchmarks.sensitivity import noise_shares
from ptq_export.calibrators.linears import ALPHAS, BALANCED, TOKEN, LinearChoice, choose_linears
from ptq_export.calibrators.quantise import Method, UnitStore, integer_parts, quantise
from ptq_export.calibrators.sites import Site, with_tokens
from ptq_export.denoiser import Denoiser
from ptq_export.device import find_device
from ptq_export.errors import InputError
from ptq_export.nn.balance import Reading, balance
from ptq_export.nn.probe import probe
from ptq_export.nn.scheme import Scheme
from ptq_export.options import Options
from ptq_export.pairs import Pairs
from ptq_export.pipeline.float_layers import few_held_out
from ptq_export.pipeline.job import Job, Plan
from ptq_export.pipeline.stages import PAIRS, open_subject
from ptq_export.pipeline.start import require_equal
from ptq_export.targets import FP16, FP32, FP32_UNFOLDED
from ptq_export.text_to_image import PARTS

__all__ = ["GAINS", "LINEARS", "InputChoices", "choose_inputs", "measure_inputs", "with_inputs"]

LINEARS = "linears.json"
GAINS = "gains.safetensors"
PAYS = 0.02
FEW_PAIRS, SEED = 16, 6
RULE = {"alphas": list(ALPHAS), "balanced_at_most": BALANCED, "token_at_most": TOKEN, "token_pays_from": PAYS}
UNFIT = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class InputChoices:
    """The choices for a network, and of those with a step per token the share that their readers have, with one step,
    in the noise of the network."""

    choices: Sequence[LinearChoice]
    shares: Mapping[Reading, float]

    @property
    def gains(self) -> dict[Reading, Tensor]:
        """Those that are moved."""
        return {it.reading: it.gains.cpu() for it in self.choices if it.gains is not None}

    def is_by_token(self, choice: LinearChoice) -> bool:
        """Whether a step per token is kept."""
        return choice.by_token and self.shares[choice.reading] >= PAYS

    @property
    def tokens(self) -> set[str]:
        """The linears with a step per token."""
        return {name for it in self.choices if self.is_by_token(it) for name in it.reading.readers}


def measure_inputs(
    denoiser: Denoiser, sites: tuple[Site, ...], pairs: Pairs, scheme: Scheme, options: Options
) -> InputChoices:
    """The choices for the int8 layers `sites` of a denoiser, on `options.device`.

    Raises:
        GateFailed: with its channels balanced the network is another function.
    """
    there = denoiser.on(find_device(options.device))
    choices = choose_linears(there, sites, pairs, scheme, options.metric, options.seed)
    found = InputChoices(choices, {})
    if not any(choice.by_token for choice in choices):
        return found
    subject = _balanced(denoiser, found.gains)
    few = pairs.rows(torch.linspace(0, len(pairs) - 1, min(FEW_PAIRS, len(pairs))).long())
    store = UnitStore(load=lambda _: None, save=lambda _, __: None)
    method = Method(scheme, options.metric, None, options.seed)
    model = quantise(subject.on(there.device), sites, few, method, store, lambda _: None).cpu()
    proposed = {it.reading.name: it.reading for it in choices if it.by_token}
    parts = {path: part for each in integer_parts(model).values() for path, part in each.items()}
    readers = {key: {it: parts[it] for it in reading.readers if it in parts} for key, reading in proposed.items()}
    shares = noise_shares(subject.module, parts, readers, few_held_out(subject, SEED))
    return replace(found, shares={proposed[name]: share for name, share in shares.items()})


def choose_inputs(job: Job, pairs: Pairs) -> Plan:
    """The plan of the job with the inputs of its linears as measured error has them, if `--linears auto` asks so.

    What the run folder holds of another choice is made again.

    Raises:
        GateFailed: with its channels balanced the network is another function.
    """
    folder = job.folder
    if job.options.linears == "auto" and not (folder.has(LINEARS) and folder.has(GAINS)):
        with job.stage("calibration, inputs of linears"):
            found = measure_inputs(job.subject, job.sites, pairs, job.scheme, job.options)
        folder.forget_all_but([PAIRS, FP32, FP32_UNFOLDED, FP16, *PARTS])
        folder.save_tensors(GAINS, {reading.name: gains for reading, gains in found.gains.items()})
        folder.save_json(LINEARS, {"rule": RULE, "readings": [_to_json(found, it) for it in found.choices]})
    return with_inputs(job)


def with_inputs(job: Job) -> Plan:
    """The plan of the job with the choices in its run folder, if it was asked for some.

    Raises:
        InputError: a file with them is damaged, or is not of this network.
        GateFailed: with its channels balanced the network is another function.
    """
    if job.options.linears != "auto":
        return job.plan
    value, gains = job.folder.load_json(LINEARS), job.folder.load_tensors(GAINS)
    if value is None or gains is None:
        raise InputError(f"{job.folder.path / LINEARS} is damaged or gone", "the same command makes the run again")
    rows = value["readings"]
    moved = [Reading(tuple(row["readers"]), row["source"], row["first"]) for row in rows if row["alpha"] is not None]
    try:
        denoiser = _balanced(job.denoiser, {reading: gains[reading.name] for reading in moved})
    except UNFIT as error:
        raise InputError(f"{job.folder.path / GAINS} does not fit the network: {error}", "copy it again") from error
    sites = with_tokens(job.sites, {name for row in rows if row["by_token"] for name in row["readers"]})
    subject = open_subject(denoiser, job.options.split_shortcut, job.scheme) if moved else job.subject
    return replace(job.plan, denoiser=denoiser, subject=subject, sites=sites)


def _balanced(denoiser: Denoiser, gains: Mapping[Reading, Tensor]) -> Denoiser:
    """The denoiser with these gains moved, proved to be the same function.

    Raises:
        GateFailed: it is not.
    """
    after = balance(denoiser, gains)
    if after is not denoiser:
        pairs = probe(denoiser)
        require_equal(pairs.through(denoiser), pairs.through(after), "balancing channels")
    return after


def _to_json(found: InputChoices, choice: LinearChoice) -> dict[str, Any]:
    reading, share = choice.reading, found.shares.get(choice.reading)
    return {
        "readers": list(reading.readers),
        "source": reading.source,
        "first": reading.first,
        "alpha": choice.alpha,
        "by_token": found.is_by_token(choice),
        "sqnr_db": {name: finite_db(-10 * log10(max(noise, 1e-15))) for name, noise in choice.noise.items()},
        "share": None if share is None else round(share, 5),
    }
