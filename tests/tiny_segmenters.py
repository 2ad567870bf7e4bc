"""A segmentation model of two nodes in U²-Net's form: what is darker than middle grey is the object."""

from __future__ import annotations

from pathlib import Path


def save_segmenter(path: Path, *, outputs: int = 1, steepness: float = 8.0) -> Path:
    """Writes the model as ONNX: float32 (1, 3, 320, 320), normalised as ImageNet's, to (1, `outputs`, 320, 320).

    A `steepness` of 0 gives a model that sees nothing anywhere.
    """
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.full((outputs, 3, 1, 1), -steepness / 3, np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "weights"], ["darkness"]),
        helper.make_node("Sigmoid", ["darkness"], ["mask"]),
    ]
    graph = helper.make_graph(
        nodes, "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 320, 320])],
        [helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, outputs, 320, 320])],
        [numpy_helper.from_array(weights, "weights")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path
