"""Members of archives and their texts, also from the cache."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from dat_train.data.storages.archives import ArchivedFolders, Shards


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DAT_TRAIN_CACHE", str(tmp_path / "cache"))


def png(value=0):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (value,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def tar(path, members):
    """Write a tar file of contents by name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))


def names(catalog):
    return [path.removeprefix(f"{catalog.base}/") for path, _ in catalog.samples]


def test_a_text_with_zero_bytes_next_to_an_image_can_be_read_from_the_cache(tmp_path):
    texts = {"a.txt": "text".encode("utf-16"), "a.json": b'{"label": "cat"}\0', "b.json": b'{"label": "dog"}'}
    tar(tmp_path / "shards/0.tar", {"a.png": png(1), "b.png": png(2), **texts})
    first, second = (Shards(tmp_path / "shards").open(None) for _ in range(2))
    assert list(first.samples) == list(second.samples) and second.classes == ["cat", "dog"]


def test_an_index_whose_lists_differ_in_length_is_created_again(tmp_path):
    tar(tmp_path / "a.tar", {"cat/1.png": png(1), "dog/1.png": png(2)})
    expected = names(ArchivedFolders(tmp_path / "a.tar").open(None))
    (cached,) = (tmp_path / "cache").iterdir()
    content = dict(np.load(cached))
    np.savez(cached, **content | {"texts": np.frombuffer(b"\0\0\0", np.uint8)})
    assert names(ArchivedFolders(tmp_path / "a.tar").open(None)) == expected
    assert np.load(cached)["texts"].tobytes() == b"\0"
