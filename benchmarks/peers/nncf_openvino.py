"""NNCF's post-training quantisation of an OpenVINO model, its layers ignored that our engines keep float."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptq_export.benchmarks.peers.subject import Subject

__all__ = ["Nncf"]


@dataclass(frozen=True)
class Nncf:
    """`nncf.quantize` with all pairs as its subset.

    NNCF's defaults are `mixed=False` (activations symmetric, uint8 where none is negative) and fast bias correction;
    `mixed` is its preset with asymmetric activations, meant for nets without ReLU.
    """

    mixed: bool = False
    fast_bias_correction: bool = True

    def __call__(self, subject: Subject, target: Path) -> None:
        """Write OpenVINO's IR to `target` (.xml, the weights beside it in .bin), its batch open."""
        import nncf
        import openvino

        pairs = subject.pairs()
        model = openvino.Core().read_model(subject.graph)
        preset = nncf.QuantizationPreset.MIXED if self.mixed else nncf.QuantizationPreset.PERFORMANCE
        quantised = nncf.quantize(
            model,
            nncf.Dataset(range(len(pairs["sample"])), lambda row: _feed(pairs, row)),
            preset=preset,
            subset_size=len(pairs["sample"]),
            fast_bias_correction=self.fast_bias_correction,
            ignored_scope=nncf.IgnoredScope(names=list(subject.float_layers), validate=False),
        )
        openvino.save_model(quantised, target, compress_to_fp16=False)


def _feed(pairs: dict[str, Any], row: int) -> dict[str, Any]:
    return {name: values[row : row + 1] for name, values in pairs.items()}
