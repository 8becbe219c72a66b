"""Cell nuclei in a fluorescence micrograph, with a mask of each nucleus: a small real data set."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from dat_train.data.generated.scene_folder import Scenes, write_scene_folder
from dat_train.data.randomness import keyed_seed
from dat_train.errors import UserError

CLASSES = ("background", "nucleus")
PACKAGE = "stardist"
TILE = 128  # pixels
HELD_OUT = 4  # of the 16 tiles


def write_nuclei(root: str | Path, split_seed: int = 0) -> Path:
    """Write the micrograph as 16 tiles below `root`, once; see `write_scene_folder`.

    The image and its masks are part of the Python package stardist. A nucleus on the border of two tiles is cut into
    an object in each.

    Args:
        root: folder to write; it is complete or missing at any time.
        split_seed: key of the tiles that are held out.

    Raises:
        UserError: the package is not installed; the folder contains something else, or cannot be written.

    Source: 2018 Data Science Bowl (Caicedo et al., Nature Methods 2019), image set BBBC038 of the Broad Bioimage
    Benchmark Collection, public domain (CC0); distributed in stardist (Weigert and Schmidt, BSD-3-Clause).
    """
    return write_scene_folder(root, CLASSES, lambda: _tiles(split_seed), f"nuclei split_seed={split_seed}")


def _tiles(split_seed: int) -> dict[str, Scenes]:
    image, instances = _micrograph()
    order = np.random.default_rng(keyed_seed("split", split_seed)).permutation(
        len(image) // TILE * (len(image[0]) // TILE)
    )
    parts: dict[str, Scenes] = {}
    for part, numbers in (("train", order[HELD_OUT:]), ("val", order[:HELD_OUT])):
        parts[part] = [_tile(image, instances, int(number)) for number in sorted(numbers)]
    return parts


def _tile(image: np.ndarray, instances: np.ndarray, number: int) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """Tile in row-major order, with its nuclei."""
    row, column = (TILE * place for place in divmod(number, image.shape[1] // TILE))
    area = slice(row, row + TILE), slice(column, column + TILE)
    cut = instances[area]
    return image[area], [(1, cut == identity) for identity in np.unique(cut) if identity]


def _micrograph() -> tuple[np.ndarray, np.ndarray]:
    """Image (512, 512, 3) uint8, stretched to the full range, and the number of the nucleus at each pixel, 0 for none.

    Raises:
        UserError: the package is not installed.
    """
    spec = find_spec(PACKAGE)  # does not import the package, which has many dependencies
    folders = [Path(place) / "data" / "images" for place in (spec.submodule_search_locations if spec else None) or ()]
    folder = next((folder for folder in folders if (folder / "img2d.tif").is_file()), None)
    if folder is None:
        raise UserError("data=nuclei takes its image from the package stardist: pip install --no-deps stardist (3 MB)")
    image, instances = (np.asarray(Image.open(folder / name)) for name in ("img2d.tif", "mask2d.tif"))
    low, high = np.percentile(image, (1, 99.8))
    gray = (np.clip((image - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2), instances
