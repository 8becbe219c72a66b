"""`model=NAME data=imagenet` is the published recipe."""

import json

import pytest
import timm
import torch
from commands.composing import composed
from commands.running import run_here

import dat_train.models  # noqa: F401  registers the models
from dat_train.cli.conf import conf_dir, first_comment
from dat_train.commands.build_training import run_plan
from dat_train.training.optimizer import parameter_groups

IMAGENET = 1_281_167
RECIPES = {  # drop path, lr and end lr per 1024 images, warm-up and all epochs, clipping, weight decay, resolution
    "dat_t": (0.2, 1e-3, 1e-5, 20, 300, 5.0, 0.05, 224),
    "dat_s": (0.3, 1e-3, 1e-5, 20, 300, 5.0, 0.05, 224),
    "dat_b": (0.5, 8e-4, 1e-5, 50, 300, 1.0, 0.05, 224),
    "dat_b_384": (0.5, 4e-6, 2e-7, 0, 30, 1.0, 1e-8, 384),
    "datpp_t": (0.2, 1e-3, 1e-5, 20, 300, 5.0, 0.05, 224),
    "datpp_s": (0.4, 1e-3, 1e-5, 20, 300, 5.0, 0.05, 224),
    "datpp_b": (0.7, 1e-3, 1e-5, 20, 300, 5.0, 0.05, 224),
    "datpp_b_384": (0.6, 4e-5, 4e-7, 0, 30, 5.0, 1e-8, 384),
}
TOP1 = {
    "dat_t": 82.0, "dat_s": 83.7, "dat_b": 84.0, "dat_b_384": 84.8,
    "datpp_t": 83.9, "datpp_s": 84.6, "datpp_b": 84.9, "datpp_b_384": 85.9,
}  # fmt: skip

BACKBONES = {  # drop path, optimizer, batch, lr and end lr, warm-up epochs, clipping, weight decay, copies of an image
    "swin_t": (0.2, "adamw", 1024, 1e-3, 1e-5, 20, 5, 0.05, 1),
    "swin_s": (0.3, "adamw", 1024, 1e-3, 1e-5, 20, 5, 0.05, 1),
    "swin_b": (0.5, "adamw", 1024, 1e-3, 1e-5, 20, 5, 0.05, 1),
    "deit_s": (0.1, "adamw", 1024, 1e-3, 1e-5, 5, 0, 0.05, 3),
    "deit_b": (0.1, "adamw", 1024, 1e-3, 1e-5, 5, 0, 0.05, 3),
    "pvt_v2_b2": (0.1, "adamw", 1024, 1e-3, 1e-5, 5, 0, 0.05, 3),
    "convnext_t": (0.1, "adamw", 4096, 4e-3, 1e-6, 20, 0, 0.05, 1),
    "resnet50": (0.05, "lamb", 2048, 5e-3, 1e-6, 5, 0, 0.02, 3),
}


def imagenet(*overrides):
    return composed("data=imagenet", "data.root=/data/imagenet", "init=weights.pt", *overrides)


@pytest.mark.parametrize("model", RECIPES)
def test_defaults_are_the_published_recipe(model):
    config = imagenet(f"model={model}")
    drop_path, lr, end_lr, warmup, epochs, clip, decay, size = RECIPES[model]
    scale = config.batch_size / 1024
    assert config.model.drop_path_rate == drop_path
    assert config.optim.lr == pytest.approx(lr * scale) and config.schedule.min_lr == pytest.approx(end_lr * scale)
    assert (config.schedule.warmup_epochs, config.epochs) == (warmup, epochs)
    assert (config.clip_grad, config.optim.weight_decay) == (clip, decay)
    assert list(config.optim.betas) == [0.9, 0.999] and config.optim.eps == 1e-8
    assert config.img_size == size and config.ema.decay == 0
    augment, mixing = config.augment, config.mixing
    assert (augment.rand_augment, augment.color_jitter) == ("rand-m9-mstd0.5-inc1", 0.4)
    assert (mixing.mixup, mixing.cutmix, mixing.switch_prob) == (0.8, 1.0, 0.5)
    assert (augment.random_erasing, mixing.label_smoothing, config.data.repeats) == (0.25, 0.1, 1)
    assert (augment.interpolation, augment.hflip, list(augment.scale)) == ("bicubic", 0.5, [0.08, 1.0])
    resized = 384 if model == "datpp_b_384" else {224: 256, 384: 438}[size]
    assert config.eval.resize == "squash" and round(size / config.eval.crop_pct) == resized


@pytest.mark.parametrize("name", RECIPES)
def test_the_list_of_models_names_the_published_accuracy(name):
    assert f"{TOP1[name]} % top-1 on ImageNet-1K" in first_comment(conf_dir() / "model" / f"{name}.yaml")


@pytest.mark.parametrize("model", BACKBONES)
def test_backbones_for_comparison_have_their_own_published_recipes(model):
    config = imagenet(f"model={model}")
    drop_path, optimizer, batch, lr, end_lr, warmup, clip, decay, copies = BACKBONES[model]
    assert (config.model.drop_path_rate, config.optim.name, config.batch_size) == (drop_path, optimizer, batch)
    assert (config.optim.lr, config.schedule.min_lr) == pytest.approx((lr, end_lr))
    assert (config.schedule.warmup_epochs, config.epochs) == (warmup, 300)
    assert (config.clip_grad, config.optim.weight_decay, config.data.repeats) == (clip, decay, copies)
    assert (config.img_size, config.eval.resize) == (224, "short_side")
    plain = model != "resnet50"
    assert config.eval.crop_pct == (0.875 if plain else 0.95)
    assert config.loss.name == ("cross_entropy" if plain else "bce")
    assert (config.ema.decay, config.ema.warmup) == ((0.9999, False) if model == "convnext_t" else (0, True))
    if plain:
        assert (config.augment.name, config.augment.rand_augment) == ("deit", "rand-m9-mstd0.5-inc1")
        assert (config.augment.random_erasing, config.mixing.mixup, config.mixing.label_smoothing) == (0.25, 0.8, 0.1)
    else:
        assert (config.augment.name, config.augment.rand_augment) == ("rsb_a2", "rand-m7-mstd0.5-inc1")
        assert (config.augment.random_erasing, config.mixing.mixup, config.mixing.label_smoothing) == (0, 0.1, 0)
        assert (config.loss.target_threshold, config.schedule.warmup_lr) == (0.2, 1e-4)


def test_a_chosen_augmentation_or_other_data_replace_parts_of_a_recipe():
    chosen = imagenet("model=resnet50", "augment=three")
    assert (chosen.augment.rand_augment, chosen.mixing.mixup, chosen.optim.name) == ("3a", 0.8, "lamb")
    own = composed("model=resnet50", "data=folder", "data.root=photos")
    assert (own.batch_size, own.optim.lr) == (128, pytest.approx(2.5e-3 / 8))
    for data in ("folder", "csv"):
        small = composed("model=dat_t", f"data={data}", "data.root=photos")
        assert (small.batch_size, small.micro_batch_size) == (128, 64)
    assert composed("model=dat_b", "data=folder", "data.root=photos", "batch_size=32").micro_batch_size == 32
    dense = composed("model=convnext_t", "data=masks", "data.root=photos", "task=segmentation")
    assert (dense.batch_size, dense.ema.decay, dense.schedule.name) == (16, 0, "poly")


def test_a_shorter_schedule_has_the_same_share_of_warm_up():
    epochs = {length: imagenet("model=dat_t", f"epochs={length}").schedule.warmup_epochs for length in (3, 30, 600)}
    assert epochs == {3: 0.2, 30: 2, 600: 20}
    assert imagenet("model=dat_t", "epochs=30", "schedule.warmup_epochs=20").schedule.warmup_epochs == 20
    assert composed("experiment=digits", "epochs=6").schedule.warmup_epochs == 1


@pytest.mark.long
@pytest.mark.parametrize("model", ["swin_t", "deit_s", "pvt_v2_b2", "convnext_t", "resnet50"])
def test_backbones_for_comparison_take_a_step_with_their_recipe(model, tmp_path):
    """The smallest of each kind, on small images, where the model has no fixed size."""
    size = 224 if model.startswith(("deit", "swin")) else 64
    result = run_here(
        "dat-train", f"model={model}", "data=fake", "data.fake_images=4", "data.fake_classes=3", "epochs=1",
        "batch_size=2", "micro_batch_size=2", "max_steps=1", f"img_size={size}", f"model.img_size={size}",
        "schedule.warmup_epochs=0", "data.workers=0", "device=cpu", "name=run", cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    plan = {line.split()[0]: line for line in result.stdout.splitlines() if line.startswith("  ")}
    optimizer = "lamb, weight decay 0.02" if model == "resnet50" else "adamw, weight decay 0.05"
    loss = "binary cross-entropy" if model == "resnet50" else "cross-entropy, label smoothing 0.1"
    assert optimizer in plan["optimizer"] and loss in plan["loss"]
    assert json.loads((tmp_path / "runs/run/summary.json").read_text())["skipped"] == 0


def test_dat_p_is_trained_as_dat_pp():
    dat_p, datpp = (imagenet(f"model={name}") | {"model": None} for name in ("datp_t", "datpp_t"))
    assert dat_p == datpp


def test_the_learning_rate_follows_the_batch_size_unless_it_is_set():
    assert imagenet("model=dat_t", "batch_size=256").optim.lr == pytest.approx(2.5e-4)
    assert imagenet("model=dat_t", "batch_size=256", "optim.lr=3e-4").optim.lr == 3e-4
    assert imagenet("model=dat_t", "batch_size=256").schedule.warmup_lr == pytest.approx(2.5e-7)


@pytest.mark.parametrize("name", RECIPES)
def test_the_schedule_at_its_start_and_end(name):
    config = imagenet(f"model={name}")
    plan = run_plan(config, IMAGENET, 8)
    assert plan.steps_per_epoch == {1024: 1251, 512: 2502}[config.batch_size]
    assert plan.steps == plan.steps_per_epoch * config.epochs
    lr = plan.learning_rate
    warmup = plan.steps_per_epoch * config.schedule.warmup_epochs
    peak, end = config.optim.lr, config.schedule.min_lr
    if warmup:
        assert lr(0) == config.schedule.warmup_lr
        assert lr(warmup - 1) == pytest.approx(peak, rel=1e-3) and lr(warmup - 1) < peak
    assert lr(plan.steps // 2) == pytest.approx((peak + end) / 2, rel=1e-3)
    assert lr(plan.steps - 1) == pytest.approx(end, rel=1e-3)


@pytest.mark.parametrize("timm_name", ["dat_nano", "dat_base_384", "datpp_base"])
def test_no_decay_for_one_dimensional_parameters_and_bias_tables(timm_name):
    with torch.device("meta"):
        model = timm.create_model(timm_name)
    decayed, plain = parameter_groups(model, 0.05)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.05, 0.0)
    name = {id(parameter): name for name, parameter in model.named_parameters()}
    kept = {name[id(parameter)] for parameter in plain["params"]}
    assert kept == {
        n for n, p in model.named_parameters() if p.ndim == 1 or n.endswith(("bias", "bias_table", "bias.table"))
    }
    assert len(decayed["params"]) + len(kept) == len(name)
