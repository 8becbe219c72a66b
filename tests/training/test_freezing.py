"""Freezing of modules, with one and with two processes."""

import pytest
import torch
from training.small_run import ALONE, in_processes, run_small, tiny_model
from training.test_layout import furthest

from dat_train.errors import UserError
from dat_train.models.weights.checkpoint import Checkpoint
from dat_train.runtime.precision import resolve_precision
from dat_train.tasks.distillation import Distillation
from dat_train.training.freezing import freeze, training_mode


def test_wholly_frozen_modules_are_in_evaluation_mode():
    model = tiny_model()
    freeze(model, ["stem", "stages.0", "stages.2.blocks.1.attn.q"])
    training_mode(model)
    assert not any(module.training for module in [*model.stem.modules(), *model.stages[0].modules()])
    block = model.stages[2].blocks[1]
    assert block.training and block.drop_path1.training and not block.attn.q.training  # a part of it only
    assert model.stages[1].training and model.head.training


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["stage.0"], "freeze=stage.0 is not a module of the model; did you mean stages.0?"),
        ([""], "modules: stem, stages, norm, head; inside"),
        (["stem", "stages", "norm", "head"], "freezes all parameters; remove at least the head"),
    ],
)
def test_impossible_freezing_is_refused(names, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")) as caught:
        freeze(tiny_model(), names)
    assert "\n" not in str(caught.value)


def run_frozen(processes, folder):
    """A run with a frozen stem and stage, and a teacher."""
    precision = resolve_precision("fp64", processes.device)
    model, teacher = tiny_model(), tiny_model().to(torch.float64)
    freeze(model, ["stem", "stages.0"])
    with torch.no_grad():
        teacher.head.fc.weight.mul_(20)
    same = {"mean": [0.5] * 3, "std": [0.25] * 3, "teacher_mean": [0.4] * 3, "teacher_std": [0.2] * 3}
    distillation = Distillation(teacher, kind="soft", alpha=0.7, tau=2.0, precision=precision, **same)
    run_small(folder, processes=processes, dtype="fp64", max_steps=4, model=model, objective=distillation)


@pytest.mark.long
def test_two_processes_train_the_same_half_frozen_student_as_one(tmp_path):
    run_frozen(ALONE, tmp_path / "1")
    in_processes(2, run_frozen, tmp_path / "2")
    one, two = (Checkpoint.open(tmp_path / str(n) / "checkpoints" / "last.pt").content for n in (1, 2))
    assert furthest(one["model"], two["model"]) < 1e-9
    untouched, trained = tiny_model().double().state_dict(), one["model"]
    assert torch.equal(untouched["stages.0.blocks.0.mlp.fc1.weight"], trained["stages.0.blocks.0.mlp.fc1.weight"])
    assert not torch.equal(untouched["stages.1.blocks.0.mlp.fc1.weight"], trained["stages.1.blocks.0.mlp.fc1.weight"])
