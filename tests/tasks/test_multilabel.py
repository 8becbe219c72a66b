"""Loss, mixing and settings of the multi-label task."""

import numpy as np
import pytest
import timm.data.mixup
import torch
import torch.nn.functional as F
from commands.composing import composed

from dat_train.choices import TASKS
from dat_train.commands.build_data import multilabel_datasets
from dat_train.commands.build_task import multilabel, task_builders
from dat_train.data.batch import Batch
from dat_train.data.dataset import ImageDataset
from dat_train.data.mixing import Mixing, MultiHotMixing
from dat_train.data.randomness import keyed_randomness
from dat_train.errors import UserError
from dat_train.runtime.precision import resolve_precision
from dat_train.runtime.processes import Processes
from dat_train.tasks.losses import positive_weights
from dat_train.training.task import MicroBatchKey

CPU = torch.device("cpu")
TARGETS = np.array([[1, 0, 1], [0, 0, 0], [1, 0, 0], [1, 0, 1]], bool)
LABELS = torch.from_numpy(TARGETS.astype(np.int8))


@pytest.fixture
def images():
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_without_mixing_each_label_is_smoothed_for_itself(smoothing, images):
    same, targets = MultiHotMixing(label_smoothing=smoothing)(images, LABELS, "mixup", 0)
    assert same is images
    torch.testing.assert_close(targets, LABELS.float() * (1 - smoothing) + smoothing / 2)


@pytest.mark.parametrize("kind", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}])
def test_pairs_are_those_of_single_labels_and_targets_the_shares_of_their_labels(kind, images):
    before = images.clone()
    for step in range(4):
        mixed, targets = MultiHotMixing(**kind)(images, LABELS, "mixup", 0, step)
        expected, shares = Mixing(4, **kind)(images, torch.arange(4), "mixup", 0, step)
        assert torch.equal(mixed, expected) and torch.equal(images, before)
        torch.testing.assert_close(targets, shares @ LABELS.float())
        assert (targets[[0, 3]] == LABELS[[0, 3]]).all()  # labels that both images of a pair have, or none
    with pytest.raises(UserError, match="micro_batch_size=3 is odd"):
        MultiHotMixing(**kind)(images[:3], LABELS[:3], "mixup", 0)


@pytest.mark.skipif("multi_label" not in timm.data.mixup.mixup_target.__code__.co_varnames, reason="older timm")
def test_timm_gives_the_same_targets(images):
    arguments = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "label_smoothing": 0.1}
    for step in range(4):
        _, targets = MultiHotMixing(mixup=0.8, cutmix=1.0, label_smoothing=0.1)(images, LABELS, "mixup", step)
        with keyed_randomness("mixup", step):
            _, expected = timm.data.Mixup(**arguments, num_classes=3, multi_label=True)(images.clone(), LABELS)
        torch.testing.assert_close(targets, expected)


def test_the_loss_is_binary_cross_entropy_and_class_weights_are_its_pos_weight(images):
    assert positive_weights(TARGETS).tolist() == pytest.approx([1 / 3, 1, 1])
    settings = ["model=dat_nano", "task=multilabel", "data=csv", "data.root=t.csv", "augment=none"]
    images_set = ImageDataset([(str(i), 0) for i in range(4)], ["a", "b", "c"])
    images_set.targets = TARGETS
    batch = Batch(images, LABELS, torch.arange(4), [])
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    balanced = (["loss.class_weights=balanced", "loss.name=bce"], torch.tensor([1 / 3, 1, 1]))
    for more, weights in (([], None), (["loss.name=bce"], None), balanced):
        config = composed(*settings, "mixing.label_smoothing=0", *more)
        task = multilabel(config, images_set, resolve_precision("fp32", CPU))
        loss = task.loss(lambda images: logits, batch, MicroBatchKey(0, 0, 0))
        expected = F.binary_cross_entropy_with_logits(logits, LABELS.float(), pos_weight=weights)
        assert loss.total.item() == pytest.approx(expected.item(), rel=1e-6)
    more = ["mixing.label_smoothing=0.2", "loss.target_threshold=0.2", "loss.sum_classes=true"]  # 0.1 and 0.9: 0 and 1
    task = multilabel(composed(*settings, *more), images_set, resolve_precision("fp32", CPU))
    expected = 3 * F.binary_cross_entropy_with_logits(logits, LABELS.float())
    loss = task.loss(lambda images: logits, batch, MicroBatchKey(0, 0, 0))
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-6)


def test_data_with_one_label_per_image_are_refused():
    message = "task=multilabel needs a table of images and labels, and data=fake has one label per image: set"
    with pytest.raises(UserError, match=message):
        multilabel_datasets(composed("model=dat_nano", "task=multilabel", "data=fake"), Processes(0, 1, 0, CPU))


@pytest.mark.parametrize(("setting", "tasks", "refused"), [
    ("data.sampling=balanced", "task=classification", ("multilabel", "segmentation", "detection")),
    ("distill.teacher=resnet18", "task=classification", ("multilabel", "segmentation", "detection")),
    ("loss.name=bce", "task=classification and task=multilabel", ("segmentation", "detection")),
    ("loss.target_threshold=0.2", "task=classification and task=multilabel", ("segmentation", "detection")),
    ("data.shuffle=blocks", "task=classification and task=multilabel", ("segmentation", "detection")),
    ("optim.head_lr_factor=10.0", "task=classification and task=multilabel", ("segmentation", "detection")),
    ("loss.class_weights=balanced", "task=classification and task=multilabel", ("segmentation", "detection")),
])  # fmt: skip
def test_settings_of_other_tasks_are_refused_with_the_tasks_that_have_them(setting, tasks, refused):
    for task in TASKS:
        config = composed("model=dat_nano", "data=fake", f"task={task}", setting)
        if task in refused:
            with pytest.raises(UserError, match=f"^{setting} is for {tasks}, not task={task}; .") as caught:
                task_builders(config)
            assert "\n" not in str(caught.value)
        else:
            task_builders(config)
