"""Videos become pairs of their frames: times, cuts, rotation; what is damaged, empty or no video is a reject."""

from __future__ import annotations

import io
import json
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Runner, rejects_of, rows_of

from edittools.metrics.cuts import SIDE, FrameLook, clips
from edittools.stream import codec

av = pytest.importorskip("av")
TICK = 20  # pixels: how wide the bars are that tell a frame's number


def picture(number: int, scene: int = 0, height: int = 96, width: int = 160) -> np.ndarray:
    """A textured scene with the number of the frame in eight bars, white for 1; the upper left corner is red."""
    rng = np.random.default_rng(scene)
    coarse = rng.integers(30, 220, (height // 8, width // 8, 3))
    made = np.repeat(np.repeat(coarse, 8, 0), 8, 1).astype(np.uint8)
    for bit in range(8):
        made[-16:, bit * TICK : (bit + 1) * TICK] = 255 if number >> bit & 1 else 0
    made[:16, :16] = 255, 0, 0
    return made


def number_of(pixels: np.ndarray) -> int:
    bars = pixels[-8, TICK // 2 :: TICK].mean(axis=1)
    return sum(1 << bit for bit in range(8) if bars[bit] > 128)


def clip(
    frames: list[np.ndarray], times: list[int] | None = None, codec_name: str = "mpeg4", kind: str = "mp4", **said: int
) -> bytes:
    """A video whose k-th frame stands at `times[k]` hundredths of a second (k * 4 by default)."""
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream(codec_name, rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        stream.codec_context.time_base = __import__("fractions").Fraction(1, 100)
        for name, value in said.items():
            setattr(stream.codec_context, name, value)
        for k, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = times[k] if times else 4 * k, stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def turned(video: bytes) -> bytes:
    """The same file whose track is to be shown turned clockwise by a quarter, as telephones write it: the matrix of
    the track header (ISO 14496-12, 8.3.2) maps (x, y) to (-y, x)."""
    at = video.index(b"tkhd") + 4 + 40
    assert struct.unpack(">9i", video[at : at + 36]) == (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    return video[:at] + struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 96 << 16, 0, 1 << 30) + video[at + 36 :]


@pytest.fixture(scope="module")
def plain() -> bytes:
    return clip([picture(k) for k in range(30)])


def pairs_of(folder: Path) -> Iterator[tuple[dict[str, Any], np.ndarray, np.ndarray]]:
    for row in rows_of(folder):
        yield row, *(codec.decode(one) for one in (row["source"][0], row["target"]))


def test_frames_of_clips_between_cuts(edit: Runner, tmp_path: Path, plain: bytes) -> None:
    clips_, out = tmp_path / "clips", tmp_path / "out"
    clips_.mkdir()
    (clips_ / "plain.mp4").write_bytes(plain)
    (clips_ / "plain.txt").write_text("a test card")
    # Frames at other distances: 2 and 10 hundredths in turns.
    times = [12 * (k // 2) + 2 * (k % 2) for k in range(40)]
    (clips_ / "variable.mkv").write_bytes(clip([picture(k) for k in range(40)], times, kind="matroska"))
    (clips_ / "cut.avi").write_bytes(clip([picture(k, k // 20) for k in range(40)], kind="avi"))
    (clips_ / "turned.mp4").write_bytes(turned(plain))
    edit("shard", clips_, "--frames", "--gap", "0.2..0.5", "--per-clip", "3", "-o", out, "-q")
    found: dict[str, list[tuple[int, int]]] = {}
    for row, before, after in pairs_of(out):
        path, _, fragment = row["provenance"]["path"].partition("#t=")
        start, end = map(float, fragment.split(","))
        assert row["task"] == "motion" and 0.2 <= end - start <= 0.5
        if path == "turned.mp4":
            assert before.shape[:2] == (160, 96)
            corner = (
                before[2:14, -14:-2].reshape(-1, 3).mean(axis=0)
            )  # what was at the upper left is at the upper right
            assert corner[0] > 180 and corner[1:].max() < 80
            before, after = (np.rot90(one) for one in (before, after))
        numbers = number_of(before), number_of(after)
        at = [times[k] / 100 if path == "variable.mkv" else k / 25 for k in numbers]
        assert (start, end) == pytest.approx(at, abs=0.0011)
        if path == "cut.avi":
            assert numbers[0] // 20 == numbers[1] // 20 == json.loads(row["provenance"]["slots"])["clip"]
        if path == "plain.mp4":
            assert row["caption"]["en"] == "a test card"
        found.setdefault(path, []).append(numbers)
    assert {path: len(some) for path, some in found.items()} == {
        "cut.avi": 6, "plain.mp4": 3, "turned.mp4": 3, "variable.mkv": 3,
    }  # fmt: skip
    # Nothing within four frames of an end of a clip.
    assert all(4 <= number % 20 < 16 for some in found["cut.avi"] for number in some)


def test_videos_of_a_webdataset(edit: Runner, tmp_path: Path, plain: bytes) -> None:
    path, out = tmp_path / "00000.tar", tmp_path / "out"
    with tarfile.open(path, "w") as tar:
        for name, data in (
            ("a.mp4", plain),
            ("a.json", b'{"fps": 25}'),
            ("a.txt", b"bars"),
            ("b.mp4", plain[: len(plain) // 2]),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    edit("shard", path, "--frames", "--gap", "0.2..0.5", "-o", out, "-q", "--max-errors", "9")
    ((row, before, after),) = pairs_of(out)
    assert row["fps"] == 25 and row["caption"]["en"] == "bars" and number_of(after) > number_of(before)
    (reject,) = rejects_of(out)  # its index lies at its end
    assert (reject["reason"], reject["failed"]) == ("damaged video", True)


def test_hostile_videos_are_rejects_or_rows(edit: Runner, tmp_path: Path, plain: bytes) -> None:
    clips_, out = tmp_path / "clips", tmp_path / "out"
    clips_.mkdir()
    stream = clip([picture(k) for k in range(60)], kind="mpegts", codec_name="mpeg2video")
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(plain)
    noise = np.random.default_rng(0).integers(0, 256, 4000, np.uint8).tobytes()
    hostile = {
        "cut.ts": stream[: len(stream) * 2 // 3],  # ends within a packet: what is there is read
        "cut.mp4": plain[: len(plain) // 2],
        "empty.mp4": b"",
        "noise.mp4": noise,
        "header.mp4": plain[:12] + noise,
        "list.mp4": b"#EXTM3U\n#EXTINF:1,\n" + str(secret).encode() + b"\n",
        "concat.mp4": b"ffconcat version 1.0\nfile '" + str(secret).encode() + b"'\n",
        "short.mp4": clip([picture(k) for k in range(6)]),
        "one.mp4": clip([picture(0)]),
        "gray.mp4": clip([np.full((96, 160, 3), 128, np.uint8)] * 30),  # nothing to tell frames by
        "picture.jpg": codec.encode_png(picture(0)),
        "damaged.mp4": plain[:2000] + noise + plain[6000:],
        "nothing.txt": b"x",
    }
    for name, data in hostile.items():
        (clips_ / name).write_bytes(data)
    audio = io.BytesIO()
    with av.open(audio, "w", format="mp4") as container:
        track = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        sound.rate = 8000
        container.mux(track.encode(sound))
        container.mux(track.encode(None))
    (clips_ / "audio.mp4").write_bytes(audio.getvalue())
    edit("shard", clips_, "--frames", "--gap", "0.2..0.5", "-o", out, "-q", "--max-errors", "99")
    rows = {row["provenance"]["path"].partition("#")[0] for row in rows_of(out)}
    why = {one["path"]: one["reason"] for one in rejects_of(out)}
    assert rows | why.keys() == {*hostile, "audio.mp4"} and not rows & why.keys()
    assert {"cut.ts", "gray.mp4"} <= rows <= {"cut.ts", "gray.mp4", "damaged.mp4"}
    wanted = {
        "cut.mp4": "damaged video", "empty.mp4": "no video", "noise.mp4": "no video", "header.mp4": "damaged video",
        "list.mp4": "no video", "concat.mp4": "no video", "picture.jpg": "no video", "nothing.txt": "no video",
        "short.mp4": "no clip that is long enough", "one.mp4": "no clip that is long enough",
        "audio.mp4": "no pictures in the video",
    }  # fmt: skip
    assert {name: why[name] for name in wanted} == wanted


def mutated(videos: list[bytes], k: int) -> bytes:
    """A video with damage: bits flipped, bytes overwritten, cut off, a piece gone or twice, a number made huge."""
    rng = np.random.default_rng(k)
    data = bytearray(videos[k % len(videos)])
    for _ in range(int(rng.integers(1, 6))):
        start = int(rng.integers(0, min(len(data), 2000 if rng.random() < 0.5 else len(data))))
        size = int(2 ** rng.integers(0, 12))
        match int(rng.integers(7)):
            case 0:
                data[start] ^= 1 << int(rng.integers(8))
            case 1:
                data[start : start + size] = rng.integers(0, 256, size, np.uint8).tobytes()
            case 2:
                del data[max(start, 100) :]
            case 3:
                del data[start : start + size]
            case 4:
                data[start:start] = data[start : start + size]
            case 5:
                data[start : start + 4] = b"\x7f\xff\xff\xff"
            case 6:
                data[start : start + size] = bytes(min(size, len(data) - start))
    return bytes(data)


@pytest.mark.parametrize("count", [pytest.param(30), pytest.param(1000, marks=pytest.mark.long)])
def test_damaged_videos_are_rejects_or_rows(edit: Runner, tmp_path: Path, plain: bytes, count: int) -> None:
    """No crash of the decoder's library, no hang, and not one that is neither."""
    clips_, out = tmp_path / "clips", tmp_path / "out"
    clips_.mkdir()
    frames = [picture(k, k // 15) for k in range(30)]
    uneven = [12 * (k // 2) + 2 * (k % 2) for k in range(30)]
    videos = [
        plain, turned(plain), clip(frames, uneven, kind="matroska"), clip(frames, kind="avi"),
        clip(frames, kind="mpegts", codec_name="mpeg2video"), clip(frames, kind="avi", codec_name="mpeg2video"),
    ]  # fmt: skip
    for k in range(count):
        (clips_ / f"{k}.mp4").write_bytes(mutated(videos, k))
    edit("shard", clips_, "--frames", "--gap", "0.2..0.5", "-o", out, "-q", "--max-errors", count, timeout=900)
    rows = {row["provenance"]["path"].partition("#")[0] for row in rows_of(out)}
    rejected = [one["path"] for one in rejects_of(out)]
    assert rows.isdisjoint(rejected) and sorted([*rows, *rejected]) == sorted(f"{k}.mp4" for k in range(count))
    assert rows and rejected


def test_too_many_pixels(edit: Runner, tmp_path: Path, plain: bytes) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(plain)
    out = tmp_path / "out"
    edit("shard", tmp_path / "in", "--frames", "--max-pixels", "10000", "-o", out, "-q", "--max-errors", "9")
    (reject,) = rejects_of(out)
    assert (reject["reason"], reject["value"]) == ("image too large", "160x96")


def test_frames_of_a_telephones_hdr_become_srgb() -> None:
    """HLG in BT.2020, as stills of that profile do; what says nothing and is no HDR stays as it is."""
    from PIL import Image

    from edittools.ingest.video import opened
    from edittools.stream import colour, spaces

    flat = np.full((96, 160, 3), (150, 120, 100), np.uint8)
    shown = []
    for said in ({"color_trc": 18, "color_primaries": 9, "colorspace": 9}, {}):
        made = clip([flat] * 3, **said)
        with opened({"bytes": made, "file": None, "etag": None}, 10**6) as video:
            shown.append(video.pixels(next(video.frames()))[40, 80].astype(int))
    profile = spaces.of_code_points(9, 18)
    wanted = np.asarray(colour.to_rgb(Image.fromarray(flat), profile))[40, 80].astype(int)
    assert np.abs(wanted - flat[0, 0]).max() > 20, "it differs"
    assert np.abs(shown[0] - wanted).max() <= 8 and np.abs(shown[1] - flat[0, 0]).max() <= 6


def test_the_published_rule() -> None:
    """A cut is where the score is negative, or falls out of those before it; four frames go at either end."""
    assert clips([2.0] * 30) == [(4, 27)]
    hard = [2.0] * 30
    hard[14] = -0.1
    assert clips(hard) == [(4, 11), (19, 27)]
    # A fade: three scores of .5, whose mean is far below the 2.0 before; the middle one and its neighbours.
    fade = [2.0] * 30
    fade[14:17] = [0.5] * 3
    assert [first for first, _ in clips(fade)] == [4, 20] and clips(fade)[0][1] == 12
    assert clips([0.5] * 30) == [(4, 27)]  # always so: nothing falls out
    assert clips([2.0] * 7) == []


def test_scores_of_alike_and_other_frames() -> None:
    def look(scene: int) -> FrameLook:
        return FrameLook(picture(0, scene, SIDE, SIDE))

    assert look(0).alike(look(0)) == pytest.approx(4.61480465 + 3.75211168 - 5.485968377115124)
    assert look(0).alike(look(1)) < 0
