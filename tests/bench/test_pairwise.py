"""Models compared two by two: win rates and strengths against hand-worked and independent results."""

from __future__ import annotations

import base64
import io
import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Runner, encode, pixels
from PIL import Image
from test_clients import Server, chat, response

from edittools.bench import pairwise
from edittools.bench.pairwise import ELO, Comparison, davidson, summarize
from edittools.errors import EditError
from edittools.judge.stage import JUDGEMENT

WIN, TIE, LOSS = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


def test_two_models_are_those_of_the_closed_form() -> None:
    """30 wins, 20 ties, 10 losses: the model has as many parameters as shares, so it fits them exactly."""
    strengths, tie = davidson(np.array([[[30.0, 20.0, 10.0]]]), 2)
    assert math.exp(strengths[0, 0] - strengths[0, 1]) == pytest.approx(3, rel=2e-3)
    assert tie[0] == pytest.approx(20 / math.sqrt(300), rel=2e-3)


def test_without_ties_it_is_zermelos_iteration() -> None:
    wins = np.array([[0, 30, 12, 25], [20, 0, 33, 41], [18, 17, 0, 22], [15, 9, 28, 0]], float)
    strength = np.ones(4)
    for _ in range(2000):
        for k in range(4):
            played = [(wins[k, j] + wins[j, k]) / (strength[k] + strength[j]) for j in range(4) if j != k]
            strength[k] = wins[k].sum() / sum(played)
    wanted = np.log(strength) - np.log(strength).mean()
    counts = [[wins[a, b], 0, wins[b, a]] for a, b in itertools.combinations(range(4), 2)]
    found, tie = davidson(np.array([counts]), 4)
    assert found[0] == pytest.approx(wanted, abs=5e-3) and tie[0] < 1e-2


def test_ties_fit_where_the_likelihood_is_flat() -> None:
    """Three models: no change of any parameter makes the counts likelier, by brute force."""
    counts = np.array([[8.0, 3.0, 5.0], [9.0, 6.0, 1.0], [4.0, 4.0, 4.0]])
    pairs = list(itertools.combinations(range(3), 2))

    def likelihood(logs: list[float], nu: float) -> float:
        total = 0.0
        for (a, b), (win, tie, loss) in zip(pairs, counts):
            s, t = math.exp(logs[a]), math.exp(logs[b])
            z = s + t + nu * math.sqrt(s * t)
            total += win * math.log(s / z) + loss * math.log(t / z) + tie * math.log(nu * math.sqrt(s * t) / z)
        return total

    strengths, ties = davidson(counts[None], 3)
    logs, nu = strengths[0].tolist(), float(ties[0])
    best = likelihood(logs, nu)
    for k, change in itertools.product(range(3), (-0.05, 0.05)):
        assert likelihood([x + change * (j == k) for j, x in enumerate(logs)], nu) < best
    assert max(likelihood(logs, nu * 1.05), likelihood(logs, nu / 1.05)) < best


def test_rates_elo_and_clusters() -> None:
    """A beats B in 6 of 10 cases and ties in 2; every case is there three times, which is no more evidence."""
    outcomes = [WIN] * 6 + [TIE] * 2 + [LOSS] * 2
    once = [Comparison(str(k), "A", "B", outcome) for k, outcome in enumerate(outcomes)]
    found = summarize(once, seed=0)
    a = found["models"]["A"]
    assert (a["wins"], a["ties"], a["losses"], a["win_rate"]) == (6, 2, 2, pytest.approx(0.7))
    assert a["elo"] - found["models"]["B"]["elo"] == pytest.approx(ELO * math.log(6 / 2), abs=5)
    assert a["elo_interval"][0] < a["elo"] < a["elo_interval"][1]
    assert list(found["models"]) == ["A", "B"]  # the best first
    thrice = summarize(once * 3, seed=0)["models"]["A"]
    assert thrice["interval"] == a["interval"] and thrice["wins"] == 18
    # Not narrower by the root of three; the weak prior counts for less beside more of them.
    assert np.ptp(thrice["elo_interval"]) > 0.9 * np.ptp(a["elo_interval"])
    # The other way round it is the same.
    turned = [Comparison(one.cluster, "B", "A", one.outcome[::-1]) for one in once if one.outcome]
    assert summarize(turned, seed=0)["pairs"] == found["pairs"]


@pytest.mark.parametrize("cases", [5, 12])
def test_intervals_of_points_hold_what_they_say(cases: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few cases of which hardly any is lost: the true points lie within, where there is an interval at all."""
    monkeypatch.setattr(pairwise, "RESAMPLES", 200)
    truth = 1000 + ELO * math.log(0.7 / 0.1) / 2
    drawn = np.random.default_rng(1).choice(3, (100, cases), p=[0.7, 0.2, 0.1])
    found = [summarize([Comparison(str(k), "A", "B", (WIN, TIE, LOSS)[x]) for k, x in enumerate(one)], seed)
             for seed, one in enumerate(drawn)]  # fmt: skip
    bounds = [one["models"]["A"]["elo_interval"] for one in found]
    held = [low <= truth <= high for low, high in filter(None, bounds)]
    assert len(held) >= 70 and np.mean(held) >= 0.93


def test_what_the_comparisons_cannot_say() -> None:
    always = summarize([Comparison(str(k), "A", "B", WIN) for k in range(10)], seed=0)
    assert any("A never lost nor tied" in said for said in always["warnings"])
    assert always["models"]["A"]["interval"] == pytest.approx([0.6915, 1], abs=0.02)  # Clopper and Pearson's
    assert always["models"]["A"]["elo_interval"] is None  # every resample says the same, and nothing of how far
    few = summarize([Comparison(str(k), "A", "B", WIN if k else LOSS) for k in range(4)], seed=0)
    assert few["models"]["A"]["interval"] is few["models"]["A"]["elo_interval"] is None
    apart = summarize([Comparison("1", "A", "B", WIN), Comparison("2", "C", "D", LOSS)], seed=0)
    assert apart["models"]["A"]["elo"] is None and any("no chain" in said for said in apart["warnings"])
    failed = [Comparison(str(k), "A", "B", None, "refused") for k in range(3)]
    found = summarize([*failed, *(Comparison(str(k), "A", "B", TIE) for k in range(3, 7))], seed=0)
    assert found["failed"] == 3 and found["reasons"] == {"refused": 3} and "43% of" in found["warnings"][0]
    with pytest.raises(EditError):
        summarize(failed, seed=0)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    def judged(scores: list[float | None]) -> list[dict[str, Any]]:
        blank = {child.name: None for child in JUDGEMENT}
        return [{**blank, "rubric": "pairwise", "dimension": "preference", "score": score, "pass": turn,
                 "state": "failed" if score is None else "ok", "error": "503" if score is None else None}
                for turn, score in enumerate(scores)]  # fmt: skip

    table = pa.table(
        {"id": [row["id"] for row in rows], "task": ["add"] * len(rows),
         "judgements": pa.array([judged(row["scores"]) for row in rows], pa.list_(JUDGEMENT)),
         **{name: [row[name] for row in rows] for name in ("model_a", "model_b", "scene") if name in rows[0]}}
    )  # fmt: skip
    pq.write_table(table, path)
    return path


def test_a_whole_set_of_comparisons(edit: Runner, tmp_path: Path) -> None:
    rows = []
    for k, (a, b) in itertools.product(range(8), (("A", "B"), ("B", "C"), ("C", "A"))):
        score: list[float | None] = {("A", "B"): [1.0], ("B", "C"): [0.5, 1.0], ("C", "A"): [0.0]}[a, b]
        rows.append({"id": f"{k}{a}{b}", "scene": str(k % 7), "model_a": a, "model_b": b, "scores": score})
    rows[0]["scores"] = [None]
    rows[3]["scores"] = [0.0]  # B once wins
    path = write_rows(tmp_path / "rows.parquet", rows)
    found = json.loads(edit("eval", "report", "pairwise", path, "--cluster", "scene", "-f", "json").stdout)
    assert (found["comparisons"], found["failed"], found["cases"]) == (23, 1, 7)
    assert list(found["models"]) == ["A", "B", "C"] and found["reasons"] == {"503": 1}
    b_c = next(pair for pair in found["pairs"] if (pair["first"], pair["second"]) == ("B", "C"))
    assert (b_c["wins"], b_c["ties"], b_c["losses"], b_c["win_rate"]) == (4, 4, 0, 0.75)  # half of the passes each
    shown = edit("eval", "report", "pairwise", path, "-f", "markdown", "-o", tmp_path / "r.html").stdout.decode()
    assert "| B | C | 4 | 4 | 0 | " in shown and "Elo" in (tmp_path / "r.html").read_text()
    assert json.loads((tmp_path / "r.json").read_text())["cases"] == 23  # without the column every row is a case


def test_rows_of_one_pair_each(edit: Runner, tmp_path: Path) -> None:
    for name, score in (("ab", 1.0), ("bc", 0.0)):
        write_rows(tmp_path / f"{name}.parquet", [{"id": str(k), "scores": [score if k else 0.5]} for k in range(6)])
    pairs = [f"A,B={tmp_path / 'ab.parquet'}", f"B,C={tmp_path / 'bc.parquet'}"]
    words = ["eval", "report", "pairwise", "--pair", pairs[0], "--pair", pairs[1]]
    found = json.loads(edit(*words, "-f", "json").stdout)
    assert set(found["models"]) == {"A", "B", "C"} and found["cases"] == 6  # the same ids are the same cases
    assert found["models"]["B"]["win_rate"] == pytest.approx(1 / 12)
    words = ["eval", "report", "pairwise", tmp_path / "ab.parquet", "--models", "x,y", "-f", "json"]
    named = json.loads(edit(*words).stdout)
    assert set(named["models"]) == {"x", "y"}
    for wrong in (["--models", "x"], ["--models", "x,x"], ["--cluster", "nothing"], ["--humans", "a"]):
        edit("eval", "report", "pairwise", tmp_path / "ab.parquet", *wrong, check=2)
    edit("eval", "report", "gedit", tmp_path / "ab.parquet", "--models", "x,y", check=2)


def judged_pairs(edit: Runner, tmp_path: Path) -> tuple[Path, list[str]]:
    """Six comparisons with images, judged by two: the first wins 0 to 3, of 4 the second judge says the opposite, and
    5 is refused."""
    lines = []
    for k in range(6):
        names = {name: f"{k}.{name}.png" for name in ("source", "result", "result_b")}
        for number, name in enumerate(names.values()):
            (tmp_path / name).write_bytes(encode(pixels(3 * k + number), "PNG"))
        row = {"id": f"c{k}", "task": "add", "instruction": {"en": f"Add a <hat> {k}"}}
        row |= {"model_a": "ours", "model_b": "theirs", "source": [{"file": names["source"]}]}
        row |= {name: {"file": names[name]} for name in ("result", "result_b")}
        lines.append(json.dumps(row) + "\n")
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    rows: Path = tmp_path / "rows.jsonl"
    servers: list[Server] = []

    for judge in ("one", "two"):

        def answer(prompt: str, _: int, judge: str = judge) -> list[bytes]:
            k = int(prompt.split("<hat> ")[1][0])
            if k == 5:
                return [response(200, chat("", finish="content_filter"))]
            shown = [part for part in servers[-1].bodies[-1]["messages"][0]["content"] if part["type"] == "image_url"]
            first = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown[1]["image_url"]["url"].partition(",")[2]))))
            far = [np.abs(first.astype(int) - pixels(3 * k + number)).mean() for number in (1, 2)]
            forward = far[0] < far[1]  # which result stands first
            better = 1 if forward == (k != 4 or judge == "one") else 2
            return [response(200, chat(json.dumps({"rationale": f"{judge} on {k}", "better": better})))]

        server = Server(answer)
        servers.append(server)
        try:
            words = ["--rubric", "pairwise", "--other-column", "result_b", "--model", "j", "--judge", judge]
            words += ["--api-base", server.url, "-o", tmp_path / judge, "--max-errors", "100%", "--concurrency", 1]
            edit("judge", rows, *words)
        finally:
            server.close()
        rows = tmp_path / judge
    return rows, [f"c{k}" for k in range(6)]


def test_the_page_shows_the_cases_the_most_contested_first(edit: Runner, tmp_path: Path) -> None:
    judged, ids = judged_pairs(edit, tmp_path)
    page = tmp_path / "r.html"
    words = ("eval", "report", "pairwise", judged, "-f", "json", "-o", page, "--overwrite")
    found = json.loads(edit(*words, "--judge", "all").stdout)
    assert (found["comparisons"], found["failed"]) == (5, 1)
    shown = re.findall(r'<article class="case judged".*?</article>', page.read_text(), re.DOTALL)
    order = [re.search(r'mono">(c\d)<', one)[1] for one in shown]  # type: ignore[index]
    assert order == ["c5", "c4", "c0", "c1", "c2", "c3"] and sorted(order) == ids
    for one in shown:
        assert len(re.findall(r'<img alt="(?:source|ours|theirs)" src="data:image/', one)) == 3
        assert "Add a &lt;hat&gt;" in one
    assert "no outcome" in shown[0] and "tie: 0.5 to 0.5" in shown[1] and "ours is better: 1 to 0" in shown[2]
    assert "two on 4" in shown[1] and "preference, one" in shown[1]
    edit(*words, "--judge", "one")
    shown = re.findall(r'<article class="case judged".*?</article>', page.read_text(), re.DOTALL)
    assert len(shown) == 6 and "one on 4" in page.read_text() and "two on 4" not in page.read_text()
