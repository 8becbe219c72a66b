"""Mixup, cutmix and label smoothing with keyed draws (Zhang et al., 2018; Yun et al., 2019; as in DeiT)."""

import torch
import torch.nn.functional as F
from timm.data import Mixup
from torch import Tensor

from dat_train.data.randomness import keyed_randomness
from dat_train.errors import UserError


class Mixing:
    """Mixup and cutmix of a batch with its reversed copy, and soft targets. Images are normalized.

    Args:
        num_classes: number of classes of the soft targets.
        mixup, cutmix: alphas of their beta distributions; 0 turns one off.
        switch_prob: probability of cutmix if both are on.
        label_smoothing: mass spread over all classes.
        off_step: step from which images are not mixed; None: never.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        switch_prob: float = 0.5,
        label_smoothing: float = 0.0,
        off_step: int | None = None,
    ) -> None:
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.off_step = off_step
        self.mixup = None
        if mixup > 0 or cutmix > 0:
            self.mixup = Mixup(
                mixup, cutmix, switch_prob=switch_prob, label_smoothing=label_smoothing, num_classes=num_classes
            )

    def __call__(self, images: Tensor, labels: Tensor, *key: int | str, step: int = 0) -> tuple[Tensor, Tensor]:
        """Mix a batch.

        The random draws are a function of `key`. The given images are not changed, and the device is not synchronized.

        Args:
            images: (B, C, H, W).
            labels: (B,) class indices.
            step: of the run.

        Returns:
            mixed images, and soft targets (B, num_classes) float32.

        Raises:
            UserError: an odd number of images to mix.
        """
        if self.mixup is None or (self.off_step is not None and step >= self.off_step):
            targets = F.one_hot(labels, self.num_classes).float()
            smoothing = self.label_smoothing
            return images, targets * (1 - smoothing) + smoothing / self.num_classes
        if len(images) % 2:
            raise UserError(
                f"mixup and cutmix pair images, and micro_batch_size={len(images)} is odd; take an even one, or "
                "mixing.mixup=0 mixing.cutmix=0"
            )
        with keyed_randomness(*key):
            images, targets = self.mixup(images.clone(), labels)
        return images, targets.float()


class MultiHotMixing:
    """Mixup, cutmix and label smoothing of images with any number of labels, drawn as in `Mixing`.

    A target is the sum of the weights (mixup) or areas (cutmix) of the images of a pair that have the label. Each label
    is smoothed independently: 1 becomes 1 - smoothing / 2, and 0 becomes smoothing / 2.

    Args:
        label_smoothing: mass spread over "yes" and "no" of each label.
        off_step: as of `Mixing`.
        pairs: mixup, cutmix and switch_prob of `Mixing`.
    """

    def __init__(self, *, label_smoothing: float = 0.0, off_step: int | None = None, **pairs: float) -> None:
        self.label_smoothing = label_smoothing
        self.off_step = off_step
        self.pairs = pairs
        self.enabled = pairs.get("mixup", 0) > 0 or pairs.get("cutmix", 0) > 0

    def __call__(self, images: Tensor, labels: Tensor, *key: int | str, step: int = 0) -> tuple[Tensor, Tensor]:
        """Mix a batch as `Mixing` does. Labels are (B, classes) of 0 and 1, soft targets (B, classes) float32."""
        targets = labels.float()
        if self.enabled and (self.off_step is None or step < self.off_step):
            mixing = Mixing(len(images), **self.pairs)
            images, shares = mixing(images, torch.arange(len(images), device=images.device), *key)
            own = shares.diagonal()[:, None]  # (B, 1), weight of an image; the rest is that of its partner
            targets = targets * own + targets.flip(0) * (1 - own)
        return images, targets * (1 - self.label_smoothing) + self.label_smoothing / 2
