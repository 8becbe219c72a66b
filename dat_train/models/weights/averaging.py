"""Averaging of models fine-tuned from the same weights (model soups: Wortsman et al., ICML 2022)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dat_train.errors import UserError


def average_states(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of the weights, computed in float64. Integer entries are taken from the first state.

    Raises:
        UserError: the states are of different models.
    """
    first = states[0]
    for number, state in enumerate(states[1:], 2):
        other = {name for name in first.keys() | state.keys() if _shape(first, name) != _shape(state, name)}
        if other:
            name = min(other)
            raise UserError(
                f"the models differ: {name} is {_shape(first, name)} in the first and {_shape(state, name)} in number "
                f"{number}; only models of one architecture and the same classes can be averaged"
            )
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(value.dtype)
        if value.is_floating_point()
        else value
        for name, value in first.items()
    }


def greedy_soup(
    states: Sequence[dict[str, Tensor]], score: Callable[[dict[str, Tensor]], float], say: Callable[[str], None]
) -> tuple[list[int], dict[str, Tensor], float]:
    """Greedy soup: add models to the average, best first, and keep each that does not lower the score (recipe 1).

    Args:
        score: score of a state on images that are not used for testing; higher is better.
        say: called with a line about each trial.

    Returns:
        Indices of the averaged states, in the order they were added; their average; its score.
    """
    scores = [score(state) for state in states]
    order = sorted(range(len(states)), key=lambda number: -scores[number])  # stable: the first of equals
    chosen, best = [order[0]], scores[order[0]]
    say(f"number {order[0] + 1} alone: {best:.2f}")
    soup = states[order[0]]
    for number in order[1:]:
        candidate = average_states([states[n] for n in [*chosen, number]])
        found = score(candidate)
        say(
            f"with number {number + 1} ({scores[number]:.2f} alone): {found:.2f}{'' if found >= best else ', left out'}"
        )
        if found >= best:
            chosen, soup, best = [*chosen, number], candidate, found
    return chosen, soup, best


def _shape(state: dict[str, Tensor], name: str) -> tuple[int, ...] | str:
    return tuple(state[name].shape) if name in state else "missing"
