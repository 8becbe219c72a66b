"""Data sets and task of multi-label classification from their settings."""

from dat_train.commands.build_data import datasets, mixing_off_step
from dat_train.data.dataset import ImageDataset
from dat_train.data.mixing import MultiHotMixing
from dat_train.errors import UserError
from dat_train.runtime.precision import Precision
from dat_train.runtime.processes import Processes
from dat_train.settings import Settings
from dat_train.tasks.binary_cross_entropy import BinaryCrossEntropy
from dat_train.tasks.classification import Images
from dat_train.tasks.multilabel import MultiLabelClassification, positive_weights


def multilabel_datasets(config: Settings, processes: Processes) -> tuple[ImageDataset, ImageDataset]:
    """Training and validation set with their transforms.

    Raises:
        UserError: data without several labels per image, or without labels.
    """
    sets = datasets(config, processes)
    for images, part in zip(sets, ("training", "validation"), strict=True):
        require_targets(images, config.data.name)
        if not images.targets.any():
            raise UserError(f"data.root={config.data.root}: no image of the {part} set has a label")
    return sets


def require_targets(images: ImageDataset, data: str) -> None:
    """Raise a UserError for data with one label per image."""
    if images.targets is None:
        raise UserError(
            f"task=multilabel needs a table of images and labels, and data={data} has one label per image: set "
            "data=csv data.root=TABLE.csv"
        )


def multilabel(config: Settings, train_set: ImageDataset, precision: Precision) -> MultiLabelClassification:
    """Build the multi-label classification task. Its loss is binary cross-entropy, whatever loss.name is."""
    loss = config.loss
    weights = positive_weights(train_set.targets) if loss.class_weights else None
    if weights is not None:
        weights = weights.to(precision.device, precision.weights)
    return MultiLabelClassification(
        train_set.classes,
        Images(config.img_size, config.data.mean, config.data.std),
        precision=precision,
        mixing=MultiHotMixing(off_step=mixing_off_step(config, len(train_set)), **config.mixing.without("off_epoch")),
        objective=BinaryCrossEntropy(loss.target_threshold, loss.sum_classes, weights),
    )
