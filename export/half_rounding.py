"""What a GPU does to FP16 graphs, done on the CPU: every FP16 result really rounded.

ONNX Runtime's CPU provider computes FP16 nodes in float32 and drops the rounding between two of them, so that it hides
overflow. Here the graph becomes a float32 one that rounds after each node that makes FP16 values, through explicit
casts, which stay.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_MOVES = {"Transpose", "Reshape", "Resize", "Identity", "Gather", "Split", "Squeeze", "Unsqueeze"}


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a float32 model whose values are those of ``model`` with sums and statistics in float32.

    FP16 inputs and outputs become float32 ones; inputs must hold FP16 values.
    """
    graph = model.graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    kinds |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:], result.graph.initializer[:]
    for value in [*result.graph.input, *result.graph.output]:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        wide = array.astype(np.float32) if array.dtype == np.float16 else array
        result.graph.initializer.append(numpy_helper.from_array(wide, tensor.name))
    for node in graph.node:
        kinds[node.output[0]] = _kind(node, kinds)
        makes_half = kinds[node.output[0]] == TensorProto.FLOAT16
        copy = result.graph.node.add()
        copy.CopyFrom(node)
        if node.op_type == "Cast" and makes_half:
            del copy.attribute[:]
            copy.attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
        if makes_half and node.op_type not in _MOVES:
            (name,) = node.output
            copy.output[0] = f"{name}_before"
            result.graph.node.append(helper.make_node("Cast", [copy.output[0]], [f"{name}_half"], to=10))
            result.graph.node.append(helper.make_node("Cast", [f"{name}_half"], [name], to=1))
    return result


def _kind(node: onnx.NodeProto, kinds: dict[str, int]) -> int:
    """Return the dtype that a node makes: that of its first input, but for those that say otherwise."""
    if node.op_type == "Cast":
        return next(int(attribute.i) for attribute in node.attribute if attribute.name == "to")
    if node.op_type in ("Shape", "ArgMax"):
        return int(TensorProto.INT64)
    return kinds[node.input[0]]
