"""Conversations of rows with a model: what is asked together, what again, in which order, and what becomes of a row."""

from __future__ import annotations

import json
import queue
import threading
from collections import Counter

import pyarrow as pa
import pytest
from scripted import Talk, batch_of, row, schema_of, smallest, task_of, text_of

from edittools.caption.config import CaptionConfig
from edittools.caption.conversations import Conversations, Manner
from edittools.caption.kind import KINDS, Eliminated, Kind, Look, NotAsked, Question, Row
from edittools.caption.model_stage import ModelCaptionStage
from edittools.caption.schemas import listing, record, text, whole
from edittools.errors import UsageError
from edittools.vlm import CUT_OFF, EncodedImage, Reply


def kind(converse, *, columns=None, **said):
    return Kind(summary="test", reads="image", columns=columns or {"noted": pa.string()}, converse=converse, **said)


@pytest.fixture
def kinds(monkeypatch):
    """Kinds of a test, by name."""
    own: dict[str, Kind] = {}
    real = KINDS.names

    def load(name):
        return own[name] if name in own else KINDS.load(name).KIND if name in real else pytest.fail(name)

    monkeypatch.setattr("edittools.caption.model_stage.load_kind", load)
    return own


def simple(column, *, looks=True, **said):
    def converse(one):
        answer = yield Question((one.look(),) if looks else (), f"Say {column}.", record(**{column: text(column)}))
        return {column: answer[column]}

    return kind(converse, columns={column: pa.string()}, **said)


def test_questions_about_the_same_images_go_out_as_one_and_images_once(tmp_path, kinds) -> None:
    kinds |= {"one": simple("a"), "two": simple("b"), "three": simple("c", looks=False)}

    def answer(request):
        names = task_of(text_of(request))
        return {"one": {"a": "x"}, "two": {"b": "y"}} if names else {"c": "z"}

    talk = Talk(tmp_path, answer, [row(k) for k in range(5)], kinds="one,two,three")
    assert [(one["a"], one["b"], one["c"]) for one in talk.rows] == [("x", "y", "z")] * 5
    images = Counter(sum(isinstance(part, EncodedImage) for part in request.parts) for request in talk.requests)
    # Two kinds share one call with one image; the third has none, and is the same question for all rows.
    assert images == {1: 5, 0: 1}
    shared = next(request for request in talk.requests if len(request.parts) > 1)
    assert set(schema_of(shared)["properties"]) == {"one", "two"}
    assert [a["calls"] for a in talk.rows[0]["annotations"]] == [1, 1, 1]


def test_only_the_part_that_is_wrong_is_asked_for_again_with_the_reason(tmp_path, kinds) -> None:
    kinds |= {"one": simple("a"), "two": simple("b")}

    def answer(request):
        said = text_of(request)
        if task_of(said):
            return {"one": {"a": "x"}, "two": {"b": 7}}
        assert "could not be used: ['b']: 7 is not of type 'string'" in said, said
        return {"b": "y"}

    talk = Talk(tmp_path, answer, [row()], kinds="one,two")
    assert (talk.rows[0]["a"], talk.rows[0]["b"]) == ("x", "y")
    assert len(talk.requests) == 2
    calls = {a["kind"]: a["calls"] for a in talk.rows[0]["annotations"]}
    assert calls == {"one": 1, "two": 2}


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("no JSON at all", "no JSON object"),
        ('{"a": "x"} {"a": "y"}', "2 JSON objects"),
        ('{"a": "x", "a": "y"}', "given twice"),
        ('{"b": "x"}', "'a' is a required property"),
        ('{"a": ""}', "['a']"),
        ("<think>I think", "thought is not finished"),
        ('{"a": "' + "x" * 700 + '"}', "violates maxLength 600"),
    ],
)
def test_what_is_no_valid_answer_is_never_stored_and_rejects_the_row(tmp_path, kinds, reply, why) -> None:
    kinds["one"] = simple("a")
    talk = Talk(tmp_path, lambda request: reply, [row()], kinds="one", attempts=2)
    assert talk.rows == []
    [reject] = talk.rejects
    assert reject.reason == "one: unparsed" and why in str(reject.value) and reject.failed
    assert len(talk.requests) == 2


@pytest.mark.parametrize(
    "reply",
    ['```json\n{"a": "x"}\n```', 'Sure!\n{"a": "x",}', '<think>{"a": "no"}</think>{"a": "x"}', '\ufeff{"a": "x"}'],
)
def test_what_stands_around_an_answer_is_passed_over(tmp_path, kinds, reply) -> None:
    kinds["one"] = simple("a")
    assert Talk(tmp_path, lambda request: reply, [row()], kinds="one").rows[0]["a"] == "x"


@pytest.mark.parametrize(
    ("settings", "name", "asked"),
    [
        ({}, "max_tokens", [1024, 2048, 4096]),
        ({"max_tokens": 50}, "max_tokens", [50, 100, 200]),
        ({"max_tokens": 6000}, "max_tokens", [6000, 12000, 24000]),
        ({"param": ("max_tokens=", "max_completion_tokens=70")}, "max_completion_tokens", [70, 140, 280]),
    ],
)
def test_a_reply_that_was_cut_off_is_asked_for_with_more_room(tmp_path, kinds, settings, name, asked) -> None:
    kinds["one"] = simple("a")
    room = []

    def answer(request):
        room.append(request.parameters[name])
        # An endpoint adds its own word for it.
        said = CUT_OFF if len(room) == 1 else f"{CUT_OFF}, finish_reason length"
        return Reply("failed", '{"a": "xx', said) if len(room) < 3 else {"a": "x"}

    talk = Talk(tmp_path, answer, [row()], kinds="one", **settings)
    assert room == asked
    assert talk.rows[0]["a"] == "x"
    again = Talk(tmp_path, lambda request: pytest.fail("asked again"), [row()], kinds="one", **settings)
    assert again.rows == talk.rows  # the cut ones are known as cut


def test_a_row_that_waits_holds_up_a_bounded_number_of_batches(monkeypatch, kinds) -> None:
    monkeypatch.setattr("edittools.caption.conversations._MOST_BATCHES", 3)
    drawn = 0

    def batches():
        nonlocal drawn
        for number in range(10):
            drawn += 1
            yield number, [Row({"id": f"r{number}"}, {}, CaptionConfig(model="x", kinds="one"))]

    manner = Manner("x", {}, True, True, 3, lambda row, look: pytest.fail("no image"), lambda kind, row: "")
    talks = Conversations(batches(), {"one": simple("a", looks=False)}, manner)
    asked: queue.Queue = queue.Queue()
    blocked = threading.Event()
    wait = talks.condition.wait

    def waiting():
        blocked.set()
        return wait()

    talks.condition.wait = waiting

    def draw():
        for tag, make in talks.requests():
            make()
            asked.put(tag)
        asked.put(None)

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    late = asked.get(timeout=60)
    assert blocked.wait(60) and drawn == 4
    done = []
    for _ in range(3):
        talks.answer(asked.get(timeout=60), Reply("ok", '{"a": "x"}'))
        done += [number for number, _ in talks.finished()]
    assert done == [] and drawn == 4  # the first one is not answered
    talks.answer(late, Reply("ok", '{"a": "x"}'))
    done += [number for number, _ in talks.finished()]
    while (tag := asked.get(timeout=60)) is not None:
        talks.answer(tag, Reply("ok", '{"a": "x"}'))
        done += [number for number, _ in talks.finished()]
    assert done == list(range(10)) and drawn == 10


def test_a_second_run_asks_nothing_and_writes_the_same(tmp_path) -> None:
    rows = [row(k) for k in range(6)]
    first = Talk(tmp_path, smallest, rows, kinds="structured,detailed", rounds=2)
    second = Talk(tmp_path, lambda request: pytest.fail("asked again"), rows, kinds="structured,detailed", rounds=2)
    assert second.rows == first.rows and first.rows and second.stats.calls == 0


def test_kinds_that_read_what_others_write_wait_for_them(tmp_path, kinds) -> None:
    def second(one):
        answer = yield Question((), f"Of {one.values['a']}.", record(b=text("b")))
        return {"b": answer["b"]}

    kinds |= {"late": kind(second, columns={"b": pa.string()}, after=("early",)), "early": simple("a")}
    talk = Talk(
        tmp_path, lambda q: {"b": "y"} if "Of first" in text_of(q) else {"a": "first"}, [row()], kinds="late,early"
    )
    assert (talk.rows[0]["a"], talk.rows[0]["b"]) == ("first", "y")


def test_an_eliminated_row_is_rejected_and_nothing_more_is_paid_for(tmp_path, kinds) -> None:
    def converse(one):
        yield Question((), "First.", record(a=text("a")))
        raise Eliminated("no gain", "the same")

    def endless(one):
        for number in range(9):
            yield Question((), f"Question {number}.", record(a=text("a")))
        return {}

    kinds |= {"strict": kind(converse), "long": kind(endless, columns={"other": pa.string()}, after=("strict",))}
    talk = Talk(tmp_path, lambda request: {"a": "x"}, [row(0), row(1)], kinds="strict,long")
    assert [(r.reason, r.value, r.failed) for r in talk.rejects] == [("eliminated: no gain", "the same", False)] * 2
    assert len({q.key for q in talk.requests}) == 1  # `long` never began


def test_a_row_without_a_question_goes_on_with_null_and_says_why(tmp_path, kinds) -> None:
    def converse(one):
        if one.id == "r1":
            raise NotAsked("not this one")
        answer = yield Question((), f"About {one.id}.", record(a=text("a")))
        return {"noted": answer["a"]}

    kinds["one"] = kind(converse)
    talk = Talk(tmp_path, lambda request: {"a": "x"}, [row(k) for k in range(3)], kinds="one")
    assert [one["noted"] for one in talk.rows] == ["x", None, "x"]
    assert talk.rows[1]["annotations"][0]["state"] == "missing"
    assert talk.rows[1]["annotations"][0]["error"] == "not this one"
    assert talk.stage.remark() == "one: nothing to ask about 1 rows"


@pytest.mark.parametrize("state", ["refused", "filtered", "failed"])
def test_states_of_replies_reject_the_row_or_are_kept_on_request(tmp_path, kinds, state) -> None:
    kinds["one"] = simple("a")

    def answer(request):
        return Reply(state, None, "because") if b"r1" in str(request.parts).encode() else {"a": "x"}

    def numbered(one):
        answer = yield Question((one.look(),), f"About {one.id}.", record(a=text("a")))
        return {"a": answer["a"]}

    kinds["one"] = kind(numbered, columns={"a": pa.string()})
    rows = [row(k) for k in range(3)]
    talk = Talk(tmp_path, answer, rows, kinds="one")
    assert [one["id"] for one in talk.rows] == ["r0", "r2"]
    assert [(r.id, r.reason, r.value) for r in talk.rejects] == [("r1", f"one: {state}", "because")]
    kept = Talk(tmp_path / "kept", answer, rows, kinds="one", keep_failed=True)
    assert [(one["a"], one["annotations"][0]["state"]) for one in kept.rows] == [
        ("x", "ok"),
        (None, state),
        ("x", "ok"),
    ]


def test_an_image_that_cannot_be_read_costs_its_row(tmp_path) -> None:
    rows = [row(0), row(1, target={"bytes": b"\xff\xd8\xff no image", "format": "jpeg"}), row(2)]
    talk = Talk(tmp_path, smallest, rows, kinds="structured")
    assert [one["id"] for one in talk.rows] == ["r0", "r2"]
    assert [r.reason for r in talk.rejects] == ["structured: failed"]


def test_rewordings_draw_a_model_per_row_and_the_verifier_is_asked_about_claims(tmp_path) -> None:
    rows = [row(k, instruction_detailed={"en": "Say it.", "zh": "说吧。"}) for k in range(40)]
    from edittools.record import TEXT

    talk = Talk(
        tmp_path,
        lambda request: {"instruction": {"en": "Say it please.", "zh": "请说吧。"}},
        batch_of(rows, instruction_detailed=TEXT),
        kinds="concise",
        model=("one", "two"),
    )
    asked = Counter(request.model for request in talk.requests)
    assert set(asked) == {"one", "two"} and min(asked.values()) > 8


def test_two_kinds_of_one_column_must_agree_on_it(kinds) -> None:
    kinds |= {"one": simple("a"), "two": kind(lambda one: iter(()), columns={"a": pa.int64()})}
    from edittools.caption.config import CaptionConfig

    stage = ModelCaptionStage(CaptionConfig(kinds="one,two", model="m"), lambda *a: iter(()))
    with pytest.raises(UsageError, match="another kind writes another `a`"):
        stage.columns()


def test_looks_of_a_mirrored_part_show_it(tmp_path, kinds) -> None:
    import io

    import numpy as np
    from conftest import encode
    from PIL import Image

    pixels = np.zeros((32, 40, 3), np.uint8)
    pixels[:, :10] = (255, 0, 0)
    pixels[:16] //= 2

    def converse(one):
        yield Question(
            (Look("target", mirrored=True), Look("target", box=(0, 0.5, 0.25, 1))), "?", record(a=whole(0, 9))
        )
        return {}

    kinds["one"] = kind(converse)
    shown = {"bytes": encode(pixels, "PNG"), "width": 40, "height": 32, "format": "png"}
    talk = Talk(tmp_path, lambda request: {"a": 1}, [row(target=shown)], kinds="one")
    mirrored, part = (
        np.asarray(Image.open(io.BytesIO(p.data))) for p in talk.requests[0].parts if isinstance(p, EncodedImage)
    )
    assert mirrored.shape == (32, 40, 3) and part.shape == (16, 10, 3)
    assert mirrored[24, 35, 0] > 200 and mirrored[24, 5, 0] < 50
    assert part[..., 0].min() > 200


def test_examples_are_shown_by_kind_and_task(tmp_path, kinds) -> None:
    file = tmp_path / "examples.jsonl"
    lines = [
        {"kind": "one", "output": {"a": f"example {k}"}, "task": "color" if k % 2 else None, "input": f"text {k}"}
        for k in range(8)
    ] + [{"kind": "two", "output": {"a": "of another kind"}}, {"output": {"a": "of a task"}, "task": "add"}]
    file.write_text("\n".join(json.dumps({k: v for k, v in line.items() if v is not None}) for line in lines))

    def converse(one):
        yield Question((), "Say.", record(a=listing(text("a"), 3)), examples=True)
        return {}

    kinds["one"] = kind(converse)
    talk = Talk(tmp_path, lambda request: {"a": []}, [row()], kinds="one", examples=str(file))
    shown = talk.texts[0]
    assert shown.count('{"a": "example') == 3 and "another kind" not in shown and "of a task" not in shown
    near = Talk(
        tmp_path / "near", lambda request: {"a": []}, [row(instruction={"en": "text 5"})], kinds="one",
        examples=str(file), examples_by="nearest",
    )  # fmt: skip
    assert near.texts[0].index("example 5") < near.texts[0].index("example ", near.texts[0].index("example 5") + 9)
