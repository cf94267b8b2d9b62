import io

import numpy as np
import pytest
from jaxtyping import TypeCheckError
from PIL import Image
from transformers import CLIPImageProcessorPil

from vlm_jax.config import CLIP_MEAN, CLIP_STD, own_steps
from vlm_jax.data.images import BACKGROUND, load_image, placeholder, prepare
from vlm_jax.errors import InputError


def noise(width, height, seed=0, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def saved(path, image, **options):
    image.save(path, **options)
    return path


def pixels(image):
    assert image.mode == "RGB"
    return np.asarray(image)


def test_exif_rotation_is_applied(tmp_path):
    image = Image.new("RGB", (16, 8), (200, 0, 0))
    image.paste((0, 0, 200), (8, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # Stored lying on its side; the right half belongs at the bottom.
    path = saved(tmp_path / "a.jpg", image, exif=exif, quality=95, subsampling=0)
    upright = load_image(path)
    got = pixels(upright)
    assert got.shape == (16, 8, 3)
    assert got[0, 0, 0] > 180
    assert got[-1, 0, 2] > 180
    for again in (load_image(lambda: upright), load_image(lambda: load_image(path, as_transformers=True))):
        np.testing.assert_array_equal(pixels(again), got)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_what_stands_upright_says_nothing_of_a_turn(suffix, tmp_path):
    """Nor does XMP, which Pillow asks where EXIF is silent."""
    turned = Image.Exif()
    turned[0x0112] = 6
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    told = [{"exif": turned}, {"exif": turned, "xmp": xmp}] if suffix != "png" else [{"exif": turned}]
    for number, words in enumerate(told):
        path = saved(tmp_path / f"{number}.{suffix}", Image.fromarray(noise(16, 8)), **words)
        with Image.open(path) as stored:
            assert stored.getexif()[0x0112] == 6
        upright = load_image(path)
        assert upright.size == (8, 16)
        assert 0x0112 not in upright.getexif()
        with Image.open(path) as held:
            assert load_image(lambda held=held: held).size == (8, 16)
            # Somebody else's, who is told what it was told; TIFF's reader turns by itself.
            assert suffix == "tiff" or held.getexif()[0x0112] == 6


def test_cmyk_jpeg(tmp_path):
    path = saved(tmp_path / "a.jpg", Image.new("RGB", (8, 8), (250, 20, 30)).convert("CMYK"), quality=100)
    np.testing.assert_allclose(pixels(load_image(path))[4, 4], (250, 20, 30), atol=6)


def test_gray_and_palette(tmp_path):
    gray = saved(tmp_path / "g.png", Image.fromarray(noise(5, 4, channels=1)[..., 0]))
    np.testing.assert_array_equal(pixels(load_image(gray)), noise(5, 4, channels=1).repeat(3, -1))
    palette = Image.new("P", (2, 1))
    palette.putpalette([1, 2, 3, 40, 50, 60])
    palette.putdata([1, 0])
    path = saved(tmp_path / "p.png", palette)
    assert pixels(load_image(path)).tolist() == [[[40, 50, 60], [1, 2, 3]]]


def test_alpha_shows_the_background(tmp_path):
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    image.putpixel((1, 0), (10, 20, 30, 0))
    expected = [[[10, 20, 30], [122, 116, 104]]]
    assert BACKGROUND == (122, 116, 104)
    assert pixels(load_image(saved(tmp_path / "a.png", image))).tolist() == expected
    clear = saved(tmp_path / "p.png", Image.new("P", (1, 1), 0), transparency=0)
    assert pixels(load_image(clear)).tolist() == [[[122, 116, 104]]]


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    path = saved(tmp_path / "a.png", Image.fromarray(np.array([[0, 256, 32768, 65535]], np.uint16)))
    assert pixels(load_image(path))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    path = saved(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert pixels(load_image(path))[0, 0].tolist() == [255, 0, 0]


def test_bytes_are_read_like_files(tmp_path):
    path = saved(tmp_path / "a.png", Image.fromarray(noise(6, 5)))
    np.testing.assert_array_equal(pixels(load_image(path.read_bytes())), noise(6, 5))


def test_what_opens_a_picture(tmp_path):
    """A picture of somebody else's is converted like a file's, stays open, and is named by whoever asked for it."""
    held = Image.fromarray(noise(6, 5)).convert("RGBA")
    held.putalpha(0)
    for _ in range(2):
        assert pixels(load_image(lambda: held)).tolist() == [[list(BACKGROUND)] * 6] * 5
    path = saved(tmp_path / "a.png", Image.fromarray(noise(60, 50)))
    path.write_bytes(path.read_bytes()[:-2000])
    with Image.open(path) as cut, pytest.raises(InputError, match=r"^found an image that cannot be decoded") as error:
        load_image(lambda: cut)
    assert error.value.file is None


def test_unusable_files_name_themselves(tmp_path):
    whole = io.BytesIO()
    Image.fromarray(noise(64, 64)).save(whole, "JPEG")
    contents = {
        "cut.jpg": whole.getvalue()[:1500],
        "text.png": b"this is not an image",
        "empty.jpg": b"",
        "broken.png": b"\x89PNG\r\n\x1a\n" + b"\0" * 50,
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name}: found an image that cannot be decoded"):
            load_image(tmp_path / name)
    with pytest.raises(InputError, match=r"gone.png: found no such file"):
        load_image(tmp_path / "gone.png")
    with pytest.raises(InputError, match="cannot be decoded"):
        load_image(tmp_path)
    saved(tmp_path / "thin.png", Image.new("L", (20000, 1)))
    with pytest.raises(InputError, match=r"thin.png: found an image of \(20000, 1\) pixels"):
        load_image(tmp_path / "thin.png")


SHAPES = [(1, 1), (224, 224), (640, 480), (333, 500), (7, 300), (301, 5), (223, 225), (48, 48)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("aspect", ["pad", "square"])
def test_parity_with_clips_processor(shape, aspect):
    image = Image.fromarray(noise(*shape))
    reference = np.asarray(image)
    if aspect == "pad":
        # expand2square, written out.
        (width, height), side = shape, max(shape)
        reference = np.empty((side, side, 3), np.uint8)
        reference[:] = (122, 116, 104)
        left, top = (side - width) // 2, (side - height) // 2
        reference[top : top + height, left : left + width] = np.asarray(image)
    expected = CLIPImageProcessorPil()(Image.fromarray(reference), return_tensors="np")["pixel_values"][0]
    got = prepare(image, own_steps(aspect, 224))
    assert got.shape == (224, 224, 3)
    assert got.dtype == np.uint8
    normal = (got / 255 - np.array(CLIP_MEAN)) / np.array(CLIP_STD)
    np.testing.assert_allclose(normal.transpose(2, 0, 1), expected, atol=1e-6)


@pytest.mark.parametrize("aspect", ["pad", "square"])
def test_an_image_of_the_right_size_is_unchanged(aspect):
    np.testing.assert_array_equal(prepare(Image.fromarray(noise(48, 48)), own_steps(aspect, 48)), noise(48, 48))


def test_a_coarser_view():
    checks = np.kron(np.indices((24, 24)).sum(0) % 2 * 255, np.ones((2, 2))).astype(np.uint8)
    image = Image.fromarray(checks).convert("RGB")
    assert prepare(image, own_steps("pad", 48)).std() > 100
    np.testing.assert_allclose(prepare(image, own_steps("pad", 48), resolution=12), 127.5, atol=1)
    ramp = Image.fromarray(np.arange(48, dtype=np.uint8)[None].repeat(48, 0) * 5).convert("RGB")
    fine = prepare(ramp, own_steps("pad", 48))
    difference = prepare(ramp, own_steps("pad", 48), resolution=12).astype(int) - fine
    assert np.abs(difference[:, 4:-4]).max() <= 2
    np.testing.assert_array_equal(prepare(ramp, own_steps("pad", 48), resolution=48), fine)


def test_unknown_aspect_and_placeholder():
    # The checked signature refuses it first where signatures are checked, the function itself elsewhere.
    with pytest.raises((ValueError, TypeCheckError), match=r"stretch|aspect"):
        own_steps("stretch", 8)
    assert placeholder(8).shape == (8, 8, 3)
    assert not placeholder(8).any()
