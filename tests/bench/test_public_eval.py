"""The whole way of a public benchmark: cases, results, a judge behind an endpoint, scores, report, comparison."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Runner, encode, pixels, rows_of
from test_cases import make_gedit
from test_clients import Server, chat, response

from edittools.bench.compare import compare
from edittools.bench.evaluation import JudgedBenchmark
from edittools.bench.rescoring import rescore
from edittools.errors import EditError, UsageError
from edittools.stream.run import RunOptions, open_input
from edittools.suites import gedit, kris, load_benchmark
from edittools.suites.shared.scores import Score
from edittools.suites.shared.types import JudgedRow, Outputs

VIE = """
_context_no_delimit = "You judge."
_prompts_0shot_two_image_edit_rule = "Two images."
_prompts_0shot_tie_rule_SC = "Semantics of <instruction>"
_prompts_0shot_rule_PQ = "Quality"
"""
# What the judge says of each case by its instruction: SC's two numbers. Quality is always [8, 9].
SEMANTICS = {"en 0": [9, 4], "cn 0": [10, 10], "en 1": [2, 6], "cn 1": None, "en 2": "text", "cn 2": [0, 3]}


def answer(prompt: str, number: int) -> list[bytes]:
    if prompt.endswith("Quality"):
        return [response(200, chat(json.dumps({"reasoning": "clean <i>", "score": [8, 9]})))]
    score = SEMANTICS[prompt.split("Semantics of ")[1]]
    if score is None:
        return [response(200, chat("", finish="content_filter"))]
    if score == "text":
        return [response(200, chat("I cannot give a number."))]
    return [response(200, chat(json.dumps({"reasoning": "as asked", "score": score})))]


def sampled(edit: Runner, tmp_path: Path, shift: int = 0) -> Path:
    """The cases with results that stand in for a model's; one case has none."""
    if not (tmp_path / "hub").exists():
        make_gedit(tmp_path / "hub")
        edit("eval", "cases", "gedit", tmp_path / "hub", "-o", tmp_path / "rows")
    rows = rows_of(tmp_path / "rows")
    table = pq.read_table(tmp_path / "rows" / "00000.parquet")
    results = [encode(pixels(50 + shift + k), "PNG") for k in range(len(rows))]
    made = {name: table[name] for name in ("id", "task", "instruction", "provenance", "case")}
    made["source"] = pa.array([[{"bytes": row["source"][0], "path": None}] for row in rows])
    made["result"] = pa.array([{"bytes": data, "path": None} for data in results])
    path = tmp_path / f"results{shift}.parquet"
    pq.write_table(pa.table(made), path)
    return path


ANYWAY = ("--max-errors", "100%")  # one row in six has no readable reply


@pytest.fixture
def judge(tmp_path: Path) -> Any:
    server = Server(answer)
    (tmp_path / "vie_prompts.py").write_text(VIE)
    yield server
    server.close()


def test_gedit_from_cases_to_report(edit: Runner, tmp_path: Path, judge: Any) -> None:
    results = sampled(edit, tmp_path)
    words = ["judge", results, "--rubric", "gedit", "--prompts", tmp_path / "vie_prompts.py", "--model", "j-1"]
    words += ["--api-base", judge.url, "-o", tmp_path / "judged"]
    plan = edit(*words, "-n").stdout.decode()
    assert "at most 12 calls, about" in plan and "at most" not in plan.split("calls")[1] and not judge.calls
    done = edit(*words, check=3)
    assert "1 of 6 rows failed" in done.stderr and "hint" in done.stderr and "--redo filtered,unparsed" in done.stderr
    assert sum(judge.calls.values()) == 14  # two for each of six cases, and two for what cannot be read
    assert "filtered" in done.stderr
    assert "1 of 6 rows failed" in edit(*words, check=3).stderr and sum(judge.calls.values()) == 14  # all is there
    store = ["--cache-dir", tmp_path / "judged.replies"]
    plan = edit(*words[:-1], tmp_path / "again", *store, "-n").stdout.decode()
    assert "judged.replies: 14 replies; those that" in plan
    rows = rows_of(tmp_path / "judged")
    states = {(row["id"], one["dimension"]): (one["state"], one["score"]) for row in rows for one in row["judgements"]}
    assert states["background_change_en_key_0", "sc"] == ("ok", 4)
    assert states["subject-add_cn_same", "sc"] == ("filtered", None)
    assert states["ps_human_en_same", "sc"] == ("unparsed", None)
    assert states["ps_human_en_same", "pq"] == ("ok", 8)

    out = tmp_path / "official"
    words = ["eval", "report", "gedit", tmp_path / "judged", "--name", "m", "--outputs", out, "-o", tmp_path / "r.html"]
    found = json.loads(edit(*words, "-f", "json", "--meta", tmp_path / "hub").stdout)
    edit(*words, "-f", "json", check=1)  # the report is there
    assert "not empty" in edit(*words[:-2], "-f", "json", check=1).stderr
    assert found["strict"]["en"]["tasks"]["background_change"]["overall"]["mean"] == pytest.approx(math.sqrt(32), 1e-5)
    assert found["macro"]["en"]["overall"]["mean"] == pytest.approx((math.sqrt(32) + 4) / 2, 1e-5)
    assert found["coverage"]["en"]["total"] == {"expected": 3, "generated": 3, "judged": 2, "failed": 1, "missing": 0}
    assert found["coverage"]["cn"]["tasks"]["subject-add"]["failed"] == 1
    # The official files hold what their parser reads, and give the same numbers when they are scored again.
    assert found["official"]["cn"]["semantics"]["background_change"] == 10
    assert found["official"]["en"]["semantics"]["avg_semantics"] == "nan"  # eight tasks have no case here
    again = json.loads(edit("eval", "rescore", "gedit", out, "-f", "json").stdout)
    assert again["official"] == found["official"]
    assert again["strict"]["en"]["tasks"]["subject-add"] == found["strict"]["en"]["tasks"]["subject-add"]
    assert (out / "m" / "gpt4o" / "eval_results_new" / "m_ps_human_gpt_score.csv").exists()
    page = (tmp_path / "r.html").read_text()
    assert "m (here)" in page and "The judge beside people" not in page
    assert "clean &lt;i&gt;" in page and "clean <i>" not in page and "data:image/png;base64," in page  # tiny: exact
    assert json.loads((tmp_path / "r.json").read_text()) == found
    assert "j-1" not in found["judge"]["endpoint"] and found["judge"]["endpoint"].startswith("http://127.0.0.1")


def test_rows_about_which_nothing_is_asked_are_told(edit: Runner, tmp_path: Path) -> None:
    """A benchmark's own name of a task says nothing to our rubrics: without a word, a run without scores looks done."""
    (tmp_path / "a.png").write_bytes(encode(pixels(1), "PNG"))
    row = {"source": "a.png", "result": "a.png", "instruction": "Blue.", "task": "color_alter"}
    (tmp_path / "r.jsonl").write_text("\n".join(json.dumps({**row, "id": str(k)}) for k in range(3)))
    words = ["judge", tmp_path / "r.jsonl", "--rubric", "dimensions", "--model", "x", "--backend", "echo"]
    done = edit(*words, "-o", tmp_path / "judged")
    assert "judge: nothing to ask about 3 rows; the first: " in done.stderr and "color_alter" in done.stderr
    assert "nothing to ask" not in edit(*words, "-q", "-o", tmp_path / "quiet").stderr


def test_one_language_of_judged_rows(edit: Runner, tmp_path: Path, judge: Any) -> None:
    results = sampled(edit, tmp_path)
    words = ["judge", results, "--rubric", "gedit", "--prompts", tmp_path / "vie_prompts.py"]
    edit(*words, *ANYWAY, "--model", "j", "--api-base", judge.url, "-o", tmp_path / "judged")
    every = json.loads(edit("eval", "report", "gedit", tmp_path / "judged", "-f", "json").stdout)
    for given, language in (("en", "en"), ("eng", "en"), ("cn", "cn"), ("zh", "cn")):
        words = ["eval", "report", "gedit", tmp_path / "judged", "--language", given, "-f", "json"]
        found = json.loads(edit(*words, "--meta", tmp_path / "hub").stdout)
        assert list(found["macro"]) == list(found["official"]) == [language]
        mine, whole = found["strict"][language]["tasks"], every["strict"][language]["tasks"]
        assert mine == {task: whole[task] for task in mine} and len(whole) == 11  # without a list: all of the benchmark
        assert any("3 rows in another language" in note for note in found["notes"])
        assert found["coverage"][language]["total"]["expected"] == 3
    assert "en, eng, cn, zh" in edit("eval", "report", "gedit", tmp_path / "judged", "--language", "fr", check=2).stderr
    # A task of no benchmark in rows from elsewhere becomes no path, and is no KeyError.
    table = pq.read_table(results)
    cases = [case | {"task": "../x"} for case in table["case"].to_pylist()]
    judgements = pq.read_table(tmp_path / "judged" / "00000.parquet")["judgements"]
    named = table.drop_columns("case").append_column("case", pa.array(cases))
    pq.write_table(named.append_column("judgements", judgements), tmp_path / "named.parquet")
    assert "'../x' is no task" in edit("eval", "report", "gedit", tmp_path / "named.parquet", check=1).stderr


def cases_of(tmp_path: Path, name: str) -> tuple[Path, dict[str, str]]:
    """A tiny copy of a benchmark with two cases, and made-up texts of its judge."""
    copy = tmp_path / name
    texts = {}
    if name == "imgedit":
        listed: Any = {k: {"id": f"{k}.jpg", "prompt": f"do {k}", "edit_type": kind} for k, kind in
                       (("1", "add"), ("2", "replace"))}  # fmt: skip
        files, list_name = {"1.jpg": 1, "2.jpg": 2}, "singleturn.json"
        texts = {"add": "Rate <edit_prompt>", "replace": "Rate <edit_prompt>"}
    elif name == "rededit":
        listed = [{"id": k, "task": task, "source": f"redbench/{k}.png", "a_to_b_instructions": f"做 {k}"}
                  for k, task in (("1", "lowlevel"), ("2", "portrait"))]  # fmt: skip
        files, list_name = {"redbench/1.png": 1, "redbench/2.png": 2}, "redbench.jsonl"
        texts = {"lowlevel": "Rate <edit_prompt>", "portrait": "Rate <edit_prompt>"}
    elif name == "risebench":
        listed = [
            {"index": "t_1", "category": "temporal_reasoning", "instruction": "do 1", "image": "1.png",
             "reference": "old", "subtask": "Life Progression"},
            {"index": "l_2", "category": "logical_reasoning", "instruction": "do 2", "image": "2.png",
             "reference_img": "3.png", "subtask": "Puzzle Solving"},
        ]  # fmt: skip
        files, list_name = {"1.png": 1, "2.png": 2, "3.png": 3}, "data_total.json"
        names = ("prompt_consist", "prompt_reasoning", "prompt_generation", "prompt_spatial_cons",
                 "prompt_logical_cons", "prompt_logical_img")  # fmt: skip
        texts = {key: "Rate {instruct}" if key != "prompt_generation" else "Rate" for key in names}
    else:
        listed = {"1": {"ori_img": "1.png", "ins_en": "do 1", "explain_en": "why"}}
        files, list_name = {"biology/1.png": 1, "color_change/1.png": 2}, "biology/annotation.json"
        names = ("prompt_consist", "prompt_quality", "prompt_instruction_following", "prompt_dual_evaluation")
        texts = {key: f"{key} {{instruct}}" if key != "prompt_quality" else key for key in names}
        texts["prompt_dual_evaluation"] += " {explanation}"
    for file, seed in files.items():
        (copy / file).parent.mkdir(parents=True, exist_ok=True)
        (copy / file).write_bytes(encode(pixels(seed), "PNG"))
    lines = "\n".join(map(json.dumps, listed)) if list_name.endswith("l") else json.dumps(listed)
    (copy / list_name).write_text(lines)
    if name == "kris":
        (copy / "color_change" / "annotation.json").write_text(lines)
    return copy, texts


REPLIES = {
    "imgedit": lambda prompt: "Brief reasoning: r\nPrompt Compliance: 4\nVisual Naturalness: 5\nCoherence: 3",
    "rededit": lambda prompt: "Brief reasoning: r\nPrompt Compliance: 2\nVisual Naturalness: 2\nCoherence: 5",
    "risebench": lambda prompt: "r\n**Final Score**: 1" if "do 2" in prompt else "r\n**Final Score**: 4",
    "kris": lambda prompt: json.dumps({f"{name}_score": 3 for name in
                                       ("consistency", "quality", "instruction", "knowledge")}),
}  # fmt: skip
# Ours and the script's overall mean, by hand. ImgEdit: (4 + 4 capped + 3) / 3 and (4 + 5 + 3) / 3; REDEdit: 2 and
# (2 + 2 + 5) / 3; RISEBench: temporal 4 is 75, logical 1 and 1 are 5 and 5: 100; KRIS: 3 is 50.
MEANS = {"imgedit": (11 / 3, 4.0), "rededit": (2.0, 3.0), "risebench": (87.5, 87.5), "kris": (50.0, 50.0)}


def judged_rows(
    edit: Runner,
    tmp_path: Path,
    name: str,
    copy: Path,
    words: list[Any],
    server: Any,
    suite: tuple[str, ...] = (),
    check: int = 0,
) -> Path:
    """The cases of a copy, judged with `words`; random images stand in for a model's results."""
    edit("eval", "cases", name, copy, *suite, "-o", tmp_path / "rows")
    table = pq.read_table(tmp_path / "rows" / "00000.parquet")
    rows = rows_of(tmp_path / "rows")
    made = {key: table[key] for key in ("id", "task", "instruction", "provenance", "case")}
    made["source"] = pa.array([[{"bytes": row["source"][0], "path": None}] for row in rows])
    made["result"] = pa.array([{"bytes": encode(pixels(70 + k), "PNG"), "path": None} for k in range(len(rows))])
    pq.write_table(pa.table(made), tmp_path / "results.parquet")
    edit("judge", tmp_path / "results.parquet", *words, "--model", "j", "--api-base", server.url,
         "-o", tmp_path / "judged", *ANYWAY, check=check)  # fmt: skip
    return tmp_path / "judged"


@pytest.mark.parametrize("name", MEANS)
def test_every_benchmark_is_judged_in_its_own_protocol(edit: Runner, tmp_path: Path, name: str) -> None:
    copy, texts = cases_of(tmp_path, name)
    server = Server(lambda prompt, number: [response(200, chat(REPLIES[name](prompt)))])
    try:
        prompts = tmp_path / {"imgedit": "prompts.json", "rededit": "prompts.json", "risebench": "utils.py",
                              "kris": "prompts.py"}[name]  # fmt: skip
        python = "".join(f"{key} = {text!r}\n" for key, text in texts.items())
        prompts.write_text(json.dumps(texts) if prompts.suffix == ".json" else python)
        judged_rows(edit, tmp_path, name, copy, ["--rubric", name, "--prompts", prompts], server)
    finally:
        server.close()
    out = tmp_path / "official"
    found = json.loads(edit("eval", "report", name, tmp_path / "judged", "--outputs", out, "-f", "json",
                            "-o", tmp_path / "r.html").stdout)  # fmt: skip
    metric = next(iter(found["macro"]))
    ours, theirs = MEANS[name]
    assert found["macro"][metric]["mean"] == pytest.approx(ours, 1e-5), found["strict"]["reasons"]
    assert found["coverage"]["total"]["judged"] == 2 and found["coverage"]["total"]["failed"] == 0
    official = found["official"]
    mean = {
        "imgedit": lambda: sum(official["typescore"].values()) / 2,
        "rededit": lambda: official["final_score"],
        "risebench": lambda: official["summary"]["Overall"]["Score-Percentage"],
        "kris": lambda: official["overall"]["AVG"],
    }[name]()
    assert mean == pytest.approx(theirs)
    summaries = {
        "imgedit": {"average_score.json": official.get("average_score"), "typescore.json": official.get("typescore")},
        "rededit": {"score_summary.json": official},
    }.get(name, {})
    for file, content in summaries.items():
        assert json.loads((out / file).read_text()) == content


def judged_case(task: str, **replies: str) -> JudgedRow:
    case = {"key": "1", "task": task, "language": "en", "subset": False, "source_path": "s.png", "result_path": "r.png"}
    return JudgedRow("1", case, "do it", [], replies, None, None)


_KRIS = ("consistency", "quality", "instruction")


@pytest.mark.parametrize(
    ("task", "said", "null"),
    [
        ("count_change", dict.fromkeys(_KRIS, 5), 2),
        ("viewpoint_change", dict.fromkeys(_KRIS, 5), 2),
        ("temporal_prediction", dict.fromkeys(_KRIS, 3), 2),
        ("multi-element_composition", dict.fromkeys(_KRIS, 3), 2),
        ("biology", {"consistency": 3, "quality": 3, "instruction": None, "knowledge": None}, None),
    ],
)
def test_kris_replies_are_read_as_by_the_script_of_their_category(
    tmp_path: Path, task: str, said: dict[str, int | None], null: int | None
) -> None:
    """The numbers are those of metrics_common.py, metrics_view_change.py, metrics_temporal_prediction.py,
    metrics_multi_element.py and metrics_knowledge.py for the same replies."""
    words = {call: f"Out of 3 dogs two are left: {call} score 5" for call in _KRIS}
    nulls = json.dumps({f"{call}_score": None for call in _KRIS} | {"reasoning": "2 dogs"})
    given = ((words, said), (dict.fromkeys(_KRIS, nulls), dict.fromkeys(said, null)))
    for number, (replies, expected) in enumerate(given):
        kris.BENCHMARK.write([judged_case(task, **replies)], tmp_path / str(number), "m")
        written = json.loads((tmp_path / str(number) / task / "metrics.json").read_text())
        assert written == {"1": {f"{name}_score": score for name, score in expected.items()}}


def test_gedit_numbers_that_have_no_root_give_no_row(tmp_path: Path) -> None:
    """VIEScore.evaluate ends with an OverflowError there, and asks again."""
    row = judged_case("ps_human", SC='{"score": [1' + "0" * 400 + "]}", PQ='{"score": [9, 8]}')
    outputs = gedit.BENCHMARK.write([row], tmp_path, "m")
    assert len((outputs.path / "m_combined_gpt_score.csv").read_text().splitlines()) == 1


@pytest.mark.parametrize("lost", ["judge1", "judge3"])
def test_risebench_calls_without_a_reply_are_not_calls_that_were_not_made(
    edit: Runner, tmp_path: Path, lost: str
) -> None:
    """gpt_eval.py keeps its own words as the reply. With these, its main() has no number for the first case, and
    where no case has one for quality, it ends with a TypeError."""
    copy, texts = cases_of(tmp_path, "risebench")
    listed = json.loads((copy / "data_total.json").read_text())
    listed.append(listed[0] | {"index": "t_3", "instruction": "do 3"})
    (copy / "data_total.json").write_text(json.dumps(listed))
    texts["prompt_consist"] = "Compare {instruct}"
    prompt = {"judge1": "Compare do 1", "judge3": "Rate"}[lost]
    filtered = response(200, chat("", finish="content_filter"))
    server = Server(lambda said, n: [filtered if said == prompt else response(200, chat("Final Score: 1"))])
    try:
        (tmp_path / "utils.py").write_text("".join(f"{key} = {text!r}\n" for key, text in texts.items()))
        words = ["--rubric", "risebench", "--prompts", tmp_path / "utils.py"]
        judged = judged_rows(edit, tmp_path, "risebench", copy, words, server)
    finally:
        server.close()
    found = json.loads(edit("eval", "report", "risebench", judged, "--outputs", tmp_path / "out", "-f", "json").stdout)
    replies = json.loads((tmp_path / "out" / "replies.json").read_text())
    kept = dict.fromkeys(("judge1", "judge2", "judge3"), "Final Score: 1")
    assert replies["t_1"] == kept | {lost: "Failed to obtain answer via API. "}
    assert list(replies["l_2"]) == ["judge1", "judge2"]
    if lost == "judge1":
        assert found["official"]["summary"]["Overall_Reasoning"]["Score-Origin"] == 3  # of l_2 and t_3: 5 and 1
    else:
        assert found["official"] == {"raises": "TypeError"}


def test_a_model_is_named_as_on_the_hub(edit: Runner, tmp_path: Path, judge: Any) -> None:
    words = ["judge", sampled(edit, tmp_path), "--rubric", "gedit", "--prompts", tmp_path / "vie_prompts.py"]
    edit(*words, *ANYWAY, "--model", "j", "--api-base", judge.url, "-o", tmp_path / "judged")
    words = ["--name", "Qwen/Qwen-Image-Edit", "-f", "json", "-o", tmp_path / "r.html", "--overwrite"]
    found = edit("eval", "report", "gedit", tmp_path / "judged", *words, "--outputs", tmp_path / "out")
    found = json.loads(found.stdout)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["Qwen_Qwen-Image-Edit"]
    assert "Qwen/Qwen-Image-Edit (here)" in (tmp_path / "r.html").read_text()
    again = json.loads(edit("eval", "rescore", "gedit", tmp_path / "out", *words).stdout)
    assert again["official"] == found["official"]
    edit("eval", "report", "gedit", tmp_path / "judged", "--name", "..", "--outputs", tmp_path / "deep" / "out")
    assert [path.name for path in (tmp_path / "deep").rglob("*_combined_gpt_score.csv")] == ["__combined_gpt_score.csv"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]

    # The same benchmark without a script of its own has our numbers, and no official ones.
    alone = dataclasses.replace(load_benchmark("gedit"), write=None, rescore=None)
    judged = open_input([str(tmp_path / "judged")], RunOptions())
    mine = JudgedBenchmark(alone, judged, "Qwen/Qwen-Image-Edit").summary(None, 0)
    assert (
        mine["strict"] == found["strict"] and mine["macro"] == found["macro"] and mine["coverage"] == found["coverage"]
    )
    assert not any(mine["official"].values()) and not any(mine["official_means"].values())
    with pytest.raises(UsageError, match="has no script of its own"):
        rescore(alone, Outputs(tmp_path / "out"), 0)
    with pytest.raises(EditError, match="one without the other"):
        dataclasses.replace(alone, write=load_benchmark("gedit").write)


def test_the_judge_beside_people(edit: Runner, tmp_path: Path, judge: Any) -> None:
    words = ["judge", sampled(edit, tmp_path), "--rubric", "gedit", "--prompts", tmp_path / "vie_prompts.py"]
    edit(*words, *ANYWAY, "--model", "j", "--api-base", judge.url, "-o", tmp_path / "judged")
    # SC as judged: 4, 10, 2, none, none, 0. People say 5, 10, 6 and 3: two of the three judged rows within 1.
    said = {"background_change_en_key_0": 5, "background_change_cn_key_0": 10, "subject-add_en_same": 6,
            "ps_human_en_same": 3}  # fmt: skip
    lines = [f"{identity},sc,{rater},{score}" for identity, score in said.items() for rater in ("r1", "r2")]
    (tmp_path / "people.csv").write_text("id,dimension,rater,score\n" + "\n".join(lines) + "\n")
    words = ["eval", "report", "gedit", tmp_path / "judged", "--humans", tmp_path / "people.csv", "-f", "json"]
    found = json.loads(edit(*words, "-o", tmp_path / "r.html").stdout)["agreement"]["sc"]
    assert found["within_one"] == pytest.approx(2 / 3) and found["alpha_humans"] == 1
    assert found["rows"] == 3 and found["unjudged"] == 1
    assert "The judge beside people" in (tmp_path / "r.html").read_text()


def test_no_reply_is_paid_for_twice(edit: Runner, tmp_path: Path, judge: Any) -> None:
    results = sampled(edit, tmp_path)
    words = ["judge", results, "--rubric", "gedit", "--prompts", tmp_path / "vie_prompts.py", "--model", "j-1"]
    words += [*ANYWAY, "--api-base", judge.url, "--cache-dir", tmp_path / "store"]
    edit(*words, "-o", tmp_path / "one")
    first = sum(judge.calls.values())
    edit(*words, "-o", tmp_path / "two")
    assert sum(judge.calls.values()) == first  # what could not be read neither
    edit(*words, "-o", tmp_path / "two", "--redo", "unparsed")
    assert sum(judge.calls.values()) == first + 3  # all of its tries
    one, two = (rows_of(tmp_path / name) for name in ("one", "two"))
    assert one == two
    limited = [*words, "-o", tmp_path / "x", "--max-cost", "1"]
    assert "j-1" in edit(*limited, check=None).stderr  # no price is known
    for option, value in (("--temperature", "nan"), ("--rpm", "0"), ("--max-cost", "-1")):
        edit(*words, "-o", tmp_path / "x", option, value, check=2)
    assert "--max-cost" in edit(*limited, "--ray=local", check=2).stderr
    assert "--cache-dir" in edit(*words[:-2], "-f", "jsonl", check=2).stderr


def test_how_the_judge_is_asked(edit: Runner, tmp_path: Path, judge: Any) -> None:
    results = sampled(edit, tmp_path)
    words = ["judge", results, "--rubric", "gedit", "--prompts", tmp_path / "vie_prompts.py", "-o", tmp_path / "x"]
    endpoint = [*words, "--model", "j", "--api-base", judge.url]
    edit(*endpoint, "--max-tokens", 77, "--timeout", 20, *ANYWAY)
    assert {body["max_tokens"] for body in judge.bodies} == {77}
    (tmp_path / "checkpoint").mkdir()
    local = [*words, "--model", tmp_path / "checkpoint", "--backend", "local"]
    for wrong, says in (
        ([*endpoint, "--image-pixels", "100..200"], "--image-pixels is for a model in this process"),
        ([*local, "--timeout", "5"], "--timeout is for an endpoint"),
        ([*local, "--image-pixels", "200..100"], "is not MIN..MAX"),
        ([*local, "--repeats", "3"], "hint: --temperature 1"),
        ([*local, "--repeats", "3", "--temperature", "0"], "hint: --temperature 1"),
    ):
        assert says in edit(*wrong, check=2).stderr


def test_models_compared(edit: Runner, tmp_path: Path, judge: Any) -> None:
    for shift in (0, 10):
        words = ["judge", sampled(edit, tmp_path, shift), "--rubric", "gedit", "--model", "j", *ANYWAY]
        words += ["--prompts", tmp_path / "vie_prompts.py", "--api-base", judge.url, "-o", tmp_path / f"j{shift}"]
        edit(*words)
    words = ["eval", "compare", "gedit", f"model={tmp_path / 'j0'}", f"other={tmp_path / 'j10'}", "-f", "json"]
    found = json.loads(edit(*words).stdout)["comparison"]
    assert "over 4 common cases" in edit(*words[:-1], "table").stdout.decode()
    latex = edit(*words[:-1], "latex").stdout.decode()
    assert "over 4 common cases" in latex and "\nother & 4 & " in latex
    assert found["cases"] == 4 and found["models"]["other"]["difference"] == 0
    assert found["models"]["other"]["won"] == found["models"]["other"]["lost"] == 0
    assert "NAME=PATH" in edit("eval", "compare", "gedit", f"model={tmp_path / 'j0'}", "x", check=2).stderr
    edit("eval", "report", "imgedit", tmp_path / "j0", check=1)
    edit("eval", "report", "gedit", tmp_path / "rows", check=2)


def test_every_two_models_and_another_judge(edit: Runner, tmp_path: Path, judge: Any) -> None:
    """The second judge gives one case 4 more, fails another, and is asked about the same results."""
    words = ["--rubric", "gedit", "--prompts", tmp_path / "vie_prompts.py", *ANYWAY]
    edit("judge", sampled(edit, tmp_path), *words, "--model", "j", "--api-base", judge.url, "-o", tmp_path / "j")
    moved = {"en 1": [6, 6], "cn 2": "text"}

    def other(prompt: str, number: int) -> list[bytes]:
        said = moved.get(prompt.split("Semantics of ")[-1])
        if said is None:
            return answer(prompt, number)
        return [response(200, chat("none" if said == "text" else json.dumps({"score": said})))]

    server = Server(other)
    try:
        edit("judge", sampled(edit, tmp_path), *words, "--model", "k", "--api-base", server.url, "-o", tmp_path / "k")
    finally:
        server.close()
    words = ["eval", "report", "gedit", tmp_path / "j", "--judge-run", f"k={tmp_path / 'k'}"]
    run = json.loads(edit(*words, "-f", "json").stdout)["judge_runs"]["k"]
    # Judged by both: en 0 and en 1, cn 0; of these en 1 went from sqrt(2 x 8) to sqrt(6 x 8).
    assert run["cases"] == 3 and run["moves"] == 1 and run["same"] == pytest.approx(2 / 3)
    assert run["moved"][0]["id"].endswith("en_same") or "en" in run["moved"][0]["id"]
    assert run["moved"][0]["change"] == pytest.approx(math.sqrt(48) - 4, 1e-4)
    assert run["only_other"] == [] and len(run["only_first"]) == 1 and "text" not in run["only_first"][0]
    assert run["within_one"] == pytest.approx(2 / 3) and run["interval"] is None  # three cases
    shown = edit(*words, "-f", "markdown").stdout.decode()
    assert "**Another judge: k**" in shown and "**Cases that moved: 1, the farthest first**" in shown
    # Three models: every two of them.
    three = [f"{name}={tmp_path / path}" for name, path in (("b", "j"), ("c", "k"))]
    words = ["eval", "compare", "gedit", f"model={tmp_path / 'j'}", *three]
    found = json.loads(edit(*words, "-f", "json").stdout)["comparison"]
    named = {(pair["first"], pair["second"]): pair["difference"] for pair in found["pairs"]}
    assert list(named) == [("model", "b"), ("model", "c"), ("b", "c")]
    assert named["model", "b"] == 0 and named["b", "c"] == named["model", "c"]
    assert named["b", "c"] == pytest.approx((math.sqrt(48) - 4) / 2, 1e-4)
    assert "**Every two models**" in edit(*words, "-f", "markdown").stdout.decode()


def test_several_judges_of_one_set(edit: Runner, tmp_path: Path, judge: Any) -> None:
    """Named judges stand side by side: one of them is chosen, and that is told; the other can be compared to it."""
    server = Server(lambda prompt, number: [response(200, {**chat('{"score": [10, 10]}'), "model": "k-1"})])
    words = ["--rubric", "gedit", "--prompts", tmp_path / "vie_prompts.py", *ANYWAY]
    try:
        edit("judge", sampled(edit, tmp_path), *words, "--model", "j", "--api-base", judge.url, "-o", tmp_path / "one")
        edit("judge", tmp_path / "one", *words, "--judge", "kind", "--model", "k", "--api-base", server.url,
             "-o", tmp_path / "two")  # fmt: skip
    finally:
        server.close()
    words = ["eval", "report", "gedit", tmp_path / "two", "-f", "json"]
    found = json.loads(edit(*words, "--judge", "plain", "--judge-run", f"kind={tmp_path / 'two'}").stdout)
    assert found["macro"]["en"]["overall"]["mean"] == pytest.approx((math.sqrt(32) + 4) / 2, 1e-5)
    assert found["judge_runs"]["kind"]["judges"] == [found["judge"]["judge"], "k-1"]
    assert found["judge_runs"]["kind"]["cases"] == 4 and len(found["judge_runs"]["kind"]["only_other"]) == 2
    kind = json.loads(edit(*words, "--judge", "kind").stdout)
    assert kind["macro"]["en"]["overall"]["mean"] == 10 and kind["judge"]["judge"] == "k-1"
    assert "judged by: plain, kind" in edit(*words, "--judge", "nobody", check=2).stderr


def test_the_difference_is_paired() -> None:
    """Worked by hand: B is one point above A in every common case, whatever the spread between cases."""
    a = [Score(str(k), "add" if k < 6 else "style", {"s": float(k)}) for k in range(12)]
    b = [Score(str(k), "add" if k < 6 else "style", {"s": float(k) + 1}) for k in range(1, 13)]
    b.append(Score("0", "add", {}, "failed", "x"))
    found = compare({"a": a, "b": b}, "s", (0, 12), seed=0)
    assert found["cases"] == 11  # 1 to 11
    assert found["models"]["b"]["difference"] == pytest.approx(1)
    # The cases' own differences are all 1, so the doubt is that of further cases: one in 5 of each of two tasks, each
    # with half of the weight, that may be 12 better or worse: below 31% of the whole, 97.5% of the time.
    further = 1 - 0.025 ** (1 / 10)
    assert found["models"]["b"]["interval"] == pytest.approx([1 - further * 13, 1 + further * 11], abs=0.15)
    assert found["models"]["b"]["won"] == 1 and found["models"]["a"]["macro"] == pytest.approx((3 + 8.5) / 2)
    with pytest.raises(EditError):
        compare({"a": a, "b": [Score("99", "add", {"s": 1.0})]}, "s", (0, 12), seed=0)


def test_the_rubric_is_the_one_that_judged_the_rows(edit: Runner, tmp_path: Path, judge: Any) -> None:
    """A second rubric of a benchmark counts as its first does, from files and from a pipe, which is read once."""
    results = sampled(edit, tmp_path)
    words = ["judge", results, "--rubric", "gedit_qwen", "--prompts", tmp_path / "vie_prompts.py", "--model", "j"]
    edit(*words, *ANYWAY, "--api-base", judge.url, "-o", tmp_path / "judged")
    found = edit("eval", "report", "gedit", tmp_path / "judged", "-f", "json", "--outputs", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out" / "model").iterdir()] == ["qwen25vl"]
    assert json.loads(found.stdout)["macro"]["en"]["overall"]["mean"] == pytest.approx((math.sqrt(32) + 4) / 2, 1e-5)
    piped = edit.pipe(["cat", tmp_path / "judged"], ["eval", "report", "gedit", "-f", "json"])[-1]
    assert piped.stdout == found.stdout and json.loads(piped.stdout)["judge"]["rubric"] == "gedit_qwen"
    # Judged by both: the one that has the benchmark's name.
    edit("judge", tmp_path / "judged", "--rubric", "gedit", "--prompts", tmp_path / "vie_prompts.py", "--model", "k",
         "--api-base", judge.url, "-o", tmp_path / "twice", *ANYWAY)  # fmt: skip
    twice = json.loads(edit("eval", "report", "gedit", tmp_path / "twice", "-f", "json").stdout)
    assert twice["judge"]["rubric"] == "gedit"


def test_the_second_suite_of_imgedit_out_of_a_pipe(edit: Runner, tmp_path: Path) -> None:
    copy = tmp_path / "hard"
    copy.mkdir()
    (copy / "3.jpg").write_bytes(encode(pixels(3)))
    (copy / "UGE_edit.json").write_text(json.dumps({"1": {"id": "3.jpg", "prompt": "The third from the left."}}))
    (tmp_path / "UGE_bench.py").write_text('prompt = "Rate <edit_prompt>"\n')
    server = Server(lambda prompt, number: [response(200, chat("Reason.\nFinal Score: 4"))])
    try:
        words = ["--rubric", "uge", "--prompts", tmp_path / "UGE_bench.py"]
        judged = judged_rows(edit, tmp_path, "imgedit", copy, words, server, ("--suite", "uge"))
    finally:
        server.close()
    (row,) = rows_of(judged)
    assert [(one["rubric"], one["score"]) for one in row["judgements"]] == [("uge", 4)]
    piped = edit.pipe(["cat", judged], ["eval", "report", "imgedit", "-f", "json"])[-1]
    found = json.loads(piped.stdout)
    assert found["macro"]["score"]["mean"] == 4 and found["official"] == {"average": 4}
    assert found["coverage"]["total"]["judged"] == 1


def test_the_text_subset_by_questions_and_ocr(edit: Runner, tmp_path: Path) -> None:
    """The rubric `text` is none of the benchmark's: all its cases used to count as failed."""
    copy = tmp_path / "red"
    said = {"1": "改成“春”", "2": "改成“夏”", "3": "去掉文字", "4": "改成“秋”", "5": "加一只猫"}
    (copy / "redbench").mkdir(parents=True)
    for key in said:
        (copy / "redbench" / f"{key}.png").write_bytes(encode(pixels(int(key)), "PNG"))
    lines = [{"id": key, "task": "add" if key == "5" else "text", "source": f"redbench/{key}.png",
              "a_to_b_instructions": text} for key, text in said.items()]  # fmt: skip
    (copy / "redbench.jsonl").write_text("\n".join(map(json.dumps, lines)))

    def answer(prompt: str, number: int) -> list[bytes]:
        if "夏" in prompt:
            return [response(200, chat("no numbers"))]
        rated = {"success": 5 if "春" in prompt else 2, "over": 4, "style": 3, "consistency": 1}
        return [response(200, chat(json.dumps({"rationale": "r", **rated})))]

    server = Server(answer)
    try:
        judged = judged_rows(edit, tmp_path, "rededit", copy, ["--rubric", "text"], server)
    finally:
        server.close()
    words = ["eval", "report", "rededit", judged, "--suite", "text", "-f"]
    found = json.loads(edit(*words, "json", "--meta", copy).stdout)
    # Success of cases 1, 3 and 4 is 5, 2 and 2; case 5 is of another task.
    assert found["metrics"]["success"]["mean"] == 3 and found["metrics"]["over"]["mean"] == 4
    assert found["metrics"]["success"]["interval"] is None and list(found["metrics"])[-1] == "consistency"
    assert found["coverage"]["style"] == {"expected": 4, "generated": 4, "judged": 3, "failed": 1, "missing": 0}
    page = tmp_path / "text.html"
    edit(*words, "json", "-o", page, "--title", "Texts <1>")
    assert json.loads((tmp_path / "text.json").read_text())["coverage"] == {
        name: {"expected": None, "generated": 4, "judged": 3, "failed": 1, "missing": 0} for name in found["metrics"]
    }
    html = page.read_text()
    assert "Texts &lt;1&gt;" in html and html.count('<article class="case judged"') == 4
    assert html.count('data-state="failed"') == 1 and "no numbers" in html and html.count('src="data:image') == 8
    assert 'data-score="3.25"' in html and 'data-score="2.5"' in html  # (5 + 4 + 3 + 1) / 4, (2 + 4 + 3 + 1) / 4
    # What an engine would have read: nothing is asked of case 3, which names no text, and nothing came of case 4.
    table = pq.read_table(tmp_path / "results.parquet")
    read = {"text_cn_1": 1.0, "text_cn_2": 0.5}
    scores = pa.array([{"ocr": read.get(key)} for key in table["id"].to_pylist()], pa.struct([("ocr", pa.float64())]))
    pq.write_table(table.append_column("scores", scores), tmp_path / "read.parquet")
    words = ["eval", "report", "rededit", tmp_path / "read.parquet", "--suite", "text", "-f"]
    found = json.loads(edit(*words, "json", "--meta", copy, "--language", "zh").stdout)
    assert found["metrics"] == {"ocr": {"n": 2, "mean": 0.75, "interval": None}}
    assert found["coverage"]["ocr"] == {"expected": 3, "generated": 3, "judged": 2, "failed": 1, "missing": 0}
    assert "| ocr | 0.8 | too few cases | – | 3 | 2 | 1 | 0 |" in edit(*words, "markdown").stdout.decode()
    edit(*words, "json", "--language", "en", check=1)
    assert "--ocr" in edit("eval", "report", "rededit", tmp_path / "results.parquet", "--suite", "text", check=2).stderr
    assert "--outputs" in edit(*words, "json", "--outputs", tmp_path / "o", check=2).stderr
    listed = edit("eval", "cases", "rededit", copy, "--suite", "text", "-f", "jsonl").lines
    assert [row["case"]["key"] for row in listed] == ["1", "2", "3", "4"]


def test_rows_that_nobody_judged_are_counted_as_such(edit: Runner, tmp_path: Path) -> None:
    """A suite is no rubric's name: `basic` used to be asked for as one."""
    copy, _ = cases_of(tmp_path, "imgedit")
    server = Server(lambda prompt, number: [response(200, chat("no numbers"))])
    try:
        words = ["--rubric", "dimensions", *ANYWAY]
        judged = judged_rows(edit, tmp_path, "imgedit", copy, words, server, ("--suite", "basic"))
    finally:
        server.close()
    done = edit("eval", "report", "imgedit", judged, "-f", "json", check=3)
    found = json.loads(done.stdout)
    assert found["coverage"]["total"]["failed"] == 2 and "none of 2 cases has a score" in done.stderr
    assert found["strict"]["reasons"] == {"not judged by this rubric": 2}


def test_a_run_in_which_every_row_is_refused_is_no_success(edit: Runner, tmp_path: Path) -> None:
    """Refusals count against no limit, so the run used to end with 0 and without one score."""
    copy, _ = cases_of(tmp_path, "imgedit")
    server = Server(lambda prompt, number: [response(200, chat(None, refusal="I cannot help with that."))])
    try:
        words = ["--rubric", "dimensions"]
        judged_rows(edit, tmp_path, "imgedit", copy, words, server, ("--suite", "basic"), check=3)
    finally:
        server.close()
