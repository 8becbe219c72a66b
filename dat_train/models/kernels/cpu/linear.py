"""Matrix products of linear layers by oneDNN, which are faster in float32 than those of F.linear."""

import torch
import torch.nn.functional as F
from torch import Tensor


def has_onednn_linear(dtype: torch.dtype) -> bool:
    """Return True if oneDNN has a product for this dtype in this build of PyTorch and on this processor."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def linear(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """x w^T + b without autograd, by the operator that compiled models call. Shape: (n, C), (C', C) -> (n, C')."""
    if has_onednn_linear(x.dtype):
        return torch.ops.mkldnn._linear_pointwise(x, w, b, "none", [], "")
    return F.linear(x, w, b)
