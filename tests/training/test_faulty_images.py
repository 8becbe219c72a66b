"""A truncated JPEG, a decompression bomb and a file deleted during training, with one and two processes."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from training.real_run import RealRun, ended, ranks, steps_done

from dat_train.data.storages.sources import open_datasets
from dat_train.training.run_folder import read_rows

pytestmark = pytest.mark.long

SETTINGS = ("data=folder", "data.workers=0", "data.val_fraction=0.2", "data.max_unreadable=1", "log.every=1")


@pytest.fixture
def photos(tmp_path):
    """56 images of two classes; one is truncated, one has 10^10 pixels according to its header."""
    draw = np.random.default_rng(0)
    folder = tmp_path / "photos"
    for number in range(55):
        path = folder / "ab"[number % 2] / f"{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(path)
    cut = folder / "a" / "06.jpg"
    cut.write_bytes(cut.read_bytes()[:400])
    (folder / "b" / "07.png").write_bytes(bomb())
    return folder


def bomb() -> bytes:
    """A PNG of a few bytes whose header says 100,000 x 100,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


def counts(run) -> list[int]:
    return [row["unreadable"] for row in read_rows(run / "metrics.jsonl") if "lr" in row]


def test_faulty_images_have_the_same_effect_on_one_and_two_processes(photos, tmp_path):
    settings = (*SETTINGS, f"data.root={photos}")
    one = RealRun(tmp_path / "one", *settings, "epochs=4")
    two = ranks(tmp_path / "two", 2, *settings, "epochs=4")
    with ended(one, *two):
        assert [run.wait() for run in (one, *two)] == [0, 0, 0], one.output
    # both in each of four epochs: 48 images are six whole batches, so no image is left out
    assert counts(one.run) == counts(two[0].run) and counts(one.run)[-1] == 8
    for run in (one, two[0]):
        for name, why in (("a/06.jpg", "OSError"), ("b/07.png", "DecompressionBomb")):
            (line,) = [line for line in run.output.splitlines() if name in line]
            assert line.startswith(f"warning: {photos}/{name}") and "it is replaced by another image" in line, why

    train_set, _ = open_datasets("folder", photos, val_fraction=0.2)
    gone = Path(train_set.samples[0][0])
    more = ranks(tmp_path / "two", 2, *settings, "epochs=12")  # while these train, another one disappears
    with ended(*more):
        more[0].wait_for(lambda: steps_done(more[0].run) >= 30)
        gone.unlink()
        assert [run.wait() for run in more] == [0, 0]
    found = counts(more[0].run)
    assert found[-1] > 2 * 12 and found == sorted(found)
    assert more[0].output.count(f"{gone} cannot be read; it is replaced by another image") == 1
