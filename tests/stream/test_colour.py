"""Images with ICC profiles come out in sRGB: against the profiles' own formulas, and against littleCMS on its own."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import Runner, encode, pixels, rows_of
from PIL import Image, ImageCms

from edittools.errors import EditError
from edittools.stream import codec, colour
from edittools.stream.codec import Raster, decode, probe
from edittools.stream.history import History

# Colorants in the profile connection space (D50): of the standards, adapted by Bradford's matrix.
DISPLAY_P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
ADOBE_RGB = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
PROPHOTO = np.array([[0.79767, 0.13519, 0.03134], [0.28804, 0.71188, 0.00009], [0.0, 0.0, 0.82491]])
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
D50 = (0.9642, 1.0, 0.8249)


def fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def xyz(values: Any) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(map(fixed, values))


def gamma(power: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(power * 256))


# The curve of sRGB: ((x + 0.055) / 1.055) ** 2.4 above 0.04045, x / 12.92 below.
OF_SRGB = (
    b"para\0\0\0\0"
    + struct.pack(">HH", 3, 0)
    + b"".join(map(fixed, (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)))
)


def profile(space: bytes, device: bytes, *tags: tuple[bytes, bytes], pcs: bytes = b"XYZ ") -> bytes:
    """An ICC profile of version 2.4: a header, a table of tags, their values."""
    every = [
        (b"desc", b"desc\0\0\0\0" + struct.pack(">I", 2) + b"x\0" + bytes(78)),
        (b"cprt", b"text\0\0\0\0none\0"),
        (b"wtpt", xyz(D50)),
        *tags,
    ]
    at, table, body = 132 + 12 * len(every), struct.pack(">I", len(every)), b""
    for name, value in every:
        value += bytes(-len(value) % 4)
        table += name + struct.pack(">II", at + len(body), len(value))
        body += value
    head = struct.pack(">I4sI4s4s4s", at + len(body), b"test", 0x02400000, device, space, pcs)
    return (head + bytes(12) + b"acsp" + bytes(28) + b"".join(map(fixed, D50))).ljust(128, b"\0") + table + body


def of_matrix(colorants: np.ndarray, curve: bytes) -> bytes:
    names = (b"rXYZ", b"gXYZ", b"bXYZ")
    tags = [(name, xyz(column)) for name, column in zip(names, colorants.T)]
    return profile(b"RGB ", b"mntr", *tags, *((name, curve) for name in (b"rTRC", b"gTRC", b"bTRC")))


def of_grey(power: float) -> bytes:
    return profile(b"GRAY", b"mntr", (b"kTRC", gamma(power)))


def of_inks() -> bytes:
    """A press with inks of its own: a table of 3^4 mixtures to Lab, each ink taking away light as it likes."""
    paper, rng = np.array([95.0, 0.0, 2.0]), np.random.default_rng(4)
    solid = np.array([[55, -35, -48], [48, 72, -3], [89, -5, 92], [16, 0, 0]])  # cyan, magenta, yellow, black
    places = np.stack(np.meshgrid(*[np.linspace(0, 1, 3)] * 4, indexing="ij"), -1).reshape(-1, 4)
    lab = np.tile(paper, (len(places), 1))
    for ink in range(4):
        share = places[:, ink : ink + 1] ** 0.9
        lab[:, :1] *= 1 - share * (1 - solid[ink, 0] / 95)
        lab[:, 1:] = lab[:, 1:] * (1 - 0.6 * share) + share * solid[ink, 1:] * 0.8
    lab += rng.uniform(-1, 1, lab.shape)
    coded = np.clip(np.stack([lab[:, 0] * 2.55, lab[:, 1] + 128, lab[:, 2] + 128], -1), 0, 255).round().astype(np.uint8)
    same = bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 3, 0]) + b"".join(map(fixed, (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    return profile(b"CMYK", b"prtr", (b"A2B0", table + same * 4 + coded.tobytes() + same * 3), pcs=b"Lab ")


P3, ADOBE = of_matrix(DISPLAY_P3, OF_SRGB), of_matrix(ADOBE_RGB, gamma(2.19921875))
WIDE, PRESS = of_matrix(PROPHOTO, gamma(1.8)), of_inks()


def by_formula(array: np.ndarray, colorants: np.ndarray, power: float | None) -> np.ndarray:
    """Levels of sRGB, by the definition of a matrix profile (ICC.1:2022, F.3) and of sRGB (IEC 61966-2-1)."""
    level = array.astype(np.float64) / 255
    light = level**power if power else np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    linear = np.clip(light @ (np.linalg.inv(SRGB) @ colorants).T, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize(
    ("embedded", "colorants", "power"),
    [(P3, DISPLAY_P3, None), (ADOBE, ADOBE_RGB, 2.19921875), (WIDE, PROPHOTO, 1.8)],
    ids=["Display P3", "Adobe RGB", "ProPhoto"],
)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG", "AVIF"])
def test_spaces_of_three_primaries(kind: str, embedded: bytes, colorants: np.ndarray, power: float | None) -> None:
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}}
    data = encode(pixels(3, 96, 128), kind, icc_profile=embedded, **options.get(kind, {}))
    with Image.open(io.BytesIO(data)) as stored:
        array = np.asarray(stored.convert("RGB"))
    truth = by_formula(array, colorants, power)
    assert np.abs(truth - array).mean() > 2, "the profile has something to change"
    error = np.abs(decode(data) - truth)
    assert error.mean() <= 1 and np.percentile(error, 99.9) <= 2 + (kind == "JPEG")
    assert probe(data).profile == embedded
    assert np.abs(decode(data, Raster(gray=True)) - truth @ [0.299, 0.587, 0.114]).mean() <= 1


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_grey_profiles(kind: str) -> None:
    """Grey of another gamma than that of the screen; and grey whose profile speaks of three channels."""
    array = np.tile(np.arange(256, dtype=np.uint8), (16, 1))
    options = {"quality": 100} if kind == "JPEG" else {}
    for power, embedded in ((1.8, of_grey(1.8)), (1.0, of_grey(1.0)), (2.19921875, ADOBE)):
        truth = by_formula(np.repeat(array[:, :, None], 3, -1), SRGB, power)
        found = decode(encode(array, kind, icc_profile=embedded, **options))
        assert found.shape == (16, 256, 3) and np.abs(found - truth).mean() <= 1, power
        grey = decode(encode(array, kind, icc_profile=embedded, **options), Raster(gray=True))
        assert np.abs(grey - truth[:, :, 0]).mean() <= 1


def test_grey_of_16_bits() -> None:
    array = np.tile(np.arange(0, 65536, 257, dtype=np.uint16), (8, 1))
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", icc_profile=of_grey(1.0))
    truth = by_formula(np.repeat((array / 257)[:, :, None], 3, -1), SRGB, 1.0)
    assert np.abs(decode(buffer.getvalue()) - truth).mean() <= 1


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_inks(kind: str) -> None:
    """CMYK by the press's own table, as littleCMS reads it; the naive formula is far from it."""
    inks = np.random.default_rng(2).integers(0, 256, (6, 8, 4), dtype=np.uint8)
    image = Image.fromarray(inks, "CMYK").resize((128, 96), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, kind, icc_profile=PRESS, **({"quality": 100, "subsampling": 0} if kind == "JPEG" else {}))
    with Image.open(io.BytesIO(buffer.getvalue())) as stored:
        stored.load()
        truth = ImageCms.profileToProfile(
            stored,
            ImageCms.ImageCmsProfile(io.BytesIO(PRESS)),
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
        )
    found = decode(buffer.getvalue()).astype(int)
    assert np.abs(found - np.asarray(truth)).mean() <= 1
    assert np.abs(found - np.asarray(image.convert("RGB"))).mean() > 10
    assert decode(buffer.getvalue(), Raster(short_side=48)).shape == (48, 64, 3)


def test_rotten_inks_are_damage() -> None:
    """What the fast decoder reads strictly includes CMYK: Pillow alone passes over it."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 4), dtype=np.uint8), "CMYK").save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    data[-3000:-1000] = np.random.default_rng(0).integers(0, 255, 2000, dtype=np.uint8).tobytes()
    with pytest.raises(codec.RowError, match="damaged image"):
        decode(bytes(data))


def test_transparency_is_laid_over_white_behind_the_conversion() -> None:
    array = np.dstack([pixels(5, 32, 32), np.full((32, 32), 255, np.uint8)])
    array[:16, :, 3], array[16:20, :, 3] = 0, 51
    found = decode(encode(array, "PNG", icc_profile=P3))
    shown = by_formula(array[:, :, :3], DISPLAY_P3, None)
    assert (found[:16] == 255).all() and np.abs(found[20:] - shown[20:]).mean() <= 1
    assert np.abs(found[16:20] - (0.2 * shown[16:20] + 0.8 * 255)).mean() <= 1
    index = Image.fromarray(array[:, :, :3]).quantize(16)
    buffer = io.BytesIO()
    index.save(buffer, "PNG", icc_profile=P3)
    truth = by_formula(np.asarray(index.convert("RGB")), DISPLAY_P3, None)
    assert np.abs(decode(buffer.getvalue()) - truth).mean() <= 1


def test_lab() -> None:
    lab = Image.fromarray(np.array([[[255, 0, 0], [128, 0, 0], [138, 81, 70]]], np.uint8), "LAB")
    buffer = io.BytesIO()
    lab.save(buffer, "TIFF")
    white, grey, red = decode(buffer.getvalue())[0].astype(int)
    assert np.abs(white - 255).max() <= 1 and np.abs(grey - 119).max() <= 2  # L* 50.2 is 18.6% of the light
    assert red[0] > 240 and red[1] < 40 and red[2] < 40  # L* 54, a* 81, b* 70: near the red of sRGB


def test_srgb_and_no_profile_and_no_good_profile_change_nothing() -> None:
    """However sRGB is written down; and a damaged profile, or one of another kind of image, is none."""
    array = pixels(6)
    plain = decode(encode(array, "PNG"))
    copies = [
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        of_matrix(SRGB, OF_SRGB),
        of_matrix(SRGB * 1.00002, OF_SRGB),
    ]
    for embedded in (*copies, b"nonsense", P3[:200], P3[:-40], of_grey(1.8), PRESS, b"\0" * 5000):
        assert np.array_equal(decode(encode(array, "PNG", icc_profile=embedded)), plain)
        assert colour.conversion(embedded, "RGB") is None
    jpeg = encode(array, "JPEG", quality=90)
    assert np.array_equal(decode(encode(array, "JPEG", quality=90, icc_profile=copies[0])), decode(jpeg))
    assert probe(encode(array, "JPEG", icc_profile=copies[1])).plain
    assert not probe(encode(array, "JPEG", icc_profile=P3)).plain


def test_profiles_that_another_thread_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered may be thrown away at any moment, when many images have profiles of their own."""

    class Forgetting(dict):  # as if another thread came in between
        def __setitem__(self, key: Any, value: Any) -> None:
            super().__setitem__(key, value)
            self.clear()

        def __contains__(self, key: Any) -> bool:
            found = super().__contains__(key)
            self.clear()
            return found

    data = encode(pixels(1), "PNG", icc_profile=P3)
    shown = decode(data)
    monkeypatch.setattr(colour, "_known", Forgetting())
    assert np.array_equal(decode(data), shown) and np.array_equal(decode(data), shown)


def test_a_profile_in_many_segments() -> None:
    """A JPEG segment holds 64 KB of a profile at most, and the segments may come in any order."""
    padded = P3 + bytes(150_000)
    data = encode(pixels(7), "JPEG", quality=95, icc_profile=padded)
    parts, at = [], 2
    while data[at + 1] != 0xDB:
        stop = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        parts.append(data[at:stop])
        at = stop
    profiles = [part for part in parts if part[1] == 0xE2]
    assert len(profiles) == 3
    mixed = data[:2] + b"".join([profiles[2], *(p for p in parts if p[1] != 0xE2), *profiles[:2]]) + data[at:]
    assert probe(mixed).profile == padded
    assert np.array_equal(decode(mixed), decode(data)) and not probe(data).plain


def test_orientation_and_scaled_decoding_go_together_with_a_profile() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    array = pixels(8, 240, 320)
    data = encode(array, "JPEG", quality=97, subsampling=0, icc_profile=P3, exif=exif)
    truth = np.rot90(by_formula(array, DISPLAY_P3, None), -1)
    assert np.abs(decode(data) - truth).mean() < 3
    for raster in (Raster(short_side=60), Raster(square=32), Raster(cover=(70, 70)), Raster(short_side=60, gray=True)):
        found = decode(data, raster)
        size = found.shape[1::-1]
        small = np.asarray(Image.fromarray(truth.round().astype(np.uint8)).resize(size, Image.Resampling.BOX), float)
        assert np.abs(found - (small @ [0.299, 0.587, 0.114] if raster.gray else small)).mean() < 3, raster


def test_made_images_are_srgb_and_say_so(edit: Runner, tmp_path: Any) -> None:
    """`synth` from an image in Display P3: the target's pixels are sRGB, and the file says that they are."""
    (tmp_path / "in").mkdir()
    array = pixels(9, 64, 96)
    (tmp_path / "in" / "p3.jpg").write_bytes(encode(array, "JPEG", quality=98, subsampling=0, icc_profile=P3))
    edit("shard", tmp_path / "in", "-o", tmp_path / "raw")
    edit("synth", tmp_path / "raw", "--templates", "flip", "-o", tmp_path / "pairs")
    (row,) = rows_of(tmp_path / "pairs")
    with Image.open(io.BytesIO(row["target"])) as made:
        assert made.info["srgb"] == 0 and "icc_profile" not in made.info
        target = np.asarray(made.convert("RGB"), float)
    truth = by_formula(array, DISPLAY_P3, None)
    assert min(np.abs(target - flipped).mean() for flipped in (truth[:, ::-1], truth[::-1])) < 2
    assert row["source"] == [(tmp_path / "in" / "p3.jpg").read_bytes()], "the bytes that came in stay as they are"


def test_what_an_older_release_made_is_not_taken_for_current(
    edit: Runner, shards: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished shard says by which version of the pixels, and of all its stages, it was made; another is refused."""
    from edittools.filter.config import FilterConfig
    from edittools.filter.stage import FilterStage
    from edittools.filter.straighten import StraightenStage
    from edittools.stream.run import RunOptions, open_input, run

    config = FilterConfig(brightness="0..")
    stages = [StraightenStage(config), FilterStage(config)]
    options = RunOptions(output=f"{tmp_path}/out/", quiet=True)

    def again() -> None:
        run("filter", open_input([str(shards)], RunOptions()), stages, {}, options)

    monkeypatch.setattr(FilterStage, "VERSION", 4)
    again()
    again()  # nothing is left to do
    for what in (FilterStage, StraightenStage, codec):
        with monkeypatch.context() as patch, pytest.raises(EditError, match="from other input or with other settings"):
            patch.setattr(what, "VERSION", what.VERSION + 1)
            again()
    again()
    edit("synth", shards, "--templates", "flip", "-o", tmp_path / "pairs")
    notes = pq.read_schema(tmp_path / "pairs" / "00000.parquet").metadata
    versions = {node["command"]: node["version"] for node in History.from_json(notes[b"edit.history"]).nodes}
    assert versions["synth"] == codec.VERSION


def test_scores_that_an_earlier_release_measured_are_measured_again(
    edit: Runner, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once, and only those that a history tells of: others are somebody's own."""
    from edittools.cli.main import group
    from edittools.filter.stage import FilterStage

    (tmp_path / "in").mkdir()
    for seed in range(3):
        (tmp_path / "in" / f"{seed}.jpg").write_bytes(encode(pixels(seed), "JPEG", quality=95, icc_profile=P3))
    edit("shard", tmp_path / "in", "-o", tmp_path / "raw")
    edit("filter", tmp_path / "raw", "--saturation", "..", "--brightness", "..", "-o", tmp_path / "true")
    with monkeypatch.context() as past:
        past.setattr(codec, "VERSION", 1)
        past.setattr(colour, "conversion", lambda profile, mode: None)
        words = f"filter {tmp_path}/raw --saturation .. --brightness .. -q -o {tmp_path}/old/"
        group.main(words.split(), standalone_mode=False)

    def scores(name: str) -> list[dict[str, float]]:
        return [row["scores"] for row in rows_of(tmp_path / name)]

    assert all(a["saturation"] != b["saturation"] for a, b in zip(scores("old"), scores("true"), strict=True))
    told = edit("filter", tmp_path / "old", "--saturation", "..", "-o", tmp_path / "new")
    assert "measured again" in told.stderr and "saturation" in told.stderr and "brightness" not in told.stderr
    for row, was, wanted in zip(scores("new"), scores("old"), scores("true"), strict=True):
        assert row == {"saturation": wanted["saturation"], "brightness": was["brightness"]}
    told = edit("filter", tmp_path / "new", "--saturation", "q01..", "-o", tmp_path / "again")
    assert "measured again" not in told.stderr
    told = edit("filter", tmp_path / "old", "--saturation", "q40..", "-o", tmp_path / "quantile")
    kept = sorted(row["saturation"] for row in scores("true"))[1:]
    assert "measured again" in told.stderr and sorted(row["saturation"] for row in scores("quantile")) == kept
    with monkeypatch.context() as later:
        later.setattr(FilterStage, "VERSION", FilterStage.VERSION + 1)
        for before, after, told_of in (("true", "newer", True), ("newer", "last", False)):
            words = f"filter {tmp_path}/{before} --saturation .. -o {tmp_path}/{after}/"
            group.main(words.split(), standalone_mode=False)
            assert ("measured again" in capsys.readouterr().err) is told_of  # by the stage's own version, once
    # Without a history that tells of it a score is the user's, and stays.
    edit("cat", tmp_path / "old", "-o", tmp_path / "whole.parquet")
    table = pq.read_table(tmp_path / "whole.parquet")
    pq.write_table(table.replace_schema_metadata(None), tmp_path / "mine.parquet")
    edit("filter", tmp_path / "mine.parquet", "--saturation", "..", "-o", tmp_path / "mine")
    assert [row["scores"]["saturation"] for row in rows_of(tmp_path / "mine")] == [
        row["saturation"] for row in scores("old")
    ]
