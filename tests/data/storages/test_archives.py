"""Members of archives: links, names that begin with "./", files that are left out, texts next to images."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from dat_train.data.storages.archives import ArchivedFolders, OfficialArchives, Shards
from dat_train.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DAT_TRAIN_CACHE", str(tmp_path / "cache"))


def png(value=0):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (value,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def link(target, kind=tarfile.SYMTYPE):
    """Member that is a link; a hard link is LNKTYPE."""
    header = tarfile.TarInfo()
    header.type, header.linkname = kind, target
    return header


def tar(path, members):
    """Write a tar file of contents or links by name, and return its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            header = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo()
            header.name = name
            header.size = 0 if header is content else len(content)
            archive.addfile(header, None if header is content else io.BytesIO(content))
    return path.read_bytes()


def names(catalog):
    return [path.removeprefix(f"{catalog.base}/") for path, _ in catalog.samples]


def test_links_in_an_archive_are_images_and_broken_ones_are_said(tmp_path):
    members = {
        "./cat/1.png": png(1),
        "./cat/2.png": link("./cat/1.png", tarfile.LNKTYPE),
        "./cat/3.png": link("4.png"),  # to a link that comes later
        "./cat/4.png": link("../dog/1.png"),
        "./cat/5.png": link("/data/5.png"),
        "./cat/6.png": link("6.png"),  # to itself
        "./dog/1.png": png(2),
    }
    tar(tmp_path / "a.tar", members)
    for _ in range(2):  # the second time from the cache
        catalog = ArchivedFolders(tmp_path / "a.tar").open(None)
        assert names(catalog) == ["cat/1.png", "cat/2.png", "cat/3.png", "cat/4.png", "dog/1.png"]
        assert [catalog.source.open(i) for i in range(5)] == [png(1), png(1), png(2), png(2), png(2)]
        assert catalog.notes == (f"{tmp_path}/a.tar: broken links, not used: cat/5.png, cat/6.png",)


def test_links_in_the_archives_of_imagenets_classes(tmp_path):
    inner = tar(tmp_path / "inner.tar", {"x_1.JPEG": png(1), "x_2.JPEG": link("x_1.JPEG", tarfile.LNKTYPE)})
    tar(tmp_path / "ILSVRC2012_img_train.tar", {"./n01440764.tar": inner, "./readme.md": b"text"})
    catalog = OfficialArchives(tmp_path).open("train")
    assert names(catalog) == ["n01440764/x_1.JPEG", "n01440764/x_2.JPEG"] and catalog.classes == ["n01440764"]
    assert catalog.source.open(1) == png(1)
    assert [note.partition(": ")[2] for note in catalog.notes] == ["files that are not images: 1 (1 .md)"]


def test_an_official_archive_of_a_whole_folder_and_one_without_images(tmp_path):
    table = "ImageId,PredictionString\nILSVRC2012_val_00000001,n01751748 1 2 3 4\n"
    (tmp_path / "LOC_val_solution.csv").write_text(table)
    path = tmp_path / "ILSVRC2012_img_val.tar"
    tar(path, {"./ILSVRC2012_val_00000001.JPEG": png(), "./._ILSVRC2012_val_00000001.JPEG": b"macOS"})
    assert names(OfficialArchives(tmp_path).open("val")) == ["ILSVRC2012_val_00000001.JPEG"]
    tar(path, {"readme.txt": b"text"})
    with pytest.raises(UserError, match=r"ILSVRC2012_img_val\.tar has no images$"):
        OfficialArchives(tmp_path).open("val")


@pytest.mark.parametrize("folder", ["", "./", "x/", "./x/"])
def test_shards_of_any_names_and_the_files_that_they_leave_out(folder, tmp_path):
    members = {"a.png": png(1), "a.cls": b"1", "a.txt": b"text", "b.png": png(2), "b.cls": b"0", "b.npy": b"array"}
    others = {"._a.png": b"macOS", "._a.cls": b"macOS", "c.jxl": b"unknown", "c.cls": b"1"}
    tar(tmp_path / "shards/0.tar", {f"{folder}{name}": content for name, content in (members | others).items()})
    catalog = Shards(tmp_path / "shards").open(None)
    assert names(catalog) == [f"{folder}b.png".removeprefix("./"), f"{folder}a.png".removeprefix("./")]
    assert [catalog.source.open(i) for i in range(2)] == [png(2), png(1)]
    left_out = "files that are not images: 3 (1 .npy, 1 .jxl, 1 .cls)"
    assert catalog.notes == (f"{tmp_path}/shards: {left_out}",)


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
