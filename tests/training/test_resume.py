"""An interrupted run ends with the same bytes as an uninterrupted one."""

import random

import pytest
import torch
from training.small_run import run_small, small_training

from dat_train.errors import UserError
from dat_train.models.weights.checkpoint import Checkpoint
from dat_train.runtime.checkpoint_file import write_checkpoint
from dat_train.runtime.stop_request import StopRequest
from dat_train.training import checkpoint_writer as writer
from dat_train.training.optimizer import build_optimizer
from dat_train.training.resume import newest_good_checkpoint, restore_from, resume_mode
from dat_train.training.run_folder import RunFolder, read_rows
from dat_train.training.state import TrainState

FILES = ("checkpoints/last.pt", "checkpoints/best.pt", "metrics.jsonl")


def content(folder) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert run_small(folder)
    return content(folder)


class Killed(BaseException):
    """Exception that ends a run like a kill: it is not caught, and nothing else is written."""


def run_until_killed(folder, arrange, **settings) -> None:
    """Run a training in which `arrange(training)` has planned a kill."""
    training = small_training(folder, **{"every_minutes": 0} | settings)  # 0: a checkpoint after every step
    arrange(training)
    with pytest.raises(Killed):
        training.run()
    training.log.folder.unlock()


def killed_after(step):
    """Plan a kill at the end of `step`."""

    def arrange(training):
        note = training.log.step

        def note_and_die(number, *row):
            note(number, *row)
            if number == step:
                training.checkpoints.wait()
                raise Killed

        training.log.step = note_and_die

    return arrange


def test_a_run_is_a_function_of_its_configuration(uninterrupted, tmp_path):
    assert run_small(tmp_path, workers=2)
    assert content(tmp_path) == uninterrupted


def test_resuming_after_a_kill_in_every_step_gives_the_same_bytes(uninterrupted, tmp_path):
    for step in range(1, 10):
        run_until_killed(tmp_path, killed_after(step), workers=step % 2)
    assert run_small(tmp_path)
    assert content(tmp_path) == uninterrupted


@pytest.mark.parametrize("batch", [0, 3])
def test_resuming_after_a_kill_in_validation_gives_the_same_bytes(uninterrupted, tmp_path, batch):
    def arrange(training):
        def loader():
            for number, item in enumerate(whole):
                if number == batch and training.state.step == 6:
                    raise Killed
                yield item

        whole = list(training.val_loader)
        training.val_loader = type("Loader", (), {"__iter__": lambda _: loader(), "__len__": lambda _: len(whole)})()

    run_until_killed(tmp_path, arrange)
    assert len(read_rows(tmp_path / "metrics.jsonl")) == 7  # six steps, one validation
    assert run_small(tmp_path)
    assert content(tmp_path) == uninterrupted


@pytest.mark.parametrize("file", ["best.pt", "last.pt"])
@pytest.mark.parametrize("step", [3, 6])
def test_resuming_after_a_kill_around_a_write_gives_the_same_bytes(uninterrupted, tmp_path, monkeypatch, file, step):
    def write(snapshot, path):
        if snapshot["step"] == step and path.name == file:
            raise Killed
        write_checkpoint(snapshot, path)

    with monkeypatch.context() as patch:
        patch.setattr(writer, "write_checkpoint", write)
        run_until_killed(tmp_path, lambda training: None, every_minutes=10)
    assert run_small(tmp_path)
    assert content(tmp_path) == uninterrupted


def test_half_written_rows_and_leftovers_of_a_kill_do_not_matter(uninterrupted, tmp_path):
    run_until_killed(tmp_path, killed_after(5))
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 6, "epo')
    (tmp_path / "checkpoints" / ".last.pt.new").write_bytes(b"PK half a checkpoint")
    assert run_small(tmp_path)
    assert content(tmp_path) == uninterrupted


def test_a_run_killed_before_its_first_checkpoint_starts_again(uninterrupted, tmp_path):
    run_until_killed(tmp_path, killed_after(2), every_minutes=10)
    assert not (tmp_path / "checkpoints" / "last.pt").exists()
    assert run_small(tmp_path)
    assert content(tmp_path) == uninterrupted


class AskedToStop(StopRequest):
    """A stop request that appears at the `count`-th check."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.left = count

    @property
    def requested(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("count", [0, 2, 4, 14])  # in steps 1 and 3, in two validations
def test_a_stopped_run_continues_to_the_same_bytes(uninterrupted, tmp_path, count):
    assert not run_small(tmp_path, stop=AskedToStop(count))
    state = Checkpoint.open(tmp_path / "checkpoints" / "last.pt").content
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl") if "loss" in row][-1] == state["step"] < 9
    assert run_small(tmp_path)
    assert content(tmp_path) == uninterrupted


def test_a_damaged_checkpoint_is_passed_over_for_the_newest_whole_one(uninterrupted, tmp_path):
    run_until_killed(tmp_path, killed_after(6), keep=2)
    last = tmp_path / "checkpoints" / "last.pt"
    data = bytearray(last.read_bytes())
    data[random.Random(0).randrange(len(data))] ^= 16
    last.write_bytes(data)
    training = small_training(tmp_path)
    assert training.state.step == 4
    log = (tmp_path / "log.txt").read_text()
    assert "last.pt was altered" in log and "continuing from" in log and "last-000000004.pt, step 4" in log
    training.run()
    training.log.folder.unlock()
    assert content(tmp_path) == uninterrupted


def test_a_folder_with_damaged_checkpoints_alone_is_refused(tmp_path):
    run_until_killed(tmp_path, killed_after(2))
    (tmp_path / "checkpoints" / "last.pt").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"all checkpoints in .* are damaged; resume=never"):
        small_training(tmp_path)


def test_resume_never_renames_the_earlier_run_and_starts_a_new_one(uninterrupted, tmp_path):
    run = tmp_path / "run"
    for _ in range(2):
        run_until_killed(run, killed_after(3), resume="never")
    assert run_small(run, resume="never")
    assert content(run) == uninterrupted
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.old-1", "run.old-2"]
    assert Checkpoint.open(tmp_path / "run.old-1" / "checkpoints" / "last.pt").content["step"] == 2


def test_resume_never_does_not_start_a_new_run_after_a_restart_by_torchrun(uninterrupted, tmp_path, monkeypatch):
    run_until_killed(tmp_path / "run", killed_after(5), resume="never")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    training = small_training(tmp_path / "run", resume="never")
    training.log.folder.unlock()
    assert training.state.step == 4 and not (tmp_path / "run.old-1").exists()


def test_a_path_in_the_folder_rewinds_the_run(uninterrupted, tmp_path):
    assert run_small(tmp_path, every_minutes=0, keep=20)
    early = tmp_path / "checkpoints" / "last-000000004.pt"
    training = small_training(tmp_path, resume=str(early))
    assert training.state.step == 4
    training.run()
    training.log.folder.unlock()
    assert content(tmp_path) == uninterrupted


def test_a_kill_right_after_rewinding_leaves_no_gap_in_the_metrics(uninterrupted, tmp_path):
    """Before the next checkpoint; resume=auto then continues from the checkpoint of the rewind, not from step 9."""
    assert run_small(tmp_path, every_minutes=0, keep=20)
    early = str(tmp_path / "checkpoints" / "last-000000004.pt")
    run_until_killed(tmp_path, killed_after(5), resume=early, every_minutes=10, keep=20)
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl") if "lr" in row][-1] <= 5
    training = small_training(tmp_path)
    assert training.state.step == 4
    training.run()
    training.log.folder.unlock()
    assert content(tmp_path) == uninterrupted


def test_a_kill_right_after_a_start_from_elsewhere_keeps_the_start(uninterrupted, tmp_path):
    run_until_killed(tmp_path / "a", killed_after(4))
    source = tmp_path / "a" / "checkpoints" / "last.pt"  # three steps
    before = source.read_bytes()
    run_until_killed(tmp_path / "b", killed_after(5), resume=str(source), every_minutes=10)
    training = small_training(tmp_path / "b")
    assert training.state.step == 3
    training.run()
    training.log.folder.unlock()
    assert content(tmp_path / "b")["checkpoints/last.pt"] == uninterrupted["checkpoints/last.pt"]
    assert [row["step"] for row in read_rows(tmp_path / "b" / "metrics.jsonl") if "lr" in row] == [4, 5, 6, 7, 8, 9]
    assert source.read_bytes() == before


def test_a_checkpoint_of_another_folder_starts_a_run_and_does_not_continue_it(uninterrupted, tmp_path):
    run_until_killed(tmp_path / "a", killed_after(4))
    source = str(tmp_path / "a" / "checkpoints" / "last.pt")  # three steps
    run_until_killed(tmp_path / "b", killed_after(6), resume=source)
    assert read_rows(tmp_path / "b" / "metrics.jsonl")[0]["step"] == 4
    training = small_training(tmp_path / "b", resume=source)
    assert training.state.step == 5
    training.run()
    assert content(tmp_path / "b")["checkpoints/last.pt"] == uninterrupted["checkpoints/last.pt"]


def test_a_path_that_is_no_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a file; use the path of a checkpoint, auto or never"):
        small_training(tmp_path / "run", resume=str(tmp_path / "nothing.pt"))
    last = tmp_path / "other" / "checkpoints" / "last.pt"
    last.parent.mkdir(parents=True)
    last.touch()
    with pytest.raises(UserError, match=f"other is not a file; use the path of a checkpoint, as in {last}, auto or"):
        small_training(tmp_path / "run", resume=str(tmp_path / "other"))


def test_going_back_makes_the_good_checkpoint_the_last_one(tmp_path):
    """Otherwise a run killed right afterwards would continue from the former last.pt, whose metrics are removed."""
    run_until_killed(tmp_path, killed_after(5), keep=3)
    training = small_training(tmp_path)
    folder = training.log.folder
    good, state = folder.history()[1], training.state
    for path in (folder.last, folder.best, folder.history()[0]):  # as if written in a row of skipped steps
        saved = Checkpoint.open(path).content
        saved["counters"]["consecutive_failures"] = 2
        write_checkpoint(saved, path)
    step, before = Checkpoint.open(good).content["step"], (folder.last.read_bytes(), folder.metrics.read_bytes())
    assert newest_good_checkpoint(training.context) == good
    assert (folder.last.read_bytes(), folder.metrics.read_bytes()) == before and state.step > step
    restore_from(good, state, training.context)
    assert folder.last.read_bytes() == good.read_bytes() and state.step == step
    assert read_rows(folder.metrics)[-1]["step"] == step
    folder.unlock()


def best_of(folder) -> tuple[int, int]:
    """Step of best.pt, and of the best validation according to last.pt."""
    paths = (folder / "checkpoints" / name for name in ("best.pt", "last.pt"))
    best, last = (Checkpoint.open(path).content for path in paths)
    return best["step"], last["best"]["step"]


def test_the_best_checkpoint_is_that_of_the_run_after_a_start_from_elsewhere_and_after_rewinding(tmp_path):
    run_small(tmp_path / "a", epochs=2, keep=9)
    first, second = RunFolder(tmp_path / "a"), RunFolder(tmp_path / "b")
    assert best_of(first.path)[0] == best_of(first.path)[1]
    run_small(tmp_path / "b", resume=str(first.last), epochs=2, max_steps=5)
    assert best_of(second.path)[0] == best_of(second.path)[1]
    oldest = first.history()[-1]
    content = Checkpoint.open(first.best).content
    write_checkpoint(content | {"step": 99}, first.best)  # of steps that are abandoned
    training = small_training(tmp_path / "a", resume=str(oldest), epochs=2)
    assert best_of(first.path)[0] == training.state.best["step"]
    assert Checkpoint.open(first.checkpoints / "best-abandoned.pt").content["step"] == 99
    training.run()
    assert best_of(first.path)[0] == best_of(first.path)[1]


@pytest.mark.parametrize("variable", ["TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"])
def test_a_restarted_process_continues_its_run(variable, tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "run")
    inside, outside = str(folder.checkpoints / "last-000000003.pt"), str(tmp_path / "other.pt")
    modes = ("auto", "never", inside, outside)
    assert [resume_mode(mode, folder) for mode in modes] == list(modes)
    monkeypatch.setenv(variable, "1")
    assert [resume_mode(mode, folder) for mode in modes] == ["auto", "auto", "auto", outside]


def test_settings_of_the_optimizer_are_those_of_the_configuration_after_resuming():
    def state(name, **settings):
        model, arguments = torch.nn.Linear(2, 2), {"name": name, "lr": 1e-3} | settings
        scaler = torch.amp.GradScaler(enabled=False)
        return TrainState(model, build_optimizer(model, **arguments), scaler, config={"optim": arguments})

    before, after = state("adamw", weight_decay=0.05), state("adamw", weight_decay=5.0, betas=(0.8, 0.9))
    after.load_state_dict(before.state_dict(0))
    group = after.optimizer.param_groups[0]
    assert (group["weight_decay"], group["betas"]) == (5.0, (0.8, 0.9))
    with pytest.raises(UserError, match=r"state of optim\.name=adamw, which sgd cannot continue"):
        state("sgd", weight_decay=0.0).load_state_dict(before.state_dict(0))
