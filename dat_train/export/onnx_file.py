"""The model as an ONNX file: any batch, checked by onnxruntime, in 8 bits if wanted. Needs the extra `export`."""

from pathlib import Path

import torch
from torch import Tensor, nn

from dat_train.errors import UserError
from dat_train.export.traced import compare, quiet, trace

INPUT, OUTPUT = "images", "logits"


def write_onnx(model: nn.Module, path: Path, image_size: tuple[int, int], notes: dict[str, str]) -> float:
    """Write `path` (.onnx): images (batch, 3, H, W) float32 -> logits (batch, classes), and compare it with `model`.

    Args:
        image_size: (H, W); fixed in the file.
        notes: metadata of the file.

    Returns:
        the largest difference of a logit in onnxruntime from PyTorch's.

    Raises:
        UserError: it is more than TOLERANCE, and nothing is written; or the extra `export` is not installed.
    """
    need_onnx()
    import onnx

    with torch.no_grad(), quiet():
        graph = trace(model, image_size).run_decompositions({_ATTENTION: _attention})
        program = torch.onnx.export(
            graph, (), dynamo=True, input_names=[INPUT], output_names=[OUTPUT], verbose=False, optimize=True
        )
    proto = program.model_proto
    onnx.helper.set_model_props(proto, notes)
    beside = path.with_name(f".{path.name}.new")
    try:
        onnx.save(proto, beside)
        onnx.checker.check_model(beside)
        difference = compare(OnnxModel(beside), model, image_size, path)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return difference


def write_int8(source: Path, path: Path) -> None:
    """Write the ONNX file `source` with the weights of matrix products in 8 bits (dynamic quantization) to `path`.

    Activations are quantized while the model runs; convolutions, sampling, norms and softmax stay float32.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    beside = path.with_name(f".{path.name}.new")
    try:
        with quiet():
            # one scale for each output channel; convolutions (the stem, depthwise ones) are few and do not gain
            quantize_dynamic(
                source, beside, weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=["MatMul", "Gemm"]
            )
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


class OnnxModel(nn.Module):
    """An ONNX file as a module, computed by onnxruntime on the CPU. (B, 3, H, W) -> (B, classes)."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def forward(self, images: Tensor) -> Tensor:
        (logits,) = self.session.run([OUTPUT], {INPUT: images.cpu().numpy()})
        return torch.from_numpy(logits)


def need_onnx() -> None:
    """
    Raises:
        UserError: the extra `export` is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"format=onnx needs {error.name}, which is not installed: pip install onnx onnxruntime onnxscript"
        ) from None


_ATTENTION = torch.ops.aten.scaled_dot_product_attention.default


def _attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, *, scale=None, enable_gqa=False) -> Tensor:
    """Attention in ONNX's own words; torch's translation knows four dimensions only, and neighborhoods have five."""
    scores = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(-2, -1)
    if attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1) @ v
