"""Pictures as the world has them: damaged beside their pixels, of other formats, too large, or no files at all."""

import io
import os
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, PngImagePlugin

from vlm_jax.config import own_steps
from vlm_jax.data import images
from vlm_jax.data.images import load_image, prepare
from vlm_jax.errors import InputError

# Pillow warns of much that is damaged here.
pytestmark = pytest.mark.filterwarnings("ignore")


def noise(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


PICTURE = Image.fromarray(noise(12, 9))


def encoded(form, image=PICTURE, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_with(*chunks, behind=False):
    """A PNG with chunks in front of its pixels or behind them."""
    whole = encoded("PNG")
    place = whole.index(b"IEND" if behind else b"IDAT") - 4
    return whole[:place] + b"".join(chunks) + whole[place:]


LARGE = zlib.compress(b"a" * 3_000_000)
BESIDE_THE_PIXELS = {
    "EXIF without a header": (b"eXIf", b"\0\0\0\0nonsense"),
    "EXIF cut short": (b"eXIf", b"II*\0\x08\0\0\0\xff\xff\x12\x01"),
    "EXIF of odd types": (b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x05\0\0\0\x01\xff\xff\xff\xff\0\0\0\0"),
    "compressed text": (b"zTXt", b"Comment\0\0" + LARGE),
    "broken compressed text": (b"zTXt", b"Comment\0\0" + b"nonsense"),
    "international text": (b"iTXt", b"Comment\0\x01\0\0\0" + LARGE),
    "plain text": (b"tEXt", b"Comment\0" + b"a" * 3_000_000),
    "EXIF in text": (b"tEXt", b"Raw profile type exif\0\nexif\n  9\nxyz"),
    "colour profile": (b"iCCP", b"ICC\0\0" + LARGE),
    "colours": (b"cHRM", b"\0\0\1"),
    "resolution": (b"pHYs", b"\0"),
    "unknown": (b"abCd", b"anything"),
}


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("case", BESIDE_THE_PIXELS)
def test_what_stands_beside_a_pngs_pixels_takes_none_away(case, behind, monkeypatch):
    # 64 MB otherwise, of all texts together.
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_MEMORY", 2_000_000)
    content = png_with(chunk(*BESIDE_THE_PIXELS[case]), behind=behind)
    np.testing.assert_array_equal(load_image(content), noise(12, 9))


def test_a_damaged_check_sum_beside_the_pixels():
    content = png_with(chunk(b"tEXt", b"Comment\0text")[:-1] + b"\0")
    np.testing.assert_array_equal(load_image(content), noise(12, 9))


def test_a_picture_is_still_turned_where_texts_go():
    told = Image.Exif()
    told[0x0112] = 6
    whole = encoded("PNG", exif=told)
    place = whole.index(b"IDAT") - 4
    for odd in (chunk(*BESIDE_THE_PIXELS["compressed text"]), chunk(b"tEXt", b"Comment\0text")[:-1] + b"\0"):
        content = whole[:place] + odd + whole[place:]
        np.testing.assert_array_equal(load_image(content), np.rot90(noise(12, 9), -1))


def test_transparency_stays_where_texts_go():
    clear = encoded("PNG", Image.new("P", (3, 2), 0), transparency=0)
    place = clear.index(b"IDAT") - 4
    content = clear[:place] + chunk(*BESIDE_THE_PIXELS["compressed text"]) + clear[place:]
    assert np.asarray(load_image(content)).tolist() == [[list(images.BACKGROUND)] * 3] * 2


def exif():
    made = Image.Exif()
    made[0x0112] = 1
    made[0x011A], made[0x0128] = 72.0, 2
    made.get_ifd(0x8769)[0x9286] = b"a comment"
    return made.tobytes()


def segment(number, content):
    return struct.pack(">BBH", 0xFF, number, len(content) + 2) + content


@pytest.mark.parametrize(
    "told",
    [
        segment(0xE1, b"Exif\0\0nonsense"),
        segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"),
        # A resolution of one number where two are looked for.
        segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\2\1\x1a\0\x05\0\0\0\0\0\0\0\0\1\x28\0\3\0\0\0\1\0\2\0\0\0\0\0\0"),
        segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed"),
        segment(0xE2, b"ICC_PROFILE\0\1\2" + b"x" * 60000) * 40,
        segment(0xE2, b"MPF\0II*\0\x08\0\0\0\xff\xff"),
        segment(0xFE, b"\xff" * 9),
    ],
    ids=lambda told: str(told[:12]),
)
def test_what_stands_beside_a_jpegs_pixels_takes_none_away(told):
    whole = encoded("JPEG", quality=90)
    np.testing.assert_array_equal(load_image(whole[:2] + told + whole[2:]), np.asarray(load_image(whole)))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_damaged_anywhere(form):
    """Whatever byte of it is another one, the picture has all its pixels, standing or lying."""
    told = exif()
    whole = encoded(form, **({"lossless": True} if form == "WEBP" else {}), exif=told)
    expected = np.asarray(load_image(whole))
    # Of a TIFF its own directory is what pixels are found by; the one behind it is EXIF alone.
    at = whole.index(b"a comment")
    first, last = (at - 20, at + 9) if form == "TIFF" else (at + 9 - len(told) + 8, at + 9)
    for seed in range(150):
        rng, content = np.random.default_rng(seed), bytearray(whole)
        for place in rng.integers(first, last, 3):
            content[place] = rng.integers(0, 256)
        found = np.asarray(load_image(bytes(content)))
        assert sorted(found.shape) == sorted(expected.shape)
        assert found.sum() == expected.sum()


def mode_or_error(content):
    try:
        return load_image(content).mode
    except InputError as error:
        return str(error)


@pytest.mark.parametrize("form", images.FORMATS)
def test_every_format_or_one_line(form):
    whole = encoded(form)
    assert load_image(whole).size == PICTURE.size
    for seed in range(60):
        rng, content = np.random.default_rng(seed), bytearray(whole)
        for place in rng.integers(0, len(whole), 4):
            content[place] = rng.integers(0, 256)
        found = mode_or_error(bytes(content[: rng.integers(1, len(whole) + 1)]))
        assert found == "RGB" or found.startswith("image bytes: found an image")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_all_eight_ways_to_lie(form, orientation):
    told = Image.Exif()
    told[0x0112] = orientation
    options = {"lossless": True} if form == "WEBP" else {"quality": 100, "subsampling": 0} if form == "JPEG" else {}
    smooth = Image.radial_gradient("L").resize((24, 16)).crop((0, 0, 12, 9)).convert("RGB")
    pixels = np.asarray(smooth).astype(int)
    turned = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.swapaxes(0, 1),
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(pixels),
    }
    found = load_image(encoded(form, smooth, exif=told, **options))
    np.testing.assert_allclose(np.asarray(found).astype(int), turned[orientation], atol=3)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"


def test_a_program_is_never_started(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(POSTSCRIPT)
    # Pillow itself would read it, with Ghostscript's help.
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "EPS"
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("Ghostscript was started"))
    with pytest.raises(InputError, match=r"a.png: found an image that cannot be decoded .* \(JPEG, PNG, "):
        load_image(tmp_path / "a.png")


@pytest.mark.parametrize("form", ["ICO", "TGA", "PCX", "SGI", "PDF", "IM"])
def test_other_formats_are_not_opened(form):
    with pytest.raises(InputError, match="of no known format"):
        load_image(encoded(form))


def within(seconds, function):
    """What a function raises, in a thread so that a hang fails the test."""
    caught = []

    def run():
        try:
            function()
        except Exception as error:
            caught.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive()
    return caught[0]


def test_pipes_and_devices_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "link.png"):
        error = within(20, lambda name=name: load_image(tmp_path / name))
        assert isinstance(error, InputError)
        assert f"{name}: found an image that cannot be decoded (no regular file)" in str(error)


def test_a_file_that_becomes_a_pipe(tmp_path, monkeypatch):
    """Between the look at it and its opening."""
    path = tmp_path / "a.png"
    path.write_bytes(encoded("PNG"))
    regular = os.stat(path)
    path.unlink()
    os.mkfifo(path)
    monkeypatch.setattr(images.os, "stat", lambda _: regular)
    error = within(20, lambda: load_image(path))
    assert isinstance(error, InputError)
    assert "no regular file" in str(error)


def test_files_of_gigabytes(tmp_path):
    with (tmp_path / "a.jpg").open("wb") as file:
        file.write(encoded("JPEG")[:100])
        file.truncate(1 << 31)
    with pytest.raises(InputError, match=r"a.jpg: found an image of 2147483648 bytes; expected at most"):
        load_image(tmp_path / "a.jpg")


def test_names_that_no_file_can_have(tmp_path):
    for name in ("a" * 300 + ".png", "b\0.png"):
        with pytest.raises(InputError, match="cannot be decoded"):
            load_image(tmp_path / name)
    (tmp_path / ("a" * 251 + ".png")).write_bytes(encoded("PNG"))
    assert load_image(tmp_path / ("a" * 251 + ".png")).size == PICTURE.size


def header(width, height):
    """A PNG that says how large it is, and nothing else."""
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return start + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_bombs_are_one_line():
    with pytest.raises(InputError, match=r"an image of \(9500, 9500\) pixels; expected sides up to 16384 and at most"):
        load_image(header(9500, 9500))
    with pytest.raises(InputError, match="could be decompression bomb"):
        load_image(header(16384, 16384))
    with pytest.raises(InputError, match=r"an image of \(30000, 2\) pixels"):
        load_image(header(30000, 2))


def padded(image):
    """LLaVA's expand2square, written out."""
    (width, height), side = image.size, max(image.size)
    square = np.empty((side, side, 3), np.uint8)
    square[:] = images.BACKGROUND
    left, top = (side - width) // 2, (side - height) // 2
    square[top : top + height, left : left + width] = np.asarray(image)
    return Image.fromarray(square)


@pytest.mark.parametrize("at_once", [1, 5000, 1 << 22])
@pytest.mark.parametrize("shape", [(1, 700), (700, 1), (333, 500), (901, 40), (17, 16), (48, 20), (20, 48), (48, 48)])
def test_padding_without_the_square_gives_the_same_pixels(shape, at_once, monkeypatch):
    monkeypatch.setattr(images, "_PIXELS_AT_ONCE", at_once)
    image = Image.fromarray(noise(*shape))
    for size in (48, 224):
        expected = padded(image).resize((size, size), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(prepare(image, own_steps("pad", size)), np.asarray(expected))


def test_long_and_thin_pictures_take_little_memory(monkeypatch):
    made, new = [], Image.new
    monkeypatch.setattr(Image, "new", lambda mode, size, *rest: (made.append(size), new(mode, size, *rest))[1])
    for shape in ((16384, 1), (1, 6000)):
        assert prepare(Image.fromarray(noise(*shape)), own_steps("pad", 224)).shape == (224, 224, 3)
        with pytest.raises(InputError, match=r"an image of \(\d+, \d+\) pixels, which would be enlarged to"):
            prepare(Image.fromarray(noise(*shape)), own_steps("square", 224))
    assert made
    assert max(width * height for width, height in made) <= 1 << 22
