"""`edit dedup`: the search and the clusters against brute force, the signature against scipy, and the command."""

from __future__ import annotations

import json
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import Runner, encode, pixels, rejects_of, rows_of, tree
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.fft import dctn

from edittools.dedup import hamming, signature
from edittools.dedup.clusters import Components
from edittools.dedup.groups import likeness_groups
from edittools.dedup.hamming import near_pairs
from edittools.dedup.near import Hamming
from edittools.dedup.signatures import phash
from edittools.stream import codec

# ---------------------------------------------------------------- pairs within a distance


def brute(values: np.ndarray, limit: int, queries: np.ndarray | None = None) -> set[tuple[int, int]]:
    """All pairs by comparing all pairs."""
    asked = values if queries is None else queries
    found = set()
    for start in range(0, len(asked), 512):
        counts = np.bitwise_count(asked[start : start + 512, None] ^ values[None, :])
        i, j = np.nonzero(counts <= limit)
        found |= {(int(a) + start, int(b)) for a, b in zip(i, j) if queries is not None or a + start < b}
    return found


def found(*arguments: Any, **options: Any) -> set[tuple[int, int]]:
    return {(int(a), int(b)) for i, j in near_pairs(*arguments, **options) for a, b in zip(i, j)}


def random_values(rng: np.random.Generator, count: int) -> np.ndarray:
    return np.unique(rng.integers(0, 2**64, count, dtype=np.uint64))


def clustered(rng: np.random.Generator, count: int, flips: int = 10) -> np.ndarray:
    """Values around few centres, so that many pairs lie on either side of every limit."""
    centres = rng.integers(0, 2**64, max(1, count // 20), dtype=np.uint64)
    values = centres[rng.integers(0, len(centres), count)]
    for _ in range(flips):
        flip = np.uint64(1) << rng.integers(0, 64, count, dtype=np.uint64)
        values = np.where(rng.random(count) < 0.5, values ^ flip, values)
    return np.unique(values)


def low_entropy(rng: np.random.Generator, count: int) -> np.ndarray:
    """Values that differ in 12 bits only, all of which fall into few chunks."""
    bits = rng.choice(64, 12, replace=False)
    chosen = rng.integers(0, 2, (count, 12)).astype(np.uint64)
    return np.unique((chosen << bits.astype(np.uint64)[None, :]).sum(axis=1, dtype=np.uint64))


SHAPES = {"random": random_values, "clustered": clustered, "low": low_entropy}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [0, 1, 2, 3, 17, 150])
@pytest.mark.parametrize("limit", [0, 1, 2, 3, 8, 11, 12, 13, 31])
def test_near_pairs_is_brute_force(shape: str, count: int, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(100 * count + limit)
    values = SHAPES[shape](rng, count) if count else np.zeros(0, np.uint64)
    queries = np.unique(np.r_[values[: count // 2], clustered(rng, 9)])
    expected, crossed = brute(values, limit), brute(values, limit, queries)
    assert found(values, limit) == expected
    assert found(values, limit, queries=queries) == crossed
    if limit <= 13:  # the index too, which small sets do not use; many masks belong to a large limit
        monkeypatch.setattr(hamming, "_BRUTE_FORCE", 0)
        assert found(values, limit) == expected
        assert found(values, limit, queries=queries, jobs=2) == crossed


@pytest.mark.parametrize("count", [hamming._BRUTE_FORCE - 1, hamming._BRUTE_FORCE, hamming._BRUTE_FORCE + 1])
def test_near_pairs_around_the_threshold(count: int) -> None:
    values = clustered(np.random.default_rng(5), count + 500)[:count]
    assert len(values) == count
    for limit in (0, 8, 12):
        assert found(values, limit, jobs=2) == brute(values, limit)
    queries = random_values(np.random.default_rng(6), 40) | np.uint64(1)
    queries = np.r_[queries, values[::50] ^ np.uint64(0b10111)]
    assert found(values, 8, queries=queries) == brute(values, 8, queries)


def test_near_pairs_at_the_largest_distance() -> None:
    values = random_values(np.random.default_rng(7), hamming._BRUTE_FORCE + 1)
    queries = values[:1] ^ np.uint64((1 << 31) - 1)
    assert found(values, 31, queries=queries, jobs=2) == brute(values, 31, queries)
    for limit in (-1, 32):
        with pytest.raises(ValueError, match="0 to 31"):
            found(values, limit)


def test_near_pairs_in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hamming, "_PAIRS_AT_ONCE", 7)
    monkeypatch.setattr(hamming, "_BRUTE_FORCE", 10)
    values = low_entropy(np.random.default_rng(8), 300)
    assert found(values, 5) == brute(values, 5)
    assert found(values[:9], 5) == brute(values[:9], 5)


def test_near_pairs_of_20000() -> None:
    rng = np.random.default_rng(9)
    values = clustered(rng, 21_000, flips=16)[:20_000]
    expected = brute(values, 8)
    assert len(expected) > 1000
    assert found(values, 8, jobs=2) == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), unique=True, max_size=30), st.integers(0, 31))
def test_near_pairs_of_anything(numbers: list[int], limit: int) -> None:
    values = np.array(numbers, np.uint64)
    expected = {(i, j) for j in range(len(numbers)) for i in range(j) if (numbers[i] ^ numbers[j]).bit_count() <= limit}
    assert found(values, limit) == expected


# ---------------------------------------------------------------- components


def plain_labels(count: int, edges: list[tuple[int, int]]) -> list[int]:
    parent = list(range(count))

    def root(k: int) -> int:
        while parent[k] != k:
            k = parent[k]
        return k

    for a, b in edges:
        a, b = root(a), root(b)
        parent[max(a, b)] = min(a, b)
    return [root(k) for k in range(count)]


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_components_are_those_of_a_plain_union_find(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 60))
    node = st.integers(0, count - 1)
    edges = data.draw(st.lists(st.tuples(node, node), max_size=120))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(edges)), max_size=5)))
    blocks = [edges[a:b] for a, b in zip([0, *cuts], [*cuts, len(edges)])]
    blocks = data.draw(st.permutations(blocks))
    components = Components(count)
    for block in blocks:
        pairs = np.array(block, np.int64).reshape(-1, 2)
        components.union(pairs[:, 0], pairs[:, 1])
    assert components.labels().tolist() == plain_labels(count, edges)


def test_components_of_a_long_chain_and_of_a_star() -> None:
    count = 20_000
    order = np.random.default_rng(1).permutation(count - 1)
    chain, star = Components(count), Components(count)
    chain.union(order, order + 1)
    assert not chain.labels().any()
    star.union(np.full(count - 1, count - 1), np.arange(count - 1))
    assert not star.labels().any()


# ---------------------------------------------------------------- the signature


@lru_cache
def photograph(name: str, top: float = 0.2, left: float = 0.2, size: int = 160) -> np.ndarray:
    """A small crop of one of the photographs that scikit-image brings along, as RGB."""
    import skimage.data

    path = Path(skimage.data.__file__).parent / name
    image = Image.open(path).convert("RGB")
    side = int(min(image.size) * 0.6)
    x, y = int((image.width - side) * left), int((image.height - side) * top)
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box=(x, y, x + side, y + side)))


PHOTOGRAPHS = [
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "gravel.png",
    "hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png", "rocket.jpg",
]  # fmt: skip


def gray_raster(array: np.ndarray) -> np.ndarray:
    return codec.decode(encode(array, "PNG"), phash.RASTER)


def independent(raster: np.ndarray) -> int:
    """The 64-bit DCT hash by scipy's transform and plain loops."""
    small = raster.astype(float).reshape(32, 2, 32, 2).mean(axis=(1, 3))
    low = dctn(small, norm="ortho")[:8, :8].round(6).ravel().tolist()
    middle = sorted(low[1:])[31]
    return sum(1 << k for k, value in enumerate(low) if k and value > middle)


def signatures(array: np.ndarray) -> list[int]:
    made = phash.signatures(gray_raster(array))
    assert made is not None
    return [int(word) for word in made]


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_signature_is_the_dct_hash_in_all_orientations(name: str) -> None:
    raster = gray_raster(photograph(name))
    made = phash.signatures(raster)
    assert made is not None and made.dtype == np.uint64
    turned = [
        raster, raster[:, ::-1], raster[::-1], raster[::-1, ::-1],
        raster.T, raster.T[:, ::-1], raster.T[::-1], raster.T[::-1, ::-1],
    ]  # fmt: skip
    assert len({independent(view) for view in turned}) == 8
    # The orientations computed from one transform are those of hashing the turned image itself: bit for bit,
    # but for coefficients within rounding of the median.
    for word, view in zip(made, turned):
        assert (int(word) ^ independent(view)).bit_count() <= 1
    assert int(made[0]) == independent(raster)


def test_bit_positions_by_hand() -> None:
    """A vertical wave of two half periods has one coefficient above the median: row 2, column 0."""
    wave = np.cos(np.pi * 2 * (2 * np.arange(64) + 1) / 128)
    raster = np.repeat((128 + 60 * wave).round().astype(np.uint8)[:, None], 64, axis=1)
    made = phash.signatures(raster)
    assert made is not None
    assert int(made[0]) >> 16 & 1
    assert int(made[0]) & 0xFEFE == 0  # nothing along the rows
    assert int(made[4]) >> 2 & 1


@pytest.mark.parametrize("name", ["astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"])
def test_really_turned_images_have_the_turned_signature(name: str) -> None:
    array = photograph(name)[:, :120]  # not square
    own = signatures(array)
    # The raster is rounded to whole levels after it was turned: coefficients near the median change sides.
    for k in range(4):
        for view in (np.rot90(array, k), np.rot90(array, k)[:, ::-1]):
            assert min((signatures(view)[0] ^ word).bit_count() for word in own) <= 4


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_scaled_jpeg_has_nearly_the_signature_of_the_whole(name: str) -> None:
    large = np.asarray(Image.fromarray(photograph(name)).resize((1003, 777), Image.Resampling.BICUBIC))
    data = encode(large, "JPEG", quality=90)
    scaled = phash.signatures(codec.decode(data, phash.RASTER))
    whole = phash.signatures(gray_raster(codec.decode(data)))
    assert scaled is not None and whole is not None
    assert int(np.bitwise_count(scaled[0] ^ whole[0])) <= (4 if name == "brick.png" else 2)


def test_flat_images_have_no_signature() -> None:
    assert phash.signatures(np.full((64, 64), 77, np.uint8)) is None
    noise = np.random.default_rng(0).integers(100, 103, (64, 64)).astype(np.uint8)
    assert phash.signatures(noise) is None
    noise[:32] += 30
    assert phash.signatures(noise) is not None


def test_detail_is_the_variance_of_the_laplacian() -> None:
    from scipy.ndimage import laplace

    raster = gray_raster(photograph("coffee.png"))
    expected = laplace(raster.astype(np.float64))[1:-1, 1:-1].var()
    assert signature.detail(raster) == pytest.approx(expected, rel=1e-6)


# ---------------------------------------------------------------- the command


def write(folder: Path, images: dict[str, bytes | np.ndarray]) -> Path:
    """A folder of files; arrays become PNG or JPEG by the name."""
    for name, data in images.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(data, np.ndarray):
            data = encode(data, "PNG" if name.endswith("png") else "JPEG", **({"quality": 90} if "jpg" in name else {}))
        path.write_bytes(data)
    return folder


def resized(array: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(array).resize((side, side), Image.Resampling.LANCZOS))


def paths(folder: Path) -> set[str]:
    return {row["provenance"]["path"] for row in rows_of(folder)}


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven photographs, two crops of some, and copies of six of them."""
    images: dict[str, bytes | np.ndarray] = {name.split(".")[0] + ".png": photograph(name) for name in PHOTOGRAPHS}
    for name in ("astronaut.png", "coffee.png", "rocket.jpg"):
        images[f"other-{name.split('.')[0]}.png"] = photograph(name, 0.9, 0.95)
    images["x/exact.png"] = encode(photograph("camera.png"), "PNG")
    images["x/small.jpg"] = resized(photograph("astronaut.png"), 100)
    images["x/recompressed.jpg"] = encode(photograph("chelsea.png"), "JPEG", quality=35)
    images["x/mirrored.jpg"] = photograph("coffee.png")[:, ::-1]
    images["x/turned.jpg"] = np.rot90(photograph("motorcycle_left.png"))
    images["x/half.jpg"] = np.rot90(photograph("rocket.jpg"), 2)
    images["x/broken.jpg"] = encode(photograph("coins.png"), "JPEG")[:2000]
    images["flat-a.png"] = np.full((40, 40, 3), 200, np.uint8)
    images["flat-b.png"] = np.full((50, 50, 3), 203, np.uint8)
    images["x/flat-copy.png"] = np.full((40, 40, 3), 200, np.uint8)
    return write(tmp_path_factory.mktemp("dedup") / "crawl", images)


@pytest.fixture(scope="module")
def copies_set(session_edit: Runner, copies: Path) -> Path:
    folder = copies.parent / "set"
    session_edit("shard", copies, "-o", folder, "--rows", 5)
    return folder


EXPECTED = {
    "x/exact.png": ("camera.png", "exact"),
    "x/small.jpg": ("astronaut.png", "phash"),
    "x/recompressed.jpg": ("chelsea.png", "phash"),
    "x/mirrored.jpg": ("coffee.png", "phash"),
    "x/turned.jpg": ("motorcycle_left.png", "phash"),
    "x/half.jpg": ("rocket.png", "phash"),
    "x/flat-copy.png": ("flat-a.png", "exact"),
}
TURNED = {"x/mirrored.jpg", "x/turned.jpg", "x/half.jpg"}
TOLERANT = ("--max-errors", "1")


def duplicates(folder: Path, rows: list[dict]) -> dict[str, tuple[str, str, int]]:
    """{path of the dropped: (path of the kept, metric, distance)} out of the rejects."""
    by_id = {row["id"]: row["provenance"]["path"] for row in rows}
    return {
        reject["path"]: (by_id[reject["value"]["of"]], reject["value"]["metric"], reject["value"]["distance"])
        for reject in rejects_of(folder)
        if reject["reason"] == "duplicate"
    }


def test_copies_are_found_and_photographs_kept(edit: Runner, copies: Path, copies_set: Path, tmp_path: Path) -> None:
    edit("dedup", copies_set, "-o", tmp_path / "out", *TOLERANT)
    found = duplicates(tmp_path / "out", rows_of(copies_set))
    kept = paths(tmp_path / "out")
    pairs = {
        # Of exact copies the smaller id stays, whichever that is.
        frozenset((dropped, of)): (metric, distance)
        for dropped, (of, metric, distance) in found.items()
    }
    assert pairs.keys() == {frozenset((dropped, of)) for dropped, (of, _) in EXPECTED.items()}
    for dropped, (of, metric) in EXPECTED.items():
        got, distance = pairs[frozenset((dropped, of))]
        assert got == metric and distance <= 8 and (distance == 0 or metric == "phash")
        assert len({dropped, of} & kept) == 1
    everything = paths(copies_set)
    assert kept == everything - found.keys() - {"x/broken.jpg"}
    assert {"other-astronaut.png", "other-coffee.png", "other-rocket.png", "flat-b.png"} <= kept
    broken = [reject for reject in rejects_of(tmp_path / "out") if reject["failed"]]
    assert [(reject["path"], reject["reason"]) for reject in broken] == [("x/broken.jpg", "damaged image")]
    assert broken[0]["value"]
    assert edit("dedup", copies_set, "-o", tmp_path / "strict", check=3).stderr.count("failed") >= 1


def test_without_rotations(edit: Runner, copies_set: Path, tmp_path: Path) -> None:
    edit("dedup", copies_set, "--no-rotations", "-o", tmp_path / "out", *TOLERANT)
    found = duplicates(tmp_path / "out", rows_of(copies_set))
    assert {frozenset((a, b)) for a, (b, *_) in found.items()} == {
        frozenset((dropped, of)) for dropped, (of, _) in EXPECTED.items() if dropped not in TURNED
    }


def test_exact_method(edit: Runner, copies_set: Path, tmp_path: Path) -> None:
    edit("dedup", copies_set, "--method", "exact", "-o", tmp_path / "out")
    found = duplicates(tmp_path / "out", rows_of(copies_set))
    expected = {frozenset((a, b)) for a, (b, metric) in EXPECTED.items() if metric == "exact"}
    assert {frozenset((a, b)) for a, (b, *_) in found.items()} == expected
    assert {tuple(rest) for _, *rest in found.values()} == {("exact", 0)}
    # Damage is not looked for: no image is decoded.
    assert "x/broken.jpg" in paths(tmp_path / "out")


def test_mark_keeps_every_row(edit: Runner, copies_set: Path, tmp_path: Path) -> None:
    edit("dedup", copies_set, "-o", tmp_path / "dropped", *TOLERANT)
    edit("dedup", copies_set, "--mark", "duplicate_of", "-o", tmp_path / "marked", *TOLERANT)
    marked = rows_of(tmp_path / "marked")
    assert len(marked) == len(rows_of(copies_set)) - 1  # less the damaged one
    assert [row["id"] for row in marked if row["duplicate_of"] is None] == [
        row["id"] for row in rows_of(tmp_path / "dropped")
    ]
    by_id = {row["id"]: row["provenance"]["path"] for row in marked}
    found = duplicates(tmp_path / "dropped", rows_of(copies_set))
    assert {by_id[row["id"]]: by_id[row["duplicate_of"]] for row in marked if row["duplicate_of"]} == {
        dropped: of for dropped, (of, *_) in found.items()
    }
    again = edit("dedup", tmp_path / "marked", "--mark", "duplicate_of", "-o", tmp_path / "no", check=2)
    assert "already" in again.stderr


@pytest.mark.parametrize("options", [(), ("--method", "exact"), ("--mark", "of")])
def test_three_steps_apart_are_one_command(
    edit: Runner, copies_set: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    edit("dedup", copies_set, *options, "-o", tmp_path / "one", *TOLERANT)
    count = 3
    for task in (2, 0, 1):
        edit("dedup", copies_set, *options, "--phase", "fingerprint", "--task", f"{task}/{count}", "-o",
             tmp_path / "prints")  # fmt: skip
    verdict = tmp_path / "decisions.parquet"
    method = options if "--method" in options else ()
    edit("dedup", tmp_path / "prints", *method, "--phase", "decide", "-o", verdict)
    for task in (1, 2, 0):
        edit("dedup", copies_set, *options, "--decisions", verdict, "--task", f"{task}/{count}", "-o",
             tmp_path / "three", *TOLERANT, "--max-errors", "100%")  # fmt: skip
    one, three = tree(tmp_path / "one"), tree(tmp_path / "three")
    # One command keeps its decisions beside the shards; otherwise it is the file that was given.
    kept = [name for name in one if name.startswith("_verdict/")]
    assert len(kept) == 1
    assert pq.read_table(tmp_path / "one" / kept[0]).equals(pq.read_table(verdict))
    del one[kept[0]]
    assert one == three


def test_a_task_alone_decides_nothing(edit: Runner, copies_set: Path, tmp_path: Path) -> None:
    result = edit("dedup", copies_set, "--task", "0/2", "-o", tmp_path / "out", check=2)
    assert "--decisions" in result.stderr


def test_steps_ask_for_what_they_need(edit: Runner, copies_set: Path, tmp_path: Path) -> None:
    edit("dedup", copies_set, "--phase", "decide", "-o", tmp_path / "v", check=2)  # not fingerprints
    edit("dedup", copies_set, "--phase", "fingerprint", "-o", tmp_path / "prints")
    edit("dedup", tmp_path / "prints", "--phase", "decide", check=2)  # no file
    edit("dedup", tmp_path / "prints", "--phase", "decide", "-o", tmp_path / "v")
    again = edit("dedup", tmp_path / "prints", "--phase", "decide", "-o", tmp_path / "v", check=1)
    assert "--overwrite" in again.stderr
    edit("dedup", tmp_path / "prints", "--phase", "decide", "--overwrite", "-o", tmp_path / "v")
    (tmp_path / "junk").write_bytes(b"PAR1 no")
    assert "junk" in edit("dedup", copies_set, "--decisions", tmp_path / "junk", "-o", tmp_path / "no", check=1).stderr
    edit("dedup", copies_set, "--decisions", tmp_path / "absent", "-o", tmp_path / "no", check=1)


def test_a_verdict_of_other_input_is_refused(edit: Runner, copies_set: Path, shards: Path, tmp_path: Path) -> None:
    edit("dedup", copies_set, "--phase", "fingerprint", "-o", tmp_path / "prints")
    edit("dedup", tmp_path / "prints", "--phase", "decide", "-o", tmp_path / "v")
    result = edit("dedup", shards, "--decisions", tmp_path / "v", "-o", tmp_path / "out", check=1)
    assert "not about this input" in result.stderr and "hint:" in result.stderr
    assert not (tmp_path / "out" / "_end.json").exists()
    # A shorter input does not hold the rows that the decisions are about.
    dropped = pq.read_table(tmp_path / "v").to_pylist()
    last = max(item["row"] for item in dropped if item["shard"] == 0 and (item["duplicate_of"] or item["error"]))
    result = edit("dedup", copies_set, "--limit", last, "--decisions", tmp_path / "v", "-o", tmp_path / "out2", check=1)
    assert "not about this input" in result.stderr


def test_a_verdict_of_other_options_is_refused(edit: Runner, copies_set: Path, tmp_path: Path) -> None:
    edit("dedup", copies_set, "--method", "exact", "--phase", "fingerprint", "-o", tmp_path / "prints")
    edit("dedup", tmp_path / "prints", "--method", "exact", "--phase", "decide", "-o", tmp_path / "v")
    for options, said in (((), 'method "exact", not "phash"'), (("--method", "exact", "--level", "fine"), "level")):
        result = edit("dedup", copies_set, *options, "--decisions", tmp_path / "v", "-o", tmp_path / "out", check=1)
        assert f"decisions made with {said}" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_verdict_that_drops_nothing_is_about_its_input_alone(
    edit: Runner, shards: Path, copies_set: Path, tmp_path: Path
) -> None:
    edit("dedup", shards, "--method", "exact", "--phase", "fingerprint", "-o", tmp_path / "prints")
    edit("dedup", tmp_path / "prints", "--method", "exact", "--phase", "decide", "-o", tmp_path / "v")
    given = ("--method", "exact", "--decisions", tmp_path / "v", "-o")
    edit("dedup", shards, *given, tmp_path / "out")
    for other in (copies_set, sorted(shards.glob("*.parquet"))[0]):
        result = edit("dedup", other, *given, tmp_path / "other", check=1)
        assert "not about this input" in result.stderr and not list((tmp_path / "other").glob("*.parquet"))


def test_pipe_is_file_and_threads_change_nothing(edit: Runner, copies_set: Path, tmp_path: Path) -> None:
    edit("dedup", copies_set, "-j", 1, "-o", tmp_path / "one", *TOLERANT)
    edit("dedup", copies_set, "-j", 4, "-o", tmp_path / "four", *TOLERANT)
    one = tree(tmp_path / "one")
    assert one == tree(tmp_path / "four")
    for inline in ((), ("--inline",)):
        out = tmp_path / f"pipe{len(inline)}"
        edit.pipe(["cat", copies_set, *inline], ["dedup", "-o", out, *TOLERANT])
        assert rows_of(out) == rows_of(tmp_path / "one")
        assert rejects_of(out) == rejects_of(tmp_path / "one")
    edit.pipe(["cat", copies_set], ["dedup"], ["cat", "-o", tmp_path / "behind", *TOLERANT])
    assert rows_of(tmp_path / "behind") == rows_of(tmp_path / "one")
    assert rejects_of(tmp_path / "behind") == rejects_of(tmp_path / "one")


def test_again_does_nothing_and_a_stopped_run_goes_on(edit: Runner, copies_set: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    edit("dedup", copies_set, "-o", out, *TOLERANT)
    before = tree(out)
    times = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    edit("dedup", copies_set, "-o", out, *TOLERANT)
    assert tree(out) == before
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")} == times
    for path in [out / "_end.json", *sorted(out.glob("*.parquet"))[1:]]:
        path.unlink()
    edit("dedup", copies_set, "-o", out, *TOLERANT)
    assert tree(out) == before
    refused = edit("dedup", copies_set, "--distance", 4, "-o", out, *TOLERANT, check=None)
    assert refused.code in (1, 2) and "--overwrite" in refused.stderr
    assert tree(out).items() >= {k: v for k, v in before.items() if not k.startswith("_verdict")}.items()


def test_loose_files_without_shards(edit: Runner, copies: Path, copies_set: Path, tmp_path: Path) -> None:
    edit("dedup", copies, "-o", tmp_path / "loose", *TOLERANT)
    edit("dedup", copies_set, "-o", tmp_path / "set", *TOLERANT)
    # Ids of loose files are others, so of exact copies another one may stay.
    either = {"camera.png", "x/exact.png", "flat-a.png", "x/flat-copy.png"}
    assert paths(tmp_path / "loose") - either == paths(tmp_path / "set") - either
    assert len(rows_of(tmp_path / "loose")) == len(rows_of(tmp_path / "set"))


# ---------------------------------------------------------------- which copy stays


def lines(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_representative_is_the_largest_then_the_sharpest_then_the_first(edit: Runner, tmp_path: Path) -> None:
    base = photograph("astronaut.png")
    soft = resized(resized(base, 60), 160)
    write(
        tmp_path,
        {
            "large.png": np.asarray(Image.fromarray(base).resize((170, 170), Image.Resampling.BICUBIC)),
            "sharp.png": base,
            "soft.png": soft,
            "twin-1.png": photograph("coffee.png"),
            "twin-2.png": encode(photograph("coffee.png"), "PNG", compress_level=1),
        },
    )

    def kept(*rows: tuple[str, str]) -> dict[str, str]:
        table = lines(tmp_path, [{"id": identity, "target": name} for identity, name in rows])
        result = edit("dedup", table, "-f", "jsonl", "--mark", "of")
        return {row["id"]: row["of"] for row in result.lines}

    # The largest, although it has the last id, and is not the sharpest.
    assert kept(("a", "soft.png"), ("b", "sharp.png"), ("c", "large.png")) == {"a": "c", "b": "c", "c": None}
    assert kept(("c", "large.png"), ("b", "sharp.png"), ("a", "soft.png")) == {"a": "c", "b": "c", "c": None}
    # Of the same size the sharpest.
    assert kept(("a", "soft.png"), ("b", "sharp.png")) == {"a": "b", "b": None}
    # All equal: the first id, whatever the order of the rows.
    assert kept(("b", "twin-1.png"), ("a", "twin-2.png")) == {"a": None, "b": "a"}
    assert kept(("b", "twin-1.png"), ("a", "twin-1.png"), ("c", "twin-1.png")) == {"a": None, "b": "a", "c": "a"}


# ---------------------------------------------------------------- groups by likeness


def test_groups_are_those_of_the_nearest_centre_by_brute_force() -> None:
    """Three families of signatures, each within 6 of 64 bits of its centre; a flat image has none."""
    rng = np.random.default_rng(4)
    centres = rng.integers(0, 2**64, 3, dtype=np.uint64)
    family = np.repeat(np.arange(3), [90, 9, 1])
    values = centres[family]
    for _ in range(6):
        values ^= np.uint64(1) << rng.integers(0, 64, len(values), dtype=np.uint64)
    valid = np.arange(len(values)) != 5
    near = Hamming(values[:, None], valid, 8, jobs=1)
    made = likeness_groups(near, np.arange(100), np.arange(100), 3, jobs=2)
    assert made[5] == -1 and made.dtype == np.int32
    same = made[valid][:, None] == made[valid]
    assert (same == (family[valid][:, None] == family[valid])).all()
    # not asked for, their number is the root of the rows'; only what stays is learnt from, every row has one
    made = likeness_groups(near, np.arange(0, 100, 2), np.arange(99), None, jobs=1)
    assert made.max() == 6 and made[99] == -1 and (made[:99] >= 0).sum() == 98


def test_rows_say_which_group_they_are_in(edit: Runner, tmp_path: Path) -> None:
    def image(k: int) -> np.ndarray:  # one of two patterns, and noise
        base = np.random.default_rng(k % 2).integers(60, 200, (8, 8))
        noisy = base + np.random.default_rng(9 + k).integers(-12, 13, (8, 8))
        return noisy.astype(np.uint8).repeat(8, 0).repeat(8, 1)[..., None].repeat(3, 2)

    write(tmp_path, {f"{k}.png": image(k) for k in range(8)} | {"flat.png": np.full((64, 64, 3), 9, np.uint8)})
    rows = [{"id": str(k), "target": f"{k}.png"} for k in range(8)] + [{"id": "flat", "target": "flat.png"}]
    options = ("--distance", 0, "--no-rotations", "-f", "jsonl")
    groups = {r["id"]: r["cluster"] for r in edit("dedup", lines(tmp_path, rows), *options, "--clusters", 2).lines}
    assert groups.pop("flat") is None and len(groups) == 8
    assert len({groups[str(k)] for k in range(0, 8, 2)}) == len({groups[str(k)] for k in range(1, 8, 2)}) == 1
    assert groups["0"] != groups["1"]
    named = [{**row, "cluster": "mine"} for row in rows]  # a user's own stays, unless others are asked for
    assert {r["cluster"] for r in edit("dedup", lines(tmp_path, named), *options).lines} == {"mine"}
    again = {r["id"]: r["cluster"] for r in edit("dedup", lines(tmp_path, named), *options, "--clusters", 2).lines}
    assert again == groups | {"flat": None}
    for none in (("--clusters", 0), ("--method", "exact")):
        options = () if none[0] == "--method" else ("--distance", 0)
        assert "cluster" not in edit("dedup", lines(tmp_path, rows), *options, *none, "-f", "jsonl").lines[0]


# ---------------------------------------------------------------- edit rows


def clusters(edit: Runner, folder: Path, rows: list[dict[str, Any]], *options: str) -> set[str]:
    """The ids of every cluster, such as {"ab", "c"}."""
    result = edit("dedup", lines(folder, rows), "-f", "jsonl", "--mark", "of", *options)
    found: dict[str, str] = {}
    for row in result.lines:
        kept = row["of"] or row["id"]
        found[kept] = found.get(kept, "") + row["id"]
    return {"".join(sorted(ids)) for ids in found.values()}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    base = photograph("chelsea.png")
    write(
        tmp_path,
        {
            "source.png": base,
            "again.jpg": encode(base, "JPEG", quality=60),
            "gray.png": np.repeat(base.mean(axis=2).astype(np.uint8)[..., None], 3, axis=2),
            "gray.jpg": encode(np.repeat(base.mean(axis=2).astype(np.uint8)[..., None], 3, axis=2), "JPEG"),
            "flipped.png": base[:, ::-1],
            "bright.png": np.clip(base.astype(int) + 60, 0, 255).astype(np.uint8),
            "other.png": photograph("rocket.jpg"),
        },
    )
    return tmp_path


def test_a_source_with_several_edits_is_kept(edit: Runner, images: Path) -> None:
    rows = [
        {"id": "a", "source": ["source.png"], "target": "gray.png", "instruction": "make it gray"},
        {"id": "b", "source": ["source.png"], "target": "bright.png", "instruction": "make it brighter"},
        {"id": "c", "source": ["source.png"], "target": "flipped.png", "instruction": "mirror it"},
        # The same images, differently asked for.
        {"id": "d", "source": ["source.png"], "target": "gray.png", "instruction": "remove all colours"},
        # The same words, another target.
        {"id": "e", "source": ["source.png"], "target": "other.png", "instruction": "make it gray"},
    ]
    assert clusters(edit, images, rows) == {"a", "b", "c", "d", "e"}


def test_a_row_that_repeats_entirely_is_dropped(edit: Runner, images: Path) -> None:
    rows = [
        {"id": "a", "source": ["source.png"], "target": "gray.png", "instruction": "make it gray"},
        {"id": "b", "source": ["source.png"], "target": "gray.png", "instruction": "make it gray"},
        {"id": "c", "source": ["again.jpg"], "target": "gray.jpg", "instruction": "make it gray"},
        {"id": "d", "source": ["other.png"], "target": "gray.png", "instruction": "make it gray"},
        {"id": "e", "source": ["source.png", "other.png"], "target": "gray.png", "instruction": "make it gray"},
        {"id": "f", "source": ["again.jpg", "other.png"], "target": "gray.png", "instruction": "make it gray"},
    ]
    # The second source has to have the same bytes.
    assert clusters(edit, images, rows) == {"abc", "d", "ef"}
    assert clusters(edit, images, rows, "--method", "exact") == {"ab", "c", "d", "e", "f"}


def test_a_flip_is_an_edit(edit: Runner, images: Path) -> None:
    rows = [
        {"id": "a", "source": ["source.png"], "target": "flipped.png", "instruction": "mirror it"},
        {"id": "b", "source": ["flipped.png"], "target": "source.png", "instruction": "mirror it"},
        {"id": "c", "target": "source.png"},
        {"id": "d", "target": "flipped.png"},
    ]
    # The rows of one image are copies of each other, but not of the pairs that show the same images.
    assert clusters(edit, images, rows) == {"a", "b", "cd"}
    assert clusters(edit, images, rows, "--no-rotations") == {"a", "b", "c", "d"}


def test_rows_whose_target_is_still_to_be_made(edit: Runner, images: Path) -> None:
    """A benchmark's rows: one image under many instructions, and with different references."""
    rows = [
        {"id": "a", "source": ["source.png"], "instruction": "make it gray"},
        {"id": "b", "source": ["source.png"], "instruction": "mirror it"},
        {"id": "c", "source": ["again.jpg"], "instruction": "mirror it"},
        {"id": "d", "source": ["flipped.png"], "instruction": "mirror it"},
        {"id": "e", "source": ["source.png", "other.png"], "instruction": "join them"},
        {"id": "f", "source": ["source.png", "gray.png"], "instruction": "join them"},
    ]
    assert clusters(edit, images, rows) == {"a", "bc", "d", "e", "f"}


def test_turns_tell_dialogues_apart(edit: Runner, images: Path) -> None:
    def turns(*texts: str) -> list[dict]:
        return [{"parent": k - 1, "instruction": {"en": text}} for k, text in enumerate(texts)]

    rows = [
        {"id": "a", "source": ["source.png"], "turns": turns("gray", "brighter")},
        {"id": "b", "source": ["source.png"], "turns": turns("gray", "darker")},
        {"id": "c", "source": ["source.png"], "turns": turns("gray", "darker")},
    ]
    assert clusters(edit, images, rows) == {"a", "bc"}


def test_hashes_that_are_none_are_not_believed(edit: Runner, images: Path) -> None:
    given = [("a", "source.png", "not a hash"), ("b", "other.png", "not a hash"), ("c", "bright.png", "ab")]
    rows = [{"id": name, "task": "t2i", "target": image, "provenance": {"sha256": text}} for name, image, text in given]
    assert clusters(edit, images, rows, "--method", "exact") == {"a", "b", "c"}
    assert "b" in clusters(edit, images, rows)


def test_hostile_rows(edit: Runner, images: Path) -> None:
    rows = [
        {"id": "a"},
        {"id": "b", "source": [], "instruction": "x"},
        {"id": "c", "target": "absent.png"},
        {"id": "d", "source": ["source.png"], "target": "rows.jsonl", "instruction": "x"},
        {"id": "e", "source": ["rows.jsonl"], "target": "source.png", "instruction": "x"},
        {"id": "f", "target": "source.png"},
    ]
    result = edit("dedup", lines(images, rows), "-f", "jsonl", "--rejects", images / "r", "--max-errors", "100%")
    assert [row["id"] for row in result.lines] == ["f"]
    told = [json.loads(line) for line in (images / "r").read_text().splitlines()]
    assert len(told) == 5 and all(reject["failed"] and reject["reason"] for reject in told)
    reasons = {reject["id"]: reject["reason"] for reject in told}
    assert reasons["a"] == reasons["b"] == "no picture"
    assert reasons["d"] == reasons["e"] == "not an image"
    empty = edit("dedup", lines(images, []), "-f", "jsonl", check=None)
    assert empty.code in (0, 1, 2)


def test_ids_that_repeat_over_shards(edit: Runner, tmp_path: Path) -> None:
    """Ids are unique within a shard only; the decisions name rows by their place."""
    for name, seed in (("one", 1), ("two", 2)):
        write(tmp_path, {f"{name}.png": pixels(seed, 64, 64)})
        lines(tmp_path, [{"id": "same", "target": f"{name}.png"}, {"id": f"own-{name}", "target": "one.png"}])
        edit("shard", tmp_path / "rows.jsonl", "-o", tmp_path / f"{name}-set", "--rows", 10)
    edit("dedup", tmp_path / "one-set", tmp_path / "two-set", "-o", tmp_path / "out")
    assert len(rows_of(tmp_path / "out")) == 2
    shutil.rmtree(tmp_path / "out")
