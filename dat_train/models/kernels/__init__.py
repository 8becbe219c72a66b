"""Faster subclasses of the modules in models/, with the same parameters: `accelerate(model, device)`.

Other modules of models/ do not import this package. Export, torch.compile, hooks inside modules, adapters and second
derivatives need the plain model.
"""

from dat_train.models.kernels.accelerate import accelerate, is_accelerated, prefers_eager, restore

__all__ = ["accelerate", "is_accelerated", "prefers_eager", "restore"]
