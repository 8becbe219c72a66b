"""Every form of storage gives the same samples in the same order, the same batches, and the same fingerprint."""

import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from troubleshooting import entry

from dat_train.data.augment import train_transform
from dat_train.data.fingerprint import data_fingerprint
from dat_train.data.loader import train_loader
from dat_train.data.order import MicroBatchSampler
from dat_train.data.sources import open_datasets, open_evaluation_set
from dat_train.errors import UserError

SYNSETS = ("n01440764", "n01443537", "n01484850")  # the first three of ImageNet
PACKED = ("official", "shards", "shards_json", "zip", "zip_stored", "tar")
FORMS = ("folders", "kaggle", "parquet", "saved", "csv", *PACKED)


def images():
    """(split, synset, file name, JPEG content): five training images of each class, two for validation."""
    rng = np.random.default_rng(0)
    number = 0
    for label, synset in enumerate(SYNSETS):
        for i in range(7):
            pixels = rng.integers(0, 255, (24 + i, 30, 3)).astype(np.uint8)
            pixels[..., label] = 255
            content = io.BytesIO()
            Image.fromarray(pixels).save(content, "JPEG")
            if i < 5:
                yield "train", synset, f"{synset}_{(7 * i + 3) % 11}.JPEG", content.getvalue()
            else:
                number += 1
                yield "val", synset, f"ILSVRC2012_val_{number:08d}.JPEG", content.getvalue()


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAT_TRAIN_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("hf")))
        yield


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """The same images in every form, by its name."""
    top = tmp_path_factory.mktemp("forms")
    files = list(images())
    for split, synset, name, content in files:
        path = top / "folders" / split / synset / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    makers = {"official": official, "kaggle": kaggle, "hf": hugging_face, "shards": shards, "packed": packed}
    for make in makers.values():
        make(top, files)
    names = {name: top / name for name in FORMS}
    return names | {"zip": top / "photos.zip", "zip_stored": top / "stored.zip", "tar": top / "photos.tar"}


def official(top, files):
    root = top / "official"
    (root / "ILSVRC2012_devkit_t12/data").mkdir(parents=True)
    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as outer:
        for synset in reversed(SYNSETS):
            with tarfile.open(root / f"{synset}.tar", "w") as inner:
                for path in sorted((top / "folders/train" / synset).iterdir(), reverse=True):
                    inner.add(path, path.name)
            outer.add(root / f"{synset}.tar", f"{synset}.tar")
            (root / f"{synset}.tar").unlink()
    val = {name: (synset, content) for split, synset, name, content in files if split == "val"}
    with tarfile.open(root / "ILSVRC2012_img_val.tar", "w") as archive:
        for name in val:
            archive.add(top / "folders/val" / val[name][0] / name, name)
    ids = {synset: 10 - number for number, synset in enumerate(SYNSETS)}  # the kit's numbers are not labels
    synsets = [(ids[synset], synset, "words", "gloss", 0) for synset in SYNSETS]
    kinds = [("ILSVRC2012_ID", int), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", int)]
    kit = root / "ILSVRC2012_devkit_t12"
    savemat(kit / "data/meta.mat", {"synsets": np.array(synsets, kinds)})
    truth = "".join(f"{ids[val[name][0]]}\n" for name in sorted(val))
    (kit / "data/ILSVRC2012_validation_ground_truth.txt").write_text(truth)
    with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
        archive.add(kit, kit.name)
    shutil.rmtree(kit)


def kaggle(top, files):
    below = top / "kaggle/ILSVRC/Data/CLS-LOC"
    shutil.copytree(top / "folders/train", below / "train")
    (below / "val").mkdir()
    (below / "test").mkdir()
    (below / "test/ILSVRC2012_test_00000001.JPEG").touch()
    rows = ["ImageId,PredictionString"]
    for split, synset, name, content in reversed(files):
        if split == "val":
            (below / "val" / name).write_bytes(content)
            rows.append(f"{Path(name).stem},{synset} 85 1 499 272 {synset} 1 2 3 4 ")
    (top / "kaggle/LOC_val_solution.csv").write_text("\ufeff" + "\n".join(rows) + "\n", encoding="utf-8")


def hugging_face(top, _files):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    loaded = datasets.load_dataset("imagefolder", data_dir=str(top / "folders"))
    loaded["train"] = loaded["train"].shuffle(seed=1)
    loaded.save_to_disk(str(top / "saved"))
    (top / "parquet/data").mkdir(parents=True)
    for split, data in loaded.items():
        data.to_parquet(str(top / f"parquet/data/{split}-00000-of-00001.parquet"))


def shards(top, files):
    for kind in ("shards", "shards_json"):
        (top / kind).mkdir()
        (top / kind / "classes.txt").write_text("\n".join(SYNSETS) + "\n")
        for split in ("train", "val"):
            own = [file for file in files if file[0] == split]
            for number, part in enumerate((own[1::2], own[0::2])):
                with tarfile.open(top / kind / f"imagenet1k-{split}-{number:04d}.tar", "w") as archive:
                    for _, synset, name, content in part:
                        label = SYNSETS.index(synset)
                        stem = Path(name).stem
                        side = (f"{stem}.cls", str(label)) if kind == "shards" else (
                            f"{stem}.json", json.dumps({"label": label, "height": 24}))  # fmt: skip
                        for member, data in ((f"{stem}.jpg", content), (side[0], side[1].encode())):
                            info = tarfile.TarInfo(member)
                            info.size = len(data)
                            archive.addfile(info, io.BytesIO(data))


def packed(top, files):
    shutil.make_archive(str(top / "photos"), "zip", top / "folders")
    with zipfile.ZipFile(top / "stored.zip", "w", zipfile.ZIP_STORED) as archive:
        for split, synset, name, content in files:
            archive.writestr(f"imagenet/{split}/{synset}/{name}", content)
        archive.writestr("__MACOSX/imagenet/train/._x.JPEG", b"")
    with tarfile.open(top / "photos.tar", "w") as archive:
        archive.add(top / "folders", "./imagenet")
    rows = [f"../folders/{split}/{synset}/{name};{synset};{split}" for split, synset, name, _ in files]
    (top / "csv").mkdir()
    (top / "csv/images.csv").write_text("\r\n".join(["path;label;split", *rows]), encoding="utf-16")


def samples(dataset):
    return [(Path(path).stem.split("_n0")[0], label) for path, label in dataset.samples]


@pytest.mark.parametrize("form", FORMS)
def test_samples_batches_and_fingerprint_are_those_of_the_folders(form, roots):
    kind = "csv" if form == "csv" else "folder"
    expected, found = open_datasets("folder", roots["folders"]), open_datasets(kind, roots[form])
    for one, other in zip(expected, found, strict=True):
        assert other.classes == list(SYNSETS)
        assert samples(other) == samples(one)
        assert one.stand_in == other.stand_in
    if form != "csv":  # whose names have the folders in them
        assert data_fingerprint(*found) == data_fingerprint(*expected)
    for one, other in zip(batches(expected[0]), batches(found[0]), strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels) and torch.equal(one.indices, other.indices)


def batches(dataset):
    dataset.transform = train_transform(16, scale=(0.3, 1.0), mean=(0.5,) * 3, std=(0.5,) * 3)
    dataset.seed = 3
    order = MicroBatchSampler(len(dataset), seed=5, batch_size=6, micro_batch_size=3, first_step=1, last_step=5)
    return list(train_loader(dataset, order, workers=2))


@pytest.mark.parametrize("form", PACKED)
def test_reading_ahead_changes_no_image(form, roots):
    images, _ = open_datasets("folder", roots[form])
    assert sorted(images.storage_order()) == list(range(15))
    images.read_ahead(np.arange(15))
    assert images.encoded(3) == (roots["folders"] / "train/n01440764/n01440764_6.JPEG").read_bytes()


@pytest.mark.parametrize("form", FORMS)
def test_evaluation_reads_the_validation_split_alone(form, roots):
    images = open_evaluation_set("csv" if form == "csv" else "folder", roots[form], classes=SYNSETS[::-1])
    assert len(images) == 6 and [label for _, label in images.samples] == [2, 2, 1, 1, 0, 0]
    assert images.read(0).size == (30, 29)


@pytest.mark.parametrize("level", ["", "ILSVRC", "ILSVRC/Data", "ILSVRC/Data/CLS-LOC"])
def test_kaggles_tree_is_opened_from_any_level(level, roots):
    train, val = open_datasets("folder", roots["kaggle"] / level)
    assert (len(train), len(val)) == (15, 6)


def test_a_single_set_is_split_alike_in_every_form(roots, tmp_path):
    train_folder = roots["folders"] / "train"
    shutil.make_archive(str(tmp_path / "train"), "zip", train_folder)
    parts = [open_datasets("folder", root, val_fraction=0.3) for root in (train_folder, tmp_path / "train.zip")]
    assert samples(parts[0][1]) == samples(parts[1][1]) and len(parts[0][1]) > 0
    assert data_fingerprint(*parts[0]) == data_fingerprint(*parts[1])


def test_the_index_is_kept_and_made_again_when_the_archive_changes(roots, tmp_path, monkeypatch):
    monkeypatch.setenv("DAT_TRAIN_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "a.tar"
    shutil.copy(roots["tar"], path)
    open_datasets("folder", path)
    (index,) = (tmp_path / "cache").iterdir()
    before = index.stat().st_mtime_ns
    open_datasets("folder", path)
    assert index.stat().st_mtime_ns == before
    index.write_bytes(index.read_bytes()[:100])  # a damaged one counts as missing
    open_datasets("folder", path)
    with tarfile.open(path, "a") as archive:
        archive.add(roots["folders"] / "train/n01440764/n01440764_3.JPEG", "imagenet/train/n01440764/new.JPEG")
    assert len(open_datasets("folder", path)[0]) == 16
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_damaged_or_compressed_archives_are_refused_in_one_line(roots, tmp_path):
    whole = roots["tar"].read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2 + 100])
    with pytest.raises(UserError, match=r"cut.tar is not a whole archive \(.*\); compare its size") as caught:
        open_datasets("folder", tmp_path / "cut.tar")
    assert entry("cut-archive").search(f"error: {caught.value}")
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as archive:
        archive.add(roots["folders"], "x")
    with pytest.raises(UserError, match="is compressed, so images cannot be read at random; gunzip it first"):
        open_datasets("folder", tmp_path / "packed.tar")


def test_official_archives_without_labels(roots, tmp_path):
    shutil.copy(roots["official"] / "ILSVRC2012_img_val.tar", tmp_path)
    with pytest.raises(UserError, match=r"no labels: put LOC_val_solution.csv \(Kaggle\) or ILSVRC2012_devkit"):
        open_evaluation_set("folder", tmp_path)


def test_data_imagenet_requires_all_classes_in_every_form(roots):
    for form in ("folders", "official", "parquet", "shards", "zip"):
        with pytest.raises(UserError, match="the training set has 3 classes, ImageNet-1K has 1000"):
            open_datasets("imagenet", roots[form])


def test_a_table_of_several_labels(tmp_path):
    for i in range(4):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"{i}.png")
    text = "path,tags,split\n2.png,cat;dog,train\n0.png,dog,train\n1.png,,train\n3.png,dog|cat,val\n"
    (tmp_path / "t.csv").write_text(text)
    train, val = open_datasets("csv", tmp_path, multi_label=True)
    assert train.classes == val.classes
    tags = [[train.classes[k] for k in np.flatnonzero(row)] for row in train.targets]
    assert tags == [["dog"], [], ["cat", "dog"]]


@pytest.mark.parametrize(("text", "message"), [
    ("file name,class\na.png,x\n", r"columns file name, class; none of them is path: set data.image_column=NAME"),
    ("path,label\na.png\n", r"line 2: 1 fields, the heading has 2"),
    ("path,label\na.png,\n", r"line 2: no path or no label"),
    ("path,label\n", r"lists no images"),
])  # fmt: skip
def test_errors_in_a_table_are_named(text, message, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        open_datasets("csv", tmp_path / "t.csv")


def test_a_hub_name_that_cannot_be_reached_is_one_line():
    with pytest.raises(UserError, match=r"data.root=nobody/nothing is not a folder, and the Hugging Face Hub"):
        open_datasets("hf", "nobody/nothing")
