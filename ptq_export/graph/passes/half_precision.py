"""Everything that is not int8 in float16, written into the graph: strongly typed engines compute as they read.

`sample` and `eps` stay float32 at the graph's ends. The conversion is ONNX Runtime's own
(https://onnxruntime.ai/docs/performance/model-optimizations/float16.html).
"""

import onnx_ir as ir
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxscript.version_converter import convert_version

__all__ = ["OPSET", "HalfPrecision"]

OPSET = 20
"""QuantizeLinear takes float16 from 19 on; 21 would bring a GroupNormalization that few engines run well."""


class HalfPrecision(ir.passes.FunctionalPass):
    """A float16 copy of a float32 graph, of opset 20 or newer; scales become float16, codes stay as they are."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        copy = model.clone()
        if (copy.opset_imports[""] or 0) < OPSET:
            convert_version(copy, OPSET)
        proto = ir.to_proto(ir.external_data.load_to_model(copy))
        # The sizes of a Resize stay float32; with a value_info of their own they would be cast from float16 first.
        constants = {initializer.name for initializer in proto.graph.initializer}
        typed = [value for value in proto.graph.value_info if value.name not in constants]
        del proto.graph.value_info[:]
        proto.graph.value_info.extend(typed)
        half: ir.Model = ir.from_proto(convert_float_to_float16(proto, keep_io_types=True, disable_shape_infer=True))
        half.graph.sort()
        return ir.passes.PassResult(half, modified=True)
