"""Export of a model as one graph (torch.export), the source of .pt2 and ONNX files.

The batch size is dynamic; height and width are fixed, or dynamic from a smallest side.
"""

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as config

from dat_train.errors import UserError
from dat_train.export.any_size import with_any_size
from dat_train.export.staging import staged_file

TOLERANCE = 1e-4  # largest difference of an output, relative to its largest value (absolute below 1)
BATCH_SIZES = (1, 2, 5)  # on which the written file is compared with the model

Outputs = Tensor | tuple[Tensor, ...]


def trace(model: nn.Module, input_size: tuple[int, int, int], smallest: int | None = None) -> ExportedProgram:
    """The graph of `model` in evaluation mode, images (batch, C, H, W) -> output or outputs, for any batch size.

    Args:
        input_size: (C, H, W).
        smallest: smallest side of images of any height and width; None: H and W of `input_size` are fixed.

    Raises:
        UserError: the model cannot be traced for images of any size.
    """
    images = torch.zeros(2, *input_size)
    batch = {0: Dim("batch", min=1)}
    with torch.no_grad(), quiet():
        if smallest is None:
            return torch.export.export(model.eval(), (images,), dynamic_shapes=(batch,))
        graph = with_any_size(copy.deepcopy(model)).eval()
        sides = {2: Dim("height", min=smallest), 3: Dim("width", min=smallest)}
        try:
            with config.patch(backed_size_oblivious=True):  # else sizes of 1 in the traced image become assumptions
                program = torch.export.export(graph, (images,), dynamic_shapes=(batch | sides,))
        except Exception as error:  # exporters raise errors of many types
            reason = str(error).strip().partition("\n")[0][:200]
            raise UserError(
                "torch.export cannot trace this backbone for images of any height and width; train with a DAT, ResNet "
                f"or ConvNeXt backbone to export ({type(error).__name__}: {reason})"
            ) from error
        # A convolution's choice of memory format for the traced batch of 2 is recorded as "batch > 1", though the
        # result does not depend on it. The ranges of `Dim` are kept, and the file is compared with batches of 1.
        program._guards_code.clear()
        return program


def write_program(
    model: nn.Module,
    path: Path,
    input_size: tuple[int, int, int],
    notes: dict[str, str],
    smallest: int | None = None,
) -> float:
    """Write the graph to `path` (.pt2), read it back, and compare it with `model`.

    Args:
        input_size, smallest: as in `trace`.
        notes: texts stored in the file by name; read with torch.export.load(path, extra_files={name: ""}).

    Returns:
        Largest absolute difference of an output.

    Raises:
        UserError: the difference exceeds TOLERANCE; `path` is not written.
    """
    with staged_file(path) as temporary:
        program = trace(model, input_size, smallest)
        with quiet():
            torch.export.save(program, temporary, extra_files=notes)
        return compare(ProgramModel(temporary), model, compared_shapes(input_size, smallest), path)


class ProgramModel(nn.Module):
    """The graph in a .pt2 file as a module. (B, C, H, W) -> output or outputs."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        with quiet():
            # not a submodule: the traced module raises on train() and eval()
            self.run = torch.export.load(path).module().forward

    def forward(self, images: Tensor) -> Outputs:
        return self.run(images)


def compared_shapes(input_size: tuple[int, int, int], smallest: int | None = None) -> list[tuple[int, ...]]:
    """Shapes (B, C, H, W) of the images on which a file is compared with its model."""
    if smallest is None:
        return [(batch, *input_size) for batch in BATCH_SIZES]
    channels, height, width = input_size
    return [(2, channels, height, width), (1, channels, smallest, smallest + 1), (1, channels, width + 37, height + 3)]


def compare(run: Callable[[Tensor], Outputs], model: nn.Module, shapes: list[tuple[int, ...]], path: Path) -> float:
    """Largest absolute difference between an output of `run` and of `model`, for noise of several shapes.

    Raises:
        UserError: the difference exceeds TOLERANCE.
    """
    generator = torch.Generator().manual_seed(0)
    largest_difference = 0.0
    for shape in shapes:
        images = torch.randn(*shape, generator=generator)
        with torch.inference_mode():
            found, expected = _as_tuple(run(images)), _as_tuple(model(images))
        for output, wanted in zip(found, expected, strict=True):
            difference = float((output - wanted).abs().max())
            limit = TOLERANCE * max(1.0, float(wanted.abs().max()))
            if not difference <= limit:  # also if it is NaN
                raise UserError(
                    f"{path.name}: outputs would differ by {difference:.1e} from PyTorch's, more than {limit:.1g}; "
                    "nothing was written; try another format=... or version of torch"
                )
            largest_difference = max(largest_difference, difference)
    return largest_difference


def _as_tuple(outputs: Outputs) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


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
