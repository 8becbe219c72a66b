"""Batches are the same bits for no, one or several workers."""

import pytest
import torch
from data.files import photo

from dat_train.data import images as module
from dat_train.data.augment import eval_transform, train_transform
from dat_train.data.batch import prepare_images
from dat_train.data.dataset import ImageDataset
from dat_train.data.loader import evaluation_loader, train_loader
from dat_train.data.micro_batches import MicroBatchSampler
from dat_train.data.order import epoch_order
from dat_train.errors import UserError
from dat_train.runtime.batch_feed import BatchFeed

NORM = {"mean": (0.5,) * 3, "std": (0.5,) * 3}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Ten crops of a photograph and one file that is none, DeiT's augmentation."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(10):
        photo(60 + i, 50).save(folder / f"{i}.jpg")
    (folder / "4.jpg").write_bytes(b"no image")
    samples = [(str(folder / f"{i}.jpg"), i) for i in range(10)]
    transform = train_transform(32, rand_augment="rand-m9-mstd0.5-inc1", random_erasing=0.25, **NORM)
    return ImageDataset(samples, "abcdefghij", transform)


def sampler(**settings):
    steps = {"first_step": 0, "last_step": 4, "batch_size": 4, "micro_batch_size": 2}
    return MicroBatchSampler(10, seed=0, **(steps | settings))


def same(one, other):
    return (
        torch.equal(one.images, other.images)
        and torch.equal(one.labels, other.labels)
        and torch.equal(one.indices, other.indices)
        and one.unreadable == other.unreadable
        and torch.equal(prepare_images(one), prepare_images(other))
    )


@pytest.fixture(scope="module")
def batches(photos):
    return list(train_loader(photos, sampler()))


def test_a_batch_in_the_samplers_order(batches, photos):
    assert len(batches) == len(train_loader(photos, sampler())) == 8
    assert batches[0].images.shape == (2, 3, 32, 32) and batches[0].images.dtype == torch.uint8
    assert torch.equal(batches[0].normalization, torch.full((2, 3), 0.5))
    wanted = epoch_order(0, 0, 10)[:8, 0].tolist()
    assert torch.cat([batch.labels for batch in batches[:4]]).tolist() == [5 if i == 4 else i for i in wanted]
    assert all(torch.equal(batch.labels, batch.indices) for batch in batches)  # also of the stand-in
    unreadable = [path for batch in batches for path in batch.unreadable]
    assert unreadable and set(unreadable) == {photos.samples[4][0]}


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_no_bit_and_no_order(workers, batches, photos):
    loaded = list(train_loader(photos, sampler(), workers=workers))
    assert len(loaded) == len(batches)
    assert all(map(same, loaded, batches))


def test_a_later_start_gives_the_rest(batches, photos):
    rest = list(train_loader(photos, sampler(first_step=3)))
    assert all(map(same, rest, batches[6:])) and len(rest) == 2


def test_evaluation_over_processes_covers_the_set(photos):
    still = ImageDataset(photos.samples, photos.classes, eval_transform(32, **NORM), training=False)
    parts = [evaluation_loader(still, batch_size=4, rank=rank, world_size=2) for rank in (0, 1)]
    batches = [batch for part in parts for batch in part]
    assert [len(part) for part in parts] == [2, 2]
    labels = {i: label for batch in batches for i, label in zip(batch.indices.tolist(), batch.labels, strict=True)}
    assert labels == {i: -1 if i == 4 else i for i in range(10)}
    assert [path for batch in batches for path in batch.unreadable] == [photos.samples[4][0]]


def test_a_user_error_in_a_worker_is_one_line(photos, monkeypatch):
    monkeypatch.setattr(module, "MAX_REPLACEMENTS", 1)
    texts = []
    for workers in (0, 1):
        with pytest.raises(UserError) as caught:
            list(train_loader(photos, sampler(), workers=workers))
        texts.append(str(caught.value))
    assert texts[0] == texts[1]
    assert texts[0].startswith("1 consecutive images cannot be read, beginning with ") and "\n" not in texts[0]


def test_other_errors_of_a_worker_keep_their_traceback(photos):
    broken = ImageDataset(photos.samples, photos.classes, lambda image: image)  # no tensor, which collating needs
    with pytest.raises(AttributeError, match=r"(?s)in DataLoader worker process 0.*permute"):
        list(train_loader(broken, sampler(), workers=1))


def test_the_error_of_a_transform_that_always_fails_is_in_the_message(photos):
    broken = ImageDataset([photos.samples[5]] * 10, photos.classes, lambda image: image.no_such_thing)
    with pytest.raises(UserError, match=r"10 consecutive images cannot be read, .*AttributeError: .*no_such_thing"):
        list(train_loader(broken, sampler(), workers=1))


def test_pinning_is_asked_of_torch(photos):
    assert train_loader(photos, sampler(), pin_memory=True).pin_memory
    assert not evaluation_loader(photos, batch_size=2).pin_memory
    assert evaluation_loader(photos, batch_size=2, pin_memory=True).pin_memory


class Unsendable:
    """Batch that cannot be sent, as with full shared memory or too many open files."""

    def __reduce__(self):
        raise OSError("too many open files")


def test_a_batch_that_cannot_be_sent_is_an_error(photos):
    photos.collate = lambda samples: Unsendable()
    feed = BatchFeed(lambda _step: evaluation_loader(photos, batch_size=4, workers=1), print, timeout_minutes=1)
    with pytest.raises(OSError, match="too many open files"):
        feed.next(0, 0)
