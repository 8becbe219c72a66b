"""Export of a model as one graph with a dynamic batch size (torch.export), the source of .pt2 and ONNX files."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from dat_train.errors import UserError
from dat_train.export.staging import staged_file

TOLERANCE = 1e-4  # largest difference of a logit, relative to the largest logit (absolute below 1)
BATCH_SIZES = (1, 2, 5)  # compared with PyTorch


def trace(model: nn.Module, input_size: tuple[int, int, int]) -> ExportedProgram:
    """The graph of `model` in evaluation mode, images (batch, C, H, W) -> logits, for any batch size.

    Args:
        input_size: (C, H, W), fixed in the graph.
    """
    with torch.no_grad(), quiet():
        batch = {0: Dim("batch", min=1)}
        return torch.export.export(model.eval(), (torch.zeros(2, *input_size),), dynamic_shapes=(batch,))


def write_program(model: nn.Module, path: Path, input_size: tuple[int, int, int], notes: dict[str, str]) -> float:
    """Write the graph to `path` (.pt2), read it back, and compare it with `model`.

    Args:
        input_size: (C, H, W), fixed in the file.
        notes: texts stored in the file by name; read with torch.export.load(path, extra_files={name: ""}).

    Returns:
        Largest absolute difference of a logit.

    Raises:
        UserError: the difference exceeds TOLERANCE; `path` is not written.
    """
    with staged_file(path) as temporary:
        with quiet():
            torch.export.save(trace(model, input_size), temporary, extra_files=notes)
        return compare(ProgramModel(temporary), model, input_size, path)


class ProgramModel(nn.Module):
    """The graph in a .pt2 file as a module. (B, C, H, W) -> (B, classes)."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        with quiet():
            # not a submodule: the traced module raises on train() and eval()
            self.run = torch.export.load(path).module().forward

    def forward(self, images: Tensor) -> Tensor:
        return self.run(images)


def compare(run: Callable[[Tensor], Tensor], model: nn.Module, input_size: tuple[int, int, int], path: Path) -> float:
    """Largest absolute difference between the logits of `run` and of `model`, for noise in several batch sizes.

    Raises:
        UserError: the difference exceeds TOLERANCE.
    """
    generator = torch.Generator().manual_seed(0)
    differences, largest = [], 1.0
    for batch in BATCH_SIZES:
        images = torch.randn(batch, *input_size, generator=generator)
        with torch.inference_mode():
            expected = model(images)
            differences.append((run(images) - expected).abs().max())
            largest = max(largest, float(expected.abs().max()))
    difference = float(torch.stack(differences).max())  # NaN if any is
    if not difference <= TOLERANCE * largest:
        raise UserError(
            f"{path.name}: logits would differ by {difference:.1e} from PyTorch's, more than "
            f"{TOLERANCE * largest:.1g}; nothing was written; try another format=... or version of torch"
        )
    return difference


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the output, warnings and logs of exporters."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)
