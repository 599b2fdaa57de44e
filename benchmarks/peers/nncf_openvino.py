"""NNCF's post-training quantisation of an OpenVINO model, its layers ignored that our engines keep float."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptq_export.benchmarks.peers.subject import Subject

__all__ = ["Nncf"]

UNSMOOTHED = {"convolution": -1, "matmul": -1}
PRODUCTS = ("Convolution", "MatMul")


@dataclass(frozen=True)
class Nncf:
    """`nncf.quantize` with all pairs as its subset.

    NNCF's defaults are activations that are symmetric, uint8 where none is negative, and fast bias correction.

    Attributes:
        mixed: Its preset with asymmetric activations, meant for nets without ReLU.
        transformer: Its model type for nets with attention: asymmetric activations, too, and SmoothQuant.
        hybrid: What Optimum Intel does with diffusers' nets: linears have int8 weights and float activations, what is
            left is quantised under the type for nets with attention, without SmoothQuant
            (https://huggingface.co/docs/optimum-intel/openvino/optimization#hybrid-quantization).
        overflow_fix: All weights have 7 bits, against 16-bit sums that saturate without VNNI; by default those of the
            first convolutions alone.
    """

    mixed: bool = False
    transformer: bool = False
    hybrid: bool = False
    fast_bias_correction: bool = True
    overflow_fix: bool = False

    def __call__(self, subject: Subject, target: Path) -> None:
        """Write OpenVINO's IR to `target` (.xml, the weights beside it in .bin), its batch open."""
        import nncf
        import openvino

        pairs = subject.pairs()
        model = openvino.Core().read_model(subject.graph)
        ignored = _nodes(model, subject.float_layers)
        if self.hybrid:
            linears = _linears(model)
            model = nncf.compress_weights(model, ignored_scope=nncf.IgnoredScope(types=["Convolution"], names=ignored))
            ignored += [name for name in linears if name not in ignored]
        quantised = nncf.quantize(
            model,
            nncf.Dataset(range(len(pairs["sample"])), lambda row: _feed(pairs, row)),
            preset=nncf.QuantizationPreset.MIXED if self.mixed else None,
            subset_size=len(pairs["sample"]),
            fast_bias_correction=self.fast_bias_correction,
            model_type=nncf.ModelType.TRANSFORMER if self.transformer or self.hybrid else None,
            ignored_scope=nncf.IgnoredScope(names=ignored, validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=nncf.OverflowFix.ENABLE if self.overflow_fix else None,
                smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(**UNSMOOTHED if self.hybrid else {}),
            ),
        )
        openvino.save_model(quantised, target, compress_to_fp16=False)


def _nodes(model: Any, layers: tuple[str, ...]) -> list[str]:
    """The nodes that OpenVINO makes of a layer: its product has a longer name where a bias is added to it."""
    names = [node.get_friendly_name() for node in model.get_ordered_ops() if node.get_type_name() in PRODUCTS]
    return [name for name in names if name.partition("/")[0] in layers]


def _linears(model: Any) -> list[str]:
    """Products with a constant."""
    products = [node for node in model.get_ordered_ops() if node.get_type_name() == "MatMul"]
    return [
        node.get_friendly_name()
        for node in products
        if any(value.get_node().get_type_name() == "Constant" for value in node.input_values())
    ]


def _feed(pairs: dict[str, Any], row: int) -> dict[str, Any]:
    return {name: values[row : row + 1] for name, values in pairs.items()}
