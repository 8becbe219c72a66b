"""Model soups: means of weights, uniform and greedy."""

import pytest
import torch

from dat_train.errors import UserError
from dat_train.models.weights.averaging import average_states, greedy_soup


def state(value: float) -> dict:
    return {"w": torch.full((2, 2), value), "count": torch.tensor(3)}


def test_the_average_is_the_mean():
    soup = average_states([state(0.1), state(0.2), state(0.6)])
    assert torch.allclose(soup["w"], torch.full((2, 2), 0.3)) and soup["w"].dtype == torch.float32
    assert soup["count"] == 3


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"w": torch.zeros(3)}, r"count is \(\) in the first and missing in number 2"),
        ({"w": torch.zeros(3), "count": torch.tensor(3)}, r"w is \(2, 2\)"),
    ],
)
def test_other_models_are_refused(other, message):
    with pytest.raises(UserError, match=message):
        average_states([state(0.0), other])


def test_a_greedy_soup_adds_models_best_first_if_they_help():
    # closeness to 1: 0.9 is the best, 1.3 beside it makes 1.1, as good; 3.0 would spoil it; 0.6 brings 1.1 to 0.933
    scores, lines = [], []

    def score(candidate):
        scores.append(candidate["w"][0, 0].item())
        return round(10 - abs(scores[-1] - 1), 6)

    chosen, soup, best = greedy_soup([state(v) for v in (3.0, 0.6, 0.9, 1.3)], score, lines.append)
    assert chosen == [2, 3, 1] and soup["w"][0, 0].item() == pytest.approx(2.8 / 3)
    assert best == pytest.approx(10 - abs(2.8 / 3 - 1), abs=1e-5)
    assert len(lines) == 4 and "left out" in lines[-1]
