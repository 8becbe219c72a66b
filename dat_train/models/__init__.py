"""The Deformable Attention Transformer as timm models; needs torch, timm, einops and safetensors only.

import dat_train.models registers the models:  timm.create_model("dat_tiny", num_classes=10)
"""

from dat_train.models import registry  # noqa: F401  registers the models
from dat_train.models.complexity import count_macs, count_parameters
from dat_train.models.dat import DAT
from dat_train.models.deformable import DeformableAttention
from dat_train.models.recording import AttentionInputs, Sampling, record_attention, record_sampling
from dat_train.models.weights.checkpoint import Checkpoint, CheckpointError
from dat_train.models.weights.loading import LoadReport, load_weights

__all__ = [
    "DAT",
    "AttentionInputs",
    "Checkpoint",
    "CheckpointError",
    "DeformableAttention",
    "LoadReport",
    "Sampling",
    "count_macs",
    "count_parameters",
    "load_weights",
    "record_attention",
    "record_sampling",
]
