"""Every `experiment=` composes and trains two steps; every `ablation=` is another model."""

import copy
import importlib.util
import math
from pathlib import Path

import pytest
import torch
from commands.in_process import composed, train

from dat_train.cli.conf import choices
from dat_train.commands.build_model import build_model
from dat_train.models import count_macs, count_parameters

ROOT = Path(__file__).parents[2]
TINY = "++model.args={dims:[8,16,16,24],depths:[1,1,2,1],heads:[1,2,2,3],groups:[1,2,2,3]}"
TWO_STEPS = (
    "data=fake", "data.fake_images=8", "data.fake_classes=4", "data.val_fraction=0.5", "batch_size=4",
    "micro_batch_size=4", "max_steps=2", "eval.batch_size=4",
)  # fmt: skip
THE_SAME_IN_DAT_NANO = ("stages_2_4", "bias_table", "range_2")  # its own choices
WITHOUT_MODEL = ("finetune", "linear_probe")
SMALL = ("comparison_dat", "comparison_swin")  # small by themselves


def swept(experiment: str) -> list[str]:
    """Ablations in the file of a sweep; an empty list for a single run."""
    lines = (ROOT / "conf" / "experiment" / f"{experiment}.yaml").read_text().splitlines()
    return next((line.split(": ")[1].split(",") for line in lines if line.startswith("      ablation: ")), [])


def is_dense(experiment: str) -> bool:
    """True for experiments of segmentation and detection; tests/tasks/test_dense_recipes.py tests those."""
    return "override /task:" in (ROOT / "conf" / "experiment" / f"{experiment}.yaml").read_text()


@pytest.mark.parametrize("experiment", [name for name in choices("experiment") if not is_dense(name)])
def test_every_experiment_takes_two_steps(experiment, tmp_path):
    settings = [f"experiment={experiment}", *TWO_STEPS, *([] if experiment in SMALL else [TINY])]
    if experiment in WITHOUT_MODEL:
        settings.append("model=dat_nano")
    if ablations := swept(experiment):
        settings.append(f"ablation={ablations[-1]}")
    if "init: required" in (ROOT / "conf" / "experiment" / f"{experiment}.yaml").read_text():
        settings.append(f"init={tmp_path / 'init.pt'}")
        other = composed(*settings, "model.img_size=64")
        torch.save(build_model(other, 7).state_dict(), tmp_path / "init.pt")
    summary = train(tmp_path, "run", *settings)
    assert summary["steps"] == 2 and summary["skipped"] == 0
    assert math.isfinite(summary["final_loss"])


@pytest.mark.parametrize("ablation", choices("ablation"))
def test_every_ablation_is_a_model_that_learns(ablation):
    base, config = composed("experiment=ablations"), composed("experiment=ablations", f"ablation={ablation}")
    changed = {key: value for key, value in config.model.args.items() if base.model.args.get(key, "default") != value}
    assert (len(changed) == 0) == (ablation == "base")
    model, unchanged = build_model(config, 10), build_model(base, 10)
    assert is_the_same(model, unchanged) == (ablation in {"base", *THE_SAME_IN_DAT_NANO})
    assert count_parameters(model) > 0 and count_macs(model, 32) > 0
    model(torch.randn(2, 3, 32, 32)).logsumexp(1).sum().backward()
    for name, parameter in model.named_parameters():
        frozen = not changed.get("offsets", True) and ".sampling." in name
        assert (parameter.grad is None) == frozen, name


def test_every_ablation_is_in_a_table_of_its_own_and_in_that_of_all():
    tables = {name: swept(name) for name in choices("experiment") if name.startswith("ablation_")}
    single = {ablation for names in tables.values() for ablation in names}
    # offsets_off keeps a model's own bias: with dat_nano's, the table, it is offsets_off_bias_table
    assert single | {"offsets_off"} == set(choices("ablation"))
    assert set(swept("ablations")) == set(choices("ablation")) - {*THE_SAME_IN_DAT_NANO, "offsets_off_bias_table"}


def is_the_same(model, other) -> bool:
    """Return True if two models with equal weights give equal outputs."""
    state = other.state_dict()
    if {name: value.shape for name, value in model.state_dict().items()} != {n: v.shape for n, v in state.items()}:
        return False
    torch.manual_seed(0)
    twin, images = copy.deepcopy(model).eval(), torch.randn(2, 3, 32, 32)
    twin.load_state_dict(state)
    return torch.equal(twin(images), copy.deepcopy(other).eval()(images))


def test_ablations_are_one_override_of_a_published_model_too():
    published = build_model(composed("model=dat_t", "data=fake", "ablation=stages_none"), 2)
    assert "sampling" not in "".join(name for name, _ in published.named_parameters())
    both = composed("model=dat_t", "data=fake", "ablation=[offsets_off,bias_none]").model.args
    assert dict(both) == {"offsets": False, "position_bias": "none"}


def test_the_table_of_a_sweep_has_a_row_for_each_ablation(tmp_path, monkeypatch, capsys):
    for name in ("bias_none", "base"):
        for seed in (0, 1):
            settings = ("experiment=ablations", f"ablation={name}", f"seed={seed}", *TWO_STEPS, TINY)
            train(tmp_path, f"ablations-ablation_{name}-seed_{seed}", *settings)
    script = load_script("ablation_table")
    monkeypatch.setattr("sys.argv", ["ablation_table.py", str(tmp_path)])
    script.main()
    shown = capsys.readouterr().out
    assert [line.split("`")[1] for line in shown.splitlines() if line.startswith("| `")][1:] == ["base", "bias_none"]
    rows = (tmp_path / "ablations.csv").read_text().splitlines()
    assert rows[0].startswith("ablation,what,runs,parameters") and len(rows) == 3
    assert rows[1].startswith('base,"unchanged model, for comparison",2,')
    monkeypatch.setattr("sys.argv", ["ablation_table.py", str(tmp_path), "ablation_bias"])
    with pytest.raises(SystemExit, match="no finished run"):
        script.main()


def load_script(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
