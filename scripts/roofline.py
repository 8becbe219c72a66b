"""Kernels, bytes and a roofline of a training step and of inference on a GPU, by arithmetic; needs no GPU.

python scripts/roofline.py [MODEL ...]

Every operator of the plain eager model in bfloat16 autocast is recorded on tensors without content. An operator moves
the bytes of its inputs and outputs; its time is that of its arithmetic at the peak rate or that of its bytes at the
bandwidth of memory, the longer one. Views are free. torch.compile merges elementwise operators and copies into others.
The second rate counts matrix products, convolutions, attention, sampling and layer norm alone: a bound on that gain.
"""

import sys
from collections import Counter
from dataclasses import dataclass, field
from unittest.mock import patch

import timm
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

import dat_train.models  # noqa: F401  registers the models

BATCH, SIZE = 128, 224
CARDS = {  # dense bfloat16 FLOP/s with float32 sums, bytes/s: the vendor's data sheets
    "H100 SXM, 80 GB": (989e12, 3.35e12),
    "RTX 4090, 24 GB": (165e12, 1.01e12),
}
NOT_MERGED = ("mm", "bmm", "addmm", "convolution", "attention", "grid_sampler", "index", "embedding", "layer_norm")


@dataclass
class Cost:
    """Operators of a step: name, floating-point operations, bytes."""

    operators: list[tuple[str, float, float]] = field(default_factory=list)

    def seconds(self, peak: float, bandwidth: float, all_operators: bool) -> float:
        """Roofline time of all operators, or of those that a compiler cannot merge."""
        return sum(
            max(flops / peak, size / bandwidth)
            for name, flops, size in self.operators
            if all_operators or any(part in name for part in NOT_MERGED)
        )


class Recorder(TorchDispatchMode):
    """Record the operators that move data."""

    def __init__(self, cost: Cost) -> None:
        super().__init__()
        self.cost = cost

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        inputs = [t for t in tree_leaves((args, kwargs or {})) if isinstance(t, torch.Tensor)]
        outputs = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        is_view = any(r.alias_info and not r.alias_info.is_write for r in func._schema.returns) or "view" in str(func)
        if outputs and not is_view:
            name = func.overloadpacket.__name__
            count = flop_registry.get(func.overloadpacket)
            flops = count(*args, **(kwargs or {}), out_val=out) if count else 0
            if name.startswith("attention"):
                flops = attention_flops(name, *args[:2])
            elif name == "convolution_backward":  # torch counts grouped ones as if they were dense
                d_out, _, weight = args[:3]
                flops = 2 * sum(args[-1][:2]) * d_out.numel() * weight[0].numel()
            size = sum(t.numel() * t.element_size() for t in [*inputs, *outputs])
            self.cost.operators.append((name, flops, size))
        return out


def record(name: str, training: bool) -> Cost:
    """Operators of one step of a model on BATCH images."""
    cost = Cost()
    model = timm.create_model(name, drop_path_rate=0.2).train(training)
    for module in model.modules():
        if hasattr(module, "fused_attn"):  # timm's Swin on CUDA
            module.fused_attn = True
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, patch.object(F, "scaled_dot_product_attention", fused):
        fake = {name: mode.from_tensor(t) for name, t in [*model.named_parameters(), *model.named_buffers()]}
        images, labels = torch.empty(BATCH, 3, SIZE, SIZE), torch.zeros(BATCH, dtype=torch.long)
        with Recorder(cost), torch.set_grad_enabled(training):
            with torch.autocast("cpu", torch.bfloat16):
                logits = functional_call(model, fake, images)
            if training:
                F.cross_entropy(logits.float(), labels).backward()
    return cost


# Attention with a bias as one operator, as on CUDA: forward (q, k, v, bias) -> out, backward -> their gradients.


@torch.library.custom_op("roofline::attention", mutates_args=())
def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor: ...


@torch.library.custom_op("roofline::attention_backward", mutates_args=())
def attention_backward(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, out: Tensor) -> list[Tensor]: ...


attention.register_fake(lambda q, k, v, bias: torch.empty_like(q))
attention_backward.register_fake(
    lambda q, k, v, bias, out: [torch.empty_like(t) for t in (q, k, v, bias) if t is not None]
)


def _backward(ctx, d_out):
    gradients = torch.ops.roofline.attention_backward(*ctx.saved_tensors, d_out)
    return *gradients, *[None] * (4 - len(gradients))


attention.register_autograd(_backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs))


def fused(q, k, v, attn_mask=None, dropout_p=0.0, **_options):
    return torch.ops.roofline.attention(q, k, v, attn_mask)


def attention_flops(name: str, q: Tensor, k: Tensor) -> int:
    """Two products forward; five backward, the logits computed again."""
    return (10 if "backward" in name else 4) * q[..., 0].numel() * k.shape[-2] * q.shape[-1]


def main() -> None:
    for name in sys.argv[1:] or ["swin_tiny_patch4_window7_224", "dat_tiny", "datpp_tiny"]:
        for training in (False, True):
            cost = record(name, training)
            flops, size = (sum(values) for values in list(zip(*cost.operators, strict=True))[1:])
            merged = sum(not any(part in op for part in NOT_MERGED) for op, _, _ in cost.operators)
            mode = "training" if training else "inference"
            print(f"{name}, {mode}, {BATCH} images: {flops / 1e12:.2f} TFLOP, {size / 1e9:.1f} GB")
            print(f"  {len(cost.operators):,} operators, {merged:,} of them elementwise or copies")
            for card, (peak, bandwidth) in CARDS.items():
                eager, least = (cost.seconds(peak, bandwidth, both) for both in (True, False))
                print(f"  {card}: {BATCH / eager:,.0f} images/s eager, {BATCH / least:,.0f} if all others are merged")
            by_name = Counter()
            for op, _, moved in cost.operators:
                by_name[op] += moved
            print("  bytes: " + ", ".join(f"{op} {moved / size:.0%}" for op, moved in by_name.most_common(8)))


if __name__ == "__main__":
    main()
