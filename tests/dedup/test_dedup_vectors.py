"""`edit dedup` by exact pixels and by vectors: the searches against brute force, k-means, SemDeDup, `--against`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Runner, encode, pixels, rejects_of, rows_of, tree
from forge import Forge

from edittools.dedup import cosine as search
from edittools.dedup import kmeans
from edittools.dedup.cosine import cosine, near_cosine
from edittools.dedup.near import Cosine, Equal, Hamming, near_rows
from edittools.dedup.semantic import semantic_copies


@pytest.fixture(scope="module")
def edit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    forge = Forge("stub_embedders")
    yield Runner(forge, tmp_path_factory.mktemp("logs"))
    forge.close()


# ---------------------------------------------------------------- vectors


def planted(count: int, dim: int, seed: int = 0) -> np.ndarray:
    """Unit vectors of which a quarter are copies of others, at cosines on both sides of every limit."""
    rng = np.random.default_rng(seed)
    base = rng.standard_normal((count, dim))
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    copies = count // 4
    aside = rng.standard_normal((copies, dim)) / np.sqrt(dim)
    base[-copies:] = base[:copies] + aside * rng.uniform(0, 1.5, (copies, 1))
    return (base / np.linalg.norm(base, axis=1, keepdims=True)).astype(np.float16)


def brute(vectors: np.ndarray, rows: np.ndarray, limit: float) -> set[tuple[int, int]]:
    a, b = (rows[k] for k in np.triu_indices(len(rows), 1))
    near = cosine(vectors, a, b) >= limit
    return {(min(i, j), max(i, j)) for i, j in zip(a[near].tolist(), b[near].tolist())}


def found(blocks: Any) -> set[tuple[int, int]]:
    return {(min(i, j), max(i, j)) for a, b in blocks for i, j in zip(a.tolist(), b.tolist())}


def test_cosine_is_numpys() -> None:
    vectors = np.random.default_rng(1).standard_normal((50, 24)).astype(np.float16)
    vectors[3] = 0
    a, b = np.arange(49), np.arange(1, 50)
    x = vectors.astype(np.float64)
    lengths = np.linalg.norm(x, axis=1)
    lengths[3] = 1
    assert np.allclose(cosine(vectors, a, b), (x[a] * x[b]).sum(1) / lengths[a] / lengths[b], atol=1e-6)
    assert cosine(vectors, a[:2], a[:2]).tolist() == [1, 1]


def test_halves_are_widened_as_numpy_does() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)].reshape(-1, 1)
    assert np.array_equal(kmeans._widen(finite), finite.astype(np.float32))


@pytest.mark.parametrize("count", [0, 1, 2, 30, 400])
@pytest.mark.parametrize("limit", [0.2, 0.75, 0.95])
def test_near_cosine_is_brute_force(count: int, limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = planted(count + 7, 32, count)
    rows = np.random.default_rng(2).permutation(count + 7)[:count]
    expected = brute(vectors, rows, limit)
    assert found(near_cosine(vectors, rows, limit, jobs=2)) == expected
    monkeypatch.setattr(search, "_BLOCK", 13)
    assert found(near_cosine(vectors, rows, limit)) == expected
    fresh = np.arange(len(vectors)) % 3 == 0
    wanted = {(i, j) for i, j in expected if fresh[i] or fresh[j]}
    assert found(near_cosine(vectors, rows, limit, fresh=fresh)) == wanted
    # All lists visited: the index leaves nothing out.
    monkeypatch.setattr(search, "EXACT", 0)
    monkeypatch.setattr(search, "PROBES", 10_000)
    assert found(near_cosine(vectors, rows, limit, jobs=2)) == expected
    assert found(near_cosine(vectors, rows, limit, fresh=fresh)) == wanted


def test_the_index_recalls_and_does_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = planted(6000, 256, 5)
    rows = np.arange(6000)
    expected = found(near_cosine(vectors, rows, 0.75))
    assert len(expected) > 300
    monkeypatch.setattr(search, "EXACT", 0)
    monkeypatch.setattr(search, "PROBES", 48)  # of 309 lists
    one = found(near_cosine(vectors, rows, 0.75, jobs=1))
    assert one <= expected and len(one) >= 0.99 * len(expected)
    assert found(near_cosine(vectors, rows, 0.75, jobs=3)) == one


def test_kmeans_finds_separate_heaps() -> None:
    rng = np.random.default_rng(3)
    centres = np.eye(6, 20)
    truth = rng.integers(0, 6, 900)
    vectors = (centres[truth] + 0.05 * rng.standard_normal((900, 20))).astype(np.float16)
    rows = np.arange(900)
    made = kmeans.centroids(vectors, rows, 24, seed=1, iterations=20)
    labels, alike = kmeans.assign(vectors, rows, made, jobs=2)
    assert np.allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)
    assert len(set(zip(truth.tolist(), labels.tolist()))) == len(set(labels.tolist())) == 24  # no heap shares one
    assert alike.min() > 0.9
    product = vectors.astype(np.float32) @ made.T / np.linalg.norm(vectors.astype(np.float32), axis=1, keepdims=True)
    assert (labels == product.argmax(axis=1)).all() and np.allclose(alike, product.max(axis=1), atol=1e-5)
    assert np.array_equal(made, kmeans.centroids(vectors, rows, 24, seed=1, iterations=20, jobs=2))
    assert len(kmeans.centroids(vectors, rows[:3], 6, seed=1, iterations=2)) == 3


def plain_semdedup(vectors: np.ndarray, labels: np.ndarray, rank: np.ndarray, eps: float) -> set[int]:
    gone = set()
    for label in set(labels.tolist()):
        members = [int(k) for k in np.flatnonzero(labels == label)]
        members.sort(key=lambda k: (rank[k], k))
        for place, row in enumerate(members[1:], 1):
            alike = [cosine(vectors, np.array([row]), np.array([other]))[0] for other in members[:place]]
            if max(alike) > 1 - eps:
                gone.add(row)
    return gone


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("block", [7, 2048])
def test_semdedup_is_its_definition(hard: bool, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edittools.dedup.semantic._BLOCK", block)
    vectors = planted(160, 16, 8)
    rows = np.arange(160)
    gone, of, alike = semantic_copies(vectors, rows, 0.2, clusters=4, hard=hard, jobs=2)
    made = kmeans.centroids(vectors, rows, 4, seed=0, iterations=20)
    labels, near = kmeans.assign(vectors, rows, made)
    near = np.round(near, 5)
    assert set(gone.tolist()) == plain_semdedup(vectors, labels, near if hard else -near, 0.2)
    assert len(gone) > 10 and (alike > 0.8).all() and (labels[gone] == labels[of]).all()


# ---------------------------------------------------------------- rows that are near in two ways


def components(count: int, pairs: set[tuple[int, int]]) -> list[int]:
    labels = list(range(count))
    for _ in range(count):
        before = list(labels)
        for a, b in pairs:
            labels[a] = labels[b] = min(labels[a], labels[b])
        if labels == before:
            return labels
    return labels


@pytest.mark.parametrize("small", [0, 4, 32])
@pytest.mark.parametrize("kind", ["hamming", "cosine", "score", "equal"])
@pytest.mark.parametrize("second", [True, False])
def test_near_rows_is_brute_force(small: int, kind: str, second: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edittools.dedup.near._SMALL", small)
    monkeypatch.setattr("edittools.dedup.near._PAIRS_AT_ONCE", 50)
    rng = np.random.default_rng(small)
    count = 300
    valid = rng.random(count) > 0.05
    sides: list[Any] = []
    for seed in (1, 2):
        if kind in ("cosine", "score"):
            chosen = rng.integers(0, count, count)
            # Some are so near to the reference set that not even equal ones are copies.
            offsets = rng.uniform(0, 0.4, count)[chosen] if kind == "score" else None
            limit = 0.9 if kind == "cosine" else 0.7
            sides.append(Cosine(planted(count, 12, seed)[chosen], valid, limit, 1, offsets=offsets))
        else:
            words = rng.integers(0, 1 << 62, (12, 1), dtype=np.uint64)[rng.integers(0, 12, count)]
            if kind == "hamming":
                words = words ^ (np.uint64(1) << rng.integers(0, 64, (count, 1), dtype=np.uint64))
                sides.append(Hamming(words, valid, 2, 1))
            else:
                sides.append(Equal(words, valid))
    first, other = sides[0], sides[1] if second else None
    groups = rng.integers(0, 5, count)
    rows = np.flatnonzero(rng.random(count) > 0.1)
    everyone = np.ones(count, bool)
    expected = set()
    for x, i in enumerate(rows):
        for j in rows[:x]:
            a, b = np.array([i]), np.array([j])
            if groups[i] == groups[j] and valid[i] and valid[j] and first.near(a, b)[0]:
                if other is None or other.near(a, b)[0]:
                    expected.add((int(j), int(i)))
    got = found(near_rows(rows, groups, first, other, everyone))
    assert {pair for pair in got if pair[0] != pair[1]} <= expected
    assert components(count, got) == components(count, expected)


def test_many_edits_that_share_a_target_are_no_quadratic_work() -> None:
    """100,000 rows with one target under one instruction, and sources that differ: 5e9 pairs, if they were made."""
    rng = np.random.default_rng(4)
    count = 100_000
    target = Hamming(np.full((count, 8), 12345, np.uint64), np.ones(count, bool), 8, 1)
    sources = np.repeat(rng.integers(0, 1 << 63, (count // 2, 1), dtype=np.uint64), 2, axis=0)
    source = Hamming(sources, np.ones(count, bool), 8, 1)
    pairs = sum(len(a) for a, _ in near_rows(np.arange(count), np.zeros(count), target, source, np.ones(count, bool)))
    assert pairs < 3 * count


# ---------------------------------------------------------------- the command


def paths(folder: Path) -> set[str]:
    return {row["provenance"]["path"] for row in rows_of(folder)}


def copies_of(folder: Path, rows: list[dict]) -> dict[str, str]:
    """{path of the dropped: path, or id, of the one that stays}."""
    known = {row["id"]: row["provenance"]["path"] for row in rows}
    return {r["path"]: known.get(r["value"]["of"], r["value"]["of"]) for r in rejects_of(folder) if not r["failed"]}


@pytest.fixture(scope="module")
def crawl(tmp_path_factory: pytest.TempPathFactory, edit: Runner) -> Path:
    """Twelve images; copies with the same pixels, recompressed, and with a bar over them; two broken files."""
    folder = tmp_path_factory.mktemp("vectors") / "crawl"
    folder.mkdir()
    for k in range(12):
        (folder / f"p{k:02d}.png").write_bytes(encode(pixels(k, 96, 120), "PNG"))
    for k in range(3):
        (folder / f"z-same-{k}.bmp").write_bytes(encode(pixels(k, 96, 120), "BMP"))
        (folder / f"z-jpeg-{k + 3}.jpg").write_bytes(encode(pixels(k + 3, 96, 120), "JPEG", quality=60))
        barred = pixels(k + 6, 96, 120).copy()
        barred[-8:] = 255
        (folder / f"z-bar-{k + 6}.png").write_bytes(encode(barred, "PNG"))
    (folder / "broken.jpg").write_bytes(encode(pixels(3), "JPEG")[:300])
    (folder / "page.jpg").write_bytes(b"<html>not found</html>")
    edit("shard", folder, "-o", folder.parent / "set", "--rows", 5, check=None)
    return folder.parent / "set"


TOLERANT = ("--max-errors", "50%")


def test_exact_pixels(edit: Runner, crawl: Path, tmp_path: Path) -> None:
    edit("dedup", crawl, "--method", "pixels", "-o", tmp_path / "out", *TOLERANT)
    rows = rows_of(crawl)
    either = {frozenset(pair) for pair in copies_of(tmp_path / "out", rows).items()}
    assert either == {frozenset((f"p{k:02d}.png", f"z-same-{k}.bmp")) for k in range(3)}
    dropped = [r for r in rejects_of(tmp_path / "out") if not r["failed"]]
    assert {(r["value"]["metric"], r["value"]["distance"]) for r in dropped} == {("pixels", 0)}
    assert len(rows_of(tmp_path / "out")) + len(rejects_of(tmp_path / "out")) == len(rows)
    edit("dedup", crawl, "--method", "exact", "-o", tmp_path / "bytes", *TOLERANT)
    assert not copies_of(tmp_path / "bytes", rows)


def test_a_model_finds_recompressed_and_barred_copies(edit: Runner, crawl: Path, tmp_path: Path) -> None:
    model = ("--method", "stub", "--cosine", 0.65)
    edit("dedup", crawl, *model, "-o", tmp_path / "out", *TOLERANT)
    rows = rows_of(crawl)
    either = {frozenset(pair) for pair in copies_of(tmp_path / "out", rows).items()}
    expected = {frozenset((f"p{k:02d}.png", f"z-same-{k}.bmp")) for k in range(3)}
    expected |= {frozenset((f"p{k:02d}.png", f"z-jpeg-{k}.jpg")) for k in range(3, 6)}
    expected |= {frozenset((f"p{k:02d}.png", f"z-bar-{k}.png")) for k in range(6, 9)}
    assert either == expected
    dropped = [r["value"] for r in rejects_of(tmp_path / "out") if not r["failed"]]
    assert all(value["metric"] == "stub" and 0 <= value["distance"] <= 0.35 for value in dropped)
    # Nothing is lost: every row is kept or rejected, whatever its bytes are.
    assert len(rows_of(tmp_path / "out")) + len(rejects_of(tmp_path / "out")) == len(rows)
    failed = {r["path"] for r in rejects_of(tmp_path / "out") if r["failed"]}
    assert failed == {"broken.jpg", "page.jpg"} & {row["provenance"]["path"] for row in rows}
    edit("dedup", crawl, *model, "--batch-size", 3, "-j", 3, "-o", tmp_path / "two", *TOLERANT)
    assert {r["id"] for r in rows_of(tmp_path / "two")} == {r["id"] for r in rows_of(tmp_path / "out")}


@pytest.mark.parametrize(
    "options",
    [("--method", "pixels"), ("--method", "stub", "--cosine", 0.8), ("--method", "stub", "--semantic", 0.1)],
    ids=str,
)
def test_three_steps_apart_are_one_command(edit: Runner, crawl: Path, tmp_path: Path, options: tuple[Any, ...]) -> None:
    edit("dedup", crawl, *options, "-o", tmp_path / "one", *TOLERANT)
    for task in (2, 0, 1):
        edit("dedup", crawl, *options, "--phase", "fingerprint", "--task", f"{task}/3", "-o", tmp_path / "prints")
    edit("dedup", tmp_path / "prints", *options, "--phase", "decide", "-o", tmp_path / "v")
    for task in (1, 2, 0):
        edit("dedup", crawl, *options, "--decisions", tmp_path / "v", "--task", f"{task}/3", "-o", tmp_path / "three",
             "--max-errors", "100%")  # fmt: skip
    one, three = tree(tmp_path / "one"), tree(tmp_path / "three")
    kept = [name for name in one if name.startswith("_verdict/")]
    assert pq.read_table(tmp_path / "one" / kept[0]).equals(pq.read_table(tmp_path / "v"))
    del one[kept[0]]
    assert one == three


def test_fingerprints_of_another_method_are_refused(edit: Runner, crawl: Path, tmp_path: Path) -> None:
    edit("dedup", crawl, "--method", "stub", "--phase", "fingerprint", "-o", tmp_path / "prints", *TOLERANT)
    result = edit("dedup", tmp_path / "prints", "--method", "other", "--phase", "decide", "-o", tmp_path / "v", check=2)
    assert "--method: the fingerprints were made with stub, not other" in result.stderr
    stored = pq.read_table(sorted((tmp_path / "prints").glob("*.parquet"))[0])
    assert stored.schema.field("signatures").type == pa.binary(2 * 192)  # plain Parquet, float16


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--cosine", 0.8), "--cosine is for the vectors of a model"),
        (("--semantic", 0.1), "--semantic needs --method MODEL"),
        (("--pair-model", "stub"), "--level pairs or fine"),
        (("--level", "pairs", "--psnr", 30), "--level fine"),
        (("--level", "pairs", "--max-per-template", 3), "needs a --pair-model"),
        (("--method", "exact", "--clusters", 3), "--clusters needs images that can be alike"),
        (("--method", "stub", "--semantic", 0.1, "--clusters", 0), "--clusters of 1 at least"),
        (("--square",), "--square is for --method sscd"),
        (("--method", "exact", "--distance", 4), "--distance is for --method phash"),
        (("--set-name", "new"), "--set-name is for --against"),
        (("--phase", "fingerprint", "--decisions", "v.parquet"), "--decisions is for"),
        (("--method", "stub", "--semantic", 0.1, "--against", "x"), "--semantic"),
    ],
    ids=str,
)
def test_options_that_say_nothing_are_refused(
    edit: Runner, crawl: Path, tmp_path: Path, options: tuple[Any, ...], said: str
) -> None:
    assert said in edit("dedup", crawl, *options, "-o", tmp_path / "out", check=2).stderr


def test_a_model_that_is_not_there_is_one_line(edit: Runner, crawl: Path, tmp_path: Path) -> None:
    result = edit("dedup", crawl, "--method", "absent", "-o", tmp_path / "out", check=1)
    assert "absent: no such model here" in result.stderr and "hint:" in result.stderr


def test_a_folder_is_known_by_its_name(edit: Runner, crawl: Path, tmp_path: Path) -> None:
    """No path gets into the settings, so that it may lie elsewhere tomorrow."""
    for k, name in enumerate(("stub", "models/stub", "/elsewhere/stub/")):
        edit("dedup", crawl, "--method", name.rstrip("/"), "--cosine", 0.8, "-o", tmp_path / str(k), *TOLERANT)
        assert tree(tmp_path / str(k)) == tree(tmp_path / "0")
    result = edit("dedup", crawl, "--method", "a/stub", "--level", "pairs", "--pair-model", "b/stub", check=2)
    assert "two models of one name" in result.stderr


def test_semantic_copies_go(edit: Runner, crawl: Path, tmp_path: Path) -> None:
    edit("dedup", crawl, "--method", "stub", "--semantic", 0.3, "--clusters", 1, "-o", tmp_path / "out", *TOLERANT)
    reasons = {r["reason"] for r in rejects_of(tmp_path / "out") if not r["failed"]}
    assert reasons == {"semantic duplicate"}
    rows, dropped = rows_of(tmp_path / "out"), rejects_of(tmp_path / "out")
    kept = {row["id"] for row in rows}
    assert all(r["value"]["of"] in kept for r in dropped if not r["failed"])
    assert len(rows) + len(dropped) == len(rows_of(crawl))
    edit("dedup", crawl, "--method", "stub", "--semantic", 0.3, "--clusters", 1, "--keep", "easy", "-o",
         tmp_path / "easy", *TOLERANT)  # fmt: skip
    assert {row["id"] for row in rows_of(tmp_path / "easy")} != kept


def test_semantic_copies_by_caption(edit: Runner, tmp_path: Path) -> None:
    captions = ["a red car", "a red car.", "two dogs on a beach", None, None, "zzz"]
    for k in range(len(captions)):
        (tmp_path / f"{k}.png").write_bytes(encode(pixels(k), "PNG"))
    rows = [{"id": f"r{k}", "target": f"{k}.png", "caption": text} for k, text in enumerate(captions)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--method", "stub", "--semantic", 0.1, "--embed", "caption", "--clusters", 1)
    result = edit("dedup", tmp_path / "rows.jsonl", *options, "-f", "jsonl", "--rejects", tmp_path / "rejects")
    kept = {row["id"] for row in result.lines}
    assert {"r2", "r3", "r4", "r5"} < kept and len(kept) == 5
    assert json.loads((tmp_path / "rejects").read_text())["reason"] == "semantic duplicate"
    assert "is for --semantic" in edit("dedup", tmp_path, "--method", "stub", "--embed", "caption", check=2).stderr


# ---------------------------------------------------------------- against what earlier runs kept


METHODS = [("--method", "phash"), ("--method", "exact"), ("--method", "pixels"), ("--method", "stub", "--cosine", 0.8)]


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory, edit: Runner) -> tuple[Path, Path]:
    """Two sets. The second repeats images of the first (larger, the same, recompressed), and has its own copies."""
    root = tmp_path_factory.mktemp("halves")
    for name in ("old", "new"):
        (root / name).mkdir()
    for k in range(8):
        (root / "old" / f"o{k}.png").write_bytes(encode(pixels(k, 96, 120), "PNG"))
    (root / "old" / "o0-copy.jpg").write_bytes(encode(pixels(0, 96, 120), "JPEG", quality=85))
    for k in range(4, 12):
        kind = ("PNG", "png") if k % 2 else ("JPEG", "jpg")
        (root / "new" / f"n{k}.{kind[1]}").write_bytes(encode(pixels(k, 96, 120), kind[0]))
    (root / "new" / "n9-copy.bmp").write_bytes(encode(pixels(9, 96, 120), "BMP"))
    (root / "new" / "broken.jpg").write_bytes(encode(pixels(3), "JPEG")[:300])
    for name in ("old", "new"):
        edit("shard", root / name, "-o", root / f"{name}-set", "--rows", 4, check=None)
    return root / "old-set", root / "new-set"


@pytest.mark.parametrize("options", METHODS, ids=str)
def test_against_is_one_run_over_both(
    edit: Runner, halves: tuple[Path, Path], tmp_path: Path, options: tuple[Any, ...]
) -> None:
    old, new = halves
    edit("dedup", old, *options, "--against", tmp_path / "seen", "-o", tmp_path / "one", *TOLERANT)
    edit("dedup", new, *options, "--against", tmp_path / "seen", "-o", tmp_path / "two", *TOLERANT)
    edit("dedup", old, new, *options, "-o", tmp_path / "both", *TOLERANT)
    # As many rows of every image stay; which copy stays is the old one's privilege.
    kept = {row["id"] for row in rows_of(tmp_path / "one")} | {row["id"] for row in rows_of(tmp_path / "two")}
    assert len(kept) == len(rows_of(tmp_path / "both"))
    everything = {row["id"]: row["provenance"]["path"] for row in rows_of(old) + rows_of(new)}
    image = {identity: path.lstrip("on").split(".")[0].split("-")[0] for identity, path in everything.items()}
    both = sorted(image[row["id"]] for row in rows_of(tmp_path / "both"))
    assert sorted(image[identity] for identity in kept) == both
    # Nothing old was dropped for something new, and every drop names what it copies and where that is.
    old_kept = {row["id"] for row in rows_of(tmp_path / "one")}
    dropped = [r for r in rejects_of(tmp_path / "two") if not r["failed"]]
    assert dropped
    for reject in dropped:
        assert reject["value"]["of"] in kept
        assert (reject["value"].get("set") == "old-set") == (reject["value"]["of"] in old_kept)
    assert len(list((tmp_path / "seen").glob("*.parquet"))) == 2


def test_against_again_changes_nothing(edit: Runner, halves: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = halves
    seen = tmp_path / "seen"
    for name, folder in (("one", old), ("two", new)):
        edit("dedup", folder, "--against", seen, "-o", tmp_path / name, *TOLERANT)
    before, store = [tree(tmp_path / name) for name in ("one", "two")], tree(seen)
    # With the output there, and anew: also the first set, which would find itself in the second.
    for name, folder in (("one", old), ("two", new), ("one-anew", old), ("two-anew", new)):
        edit("dedup", folder, "--against", seen, "-o", tmp_path / name, *TOLERANT)
    assert [tree(tmp_path / name) for name in ("one", "two")] == before
    assert [tree(tmp_path / f"{name}-anew") for name in ("one", "two")] == before
    assert tree(seen) == store


@pytest.mark.parametrize("options", METHODS[::3], ids=str)
def test_against_in_three_steps(
    edit: Runner, halves: tuple[Path, Path], tmp_path: Path, options: tuple[Any, ...]
) -> None:
    old, new = halves
    for store in ("seen", "steps"):
        edit("dedup", old, *options, "--against", tmp_path / store, "-o", tmp_path / f"old-{store}", *TOLERANT)
    edit("dedup", new, *options, "--against", tmp_path / "seen", "-o", tmp_path / "one", *TOLERANT)
    for task in (1, 0):
        edit("dedup", new, *options, "--phase", "fingerprint", "--task", f"{task}/2", "-o", tmp_path / "prints")
    for _ in range(2):
        edit("dedup", tmp_path / "prints", *options, "--phase", "decide", "--against", tmp_path / "steps", "-o",
             tmp_path / "v", "--set-name", "new-set", "--overwrite")  # fmt: skip
    for task in (0, 1):
        edit("dedup", new, *options, "--decisions", tmp_path / "v", "--task", f"{task}/2", "-o", tmp_path / "three",
             "--max-errors", "100%")  # fmt: skip
    assert rows_of(tmp_path / "three") == rows_of(tmp_path / "one")
    assert rejects_of(tmp_path / "three") == rejects_of(tmp_path / "one")
    assert tree(tmp_path / "steps") == tree(tmp_path / "seen")


def test_against_with_other_options_is_refused(edit: Runner, halves: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = halves
    seen = tmp_path / "seen"
    edit("dedup", old, "--against", seen, "-o", tmp_path / "one", *TOLERANT)
    store = tree(seen)
    for options, said in (
        (("--distance", 4), "made with limit 8, not 4"),
        (("--method", "exact"), 'made with method "phash", not "exact"'),
        (("--no-rotations",), "made with rotations true, not false"),
    ):
        result = edit("dedup", new, *options, "--against", seen, "-o", tmp_path / "no", check=2)
        assert said in result.stderr and "hint:" in result.stderr
        assert not (tmp_path / "no").exists()
    assert tree(seen) == store
    (seen / "junk.parquet").write_bytes(b"PAR1")
    assert "junk.parquet" in edit("dedup", new, "--against", seen, "-o", tmp_path / "no", check=1).stderr


def test_against_a_set_that_was_forgotten(edit: Runner, halves: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = halves
    seen = tmp_path / "seen"
    edit("dedup", old, "--against", seen, "-o", tmp_path / "one", *TOLERANT)
    first = next(seen.glob("*.parquet"))
    edit("dedup", new, "--against", seen, "-o", tmp_path / "two", *TOLERANT)
    first.unlink()
    result = edit("dedup", new, "--against", seen, "-o", tmp_path / "again", check=1)
    assert "is gone" in result.stderr and "hint:" in result.stderr


def test_mark_says_what_is_old(edit: Runner, halves: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = halves
    edit("dedup", old, "--against", tmp_path / "seen", "-o", tmp_path / "one", *TOLERANT)
    result = edit("dedup", new, "--against", tmp_path / "seen", "--mark", "of", "-f", "jsonl", *TOLERANT)
    marked = {row["id"]: row["of"] for row in map(json.loads, result.stdout.splitlines())}
    old_ids = {row["id"] for row in rows_of(tmp_path / "one")}
    assert sum(of in old_ids for of in marked.values()) == 4


def test_runs_that_share_a_folder_at_once_are_told(tmp_path: Path) -> None:
    from edittools.dedup.decide import decide
    from edittools.dedup.fingerprint import FINGERPRINT
    from edittools.dedup.fingerprint_table import FingerprintTable
    from edittools.dedup.rule import Rule
    from edittools.dedup.store import SignatureStore
    from edittools.errors import EditError

    def fingerprints(name: str) -> FingerprintTable:
        row = {"id": name, "shard": 0, "row": 0, "exact": name.encode().ljust(16), "pairing": bytes(8),
               "signatures": np.random.default_rng(len(name)).bytes(64), "one_image": True, "pixels": 1,
               "detail": 0.0}  # fmt: skip
        made = FingerprintTable()
        made.add(pa.RecordBatch.from_pylist([row], schema=FINGERPRINT))
        return made

    rule = Rule()
    one, two = (SignatureStore(str(tmp_path / "seen"), rule, name, {}) for name in ("one", "two"))
    decisions = []
    for store, given in ((one, fingerprints("a")), (two, fingerprints("bb"))):
        store.load(given)
        decisions.append(decide(given, rule, 1))
    one.save(decisions[0])
    with pytest.raises(EditError, match="another run has added"):
        two.save(decisions[1])
    assert len(list((tmp_path / "seen").iterdir())) == 1
    again = fingerprints("bb")
    two.load(again)
    two.save(decide(again, rule, 1))
    assert len(list((tmp_path / "seen").iterdir())) == 2


def test_edit_rows_repeat_by_vectors(edit: Runner, tmp_path: Path) -> None:
    """All of a row has to repeat: its source, its target, its words, and the bytes of further sources."""
    for name, data in {
        "s.png": encode(pixels(1, 96, 120), "PNG"), "s.jpg": encode(pixels(1, 96, 120), "JPEG"),
        "t.png": encode(pixels(2, 96, 120), "PNG"), "t.jpg": encode(pixels(2, 96, 120), "JPEG"),
        "u.png": encode(pixels(3, 96, 120), "PNG"),
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(data)
    given = [
        ("a", ["s.png"], "t.png", "x"), ("b", ["s.jpg"], "t.jpg", "x"), ("c", ["s.jpg"], "t.jpg", "y"),
        ("d", ["u.png"], "t.png", "x"), ("e", ["s.png"], "u.png", "x"), ("f", ["s.png", "u.png"], "t.png", "x"),
        ("g", ["s.jpg", "u.png"], "t.png", "x"), ("h", ["s.png", "t.png"], "t.png", "x"), ("i", ["s.png"], None, "x"),
        ("j", ["s.jpg"], None, "x"), ("k", ["s.jpg"], None, "y"), ("l", [], "s.png", None), ("m", [], "s.jpg", None),
    ]  # fmt: skip
    rows = [{"id": i, "source": s, "target": t, "instruction": said} for i, s, t, said in given]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--method", "stub", "--cosine", 0.98, "--mark", "of", "-f", "jsonl")
    result = edit("dedup", tmp_path / "rows.jsonl", *options)
    clusters: dict[str, str] = {}
    for row in result.lines:
        clusters[row["of"] or row["id"]] = clusters.get(row["of"] or row["id"], "") + row["id"]
    assert set(clusters.values()) == {"ab", "c", "d", "e", "fg", "h", "ij", "k", "lm"}
