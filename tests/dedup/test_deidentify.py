"""De-identification: public images like private ones, in their place, and proof that nothing private is left."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_models
from click.testing import CliRunner
from conftest import encode, pixels
from PIL import Image
from stub_embedder import StubEmbedder

from edittools.cli import dedup, eval_study
from edittools.encoders.embedders import load_embedder
from edittools.errors import EditError, UsageError
from edittools.record import COLUMNS
from edittools.stream import codec


def smooth(seed: int) -> np.ndarray:
    """A picture of large shapes, 96 x 128, so that likeness means something."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((128, 96), Image.Resampling.BICUBIC))


def noisy(seed: int, of: int) -> np.ndarray:
    """Another picture like `smooth(of)`: half of it is."""
    return (0.55 * smooth(of) + 0.45 * smooth(1000 + seed)).astype(np.uint8)


def jpeg(array: np.ndarray) -> bytes:
    return encode(array, quality=90)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    names = ("id", "task", "source", "target", "instruction", "provenance")
    schema = pa.schema([(name, COLUMNS[name]) for name in names])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """Four private edit rows; public images of which number k is like the private number k, one a copy of it."""
    private = [
        {
            "id": f"holiday-{k}",
            "task": ("add", "style")[k % 2],
            "source": [{"bytes": jpeg(smooth(k))}],
            "target": {"bytes": jpeg(smooth(50 + k))},
            "instruction": {"en": f"Paint the boat {k}", "zh": None},
            "provenance": {"path": f"/home/someone/IMG_{k}.jpg", "native_task": "boats"},
        }
        for k in range(4)
    ]
    public = [
        {"id": f"p{k}", "task": ("add", "style")[k % 2], "source": [], "target": {"bytes": jpeg(picture)}}
        for k, picture in enumerate([*(noisy(k, k) for k in range(4)), *(smooth(20 + k) for k in range(12))])
    ]
    for row in public:
        row["provenance"] = {"license": "cc0", "origin": "open", "path": f"{row['id']}.jpg"}
    public.append({**public[0], "id": "leaked", "target": {"bytes": encode(smooth(0)[:, ::-1], quality=70)}})
    write(tmp_path / "private.parquet", private)
    write(tmp_path / "public.parquet", public)
    return tmp_path


def invoke(command: Any, *words: Any) -> Any:
    ran = CliRunner().invoke(command, [str(word) for word in words])
    if ran.exception is not None and not isinstance(ran.exception, SystemExit):
        raise ran.exception
    assert ran.exit_code == 0, ran.output
    return ran


def read(path: Path) -> list[dict[str, Any]]:
    import edittools

    return list(edittools.read(str(path)).rows())


def bits_by_hand(a: np.ndarray, b: np.ndarray) -> float:
    from edittools.dedup.signatures.phash import signatures

    gray = [
        np.asarray(Image.open(io.BytesIO(jpeg(one))).convert("L").resize((64, 64), Image.Resampling.BOX))
        for one in (a, b)
    ]
    first, second = (int(signatures(one)[0]) for one in gray)  # type: ignore[index]
    return 1 - (first ^ second).bit_count() / 64


def test_public_images_take_the_place_of_private_ones(sets: Path) -> None:
    invoke(
        dedup.command,
        sets / "private.parquet",
        "--nearest",
        sets / "public.parquet",
        "--neighbours",
        3,
        "-o",
        f"{sets}/near/",
        "-q",
    )
    near = read(sets / "near")
    assert [row["nearest"][0]["id"] for row in near] == ["p0", "p1", "p2", "p3"]
    assert all(len(row["nearest"]) == 3 for row in near)
    assert "leaked" not in {one["id"] for row in near for one in row["nearest"]}  # a mirrored copy of the image itself
    assert near[1]["nearest"][0]["score"] == pytest.approx(bits_by_hand(smooth(1), noisy(1, 1)), abs=3 / 64)
    assert near[0]["nearest"][0]["license"] == "cc0"

    # People choose: the first as it is, the second with other words, none for the third; the fourth nobody has seen.
    study = ("build", f"{sets}/near/", "--design", "replace", "-o", sets / "study")
    invoke(eval_study.command, *study)
    key = json.loads((sets / "study/key.json").read_text())
    letters = [{name: letter for letter, name in case["results"].items()} for case in key["cases"]]
    answers = {
        "0": {"given": {letters[0]["p0"]: {"picked": 1}}},
        "1": {"given": {letters[1]["p1"]: {"picked": 1}}, "instruction": {"en": "Paint the ship", "zh": ""}},
        "2": {"given": {}, "none": True},
    }
    head = {"format": "edittools study answers", "version": 1, "study": key["study"], "rater": "Ann"}
    (sets / "ann.json").write_text(json.dumps({**head, "answers": answers}))
    score = ("score", sets / "study/key.json", sets / "ann.json", "--export", sets / "choices.jsonl", "-f", "table")
    assert "reworded" in invoke(eval_study.command, *score).stdout

    invoke(dedup.command, f"{sets}/near/", "--replace", sets / "choices.jsonl", "-o", f"{sets}/made/", "-q")
    made = read(sets / "made")
    assert [row["instruction"]["en"] for row in made] == ["Paint the boat 0", "Paint the ship"]
    assert [row["provenance"]["parents"] for row in made] == [["p0"], ["p1"]]
    assert made[0].keys() == {"id", "task", "source", "instruction", "provenance"}
    assert made[0]["provenance"]["license"] == "cc0" and made[0]["provenance"]["native_task"] == "boats"
    rejects = [json.loads(line) for line in (sets / "made/_rejects/00000.jsonl").read_text().splitlines()]
    assert [(line["id"], line["reason"]) for line in rejects] == [
        ("row 2 of shard 0", "choice: reject"),
        ("row 3 of shard 0", "no public image was chosen"),
    ]
    absent = (f"{sets}/made/", "--absent", sets / "private.parquet")
    proof = invoke(dedup.command, *absent, "--same-words").stderr
    assert proof.startswith("nothing is left of 8 private images") and " 0 texts" in proof
    left = CliRunner().invoke(dedup.command, [str(word) for word in absent])  # the first has its own words still
    assert isinstance(left.exception, EditError) and "--same-words" in str(left.exception.hint)
    assert f"left: row {made[0]['id']}: the words of the private row holiday-0" in left.stderr
    assert made[1]["id"] not in left.stderr

    # A likeness by models and by task. (The column of before has to go.)
    with pytest.raises(UsageError, match="a column `nearest` already"):
        invoke(dedup.command, f"{sets}/near/", "--nearest", sets / "public.parquet", "-o", f"{sets}/twice/")
    same = ("--same-task", "-o", f"{sets}/same/", "-q")
    invoke(dedup.command, sets / "private.parquet", "--nearest", sets / "public.parquet", *same)
    for row in read(sets / "same"):
        assert {one["task"] for one in row["nearest"]} == {row["task"]}


def test_likeness_is_the_mean_cosine_of_the_models(sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "edittools.encoders.embedders.load_embedder", lambda name, **_: StubEmbedder(name, 4 + len(name))
    )
    models = ("--method", "look", "--pair-model", "meaning", "--neighbours", 2)
    invoke(
        dedup.command,
        sets / "private.parquet",
        "--nearest",
        sets / "public.parquet",
        *models,
        "-o",
        f"{sets}/near/",
        "-q",
    )
    near = read(sets / "near")
    public = {
        row["id"]: np.asarray(Image.open(io.BytesIO(row["target"]["bytes"])))
        for row in pq.read_table(sets / "public.parquet").to_pylist()
    }
    del public["leaked"]
    for k, row in enumerate(near):
        own = np.asarray(Image.open(io.BytesIO(jpeg(smooth(k)))))
        means = {}
        for name, picture in public.items():
            both = [StubEmbedder("", side).images([own, picture]) for side in (8, 11)]
            means[name] = np.mean([one[0] @ one[1] for one in both])
        best = sorted(means, key=lambda name: -means[name])[:2]
        assert [one["id"] for one in row["nearest"]] == best
        assert [one["score"] for one in row["nearest"]] == pytest.approx([means[name] for name in best], abs=0.02)


def test_public_images_are_looked_at_once(sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --cache-dir a second run embeds the private images alone, and whatever is new; the results are the same."""
    seen: list[tuple[str, int]] = []
    decoded: list[int] = []
    weights = "1"

    class Counted(StubEmbedder):
        def images(self, images: list[np.ndarray]) -> np.ndarray:
            seen.append((self.name, len(images)))
            return super().images(images)

    def load(name: str, **_: Any) -> Counted:
        made = Counted(name, 8)
        made.revision = f"{name}-{weights}"
        return made

    def decode(data: Any, raster: codec.Raster, *more: Any) -> Any:
        decoded.append(len(data))
        return whole(data, raster, *more)

    whole = codec.decode
    monkeypatch.setattr("edittools.encoders.embedders.load_embedder", load)
    monkeypatch.setattr(codec, "decode", decode)

    def run(private: str, out: str, *more: str) -> dict[str, int]:
        seen.clear()
        decoded.clear()
        models = ("--method", "look", *more, "--cache-dir", sets / "vectors", "-o", f"{sets}/{out}/", "-q")
        invoke(dedup.command, sets / private, "--nearest", sets / "public.parquet", *models)
        return {name: sum(n for one, n in seen if one == name) for name, _ in seen}

    rows = pq.read_table(sets / "public.parquet").to_pylist()
    write(sets / "public.parquet", [*rows, {"id": "broken", "target": {"bytes": rows[5]["target"]["bytes"][:500]}}])
    assert run("private.parquet", "first") == {"look": 17 + 4}
    private = pq.read_table(sets / "private.parquet").to_pylist()
    others = [{**row, "id": f"other-{k}", "source": [{"bytes": jpeg(smooth(60 + k))}]} for k, row in enumerate(private)]
    write(sets / "others.parquet", others)
    assert run("others.parquet", "second") == {"look": 4}  # not one of the public ones
    assert len(decoded) == 2 * 4 + 1  # of a private one its signature and its picture; the broken one is tried again
    assert run("private.parquet", "third") == {"look": 4}
    found, again = (
        [[(one["id"], one["score"]) for one in r["nearest"]] for r in read(sets / n)] for n in ("first", "third")
    )
    assert found == again
    write(sets / "public.parquet", [*rows, {"id": "new", "target": {"bytes": jpeg(smooth(77))}}])
    assert run("private.parquet", "grown") == {"look": 1 + 4}
    assert run("private.parquet", "two", "--pair-model", "meaning") == {"look": 4, "meaning": 18 + 4}
    assert run("private.parquet", "again", "--pair-model", "meaning") == {"look": 4, "meaning": 4}
    weights = "2"
    assert run("private.parquet", "weights") == {"look": 18 + 4}
    held = b"".join(path.read_bytes() for path in (sets / "vectors").iterdir())
    for row in private + others:
        assert hashlib.sha256(row["source"][0]["bytes"]).digest() not in held


def test_models_are_found_by_their_names(sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CLIP and SSCD through their own classes, with random weights under the names that they have."""
    folders = {"clip": sets / "w/openai/clip-vit-large-patch14", "sscd": sets / "w/sscd_disc_mixup"}
    tiny_models.save_clip(folders["clip"])
    tiny_models.save_sscd(folders["sscd"])
    monkeypatch.setenv("EDITTOOLS_WEIGHTS", str(sets / "w"))
    models = ("--method", "sscd", "--pair-model", "clip", "--neighbours", 1, "-o", f"{sets}/near/", "-q")
    invoke(dedup.command, sets / "private.parquet", "--nearest", sets / "public.parquet", *models)
    (best,) = read(sets / "near")[0]["nearest"]
    public = {row["id"]: row["target"]["bytes"] for row in pq.read_table(sets / "public.parquet").to_pylist()}
    pair = [np.asarray(Image.open(io.BytesIO(data))) for data in (jpeg(smooth(0)), public[best["id"]])]
    both = [load_embedder(str(folder)).images(pair) for folder in folders.values()]
    assert best["score"] == pytest.approx(np.mean([one[0] @ one[1] for one in both]), abs=1e-4)


def test_whatever_is_left_is_found(sets: Path) -> None:
    """The image itself, a smaller copy, a mirrored one, its bytes in a file beside, an id, a hash, a path."""
    private = jpeg(smooth(2))
    small = encode(np.asarray(Image.fromarray(smooth(2)).resize((100, 75))), quality=60)
    clean = {"id": "q", "task": "add", "source": [{"bytes": jpeg(smooth(90))}], "instruction": {"en": "x"}}
    wrong = {
        "the same file": {"target": {"bytes": private}},
        "bits apart": {"target": {"bytes": small}},
        " bits apart": {"target": {"bytes": encode(smooth(2)[::-1], "PNG")}},
        "holiday-2 of the private rows": {"provenance": {"parents": ["holiday-2"]}},
        "IMG_3.jpg of the private rows": {"provenance": {"path": "/home/someone/IMG_3.jpg"}},
        "row q: holiday-1 of the private rows": {"instruction": {"en": "Paint it as in holiday-1, please"}},
        "of the private rows": {"provenance": {"sha256": hashlib.sha256(private).hexdigest()}},
    }
    for said, more in wrong.items():
        write(sets / "made.parquet", [clean | more])
        ran = CliRunner().invoke(dedup.command, [str(sets / "made.parquet"), "--absent", str(sets / "private.parquet")])
        assert isinstance(ran.exception, EditError) and said in ran.stderr, (said, ran.stderr)
    (sets / "made").mkdir()
    write(sets / "made/00000.parquet", [clean])
    check = (dedup.command, [str(sets / "made/00000.parquet"), "--absent", str(sets / "private.parquet")])
    assert CliRunner().invoke(*check).exit_code == 0
    from edittools.dedup.absent import files_below, private_of, remains
    from edittools.stream.run import RunOptions, open_input

    known = private_of(open_input([str(sets / "private.parquet")], RunOptions()), 10**8)
    source = open_input([str(sets / "made/00000.parquet")], RunOptions())
    held = (
        ("thumbs.db", b"x" * 777 + private[600:]),
        ("one KiB", b"y" * 99 + private[1001:2025] + b"y" * 99),
        ("log.txt", b"read holiday-1 at noon"),
    )
    assert len(private) > 2100
    for name, data in held:
        (sets / name).write_bytes(data)
        assert remains(source, files_below(str(sets / name)), known, 8, 10**8), name
    (sets / "fine.bin").write_bytes(jpeg(smooth(91)) + private[:400] + pixels(1).tobytes())
    assert not remains(source, files_below(str(sets / "fine.bin")), known, 8, 10**8)


def test_words_that_are_left_are_found(sets: Path) -> None:
    """As they are or spelled otherwise, in any column, member or file beside; not what only begins alike."""
    whole = pq.read_table(sets / "private.parquet")
    rows = whole.to_pylist()
    rows[1]["instruction"] = {"en": "Crop", "zh": "把左边的小船涂成深蓝色。"}
    rows[2]["instruction"]["en"] = "Take away Aunt Erna's fur coat, please"
    rows[0]["provenance"]["path"] = "C:\\\\pics\\\\wedding 2019.jpg"
    private = pa.Table.from_pylist(rows, schema=whole.schema)
    private = private.append_column("user_id", pa.array(["DSC-4711-a", None, None, None]))
    turns = [[{"instruction": {"en": "Bring the red balloon back", "zh": None}}], None, None, None]
    private = private.append_column("turns", pa.array(turns)).append_column(
        "caption", pa.array([None] * 3 + ["Our garden in May"])
    )
    pq.write_table(private, sets / "private.parquet")
    clean = {
        "id": "q",
        "source": [{"bytes": jpeg(smooth(90))}],
        "instruction": {"en": "Remove the fur coat", "zh": "涂成蓝色"},
    }

    def left(*inputs: Path) -> str:
        ran = CliRunner().invoke(dedup.command, [*map(str, inputs), "--absent", str(sets / "private.parquet")])
        assert ran.exit_code == 0 or isinstance(ran.exception, EditError), ran.exception
        assert (ran.exit_code == 0) == ("nothing is left of 8" in ran.stderr)
        assert ran.exit_code == 0 or "left: " in ran.stderr, ran.exception
        return "" if ran.exit_code == 0 else ran.stderr

    def made(more: dict[str, Any]) -> Path:
        pq.write_table(pa.Table.from_pylist([clean | more]), sets / "made.parquet")
        return sets / "made.parquet"

    assert not left(made({}))
    for more in ({"note": "Crop it as the frame asks"}, {"note": "fur coat"}, {"note": "wedding"}, {"note": "DSC"}):
        assert not left(made(more)), more
    for row, more in (
        ("holiday-2", {"instruction": {"en": "Take away Aunt Erna's fur coat, please"}}),
        ("holiday-2", {"note": "take away aunt erna\u2019s  FUR coat please!"}),
        ("holiday-2", {"deep": [{"said": "1. Take away Aunt Erna's fur coat, please; 2. crop"}]}),
        ("holiday-1", {"instruction": {"en": "crop."}}),
        ("holiday-1", {"caption": "请把左边的小船，涂成深蓝色"}),
        ("holiday-0", {"note": "bring the red balloon back"}),
        ("holiday-3", {"note": "(our garden in may)"}),
        ("wedding 2019.jpg", {"provenance": {"path": "public/wedding 2019.jpg"}}),
        ("DSC-4711-a", {"key": "x/DSC-4711-a"}),
    ):
        assert row in left(made(more)), more

    # In what lies beside: members, files, their names.
    (sets / "set").mkdir()
    write(sets / "set/00000.parquet", [clean])
    said = "Take away Aunt Erna\u2019s fur coat\tplease"
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("notes/a.txt", said * 3)
    for name, data in {
        "README.md": f"# Made of\n{said}\n".encode(),
        "log.jsonl": b'{"a": 1}\n' + json.dumps({"zh": "把左边的小船涂成深蓝色。"}).encode(),
        "one.json": json.dumps([{"x": [said]}]).encode(),
        "x.tar": tar_of({"a/info.json": json.dumps({"caption": said}).encode()}),
        "y.tar": tar_of({"b/wedding 2019.jpg": jpeg(smooth(91))}),
        "z.tar.gz": gzip.compress(tar_of({"c.txt": said.encode()})),
        "notes.zip": zipped.getvalue(),
        "wedding 2019.jpg": jpeg(smooth(92)),
        "blob.bin": b"\0" * 50 + b"Take away Aunt Erna's fur coat, please" + b"\0" * 50,
    }.items():
        (sets / "set" / name).write_bytes(data)
        from edittools.dedup.absent import files_below, private_of, remains
        from edittools.stream.run import RunOptions, open_input

        known = private_of(open_input([str(sets / "private.parquet")], RunOptions()), 10**8)
        source = open_input([str(sets / "set/00000.parquet")], RunOptions())
        assert any(name in line for line in remains(source, files_below(str(sets / "set")), known, 8, 10**8)), name
        (sets / "set" / name).unlink()
    assert not left(sets / "set/00000.parquet")


def tar_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "words, message",
    [
        (("--absent", "private.parquet", "-o", "x/"), "writes nothing"),
        (("--replace", "c.jsonl", "--distance", "3", "-o", "x/"), "changes nothing beside --replace"),
        (("--replace", "c.jsonl", "-o", "x/"), "no column `nearest`"),
        (("--nearest", "public.parquet", "--method", "exact", "-o", "x/"), "equal or not"),
        (("--neighbours", "3", "-o", "x/"), "is for --nearest"),
        (("--same-words", "-o", "x/"), "is for --absent"),
        (("--cache-dir", "v/", "-o", "x/"), "is for --nearest"),
        (("--nearest", "public.parquet", "--cache-dir", ".", "-o", "x/"), "not a folder of vectors"),
    ],
)
def test_what_cannot_be_done_is_said(sets: Path, words: tuple[str, ...], message: str, monkeypatch: Any) -> None:
    monkeypatch.chdir(sets)
    (sets / "c.jsonl").write_text('{"id": "holiday-0", "decision": "replace", "choice": "p0"}')
    with pytest.raises(UsageError, match=message):
        invoke(dedup.command, "private.parquet", *words)
    for line in ('{"id": "a"}', '{"id": "a", "decision": "replace"}', '{"id": "a", "decision": "open"}\n' * 2):
        (sets / "c.jsonl").write_text(line)
        with pytest.raises(EditError):
            invoke(dedup.command, "private.parquet", "--replace", "c.jsonl", "-o", "x/")
