"""Pairs that are found by the names of images, in folders and archives."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import Runner, image, rejects_of, rows_of, tar_bytes

from edittools.ingest.datasets.before_after import pair

# Names, and which of them belong together: (before, after, by what).
NAMED = {
    ("x_before.jpg", "x_after.png"): [("x_before.jpg", "x_after.png", "words")],
    ("After - Anna.JPG", "before anna.jpg"): [("before anna.jpg", "After - Anna.JPG", "words")],
    ("annaBefore.jpg", "annaAfter.jpg"): [("annaBefore.jpg", "annaAfter.jpg", "words")],
    ("before1.jpg", "after1.jpg", "before2.jpg", "after2.jpg"): [
        ("before1.jpg", "after1.jpg", "words"), ("before2.jpg", "after2.jpg", "words"),
    ],
    ("before/x.jpg", "after/x.webp"): [("before/x.jpg", "after/x.webp", "words")],
    ("a/Input/1.jpg", "a/Output/1.jpg", "b/Input/1.jpg", "b/Output/1.jpg"): [
        ("a/Input/1.jpg", "a/Output/1.jpg", "words"), ("b/Input/1.jpg", "b/Output/1.jpg", "words"),
    ],
    ("before and after/x_src.jpg", "before and after/x_tgt.jpg"): [
        ("before and after/x_src.jpg", "before and after/x_tgt.jpg", "words"),
    ],
    ("x.jpg", "x-retouched.jpg", "y.jpg", "y_orig.jpg"): [
        ("x.jpg", "x-retouched.jpg", "words"), ("y_orig.jpg", "y.jpg", "words"),
    ],
    ("x.jpg", "edited/x.jpg"): [("x.jpg", "edited/x.jpg", "words")],
    ("王修图前.jpg", "王修图后.jpg", "原图/李.jpg", "精修/李.jpg"): [
        ("王修图前.jpg", "王修图后.jpg", "words"), ("原图/李.jpg", "精修/李.jpg", "words"),
    ],
    ("1a.jpg", "1b.jpg", "2 A.jpg", "2 B.jpg"): [("1a.jpg", "1b.jpg", "letters"), ("2 A.jpg", "2 B.jpg", "letters")],
    ("p/a.jpg", "p/b.jpg"): [("p/a.jpg", "p/b.jpg", "letters")],
    ("x_1.jpg", "x_2.jpg", "y-00.jpg", "y-01.jpg"): [
        ("x_1.jpg", "x_2.jpg", "numbers"), ("y-00.jpg", "y-01.jpg", "numbers"),
    ],
    ("post/1.jpg", "post/2.jpg"): [("post/1.jpg", "post/2.jpg", "numbers")],
    # The same letters, composed and not, and what an archive of macOS has beside.
    ("re\u0301_before.jpg", "r\u00e9_after.jpg", "__MACOSX/._re_before.jpg", "a/._x_after.jpg"): [
        ("re\u0301_before.jpg", "r\u00e9_after.jpg", "words"),
    ],
    ("😀_before.jpg", "😀_after.jpg", "😎_before.jpg", "😎_after.jpg"): [
        ("😀_before.jpg", "😀_after.jpg", "words"), ("😎_before.jpg", "😎_after.jpg", "words"),
    ],
    ("notes_before.txt", "x_before.jpg", "x_after.jpg", "README"): [("x_before.jpg", "x_after.jpg", "words")],
}  # fmt: skip
# Names of which no two belong together for certain, and the reasons.
UNTOLD = {
    ("x_before.jpg", "x_before.png", "x_after.jpg"): {"several may belong together"},
    ("x_before.jpg", "x_after.jpg", "before/x.jpg"): {"several may belong together"},
    ("x_before.jpg", "x_edited.jpg", "x_after.jpg"): {"several may belong together"},
    ("1a.jpg", "1b.jpg", "1c.jpg"): {"several may belong together"},
    ("1.jpg", "2.jpg", "3.jpg", "4.jpg"): {"several may belong together"},
    ("x_1.jpg", "x_3.jpg"): {"several may belong together"},
    ("x_1.jpg", "x_1.png"): {"several may belong together"},
    ("x_before.jpg", "y_after.jpg"): {"no partner"},
    ("x_after_1.jpg", "x_after_2.jpg"): {"no partner"},  # two results, and no source
    ("cat.jpg", "dog.jpg"): {"no partner"},
    ("कि_before.jpg", "का_after.jpg"): {"no partner"},
    ("C_before.jpg", "C++_after.jpg"): {"no partner"},
    ("\udcff_before.jpg", "\udcff_after.jpg"): {"name is not UTF-8"},
    ("x\ufffd_before.jpg", "x\ufffd_after.jpg"): {"name is not UTF-8"},  # as a folder's listing has them
    ("x_before_after.jpg", "x.jpg"): {"before and after in one name", "no partner"},
}


@pytest.mark.parametrize("names", NAMED)
@pytest.mark.parametrize("turned", [False, True])
def test_names_that_belong_together(names: tuple[str, ...], turned: bool) -> None:
    found = [*pair(names[::-1] if turned else names)]
    made = {(one["before"], one["after"], one.get("pairing")) for one in found}
    assert made == {*NAMED[names]} and len(found) == len(NAMED[names])


@pytest.mark.parametrize("names", UNTOLD)
def test_nothing_is_guessed(names: tuple[str, ...]) -> None:
    found = [*pair(names)]
    assert [one["path"] for one in found] == [*names] and not any(one["before"] or one["after"] for one in found)
    assert {one["unpaired"] for one in found} == UNTOLD[names]


def test_a_pair_keeps_its_record_whatever_stands_beside_it() -> None:
    every = [f"{folder}/{name}" for folder, names in enumerate((*NAMED, *UNTOLD)) for name in names]
    found = [(one["before"], one["after"]) for one in pair(every) if one["before"]]
    alone = [
        (f"{folder}/{one['before']}", f"{folder}/{one['after']}")
        for folder, names in enumerate((*NAMED, *UNTOLD)) for one in pair(names) if one["before"]
    ]  # fmt: skip
    assert sorted(found) == sorted(alone) and len(found) == sum(map(len, NAMED.values()))


FILES = {name: image(k) for k, name in enumerate(("x_before.jpg", "x_after.jpg", "s/1a.jpg", "s/1b.jpg", "alone.jpg"))}


def check(folder: Path, place: str = "") -> None:
    rows = rows_of(folder)
    assert [(row["source"], row["target"]) for row in rows] == [
        ([FILES["s/1a.jpg"]], FILES["s/1b.jpg"]), ([FILES["x_before.jpg"]], FILES["x_after.jpg"]),
    ]  # fmt: skip
    assert [(row["provenance"]["path"], row["pairing"]) for row in rows] == [
        (f"{place}s/1b.jpg", "letters"), (f"{place}x_after.jpg", "words"),
    ]  # fmt: skip
    assert [(one["reason"], one["value"], one["failed"]) for one in rejects_of(folder)] == [
        ("no partner", f"{place}alone.jpg", True)
    ]


def test_folders_and_archives(edit: Runner, tmp_path: Path) -> None:
    for name, data in FILES.items():
        (tmp_path / "found" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "found" / name).write_bytes(data)
    (tmp_path / "found/LICENSE").write_text("none")
    (tmp_path / "found.tar").write_bytes(tar_bytes(sorted(FILES.items())))
    with zipfile.ZipFile(tmp_path / "found.zip", "w") as archive:
        for name, data in sorted(FILES.items()):
            archive.writestr(name, data)
    asked = ("--from", "before_after", "--max-errors", "50%", "-o")
    edit("shard", "found/", *asked, "one/", cwd=tmp_path)
    check(tmp_path / "one")
    assert "3 rows in shards finished before" in edit("shard", "found/", *asked, "one/", cwd=tmp_path).stderr
    for name in ("found.tar", "found.zip"):
        edit("shard", name, *asked, f"{name}-rows/", cwd=tmp_path)
        check(tmp_path / f"{name}-rows", f"{name}/")
    # Two archives in one folder may call their images the same.
    (tmp_path / "posts").mkdir()
    for number in (1, 2):
        data = tar_bytes([("before.jpg", image(10 + number)), ("after.jpg", image(20 + number))])
        (tmp_path / f"posts/{number}.tar").write_bytes(data)
    edit("shard", "posts/", "--from", "before_after", "-o", "posts-rows/", cwd=tmp_path)
    rows = rows_of(tmp_path / "posts-rows")
    assert [(row["source"], row["target"]) for row in rows] == [([image(10 + k)], image(20 + k)) for k in (1, 2)]
    assert [row["provenance"]["path"] for row in rows] == ["1.tar/after.jpg", "2.tar/after.jpg"]
    assert len({row["id"] for row in rows}) == 2


def test_a_damaged_archive_is_told(edit: Runner, tmp_path: Path) -> None:
    """Alone it is an error; beside others it costs its rows."""
    whole = tar_bytes([("x_before.jpg", image(1)), ("x_after.jpg", image(2))])
    (tmp_path / "posts").mkdir()
    (tmp_path / "posts/cut.tar").write_bytes(whole[:1500])
    (tmp_path / "posts/odd.zip").write_bytes(b"PK\3\4 nothing more")
    asked = ("--from", "before_after", "--max-errors", "90%", "-o")
    assert "cut off" in edit("shard", "posts/cut.tar", *asked, "a/", cwd=tmp_path, check=4).stderr
    assert "damaged" in edit("shard", "posts/odd.zip", *asked, "b/", cwd=tmp_path, check=1).stderr
    (tmp_path / "posts/whole.tar").write_bytes(whole)
    edit("shard", "posts/", *asked, "c/", cwd=tmp_path)
    assert [row["target"] for row in rows_of(tmp_path / "c")] == [image(2)]
    assert {(one["reason"], one["path"]) for one in rejects_of(tmp_path / "c")} == {
        ("damaged file", "cut.tar"), ("damaged file", "odd.zip"),
    }  # fmt: skip


def test_a_table_says_it_itself(edit: Runner, tmp_path: Path) -> None:
    (tmp_path / "found").mkdir()
    for k, name in enumerate(("p.jpg", "q.jpg")):
        (tmp_path / "found" / name).write_bytes(image(k))
    said = {"before": "p.jpg", "after": "q.jpg", "instruction": "Smooth the skin.", "retoucher": "C"}
    (tmp_path / "found/pairs.jsonl").write_text(json.dumps(said) + "\n")
    edit("shard", "found/", "--from", "before_after", "-o", "out/", cwd=tmp_path)
    (row,) = rows_of(tmp_path / "out")
    assert (row["source"], row["target"]) == ([image(0)], image(1))
    assert row["instruction"]["en"] == "Smooth the skin." and row["retoucher"] == "C"


def test_without_images_it_is_an_error(edit: Runner, tmp_path: Path) -> None:
    (tmp_path / "found").mkdir()
    (tmp_path / "found/notes.txt").write_text("nothing")
    assert "no images" in edit("shard", "found/", "--from", "before_after", "-o", "o/", cwd=tmp_path, check=2).stderr


def test_what_a_zip_does_not_give_is_told(edit: Runner, tmp_path: Path) -> None:
    """Of a damaged file its pair, with the reason; and no file of an archive stays open."""
    for k in range(40):
        with zipfile.ZipFile(tmp_path / f"z{k}.zip", "w") as archive:
            for side in ("before", "after"):
                archive.writestr(f"x{k}_{side}.jpg", image(k))
    damaged = bytearray((tmp_path / "z7.zip").read_bytes())
    damaged[damaged.index(image(7)) + 300] ^= 255
    (tmp_path / "z7.zip").write_bytes(damaged)
    (tmp_path / "data:_before.jpg").write_bytes(image(90))
    (tmp_path / "data:_after.jpg").write_bytes(image(91))
    words = ("shard", tmp_path, "--from", "before_after", "-o", tmp_path / "out", "-j", 1, "--max-errors", 9)
    opened = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32)); "
    program = f"{opened}from edittools.cli.main import main; main({[*map(str, words)]!r})"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert len(rows_of(tmp_path / "out")) == 40  # 39 archives, and the two loose files
    (reject,) = rejects_of(tmp_path / "out")
    assert "Bad CRC-32" in reject["reason"] and reject["failed"]
