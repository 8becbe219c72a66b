"""The same 21 images of three ImageNet classes in every form of storage, written by the tools that people use."""

import io
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

SYNSETS = ("n01440764", "n01443537", "n01484850")  # the first three of ImageNet
PACKED = ("official", "shards", "shards_json", "zip", "zip_stored", "tar")
FORMS = ("folders", "kaggle", "parquet", "saved", "csv", *PACKED)

File = tuple[str, str, str, bytes]  # split, class, file name, JPEG content


def write_forms(top: Path) -> dict[str, Path]:
    """Write every form below `top`; return its `data.root` by its name in FORMS."""
    files = list(images())
    for split, synset, name, content in files:
        path = top / "folders" / split / synset / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for write in (official, kaggle, hugging_face, shards, packed, table):
        write(top, files)
    roots = {name: top / name for name in FORMS}
    archives = {"zip": top / "photos.zip", "zip_stored": top / "stored.zip", "tar": top / "photos.tar"}
    return roots | archives | {"csv": top / "csv/images.csv"}


def images() -> Iterator[File]:
    """Five training images of each class, and two for validation."""
    rng = np.random.default_rng(0)
    number = 0
    for label, synset in enumerate(SYNSETS):
        for i in range(7):
            pixels = rng.integers(0, 255, (24 + i, 30, 3)).astype(np.uint8)
            pixels[..., label] = 255
            content = io.BytesIO()
            Image.fromarray(pixels).save(content, "JPEG")
            if i < 5:
                yield "train", synset, f"{synset}_{(3, 30, 6, 2, 9)[i]}.JPEG", content.getvalue()
            else:
                number += 1
                yield "val", synset, f"ILSVRC2012_val_{number:08d}.JPEG", content.getvalue()


def official(top: Path, files: list[File]) -> None:
    """The archives of the challenge, by GNU tar, with members in another order than by name."""
    root = top / "official"
    (root / "ILSVRC2012_devkit_t12/data").mkdir(parents=True)
    for synset in SYNSETS:
        names = sorted((path.name for path in (top / "folders/train" / synset).iterdir()), reverse=True)
        tar(root / f"{synset}.tar", top / "folders/train" / synset, names)
    tar(root / "ILSVRC2012_img_train.tar", root, [f"{synset}.tar" for synset in reversed(SYNSETS)])
    for synset in SYNSETS:
        (root / f"{synset}.tar").unlink()
    val = {name: synset for split, synset, name, _ in files if split == "val"}
    flat = top / "flat"
    flat.mkdir()
    for name, synset in val.items():
        shutil.copy(top / "folders/val" / synset / name, flat)
    tar(root / "ILSVRC2012_img_val.tar", flat, list(val))
    ids = {synset: 10 - number for number, synset in enumerate(SYNSETS)}  # the kit's numbers are not labels
    synsets = [(ids[synset], synset, "words", "gloss", 0) for synset in SYNSETS]
    kinds = [("ILSVRC2012_ID", int), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", int)]
    kit = root / "ILSVRC2012_devkit_t12"
    savemat(kit / "data/meta.mat", {"synsets": np.array(synsets, kinds)})
    truth = "".join(f"{ids[val[name]]}\n" for name in sorted(val))
    (kit / "data/ILSVRC2012_validation_ground_truth.txt").write_text(truth)
    with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
        archive.add(kit, kit.name)
    shutil.rmtree(kit)


def tar(archive: Path, folder: Path, names: list[str]) -> None:
    """Pack files of a folder with the command tar."""
    subprocess.run(["tar", "-cf", archive, "-C", folder, *names], check=True)


def kaggle(top: Path, files: list[File]) -> None:
    """Kaggle's tree with flat validation images and their table of labels."""
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


def hugging_face(top: Path, files: list[File]) -> None:
    """A shuffled data set saved by `datasets`, and parquet files with the file names of the copy on the Hub."""
    import datasets

    datasets.disable_progress_bars()
    loaded = datasets.load_dataset("imagefolder", data_dir=str(top / "folders"))
    loaded["train"] = loaded["train"].shuffle(seed=1)
    loaded.save_to_disk(str(top / "saved"))
    (top / "parquet/data").mkdir(parents=True)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(SYNSETS))})
    for split, name in (("train", "train"), ("val", "validation")):
        rows = {"image": [], "label": []}
        for _, synset, file, content in (file for file in files if file[0] == split):
            rows["image"].append({"bytes": content, "path": f"{Path(file).stem}_{synset}.JPEG"})
            rows["label"].append(SYNSETS.index(synset))
        data = datasets.Dataset.from_dict(rows, features)
        data.to_parquet(str(top / f"parquet/data/{name}-00000-of-00001.parquet"))


def shards(top: Path, files: list[File]) -> None:
    """WebDataset shards by `webdataset`, with labels as .cls or .json."""
    import webdataset

    for kind in ("shards", "shards_json"):
        (top / kind).mkdir()
        (top / kind / "classes.txt").write_text("\n".join(SYNSETS) + "\n")
        for split in ("train", "val"):
            own = [file for file in files if file[0] == split]
            pattern = str(top / kind / f"imagenet1k-{split}-%04d.tar")
            with webdataset.ShardWriter(pattern, maxcount=4, verbose=0) as writer:
                for _, synset, name, content in (*own[1::2], *own[0::2]):
                    label = SYNSETS.index(synset)
                    side = {"cls": label} if kind == "shards" else {"json": {"label": label, "height": 24}}
                    writer.write({"__key__": Path(name).stem, "jpg": content} | side)


def packed(top: Path, files: list[File]) -> None:
    """Archives of class folders: a zip, one with stored members in a folder and macOS's files, and a tar."""
    shutil.make_archive(str(top / "photos"), "zip", top / "folders")
    with zipfile.ZipFile(top / "stored.zip", "w", zipfile.ZIP_STORED) as archive:
        for split, synset, name, content in files:
            archive.writestr(f"imagenet/{split}/{synset}/{name}", content)
        archive.writestr("__MACOSX/imagenet/train/._x.JPEG", b"")
    tar(top / "photos.tar", top / "folders", ["./train", "./val"])


def table(top: Path, files: list[File]) -> None:
    """A CSV table as spreadsheet programs save it."""
    (top / "csv").mkdir()
    rows = [f"../folders/{split}/{synset}/{name};{synset};{split}" for split, synset, name, _ in files]
    (top / "csv/images.csv").write_text("\r\n".join(["path;label;split", *rows]), encoding="utf-16")
