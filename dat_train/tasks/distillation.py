"""Knowledge distillation: cross-entropy combined with the distance to the outputs of a teacher."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dat_train.choices import DISTILLATION
from dat_train.errors import require_one_of
from dat_train.runtime.precision import Precision
from dat_train.tasks.losses import cross_entropy


@dataclass(eq=False)
class Distillation:
    """Knowledge distillation as in DeiT (Touvron et al., ICML 2021, section 4), onto the class logits.

    (1 - alpha) CE(student, targets) + alpha D, where D is, for kind "soft", tau^2 KL(teacher || student), both
    softmaxes at temperature tau (equation 2), and for "hard" the cross-entropy with the teacher's decision (equation
    3). DeiT has a second classifier on a distillation token. DAT has no class token, so one classifier is used for both
    terms, which is DeiT's "usual distillation". DeiT's code also divides the soft term by the number of classes; the
    paper and this implementation do not.

    The teacher, in evaluation mode, gets the same mixed and erased images as the student, in its own normalization.

    Args:
        teacher: with as many classes as the student, on the device; it is frozen here.
        mean, std: normalization of the student's images; teacher_mean, teacher_std: of the teacher's images.
    """

    teacher: nn.Module
    _: KW_ONLY
    kind: str
    alpha: float
    tau: float
    precision: Precision
    mean: Sequence[float]
    std: Sequence[float]
    teacher_mean: Sequence[float]
    teacher_std: Sequence[float]

    def __post_init__(self) -> None:
        require_one_of("distill.kind", self.kind, DISTILLATION)
        self.teacher.eval().requires_grad_(False)
        # (x * std + mean - teacher_mean) / teacher_std = x * scale + shift, per channel
        mean, std, teacher_mean, teacher_std = (
            torch.tensor(list(values), dtype=self.precision.weights_dtype, device=self.precision.device).view(
                1, -1, 1, 1
            )
            for values in (self.mean, self.std, self.teacher_mean, self.teacher_std)
        )
        self.scale = std / teacher_std
        self.shift = (mean - teacher_mean) / teacher_std

    def __call__(self, logits: Tensor, targets: Tensor, images: Tensor) -> Tensor:
        """Student's logits (B, classes), targets (B, classes) and input images (B, C, H, W) -> () loss."""
        answers = self.answers(images).to(targets.dtype)
        logits = logits.to(targets.dtype)
        if self.kind == "hard":
            distance = F.cross_entropy(logits, answers.argmax(1))
        else:
            student, teacher = (F.log_softmax(values / self.tau, dim=1) for values in (logits, answers))
            distance = self.tau**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)
        return (1 - self.alpha) * cross_entropy(logits, targets, images) + self.alpha * distance

    @torch.no_grad()
    def answers(self, images: Tensor) -> Tensor:
        """The teacher's logits (B, classes) for the student's images."""
        with self.precision.context():
            return self.teacher(images * self.scale + self.shift)
