"""Deformable attention on CUDA as Triton kernels that store no bias: kernels=triton.

A bias is computed from four cells of the table when it is added, and again in the backward pass. Forward: one program
for every block of queries of a head, keys in blocks, running softmax (Dao et al., FlashAttention, NeurIPS 2022).
Backward: one kernel over blocks of queries for their gradient, one over blocks of keys for all other gradients.
Positions get a gradient from every head, the table from every image, summed afterwards. Within an image the table's
gradient is added atomically: like that of grid_sample on CUDA, it is not deterministic.

TRITON_INTERPRET=1 runs the kernels on a CPU; tests compare results in this mode, and compile the kernels for a GPU.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from dat_train.models.deformable import DeformableAttention, TableBias, query_points

BLOCK_QUERIES, BLOCK_KEYS, WARPS = 64, 32, 8  # registers spill with fewer warps
RING = tl.constexpr(2)  # cells of zeros around the table, so that no read needs a bounds check


class TritonDeformableAttention(DeformableAttention):
    """DeformableAttention by the Triton kernels, with a table bias and without dropout of attention weights.

    The channels of a head must be a power of two of at least 16.
    """

    def attend(self, q: Tensor, kv: Tensor, positions: Tensor) -> Tensor:
        if not isinstance(self.bias, TableBias) or (self.training and self.attn_drop > 0):
            return super().attend(q, kv, positions)
        return triton_deformable_attention(q, kv.to(q.dtype), positions, self.bias.table, self.sampling.geometry)


def triton_deformable_attention(q: Tensor, kv: Tensor, positions: Tensor, table: Tensor, geometry: str) -> Tensor:
    """Step 8 of docs/model.md with a table bias. Positions and table are read as float32.

    Shape: q (B, H, W, C), kv (B, keys, 2C), positions (B, G, Hk, Wk, 2), table (M, h, w) -> (B, H, W, C).
    """
    return _TritonAttention.apply(q, kv, positions, table, geometry)


@triton.jit
def _axis(query, position, size):
    """First cell, and weight of the second, along an axis of a table of `size` cells with its ring."""
    t = ((query[:, None] - position[None, :]) / 2 + 1) * ((size - 1) / 2)
    t = tl.clamp(t, -2.0, size * 1.0)  # the ring is zero: there and beyond
    first = tl.floor(t)
    return first.to(tl.int32) + RING, t - first


@triton.jit
def _corners(table, query_y, query_x, position_y, position_x, TH: tl.constexpr, TW: tl.constexpr):
    """The four cells around every (query, key), the address of the first, and the weights of the second ones."""
    y, share_y = _axis(query_y, position_y, TH)
    x, share_x = _axis(query_x, position_x, TW)
    place = y * (TW + 2 * RING) + x
    a = tl.load(table + place)
    b = tl.load(table + place + 1)
    c = tl.load(table + place + TW + 2 * RING)
    d = tl.load(table + place + TW + 2 * RING + 1)
    return a, b, c, d, place, share_y, share_x


@triton.jit
def _mix(a, b, c, d, share_y, share_x):
    ab = a + (b - a) * share_x
    return ab + (c + (d - c) * share_x - ab) * share_y


@triton.jit
def _queries(rows, query_y, query_x, N, W: tl.constexpr):
    """Coordinates of the queries `rows`."""
    return tl.load(query_y + rows // W, mask=rows < N, other=0.0), tl.load(query_x + rows % W, mask=rows < N, other=0.0)


@triton.jit
def _keys(columns, positions, M):
    """Coordinates (y, x) of the keys `columns`."""
    inside = columns < M
    return tl.load(positions + 2 * columns, mask=inside, other=0.0), tl.load(
        positions + 2 * columns + 1, mask=inside, other=0.0
    )


@triton.jit
def _rows(pointer, rows, channels, stride, N):
    return tl.load(pointer + rows[:, None] * stride + channels[None, :], mask=rows[:, None] < N, other=0.0)


@triton.jit
def _forward(
    q, kv, positions, table, query_y, query_x, out, lse, scale, N, M,
    W: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr, HEADS: tl.constexpr, GROUPS: tl.constexpr, D: tl.constexpr,
    BN: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1) % HEADS
    image = (tl.program_id(1) // HEADS).to(tl.int64)
    rows, channels = tl.program_id(0) * BN + tl.arange(0, BN), tl.arange(0, D)
    q += image * N * HEADS * D + head * D
    kv += image * M * 2 * HEADS * D + head * D
    out += image * N * HEADS * D + head * D
    positions += (image * GROUPS + head // (HEADS // GROUPS)) * M * 2
    table += head * (TH + 2 * RING) * (TW + 2 * RING)
    qy, qx = _queries(rows, query_y, query_x, N, W)
    block_q = _rows(q, rows, channels, HEADS * D, N)
    largest = tl.full((BN,), float("-inf"), tl.float32)
    total = tl.zeros((BN,), tl.float32)
    sums = tl.zeros((BN, D), tl.float32)
    for start in range(0, M, BM):
        columns = start + tl.arange(0, BM)
        k = _rows(kv, columns, channels, 2 * HEADS * D, M)
        v = _rows(kv + HEADS * D, columns, channels, 2 * HEADS * D, M)
        py, px = _keys(columns, positions, M)
        a, b, c, d, _, share_y, share_x = _corners(table, qy, qx, py, px, TH, TW)
        logits = tl.dot(block_q, tl.trans(k), input_precision="ieee") * scale + _mix(a, b, c, d, share_y, share_x)
        logits = tl.where(columns[None, :] < M, logits, float("-inf"))
        new = tl.maximum(largest, tl.max(logits, 1))
        p = tl.exp(logits - new[:, None])
        shrink = tl.exp(largest - new)
        total = total * shrink + tl.sum(p, 1)
        sums = sums * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
        largest = new
    result = sums / total[:, None]
    place = out + rows[:, None] * (HEADS * D) + channels[None, :]
    tl.store(place, result.to(out.dtype.element_ty), mask=rows[:, None] < N)
    tl.store(lse + tl.program_id(1).to(tl.int64) * N + rows, largest + tl.log(total), mask=rows < N)


@triton.jit
def _backward_queries(
    q, kv, positions, table, query_y, query_x, d_out, lse, delta, d_q, scale, N, M,
    W: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr, HEADS: tl.constexpr, GROUPS: tl.constexpr, D: tl.constexpr,
    BN: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1) % HEADS
    image = (tl.program_id(1) // HEADS).to(tl.int64)
    rows, channels = tl.program_id(0) * BN + tl.arange(0, BN), tl.arange(0, D)
    start_q = image * N * HEADS * D + head * D
    kv += image * M * 2 * HEADS * D + head * D
    positions += (image * GROUPS + head // (HEADS // GROUPS)) * M * 2
    table += head * (TH + 2 * RING) * (TW + 2 * RING)
    qy, qx = _queries(rows, query_y, query_x, N, W)
    block_q = _rows(q + start_q, rows, channels, HEADS * D, N)
    block_d = _rows(d_out + start_q, rows, channels, HEADS * D, N)
    row_stat = tl.program_id(1).to(tl.int64) * N + rows
    row_lse = tl.load(lse + row_stat, mask=rows < N, other=0.0)
    row_delta = tl.load(delta + row_stat, mask=rows < N, other=0.0)
    sums = tl.zeros((BN, D), tl.float32)
    for start in range(0, M, BM):
        columns = start + tl.arange(0, BM)
        k = _rows(kv, columns, channels, 2 * HEADS * D, M)
        v = _rows(kv + HEADS * D, columns, channels, 2 * HEADS * D, M)
        py, px = _keys(columns, positions, M)
        a, b, c, d, _, share_y, share_x = _corners(table, qy, qx, py, px, TH, TW)
        logits = tl.dot(block_q, tl.trans(k), input_precision="ieee") * scale + _mix(a, b, c, d, share_y, share_x)
        p = tl.where(columns[None, :] < M, tl.exp(logits - row_lse[:, None]), 0.0)
        d_p = tl.dot(block_d, tl.trans(v), input_precision="ieee")
        d_logits = p * (d_p - row_delta[:, None])
        sums += tl.dot(d_logits.to(k.dtype), k, input_precision="ieee")
    place = d_q + start_q + rows[:, None] * (HEADS * D) + channels[None, :]
    tl.store(place, (sums * scale).to(d_q.dtype.element_ty), mask=rows[:, None] < N)


@triton.jit
def _backward_keys(
    q, kv, positions, table, query_y, query_x, d_out, lse, delta, d_kv, d_positions, d_table, scale, N, M,
    W: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr, HEADS: tl.constexpr, GROUPS: tl.constexpr, D: tl.constexpr,
    BN: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1) % HEADS
    image = (tl.program_id(1) // HEADS).to(tl.int64)
    columns, channels = tl.program_id(0) * BM + tl.arange(0, BM), tl.arange(0, D)
    start_q = image * N * HEADS * D + head * D
    start_kv = image * M * 2 * HEADS * D + head * D
    positions += (image * GROUPS + head // (HEADS // GROUPS)) * M * 2
    table += head * (TH + 2 * RING) * (TW + 2 * RING)
    d_table += tl.program_id(1).to(tl.int64) * (TH + 2 * RING) * (TW + 2 * RING)
    k = _rows(kv + start_kv, columns, channels, 2 * HEADS * D, M)
    v = _rows(kv + start_kv + HEADS * D, columns, channels, 2 * HEADS * D, M)
    py, px = _keys(columns, positions, M)
    d_k, d_v = tl.zeros((BM, D), tl.float32), tl.zeros((BM, D), tl.float32)
    d_py, d_px = tl.zeros((BM,), tl.float32), tl.zeros((BM,), tl.float32)
    for start in range(0, N, BN):
        rows = start + tl.arange(0, BN)
        qy, qx = _queries(rows, query_y, query_x, N, W)
        block_q = _rows(q + start_q, rows, channels, HEADS * D, N)
        block_d = _rows(d_out + start_q, rows, channels, HEADS * D, N)
        row_stat = tl.program_id(1).to(tl.int64) * N + rows
        row_lse = tl.load(lse + row_stat, mask=rows < N, other=0.0)
        row_delta = tl.load(delta + row_stat, mask=rows < N, other=0.0)
        a, b, c, d, place, share_y, share_x = _corners(table, qy, qx, py, px, TH, TW)
        logits = tl.dot(block_q, tl.trans(k), input_precision="ieee") * scale + _mix(a, b, c, d, share_y, share_x)
        inside = (rows[:, None] < N) & (columns[None, :] < M)
        p = tl.where(inside, tl.exp(logits - row_lse[:, None]), 0.0)
        d_v += tl.dot(tl.trans(p.to(block_d.dtype)), block_d, input_precision="ieee")
        d_p = tl.dot(block_d, tl.trans(v), input_precision="ieee")
        d_logits = p * (d_p - row_delta[:, None])
        d_k += tl.dot(tl.trans(d_logits.to(block_q.dtype)), block_q, input_precision="ieee")
        # along an axis the table is read at t = ((query - position) / 2 + 1) (size - 1) / 2
        along_y = (c - a) + (d - c - b + a) * share_x
        along_x = (b - a) + (d - c - b + a) * share_y
        d_py -= tl.sum(d_logits * along_y, 0) * ((TH - 1) / 4)
        d_px -= tl.sum(d_logits * along_x, 0) * ((TW - 1) / 4)
        lower = d_logits * share_y
        upper = d_logits - lower
        tl.atomic_add(d_table + place, upper - upper * share_x, mask=inside)
        tl.atomic_add(d_table + place + 1, upper * share_x, mask=inside)
        tl.atomic_add(d_table + place + TW + 2 * RING, lower - lower * share_x, mask=inside)
        tl.atomic_add(d_table + place + TW + 2 * RING + 1, lower * share_x, mask=inside)
    place = d_kv + start_kv + columns[:, None] * (2 * HEADS * D) + channels[None, :]
    tl.store(place, (d_k * scale).to(d_kv.dtype.element_ty), mask=columns[:, None] < M)
    tl.store(place + HEADS * D, d_v.to(d_kv.dtype.element_ty), mask=columns[:, None] < M)
    d_positions += tl.program_id(1).to(tl.int64) * M * 2
    tl.store(d_positions + 2 * columns, d_py, mask=columns < M)
    tl.store(d_positions + 2 * columns + 1, d_px, mask=columns < M)


class _TritonAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, kv, positions, table, geometry):
        B, H, W, C = q.shape
        heads = table.shape[0]
        N, M = H * W, kv.shape[1]
        q, kv = q.contiguous(), kv.contiguous()
        single, ringed = positions.float().contiguous(), F.pad(table.float(), (RING.value,) * 4)
        points = query_points(H, geometry, single), query_points(W, geometry, single)
        out, lse = torch.empty_like(q), single.new_empty(B * heads, N)
        sizes = _sizes(q, positions, table)
        grid = (triton.cdiv(N, BLOCK_QUERIES), B * heads)
        _forward[grid](q, kv, single, ringed, *points, out, lse, (C // heads) ** -0.5, N, M, **sizes)
        ctx.save_for_backward(q, kv, positions, table, out, lse, *points)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):
        q, kv, positions, table, out, lse, *points = ctx.saved_tensors
        B, H, W, C = q.shape
        heads, G = table.shape[0], positions.shape[1]
        N, M = H * W, kv.shape[1]
        d_out = d_out.contiguous()
        single, ringed = positions.float().contiguous(), F.pad(table.float(), (RING.value,) * 4)
        delta = (d_out.float() * out.float()).view(B, N, heads, -1).sum(-1).transpose(1, 2).contiguous()
        d_q, d_kv = torch.empty_like(q), torch.empty_like(kv)
        d_positions = single.new_empty(B, G, heads // G, M, 2)  # of every head
        d_table = single.new_zeros(B, *ringed.shape)  # of every image
        given = (q, kv, single, ringed, *points, d_out, lse, delta)
        sizes, scale = _sizes(q, positions, table), (C // heads) ** -0.5
        _backward_queries[triton.cdiv(N, BLOCK_QUERIES), B * heads](*given, d_q, scale, N, M, **sizes)
        _backward_keys[triton.cdiv(M, BLOCK_KEYS), B * heads](*given, d_kv, d_positions, d_table, scale, N, M, **sizes)
        d_positions = d_positions.sum(2).view(positions.shape).to(positions.dtype)
        d_table = F.pad(d_table.sum(0), (-RING.value,) * 4)
        return d_q, d_kv, d_positions, d_table.to(table.dtype), None


def _sizes(q: Tensor, positions: Tensor, table: Tensor) -> dict[str, int]:
    """Constants that the kernels are compiled for."""
    heads, th, tw = table.shape
    return {
        "W": q.shape[2], "TH": th, "TW": tw, "HEADS": heads, "GROUPS": positions.shape[1],
        "D": q.shape[3] // heads, "BN": BLOCK_QUERIES, "BM": BLOCK_KEYS, "num_warps": WARPS,
    }  # fmt: skip
