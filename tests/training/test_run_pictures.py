"""Pictures of a run for its loggers; a failed picture does not end the run."""

import numpy as np
import pytest
from PIL import Image
from training.small_run import CLASSES, small_training

from dat_train.evaluation.confusion_picture import write_confusion
from dat_train.training.run_pictures import RunPictures


class Notes:
    """A logger that records its pictures."""

    def __init__(self):
        self.pictures = []

    def log_picture(self, name, path, step):
        with Image.open(path) as image:
            image.load()
        self.pictures.append((name, path.name, step))


def trained(folder, **settings):
    """A run of two epochs of two steps with pictures; the records of its logger and its terminal."""
    training = small_training(folder, epochs=2, batch_size=8, micro_batch_size=4, images=20, decay=0, **settings)
    notes, warnings = Notes(), []
    training.task.classes = [f"class {label}" for label in range(CLASSES)]
    training.pictures = RunPictures(training.context, [notes])
    training.pictures.warn = warnings.append
    return training, notes, warnings


def test_a_run_has_its_first_micro_batch_confusions_and_curves(tmp_path):
    training, notes, warnings = trained(tmp_path)
    training.run()
    training.pictures.curves(training.state.step)
    training.log.folder.unlock()
    assert notes.pictures[0] == ("batch", "batch.png", 0) and not warnings
    names = [name for name, _, _ in notes.pictures]
    assert names.count("batch") == 1 and names[-1] == "curves"
    confusions = [step for name, _, step in notes.pictures if name == "confusion"]
    assert confusions and confusions[-1] == training.state.best["step"], "of the best validations"


def test_a_picture_that_cannot_be_written_gives_one_warning(tmp_path):
    training, notes, warnings = trained(tmp_path)
    training.log.folder.picture("batch").mkdir()
    (tmp_path / ".confusion.png.new").mkdir()
    assert training.run()
    training.log.folder.unlock()
    assert not notes.pictures
    assert len(warnings) == 2 and all("the run continues without it" in line for line in warnings)


@pytest.mark.parametrize("number", [3, 100])
def test_the_confusion_matrix_shows_the_predictions_of_a_class(number, tmp_path):
    labels = np.repeat(np.arange(number), 10)
    predicted = labels.copy()
    predicted[labels == 1] = 2  # all of one class, which is dark off the diagonal
    predicted[0] = -1
    write_confusion(labels, predicted, [f"a rather long class name {i}" for i in range(number)], tmp_path / "c.png")
    write_confusion(labels, labels, [f"a rather long class name {i}" for i in range(number)], tmp_path / "d.png")
    confused, right = (np.asarray(Image.open(tmp_path / f"{name}.png").convert("L"), int) for name in "cd")
    assert confused.shape == right.shape
    assert (confused != right).any() and (confused < 128).mean() < 0.5
