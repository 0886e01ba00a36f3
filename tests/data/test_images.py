"""Image files of every pixel format, and folders as people and their tools leave them."""

from __future__ import annotations

import csv
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Robmed
from PIL import Image, ImageCms

from robustbench_med.data.decoding import MOST_PIXELS, UnusableImageError, decode
from robustbench_med.data.folders import find_images, printable
from robustbench_med.data.notes import MOST_LINES, Note, few, summary
from robustbench_med.data.reading import read_images
from robustbench_med.data.tables import read_table, stated
from robustbench_med.util.errors import UserError

RAMP = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
RAMP8 = np.arange(256, dtype=np.uint8).reshape(16, 16)
RGB = np.stack([RAMP8, RAMP8.T, 255 - RAMP8], 2)


def saved(path: Path, pixels: Any, **options: Any) -> Path:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def decoded(path: Path, channels: int = 1) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(decode(path, channels).image)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(
    ("values", "rule"),
    [
        (RAMP, "16 bits, divided by 257"),
        ((RAMP8 * (4095 / 255)).round().astype(np.uint16), "12 bits in 16"),
        (RAMP8.astype(np.uint16), "8 bits in 16"),
    ],
    ids=["16", "12", "8"],
)
def test_grey_of_more_than_8_bits_keeps_its_whole_range(
    tmp_path: Path, suffix: str, values: Any, rule: str
) -> None:
    path = saved(tmp_path / f"x.{suffix}", values)
    np.testing.assert_array_equal(decoded(path), RAMP8)
    assert decode(path, 1).rules[0].startswith(rule)
    assert decode(path, 3).rules[1] == "grey, repeated in three channels"


def write_tiff16(path: Path, values: np.ndarray[Any, Any], order: str, photometric: int) -> Path:
    """A TIFF of 16 bits with the tags it needs, which Pillow cannot write."""
    height, width = values.shape
    data = values.astype(f"{order}u2").tobytes()
    tags = [(256, width), (257, height), (258, 16), (259, 1), (262, photometric)]
    tags += [(273, 8), (277, 1), (278, height), (279, len(data))]
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags)
    head = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(data))
    path.write_bytes(head + data + struct.pack(f"{order}H", len(tags)) + entries + bytes(4))
    return path


@pytest.mark.parametrize(("order", "photometric"), [("<", 1), (">", 1), ("<", 0)])
def test_byte_orders_and_white_that_is_zero(tmp_path: Path, order: str, photometric: int) -> None:
    path = write_tiff16(tmp_path / "x.tif", RAMP, order, photometric)
    np.testing.assert_array_equal(decoded(path), RAMP8 if photometric else 255 - RAMP8)


def test_floating_point(tmp_path: Path) -> None:
    share = (RAMP8 / 255).astype(np.float32)
    np.testing.assert_array_equal(decoded(saved(tmp_path / "x.tif", share)), RAMP8)
    for odd in (share * 255, share - 1, np.where(share > 0.5, np.nan, share).astype(np.float32)):
        with pytest.raises(UnusableImageError, match="full scale is not known"):
            decode(saved(tmp_path / "odd.tif", odd), 1)


def test_integers_beyond_16_bits(tmp_path: Path) -> None:
    np.testing.assert_array_equal(decoded(saved(tmp_path / "x.tif", RAMP.astype(np.int32))), RAMP8)
    for odd in (RAMP.astype(np.int32) + 1, RAMP.astype(np.int32) - 1):
        with pytest.raises(UnusableImageError, match="integers from"):
            decode(saved(tmp_path / "odd.tif", odd), 1)


def test_colour_of_16_bits(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    write_png16(path, np.stack([RAMP, RAMP.T, RAMP], 2))
    np.testing.assert_array_equal(decoded(path, 3), np.stack([RAMP8, RAMP8.T, RAMP8], 2))
    assert decode(path, 3).rules == ("16 bits a channel, upper byte taken",)
    write_png16(path, np.stack([RAMP, RAMP.T, RAMP], 2) >> 4)
    with pytest.raises(UnusableImageError, match="full scale is not known"):
        decode(path, 3)


def write_png16(path: Path, values: np.ndarray[Any, Any]) -> None:
    """A colour PNG of 16 bits a channel, which Pillow cannot write."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    write_png(path, struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0), rows)


def write_png(path: Path, header: bytes, rows: bytes) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def seen_through(mode: str, hidden: int, tmp_path: Path) -> Path:
    """A left half of 200, and a right half of some hidden colour that nobody sees."""
    alpha = np.zeros((4, 8), np.uint8)
    alpha[:, :4] = 255
    grey = np.full((4, 8), hidden, np.uint8)
    grey[:, :4] = 200
    image = Image.fromarray(np.stack([grey, grey, grey, alpha], 2))
    if mode in ("P", "L", "RGB", "1"):
        plain = Image.fromarray(grey).convert(mode)
        key: Any = {"P": hidden, "L": hidden, "RGB": (hidden,) * 3, "1": 0}[mode]
        return saved(tmp_path / f"{mode}{hidden}.png", plain, transparency=key)
    if mode == "I;16":
        return saved(tmp_path / f"16{hidden}.png", grey.astype(np.uint16) * 257, transparency=hidden * 257)
    return saved(tmp_path / f"{mode}{hidden}.png", image.convert(mode))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_transparent_is_black_whatever_colour_it_hides(
    tmp_path: Path, mode: str, channels: int
) -> None:
    for hidden in (255, 3):
        pixels = decoded(seen_through(mode, hidden, tmp_path), channels)
        assert (pixels[:, :4] == 200).all()
        assert (pixels[:, 4:] == 0).all()
        rules = decode(seen_through(mode, hidden, tmp_path), channels).rules
        assert "transparency, laid over black" in rules


def test_half_transparent_and_opaque(tmp_path: Path) -> None:
    half = Image.new("LA", (4, 4), (200, 51))  # a fifth
    assert (decoded(saved(tmp_path / "half.png", half)) == 40).all()
    opaque = Image.fromarray(RGB).convert("RGBA")
    path = saved(tmp_path / "opaque.png", opaque)
    np.testing.assert_array_equal(decoded(path, 3), RGB)
    assert decode(path, 3).rules == ()


def test_one_bit_and_palettes(tmp_path: Path) -> None:
    bits = Image.fromarray(RAMP8 > 100)
    np.testing.assert_array_equal(decoded(saved(tmp_path / "bits.png", bits)), np.where(RAMP8 > 100, 255, 0))
    palette = Image.fromarray(RAMP8, "L").convert("P")
    palette.putpalette([255 - v for v in range(256) for _ in range(3)])
    np.testing.assert_array_equal(decoded(saved(tmp_path / "p.png", palette)), 255 - RAMP8)


def test_colour_spaces(tmp_path: Path) -> None:
    plain = Image.new("RGB", (8, 8), (200, 120, 40))
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    as_lab = ImageCms.buildTransform(srgb, lab, "RGB", "LAB").apply(plain)
    others = {"CMYK": plain.convert("CMYK"), "YCbCr": plain.convert("YCbCr"), "LAB": as_lab}
    for mode, image in others.items():
        found = decode(saved(tmp_path / f"{mode}.tif", image), 3)
        assert found.rules == (f"{mode}, made RGB",)
        np.testing.assert_allclose(np.asarray(found.image), np.asarray(plain), atol=3)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_images_are_turned_as_exif_says(tmp_path: Path, suffix: str) -> None:
    wide = np.zeros((16, 32), np.uint8)
    wide[:, 16:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the first row is the right-hand side
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(tmp_path / f"x.{suffix}", Image.fromarray(wide).convert("RGB"), exif=exif, **options)
    upright = decoded(path)
    assert upright.shape == (32, 16)
    assert upright[:14].max() < 20
    assert upright[18:].min() > 235
    assert "turned as EXIF says" in decode(path, 1).rules


def test_the_first_of_several_frames(tmp_path: Path) -> None:
    pages = [Image.fromarray(RAMP8), Image.fromarray(255 - RAMP8)]
    path = saved(tmp_path / "x.tif", pages[0], save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(decoded(path), RAMP8)
    assert decode(path, 1).rules == ("first of several frames",)


def bomb(path: Path) -> None:
    """A PNG that says it is 20,000 by 10,000; hardly anything of it is there."""
    write_png(path, struct.pack(">IIBBBBB", 20_000, 10_000, 8, 0, 0, 0, 0), bytes(10))


def barely_too_large(path: Path) -> None:
    """Where Pillow only warns."""
    side = int(MOST_PIXELS**0.5) + 40
    saved(path, Image.new("1", (side, side)))


def cut(path: Path) -> None:
    saved(path, RGB)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def a_gif(path: Path) -> None:
    saved(path, RAMP8, format="GIF")


def nothing(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (bomb, "is larger than 89 megapixels"),
        (barely_too_large, "is larger than 89 megapixels"),
        (cut, "is not a readable image"),
        (a_gif, "is not a readable image"),
        (nothing, "is not a readable image"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_no_image(tmp_path: Path, make: Callable[[Path], None], fault: str) -> None:
    make(tmp_path / "x.png")
    good = saved(tmp_path / "good.png", RAMP8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match=rf"x\.png {fault} \(1 of 2 slices cannot be used\)") as error:
            read_images({"good": good, "x": tmp_path / "x.png"}, 1, 28, "slices")
    assert "\n" not in str(error.value)


def test_damaged_bytes_end_in_the_one_exception(tmp_path: Path) -> None:
    whole = saved(tmp_path / "x.png", RGB).read_bytes()
    stream, unusable = np.random.default_rng(0), 0
    for _ in range(200):
        damaged = bytearray(whole)
        for place in stream.integers(0, len(whole), 4):
            damaged[place] = stream.integers(256)
        (tmp_path / "y.png").write_bytes(damaged)
        try:
            decode(tmp_path / "y.png", 3)
        except UnusableImageError:
            unusable += 1
    assert unusable > 100


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Two class folders of two images each."""
    for label in ("ill", "well"):
        (tmp_path / "set" / label).mkdir(parents=True)
        for number in range(2):
            saved(tmp_path / "set" / label / f"{number}.png", RAMP8)
    return tmp_path / "set"


CLASSES = {"ill": "ill", "well": "well"}


@pytest.mark.parametrize("suffix", ["bmp", "tif", "tiff", "webp", "JPEG", "PNG"])
def test_every_image_format_is_read(scans: Path, suffix: str) -> None:
    saved(scans / "ill" / f"x.{suffix}", RAMP8)
    found = find_images(scans, CLASSES)
    assert f"ill/x.{suffix}" in found.files
    assert len(read_images(found.files, 1, 28, "slices").names) == 5
    assert found.notes == ()


def test_what_is_not_read_is_noted(scans: Path) -> None:
    for name in ("ill/patient1/x.png", "ill/x.gif", "ill/x.dcm", "x.png", "ill/.trash/x.png"):
        (scans / name).parent.mkdir(exist_ok=True)
        (scans / name).write_bytes(b"")
    (scans / "well/gone.png").symlink_to(scans / "nowhere.png")
    os.mkfifo(scans / "well/pipe.png")
    found = find_images(scans, CLASSES)
    assert len(found.files) == 4
    assert {note.file: note.what for note in found.notes} == {
        "ill/patient1/x.png": "in a folder within a class folder, which is not read",
        "ill/x.gif": "no image by its suffix (.gif)",
        "ill/x.dcm": "no image by its suffix (.dcm)",
        "x.png": "image outside the class folders",
        "ill/.trash/x.png": "image in the hidden folder ill/.trash",
        "well/gone.png": "no file (a link to nowhere, or a device)",
        "well/pipe.png": "no file (a link to nowhere, or a device)",
    }


def test_what_tools_leave_behind_is_skipped(scans: Path) -> None:
    for name in ("__MACOSX/._x", "@eaDir/y", "ill/Thumbs.db", "ill/._0.png", "ill/desktop.ini", ".DS_Store"):
        (scans / name).parent.mkdir(exist_ok=True)
        (scans / name).write_bytes(b"")
    found = find_images(scans, CLASSES)
    assert len(found.files) == 4
    assert found.notes == ()


def test_names_that_are_not_utf8(scans: Path) -> None:
    odd = os.fsdecode(b"gliom\xe9 \n.png")
    saved(scans / "ill" / odd, RAMP8)
    found = find_images(scans, CLASSES)
    name = "ill/gliom\\xe9 \\n.png"
    assert found.files[name].name == odd
    name.encode()
    assert printable("Tr-gl_0010 (1) é.jpg") == "Tr-gl_0010 (1) é.jpg"
    saved(scans / name, RAMP8)
    with pytest.raises(UserError, match="two files of"):
        find_images(scans, CLASSES)


def test_ten_thousand_notes_make_few_lines() -> None:
    notes = [Note(f"f{i}", "16 bits, divided by 257") for i in range(10_000)]
    assert summary("slices", notes) == ("16 bits, divided by 257: 10000 slices (first: f0)",)
    many = summary("slices", [Note(f"f{i}", f"no image by its suffix (.{i})") for i in range(10_000)])
    assert len(many) == MOST_LINES
    assert many[-1] == "9981 more things were done to slices"
    assert few([f"f{i}" for i in range(9)]) == "f0, f1, f2, f3, f4 and 4 more"


@pytest.mark.parametrize("cell", ["NA", "NaN", "unknown", "", "n/a", "null", "-", "  Unknown ", "None"])
def test_unknown_has_one_spelling(cell: str) -> None:
    assert stated(cell) == ""


def test_what_is_stated_stays() -> None:
    assert [stated(cell) for cell in ("male", " 3 ", "0", "Nash", "-1")] == ["male", "3", "0", "Nash", "-1"]


@pytest.mark.parametrize("text", ["a,b\n1\n", "a,b\n1,2,3\n", "a,b,a\n1,2,3\n"])
def test_rows_that_do_not_fit_the_header(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=r"t\.csv: row 1 does not fit the header"):
        read_table(tmp_path / "t.csv", ("a",), "our")


def write_set(root: Path) -> Path:
    """Both folders of mri-ct, eight slices a class."""
    seeds = iter(range(100))
    classes = ("glioma", "meningioma", "notumor", "pituitary")
    folders = [f"brain_tumor_mri/{part}/{label}" for part in ("Training", "Testing") for label in classes]
    folders += [f"iqothnccd_lung_ct/{label} cases" for label in ("Bengin", "Malignant", "Normal")]
    for folder in folders:
        (root / folder).mkdir(parents=True)
        for number in range(8):
            noise = np.random.default_rng(next(seeds)).integers(0, 256, (28, 28), np.uint8)
            saved(root / folder / f"{number}.png", noise)
    return root


def test_an_import_says_what_it_did(robmed: Robmed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBMED_HOME", str(tmp_path / "home"))
    source = write_set(tmp_path / "set")
    glioma = source / "brain_tumor_mri/Training/glioma"
    saved(glioma / "deep.png", RAMP)
    saved(glioma / os.fsdecode(b"gliom\xe9.bmp"), RGB)
    (source / "brain_tumor_mri/Training/__MACOSX").mkdir()
    code, errors = robmed("data", "import", "mri-ct", "--from", source)
    assert (code, errors) == (0, [])
    with (tmp_path / "home/datasets/mri-ct/notes.csv").open() as stream:
        rows = [tuple(row.values()) for row in csv.DictReader(stream)]
    assert ("MRI", "Training/glioma/deep.png", "16 bits, divided by 257") in rows
    assert ("MRI", "Training/glioma/gliom\\xe9.bmp", "colour, made grey") in rows


def test_a_broken_image_is_one_line(robmed: Robmed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBMED_HOME", str(tmp_path / "home"))
    source = write_set(tmp_path / "set")
    bomb(source / "brain_tumor_mri/Training/glioma/bomb.png")
    cut(source / "brain_tumor_mri/Training/glioma/cut.png")
    code, errors = robmed("data", "import", "mri-ct", "--from", source)
    assert code == 2
    assert len(errors) == 1
    assert "2 of 66 MRI slices cannot be used: 1 is larger than" in errors[0]
    assert not (tmp_path / "home/datasets/mri-ct").exists()
