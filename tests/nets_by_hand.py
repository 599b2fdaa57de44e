"""Denoisers written as ONNX text, for tests that need a graph whose every number is known."""

import json

import numpy as np
import onnx
import onnx_ir as ir
from exported_net import inputs_of

from ptq_export.interface import INPUTS, TRAIN_TIMESTEPS, Input, inputs_to_json

__all__ = ["PROMPTED", "PROMPT_CONDITIONS", "net_by_hand"]

PROMPTED = """
<ir_version: 10, opset_import: ["": 18]>
net (float[batch,2,4] sample, int64[batch] timestep, float[batch,tokens,3] text, float[batch,2,4] shift)
 => (float[batch,2,4] eps)
<float[3,4] w = {1,0,2,1, 0,1,-1,2, 3,1,0,-1}>
{
    k = MatMul(text, w)
    t = Transpose <perm = [0, 2, 1]> (k)
    scores = MatMul(sample, t)
    seen = MatMul(scores, k)
    eps = Add(seen, shift)
}
"""
"""Of the prompt and the step: k and t depend on the text alone."""
PROMPT_CONDITIONS = (Input("text", "float32", ("tokens", 3)), Input("shift", "float32", (2, 4)))


def net_by_hand(text: str, shape: tuple[int, ...], *conditions: Input) -> ir.Model:
    """The graph as this package exports one: nodes with names, and what it takes in the metadata. An initializer called
    `weight` is drawn."""
    proto = onnx.parser.parse_model(text)
    if "weight" in text:
        weight = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
        [slot] = [it for it in proto.graph.initializer if it.name == "weight"] or [proto.graph.initializer.add()]
        slot.CopyFrom(onnx.numpy_helper.from_array(weight, "weight"))
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    stated = inputs_to_json(inputs_of(shape, *conditions))
    model.metadata_props.update({INPUTS: json.dumps(stated), TRAIN_TIMESTEPS: "1000"})
    for node in model.graph:
        node.name = f"node_{node.outputs[0].name}"
    return model
