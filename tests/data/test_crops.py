"""Crops of encoded images have Pillow's pixels, for all formats and damaged files."""

import io
import random

import numpy as np
import pytest
import torch
from data.files import photo
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from dat_train.data import crops
from dat_train.data.crops import RandomResizedCrop
from dat_train.data.images import UPRIGHT, UnreadableImage, read_rgb
from dat_train.data.randomness import keyed_randomness

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def encoded(image, kind="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation, kind="JPEG"):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(photo(120, 90), kind, exif=exif)


def with_bytes(start, new):
    content = bytearray(encoded(photo(120, 90), quality=95))
    content[start : start + len(new)] = new
    return bytes(content)


JPEGS = {
    "quality 95, 4:4:4": lambda: encoded(photo(120, 90), quality=95, subsampling=0),
    "4:2:2": lambda: encoded(photo(121, 91), subsampling=1),
    "4:2:0": lambda: encoded(photo(121, 91), subsampling=2),
    "progressive": lambda: encoded(photo(120, 90), progressive=True),
    "optimized": lambda: encoded(photo(120, 90), optimize=True),
    "grayscale": lambda: encoded(photo(120, 90).convert("L")),
    "CMYK": lambda: encoded(photo(120, 90).convert("CMYK")),
    "RGB components": lambda: encoded(photo(120, 90), keep_rgb=True),
    "restart markers": lambda: encoded(photo(120, 90), restart_marker_blocks=2),
    "one pixel": lambda: encoded(photo(1, 1)),
    "a long line": lambda: encoded(photo(500, 3)),
    "data after the end": lambda: encoded(photo(120, 90)) + b"more" * 50,
    "wrong bytes inside": lambda: with_bytes(3000, b"\x55" * 20),
    "an end marker inside": lambda: with_bytes(3000, b"\xff\xd9"),
    "a restart marker inside": lambda: with_bytes(3000, b"\xff\xd3"),
    "several images (MPO)": lambda: encoded(photo(120, 90), "MPO", save_all=True, append_images=[photo(60, 45)]),
} | {f"EXIF orientation {value}": lambda value=value: turned(value) for value in range(1, 9)}
OTHERS = {
    "PNG": lambda: encoded(photo(120, 90), "PNG"),
    "transparent PNG": lambda: encoded(photo(120, 90).convert("LA"), "PNG"),
    "palette GIF": lambda: encoded(photo(120, 90).quantize(32), "GIF"),
    "WebP": lambda: encoded(photo(120, 90), "WEBP"),
    "16-bit PNG": lambda: encoded(Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)), "PNG"),
}


@pytest.fixture
def decoder(monkeypatch):
    """Counts the files that torchvision decoded, and those that it refused."""
    counts = {"decoded": 0, "refused": 0}

    def counted(content):
        pixels = original(content)
        counts["refused" if pixels is None else "decoded"] += 1
        return pixels

    original = crops._decode
    monkeypatch.setattr(crops, "_decode", counted)
    return counts


@pytest.mark.parametrize("name", JPEGS | OTHERS)
def test_a_crop_has_the_pixels_that_pillow_decodes(name, decoder, tmp_path):
    content = (JPEGS | OTHERS)[name]()
    (tmp_path / "file").write_bytes(content)
    crop = RandomResizedCrop(48, SCALE, RATIO)
    decoded = read_rgb(content)
    for source in (content, str(tmp_path / "file"), tmp_path / "file", io.BytesIO(content)):
        for i in range(3):
            if isinstance(source, io.BytesIO):
                source.seek(0)
            with keyed_randomness(i):
                found = crop(source)
            with keyed_randomness(i):
                assert torch.equal(found, crop(decoded))  # from an image that Pillow decoded
            assert found.shape == (3, 48, 48) and found.dtype == torch.uint8
    plain = name in JPEGS and name != "CMYK" and not (name.startswith("EXIF") and not name.endswith("1"))
    assert decoder == {"decoded": 12 if plain else 0, "refused": 0}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_images_of_any_orientation_are_upright_in_training_as_in_evaluation(kind, orientation):
    content = turned(orientation, kind)
    crop = RandomResizedCrop(48, SCALE, RATIO)
    decoded = read_rgb(content)
    if kind in ("PNG", "TIFF"):  # lossless
        upright = photo(120, 90).transpose(UPRIGHT[orientation]) if orientation > 1 else photo(120, 90)
        assert np.array_equal(decoded, upright)
    pixels, _ = crop.decode(content)
    assert torch.equal(pixels, F.pil_to_tensor(decoded))
    with keyed_randomness(orientation):
        found = crop(content)
    with keyed_randomness(orientation):
        assert torch.equal(found, crop(decoded))


@pytest.mark.parametrize("kind", ["cut", "changed"])
def test_of_damaged_files_the_same_are_unreadable_with_the_same_pixels_otherwise(kind, decoder):
    generator = random.Random(0)
    files = [encoded(photo(120, 90), quality=90), encoded(photo(120, 90), progressive=True)]
    crop = RandomResizedCrop(32, SCALE, RATIO)
    outcomes = {"same": 0, "unreadable": 0}
    for i in range(60):
        content = bytearray(files[i % 2])
        if kind == "cut":
            content = content[: generator.randrange(20, len(content))]
        for _ in range(generator.choice([1, 5, 50]) if kind == "changed" else 0):
            content[generator.randrange(2, len(content))] = generator.randrange(256)
        try:
            with keyed_randomness(i):
                found = crop(bytes(content))
        except UnreadableImage:
            with pytest.raises(UnreadableImage):
                read_rgb(bytes(content))
            outcomes["unreadable"] += 1
            continue
        with keyed_randomness(i):
            assert torch.equal(found, crop(read_rgb(bytes(content))))
        outcomes["same"] += 1
    assert outcomes["unreadable"] == 60 if kind == "cut" else outcomes["same"] > 20


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_a_crop_is_timms_up_to_rounding(interpolation):
    image = photo(500, 375)
    ours = RandomResizedCrop(224, SCALE, RATIO, interpolation)
    timms = RandomResizedCropAndInterpolation(224, SCALE, RATIO, interpolation)
    differences = []
    for i in range(20):
        with keyed_randomness(i):
            found = ours(image).permute(1, 2, 0).numpy().astype(int)
        with keyed_randomness(i):
            differences.append(np.abs(found - np.asarray(timms(image)).astype(int)))
    assert np.mean(differences) < 0.1
    assert np.mean(np.array(differences) > 1) < 1e-3


def test_the_nearest_pixels_are_timms_but_for_ties():
    image = photo(500, 375)
    ours = RandomResizedCrop(224, SCALE, RATIO, "nearest")
    timms = RandomResizedCropAndInterpolation(224, SCALE, RATIO, "nearest")
    for i in range(20):
        with keyed_randomness(i):
            found = ours(image).permute(1, 2, 0).numpy()
        with keyed_randomness(i):
            assert np.mean(found != np.asarray(timms(image))) < 0.1


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize(("side", "reduction"), [(560, 1), (600, 2), (1240, 4), (2500, 4)])
def test_large_photos_are_decoded_reduced_and_crops_are_nearly_the_same(side, reduction, orientation, decoder):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(photo(side + side // 3, side), quality=90, exif=exif)
    crop = RandomResizedCrop(128, (0.9, 1.0), RATIO)
    whole = read_rgb(content)
    for i in range(3):
        with keyed_randomness(i):
            box = crop.draw(*whole.size)
        assert crop._reduction(box) in ((reduction,) if side != 560 else (1, 2))
        with keyed_randomness(i):
            found = crop(content).permute(1, 2, 0).numpy().astype(int)
        left, top, width, height = box
        exact = F.resized_crop(
            whole, top, left, height, width, size=[128, 128], interpolation=InterpolationMode.BICUBIC
        )
        difference = found - np.asarray(exact).astype(int)
        assert np.abs(difference).mean() < 1.5 and abs(difference.mean()) < 0.1


def test_a_reduced_crop_has_at_least_twice_the_side_of_the_result():
    crop = RandomResizedCrop(100, SCALE, RATIO)
    expected = {199: 1, 399: 1, 400: 2, 799: 2, 800: 4, 9000: 4}
    assert {side: crop._reduction((0, 0, side, 2 * side)) for side in expected} == expected
    assert all(crop._reduction((5, 5, 2 * side, side)) == value for side, value in expected.items())


def test_boxes_are_timms_with_the_same_draws():
    crop = RandomResizedCrop(10, SCALE, RATIO)
    for i, size in enumerate([(500, 375), (30, 4000), (1, 1)] * 20):
        with keyed_randomness(i):
            left, top, width, height = crop.draw(*size)
        with keyed_randomness(i):
            box = RandomResizedCropAndInterpolation.get_params(Image.new("1", size), SCALE, RATIO)
        assert box == (top, left, height, width)


def test_an_unreadable_file_is_named(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    for crop in (RandomResizedCrop(8, SCALE, RATIO), RandomResizedCrop(8, None, RATIO)):
        with pytest.raises(UnreadableImage, match=r"a\.jpg: UnidentifiedImageError: cannot identify image file$"):
            crop(str(tmp_path / "a.jpg"))
