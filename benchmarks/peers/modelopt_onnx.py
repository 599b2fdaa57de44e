"""NVIDIA ModelOpt's ONNX quantiser: int8 around zero with Q/DQ on inputs alone, as TensorRT wants it.

No kernel of ONNX Runtime's on x86 takes that graph; OpenVINO does.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from ptq_export.benchmarks.peers.subject import Subject

__all__ = ["ModelOpt"]


@dataclass(frozen=True)
class ModelOpt:
    """`modelopt.onnx.quantization.quantize` with the calibrator `method`: entropy (its default) or max."""

    method: str

    def __call__(self, subject: Subject, target: Path) -> None:
        """Write the quantised graph to `target` (ONNX), float32 elsewhere."""
        from modelopt.onnx.quantization import quantize

        source = target.with_name("source.onnx")  # ModelOpt rewrites the file that it is given.
        shutil.copyfile(subject.graph, source)
        quantize(
            str(source),
            quantize_mode="int8",
            calibration_data=subject.pairs(),
            calibration_method=self.method,
            calibration_eps=["cpu"],
            nodes_to_exclude=list(subject.float_layers),
            high_precision_dtype="fp32",
            output_path=str(target),
        )
        source.unlink()
