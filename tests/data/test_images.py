"""Decoding of image files to RGB; unreadable files are reported."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from data.files import photo
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from dat_train.data.images import WHITE, UnreadableImage, read_rgb


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
def test_grayscale_becomes_three_equal_channels(mode, name, picture, tmp_path):
    gray = picture.convert(mode)
    gray.save(tmp_path / name, quality=95) if name.endswith("jpg") else gray.save(tmp_path / name)
    read = read_rgb(tmp_path / name)
    assert read.mode == "RGB"
    assert (pixels(read) == pixels(read)[..., :1]).all()
    assert distance(read.convert("L"), gray.convert("L")) < 2


def test_cmyk_becomes_the_same_colors(picture, tmp_path):
    picture.convert("CMYK").save(tmp_path / "a.jpg", quality=100, subsampling=0)
    read = read_rgb(tmp_path / "a.jpg")
    assert read.mode == "RGB"
    assert distance(read, picture) < 5


def over(background, picture, alpha):
    """`picture` with opacity `alpha` (0 to 255, a number or an array) over a color, by the definition."""
    share = np.broadcast_to(np.asarray(alpha, dtype=np.float64), picture.size[::-1])[..., None] / 255
    return (share * pixels(picture) + (1 - share) * np.asarray(background)).round()


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(0, 128, 2))])
def test_a_palette_becomes_its_colors_over_white(transparency, picture, tmp_path):
    palette = picture.quantize(64)
    options = {} if transparency is None else {"transparency": transparency}
    palette.save(tmp_path / "a.png", **options)
    with Image.open(tmp_path / "a.png") as saved:
        assert saved.mode == "P" and ("transparency" in saved.info) == bool(options)
    alphas = np.full(256, 255)
    if isinstance(transparency, int):
        alphas[transparency] = 0
    elif transparency:
        alphas[:64] = list(transparency)
    expected = over(WHITE, palette.convert("RGB"), alphas[np.asarray(palette)])
    read = read_rgb(tmp_path / "a.png")
    assert read.mode == "RGB"
    assert np.abs(pixels(read) - expected).max() <= 1


@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (10, 200, 30)])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_lie_over_the_background(mode, background, picture, tmp_path):
    alpha = np.zeros(picture.size[::-1], np.uint8)
    alpha[10:] = np.linspace(0, 255, picture.width).astype(np.uint8)
    layered = picture.convert(mode[:-1])
    opaque = layered.convert("RGB")
    layered.putalpha(Image.fromarray(alpha))
    layered.save(tmp_path / "a.png")
    read = pixels(read_rgb(tmp_path / "a.png", background=background))
    assert (read[:10] == background).all()
    assert np.abs(read - over(background, opaque, alpha)).max() <= 1
    if background == WHITE:
        assert np.array_equal(pixels(read_rgb(tmp_path / "a.png")), read)  # the default


def test_sixteen_bits_are_scaled_and_not_clipped(picture, tmp_path):
    gray = np.asarray(picture.convert("L"))
    Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as saved:
        assert saved.mode.startswith("I;16")
    assert np.array_equal(np.asarray(read_rgb(tmp_path / "a.png"))[..., 0], gray)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize(("bits", "white"), [(8, 255), (12, 4095), (16, 65535)])
def test_grayscale_of_8_12_and_16_bits_in_16_bits_uses_the_whole_range(bits, white, suffix, tmp_path):
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    stored = (levels * (white / 255)).round().astype(np.uint16)
    Image.fromarray(stored).save(tmp_path / f"a{suffix}")
    assert np.array_equal(np.asarray(read_rgb(tmp_path / f"a{suffix}"))[..., 0], levels)


def test_the_maximum_that_a_tiff_states_is_white(tmp_path):
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    tags = ImageFileDirectory_v2()
    tags[281] = 16383  # MaxSampleValue: 14 bits
    Image.fromarray(np.full((4, 4), 8192, np.uint16)).save(tmp_path / "a.tif", tiffinfo=tags)
    assert np.asarray(read_rgb(tmp_path / "a.tif"))[0, 0, 0] == 128


@pytest.mark.parametrize("factor", [1, 257, 2**20], ids=["8 bits", "16 bits", "more"])
def test_32_bit_integers_are_scaled_by_the_range_they_use(factor, tmp_path):
    gray = np.arange(256, dtype=np.int32).reshape(16, 16)
    Image.fromarray(gray * factor).save(tmp_path / "a.tif")
    assert np.array_equal(np.asarray(read_rgb(tmp_path / "a.tif"))[..., 0], gray)


@pytest.mark.parametrize("factor", [1 / 255, 1, 257, 1e6], ids=["to 1", "to 255", "to 65535", "more"])
def test_floats_are_scaled_by_the_range_they_use(factor, tmp_path):
    gray = np.arange(256, dtype=np.float32).reshape(16, 16)
    Image.fromarray(gray * np.float32(factor)).save(tmp_path / "a.tif")
    assert np.array_equal(np.asarray(read_rgb(tmp_path / "a.tif"))[..., 0], gray)


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


def test_an_image_with_a_damaged_exif_block_is_read(picture, tmp_path):
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


def test_a_png_with_megabytes_of_text_is_read(picture, tmp_path):
    notes = PngInfo()
    notes.add_text("history", "ab" * 1_000_000, zip=True)
    notes.add_itxt("more", "é" * 1_000_000)
    picture.save(tmp_path / "a.png", pnginfo=notes)
    assert distance(read_rgb(tmp_path / "a.png"), picture) == 0


def test_bytes_and_binary_files_are_read_as_paths_are(picture, tmp_path):
    picture.save(tmp_path / "a.jpg")
    expected = pixels(read_rgb(tmp_path / "a.jpg"))
    encoded = (tmp_path / "a.jpg").read_bytes()
    assert np.array_equal(pixels(read_rgb(encoded)), expected)
    assert np.array_equal(pixels(read_rgb(io.BytesIO(encoded))), expected)
    with (tmp_path / "a.jpg").open("rb") as file:
        assert np.array_equal(pixels(read_rgb(file)), expected)
    with pytest.raises(UnreadableImage, match=r"^image: OSError: .*truncated"):
        read_rgb(encoded[:-100])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFO on this system")
def test_a_fifo_is_unreadable_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(UnreadableImage, match="not a regular file"):
        read_rgb(tmp_path / "a.jpg")


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
