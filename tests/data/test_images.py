"""Whatever lies in an image folder becomes RGB, or is said to be unreadable."""

import os
import struct
import zlib

import numpy as np
import pytest
from data.files import photo
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from dat_train.data.images import UnreadableImage, read_rgb


@pytest.fixture(scope="module")
def picture():
    return photo()


def pixels(image):
    return np.asarray(image, dtype=np.int32)


def distance(one, other):
    return np.abs(pixels(one) - pixels(other)).mean()


def test_an_rgb_file_is_read_as_it_is(picture, tmp_path):
    picture.save(tmp_path / "a.png")
    read = read_rgb(tmp_path / "a.png")
    assert read.mode == "RGB"
    assert distance(read, picture) == 0


@pytest.mark.parametrize(("mode", "name"), [("L", "a.png"), ("L", "a.jpg"), ("LA", "a.png"), ("1", "a.png")])
def test_greyscale_becomes_three_equal_channels(mode, name, picture, tmp_path):
    grey = picture.convert(mode)
    grey.save(tmp_path / name, quality=95) if name.endswith("jpg") else grey.save(tmp_path / name)
    read = read_rgb(tmp_path / name)
    assert read.mode == "RGB"
    assert (pixels(read) == pixels(read)[..., :1]).all()
    assert distance(read.convert("L"), grey.convert("L")) < 2


def test_cmyk_becomes_the_same_colours(picture, tmp_path):
    picture.convert("CMYK").save(tmp_path / "a.jpg", quality=100, subsampling=0)
    read = read_rgb(tmp_path / "a.jpg")
    assert read.mode == "RGB"
    assert distance(read, picture) < 5


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(0, 256, 2))])
def test_a_palette_becomes_its_colours_with_or_without_transparency(transparency, picture, tmp_path):
    palette = picture.quantize(64)
    options = {} if transparency is None else {"transparency": transparency}
    palette.save(tmp_path / "a.png", **options)
    with Image.open(tmp_path / "a.png") as saved:
        assert saved.mode == "P" and ("transparency" in saved.info) == bool(options)
    read = read_rgb(tmp_path / "a.png")
    assert read.mode == "RGB"
    assert distance(read, palette.convert("RGB")) == 0


def test_transparency_is_dropped(picture, tmp_path):
    layered = picture.copy()
    layered.putalpha(7)
    layered.save(tmp_path / "a.png")
    assert distance(read_rgb(tmp_path / "a.png"), picture) == 0


def test_sixteen_bits_are_scaled_and_not_clipped(picture, tmp_path):
    grey = np.asarray(picture.convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as saved:
        assert saved.mode.startswith("I;16")
    assert np.array_equal(np.asarray(read_rgb(tmp_path / "a.png"))[..., 0], grey)


@pytest.mark.parametrize("factor", [1, 257, 2**20], ids=["8 bits", "16 bits", "more"])
def test_32_bit_integers_are_scaled_by_the_range_they_use(factor, tmp_path):
    grey = np.arange(256, dtype=np.int32).reshape(16, 16)
    Image.fromarray(grey * factor).save(tmp_path / "a.tif")
    assert np.array_equal(np.asarray(read_rgb(tmp_path / "a.tif"))[..., 0], grey)


@pytest.mark.parametrize("factor", [1 / 255, 1, 257, 1e6], ids=["to 1", "to 255", "to 65535", "more"])
def test_floats_are_scaled_by_the_range_they_use(factor, tmp_path):
    grey = np.arange(256, dtype=np.float32).reshape(16, 16)
    Image.fromarray(grey * np.float32(factor)).save(tmp_path / "a.tif")
    assert np.array_equal(np.asarray(read_rgb(tmp_path / "a.tif"))[..., 0], grey)


def test_floats_that_are_no_numbers_are_black(tmp_path):
    values = np.full((4, 4), 0.5, np.float32)
    values[0] = np.nan, np.inf, -np.inf, 1
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert np.asarray(read_rgb(tmp_path / "a.tif"))[0, :, 0].tolist() == [0, 0, 0, 255]


@pytest.mark.parametrize("orientation", range(10))
def test_exif_orientation_is_applied(orientation, picture, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as saved:
        upright = ImageOps.exif_transpose(saved)
    assert distance(read_rgb(tmp_path / "a.png"), upright) == 0


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame_is_read(kind, picture, tmp_path):
    frames = [ImageOps.invert(picture), ImageOps.mirror(picture)]
    picture.save(tmp_path / f"a.{kind}", save_all=True, append_images=frames)
    read = read_rgb(tmp_path / f"a.{kind}")
    assert read.mode == "RGB"
    assert distance(read, picture) < 6 < distance(read, frames[1])


def test_a_damaged_exif_block_does_not_cost_the_image(picture, tmp_path):
    orientation = struct.pack("<HHII", 0x0112, 3, 1, 6)
    date_that_is_a_float = struct.pack("<HHII", 0x0132, 11, 1, 0)
    head = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2)
    picture.save(tmp_path / "a.jpg", exif=head + orientation + date_that_is_a_float + bytes(4), quality=95)
    with Image.open(tmp_path / "a.jpg") as image, pytest.raises(AttributeError):
        ImageOps.exif_transpose(image)
    assert read_rgb(tmp_path / "a.jpg").size == picture.size[::-1]
    notes = PngInfo()
    notes.add_text("Raw profile type exif", "\nexif\n4\nno hexadecimal number")
    picture.save(tmp_path / "b.png", pnginfo=notes)
    with Image.open(tmp_path / "b.png") as image, pytest.raises(ValueError, match="hexadecimal"):
        image.getexif()
    assert distance(read_rgb(tmp_path / "b.png"), picture) == 0


def test_a_photo_of_twelve_megapixels_is_read(tmp_path):
    Image.new("RGB", (4000, 3000), "red").save(tmp_path / "a.png", compress_level=1)
    assert read_rgb(tmp_path / "a.png").getpixel((3999, 2999)) == (255, 0, 0)


def png_that_says_it_is(width, height):
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def jpeg_cut_short(folder):
    photo().save(folder / "whole.jpg")
    return (folder / "whole.jpg").read_bytes()[:900]


UNREADABLE = {
    "a truncated JPEG": (jpeg_cut_short, "truncated"),
    "an empty file": (lambda _: b"", "cannot identify"),
    "a text file": (lambda _: b"<html>404 not found</html>", "cannot identify"),
    "a decompression bomb": (lambda _: png_that_says_it_is(40_000, 40_000), "decompression bomb"),
    "a PNG without its pixels": (lambda _: png_that_says_it_is(400, 400), "truncated"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_unreadable_files_are_named(kind, tmp_path):
    make, reason = UNREADABLE[kind]
    path = tmp_path / "a.jpg"
    path.write_bytes(make(tmp_path))
    with pytest.raises(UnreadableImage, match=reason) as caught:
        read_rgb(path)
    assert caught.value.path == str(path)
    assert str(caught.value).startswith(str(path))


def test_missing_files_and_folders_are_unreadable(tmp_path):
    for path in (tmp_path / "nothing.jpg", tmp_path):
        with pytest.raises(UnreadableImage):
            read_rgb(path)


def test_a_name_that_is_not_utf_8_can_be_read_and_printed(picture, tmp_path):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    with pytest.raises(UnreadableImage) as caught:
        read_rgb(name)
    assert caught.value.path.encode("utf-8").endswith(b"caf\\xe9.png")
    picture.save(name)
    assert distance(read_rgb(name), picture) == 0
