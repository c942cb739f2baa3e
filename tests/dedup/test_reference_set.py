"""`edit dedup --reference-set`: whitened vectors and normalised scores against plain numpy, and the command with
them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Runner, encode, pixels, rejects_of, rows_of, tree
from forge import Forge

from edittools.dedup import reference_set as reference_set_module
from edittools.dedup.decide import decide
from edittools.dedup.fingerprint import fingerprint_schema
from edittools.dedup.fingerprint_table import FingerprintTable
from edittools.dedup.near import Cosine
from edittools.dedup.reference_set import ReferenceStatistics
from edittools.dedup.rule import Rule
from edittools.encoders import postprocess

RULES = [(whiten, normalize) for whiten in (None, "all", 7, "centre") for normalize in (False, True)][1:]


@pytest.fixture(scope="module")
def edit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    forge = Forge("stub_embedders")
    yield Runner(forge, tmp_path_factory.mktemp("logs"))
    forge.close()


# ---------------------------------------------------------------- by plain numpy


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def plain_scores(vectors: np.ndarray, reference_set: np.ndarray, whiten: Any, normalize: bool) -> np.ndarray:
    """All scores of all with all, in float64, by another decomposition than the code's."""
    vectors, reference_set = np.asarray(vectors, np.float64), np.asarray(reference_set, np.float64)
    if whiten is not None:
        mean = reference_set.mean(axis=0)
        turn = np.eye(reference_set.shape[1])
        if whiten != "centre":
            _, lengths, axes = np.linalg.svd(reference_set - mean, full_matrices=False)
            count = reference_set.shape[1] if whiten == "all" else whiten
            turn = (axes[:count] / lengths[:count, None]).T  # a factor common to all directions does not matter
        vectors, reference_set = (vectors - mean) @ turn, (reference_set - mean) @ turn
    vectors, reference_set = unit(vectors), unit(reference_set)
    scores = vectors @ vectors.T
    if normalize:
        lost = np.sort(vectors @ reference_set.T, axis=1)[:, -3:].mean(axis=1)
        scores = scores - (lost[:, None] + lost[None, :]) / 2
    return scores


def gap(scores: np.ndarray, few: int, many: int) -> float:
    """A limit that `few` to `many` pairs reach, in the widest gap: which do, float16 cannot change."""
    values = -np.sort(-scores[np.triu_indices(len(scores), 1)])[few : many + 1]
    k = int(np.diff(values).argmin())
    assert values[k] - values[k + 1] > 0.002
    return float(values[k] + values[k + 1]) / 2


def sample(seed: int, count: int = 300, dim: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Vectors with copies among them, and a reference set; both off centre and longer in some directions."""
    rng = np.random.default_rng(seed)
    shape, shift = rng.uniform(0.2, 3, dim), rng.standard_normal(dim)
    made = rng.standard_normal((count + 200, dim)) * shape + shift
    copies = rng.integers(0, count // 2, count // 4)
    made[count // 2 : count // 2 + len(copies)] = made[copies] + rng.standard_normal(
        (len(copies), dim)
    ) * shape * rng.uniform(0, 0.6, (len(copies), 1))
    made = unit(made).astype(np.float16)
    return made[:count], made[count:]


def fingerprints_of(vectors: np.ndarray, rule: Rule) -> FingerprintTable:
    rows = [
        {"id": f"r{k:04d}", "shard": 0, "row": k, "exact": k.to_bytes(16, "big"), "pairing": bytes(8),
         "signatures": vector.tobytes(), "one_image": True, "pixels": 1, "detail": 0.0}
        for k, vector in enumerate(vectors)
    ]  # fmt: skip
    made = FingerprintTable()
    made.add(pa.RecordBatch.from_pylist(rows, schema=fingerprint_schema(rule, {rule.method: vectors.shape[1]})))
    return made


def components(scores: np.ndarray, limit: float) -> list[int]:
    labels = np.arange(len(scores))
    a, b = np.nonzero(np.triu(scores >= limit, 1))
    while (labels[a] != labels[b]).any():
        for i, j in zip(a, b):
            labels[labels == max(labels[i], labels[j])] = min(labels[i], labels[j])
    return labels.tolist()


@pytest.mark.parametrize(("whiten", "normalize"), RULES, ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_verdict_is_brute_force(whiten: Any, normalize: bool, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, reference_set = sample(seed)
    scores = plain_scores(vectors, reference_set, whiten, normalize)
    limit = gap(scores, 25, 90)
    expected = components(scores, limit)
    assert 20 < len(vectors) - len(set(expected)) <= 90
    rule = Rule(method="m", limit=limit, reference_set="b", whiten=whiten, normalize=normalize)
    table = decide(fingerprints_of(vectors, rule), rule, 1, ReferenceStatistics(reference_set, rule)).table()
    of = {item["id"]: item["duplicate_of"] for item in table.to_pylist()}
    found = [int((of.get(f"r{k:04d}") or f"r{k:04d}")[1:]) for k in range(len(vectors))]
    assert found == expected  # the smallest id of a cluster stays
    dropped = [item for item in table.to_pylist() if item["duplicate_of"]]
    far = [1 - scores[int(item["id"][1:]), int(item["duplicate_of"][1:])] for item in dropped]
    assert np.allclose([item["distance"] for item in dropped], far, atol=2e-3)
    # Neither blocks nor threads change a digit.
    monkeypatch.setattr(reference_set_module, "_BLOCK", 37)
    monkeypatch.setattr(postprocess, "_BLOCK", 23)
    again = decide(fingerprints_of(vectors, rule), rule, 3, ReferenceStatistics(reference_set, rule)).table()
    assert again.drop_columns("distance").equals(table.drop_columns("distance"))
    assert np.allclose(again["distance"], table["distance"], atol=2e-5, equal_nan=True)


def test_threads_change_no_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_set_module, "_BLOCK", 37)
    vectors, reference_set = sample(3)
    valid = np.arange(len(vectors)) % 5 > 0
    rule = Rule(method="m", limit=0.5, reference_set="b", whiten="all", normalize=True)
    one, two = (ReferenceStatistics(reference_set, rule) for _ in range(2))
    white = one.whitened(vectors, valid)
    assert np.array_equal(white, two.whitened(vectors, valid))
    assert not white[~valid].any() and np.allclose(np.linalg.norm(white[valid].astype(float), axis=1), 1, atol=1e-3)
    offsets = one.offsets(white, valid, 1)
    assert offsets is not None and not offsets[~valid].any() and (offsets[valid] > 0).all()
    assert np.array_equal(offsets, two.offsets(white, valid, 3))


def test_pairs_of_scores_are_brute_force() -> None:
    """Also where the least of all offsets belongs to a row that has no pair, and where offsets are negative."""
    vectors, _ = sample(4)
    offsets = np.random.default_rng(0).uniform(-0.3, 0.5, len(vectors))
    scores = np.round(plain_scores(vectors, vectors, None, False), 6) - (offsets[:, None] + offsets) / 2
    limit = gap(scores, 40, 90)
    rows = np.random.default_rng(1).permutation(len(vectors))[:250]
    made = Cosine(vectors, np.ones(len(vectors), bool), limit, 2, None, offsets)
    found = {(min(i, j), max(i, j)) for a, b in made.pairs(rows) for i, j in zip(a.tolist(), b.tolist())}
    near = np.triu(scores >= limit, 1)
    assert found == {(i, j) for i, j in zip(*map(np.ndarray.tolist, np.nonzero(near))) if i in rows and j in rows}
    assert len(found) > 25
    assert not list(made.pairs(rows[:0])) and not list(made.pairs(rows[:1]))


def test_what_was_learnt_goes_with_a_rule_that_asks_for_it() -> None:
    vectors, reference_set = sample(5)
    rule = Rule(method="m", limit=0.5, reference_set="b", whiten="all")
    with pytest.raises(ValueError, match="goes with a rule"):
        decide(fingerprints_of(vectors, rule), rule, 1)
    with pytest.raises(ValueError, match="goes with a rule"):
        decide(fingerprints_of(vectors, rule), Rule(method="m", limit=0.5), 1, ReferenceStatistics(reference_set, rule))


# ---------------------------------------------------------------- the command

MODEL = ("--method", "stub")
TOLERANT = ("--max-errors", "50%")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory, edit: Runner) -> Path:
    """`searched`: 16 images, and copies of ten, four of them strongly changed. `bg`, `other`: fingerprints of no
    copies.
    """
    root = tmp_path_factory.mktemp("reference_set")
    for name in ("searched", "others", "few"):
        (root / name).mkdir()
    for k in range(16):
        (root / "searched" / f"p{k:02d}.png").write_bytes(encode(pixels(k, 96, 120), "PNG"))
    for k in range(10):
        copy = pixels(k, 96, 120).copy()
        if k < 4:
            copy[-8 * (k + 1) :] = 255
        (root / "searched" / f"z{k:02d}.jpg").write_bytes(encode(copy, "JPEG", quality=70))
    (root / "searched" / "broken.jpg").write_bytes(encode(pixels(3), "JPEG")[:300])
    for k in range(40):
        (root / "others" / f"{k}.png").write_bytes(encode(pixels(1000 + k, 48, 60), "PNG"))
    (root / "others" / "page.jpg").write_bytes(b"<html>not found</html>")
    for k in range(2):
        (root / "few" / f"{k}.png").write_bytes(encode(pixels(2000 + k, 48, 60), "PNG"))
    edit("shard", root / "searched", "-o", root / "set", "--rows", 7, check=None)
    fingerprint = ("--phase", "fingerprint", *TOLERANT)
    edit("dedup", root / "others", *MODEL, *fingerprint, "-o", root / "bg")
    edit("dedup", root / "others", *MODEL, "--limit", 30, *fingerprint, "-o", root / "less")
    edit("dedup", root / "few", *MODEL, *fingerprint, "-o", root / "few-prints")
    edit("dedup", root / "set", *MODEL, *fingerprint, "-o", root / "prints")
    return root


def vectors_of(fingerprints: Path) -> dict[str, np.ndarray]:
    rows = [row for path in sorted(fingerprints.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    return {row["id"]: np.frombuffer(row["signatures"], np.float16) for row in rows if row["signatures"]}


def clusters(folder: Path) -> set[frozenset[str]]:
    found: dict[str, set[str]] = {}
    for reject in rejects_of(folder):
        if not reject["failed"]:
            found.setdefault(reject["value"]["of"], {reject["value"]["of"]}).add(reject["id"])
    return set(map(frozenset, found.values()))


OPTIONS = [
    ("--whiten", 12),
    ("--whiten", "centre"),
    ("--normalize-scores",),
    ("--whiten", 12, "--normalize-scores"),
    ("--whiten", "centre", "--normalize-scores"),
]


def limit_for(sets: Path, options: tuple[Any, ...]) -> tuple[float, list[str], np.ndarray]:
    """A threshold in a gap, the ids, and the scores of all with all."""
    whiten = options[1] if options[0] == "--whiten" else None
    searched, reference_set = vectors_of(sets / "prints"), np.stack(list(vectors_of(sets / "bg").values()))
    scores = plain_scores(np.stack(list(searched.values())), reference_set, whiten, "--normalize-scores" in options)
    return gap(scores, 7, 12), list(searched), scores


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_command_is_brute_force(edit: Runner, sets: Path, tmp_path: Path, options: tuple[Any, ...]) -> None:
    limit, ids, scores = limit_for(sets, options)
    labels = components(scores, limit)
    expected = {frozenset(i for i, label in zip(ids, labels) if label == wanted) for wanted in labels}
    expected = {cluster for cluster in expected if len(cluster) > 1}
    assert len(expected) >= 6
    given = (*MODEL, "--cosine", limit, "--reference-set", sets / "bg", *options)
    edit("dedup", sets / "set", *given, "-j", 1, "-o", tmp_path / "one", *TOLERANT)
    assert clusters(tmp_path / "one") == expected
    for reject in rejects_of(tmp_path / "one"):
        if not reject["failed"]:
            score = scores[ids.index(reject["id"]), ids.index(reject["value"]["of"])]
            assert reject["value"]["metric"] == "stub"
            assert reject["value"]["distance"] == pytest.approx(1 - score, abs=3e-3)
    edit("dedup", sets / "set", *given, "-j", 2, "--batch-size", 5, "-o", tmp_path / "two", *TOLERANT)
    one, two = ([(r["id"], r.get("value")) for r in rejects_of(tmp_path / name)] for name in ("one", "two"))
    assert one == two and {r["id"] for r in rows_of(tmp_path / "one")} == {r["id"] for r in rows_of(tmp_path / "two")}
    edit("dedup", sets / "set", *given, "-j", 2, "-o", tmp_path / "three", *TOLERANT)
    assert tree(tmp_path / "three") == tree(tmp_path / "one")


def test_three_steps_apart_are_one_command(edit: Runner, sets: Path, tmp_path: Path) -> None:
    options = OPTIONS[3]
    given = (*MODEL, "--cosine", limit_for(sets, options)[0], "--reference-set", sets / "bg", *options)
    edit("dedup", sets / "set", *given, "-o", tmp_path / "one", *TOLERANT)
    for task in (1, 0):
        edit("dedup", sets / "set", *given, "--phase", "fingerprint", "--task", f"{task}/2", "-o", tmp_path / "prints",
             *TOLERANT)  # fmt: skip
    edit("dedup", tmp_path / "prints", *given, "--phase", "decide", "-o", tmp_path / "v")
    for task in (1, 0):
        edit("dedup", sets / "set", *given, "--decisions", tmp_path / "v", "--task", f"{task}/2", "-o",
             tmp_path / "three", "--max-errors", "100%")  # fmt: skip
    one, three = tree(tmp_path / "one"), tree(tmp_path / "three")
    kept = [name for name in one if name.startswith("_verdict/")]
    assert pq.read_table(tmp_path / "one" / kept[0]).equals(pq.read_table(tmp_path / "v"))
    del one[kept[0]]
    assert one == three
    # Fingerprints do not depend on what is learnt: with other options they are continued, not refused.
    before = tree(tmp_path / "prints")
    edit("dedup", sets / "set", *given[:4], "--phase", "fingerprint", "-o", tmp_path / "prints", *TOLERANT)
    assert tree(tmp_path / "prints") == before


def history_of(folder: Path) -> dict[str, Any]:
    metadata = pq.read_schema(sorted(folder.glob("*.parquet"))[0]).metadata
    return json.loads(metadata[b"edit.history"])["nodes"][-1]["settings"]


def test_another_background_is_another_verdict(edit: Runner, sets: Path, tmp_path: Path) -> None:
    shutil.copytree(sets / "bg", tmp_path / "bg")
    given = (*MODEL, "--cosine", 0.35, "--reference-set", tmp_path / "bg", "--whiten", 12, "--normalize-scores")
    out = tmp_path / "out"
    edit("dedup", sets / "set", *given, "-o", out, *TOLERANT)
    before, settings = tree(out), history_of(out)
    assert settings["whiten"] == 12 and settings["normalize_scores"] is True
    assert str(tmp_path) not in json.dumps(settings) and len(settings["reference_set"]) == 32
    # Elsewhere, and again: nothing is done anew, for the content is the same.
    (tmp_path / "bg").rename(tmp_path / "moved")
    moved = [tmp_path / "moved" if word == tmp_path / "bg" else word for word in given]
    edit("dedup", sets / "set", *moved, "-o", out, *TOLERANT)
    assert tree(out) == before
    # The same folder with other images.
    shutil.copytree(sets / "less", tmp_path / "bg")
    result = edit("dedup", sets / "set", *given, "-o", out, *TOLERANT, check=1)
    assert "made from other input or with other settings" in result.stderr
    edit("dedup", sets / "set", *given, "-o", out, "--overwrite", *TOLERANT)
    assert history_of(out)["reference_set"] != settings["reference_set"]
    distances = {r["id"]: r["value"]["distance"] for r in rejects_of(out) if not r["failed"]}
    edit("dedup", sets / "set", *given, "-o", tmp_path / "anew", *TOLERANT)
    assert distances == {r["id"]: r["value"]["distance"] for r in rejects_of(tmp_path / "anew") if not r["failed"]}
    edit("dedup", sets / "set", *moved, "-o", tmp_path / "first", *TOLERANT)
    assert distances != {r["id"]: r["value"]["distance"] for r in rejects_of(tmp_path / "first") if not r["failed"]}


def test_against_what_was_kept_before(edit: Runner, sets: Path, tmp_path: Path) -> None:
    options = OPTIONS[3]
    limit, ids, scores = limit_for(sets, options)
    given = (*MODEL, "--cosine", limit, "--reference-set", sets / "bg", *options, "--against", tmp_path / "seen")
    old, new = tmp_path / "old", tmp_path / "new"
    edit("dedup", sets / "set", *given, "--limit", 13, "-o", old, *TOLERANT)
    edit("dedup", sets / "set", *given, "-o", new, *TOLERANT)
    first, kept = ({row["id"] for row in rows_of(folder)} for folder in (old, new))
    assert first and not first & kept  # what was kept before is old by now
    for reject in rejects_of(new):
        if not reject["failed"]:
            assert (reject["value"].get("set") == "set") == (reject["value"]["of"] in first)
    labels = dict(zip(ids, components(scores, limit)))
    assert sorted(labels[identity] for identity in first | kept) == sorted(set(labels.values()))
    for other, said in (
        (("--reference-set", sets / "less"), "made with reference_set"),
        (("--whiten", 11), "made with whiten 12, not 11"),
    ):
        result = edit("dedup", sets / "set", *given, *other, "-o", tmp_path / "no", check=2)
        assert said in result.stderr and "hint:" in result.stderr and not (tmp_path / "no").exists()


@pytest.mark.parametrize("before", ["lacks", "names"])
def test_stores_of_before_are_of_the_same_rule(edit: Runner, sets: Path, tmp_path: Path, before: str) -> None:
    given = (*MODEL, "--cosine", 0.8, "--against", tmp_path / "seen")
    edit("dedup", sets / "set", *given, "-o", tmp_path / "one", *TOLERANT)
    file = next((tmp_path / "seen").glob("*.parquet"))
    table = pq.read_table(file)
    note = json.loads(table.schema.metadata[b"edit.dedup"])
    if before == "lacks":  # there was no reference set yet
        for name in ("reference_set", "whiten", "normalize"):
            del note["rule"][name]
    else:  # what the settings were called
        called = {"reference_set": "background", "pair_models": "spaces", "no_edit_cosine": "identity",
                  "template_cosine": "template", "embed": "of"}  # fmt: skip
        assert called.keys() <= note["rule"].keys()
        note["rule"] = {called.get(name, name): value for name, value in note["rule"].items()}
    pq.write_table(table.replace_schema_metadata({b"edit.dedup": json.dumps(note)}), file.with_name("old.parquet"))
    file.unlink()
    edit("dedup", sets / "set", *given, "-o", tmp_path / "two", *TOLERANT)
    assert not rows_of(tmp_path / "two")
    if before == "names":  # and a setting that differs is told under its name of now
        note["rule"]["of"] = "caption"
        pq.write_table(table.replace_schema_metadata({b"edit.dedup": json.dumps(note)}), file.with_name("old.parquet"))
        assert "embed" in edit("dedup", sets / "set", *given, "-o", tmp_path / "no", check=2).stderr


def test_semdedup_of_whitened_vectors(edit: Runner, sets: Path, tmp_path: Path) -> None:
    """In one cluster: what goes has a cosine above 1 - EPS with one that goes or stays, and what stays has none."""
    _, ids, scores = limit_for(sets, ("--whiten", 12))
    eps = 1 - gap(scores, 7, 12)
    given = (*MODEL, "--semantic", eps, "--clusters", 1, "--reference-set", sets / "bg", "--whiten", 12)
    edit("dedup", sets / "set", *given, "-o", tmp_path / "out", *TOLERANT)
    kept = [ids.index(row["id"]) for row in rows_of(tmp_path / "out")]
    gone = [ids.index(r["id"]) for r in rejects_of(tmp_path / "out") if not r["failed"]]
    assert sorted(kept + gone) == list(range(len(ids))) and len(gone) >= 6
    near = (scores > 1 - eps) & ~np.eye(len(ids), dtype=bool)
    assert near[gone].any(axis=1).all() and not near[np.ix_(kept, kept)].any()


def test_edit_pairs_of_whitened_vectors(edit: Runner, sets: Path, tmp_path: Path) -> None:
    """Of edit rows the target and the source have to be near; one reference set serves for both."""
    for k in range(6):
        for kind, ending in (("PNG", "png"), ("JPEG", "jpg")):
            (tmp_path / f"{k}.{ending}").write_bytes(encode(pixels(k, 96, 120), kind))
    given = [("a", 0, 1, "png"), ("b", 0, 1, "jpg"), ("c", 0, 2, "jpg"), ("d", 3, 1, "jpg"), ("e", 4, 5, "png")]
    (tmp_path / "rows.jsonl").write_text("".join(
        json.dumps({"id": i, "source": [f"{s}.{e}"], "target": f"{t}.{e}", "instruction": "x"}) + "\n"
        for i, s, t, e in given
    ))  # fmt: skip
    options = (*MODEL, "--cosine", 0.3, "--reference-set", sets / "bg", "--whiten", 12, "--normalize-scores")
    for level, expected in (
        ("rows", {"b": "duplicate"}),
        ("pairs", {"b": "same pair", "c": "same source and instruction"}),
    ):
        result = edit("dedup", tmp_path / "rows.jsonl", *options, "--level", level, "-f", "jsonl", "--rejects",
                      tmp_path / level)  # fmt: skip
        assert [row["id"] for row in result.lines] == sorted({"a", "b", "c", "d", "e"} - expected.keys())
        rejects = [json.loads(line) for line in (tmp_path / level).read_text().splitlines()]
        assert {r["id"]: r["reason"] for r in rejects} == expected and {r["value"]["of"] for r in rejects} == {"a"}


def test_the_sheet_names_the_score(edit: Runner, sets: Path, tmp_path: Path) -> None:
    given = (*MODEL, "--cosine", 0.35, "--reference-set", sets / "bg", "--normalize-scores")
    edit("dedup", sets / "set", *given, "--report", tmp_path / "r.html", "-o", tmp_path / "out", *TOLERANT)
    assert "normalised score ≥ 0.35" in (tmp_path / "r.html").read_text()


LEARNS = ("--whiten", 12, "--cosine", 0.5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--method", "phash", "--whiten", "all"), "--whiten and --normalize-scores are for --method MODEL"),
        (("--method", "exact", "--normalize-scores"), "--whiten and --normalize-scores are for --method MODEL"),
        ((*MODEL, "--whiten", "all"), "need a --reference-set to learn from"),
        ((*MODEL, "--normalize-scores"), "need a --reference-set to learn from"),
        ((*MODEL, "--reference-set", "bg"), "--reference-set is for --whiten and --normalize-scores"),
        ((*MODEL, "--reference-set", "bg", "--whiten", 12), "need a --cosine"),
        ((*MODEL, "--reference-set", "bg", "--normalize-scores"), "need a --cosine"),
        ((*MODEL, "--reference-set", "bg", "--normalize-scores", "--semantic", 0.1), "not for --semantic"),
        ((*MODEL, "--reference-set", "bg", "--whiten", "some"), "--whiten some: expected all, centre, or a number"),
        ((*MODEL, "--reference-set", "bg", "--whiten", 0), "--whiten 0: expected all, centre, or a number"),
        ((*MODEL, "--reference-set", "bg", "--whiten", 193, "--cosine", 0.5), "vectors of stub have 192 dimensions"),
        ((*MODEL, "--reference-set", "bg", "--whiten", "all", "--cosine", 0.5), "41 vectors are too few, 193 are the"),
        ((*MODEL, "--reference-set", "few-prints", *LEARNS), "2 vectors are too few, 13 are the least"),
        ((*MODEL, "--reference-set", "few-prints", "--normalize-scores", "--cosine", 0), "too few, 3 are the least"),
        ((*MODEL, "--reference-set", "nowhere", *LEARNS), "nowhere: not a folder that --phase fingerprint wrote"),
        ((*MODEL, "--reference-set", "set", *LEARNS), "set: not a folder that --phase fingerprint wrote"),
        ((*MODEL, "--reference-set", "others", *LEARNS), "others: not a folder that --phase fingerprint wrote"),
        ((*MODEL, "--reference-set", "-", *LEARNS), "-: not a folder that --phase fingerprint wrote"),
        (("--method", "other", "--reference-set", "bg", *LEARNS), "bg: made with method stub, not other"),
        ((*MODEL, "--square", "--reference-set", "bg", *LEARNS), "bg: made with square false, not true"),
        (
            (*MODEL, "--semantic", 0.1, "--embed", "caption", "--reference-set", "bg", "--whiten", 12),
            "bg: made with embed image, not caption",
        ),
        ((*MODEL, "--reference-set", "bg", *LEARNS, "--ray", "local"), "--reference-set with --ray"),
    ],
    ids=str,
)
def test_what_cannot_be_learnt_is_refused(
    edit: Runner, sets: Path, tmp_path: Path, options: tuple[Any, ...], said: str
) -> None:
    result = edit("dedup", sets / "set", *options, "-o", tmp_path / "out", cwd=sets, check=2)
    assert said in result.stderr and len(result.stderr.splitlines()) <= 2
    assert not (tmp_path / "out").exists()


def test_what_is_found_only_while_reading_is_refused(edit: Runner, sets: Path, tmp_path: Path) -> None:
    # One of 41 rows failed, and has no vector.
    given = (*MODEL, "--cosine", 0.5, "--reference-set", sets / "bg", "--whiten", 40)
    result = edit("dedup", sets / "set", *given, "-o", tmp_path / "out", *TOLERANT, check=2)
    assert "40 vectors are too few, 41 are the least" in result.stderr
    (tmp_path / "same").mkdir()
    for k, kind in enumerate(("PNG", "BMP")):
        for more in range(2):
            (tmp_path / "same" / f"{k}{more}.{kind.lower()}").write_bytes(encode(pixels(7), kind))
    edit("dedup", tmp_path / "same", *MODEL, "--phase", "fingerprint", "-o", tmp_path / "same-prints")
    given = (*MODEL, "--cosine", 0.5, "--reference-set", tmp_path / "same-prints", "--whiten", "centre")
    result = edit("dedup", sets / "set", *given, "-o", tmp_path / "out", *TOLERANT, check=2)
    assert "its vectors are all the same" in result.stderr


def test_a_background_of_the_searched_images_is_refused(edit: Runner, sets: Path, tmp_path: Path) -> None:
    given = (*MODEL, "--cosine", 0.5, "--reference-set", sets / "prints", "--phase", "decide")
    result = edit("dedup", sets / "prints", *given, "--normalize-scores", "-o", tmp_path / "v", check=2)
    assert "the same as the searched images" in result.stderr and not (tmp_path / "v").exists()
    edit("dedup", sets / "prints", *given, "--whiten", 12, "-o", tmp_path / "v")
    # In one run there are no fingerprints to compare: that most images are their own nearest tells.
    given = (*MODEL, "--cosine", 0.5, "--reference-set", sets / "prints", "--normalize-scores")
    result = edit("dedup", sets / "set", *given, "-o", tmp_path / "out", *TOLERANT, check=2)
    assert "most of the searched images are in it" in result.stderr


def test_a_background_of_other_weights_is_refused(edit: Runner, sets: Path, tmp_path: Path) -> None:
    """Before the first image is read, and in the decisions step."""
    shutil.copytree(sets / "bg", tmp_path / "bg")
    for path in (tmp_path / "bg").glob("*.parquet"):
        table = pq.read_table(path)
        metadata = {k: v.replace(b"stub@stub-1", b"stub@stub-9") for k, v in table.schema.metadata.items()}
        assert metadata != table.schema.metadata
        pq.write_table(table.replace_schema_metadata(metadata), path)
    given = (*MODEL, *LEARNS, "--reference-set", tmp_path / "bg")
    said = "made with the model stub@stub-9, not stub@stub-1"
    assert said in edit("dedup", sets / "set", *given, "-o", tmp_path / "out", check=2).stderr
    assert said in edit("dedup", sets / "prints", *given, "--phase", "decide", "-o", tmp_path / "v", check=2).stderr


def test_a_background_that_is_not_complete_is_refused(edit: Runner, sets: Path, tmp_path: Path) -> None:
    edit("dedup", sets / "set", *MODEL, "--phase", "fingerprint", "--task", "0/2", "-o", tmp_path / "bg", *TOLERANT)
    edit("dedup", sets / "set", *MODEL, *LEARNS, "--reference-set", tmp_path / "bg", "-o", tmp_path / "out", check=4)
