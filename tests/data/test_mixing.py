"""Mixup and cutmix with keyed draws."""

import pytest
import torch

from dat_train.data.mixing import Mixing
from dat_train.errors import UserError

CLASSES = 10
LABELS = torch.tensor([0, 3, 5, 9])


@pytest.fixture
def images():
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def shares(targets, smoothing):
    """Share of its own label in each target with two different labels."""
    mass = 1 - smoothing
    return ((targets[[0, 1, 2, 3], LABELS] - smoothing / CLASSES) / mass).tolist()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_without_mixing_labels_are_smoothed_and_images_untouched(smoothing, images):
    same, targets = Mixing(CLASSES, label_smoothing=smoothing)(images, LABELS, "mixup", 0)
    assert same is images
    assert targets.dtype == torch.float32
    expected = torch.full((4, CLASSES), smoothing / CLASSES)
    expected[range(4), LABELS] = 1 - smoothing + smoothing / CLASSES
    torch.testing.assert_close(targets, expected)
    # cross-entropy with these is torch's own with label_smoothing
    logits = torch.randn(4, CLASSES, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        torch.nn.functional.cross_entropy(logits, targets),
        torch.nn.functional.cross_entropy(logits, LABELS, label_smoothing=smoothing),
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("step", range(5))
def test_mixup_adds_the_reverse_of_the_batch_with_the_share_the_targets_say(step, smoothing, images):
    mixed, targets = Mixing(CLASSES, mixup=0.8, label_smoothing=smoothing)(images, LABELS, "mixup", 0, step)
    torch.testing.assert_close(targets.sum(1), torch.ones(4))
    own = shares(targets, smoothing)
    assert own == pytest.approx([own[0]] * 4, abs=1e-6)
    torch.testing.assert_close(mixed, own[0] * images + (1 - own[0]) * images.flip(0))


@pytest.mark.parametrize("step", range(5))
def test_cutmix_pastes_a_box_of_the_area_the_targets_say(step, images):
    mixed, targets = Mixing(CLASSES, cutmix=1.0)(images, LABELS, "mixup", 0, step)
    torch.testing.assert_close(targets.sum(1), torch.ones(4))
    pasted = (mixed != images).any(1)
    assert torch.equal(mixed, torch.where(pasted[:, None], images.flip(0), images))
    own = shares(targets, 0.0)[0]
    assert pasted[0].float().mean().item() == pytest.approx(1 - own, abs=1e-6)
    rows, columns = pasted[0].any(1).sum(), pasted[0].any(0).sum()
    assert rows * columns == pasted[0].sum()  # a box


def test_cutmix_is_chosen_with_the_switching_probability(images):
    def is_cutmix(step, probability):
        mixed, _ = Mixing(CLASSES, mixup=0.8, cutmix=1.0, switch_prob=probability)(images, LABELS, "mixup", step)
        return bool(((mixed == images) | (mixed == images.flip(0))).all())

    assert 20 < sum(is_cutmix(step, 0.5) for step in range(80)) < 60
    assert not any(is_cutmix(step, 0.0) for step in range(10))
    assert all(is_cutmix(step, 1.0) for step in range(10))


def test_draws_depend_on_the_key_alone_and_images_are_not_changed(images):
    mixing = Mixing(CLASSES, mixup=0.8, cutmix=1.0)
    before = images.clone()
    first = mixing(images, LABELS, "mixup", 0, 1, 2)
    torch.rand(3)
    again = mixing(images, LABELS, "mixup", 0, 1, 2)
    assert all(map(torch.equal, first, again))
    assert not torch.equal(mixing(images, LABELS, "mixup", 0, 1, 3)[0], first[0])
    assert torch.equal(images, before)


def test_from_the_off_step_on_images_are_not_mixed_and_labels_stay_smoothed(images):
    mixing = Mixing(CLASSES, mixup=0.8, cutmix=1.0, label_smoothing=0.1, off_step=5)
    assert not torch.equal(mixing(images, LABELS, "mixup", 0, step=4)[0], images)
    same, targets = mixing(images, LABELS, "mixup", 0, step=5)
    assert torch.equal(same, images)
    torch.testing.assert_close(targets, Mixing(CLASSES, label_smoothing=0.1)(images, LABELS)[1])


def test_an_odd_batch_is_refused_with_the_way_out():
    with pytest.raises(UserError) as caught:
        Mixing(CLASSES, mixup=0.8)(torch.zeros(3, 3, 8, 8), LABELS[:3], "mixup", 0)
    assert str(caught.value) == (
        "mixup and cutmix pair images, and micro_batch_size=3 is odd; take an even one, or "
        "mixing.mixup=0 mixing.cutmix=0"
    )
