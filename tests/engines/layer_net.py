"""A net written node by node: layers around Q/DQ in every form that ONNX Runtime treats apart."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHANNELS = 16


class Net:
    """A chain of layers around Q/DQ, written node by node; every layer maps 16 channels to 16."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {"scale": np.float32(0.05), "zero": np.uint8(128)}
        self.head = "sample"
        self.rng = np.random.default_rng(0)

    def quantise(self) -> "Net":
        self._add("QuantizeLinear", [self.head, "scale", "zero"])
        return self._add("DequantizeLinear", [self.head, "scale", "zero"])

    def conv(self, path: str, int8: bool) -> "Net":
        weight = self._weight(path, (CHANNELS, CHANNELS, 3, 3), int8)
        return self._add("Conv", [self.head, weight, self._bias(path)], path, pads=[1, 1, 1, 1])

    def gemm(self, path: str, int8: bool, zero_point: bool = True, integer_bias: bool = False) -> "Net":
        weight = self._weight(path, (CHANNELS, CHANNELS), int8, zero_point)
        bias = self._integer_bias(path) if integer_bias else self._bias(path)
        return self._add("Gemm", [self.head, weight, bias], path, transB=1)

    def matmul(self, path: str) -> "Net":
        return self._add("MatMul", [self.head, self._weight(path, (CHANNELS, CHANNELS), True, axis=1)], path)

    def op(self, name: str) -> "Net":
        return self._add(name, [self.head])

    def rows(self) -> "Net":
        self._add("Transpose", [self.head], perm=[0, 2, 3, 1])
        self.constants["rows"] = np.array([-1, CHANNELS])
        return self._add("Reshape", [self.head, "rows"])

    def save(self, path: Path) -> Path:
        self._add("ReduceMean", [self.head], keepdims=0)
        self.constants["keep"] = np.float32(0)
        self._add("Mul", [self.head, "keep"])
        nodes = [*self.nodes, helper.make_node("Add", ["sample", self.head], ["eps"])]
        values = [numpy_helper.from_array(np.asarray(value), name) for name, value in self.constants.items()]
        sample = helper.make_tensor_value_info("sample", TensorProto.FLOAT, [2, CHANNELS, 4, 4])
        timestep = helper.make_tensor_value_info("timestep", TensorProto.INT64, [2])
        eps = helper.make_tensor_value_info("eps", TensorProto.FLOAT, [2, CHANNELS, 4, 4])
        graph = helper.make_graph(nodes, "net", [sample, timestep], [eps], values)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
        return path

    def _add(self, op: str, inputs: list[str], name: str = "", **attributes: object) -> "Net":
        self.head = f"value_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [self.head], name=name, **attributes))
        return self

    def _weight(self, path: str, shape: tuple[int, ...], int8: bool, zero_point: bool = True, axis: int = 0) -> str:
        if not int8:
            self.constants[f"{path}.weight"] = self.rng.standard_normal(shape).astype(np.float32)
            return f"{path}.weight"
        self.constants[f"{path}.weight_codes"] = self.rng.integers(-60, 60, shape).astype(np.int8)
        self.constants[f"{path}.weight_scale"] = np.full(CHANNELS, 0.01, np.float32)
        inputs = [f"{path}.weight_codes", f"{path}.weight_scale"]
        if zero_point:
            self.constants[f"{path}.weight_zero"] = np.zeros(CHANNELS, np.int8)
            inputs.append(f"{path}.weight_zero")
        self.nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{path}.w"], axis=axis))
        return f"{path}.w"

    def _bias(self, path: str) -> str:
        self.constants[f"{path}.bias"] = self.rng.standard_normal(CHANNELS).astype(np.float32)
        return f"{path}.bias"

    def _integer_bias(self, path: str) -> str:
        self.constants[f"{path}.bias_codes"] = np.arange(CHANNELS, dtype=np.int32)
        self.constants[f"{path}.bias_scale"] = np.full(CHANNELS, 0.0005, np.float32)
        inputs = [f"{path}.bias_codes", f"{path}.bias_scale"]
        self.nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{path}.b"], axis=0))
        return f"{path}.b"
