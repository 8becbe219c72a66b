"""Position biases of deformable attention: what is added to the logit of query i and the key sampled at position p_j.

Every bias is a module `bias(positions, H, W) -> (B or 1, heads, H*W, keys)`, with positions (B, groups, Hk, Wk, 2) as
(y, x) in [-1, 1]. Which one a layer has is the keyword `bias` of `DeformableAttention`:

    "table"    a learned table sampled bilinearly at the displacement (CVPR 2022 eq. 6), the papers' choice
    "fixed"    a learned number for each (query, key), whatever the offsets
    "log_cpb"  an MLP of the log-spaced displacement (DAT++, after Swin V2)

("none" and "dwc" need no such module; see deformable.py.)
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dat_train.models.geometry import displacements
from dat_train.models.kernels.deformable_attention import deformable_attention, table_bias


class TableBias(nn.Module):
    """Table (heads, 2H-1, 2W-1), made for a map of `size` = (H, W) and sampled at half the displacement.

    The displacement is normalized, so one table serves maps of any size. Attention with this bias is `attend`, which
    need not write the bias down; called as a module, it does.
    """

    def __init__(self, heads: int, groups: int, size: tuple[int, int], geometry: str) -> None:
        super().__init__()
        self.groups = groups
        self.geometry = geometry
        self.table = nn.Parameter(torch.empty(heads, 2 * size[0] - 1, 2 * size[1] - 1))
        nn.init.trunc_normal_(self.table, std=0.01)

    def forward(self, positions: Tensor, H: int, W: int) -> Tensor:
        return table_bias(positions, self.table, H, W, self.geometry)

    def attend(self, q: Tensor, kv: Tensor, positions: Tensor, dropout: float) -> Tensor:
        """Attention of queries (B, H, W, C) to keys and values (B, keys, 2C) at these positions: (B, H, W, C)."""
        return deformable_attention(q, kv, positions, self.table, self.geometry, dropout)


class FixedBias(nn.Module):
    """Table (heads, H*W, Hk*Wk) added as it is; a map of another size gets it resized bicubically."""

    def __init__(self, heads: int, size: tuple[int, int], key_size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.key_size = key_size
        self.table = nn.Parameter(torch.empty(heads, size[0] * size[1], key_size[0] * key_size[1]))
        nn.init.trunc_normal_(self.table, std=0.01)

    def forward(self, positions: Tensor, H: int, W: int) -> Tensor:
        key_size = (positions.shape[2], positions.shape[3])
        return resize_fixed_table(self.table, self.size, self.key_size, (H, W), key_size).unsqueeze(0)


def resize_fixed_table(
    table: Tensor,
    size: tuple[int, int],
    key_size: tuple[int, int],
    new_size: tuple[int, int],
    new_key_size: tuple[int, int],
) -> Tensor:
    """(heads, H*W, Hk*Wk) resized bicubically along the keys, then along the queries."""
    heads = table.shape[0]
    if key_size != new_key_size:
        table = table.reshape(1, -1, key_size[0], key_size[1])
        table = F.interpolate(table, size=new_key_size, mode="bicubic", align_corners=False)
        table = table.reshape(heads, size[0] * size[1], -1)
    if size != new_size:
        table = table.transpose(1, 2).reshape(1, -1, size[0], size[1])
        table = F.interpolate(table, size=new_size, mode="bicubic", align_corners=False)
        table = table.reshape(heads, new_key_size[0] * new_key_size[1], -1).transpose(1, 2)
    return table


class LogCPB(nn.Module):
    """Continuous position bias: Linear 2->32, ReLU, Linear 32->heads per group, weights shared over the groups.

    Its input is sign(d) log2(|d| + 1) / 3 of d = 4 (query position - key position).
    """

    def __init__(self, heads: int, groups: int, geometry: str) -> None:
        super().__init__()
        self.geometry = geometry
        self.fc1 = nn.Linear(2, 32)
        self.fc2 = nn.Linear(32, heads // groups, bias=False)

    def forward(self, positions: Tensor, H: int, W: int) -> Tensor:
        d = 4 * displacements(positions, H, W, self.geometry)
        d = torch.sign(d) * torch.log2(d.abs() + 1) / 3
        bias = self.fc2(F.relu(self.fc1(d.to(self.fc1.weight.dtype))))  # (B, groups, H*W, keys, heads / groups)
        return bias.permute(0, 1, 4, 2, 3).flatten(1, 2)
