"""The releases of JetPack: which TensorRT each brings to a Jetson, and what that TensorRT parses.

TensorRT 8.5 parses operators up to opset 17, where QuantizeLinear takes float32 alone, and no int8 initialisers
(https://github.com/onnx/onnx-tensorrt/blob/8.5-GA/docs/operators.md). TensorRT 10 parses the float16 graph of opset 20.
JetPack 6.0 has TensorRT 8.6, which reads what 8.5 reads.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ptq_export.errors import InputError
from ptq_export.nn.scheme import FloatDtype

__all__ = ["DEFAULT_JETPACK", "JETPACKS", "JetPack", "find_jetpack"]

DEFAULT_JETPACK = 6


@dataclass(frozen=True)
class JetPack:
    """A release: its TensorRT, its Python, and the type that carries everything between the int8 layers."""

    release: int
    tensorrt: str
    python: str
    float_dtype: FloatDtype


JETPACKS: Mapping[int, JetPack] = {
    5: JetPack(5, "8.5", "3.8", "float32"),
    6: JetPack(6, "10.3", "3.10", "float16"),
    7: JetPack(7, "10.13 or newer", "3.12", "float16"),
}


def find_jetpack(release: int | None) -> JetPack:
    """The release with that number; None is the default one.

    Raises:
        InputError: it is not known here.
    """
    found = JETPACKS.get(DEFAULT_JETPACK if release is None else release)
    if found is None:
        raise InputError(f"--jetpack {release} is not known", f"one of {', '.join(map(str, JETPACKS))}")
    return found
