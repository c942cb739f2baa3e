"""Public benchmarks scored again: the official scripts' numbers, checked against pandas and hand-worked examples."""

from __future__ import annotations

import csv
import io
import json
import math
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import Runner
from hypothesis import given, settings
from hypothesis import strategies as st

from edittools.suites import benchmarks
from edittools.suites.shared.csv_table import EmptyDataError, ParserError, read_csv

GEDIT = list(benchmarks()["gedit"].canonical)
HEADER = "source_image,edited_image,instruction,sementics_score,quality_score,intersection_exist,instruction_language"


def rescore(edit: Runner, *words: Any, check: int = 0) -> dict[str, Any]:
    """What was found; without one score, ours or the script's, it is there too, and the exit status is 3."""
    result = edit("eval", "rescore", *words, "--scoring", "official", "-f", "json", check=None)
    if check:
        edit.judge(result, words, check)
        return {"stderr": result.stderr}
    found = json.loads(result.stdout)
    edit.judge(result, words, 0 if some_score(found) else 3)
    return found


def some_score(found: dict[str, Any]) -> bool:
    """Whether any case is judged, or any official mean is a number."""

    def floats(value: Any) -> bool:
        return isinstance(value, float) or (isinstance(value, dict) and any(map(floats, value.values())))

    totals = [found["coverage"]] if "total" in found["coverage"] else found["coverage"].values()
    return any(part["total"]["judged"] for part in totals) or floats(found["official_means"])


# ---------------------------------------------------------------- CSV as pandas reads it


CELLS = st.one_of(
    st.sampled_from(["7", "10", "0", "-3", " 5", "6 ", "7.0", "3.5", ".5", "1e1", "inf", "nan", "NaN", "", "N/A"]),
    st.sampled_from(["7/10", "seven", "True", "False", "TRUE", "true", "tRUE", "yes", "+4", "1_0", "0x1", "٤", "-"]),
    st.sampled_from(["None", "null", "1.5.2", "1.", "Infinity", "-inf", "1E2", "00", " ", "1 2", "false"]),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=5))
def test_columns_are_those_of_pandas(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]]) -> None:
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("a", "b", "c"), *rows])
    frame = pd.read_csv(path)
    expected = {name: [value for value in frame[name].tolist()] for name in frame.columns}
    found = read_csv(path)
    assert found.keys() == expected.keys()
    for name in found:
        assert len(found[name]) == len(expected[name])
        for ours, theirs in zip(found[name], expected[name]):
            if isinstance(theirs, float) and math.isnan(theirs):
                assert isinstance(ours, float) and math.isnan(ours)
            else:
                assert ours == theirs and isinstance(ours, type(theirs)), (ours, theirs)


def test_broken_csv_is_named_as_pandas_names_it(tmp_path: Path) -> None:
    for text, ours, theirs in (
        ("", EmptyDataError, pd.errors.EmptyDataError),
        ("a,b\n1,2\n1,2,3\n", ParserError, pd.errors.ParserError),
        ('a,b\n1,2\n3,"4\n', ParserError, pd.errors.ParserError),
        ('"', ParserError, pd.errors.ParserError),
    ):
        path = tmp_path / "t.csv"
        path.write_text(text)
        with pytest.raises(theirs):
            pd.read_csv(path)
        with pytest.raises(ours):
            read_csv(path)
        assert ours.__name__ == theirs.__name__


def test_cells_in_front_of_the_columns_are_an_index(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2,\n3,4,\n")
    frame = pd.read_csv(path)
    found = read_csv(path)
    assert found["a"] == frame["a"].tolist() == [2, 4]
    assert [math.isnan(v) for v in found["b"]] == [math.isnan(v) for v in frame["b"].tolist()] == [True, True]


def test_the_first_of_two_columns_keeps_its_name(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b,a\n1,2,x\n")
    assert read_csv(path)["a"] == pd.read_csv(path)["a"].tolist() == [1]


# ---------------------------------------------------------------- GEdit-Bench


def gedit_row(task: str, language: str, key: str, semantics: Any, quality: Any, subset: Any = True) -> list[Any]:
    stem = f"/r/m/fullset/{task}/{language}/{key}"
    return [f"{stem}_SRCIMG.png", f"{stem}.png", f'An "edit", {key}', semantics, quality, subset, language]


def write_gedit(folder: Path, rows: dict[str, list[list[Any]]], model: str = "m") -> Path:
    place = folder / model / "gpt4o" / "eval_results_new"
    place.mkdir(parents=True)
    for task in GEDIT:
        buffer = io.StringIO()
        csv.writer(buffer).writerows(rows.get(task, []))
        (place / f"{model}_{task}_gpt_score.csv").write_text(f"{HEADER}\r\n{buffer.getvalue()}", newline="")
    return place


def test_gedit_means_of_task_means(edit: Runner, tmp_path: Path) -> None:
    # Ten tasks with one row SC 4, PQ 9 (O 6); text_change has O 6, 0, 0. Worked by hand.
    rows = {task: [gedit_row(task, "en", "a", 4, 9)] for task in GEDIT}
    rows["text_change"] = [
        gedit_row("text_change", "en", "a", 9, 4),
        gedit_row("text_change", "en", "b", 0, 10, False),
        gedit_row("text_change", "en", "c", 0, 10, False),
    ]
    write_gedit(tmp_path, rows)
    found = rescore(edit, "gedit", tmp_path)
    en = found["official"]["en"]
    assert en["overall"]["text_change"] == pytest.approx(2, abs=1e-9)
    assert en["overall"]["avg_overall"] == pytest.approx(62 / 11, abs=1e-9)
    assert en["semantics"]["avg_semantics"] == pytest.approx(43 / 11, abs=1e-9)
    assert en["quality_intersection"]["avg_quality"] == pytest.approx((10 * 9 + 4) / 11, abs=1e-9)
    assert set(found["official"]["cn"]["overall"].values()) == {"nan"}  # no Chinese row at all
    assert found["macro"]["en"]["overall"]["mean"] == pytest.approx(62 / 11)
    assert found["micro"]["en"]["overall"]["mean"] == pytest.approx((11 * 6 + 0 + 0) / 13)
    assert found["coverage"]["en"]["total"]["judged"] == 13 and found["coverage"]["cn"]["total"]["judged"] == 0


def test_gedit_blank_scores_duplicates_and_crashes(edit: Runner, tmp_path: Path) -> None:
    rows = {task: [gedit_row(task, "en", "a", 4, 9), gedit_row(task, "cn", "a", 1, 1)] for task in GEDIT}
    rows["ps_human"][0][3] = ""  # blank: NaN in the official mean, failed in ours
    rows["subject-add"].append(gedit_row("subject-add", "en", "a", 9, 9))  # judged twice
    rows["tone_transfer"][1][4] = "8/10"  # text: the whole column is text, and text is no factor
    write_gedit(tmp_path / "x", rows)
    found = rescore(edit, "gedit", tmp_path / "x")
    assert found["official"]["en"] == found["official"]["cn"] == {"raises": "TypeError"}
    rows["tone_transfer"][1][4] = 4
    write_gedit(tmp_path / "y", rows)
    found = rescore(edit, "gedit", tmp_path / "y")
    en = found["official"]["en"]
    assert en["semantics"]["ps_human"] == en["semantics"]["avg_semantics"] == "nan"
    assert en["overall"]["subject-add"] == pytest.approx((6 + 9) / 2)
    assert found["official"]["cn"]["overall"]["avg_overall"] == pytest.approx((10 * 1 + 2) / 11)
    assert found["strict"]["en"]["tasks"]["subject-add"]["overall"]["mean"] == 9  # the last judgement
    assert found["coverage"]["en"]["tasks"]["ps_human"]["failed"] == 1
    assert any("twice" in note for note in found["notes"])
    (tmp_path / "y/m/gpt4o/eval_results_new/m_ps_human_gpt_score.csv").unlink()
    found = rescore(edit, "gedit", tmp_path / "y", "--language", "zh")
    assert found["official"] == {"cn": {"raises": "FileNotFoundError"}}
    assert found["macro"]["cn"]["overall"]["tasks"] == 10


def test_gedit_keeps_the_official_crash_beside_our_result(edit: Runner, tmp_path: Path) -> None:
    rows = {task: [gedit_row(task, "en", "a", 4, 9)] for task in GEDIT}
    place = write_gedit(tmp_path, rows)
    for text, name in (("", "EmptyDataError"), ("a,b\n1,2\n", "KeyError"), ("a,b\n1,2\n1,2,3\n", "ParserError")):
        (place / "m_ps_human_gpt_score.csv").write_text(text)
        found = rescore(edit, "gedit", tmp_path)
        assert found["official"]["en"] == {"raises": name}
        assert found["macro"]["en"]["overall"] == {"mean": 6, "interval": None, "tasks": 10}


def test_gedit_takes_truth_values_in_any_case(edit: Runner, tmp_path: Path) -> None:
    """calculate_statistics.py itself gives 1.0 for both: row b is not in the subset, for its column is no text."""
    rows = {task: [gedit_row(task, "en", "a", 1, 4, "tRUE"), gedit_row(task, "en", "b", 9, 9, "fALSE")]
            for task in GEDIT}  # fmt: skip
    write_gedit(tmp_path, rows)
    en = rescore(edit, "gedit", tmp_path)["official"]["en"]
    assert en["semantics_intersection"]["ps_human"] == en["semantics_intersection"]["avg_semantics"] == 1.0


def test_gedit_with_a_quote_that_is_not_closed(edit: Runner, tmp_path: Path) -> None:
    """calculate_statistics.py ends with ParserError; a cell of a megabyte, which is what follows the quote, is none
    of ours either."""
    rows = {task: [gedit_row(task, "en", "a", 4, 9)] for task in GEDIT}
    place = write_gedit(tmp_path, rows)
    (place / "m_ps_human_gpt_score.csv").write_text(f'{HEADER}\nx,"{"y" * 2**20}\n')
    found = rescore(edit, "gedit", tmp_path)
    assert found["official"]["en"] == {"raises": "ParserError"} and found["macro"]["en"]["overall"]["tasks"] == 10


def test_what_has_no_meaning_is_refused(edit: Runner, tmp_path: Path) -> None:
    write_gedit(tmp_path, {task: [gedit_row(task, "en", "a", 4, 9)] for task in GEDIT})
    for words in (["--judge", "a"], ["--humans", "x"], ["--suite", "uge"], ["--limit", "3"]):
        edit("eval", "rescore", "gedit", tmp_path, *words, check=2)
    edit("eval", "rescore", "gedit", tmp_path, "-f", "arrows", check=2)
    edit("eval", "rescore", "gedit", tmp_path, "-o", tmp_path / "r.html", "-f", "json")
    assert "ps_human" in (tmp_path / "r.html").read_text()
    (tmp_path / "gedit_edit.json").write_text(json.dumps({"a": {"edit_type": "ps_human", "id": "x", "prompt": "p"}}))
    found = rescore(edit, "gedit", tmp_path, "--meta", tmp_path / "gedit_edit.json")
    assert found["coverage"]["en"]["total"]["expected"] == 1 and found["coverage"]["cn"]["total"]["expected"] is None


def test_gedit_names_what_it_found_when_there_are_several(edit: Runner, tmp_path: Path) -> None:
    rows = {task: [gedit_row(task, "en", "a", 4, 9)] for task in GEDIT}
    write_gedit(tmp_path, rows)
    write_gedit(tmp_path, rows, "other")
    said = rescore(edit, "gedit", tmp_path, check=2)["stderr"]
    assert "other" in said and "--name" in said
    assert rescore(edit, "gedit", tmp_path, "--name", "other")["benchmark"] == "gedit"
    assert "no score files" in rescore(edit, "gedit", tmp_path / "m" / "gpt4o" / "..", "--name", "x",
                                       check=1)["stderr"]  # fmt: skip
    (tmp_path / "empty").mkdir()
    rescore(edit, "gedit", tmp_path / "empty", check=1)
    rescore(edit, "gedit", tmp_path / "absent", check=1)


# ---------------------------------------------------------------- ImgEdit and REDEdit


def three(a: int, b: int, c: int) -> str:
    return f"Brief reasoning: so.\nPrompt Compliance: {a}\nVisual Naturalness: {b}\nPhysical & Detail Coherence: {c}"


def test_imgedit_rounds_twice_and_drops_silently(edit: Runner, tmp_path: Path) -> None:
    # 1082 -> 1.0, 1068 -> (1+4+4)/3 = 3.0, 673 -> 11/3 = 3.67: adjust 2.0, style 3.67. By hand; ours caps: 1, 1, 1.
    replies = {"1082": three(1, 1, 1), "1068": three(1, 4, 4), "673": three(1, 5, 5), "7": "I will not."}
    meta = {
        key: {"id": "x.jpg", "prompt": "p", "edit_type": kind}
        for key, kind in (("1082", "adjust"), ("1068", "alter"), ("673", "style"), ("7", "style"), ("8", "add"))
    }
    meta["1068"]["edit_type"] = "adjust"
    (tmp_path / "result.json").write_text(json.dumps(replies))
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    found = rescore(edit, "imgedit", tmp_path, "--meta", tmp_path / "meta.json")
    assert found["official"] == {
        "average_score": {"1082": 1.0, "1068": 3.0, "673": 3.67},
        "typescore": {"adjust": 2.0, "style": 3.67},
    }
    assert found["strict"]["tasks"]["adjust"]["score"]["mean"] == 1.0
    assert found["coverage"]["tasks"]["style"] == {
        "expected": 2, "generated": 2, "judged": 1, "failed": 1, "missing": 0,
    }  # fmt: skip
    assert found["coverage"]["tasks"]["add"]["missing"] == 1
    lines = "".join(json.dumps({"key": k, "result": v}) + "\n" for k, v in replies.items())
    (tmp_path / "result.jsonl").write_text(lines)
    again = rescore(edit, "imgedit", tmp_path / "result.jsonl", "--meta", tmp_path / "meta.json")
    assert again["official"] == found["official"]
    # One failed call blocks the official script; ours counts it.
    replies["9"] = {"error": "no choices"}  # type: ignore[assignment]
    meta["9"] = {"id": "y.jpg", "prompt": "p", "edit_type": "add"}
    (tmp_path / "result.json").write_text(json.dumps(replies))
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    found = rescore(edit, "imgedit", tmp_path / "result.json", "--meta", tmp_path / "meta.json")
    assert found["official"] == {"raises": "AttributeError"}
    assert found["coverage"]["tasks"]["add"] == {
        "expected": 2, "generated": 1, "judged": 0, "failed": 1, "missing": 1,
    }  # fmt: skip
    uge = rescore(edit, "imgedit", tmp_path / "result.jsonl", "--suite", "uge")
    assert uge["official"] == {"average": 2.56}  # (1.0 + 3.0 + 3.67) / 3
    (tmp_path / "none.json").write_text(json.dumps({"1": "Score: 2."}))
    none = rescore(edit, "imgedit", tmp_path / "none.json", "--suite", "uge")
    assert none["official"] == {"average": None}
    (tmp_path / "odd.json").write_text(json.dumps({"1": "Score: ²"}))
    odd = rescore(edit, "imgedit", tmp_path / "odd.json", "--suite", "uge")
    assert odd["official"] == {"raises": "ValueError"}


def test_imgedit_needs_only_the_entries_that_it_looks_up(edit: Runner, tmp_path: Path) -> None:
    """step1_get_avgscore.py and step2_typescore.py on these files give the averages, and `true` for the type true.

    An entry that is no dictionary ends step 2 with AttributeError if its key has an average, and only then; so does a
    list of all entries. A byte order mark or a cut end is a JSONDecodeError there.
    """
    replies, meta = tmp_path / "result.json", tmp_path / "basic_edit.json"
    replies.write_text(json.dumps({"1": three(5, 4, 4), "2": three(1, 1, 1), "4": three(2, 2, 2)}))
    kinds: dict[str, Any] = {"1": {"edit_type": "add"}, "2": {"edit_type": True}, "3": None}
    averages = {"1": 4.33, "2": 1.0, "4": 2.0}
    crash = {"average_score": averages, "raises": "AttributeError"}
    broken = {"average_score": averages, "raises": "JSONDecodeError"}
    words = ("imgedit", replies, "--meta", meta)
    for text, expected, judged in (
        (json.dumps(kinds), {"average_score": averages, "typescore": {"add": 4.33, "true": 1.0}}, 1),
        (json.dumps({**kinds, "4": None}), crash, 1),
        (json.dumps(list(kinds.values())), crash, 0),
        ("\ufeff" + json.dumps(kinds), broken, 1),  # ours can read it
        (json.dumps(kinds)[:-1], broken, 0),
        ("null", crash, 0),
    ):
        meta.write_text(text, "utf-8")
        found = rescore(edit, *words)
        assert found["official"] == expected and found["coverage"]["total"]["judged"] == judged
    assert any("basic_edit.json" in note for note in found["notes"])
    replies.write_text("\ufeff" + replies.read_text(), "utf-8")
    meta.write_text(json.dumps(kinds))
    found = rescore(edit, *words)
    assert found["official"] == {"raises": "JSONDecodeError"} and found["coverage"]["total"]["judged"] == 1
    meta.write_text("5")
    replies.write_text(json.dumps({"1": "Score: 4"}))
    found = rescore(edit, *words, "--suite", "uge")  # get_average_score.py reads no list
    assert found["official"] == {"average": 4.0} and "as in UGE_edit.json" in found["notes"][0]


def test_imgedit_lines_that_bagel_cannot_read_are_left_out(edit: Runner, tmp_path: Path) -> None:
    """collect_jsonl_to_dict of BAGEL's basic_bench.py, then step 1 and 2: 1 and "1" are one key, the last counts."""
    lines = [{"key": 1, "result": three(1, 1, 1)}, {"key": "1", "result": three(3, 3, 3)}, {"key": "2"}]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '[]\n\n{"key": "1", "result": "Score: 5'
    (tmp_path / "result.jsonl").write_text(text)
    (tmp_path / "basic_edit.json").write_text('{"1": {"edit_type": "add"}}')
    found = rescore(edit, "imgedit", tmp_path, "--meta", tmp_path)
    assert found["official"] == {"average_score": {"1": 3.0}, "typescore": {"add": 3.0}}
    assert "3 lines are no JSON with `key` and `result`, the first is line 3" in found["notes"][0]
    (tmp_path / "result.jsonl").write_bytes(b"\xff")
    found = rescore(edit, "imgedit", tmp_path, "--meta", tmp_path)
    assert found["official"] == {"raises": "UnicodeDecodeError"}


def test_labels_of_the_real_rubrics_count(edit: Runner, tmp_path: Path) -> None:
    """REDEdit-Bench's rubrics for text and portrait ask for an overall dimension: it is one of the three."""
    (tmp_path / "redbench.jsonl").write_text('{"task": "text"}\n{"task": "portrait"}\n{"task": "add"}\n')
    details = {
        "0": "Text Instruction Compliance: 5\nText Visual Quality: 4\nOverall Edit Quality: 3",
        "1": "Identity: 4\nNaturalness: 4\nOverall Realism & Image Quality: 4",
        "2": three(3, 3, 3) + "\nTotal: 9",
    }
    (tmp_path / "evaluation_details.json").write_text(json.dumps(details))
    found = rescore(edit, "rededit", tmp_path, "--meta", tmp_path)
    assert [found["strict"]["tasks"][t]["score"]["mean"] for t in ("text", "portrait", "add")] == [4, 4, 3]


def test_unreadable_outputs_and_half_letters(edit: Runner, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    found = rescore(edit, "imgedit", tmp_path / "bad.json", "--suite", "uge")
    assert found["official"] == {"raises": "JSONDecodeError"}
    (tmp_path / "half.json").write_text('{"\\ud800": "Score: 3", "b": "Score: 4 / 10", "c": "Score: 2 out of 10"}')
    found = rescore(edit, "imgedit", tmp_path / "half.json", "--suite", "uge")
    assert found["coverage"]["total"]["judged"] == 1 and found["macro"]["score"]["mean"] == 3
    found = rescore(edit, "kris", tmp_path)
    assert found["official"] == {"type_avg": {}, "subitem": {}, "meta": {}, "overall": {}}
    assert "holds no CATEGORY/metrics.json" in found["notes"][1]
    (tmp_path / "biology").mkdir()
    (tmp_path / "biology" / "metrics.json").write_text("[1]")
    assert rescore(edit, "kris", tmp_path)["official"] == {"raises": "AttributeError"}


def test_rededit_keys_are_line_numbers(edit: Runner, tmp_path: Path) -> None:
    cases = [{"id": "77", "task": "add"}, {"id": "5", "task": "add"}, {"id": "9", "task": "adjust"}, {"task": "text"}]
    (tmp_path / "redbench.jsonl").write_text("\n".join(json.dumps(c) for c in cases) + "\n\n")
    details = {"0": three(5, 4, 5), "1": three(5, 4, 4), "2": three(5, 5, 4), "3": "Error: 429"}
    path = tmp_path / "evaluation_details.json"
    path.write_text(json.dumps(details))
    found = rescore(edit, "rededit", tmp_path, "--meta", tmp_path / "redbench.jsonl")
    assert found["official"]["averaged_data"] == {"0": 4.67, "1": 4.33, "2": 4.67, "3": 429.0}
    assert found["official"]["averaged_result"] == {"add": 4.5, "adjust": 4.67, "text": 429.0}
    assert found["official"]["final_score"] == pytest.approx((4.5 + 4.67 + 429) / 3, abs=1e-9)
    assert found["strict"]["tasks"]["text"]["n"] == 0 and found["coverage"]["tasks"]["text"]["failed"] == 1
    path.write_text(json.dumps({"0": three(5, 4, 5), "9": three(1, 1, 1)}))
    found = rescore(edit, "rededit", path, "--meta", tmp_path / "redbench.jsonl")
    assert found["official"] == {"raises": "IndexError"}
    path.write_text(json.dumps({"-1": three(3, 3, 3)}))
    found = rescore(edit, "rededit", path, "--meta", tmp_path / "redbench.jsonl")
    assert found["official"]["averaged_result"] == {"text": 3.0}  # -1 is the last line


def test_rededit_with_lines_that_are_no_cases(edit: Runner, tmp_path: Path) -> None:
    """redbench_eval.py's functions on these files: a task true is `true`, a line cut off is a JSONDecodeError, a key of
    5,000 digits a ValueError. Ours scores what it can read, under the same numbers."""
    listed, details = tmp_path / "redbench.jsonl", tmp_path / "evaluation_details.json"
    details.write_text(json.dumps({"0": three(4, 4, 4), "2": three(2, 2, 2)}))
    words = ("rededit", tmp_path, "--meta", tmp_path)
    listed.write_text('{"task": true}\n3\n{"task": "text"}\n')
    assert rescore(edit, *words)["official"] == {
        "averaged_data": {"0": 4.0, "2": 2.0},
        "averaged_result": {"true": 4.0, "text": 2.0},
        "final_score": 3.0,
    }
    for text in ('{"task": "add"}\n{"task": \n{"task": "text"}\n', '\ufeff{"task": "add"}\n{}\n{"task": "text"}\n'):
        listed.write_text(text, "utf-8")
        found = rescore(edit, *words)
        assert found["official"] == {"raises": "JSONDecodeError"}
        assert [found["strict"]["tasks"][task]["score"]["mean"] for task in ("add", "text")] == [4, 2]
    listed.write_text('{"task": "add"}\n')
    details.write_text(json.dumps({"0": three(4, 4, 4), "9" * 5000: three(2, 2, 2)}))
    found = rescore(edit, *words)
    assert found["official"] == {"raises": "ValueError"} and found["coverage"]["total"]["judged"] == 1


# ---------------------------------------------------------------- RISEBench and KRIS-Bench


def rise_frame(cases: list[dict], numbers: list[list | None]) -> pd.DataFrame:
    """The official computation over pandas, as its description says: the truth for `risebench`."""
    frame = pd.DataFrame(cases)
    frame["C"] = [None if n is None else (4 * min(n[0], 1) + 1 if len(n) == 2 else n[0]) for n in numbers]
    frame["R"] = [None if n is None else (4 * min(n[1], 1) + 1 if len(n) == 2 else n[1]) for n in numbers]
    frame["V"] = [None if n is None or len(n) == 2 else n[2] for n in numbers]

    def score(row: pd.Series) -> float:
        if row["category"] == "logical_reasoning":
            value = 0.3 * row["C"] + 0.7 * row["R"]
        elif row.get("consistency_free"):
            value = 0.2 * row["V"] + 0.8 * row["R"]
        else:
            value = 0.3 * row["C"] + 0.5 * row["R"] + 0.2 * row["V"]
        if row["R"] == 1:
            value *= 0.5
            value = 1 if value < 1 else value
        return value

    frame["score"] = frame.apply(score, axis=1)
    return frame


def rise_reply(*numbers: int) -> str:
    return "Reasons.\n**Final Score**: " + ", ".join(map(str, numbers))


@pytest.mark.parametrize("free", [False, True])
def test_risebench_is_that_of_pandas(edit: Runner, tmp_path: Path, free: bool) -> None:
    kinds = ["temporal", "causal", "spatial", "logical"]
    cases, numbers, replies = [], [], {}
    for k in range(24):
        kind = f"{kinds[k % 4]}_reasoning"
        case = {"index": f"{kind}_{k}", "category": kind, "subtask": "Life Progression" if k % 3 else "Puzzle Solving"}
        found: list | None = [1 + k % 5, 1 + (k * 3) % 5, 1 + (k * 7) % 5]
        if kind == "logical_reasoning":
            found = [k % 2, (k // 4) % 2]
        texts = [rise_reply(n) for n in found]
        if k == 8:
            found, texts[1] = None, "no score"
        reply = dict(zip(("judge1", "judge2", "judge3"), texts))
        if free and k == 5:
            case["consistency_free"] = True
            reply["judge1"] = None
            found = [None, *found[1:]]
        cases.append(case)
        numbers.append(found)
        replies[case["index"]] = reply
    (tmp_path / "data.json").write_text(json.dumps(cases))
    (tmp_path / "replies.json").write_text(json.dumps(replies))
    frame = rise_frame(cases, numbers)
    found = rescore(edit, "risebench", tmp_path / "replies.json", "--meta", tmp_path / "data.json")
    samples = found["official"]["samples"]
    for case, expected in zip(cases, frame["score"]):
        ours = samples[case["index"]]["score"]
        assert ours == "nan" if math.isnan(expected) else ours == pytest.approx(expected, abs=1e-9)
    summary = found["official"]["summary"]
    assert summary["Overall"]["Score-Origin"] == pytest.approx(frame["score"].mean(), abs=1e-9)
    for name, group in frame.groupby("category"):
        line = summary[str(name).split("_")[0].capitalize()]
        assert line["Score-Percentage"] == pytest.approx(25 * (group["score"].mean() - 1), abs=1e-9)
    assert summary["Overall_Reasoning"]["Score-Origin"] == pytest.approx(frame["R"].mean(), abs=1e-9)
    assert summary["Temp-Life Progression"]["Score-Origin"] == pytest.approx(
        frame[frame["subtask"] == "Life Progression"]["score"].mean(), abs=1e-9
    )
    assert found["coverage"]["total"]["failed"] == 1
    # Ours does not take a case without the key for one that is free of consistency.
    if free:
        assert any("without `consistency_free`" in note for note in found["notes"])
        row = frame.iloc[1]
        expected = 0.3 * row["C"] + 0.5 * row["R"] + 0.2 * row["V"]
        assert samples[cases[1]["index"]]["score"] != pytest.approx(expected)


def test_risebench_numbers_and_crashes(edit: Runner, tmp_path: Path) -> None:
    case = {"index": "t_1", "category": "temporal_reasoning", "subtask": "Life Progression"}
    (tmp_path / "data.json").write_text(json.dumps([case]))
    path = tmp_path / "r.json"
    for reply, name in (
        ({"judge1": rise_reply(4, 4), "judge2": rise_reply(4), "judge3": rise_reply(4)}, "ValueError"),
        ({"judge1": "x", "judge2": "x", "judge3": "x"}, "TypeError"),  # no number in any case: None times 0.3
    ):
        path.write_text(json.dumps({"t_1": reply}))
        found = rescore(edit, "risebench", path, "--meta", tmp_path / "data.json")
        assert found["official"] == {"raises": name}
        assert found["coverage"]["total"]["failed"] == 1
    (tmp_path / "odd.json").write_text(json.dumps([{**case, "category": "weird"}]))
    path.write_text(json.dumps({"t_1": {f"judge{k}": rise_reply(4) for k in (1, 2, 3)}}))
    found = rescore(edit, "risebench", path, "--meta", tmp_path / "odd.json")
    assert found["official"] == {"raises": "UnboundLocalError"} and found["coverage"]["total"]["failed"] == 1
    path.write_text("{}")
    found = rescore(edit, "risebench", path, "--meta", tmp_path / "data.json")
    assert found["official"] == {"raises": "KeyError"} and found["coverage"]["total"]["missing"] == 1


def test_risebench_columns_are_those_of_pandas(edit: Runner, tmp_path: Path) -> None:
    """gpt_eval.py itself on these files: None beside numbers is NaN, and true; None beside truth values is not."""
    path, data = tmp_path / "r.json", tmp_path / "data.json"
    path.write_text(json.dumps({k: {f"judge{n}": rise_reply(n + 1) for n in (1, 2, 3)} for k in "ab"}))
    case = {"category": "temporal_reasoning", "subtask": "Life Progression"}

    def official(*facts: dict[str, Any]) -> dict[str, Any]:
        data.write_text(json.dumps([{**case, "index": key, **more} for key, more in zip("ab", facts)]))
        return rescore(edit, "risebench", path, "--meta", data)["official"]

    for free, expected in ((1, 3.2), (True, 2.9), (None, 2.9)):
        found = official({"consistency_free": None}, {"consistency_free": free})
        assert found["samples"]["a"]["score"] == pytest.approx(expected, abs=1e-9)
    assert official({"subtask": ["x"]}, {}) == {"raises": "TypeError"}
    del case["category"]
    assert official({}, {"category": "causal_reasoning"}) == {"raises": "UnboundLocalError"}
    assert official({}, {}) == {"raises": "KeyError"}


def test_risebench_cases_as_columns(edit: Runner, tmp_path: Path) -> None:
    """As pandas writes a table: it reads them into the same one."""
    path, data = tmp_path / "r.json", tmp_path / "data.json"
    kinds, subtask = ["temporal_reasoning", "causal_reasoning"], "Life Progression"
    cases = [{"index": key, "category": kind, "subtask": subtask} for key, kind in zip("ab", kinds)]
    path.write_text(json.dumps({k: {f"judge{n}": rise_reply(n + 1) for n in (1, 2, 3)} for k in "ab"}))
    data.write_text(json.dumps(cases))
    listed = rescore(edit, "risebench", path, "--meta", data)
    assert listed["coverage"]["total"]["judged"] == 2
    frame = pd.DataFrame(cases)
    for columns in (frame.to_dict("list"), frame.to_dict(), {**frame.to_dict("list"), "subtask": subtask}):
        assert pd.DataFrame(columns).equals(frame)
        data.write_text(json.dumps(columns))
        assert rescore(edit, "risebench", path, "--meta", data) == listed
    for wrong, name in (
        ({"index": "a", "category": kinds[0]}, "ValueError"),
        ({"index": ["a", "b"], "category": kinds[:1]}, "ValueError"),
        ({"index": {"0": "a"}, "category": kinds[:1]}, "ValueError"),
        ({"key": ["a", "b"], "category": kinds}, "KeyError"),
    ):
        data.write_text(json.dumps(wrong))
        assert rescore(edit, "risebench", path, "--meta", data)["official"] == {"raises": name}


def test_risebench_cases_that_are_no_list(edit: Runner, tmp_path: Path) -> None:
    """What gpt_eval.py ends with, which takes a reply without judge2 for none."""
    path, data = tmp_path / "r.json", tmp_path / "data.json"
    case = {"index": "t_1", "category": "temporal_reasoning", "subtask": "Life Progression"}
    replies = {f"judge{k}": rise_reply(4) for k in (1, 2, 3)}
    path.write_text(json.dumps({"t_1": replies}))
    for text, name, judged in (
        (json.dumps({"1": case}), "KeyError", 0),
        (json.dumps([case, {"category": "causal_reasoning"}]), "KeyError", 1),
        ("[]", "KeyError", 0),
        (json.dumps(case) + "\n" + json.dumps(case), "JSONDecodeError", 0),
        ("\ufeff" + json.dumps([case]), "JSONDecodeError", 1),
    ):
        data.write_text(text, "utf-8")
        found = rescore(edit, "risebench", path, "--meta", data)
        assert found["official"] == {"raises": name} and found["coverage"]["total"]["judged"] == judged
    data.write_text(json.dumps([case]))
    for first, name in ((rise_reply(3, 4), "ValueError"), (rise_reply(3), "IndexError"), ("none", "TypeError")):
        path.write_text(json.dumps({"t_1": {"judge1": first, "judge3": rise_reply(4)}}))
        found = rescore(edit, "risebench", path, "--meta", data)
        assert found["official"] == {"raises": name}


def test_kris_pools_single_scores(edit: Runner, tmp_path: Path) -> None:
    def write(name: str, samples: dict) -> None:
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "metrics.json").write_text(json.dumps(samples))

    full = {"consistency_score": 5, "quality_score": 3, "instruction_score": 1}
    write("color_change", {"1": full, "2": {"consistency_score": 5, "quality_score": None}})
    write("biology", {"1": {**full, "knowledge_score": 5}})
    found = rescore(edit, "kris", tmp_path)
    official = found["official"]
    assert official["subitem"]["Attribute Perception"]["color_change"] == {"VC": 100.0, "VQ": 50.0, "IF": 0.0}
    assert official["type_avg"]["Attribute Perception"]["AVG"] == (100 + 50 + 0 + 100) / 4
    assert official["type_avg"]["Natural Science"] == {"VC": 100, "VQ": 50, "IF": 0, "KP": 100, "AVG": 62.5}
    assert official["meta"] == {"Factual Knowledge": {"AVG": 62.5}, "Conceptual Knowledge": {"AVG": 62.5}}
    assert official["overall"] == {"AVG": 500 / 8}
    # Ours takes a case with all of its scores only: (100 + 50 + 0) / 3.
    assert found["strict"]["tasks"]["color_change"]["score"]["mean"] == pytest.approx(50)
    assert found["coverage"]["tasks"]["color_change"]["failed"] == 1
    write("biology", {"1": {**full, "knowledge_score": "5"}})
    assert rescore(edit, "kris", tmp_path)["official"] == {"raises": "TypeError"}


def test_kris_expects_what_its_lists_have(edit: Runner, tmp_path: Path) -> None:
    scores = {"consistency_score": 3, "quality_score": 3, "instruction_score": 3, "knowledge_score": 3}
    for name, content in (("results", {"1": scores}), ("copy", None)):
        (tmp_path / name / "biology").mkdir(parents=True)
        entry = {key: {"ori_img": f"{key}.jpg", "ins_en": "i"} for key in ("1", "2", "3")}
        file = "metrics.json" if content else "annotation.json"
        (tmp_path / name / "biology" / file).write_text(json.dumps(content or entry))
    found = rescore(edit, "kris", tmp_path / "results", "--meta", tmp_path / "copy")
    assert found["coverage"]["tasks"]["biology"] == {
        "expected": 3, "generated": 1, "judged": 1, "failed": 0, "missing": 2,
    }  # fmt: skip


# ---------------------------------------------------------------- tables


def test_tables_for_people(edit: Runner, tmp_path: Path) -> None:
    write_gedit(tmp_path, {task: [gedit_row(task, "en", k, 4, 9) for k in "ab"] for task in GEDIT})
    words = ["eval", "rescore", "gedit", tmp_path, "--language", "en"]
    plain = edit(*words, "-f", "table").stdout.decode()
    assert "ps_human" in plain and "6.000" in plain and "mean over tasks" in plain
    markdown = edit(*words, "-f", "markdown").stdout.decode().splitlines()
    row = next(line for line in markdown if line.startswith("| ps_human"))
    assert row == "| ps_human | 4.0 | 9.0 | 6.0 | too few cases | 6.000 | 2 | 0 | 0 |"
    latex = edit(*words, "-f", "latex", "--scoring", "official").stdout.decode()
    assert r"ps\_human & 4.000 & 9.000 & 6.000 & 2 & 0 & 0 \\" in latex and r"average & 4.000" in latex


def test_the_subset_stands_beside_the_full_set(edit: Runner, tmp_path: Path) -> None:
    rows = {task: [gedit_row(task, "en", "a", 4, 9), gedit_row(task, "en", "b", 1, 4, False)] for task in GEDIT}
    rows["ps_human"].append(gedit_row("ps_human", "en", "c", 9, 9))
    write_gedit(tmp_path, rows)
    words = ["eval", "rescore", "gedit", tmp_path, "-f"]
    markdown = edit(*words, "markdown", "--language", "en").stdout.decode()
    # Over tasks (10 x 6 + 7.5) / 11, over cases (11 x 6 + 9) / 12, where the full set has 4 and less.
    assert "| intersection | 4.2 | 9.0 | 6.1 | too few cases | " in markdown  # most tasks have one case
    assert f"| {67.5 / 11:.3f} | 12 | 0 | 0 |" in markdown and "| … over cases | 4.4 | 9.0 | 6.2 | " in markdown
    assert "- Cases: 23 generated, 23 judged, 0 failed, 0 missing." in markdown
    official = edit(*words, "table", "--scoring", "official", "--language", "en").stdout.decode().splitlines()
    assert any(line.split()[:4] == ["intersection", "4.227", "9.000", "6.136"] for line in official)
    assert max(map(len, official)) <= 80
    latex = edit(*words, "latex").stdout.decode().splitlines()
    places = [latex.index(line) for line in ("% gedit en", "% gedit cn")]
    assert [latex[place + 1][:15] for place in places] == [r"\begin{tabular}"] * 2
    assert "% Cases: 0 generated, 0 judged, 0 failed, unknown missing." in latex
    assert "% Cases: 23 generated, 23 judged, 0 failed, 0 missing." in latex
    edit("eval", "rescore", "gedit", tmp_path, "-o", tmp_path / "r.html")
    assert "Cases: 23 generated, 23 judged" in (tmp_path / "r.html").read_text()


def test_every_table_says_that_the_script_crashes(edit: Runner, tmp_path: Path) -> None:
    place = write_gedit(tmp_path, {task: [gedit_row(task, "en", "a", 4, 9)] for task in GEDIT})
    (place / "m_ps_human_gpt_score.csv").unlink()
    said = "the released script ends with FileNotFoundError"
    for shown in ("table", "markdown", "latex", "json"):
        words = ["eval", "rescore", "gedit", tmp_path, "--scoring", "official", "-f", shown]
        assert edit(*words).stdout.decode().count(said) == 1
    edit("eval", "rescore", "gedit", tmp_path, "-o", tmp_path / "r.html")
    assert said in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize("cells", [("True", "True"), ("True", "7"), ("", "7"), ("nan", "7"), ("yes", "7")])
def test_what_is_no_number_is_no_score(edit, tmp_path, cells):
    """Judges' scripts have written truth values where a score belongs; pandas takes a column of them for numbers."""
    from edittools.suites.gedit import TASKS

    head = "source_image,edited_image,instruction,sementics_score,quality_score,intersection_exist,instruction_language"
    for task in TASKS:
        row = f"m/{task}/en/k_SRCIMG.png,m/{task}/en/k.png,do it,{cells[0]},{cells[1]},True,en"
        (tmp_path / f"m_{task}_gpt_score.csv").write_text(f"{head}\n{row}\n")
    found = rescore(edit, "gedit", tmp_path, "--language", "en")
    assert found["coverage"]["en"]["total"]["judged"] == 0
    assert found["coverage"]["en"]["total"]["failed"] == len(TASKS)


def test_not_one_score_is_no_success(edit: Runner, tmp_path: Path) -> None:
    """All refused: the figures are there, and the exit status says so; a crash of the script with scores stays 0."""
    (tmp_path / "result.json").write_text(json.dumps({"1": "I cannot help with that.", "2": {"error": "x"}}))
    (tmp_path / "meta.json").write_text(json.dumps({key: {"edit_type": "add"} for key in "12"}))
    words = ("eval", "rescore", "imgedit", tmp_path / "result.json", "--meta", tmp_path / "meta.json", "-f", "json")
    done = edit(*words, check=3)
    assert json.loads(done.stdout)["coverage"]["total"]["failed"] == 2
    assert "none of 2 cases has a score" in done.stderr
    (tmp_path / "result.json").write_text(json.dumps({"1": three(3, 3, 3), "2": {"error": "x"}}))
    assert json.loads(edit(*words).stdout)["official"] == {"raises": "AttributeError"}
    (tmp_path / "other.json").write_text(json.dumps({"9": three(3, 3, 3)}))  # of no case of the list
    edit(*words[:3], tmp_path / "other.json", *words[4:], check=3)
    # No Chinese row at all: the script's means are NaN, which is no score.
    write_gedit(tmp_path / "en", {task: [gedit_row(task, "en", "a", 4, 9)] for task in GEDIT})
    done = edit("eval", "rescore", "gedit", tmp_path / "en", "--language", "cn", "-f", "json", check=3)
    assert json.loads(done.stdout)["official_means"]["cn"]["average"]["overall"] == "nan"


@pytest.mark.parametrize("bench", ["gedit", "kris", "heldout", "pairwise", "dataset"])
def test_a_benchmark_alone_says_what_it_takes(edit: Runner, bench: str) -> None:
    words = bench if bench == "dataset" else f"report {bench}"
    first, hint = edit("eval", *words.split(), check=2).stderr.splitlines()
    assert f"edit eval {words} takes" in first and hint.startswith("hint: ")
    if bench in ("gedit", "kris"):
        assert "edited and judged" in first and f"edit eval cases {bench} COPY/ | edit sample" in hint


def test_risebench_table_of_replies(edit: Runner, tmp_path: Path) -> None:
    """What the script writes of the replies into its spreadsheet, saved as CSV or as JSON records, is what they are."""
    kinds = ("temporal", "logical", "causal")
    cases = [{"index": k, "category": f"{kinds[k % 3]}_reasoning", "subtask": "Puzzle Solving"} for k in range(9)]
    replies: dict[str, dict[str, Any]] = {}
    for k in range(9):
        names = ("judge1", "judge2") if k % 3 == 1 else ("judge1", "judge2", "judge3")
        replies[str(k)] = {name: f'so, "{k}"\n' + rise_reply((k + n) % 2 if k % 3 == 1 else 1 + (k + n) % 5)
                           for n, name in enumerate(names)}  # fmt: skip
    replies["0"]["judge1"] = None
    replies["5"]["judge2"] = "Failed to obtain answer via API. "
    (tmp_path / "data.json").write_text(json.dumps(cases))
    (tmp_path / "replies.json").write_text(json.dumps(replies))
    names = {"judge_cons": "judge1", "judge_reas": "judge2", "judge_qua": "judge3"}
    frame = pd.DataFrame([{**case, **{column: replies[str(case["index"])].get(name) for column, name in names.items()}}
                          for case in cases])  # fmt: skip
    frame.to_csv(tmp_path / "t.csv")
    frame.to_json(tmp_path / "t.json", orient="records")
    words = ("--meta", tmp_path / "data.json")
    wanted = rescore(edit, "risebench", tmp_path / "replies.json", *words)
    assert wanted["coverage"]["total"]["judged"] == 7
    for name in ("t.csv", "t.json"):
        assert rescore(edit, "risebench", tmp_path / name, *words) == wanted
    # What is not read says how to make it readable, and that does it.
    for name, way in (("m.pkl", "json.dump(pickle.load("), ("m_judge.xlsx", "read_excel(")):
        (tmp_path / name).write_bytes(pickle.dumps({k: v for k, v in enumerate(replies.values())}))
        said = edit("eval", "rescore", "risebench", tmp_path / name, *words, check=2).stderr
        assert way in said and len(said.splitlines()) == 2
        if name == "m.pkl":
            line = said.splitlines()[1].partition("python -c ")[2].strip('"')
            subprocess.run([sys.executable, "-c", line], check=True)
    assert rescore(edit, "risebench", tmp_path / "m.json", *words) == wanted
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    assert "judge_cons" in rescore(edit, "risebench", tmp_path / "other.csv", *words, check=1)["stderr"]
