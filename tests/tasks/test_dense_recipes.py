"""The experiments of segmentation and detection are the published recipes."""

from types import SimpleNamespace

import pytest
import torch
from commands.composing import composed

from dat_train.cli.conf import choices, conf_dir
from dat_train.commands.build_model import build_model
from dat_train.commands.build_task import task_builders
from dat_train.data.generated.digit_scenes import CLASSES
from dat_train.errors import UserError
from dat_train.runtime.precision import resolve_precision
from dat_train.tasks.segmentation import SemanticSegmentation
from dat_train.training.optimizer import parameter_groups

SEGMENTATION = {  # drop path, lr, decay, steps, batch, power, warm-up, validation, dtype, mIoU
    "semantic_fpn_datpp_t": (0.4, 2e-4, 1e-4, 40_000, 32, 0.9, 0, 4_000, "fp32", 48.4),
    "semantic_fpn_datpp_s": (0.4, 2e-4, 1e-4, 40_000, 32, 0.9, 0, 4_000, "fp32", 49.9),
    "semantic_fpn_datpp_b": (0.7, 2e-4, 1e-4, 40_000, 32, 0.9, 0, 4_000, "fp32", 50.4),
    "upernet_datpp_t": (0.3, 6e-5, 0.01, 160_000, 16, 1.0, 1_500, 16_000, "fp16", 49.4),
    "upernet_datpp_s": (0.5, 6e-5, 0.01, 160_000, 16, 1.0, 1_500, 16_000, "fp16", 50.5),
    "upernet_datpp_b": (0.7, 6e-5, 0.01, 160_000, 16, 1.0, 1_500, 16_000, "fp32", 51.0),
}
DETECTION = {  # drop path, lr, dtype, box AP
    "retinanet_datpp_t_1x": (0.0, 2e-4, "fp16", 46.8),
    "retinanet_datpp_t_3x": (0.2, 2e-4, "fp16", 49.2),
    "retinanet_datpp_s_1x": (0.1, 2e-4, "fp16", 48.3),
    "retinanet_datpp_s_3x": (0.5, 2e-4, "fp16", 50.2),
    "mask_rcnn_datpp_t_1x": (0.0, 4e-4, "fp16", 48.7),
    "mask_rcnn_datpp_t_3x": (0.3, 4e-4, "fp16", 50.5),
    "mask_rcnn_datpp_s_1x": (0.1, 4e-4, "fp16", 49.8),
    "mask_rcnn_datpp_s_3x": (0.5, 4e-4, "fp16", 51.2),
    "cascade_mask_rcnn_datpp_t_1x": (0.0, 4e-4, "fp16", 52.2),
    "cascade_mask_rcnn_datpp_t_3x": (0.1, 4e-4, "fp16", 53.0),
    "cascade_mask_rcnn_datpp_s_3x": (0.5, 4e-4, "fp32", 54.2),
    "cascade_mask_rcnn_datpp_b_3x": (0.8, 4e-4, "fp32", 54.5),
}


def recipe(name: str):
    return composed(f"experiment={name}", "data.root=/data", "init=weights.pth")


def text(name: str) -> str:
    return (conf_dir() / "experiment" / f"{name}.yaml").read_text()


def test_every_published_result_is_an_experiment():
    assert set(choices("experiment")) >= {*SEGMENTATION, *DETECTION}


@pytest.mark.parametrize("name", SEGMENTATION)
def test_segmentation_recipes_are_the_published_ones(name):
    config = recipe(name)
    drop_path, lr, decay, steps, batch, power, warmup, every, dtype, miou = SEGMENTATION[name]
    assert (config.task, config.img_size, config.data.kind) == ("segmentation", 512, "ade20k")
    assert config.model.drop_path_rate == drop_path and config.dense.head == name.partition("_datpp")[0]
    assert (config.optim.lr, config.optim.weight_decay, config.clip_grad) == (lr, decay, 0)
    assert (config.steps, config.batch_size, config.eval.every_steps) == (steps, batch, every)
    schedule = config.schedule
    assert (schedule.name, schedule.power, schedule.warmup_steps, schedule.min_lr) == ("poly", power, warmup, 0)
    assert config.dtype == dtype and f"{miou} % mIoU" in text(name)
    assert list(config.dense.limits) == [2048, 512] and list(config.dense.ratio) == [0.5, 2.0]
    assert config.model.grad_checkpointing == name.startswith("upernet")


@pytest.mark.parametrize("name", DETECTION)
def test_detection_recipes_are_the_published_ones(name):
    config = recipe(name)
    drop_path, lr, dtype, ap = DETECTION[name]
    epochs, milestones = (12, [8, 11]) if name.endswith("1x") else (36, [27, 33])
    assert (config.task, config.data.kind, config.dense.head) == ("detection", "coco", name.partition("_datpp")[0])
    assert config.model.drop_path_rate == drop_path and config.dtype == dtype
    assert (config.optim.lr, config.optim.weight_decay, config.clip_grad) == (lr, 0.05, 0)
    assert (config.epochs, list(config.schedule.milestones), config.batch_size) == (epochs, milestones, 64)
    schedule = config.schedule
    assert (schedule.name, schedule.warmup_steps, schedule.warmup_factor) == ("multistep", 500, 1e-3)
    assert f"{ap} box AP" in text(name)


def test_digit_scenes_are_segmented_with_a_small_weight_of_the_background_and_without_mirroring():
    config = composed("experiment=digit_scenes_segmentation")
    background, *digits = config.dense.class_weights
    assert background < 1 and digits == [1.0] * (len(CLASSES) - 1)
    assert config.augment.hflip == 0
    task = task_builders(config).task(
        config, SimpleNamespace(classes=CLASSES), resolve_precision("fp32", torch.device("cpu"))
    )
    assert task.class_weights.tolist() == pytest.approx(config.dense.class_weights)


def test_class_weights_are_one_for_each_class():
    with pytest.raises(UserError, match="2 numbers for 3 classes"):
        precision = resolve_precision("fp32", torch.device("cpu"))
        SemanticSegmentation("abc", 8, [0.5] * 3, [0.5] * 3, precision=precision, class_weights=[1, 2])


@pytest.mark.parametrize("name", ["upernet_datpp_t", "cascade_mask_rcnn_datpp_t_1x"])
def test_biases_of_the_heads_decay_and_norms_of_the_backbone_do_not(name):
    config = recipe(name)
    with torch.device("meta"):
        model = build_model(config, 80)
    decayed = {id(p) for group in parameter_groups(model, 0.1) if group["weight_decay"] for p in group["params"]}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in decayed}
    assert any(name.endswith(".rpb") for name in names)
    assert any(name.startswith("backbone.") and name.endswith(".bias") for name in names)
    assert not any("backbone" in name and ("norm" in name or ".bias.table" in name) for name in names)
    assert any(".bn." in name for name in names) == name.startswith("upernet")
