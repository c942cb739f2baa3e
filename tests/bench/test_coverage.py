"""What is not in a mean is told: tasks, rows and cases that are missing, failed or rejected, and scripts that crash."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Runner, encode, pixels, rows_of
from test_clients import Server, chat, response
from test_rescore import GEDIT, HEADER, gedit_row, three, write_gedit

from edittools.bench.judged import judge_facts
from edittools.judge.stage import JUDGEMENT
from edittools.suites.shared.csv_table import _typed


def found_of(edit: Runner, *words: Any, check: int = 0) -> dict[str, Any]:
    return json.loads(edit("eval", *words, "-f", "json", check=check).stdout)


def page_of(edit: Runner, path: Path, *words: Any) -> str:
    edit("eval", *words, "-o", path, "-f", "json", "--overwrite")
    return re.sub("<[^>]+>", " ", re.sub("<(style|script).*?</\\1>", "", path.read_text(), flags=re.DOTALL))


# ---------------------------------------------------------------- score files


def test_a_task_without_a_file_is_missing_and_named(edit: Runner, tmp_path: Path) -> None:
    place = write_gedit(tmp_path, {task: [gedit_row(task, "en", "a", 4, 9)] for task in GEDIT})
    (place / "m_text_change_gpt_score.csv").unlink()
    (place / "m_ps_human_gpt_score.csv").write_text(HEADER)  # and one without a row
    found = found_of(edit, "rescore", "gedit", tmp_path, "--language", "en")
    assert found["coverage"]["en"]["tasks"]["text_change"]["missing"] is None
    assert found["coverage"]["en"]["total"]["missing"] is None and found["macro"]["en"]["overall"]["tasks"] == 9
    assert any("ps_human, text_change" in said and "9 of 11 tasks" in said for said in found["warnings"])
    done = edit("eval", "rescore", "gedit", tmp_path, "--language", "en", "-f", "markdown")
    shown = done.stdout.decode()
    assert "| text_change | – | – | – |  | – | – | 0 | 0 | ? |" in shown and "unknown missing" in shown
    assert (
        shown.startswith("> **WARNING: en: no case of ps_human, text_change") and "warning: en: no case" in done.stderr
    )
    assert "Warning:  en: no case" in page_of(edit, tmp_path / "r.html", "rescore", "gedit", tmp_path)


def test_rows_in_another_language_and_shifted_ones_are_counted(edit: Runner, tmp_path: Path) -> None:
    rows = {task: [gedit_row(task, "en", "a", 4, 9), gedit_row(task, "cn", "a", 4, 9)] for task in GEDIT}
    rows["ps_human"].append(gedit_row("ps_human", "fr", "b", 4, 9))
    place = write_gedit(tmp_path, rows)
    shifted = "/r/m/fullset/style_change/en/c_SRCIMG.png,/r/m/fullset/style_change/en/c.png,Red, green,8,7,True,en\n"
    with open(place / "m_style_change_gpt_score.csv", "a") as file:
        file.write(shifted + "/r/m/fullset/style_change/cn/d_SRCIMG.png,/r/m/fullset/style_change/cn/d.png\n")
    found = found_of(edit, "rescore", "gedit", tmp_path)
    assert found["official"]["en"] == {"raises": "ParserError"}
    en, cn = (found["coverage"][language] for language in ("en", "cn"))
    # The French row says nothing of where it belongs, and most rows are English.
    assert [en["tasks"][task]["failed"] for task in ("ps_human", "style_change", "text_change")] == [1, 1, 0]
    assert [cn["tasks"][task]["failed"] for task in ("ps_human", "style_change")] == [0, 1]
    assert set(found["strict"]["en"]["reasons"]) == {"no language of the benchmark: 'fr'", "8 cells for 7 columns"}
    assert found["official_without_failed"]["en"]["average"]["overall"] == pytest.approx(6)
    alone = found_of(edit, "rescore", "gedit", tmp_path, "--language", "en")
    assert alone["coverage"]["en"] == en and any("12 rows in another language" in note for note in alone["notes"])


def test_files_of_bagel_and_editscore(edit: Runner, tmp_path: Path) -> None:
    """EditScore's have no model in front, and a byte order mark."""
    place = write_gedit(tmp_path / "bagel", {task: [gedit_row(task, "en", "a", 4, 9)] for task in GEDIT}, "bagel")
    bagel = found_of(edit, "rescore", "gedit", tmp_path / "bagel")
    (tmp_path / "viescore_gpt-4.1").mkdir()
    for task in GEDIT:
        text = (place / f"bagel_{task}_gpt_score.csv").read_text()
        (tmp_path / "viescore_gpt-4.1" / f"{task}_gpt_score.csv").write_text("\ufeff" + text)
    found = found_of(edit, "rescore", "gedit", tmp_path / "viescore_gpt-4.1", "--name", "theirs")
    assert found["official"]["en"] == bagel["official"]["en"] and found["macro"] == bagel["macro"]


def test_the_best_of_several_results_is_editscores(edit: Runner, tmp_path: Path) -> None:
    """Over pandas, as its calculate_statistics.py takes the best: of each case the result with the best overall."""
    folder = tmp_path / "viescore_gpt-4.1"
    folder.mkdir()
    generator = np.random.default_rng(4)
    for sample, task in itertools.product(range(5), GEDIT):
        rows = []
        for key in "abc":
            row = gedit_row(task, "en", key, *generator.integers(0, 11, 2))
            row[1] = row[1].replace(f"/{key}.png", f"/{key}_sample{sample}.png") if sample else row[1]
            rows.append(row)
        if sample and task == "ps_human":
            rows.pop()  # not every case has every sample
        name = f"{task}_gpt_score{f'_sample{sample}' if sample else ''}.csv"
        pd.DataFrame(rows, columns=HEADER.split(",")).to_csv(folder / name, index=False, encoding="utf-8-sig")
    found = found_of(edit, "rescore", "gedit", folder, "--language", "en")
    best = found["official"]["en"]["best_of"]
    assert list(best) == ["2", "4", "5"]
    for count in (2, 4, 5):
        tasks = []
        for task in GEDIT:
            names = [f"{task}_gpt_score{f'_sample{k}' if k else ''}.csv" for k in range(count)]
            frame = pd.concat([pd.read_csv(folder / name) for name in names])
            frame["case"] = frame.source_image.str.extract(r"([^/]+)_SRCIMG")
            frame["overall"] = np.sqrt(frame.sementics_score * frame.quality_score)
            ranked = frame.sort_values("overall", kind="stable", ascending=False)
            tasks.append(ranked.groupby("case").first().overall.mean())
        assert best[str(count)]["overall"]["avg_overall"] == pytest.approx(np.mean(tasks))
        assert best[str(count)]["overall"]["ps_human"] == pytest.approx(tasks[GEDIT.index("ps_human")])
    averages = [best[count]["overall"]["avg_overall"] for count in ("5", "2")]
    assert averages[0] > averages[1] > found["macro"]["en"]["overall"]["mean"]
    assert any(note.startswith("official, best of 5, en: semantics ") for note in found["notes"])
    (folder / "ps_human_gpt_score_sample1.csv").write_text("")
    best = found_of(edit, "rescore", "gedit", folder, "--language", "en")["official"]["en"]["best_of"]
    assert best["2"] == {"raises": "EmptyDataError"}


def test_a_saved_data_set_of_lmms_eval(edit: Runner, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = []
    for key, scores in (("1", (4.0, 5.0, 3.0)), ("2", (0.0, 0.0, 0.0)), ("3", (5.0, 5.0, 2.0))):
        made = {f"imgedit_score{k}": {"key": key, "edit_type": "add", "score": s} for k, s in enumerate(scores, 1)}
        average = {"key": key, "edit_type": "add", "score": sum(scores) / 3}
        rows.append({"doc_id": int(key), "imgedit_avg_score": average, **made})
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "run" / "samples"), num_shards=2)
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = found_of(edit, "rescore", "imgedit", tmp_path / "samples.jsonl")
    assert lines["coverage"]["total"]["judged"] == 2
    assert found_of(edit, "rescore", "imgedit", tmp_path / "run") == lines
    assert found_of(edit, "rescore", "imgedit", tmp_path / "run" / "samples") == lines
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk(str(tmp_path / "other"))
    assert found_of(edit, "rescore", "imgedit", tmp_path / "other") == lines
    (tmp_path / "run" / "samples" / "data-00001-of-00002.arrow").write_bytes(b"cut off")
    assert "data-00001" in edit("eval", "rescore", "imgedit", tmp_path / "run", check=1).stderr
    (tmp_path / "run" / "samples" / "data-00001-of-00002.arrow").unlink()
    assert "which" in edit("eval", "rescore", "imgedit", tmp_path / "run", check=1).stderr


def test_lines_that_bagel_keeps_of_kris(edit: Runner, tmp_path: Path) -> None:
    """collect_jsonl_to_dict: later results over earlier ones of a key, and only cases with every score go on."""

    def line(key: Any, **scores: Any) -> str:
        return json.dumps({"key": key, "result": {f"{name}_score": value for name, value in scores.items()}}) + "\n"

    lines = line("1", consistency=5, quality=3, instruction=None) + line("2", consistency=1, quality=1)
    lines += "cut {\n" + '{"key": "9"}\n' + line(1, instruction=4)  # asked again: a number is the same key
    (tmp_path / "color_change").mkdir()
    (tmp_path / "color_change" / "metrics.jsonl").write_text(lines)
    found = found_of(edit, "rescore", "kris", tmp_path)
    assert found["official"]["overall"] == {"AVG": pytest.approx((100 + 50 + 75) / 3)}  # case 2 has two scores of three
    counts = found["coverage"]["tasks"]["color_change"]
    assert (counts["judged"], counts["failed"]) == (1, 1)
    assert any("metrics.jsonl only" in note for note in found["notes"])
    # Beside metrics.json, which lacks what is not complete, they tell what has failed.
    made = {"1": {"consistency_score": 5, "quality_score": 3, "instruction_score": 4}}
    (tmp_path / "color_change" / "metrics.json").write_text(json.dumps(made))
    again = found_of(edit, "rescore", "kris", tmp_path)
    assert again["official"] == found["official"] and again["coverage"] == found["coverage"]


def lmms(**metrics: Any) -> str:
    return json.dumps({"doc_id": 0, "target": "x", "filtered_resps": ["{}"], "doc_hash": "h", **metrics})


def test_samples_of_lmms_eval(edit: Runner, tmp_path: Path) -> None:
    def gedit(task: str, language: str, semantics: float, quality: float, overall: float) -> str:
        facts = {
            "key": f"k{semantics}",
            "task_type": task,
            "instruction_language": language,
            "intersection_exist": True,
        }
        values = {"semantics": semantics, "quality": quality, "overall": overall}
        return lmms(**{f"gedit_bench_{name}_score": {**facts, "score": value} for name, value in values.items()})

    path = tmp_path / "run" / "20250101_000000_samples_gedit_bench.jsonl"
    path.parent.mkdir()
    path.write_text("\n".join([gedit("ps_human", "en", 4.0, 9.0, 6.0), gedit("ps_human", "en", 0.0, 0.0, 0.0)]))
    found = found_of(edit, "rescore", "gedit", tmp_path / "run", "--language", "en")
    assert found["strict"]["en"]["tasks"]["ps_human"]["overall"]["mean"] == 6
    assert found["coverage"]["en"]["tasks"]["ps_human"]["failed"] == 1  # their 0 is no score
    assert found["official"]["en"]["gedit_bench_overall_score"] == 3 and found["official_means"] == {}
    assert any("lmms-eval" in note for note in found["notes"])

    def imgedit(key: str, kind: str, *scores: float) -> str:
        made = {f"imgedit_score{k}": {"key": key, "edit_type": kind, "score": s} for k, s in enumerate(scores, 1)}
        return lmms(**made, imgedit_avg_score={"key": key, "edit_type": kind, "score": sum(scores) / 3})

    path = tmp_path / "samples_imgedit.jsonl"
    path.write_text("\n".join([imgedit("1", "add", 4.0, 5.0, 3.0), imgedit("2", "add", 0.0, 0.0, 0.0)]))
    found = found_of(edit, "rescore", "imgedit", path)
    assert found["strict"]["tasks"]["add"]["score"]["mean"] == pytest.approx(11 / 3)  # 5 is capped by 4
    assert found["coverage"]["tasks"]["add"]["failed"] == 1 and found["coverage"]["tasks"]["style"]["missing"] is None
    assert found["official"]["imgedit_avg_score"] == pytest.approx(2)


# What pandas 2.2.3 makes of a column, which is what the released scripts were run with; later ones differ.
COLUMNS: list[tuple[list[str], list[Any]]] = [
    (["99999999999999999999", "6"], ["99999999999999999999", "6"]),
    (["6.5", "99999999999999999999"], [6.5, 1e20]),
    (["99999999999999999999.0", "6"], ["99999999999999999999.0", "6"]),
    (["1e400", "6"], ["1e400", "6"]),
    (["-1e400", "6"], ["-1e400", "6"]),
    (["1e-400", "6"], [0.0, 6.0]),
    (["0e400", "6"], ["0e400", "6"]),
    (["0.01e310", "6"], [1e308, 6.0]),
    (["inf", "6"], [float("inf"), 6.0]),
    (["18446744073709551615", "6"], [18446744073709551615, 6]),
    (["18446744073709551616", "6"], ["18446744073709551616", "6"]),
    (["9223372036854775808", "-6"], ["9223372036854775808", "-6"]),
    (["9223372036854775808", ""], ["9223372036854775808", ""]),
    (["9223372036854775808", "1.5"], [9.223372036854775808e18, 1.5]),
    (["-9223372036854775809", "6"], ["-9223372036854775809", "6"]),
    (["-9223372036854775809", "6.5"], [-9.223372036854775809e18, 6.5]),
]


@pytest.mark.parametrize(("cells", "values"), COLUMNS)
def test_numbers_that_pandas_leaves_text(cells: list[str], values: list[Any]) -> None:
    found = _typed(cells)
    assert found == values and list(map(type, found)) == list(map(type, values))


# ---------------------------------------------------------------- crashes


def test_one_failed_case_and_the_official_mean_without_it(edit: Runner, tmp_path: Path) -> None:
    meta = {str(k): {"id": "x", "prompt": "p", "edit_type": kind} for k, kind in enumerate(["add", "add", "style"])}
    (tmp_path / "cases.json").write_text(json.dumps(meta))
    replies = {"0": three(4, 4, 4), "1": {"error": "429"}, "2": three(2, 5, 5)}
    (tmp_path / "result.json").write_text(json.dumps(replies))
    words = ["rescore", "imgedit", tmp_path / "result.json", "--meta", tmp_path / "cases.json"]
    found = found_of(edit, *words)
    assert found["official"] == {"raises": "AttributeError"} and found["official_means"] == {}
    assert found["official_without_failed"] == {"add": {"score": 4}, "style": {"score": 4}}
    assert found["strict"]["tasks"]["style"]["score"]["mean"] == 2
    shown = edit("eval", *words, "-f", "markdown").stdout.decode()
    assert "| official | official without failed cases |" in shown and "ends with AttributeError" in shown
    assert "| style | 2.0 | too few cases | – | 4.000 | 1/1 | 0 | 0 |" in shown
    assert "| mean over tasks | 3.0 | too few cases | AttributeError | – | 2/3 | 1 | 0 |" in shown
    shown = edit("eval", *words, "-f", "markdown", "--scoring", "official").stdout.decode()
    assert "**imgedit, official without failed cases**" in shown and "| style | 4.000 | 1/1 | 0 | 0 |" in shown
    page = page_of(edit, tmp_path / "r.html", *words, "--scoring", "official")
    assert "score 4.000, official without failed cases" in page
    assert "33% of the cases have no score (1 of 3; 1 failed, 0 missing)" in page


def test_an_official_average_that_is_nan(edit: Runner, tmp_path: Path) -> None:
    """One blank score: the script's averages are NaN, and so is the official headline without the other mean."""
    rows = {task: [gedit_row(task, "en", "a", 4, 9), gedit_row(task, "en", "b", 4, 9)] for task in GEDIT}
    rows["ps_human"][1][3] = ""
    write_gedit(tmp_path, rows)
    words = ["rescore", "gedit", tmp_path, "--language", "en", "--scoring", "official"]
    shown = edit("eval", *words, "-f", "markdown").stdout.decode()
    assert "| average | nan | 9.000 | nan |" in shown
    assert "| average without failed cases | 4.000 | 9.000 | 6.000 |" in shown
    page = page_of(edit, tmp_path / "r.html", *words)
    assert "overall 6.000, official without failed cases" in page
    assert re.search(r"model \(here\)\s+nan\s+9.000\s+nan", page)
    assert re.search(r"model \(here, official without failed cases\)\s+4.000\s+9.000\s+6.000", page)


@pytest.mark.parametrize("name", ["gedit", "rededit", "risebench", "kris"])
def test_every_benchmark_has_the_mean_without_failed_cases(edit: Runner, tmp_path: Path, name: str) -> None:
    words: list[Any] = ["rescore", name, tmp_path / "r.json", "--meta", tmp_path / "data.json"]
    if name == "gedit":
        rows = {task: [gedit_row(task, "en", "a", 4, 9), gedit_row(task, "en", "b", 1, 4)] for task in GEDIT}
        rows["ps_human"][1][3] = "7/10"
        write_gedit(tmp_path, rows)
        words, error, mean = ["rescore", "gedit", tmp_path, "--language", "en"], "TypeError", (10 * 4 + 6) / 11
    elif name == "rededit":
        (tmp_path / "data.json").write_text("\n".join(json.dumps({"id": k, "task": "add"}) for k in "01"))
        (tmp_path / "r.json").write_text(json.dumps({"0": three(4, 4, 4), "7": three(1, 1, 1)}))
        error, mean = "IndexError", 4
    elif name == "risebench":
        case = {"category": "logical_reasoning", "subtask": "Puzzle Solving"}
        (tmp_path / "data.json").write_text(json.dumps([{"index": k, **case} for k in "ab"]))
        judge = {"judge1": "Final Score: 1", "judge2": "Final Score: 1"}
        (tmp_path / "r.json").write_text(json.dumps({"a": judge, "b": {"judge1": "x", "judge2": None}}))
        error, mean = "TypeError", 100
    else:
        (tmp_path / "color_change").mkdir()
        good = {"consistency_score": 3, "quality_score": 3, "instruction_score": 3}
        (tmp_path / "color_change" / "metrics.json").write_text(json.dumps({"1": good, "2": None}))
        words, error, mean = ["rescore", "kris", tmp_path], "TypeError", 50
    found = found_of(edit, *words)
    official, mended = found["official"], found["official_without_failed"]
    if name == "gedit":
        official, mended = official["en"], mended["en"]
    assert official == {"raises": error}
    average = mended.get("average") or mended["Overall"]
    assert average.get("overall", average.get("score")) == pytest.approx(mean)


# ---------------------------------------------------------------- judged rows


def test_cases_that_were_rejected_on_the_way_are_counted(edit: Runner, tmp_path: Path) -> None:
    """The list of cases travels in the history: rows that `sample` or `filter` drop leave no other trace."""
    listed = {f"k{k}": {"id": f"fullset/color_alter/en/k{k}.png", "prompt": f"do {k}", "edit_type": "color_alter"}
              for k in range(7)}  # fmt: skip
    results = tmp_path / "out" / "fullset" / "color_alter" / "en"
    sources = tmp_path / "bench" / "fullset" / "color_alter" / "en"
    for k in range(7):
        for folder, there in ((sources, k != 5), (results, k != 6)):
            folder.mkdir(parents=True, exist_ok=True)
            if there:
                (folder / f"k{k}.png").write_bytes(encode(pixels(k), "PNG"))
    (tmp_path / "bench" / "gedit_edit.json").write_text(json.dumps(listed))
    (tmp_path / "vie_prompts.py").write_text(
        "".join(f"{name} = 'x <instruction>'\n" for name in ("_context_no_delimit", "_prompts_0shot_rule_PQ",
                "_prompts_0shot_two_image_edit_rule", "_prompts_0shot_tie_rule_SC"))
    )  # fmt: skip
    edit("eval", "cases", "gedit", tmp_path / "bench", "--results", tmp_path / "out", "-o", tmp_path / "cases.arrows")
    edit("filter", tmp_path / "cases.arrows", "--where", "id != 'color_alter_en_k0'", "-o", tmp_path / "f.arrows")
    server = Server(lambda prompt, number: [response(200, chat('{"score": [8, 7]}'))])
    try:
        edit("judge", tmp_path / "f.arrows", "--rubric", "gedit", "--prompts", tmp_path / "vie_prompts.py", "--model",
             "alias", "--api-base", server.url, "-o", tmp_path / "judged", "--max-errors", "100%")  # fmt: skip
    finally:
        server.close()
    found = found_of(edit, "report", "gedit", tmp_path / "judged")
    # Seven listed: one filtered (missing), one without a source (rejected by judge), one without a result.
    assert found["coverage"]["en"]["total"] == {"expected": 7, "generated": 5, "judged": 4, "failed": 1, "missing": 2}
    assert "rejected by write: missing file" in found["strict"]["en"]["reasons"]
    assert any("43% of the cases have no score" in said for said in found["warnings"])
    done = edit("eval", "report", "gedit", tmp_path / "judged", "-f", "latex")
    assert r"\textbf{Warning: en: 43\% of the cases have no score" in done.stdout.decode() and "43%" in done.stderr
    # A case of another list hides none of this one's.
    other = {**{key: listed[key] for key in ("k1", "k6")}, "z": {**listed["k2"], "id": "fullset/color_alter/en/z.png"}}
    (tmp_path / "other.json").write_text(json.dumps(other))
    found = found_of(edit, "report", "gedit", tmp_path / "judged", "--meta", tmp_path / "other.json")
    assert found["coverage"]["en"]["total"]["expected"] == 3 and found["coverage"]["en"]["total"]["judged"] == 4
    assert found["strict"]["en"]["reasons"]["no row"] == 1 and any("does not have" in one for one in found["notes"])
    # An id that is no case's is counted too, whatever its task was.
    with open(tmp_path / "judged" / "_rejects" / "00000.jsonl", "a") as file:
        file.write(json.dumps({"id": "x-1", "stage": "read", "reason": "not JSON", "failed": True}) + "\n")
    assert found_of(edit, "report", "gedit", tmp_path / "judged")["coverage"]["en"]["tasks"]["unknown"]["failed"] == 1
    # Without a history the rows and the rejects are all there is.
    made = rows_of(tmp_path / "judged")
    assert len(made) == 5
    table = pq.read_table(tmp_path / "judged" / "00000.parquet").replace_schema_metadata(None)
    blob = [[{"bytes": row["source"][0], "path": None}] for row in made]
    bare = table.set_column(table.column_names.index("source"), "source", pa.array(blob))
    bare = bare.set_column(table.column_names.index("result"), "result", pa.array(
        [{"bytes": row.get("result"), "path": None} if row.get("result") else None for row in made],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())])))  # fmt: skip
    pq.write_table(bare, tmp_path / "bare.parquet")
    found = found_of(edit, "report", "gedit", tmp_path / "bare.parquet")
    assert found["coverage"]["en"]["tasks"]["color_alter"] == {
        "expected": None, "generated": 4, "judged": 4, "failed": 0, "missing": 1,
    }  # fmt: skip
    assert found["coverage"]["en"]["total"]["missing"] is None


# ---------------------------------------------------------------- abilities, and what a classifier says


def test_means_per_ability_where_the_list_has_them(edit: Runner, tmp_path: Path) -> None:
    meta = {"1": {"id": "a", "prompt": "p", "ability": "grounding"}, "3": {"id": "c", "prompt": "p"},
            "2": {"id": "b", "prompt": "p", "ability": ["grounding", "editing"]}}  # fmt: skip
    (tmp_path / "UGE_edit.json").write_text(json.dumps(meta))
    (tmp_path / "result.json").write_text(json.dumps({"1": "Score: 2", "2": "Score: 5", "3": "Score: 1", "4": "x: 1"}))
    words = ["rescore", "imgedit", tmp_path / "result.json", "--suite", "uge", "--meta", tmp_path / "UGE_edit.json"]
    found = found_of(edit, *words)
    means = {name: entry["score"]["mean"] for name, entry in found["abilities"]["tasks"].items()}
    assert means == {"grounding": 3.5, "editing": 5} and found["macro"]["score"]["mean"] == pytest.approx(8 / 3)
    assert any("1 replies are to no case of the list" in note for note in found["notes"])
    assert "| editing | 5.0 | too few cases | 1 | 0 | 0 |" in edit("eval", *words, "-f", "markdown").stdout.decode()
    assert not any("no means per ability" in note for note in found["notes"])
    for entry in meta.values():  # as the released list
        entry.pop("ability", None)
    (tmp_path / "UGE_edit.json").write_text(json.dumps(meta))
    bare = found_of(edit, *words)
    assert "abilities" not in bare and any("no means per ability" in note for note in bare["notes"])
    # KRIS-Bench's are the kinds of knowledge, and their types.
    for name, score in (("biology", 4), ("color_change", 2)):
        (tmp_path / name).mkdir()
        scores = {f"{one}_score": score for one in ("consistency", "quality", "instruction", "knowledge")}
        (tmp_path / name / "metrics.json").write_text(json.dumps({"1": scores, "2": {}}))
    found = found_of(edit, "rescore", "kris", tmp_path)["abilities"]
    assert found["tasks"]["Conceptual Knowledge"]["score"]["mean"] == 75
    assert found["tasks"]["Attribute Perception"]["score"]["mean"] == 25
    assert found["coverage"]["Factual Knowledge"]["failed"] == 1


def test_the_fake_score_of_a_benchmark(edit: Runner, tmp_path: Path) -> None:
    """Recall of a detector: the share of results that it takes for generated ones, by task."""
    blank = {child.name: None for child in JUDGEMENT}
    rows = []
    for k in range(6):
        task = "add" if k < 4 else "style"
        case = {"benchmark": "imgedit", "suite": "basic", "key": str(k), "task": task, "language": "en",
                "subset": False, "result_path": f"{k}.png", "source_path": None, "facts": "{}"}  # fmt: skip
        said = {**blank, "rubric": "imgedit", "dimension": "overall", "score": 3.0, "state": "ok", "pass": 0,
                "reply": three(3, 3, 3), "model": "j"}  # fmt: skip
        image = {"bytes": encode(pixels(k), "PNG"), "path": None}
        rows.append({"id": str(k), "task": "add", "case": case, "source": [image], "result": image,
                     "instruction": {"en": "do"}, "scores": {"result_probability": (0.9, 0.5, 0.1, None, 0.2, 0.3)[k]},
                     "judgements": [said]})  # fmt: skip
    schema = {"judgements": pa.list_(JUDGEMENT)}
    table = pa.table({name: pa.array([row[name] for row in rows], schema.get(name)) for name in rows[0]})
    pq.write_table(table, tmp_path / "rows.parquet")
    found = found_of(edit, "report", "imgedit", tmp_path / "rows.parquet")["detected"]["result_probability"]
    assert found["tasks"]["add"]["n"] == 3 and found["tasks"]["add"]["share"]["mean"] == pytest.approx(2 / 3)
    assert found["macro"]["share"]["mean"] == pytest.approx(1 / 3)
    assert found["micro"]["share"]["mean"] == pytest.approx(2 / 5)
    assert found["micro"]["probability"]["mean"] == pytest.approx(0.4)
    shown = edit("eval", "report", "imgedit", tmp_path / "rows.parquet", "-f", "markdown").stdout.decode()
    assert "**Detected: result_probability**" in shown and "| style | 2 | 0.0 | too few cases | 0.2 |" in shown


def judgement(state: str, model: str, **more: Any) -> dict[str, Any]:
    facts = {"rubric": "r", "endpoint": "http://x/v1", "image_encoding": "png", "prompt_hash": "h", "pass": 0}
    return {"state": state, "model": model, **facts, **more}


def test_the_judge_is_who_answered() -> None:
    """A row without an image, and a call that never got through, name the model that was wanted."""
    never = [judgement("missing", "gpt-4o", prompt_hash=None), judgement("failed", "gpt-4o")]
    assert judge_facts([*never, judgement("ok", "gpt-4o-2024-08-06")])["judge"] == "gpt-4o-2024-08-06"
    assert judge_facts(never)["judge"] == "gpt-4o"
    two = [judgement("ok", "b"), judgement("unparsed", "a")]
    assert judge_facts([*never, *two])["judge"] == "a, b"


# ---------------------------------------------------------------- held-out rows


def test_rows_that_fell_out_of_an_earlier_set_are_counted(edit: Runner, tmp_path: Path) -> None:
    """The judged set knows only what it rejected itself; --meta names the set before it, or the rows of the start."""
    lines = []
    for k in range(12):
        names = {name: f"{k}.{name}.png" for name in ("source", "target", "result")}
        for number, name in enumerate(names.values()):
            (tmp_path / name).write_bytes(encode(pixels(3 * k + number), "PNG"))
        row = {"id": f"r{k}", "task": "tone", "provenance": {"template": "warm" if k % 2 else "gray"},
               "instruction": {"en": "x"}}  # fmt: skip
        row |= {"source": [{"file": names["source"]}], **{n: {"file": names[n]} for n in ("target", "result")}}
        lines.append(json.dumps(row) + "\n")
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    edit("shard", tmp_path / "rows.jsonl", "-o", tmp_path / "rows")
    for k in (3, 4):
        (tmp_path / f"{k}.source.png").write_bytes(b"broken")
    edit("shard", tmp_path / "rows.jsonl", "-o", tmp_path / "sampled", "--max-errors", "50%")
    assert len(rows_of(tmp_path / "sampled")) == 10
    edit("score", tmp_path / "sampled", "-o", tmp_path / "judged")
    words = ("report", "heldout", tmp_path / "judged")
    counts = found_of(edit, *words)["coverage"]
    assert counts == {"expected": 10, "generated": 10, "judged": 10, "failed": 0, "missing": 0}
    found = found_of(edit, *words, "--meta", tmp_path / "sampled")
    assert found["coverage"] == {"expected": 12, "generated": 10, "judged": 10, "failed": 2, "missing": 0}
    assert found["unjudged"] == ["unknown"] and found["warnings"][0].startswith("17% of the rows have no score")
    found = found_of(edit, *words, "--meta", tmp_path / "rows")
    assert found["coverage"] == {"expected": 12, "generated": 10, "judged": 10, "failed": 0, "missing": 2}
    assert [found["kinds"][kind]["missing"] for kind in ("gray", "warm")] == [1, 1] and found["unjudged"] == []
    assert "12 rows expected" in page_of(edit, tmp_path / "r.html", *words, "--meta", tmp_path / "rows")
    edit("eval", *words, "--meta", tmp_path / "rows", "--limit", "3", check=2)
