"""Export to ONNX, checked with onnxruntime; optional 8-bit weights. Needs extra `export`.

The batch size is dynamic; height and width are fixed, or dynamic from a smallest side.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from dat_train.errors import UserError
from dat_train.export.staging import staged_file
from dat_train.export.torch_export_file import Outputs, compare, compared_shapes, quiet, trace

INPUT, OUTPUT = "images", "logits"


def write_onnx(
    model: nn.Module,
    path: Path,
    input_size: tuple[int, int, int],
    notes: dict[str, str],
    *,
    smallest: int | None = None,
    outputs: Sequence[str] = (OUTPUT,),
) -> float:
    """Write `path` (.onnx), images (batch, C, H, W) float32 -> outputs, and compare it with `model`.

    Args:
        input_size, smallest: as in `trace`.
        notes: metadata of the file.
        outputs: names of the model's outputs.

    Returns:
        Largest absolute difference between an output of onnxruntime and of PyTorch.

    Raises:
        UserError: the difference exceeds TOLERANCE (`path` is not written), or the extra `export` is not installed.
    """
    require_onnx()
    import onnx

    graph = trace(model, input_size, smallest)
    with torch.no_grad(), quiet():
        names = {"input_names": [INPUT], "output_names": list(outputs)}
        program = torch.onnx.export(graph, (), dynamo=True, verbose=False, **names)
    proto = program.model_proto
    onnx.helper.set_model_props(proto, notes)
    with staged_file(path) as temporary:
        onnx.save(proto, temporary)
        onnx.checker.check_model(temporary)
        return compare(OnnxModel(temporary), model, compared_shapes(input_size, smallest), path)


def write_int8(source: Path, path: Path) -> None:
    """Write the ONNX file `source` to `path` with the weights of matrix products in 8 bits (dynamic quantization).

    Activations are quantized at inference. Convolutions, sampling, normalization and softmax stay float32.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(source).graph
    tables = {tensor.name for tensor in graph.initializer if len(tensor.dims) != 2}  # of position biases, not of layers
    kept = [node.name for node in graph.node if node.op_type == "MatMul" and tables.intersection(node.input)]
    with staged_file(path) as temporary, quiet():
        # one scale for each output channel; the few convolutions (stem, depthwise) would not gain
        quantize_dynamic(
            source,
            temporary,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["MatMul", "Gemm"],
            nodes_to_exclude=kept,
        )


class OnnxModel(nn.Module):
    """An ONNX file as a module, computed by onnxruntime on the CPU. (B, C, H, W) -> output or outputs."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def forward(self, images: Tensor) -> Outputs:
        outputs = tuple(map(torch.from_numpy, self.session.run(None, {INPUT: images.cpu().numpy()})))
        return outputs[0] if len(outputs) == 1 else outputs


def require_onnx() -> None:
    """Check that the extra `export` is installed.

    Raises:
        UserError: a package is missing.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"format=onnx needs {error.name}, which is not installed: pip install onnx onnxruntime onnxscript"
        ) from None
