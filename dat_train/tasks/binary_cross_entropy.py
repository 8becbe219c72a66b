"""Binary cross-entropy of every class."""

from timm import loss
from torch import Tensor


class BinaryCrossEntropy:
    """Binary cross-entropy with soft targets: the classes of an image are independent of each other.

    Args:
        target_threshold: targets above it become 1, the others 0, so that both classes of a mixed image count fully;
            None keeps the targets.
        sum_classes: sum over the classes, in place of their mean.
        pos_weight: (classes,) factor on the part of the targets that is 1, on the device of the logits and in the
            number format of the targets; None: 1.

    Source: Wightman et al., "ResNet strikes back" (2021), section 3.2; Beyer et al., 2020. Computed by timm.
    """

    def __init__(
        self, target_threshold: float | None = None, sum_classes: bool = False, pos_weight: Tensor | None = None
    ) -> None:
        # smoothing of the labels is part of the targets, see `Mixing`
        self.loss = loss.BinaryCrossEntropy(
            0.0, target_threshold=target_threshold, sum_classes=sum_classes, pos_weight=pos_weight
        )

    def __call__(self, logits: Tensor, targets: Tensor, images: Tensor) -> Tensor:
        """Logits and soft targets (B, classes) -> () in the targets' number format."""
        return self.loss(logits.to(targets.dtype), targets)
