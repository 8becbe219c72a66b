"""Freezing of modules: their parameters are not trained, and they stay in evaluation mode."""

from collections.abc import Sequence

from torch import nn

from dat_train.errors import UserError, did_you_mean


def freeze(model: nn.Module, names: Sequence[str]) -> None:
    """Freeze the modules `names`, for example ["stem", "stages.0"].

    A linear probe freezes everything but the classifier: ["stem", "stages", "norm"].

    Raises:
        UserError: the model has no such module, or all parameters would be frozen.
    """
    modules = dict(model.named_modules())
    for name in names:
        if not name or name not in modules:
            parts = ", ".join(child for child, _ in model.named_children())
            raise UserError(
                f"freeze={name} is not a module of the model{did_you_mean(name, modules)} (modules: {parts}; inside: "
                "stages.0, ...)"
            )
        modules[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"freeze=[{','.join(names)}] freezes all parameters; remove at least the head")


def training_mode(model: nn.Module) -> None:
    """Set training mode, and evaluation mode (no drop path, no dropout) for modules with only frozen parameters."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()
