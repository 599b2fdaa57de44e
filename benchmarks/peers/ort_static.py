"""`onnxruntime.quantization`: static QDQ as its documentation advises for x86, with each of its calibrators.

Asymmetric uint8 activations, layer outputs too, int8 weights with a step per channel. `reduce_range` gives weights 7
bits: without VNNI, x86 kernels add two uint8 x int8 products in 16 bits and saturate on full-range weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from ptq_export.benchmarks.peers.subject import Subject
from ptq_export.graph.model_file import read_proto

__all__ = ["CALIBRATORS", "OrtStatic"]

CALIBRATORS: Mapping[str, tuple[CalibrationMethod, Mapping[str, float]]] = {
    "minmax": (CalibrationMethod.MinMax, {}),
    "entropy": (CalibrationMethod.Entropy, {}),
    "distribution": (CalibrationMethod.Distribution, {}),
    **{f"percentile {p}": (CalibrationMethod.Percentile, {"CalibPercentile": p}) for p in (99.999, 99.99, 99.9)},
}


@dataclass(frozen=True)
class OrtStatic:
    """`quantize_static` with one of `CALIBRATORS`."""

    calibrator: str
    reduce_range: bool

    def __call__(self, subject: Subject, target: Path) -> None:
        """Write the FP32 graph to `target`, our int8 layers quantised, and no others."""
        method, options = CALIBRATORS[self.calibrator]
        model = read_proto(subject.graph)
        add_pre_process_metadata(model)  # The exporter has folded what the recommended pre-processing would fold.
        quantize_static(
            model,
            target,
            _PairReader(subject.pairs()),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            nodes_to_quantize=list(subject.layers),
            per_channel=True,
            reduce_range=self.reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=method,
            # Pair by pair: memory does not grow with their number, and the entropy calibrator's 128 bins, in which
            # it finds no threshold but min-max, become more as the range widens.
            extra_options={**options, "CalibStridedMinMax": 1},
        )


class _PairReader:
    """Calibration pairs one by one, as `quantize_static` asks for them."""

    def __init__(self, pairs: Mapping[str, NDArray[Any]]) -> None:
        self.pairs = pairs
        self.set_range(0, len(self))

    def __len__(self) -> int:
        return len(self.pairs["sample"])

    def set_range(self, start_index: int, end_index: int) -> None:
        self.rows = iter(range(start_index, end_index))

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        row = next(self.rows, None)
        return None if row is None else {name: values[row : row + 1] for name, values in self.pairs.items()}
