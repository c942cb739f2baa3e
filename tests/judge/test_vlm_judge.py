"""The stage that has a model judge rows: states, columns, order, passes."""

from __future__ import annotations

import contextlib
import json
import math
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from conftest import image

from edittools.bench.case_list import CASE
from edittools.errors import EditError, UsageError
from edittools.judge.rubrics import load_rubric
from edittools.judge.stage import COLUMN, JUDGEMENT, STATES, VlmJudgeStage, calls_of, mean_interval
from edittools.record import IMAGE, PROVENANCE, TEXT
from edittools.stream.batch import Batch, Shard
from edittools.stream.input_reader import reference
from edittools.vlm import EncodedImage, Reply, Request
from edittools.vlm.images import Encoding

Answer = Callable[[Request], Reply]
SCHEMA = pa.schema(
    [
        ("id", pa.string()), ("task", pa.string()), ("source", pa.list_(IMAGE)), ("target", IMAGE),
        ("instruction", TEXT), ("provenance", PROVENANCE), ("scores", pa.struct([("visible", pa.float64())])),
    ]
)  # fmt: skip


def image_value(seed: int) -> dict[str, Any]:
    return reference(bytes=image(seed, "PNG"), width=40, height=32, format="png")


def row(name: str, **given: Any) -> dict[str, Any]:
    usual = {
        "id": name, "task": "add", "source": [image_value(1)], "target": image_value(2),
        "instruction": {"en": f"edit {name}", "zh": f"编辑{name}"}, "provenance": None, "scores": {"visible": 1.0},
    }  # fmt: skip
    return {**usual, **given}


def batches(*groups: list[dict[str, Any]], schema: pa.Schema = SCHEMA) -> list[Batch]:
    return [
        Batch(pa.RecordBatch.from_pylist(rows, schema=schema), Shard(0, 1, ""), k == len(groups) - 1, len(rows))
        for k, rows in enumerate(groups)
    ]


def three(compliance: int, naturalness: int, coherence: int) -> Reply:
    scores = {"compliance": compliance, "naturalness": naturalness, "coherence": coherence}
    return Reply("ok", json.dumps({"rationale": "r", **scores}), model="judge-2026")


class Judge:
    """A double of the asking layer: answers in the order of `turned`, holding at most `ahead` requests."""

    def __init__(self, answer: Answer, ahead: int = 4, turned: bool = False, thread: bool = False) -> None:
        self.answer, self.ahead, self.turned, self.thread = answer, ahead, turned, thread
        self.requests: list[tuple[Any, Request]] = []
        self.held = 0

    def __call__(self, requests: Iterable[tuple[Any, Request]], check: Any = None) -> Iterator[tuple[Any, Reply]]:
        source, held = iter(requests), []
        while True:
            drawn = self._draw(source)
            if drawn is not None:
                self.requests.append(drawn)
                held.append(drawn)
                self.held = max(self.held, len(held))
                if len(held) < self.ahead:
                    continue
            if not held:
                return
            for tag, request in reversed(held) if self.turned else held:
                yield tag, self.answer(request)
            held = []

    def _draw(self, source: Iterator[tuple[Any, Request]]) -> tuple[Any, Request] | None:
        if not self.thread:
            return next(source, None)
        drawn: list[Any] = []
        worker = threading.Thread(target=lambda: drawn.append(next(source, None)))
        worker.start()
        worker.join()
        return drawn[0]


def stage(judge: Any, rubric: str = "dimensions", /, **settings: Any) -> VlmJudgeStage:
    return VlmJudgeStage(load_rubric(rubric), judge, **{"model": "m", "endpoint": "https://x/v1", **settings})


def run(made: VlmJudgeStage, *groups: list[dict[str, Any]], schema: pa.Schema = SCHEMA) -> list[dict[str, Any]]:
    given = batches(*groups, schema=schema)
    out = list(made(iter(given)))
    assert [batch.rows.num_rows for batch in out] == [len(group) for group in groups]
    assert [batch.last for batch in out] == [batch.last for batch in given]
    assert [batch.seen for batch in out] == [batch.seen for batch in given]
    for batch in out:
        assert batch.rows.schema.equals(made.schema(schema))
        batch.rows.validate(full=True)
        assert not batch.rejects
    return [row for batch in out for row in batch.rows.to_pylist()]


def by_dimension(judged: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [one for one in judged[COLUMN] if one["dimension"] == name]


def test_scores_and_what_they_rest_on():
    judge = Judge(lambda request: three(4, 5, 3))
    (judged,) = run(stage(judge, parameters={"temperature": 0.0}), [row("a")])
    assert judged["scores"] == {
        "visible": 1.0, "judge_dimensions_compliance": 4, "judge_dimensions_naturalness": 4,
        "judge_dimensions_coherence": 3, "judge_dimensions_overall": pytest.approx(11 / 3, abs=1e-5),
    }  # fmt: skip
    (request,) = [request for _, request in judge.requests]
    assert request.model == "m" and request.parameters == {"max_tokens": 512, "temperature": 0.0}
    assert "edit a" in str(request.parts[0])
    assert [dimension["dimension"] for dimension in judged[COLUMN]] == [
        "compliance", "naturalness", "coherence", "overall",
    ]  # fmt: skip
    first = judged[COLUMN][0]
    assert first["state"] == "ok" and first["error"] is None and first["pass"] == 0 and first["soft"] is None
    assert first["model"] == "judge-2026" and first["endpoint"] == "https://x/v1"
    assert json.loads(first["reply"])["compliance"] == 4
    assert len(first["prompt_hash"]) == 64 and first["image_encoding"] == str(Encoding())


def test_an_instruction_of_another_column_is_asked_about() -> None:
    judge, named = Judge(lambda request: three(4, 5, 3)), pa.struct([("en", pa.string())])
    rows = [row("zebra", instruction_negative={"en": "undo it"}), row("b", instruction_negative=None)]
    schema = SCHEMA.append(pa.field("instruction_negative", named))
    first, second = run(stage(judge, instruction="instruction_negative", judge="no"), rows, schema=schema)
    assert first["scores"]["judge_dimensions_compliance__no"] == 4 and first["instruction"]["en"] == "edit zebra"
    assert second["scores"]["judge_dimensions_compliance__no"] is None and second[COLUMN][0]["state"] == "missing"
    (request,) = [request for _, request in judge.requests]
    assert "undo it" in str(request.parts[0]) and "zebra" not in str(request.parts[0])
    for other, words in (("nothing", "no `nothing` column"), ("task", "holds no instructions")):
        with pytest.raises(UsageError, match=words):
            stage(judge, instruction=other).schema(schema)


def test_found_pairs_are_judged_without_an_instruction():
    reply = {"rationale": "r", "subject": 5, "layout": 4, "background": 2}
    judge = Judge(lambda request: Reply("ok", json.dumps(reply), model="m"))
    bare = pa.schema([field for field in SCHEMA if field.name != "instruction"])
    (judged,) = run(stage(judge, "found_pair"), [row("a", task=None)], schema=bare)
    assert judged["scores"] == {"visible": 1.0} | {
        f"judge_found_pair_{name}": value for name, value in {**reply, "overall": 2}.items() if name != "rationale"
    }
    (request,) = [request for _, request in judge.requests]
    assert [part if isinstance(part, str) else "image" for part in request.parts][1:] == [
        "Before the edit:", "image", "After the edit:", "image",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="no `instruction` column"):
        run(stage(judge), [row("a")], schema=bare)


def test_the_endpoint_is_the_one_that_answered():
    elsewhere = replace(three(4, 5, 3), client="https://elsewhere/v1")
    (judged,) = run(stage(Judge(lambda request: elsewhere)), [row("a")])
    assert {one["endpoint"] for one in judged[COLUMN]} == {"https://elsewhere/v1"}


STRANGE = [
    (Reply("ok", "I would say 4."), "unparsed", "I would say 4."),
    (Reply("ok", ""), "unparsed", ""),
    (three(4, 5, 9), "unparsed", three(4, 5, 9).text),
    (Reply("refused", "I cannot judge people."), "refused", "I cannot judge people."),
    (Reply("filtered", error="content_filter"), "filtered", None),
    (Reply("failed", error="503 overloaded"), "failed", None),
    (Reply("unparsed", "not JSON, three times", error="unusable"), "unparsed", "not JSON, three times"),
    (Reply("failed", three(4, 4, 4).text, error="cut off"), "failed", three(4, 4, 4).text),
]


@pytest.mark.parametrize(("reply", "state", "text"), STRANGE)
def test_what_is_no_score_is_never_a_number(reply, state, text):
    (judged,) = run(stage(Judge(lambda request: reply)), [row("a")])
    assert {name: score for name, score in judged["scores"].items() if name != "visible"} == {
        f"judge_dimensions_{name}": None for name in ("compliance", "naturalness", "coherence", "overall")
    }
    for one in judged[COLUMN]:
        assert (one["score"], one["state"], one["reply"]) == (None, state, text)
        assert one["state"] in STATES and (one["error"] or state == "refused")


def test_rows_that_cannot_be_asked_about_stay_and_cost_nothing():
    judge = Judge(lambda request: three(5, 5, 5))
    broken = reference(bytes=b"\x89PNG\r\n\x1a\nbroken", width=1, height=1, format="png")
    rows = [
        row("no target", target=None), row("no source", source=[]), row("broken", target=broken),
        row("text to image", task="t2i"), row("no words", instruction=None), row("no task", task=None), row("good"),
    ]  # fmt: skip
    judged = run(stage(judge), rows)
    assert [one["id"] for one in judged] == [one["id"] for one in rows]
    assert len(judge.requests) == 1
    for one, says in zip(judged, ("no edited", "no source", "damaged", "not ask for it", "no instruction", "task")):
        assert {found["state"] for found in one[COLUMN]} == {"missing"}
        assert all(says in found["error"] for found in one[COLUMN])
        assert one["scores"]["judge_dimensions_overall"] is None
    assert judged[-1]["scores"]["judge_dimensions_overall"] == 5


def test_tasks_that_a_rubric_does_not_cover_are_not_asked_about():
    scores = {"success": 4, "over": 5, "style": 4, "consistency": 3}
    judge = Judge(lambda request: Reply("ok", json.dumps({"rationale": "r", **scores})))
    written, other = run(stage(judge, "text"), [row("a", task="text"), row("b", task="remove")])
    assert written["scores"]["judge_text_overall"] == 4 and len(judge.requests) == 1
    assert other["scores"]["judge_text_overall"] is None
    assert {one["state"] for one in other[COLUMN]} == {"missing"}
    assert all("the rubric does not ask for it here" in one["error"] for one in other[COLUMN])


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("thread", [False, True])
def test_order_is_kept_however_replies_arrive(turned, jobs, thread):
    def answer(request: Request) -> Reply:
        number = int(re.search(r"edit (\d+)", str(request.parts[0]))[1])  # type: ignore[index]
        return three(1 + number % 5, 1, 1)

    groups = [[row(str(k)) for k in range(n, n + 7)] for n in (0, 7, 14)]
    groups.insert(1, [])
    groups.insert(2, [row("x", target=None)])
    made = stage(Judge(answer, ahead=5, turned=turned, thread=thread), jobs=jobs)
    judged = [one for one in run(made, *groups) if one["id"] != "x"]
    assert [one["id"] for one in judged] == [str(k) for k in range(21)]
    assert [one["scores"]["judge_dimensions_compliance"] for one in judged] == [1 + k % 5 for k in range(21)]


def test_batches_stream():
    drawn: list[int] = []

    def source() -> Iterator[Batch]:
        for k, batch in enumerate(batches(*([row(f"{k}{n}") for n in range(3)] for k in range(50)))):
            drawn.append(k)
            yield batch

    judge = Judge(lambda request: three(5, 5, 5), ahead=2)
    out = stage(judge)(source())
    for k in range(10):
        next(out)
        assert max(drawn) <= k + 1  # a batch is handed on before the next but one is touched
    out.close()
    assert judge.held == 2


def test_a_judge_that_stops_early_is_an_error():
    def lazy(requests: Iterable[tuple[Any, Request]], check: Any) -> Iterator[tuple[Any, Reply]]:
        for tag, _ in requests:
            yield tag, three(1, 1, 1)
            return

    made = stage(lazy)
    with pytest.raises(EditError, match="stopped before"):
        list(made(iter(batches([row("a"), row("b")]))))


def test_passes_give_a_mean_and_an_interval():
    answers = {n: three(3 + n % 3, 3 + n % 3, 3) for n in range(6)} | {6: Reply("refused", "no")}
    judge = Judge(lambda request: answers[request.attempt], turned=True)
    (judged,) = run(stage(judge, passes=7), [row("a")])
    scores = judged["scores"]
    assert scores["judge_dimensions_compliance"] == 4  # of the six passes that gave one
    half = 2.570582 * math.sqrt(4 / 5) / math.sqrt(6)
    assert scores["judge_dimensions_compliance_low"] == pytest.approx(4 - half, abs=1e-4)
    assert scores["judge_dimensions_compliance_high"] == pytest.approx(4 + half, abs=1e-4)
    assert [(one["pass"], one["state"]) for one in by_dimension(judged, "overall")] == [
        *((n, "ok") for n in range(6)), (6, "refused"),
    ]  # fmt: skip
    assert len({request.key for _, request in judge.requests}) == 7
    (few,) = run(stage(Judge(lambda request: answers[request.attempt], turned=True), passes=4), [row("a")])
    assert few["scores"]["judge_dimensions_compliance"] == pytest.approx(3.75)
    assert few["scores"]["judge_dimensions_compliance_low"] is few["scores"]["judge_dimensions_compliance_high"] is None


def test_intervals_by_hand():
    assert mean_interval([4.0], 1, 5) is None and mean_interval([], 1, 5) is None
    assert mean_interval([2.0, 3.0, 4.0, 5.0], 1, 5) is None
    assert mean_interval([3.0] * 5, 1, 5) == (3.0, 3.0)
    assert mean_interval([2.0, 2.0, 2.0, 4.0, 4.0], 1, 5) == pytest.approx((1.43983, 4.16017), abs=1e-5)
    low, high = mean_interval([2.0, 4.0] * 50, 1, 5) or (0, 0)
    assert (low, high) == (pytest.approx(2.80058, abs=1e-5), pytest.approx(3.19942, abs=1e-5))  # t of 99: 1.98422


def test_one_call_of_two_fails():
    def answer(request: Request) -> Reply:
        if "preservation" in str(request.parts[0]):
            return Reply("ok", '{"rationale": "r", "success": 9, "preservation": 4}')
        return Reply("filtered", error="blocked")

    (judged,) = run(stage(Judge(answer), "viescore"), [row("a")])
    assert judged["scores"] == {
        "visible": 1, "judge_viescore_sc": 4, "judge_viescore_pq": None, "judge_viescore_overall": None,
    }  # fmt: skip
    (overall,) = by_dimension(judged, "overall")
    assert overall["state"] == "filtered" and set(json.loads(overall["reply"])) == {"SC", "PQ"}
    sc, pq = by_dimension(judged, "sc")[0], by_dimension(judged, "pq")[0]
    assert len({one["prompt_hash"] for one in (sc, pq, overall)}) == 3


def test_pairwise_in_both_orders():
    fields = [*SCHEMA, pa.field("result", IMAGE), pa.field("result_old", IMAGE)]
    schema = pa.schema(fields)
    rows = [row("a", result=image_value(5), result_old=image_value(6))]
    first = Encoding().image(image(5, "PNG"))

    def prefers_five(request: Request) -> Reply:
        shown = [part for part in request.parts if isinstance(part, EncodedImage)]
        return Reply("ok", json.dumps({"rationale": "r", "better": 1 + shown[1:].index(first)}))

    made = stage(Judge(prefers_five), "pairwise", other="result_old")
    (judged,) = run(made, rows, schema=schema)
    assert judged["scores"]["judge_pairwise_preference"] == 1
    stubborn = stage(Judge(lambda request: Reply("ok", '{"better": 1}')), "pairwise", other="result_old")
    (judged,) = run(stubborn, rows, schema=schema)
    assert judged["scores"]["judge_pairwise_preference"] == 0.5


def test_the_result_is_judged_where_there_is_one():
    schema = pa.schema([*SCHEMA, pa.field("result", IMAGE)])
    judge = Judge(lambda request: three(5, 5, 5))
    plain = Encoding(kind="png", max_side=None)
    run(stage(judge, encoding=plain), [row("a", result=image_value(7))], schema=schema)
    run(stage(judge, encoding=plain, edited="target"), [row("a", result=image_value(7))], schema=schema)
    shown = [request.parts[-1] for _, request in judge.requests]
    assert shown == [plain.image(image(seed, "PNG")) for seed in (7, 2)]


def test_two_rubrics_stand_beside_each_other():
    judge = Judge(lambda request: three(2, 2, 2))
    first = list(stage(judge)(iter(batches([row("a")]))))
    schema = first[0].rows.schema
    again = list(stage(judge, edited="target", language="zh")(iter(first)))
    assert again[0].rows.schema.names == schema.names
    other = stage(Judge(lambda request: Reply("failed", error="x")), "viescore")
    (judged,) = next(iter(other(iter(first)))).rows.to_pylist()
    assert [one["rubric"] for one in judged[COLUMN]] == ["dimensions"] * 4 + ["viescore"] * 3
    assert judged["scores"]["judge_dimensions_overall"] == 2 and judged["scores"]["judge_viescore_overall"] is None
    assert "编辑a" in str(judge.requests[1][1].parts[0])


def test_soft_scores():
    text = '{"rationale": "r", "compliance": 4, "naturalness": 4, "coherence": 2}'
    written = ['{"rationale": "r", "compliance": ', "4", ', "naturalness": ', "4", ', "coherence": ', "2", "}"]
    half, quarter = math.log(0.5), math.log(0.25)
    logprobs = [[(token, half)] for token in written]
    logprobs[1] += [("5", half)]
    logprobs[3] += [("5", half)]
    logprobs[5] = [("2", quarter), ("1", quarter), ("why", half)]
    with_them, without = Reply("ok", text, logprobs=logprobs), Reply("ok", text)
    judge = Judge(lambda request: with_them)
    (judged,) = run(stage(judge, soft=True, passes=2), [row("a")])
    scores = judged["scores"]
    assert scores["judge_dimensions_compliance_soft"] == 4.5 and scores["judge_dimensions_compliance"] == 4
    assert scores["judge_dimensions_coherence_soft"] == 1.5
    assert scores["judge_dimensions_overall_soft"] == 3.5
    assert by_dimension(judged, "coherence")[0]["soft"] == 1.5
    assert judge.requests[0][1].parameters["logprobs"] is True
    one_lacks = Judge(lambda request: with_them if request.attempt else without)
    (judged,) = run(stage(one_lacks, soft=True, passes=2), [row("a")])
    assert judged["scores"]["judge_dimensions_compliance_soft"] is None
    assert judged["scores"]["judge_dimensions_compliance"] == 4


def test_structured_replies_are_asked_for_by_schema():
    judge = Judge(lambda request: three(5, 5, 5))
    run(stage(judge, structured=True), [row("a")])
    form = judge.requests[0][1].parameters["response_format"]
    assert form["type"] == "json_schema"
    assert list(form["json_schema"]["schema"]["properties"]) == ["rationale", "compliance", "naturalness", "coherence"]


def test_a_benchmarks_own_rubric():
    prompts = {"add": "made-up: <edit_prompt>", "alter": "never", "adjust": "warm: <edit_prompt>", "action": "act"}
    judge = Judge(lambda request: Reply("ok", "Brief reasoning: r\nA: 2\nB: 5\nC: 1"))
    made = stage(judge, "imgedit", prompts=prompts)
    rows = [
        row("a"), row("b", task="adjust"), row("c", task="motion"),
        row("d", task="motion", provenance={"native_task": "action"}),
    ]  # fmt: skip
    judged = run(made, rows)
    assert [str(request.parts[0]) for _, request in judge.requests] == ["made-up: edit a", "warm: edit b", "act", "act"]
    for one in judged:
        scores = one["scores"]
        assert [scores[f"judge_imgedit_{name}"] for name in ("first", "second", "third")] == [2, 2, 1]
    assert judged[0][COLUMN][0]["image_encoding"] == "bytes of the files, labelled image/png"
    (other,) = run(made, [row("e", task="remove")])
    assert {one["state"] for one in other[COLUMN]} == {"missing"} and "remove" in other[COLUMN][0]["error"]


def test_knowledge_is_asked_for_in_some_categories_only():
    prompts = {
        "prompt_consist": "c {instruct}", "prompt_quality": "q", "prompt_instruction_following": "i {instruct}",
        "prompt_dual_evaluation": "d {instruct} {explanation}",
    }  # fmt: skip

    def answer(request: Request) -> Reply:
        name = {"c": "consistency", "q": "quality"}.get(str(request.parts[0])[0], "instruction")
        return Reply("ok", json.dumps({f"{name}_score": 4, "knowledge_score": 3}))

    cases = [{"task": "physics", "facts": '{"explain": "why"}'}, {"task": "color_change", "facts": "{}"}]
    rows = [row(str(k), case=one) for k, one in enumerate(cases)]
    schema = SCHEMA.append(pa.field("case", CASE))
    physics, color = run(stage(Judge(answer), "kris", prompts=prompts), rows, schema=schema)
    assert physics["scores"]["judge_kris_knowledge"] == 3
    assert color["scores"]["judge_kris_knowledge"] is None and color["scores"]["judge_kris_instruction"] == 4
    (absent,) = by_dimension(color, "knowledge")
    assert absent["state"] == "missing" and "does not ask" in absent["error"]


def test_what_is_wrong_is_said_before_the_first_call():
    judge = Judge(lambda request: three(1, 1, 1))
    for wrong, says in (
        (lambda: stage(judge, passes=0), "repeats"),
        (lambda: stage(judge, "imgedit"), "texts of a benchmark"),
        (lambda: stage(judge, "pairwise"), "second"),
        (lambda: stage(judge, other="target"), "no use for a second"),
        (lambda: stage(judge, "pairwise", other="target", soft=True), "no ratings"),
        (lambda: stage(judge, edited="gone").schema(SCHEMA), "no `gone` column"),
        (lambda: stage(judge).schema(SCHEMA.append(pa.field(COLUMN, pa.string()))), "something else"),
        (lambda: stage(judge).schema(pa.schema([("id", pa.string())])), "nothing to judge"),
    ):
        with pytest.raises(UsageError, match=says):
            wrong()
    assert not judge.requests


def checking(unreadable: set[str]) -> Callable[..., Iterator[tuple[Any, Reply]]]:
    """A double of the asking layer that expects the check to refuse the replies to these calls."""

    def ask(requests: Iterable[tuple[Any, Request]], check: Any) -> Iterator[tuple[Any, Reply]]:
        for tag, _ in requests:
            with pytest.raises(ValueError) if tag[3] in unreadable else contextlib.nullcontext():
                check(tag, READ[tag[3]])
            yield tag, Reply("ok", READ[tag[3]])

    return ask


READ = {
    "SC": '{"rationale": "r", "success": 1, "preservation": 1}',
    "PQ": '{"rationale": "r", "success": 1, "preservation": 1}',  # the other call's
    "judge": "I cannot say.",
}


def test_replies_that_this_call_cannot_be_read_from_are_asked_for_again():
    run(stage(checking({"PQ"}), "viescore"), [row("a"), row("b")])
    prompts = {"prompt": "x", "add": "made-up: <edit_prompt>"}
    run(stage(checking({"judge"}), "uge", prompts=prompts), [row("a")])
    run(stage(checking({"judge"}), "imgedit", prompts=prompts), [row("a")])


def test_the_number_of_calls_is_known_before():
    assert calls_of(load_rubric("dimensions"), 606) == 606
    assert calls_of(load_rubric("viescore"), 606, passes=2) == 2424
    assert calls_of(load_rubric("pairwise"), 10) == 20


def test_the_judgement_holds_what_a_score_rests_on():
    names = {child.name for child in JUDGEMENT}
    assert {"model", "endpoint", "prompt_hash", "image_encoding", "reply", "pass"} <= names
