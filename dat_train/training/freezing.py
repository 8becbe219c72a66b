"""Training a part of a model: the rest keeps its weights, and behaves as in evaluation."""

import difflib
from collections.abc import Sequence

from torch import nn

from dat_train.errors import UserError


def freeze(model: nn.Module, names: Sequence[str]) -> None:
    """Take the modules called `names` out of training, as in ["stem", "stages.0"].

    A linear probe freezes everything but the classifier: ["stem", "stages", "norm"].

    Raises:
        UserError: no such module, or nothing left to train.
    """
    modules = dict(model.named_modules())
    for name in names:
        if not name or name not in modules:
            near = difflib.get_close_matches(name, modules, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            parts = ", ".join(child for child, _ in model.named_children())
            raise UserError(f"freeze={name} is no part of the model{hint} (its parts: {parts}; inside: stages.0, ...)")
        modules[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"freeze=[{','.join(names)}] leaves nothing to train; leave out the head at least")


def training_mode(model: nn.Module) -> None:
    """Training mode, but evaluation mode for modules whose parameters are all frozen: no drop path, no dropout."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()
