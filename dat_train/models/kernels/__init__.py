"""Faster forms of the models' modules, with the same parameters: `accelerate(model, device)`.

The models import nothing from here. Exporting, torch.compile, hooks inside modules, adapters and second derivatives
work on the plain model.
"""

from dat_train.models.kernels.accelerate import accelerate, is_accelerated, prefers_eager, restore

__all__ = ["accelerate", "is_accelerated", "prefers_eager", "restore"]
