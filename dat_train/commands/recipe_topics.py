"""Optimizer, loss and augmentation of a run as text."""

from dat_train.choices import CLASSIFIERS
from dat_train.settings import Settings


def recipe_topics(config: Settings) -> list[tuple[str, str]]:
    """(topic, text) pairs for the summary printed before training."""
    topics = [("optimizer", _optimizer(config))]
    if config.get("task", "classification") in CLASSIFIERS:
        topics += [("loss", _loss(config)), ("augment", _augmentation(config))]
    if config.ema.decay:
        topics.append(("average", f"EMA of the weights with decay {config.ema.decay:g}"))
    return topics


def _optimizer(config: Settings) -> str:
    optim = config.optim
    parts = [optim.name, f"weight decay {optim.weight_decay:g}"]
    parts += [f"{key} {value}" for key, value in optim.args.items()]
    if optim.layer_decay != 1:
        parts.append(f"layer decay {optim.layer_decay:g}")
    parts.append(f"gradient norm at most {config.clip_grad:g}" if config.clip_grad else "no gradient clipping")
    return ", ".join(parts)


def _loss(config: Settings) -> str:
    loss = config.loss
    parts = ["binary cross-entropy" if loss.name == "bce" or config.task == "multilabel" else "cross-entropy"]
    if loss.target_threshold is not None:
        parts.append(f"targets above {loss.target_threshold:g} become 1")
    if loss.class_weights:
        parts.append(f"class weights {loss.class_weights}")
    if config.mixing.label_smoothing:
        parts.append(f"label smoothing {config.mixing.label_smoothing:g}")
    if config.distill.teacher or config.distill.weights:
        parts.append(f"{config.distill.kind} distillation from {config.distill.teacher or config.distill.weights}")
    return ", ".join(parts)


def _augmentation(config: Settings) -> str:
    augment, mixing = config.augment, config.mixing
    parts = [augment.rand_augment] if augment.rand_augment else []
    numbers = {"mixup": mixing.mixup, "cutmix": mixing.cutmix, "random erasing": augment.random_erasing}
    parts += [f"{name} {value:g}" for name, value in numbers.items() if value]
    if mixing.off_epoch is not None and (mixing.mixup or mixing.cutmix):
        parts.append(f"without mixup and cutmix from epoch {mixing.off_epoch}")
    if config.data.repeats > 1:
        parts.append(f"{config.data.repeats} copies of an image")
    return f"{augment.name}: {', '.join(parts) or 'no random operations but crops and flips'}"
