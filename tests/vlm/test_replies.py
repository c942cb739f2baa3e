"""What endpoints send: bodies of any shape, errors told apart by their words, declined parameters, thoughts."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import threading
import time

import pytest
from test_clients import KEY, begin, chat, once, png, response, serve, store  # noqa: F401  (fixtures)

from edittools.rubric.parsing import Scores, Unparsed, json_strict, labelled_strict
from edittools.suites.imgedit import uge_strict
from edittools.vlm import EncodedImage, Reply, Request, TransientError, json_format
from edittools.vlm.backends.endpoint import EndpointClient, read_address
from edittools.vlm.refusals import Refusal, after
from edittools.vlm.replies import read_json, read_reply
from edittools.vlm.requests import RequestPolicy, request_all
from edittools.vlm.thoughts import answer_of

# ---------------------------------------------------------------- thoughts

# As the models write them where a server knows nothing of them: DeepSeek-R1, QwQ, Qwen3, GLM, MiniMax (<think>), models
# that were told to (<thinking>), EXAONE and Gemini (<thought>), Seed-OSS, Magistral, Kimi-VL, OpenThinker, Command A,
# Apertus, gpt-oss, Gemma 4. `?` stands in thoughts only.
THOUGHTS = [
    ("4", "4"),
    ("<think>3?</think>4", "4"),
    ("<think>\n\n</think>\n\n4", "4"),
    ("3?</think>\n\n4", "4"),  # the template wrote the first mark
    ("<think>3?</think\n4", "4"),
    ("<THINK>3?</THINK>4", "4"),
    ("<think >3?</ think>4", "4"),
    ('<think budget="9">3?</think>4', "4"),
    ("<thinking>3?</thinking> 4", "4"),
    ("<thought>3?</thought>4", "4"),
    ("<reasoning>3?</reasoning>4", "4"),
    ("<seed:think>3?</seed:think>4", "4"),
    ("[THINK]3?[/THINK]4", "4"),
    ("3?[/THINK]4", "4"),
    ("◁think▷3?◁/think▷4", "4"),
    ("<|begin_of_thought|>3?<|end_of_thought|><|begin_of_solution|>4<|end_of_solution|>", "4"),
    ("<|START_THINKING|>3?<|END_THINKING|><|START_RESPONSE|>4<|END_RESPONSE|>", "4"),
    ("<|inner_prefix|>3?<|inner_suffix|>4", "4"),
    ("<|channel|>analysis<|message|>3?<|end|><|start|>assistant<|channel|>final<|message|>4<|return|>", "4"),
    ("<|channel|>analysis<|message|>3?<|end|><|start|>assistant<|channel|>final <|constrain|>json<|message|>4", "4"),
    ("<|channel|>final<|message|>4", "4"),
    ("analysisWe need 3?assistantfinal4", "4"),
    ("<|channel>thought\n3?<channel|>4", "4"),
    ("thought\n3?<channel|>4", "4"),  # one special token stripped
    ("<think>1 <think> 2</think> 3?</think>4", "4"),
    ("<think>1</think>4<think>2</think>", "4"),
    ("<think></think><answer><|begin_of_box|>4<|end_of_box|></answer>", "4"),
    ("<think>3?</think><response>4</response><|im_end|>", "4"),
    ("4</s>", "4"),
    ("<think>I should close `</think>` before I answer, or write '<think>' again?</think>4", "4"),
    ("<think>3?", None),
    ("<think>3?</think>4<think>5", None),
    ("<think\n3?", None),
    ("think>3?", None),
    ("[THINK]3?", None),
    ("◁think▷3?", None),
    ("<seed:think>3?", None),
    ("<|channel|>analysis<|message|>3?", None),
    ("<|channel|>analysis<|message|>3?<|end|><|start|>assistant<|channel|>commentary<|message|>{}", None),
    ("<|channel>thought\n3?", None),
    ("thought\n3?", None),  # where it ends, nobody can say
]


@pytest.mark.parametrize("text, answer", THOUGHTS)
def test_the_answer_stands_behind_a_finished_thought(text, answer):
    found = answer_of(text)
    if answer is None:
        assert found is None
        return
    assert len(found) == len(text) and "?" not in found
    assert found.replace("assistant", "").split("<|start|>")[-1].strip() == answer
    # the places of what is left are those of the reply: soft scores look up tokens there
    assert text[found.index(answer)] == answer


@pytest.mark.parametrize(
    "text",
    [
        "The man wears a <thinking cap> now.\nScore: 4",
        "A <thought bubble> was added, and a <reason> for it; </thinking cap> too.\nScore: 4",
        "Analysis: it is done.\nThought: good.\nScore: 4",
        "Thought and reasoning > 3.\nScore: 4",
        "The face is lost in thought\nand the colour/think> is fine\nScore: 4",
        "The sign reads `<think>`, as was asked\nScore: 4",
        'The sign reads "</think>".\nScore: 4',
        '{"rationale": "the sign reads </thinking>, as asked", "success": 7}',
        '{"rationale": "<think> is written\n on it", "success": 7}',
        '{"rationale": "<think>it is good</think>", "success": 7}',
        'So:\n```json\n{"rationale": "[THINK] and ◁/think▷ are signs", "success": 7}\n```',
        "I think [the] channel is fine.\nScore: 4",
    ],
)
def test_what_an_answer_says_is_no_mark_of_a_thought(text):
    assert answer_of(text) == text


def test_a_thought_before_an_object_that_quotes_a_mark():
    good = '{"rationale": "the sign reads </think>", "success": 7}'
    draft = '{"rationale": "r", "success": 1}'
    for thought in ("", f"<think>{draft}</think>", f"{draft} no</think>\n", f"<think>{good[:-3]}</think>"):
        text = thought + good
        assert json_strict(text, ("success",), 0, 10).values == {"success": 7}
    # a draft that is not finished is none, whatever it quotes
    assert isinstance(json_strict(f"<think>{good}", ("success",), 0, 10), Unparsed)


@pytest.mark.parametrize(
    "text", ["<think></think>" * 20_000, "<think>" * 40_000, "analysis" * 40_000, '{"a":' * 20_000 + "</think>4",
             "{" * 8_000, '{"a": 1, ' * 4_000, '[{"a": [1,' * 4_000, '{"a": 1,}' * 4_000],
)  # fmt: skip
def test_what_repeats_itself_without_end_is_read_in_time(text):
    """As models do that have lost their way, while other calls wait: quadratic time would be minutes."""
    started = time.process_time()
    for number in (1, 2):
        assert isinstance(json_strict(text * number, ("success",), 0, 10), Unparsed)
    assert time.process_time() - started < 4


def test_parsers_read_answers_and_no_drafts():
    good = '{"rationale": "r", "success": 7}'
    draft = '{"rationale": "r", "success": 1}'
    assert json_strict(f"<think>{draft}</think>{good}", ("success",), 0, 10).values == {"success": 7}
    assert isinstance(json_strict(f"<think>{draft}", ("success",), 0, 10), Unparsed)
    assert uge_strict("Score: 2 no wait</think>\nScore: 4").values == {"score": 4}
    assert isinstance(uge_strict("<think>Score: 2"), Unparsed)
    lines = "A: 3\nB: 2\nC: 1"
    assert labelled_strict("A: 5\nB: 5\nC: 5</think>" + lines, ("A", "B", "C")).values == {"A": 3, "B": 2, "C": 1}


@pytest.mark.parametrize(
    "text",
    [
        '{"rationale": "two\nlines", "success": 7}',
        '{"rationale": "a\ttab", "success": 7}',
        '{"rationale": "r", "success": 7,}',
        '{"rationale": "r, }", "success": 7 ,\n}',
        '```json\n{\n"rationale": "r",\n"success": 7,\n}\n```',
        'Here it is: {"rationale": "r", "success": 7} I hope, {that} helps.',
        '\ufeff{"rationale": "r", "success": 7}',
    ],
)
def test_json_whose_meaning_is_one_is_read(text):
    found = json_strict(text, ("success",), 0, 10)
    assert isinstance(found, Scores) and found.values == {"success": 7}
    start, end = found.spans["success"]
    assert text[start:end] == "7"


@pytest.mark.parametrize(
    "text",
    ['{"success": true}', '{"success": "7"}', '{"success": 7', '{"success": [7]}', '{"success": 7, "success": 8}'],
)
def test_json_that_says_no_number_or_two_is_none(text):
    assert isinstance(json_strict(text, ("success",), 0, 10), Unparsed)


def test_the_label_that_caps_is_known_by_its_name():
    reply = "Physical & Detail Fidelity: 2\nVisual Seamlessness: 3\nPrompt Compliance: 4"
    found = labelled_strict(reply)
    assert found.capped == () and sum(found.values.values()) == 9
    found = labelled_strict(reply.replace("4", "1"))
    assert set(found.values.values()) == {1} and len(found.capped) == 2
    swapped = "Identity Preservation: 5\nVisual & Anatomical Coherence: 4\nAction Fidelity: 3"
    assert set(labelled_strict(swapped).values.values()) == {3}


# ---------------------------------------------------------------- bodies of any shape

VALUES = [
    None,
    True,
    False,
    0,
    -1,
    7,
    1.5,
    1e400,
    10**400,
    "",
    "text",
    [],
    [None],
    {},
    {"a": [{}]},
    "\ud800",
    [[["x"]]],
]
WHOLE = {
    **chat("fine", refusal=None, reasoning_content="thought"),
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": [{"type": "text", "text": "fine"}], "refusal": None},
            "logprobs": {
                "content": [{"token": "f", "logprob": -0.5, "top_logprobs": [{"token": "g", "logprob": -1.0}]}]
            },
        }
    ],
    "usage": {
        "prompt_tokens": 11,
        "completion_tokens": 3,
        "total_tokens": 14,
        "completion_tokens_details": {"reasoning_tokens": 1},
    },
    "error": None,
    "prompt_feedback": None,
}
RESPONSE = {
    "object": "response",
    "status": "completed",
    "model": "m",
    "incomplete_details": None,
    "output": [
        {"type": "reasoning", "summary": []},
        {"type": "message", "content": [{"type": "output_text", "text": "fine", "logprobs": []}]},
    ],
    "usage": {"input_tokens": 11, "output_tokens": 3, "total_tokens": 14},
}


def places(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield from places(child, (*path, key))


def changed(body, path, value):
    if not path:
        return value
    made = copy.deepcopy(body)
    inner = made
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return made


@pytest.mark.parametrize("body", [WHOLE, RESPONSE], ids=["chat", "responses"])
def test_any_value_at_any_place_of_a_reply_is_a_state_and_no_traceback(body, store):  # noqa: F811
    """And whatever is stored can be stored, and read again as it was."""

    class Odd(EndpointClient):
        async def ask(self, request, begin):
            await begin()
            return self._read(bodies[request.parts[0]], {}, request, self.manner())

    bodies = {}
    for path in places(body):
        for value in VALUES:
            if value != value or value == float("inf"):
                text = json.dumps(changed(body, path, "INF")).replace('"INF"', "1e400")
            else:
                text = json.dumps(changed(body, path, value))
            bodies[f"{path} {value!r:.40}"] = text.encode()
    client = Odd("http://127.0.0.1:9/v1")
    requests = [(name, Request("m", (name,))) for name in bodies]
    replies = dict(request_all([("good", Request("m", ("good",)))], _Good(), store))
    replies |= dict(request_all(requests, client, store, RequestPolicy(backoff=0.0, attempts=2, concurrency=16)))
    assert len(replies) == len(bodies) + 1
    for name, request in requests:
        reply = replies[name]
        assert reply.state in ("ok", "refused", "filtered", "failed")
        assert reply.state != "ok" or (isinstance(reply.text, str) and reply.text.strip())
        for count in (reply.prompt_tokens, reply.completion_tokens):
            assert count is None or (type(count) is int and count >= 0)
        assert store.get(request.key) == reply


class _Good:
    name = "http://127.0.0.1:9/v1"

    def draws(self, request):
        return True

    def prepare(self, request):
        pass

    async def ask(self, request, begin):
        await begin()
        return Reply("ok", "good")

    async def close(self):
        pass


def test_bodies_come_in_many_wrappings(serve):  # noqa: F811
    plain = json.dumps(chat("fine", reasoning_content="hm")).encode()
    chunks = [
        {"model": "snapshot-2026-01-01", "choices": [{"delta": {"role": "assistant", "content": ""}}]},
        {"choices": [{"delta": {"reasoning_content": "hm"}}]},
        {"choices": [{"delta": {"content": "fi"}, "finish_reason": None}]},
        {"choices": [{"delta": {"content": "ne"}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}},
    ]
    events = "".join(f": ping\n\nevent: message\ndata: {json.dumps(chunk)}\n\n" for chunk in chunks)
    for body in (
        b"\xef\xbb\xbf" + plain,
        b"\n\n " + plain + b"\n",
        json.dumps(chat("fine")).encode("utf-16"),
        b"[" + plain + b"]",
        b"data: " + plain + b"\n\ndata: [DONE]\n\n",
        (events + "data: [DONE]\n\n").encode(),
        "\n".join(map(json.dumps, chunks)).encode(),
    ):
        assert once(serve(lambda *_, body=body: [response(200, body)])) == Reply(
            "ok", "fine", None, "snapshot-2026-01-01", 11, 3
        )
    cut = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks[:3])
    failed = cut + 'data: {"error": {"message": "engine died", "code": 500}}\n\ndata: [DONE]\n\n'
    for text in (cut, failed):
        with pytest.raises(TransientError, match="stream ended early"):
            once(serve(lambda *_, text=text: [response(200, text.encode())]))
    blocked = cut + 'data: {"error": {"message": "Output blocked by content filtering policy", "code": 400}}\n\n'
    reply = once(serve(lambda *_: [response(200, blocked.encode())]))
    assert reply.state == "filtered" and "content filtering policy" in reply.error
    odd = "data: " + json.dumps(chat("a\u2028b"), ensure_ascii=False) + "\n\ndata: [DONE]\n\n"
    assert once(serve(lambda *_: [response(200, odd.encode())])).text == "a\u2028b"


@pytest.mark.parametrize(
    "finish, state",
    [
        ("stop", "ok"),
        ("STOP", "ok"),
        ("FinishReason.STOP", "ok"),
        ("eos", "ok"),
        ("end_turn", "ok"),
        (None, "ok"),
        ("", "ok"),
        ("length", "failed"),
        ("MAX_TOKENS", "failed"),
        ("max_tokens", "failed"),
        ("model_length", "failed"),
        ("content_filter", "filtered"),
        ("SAFETY", "filtered"),
        ("content_filter: RECITATION", "filtered"),
        ("sensitive", "filtered"),
        ("PROHIBITED_CONTENT", "filtered"),
        ("guardrail_intervened", "filtered"),
        ("error", None),
        ("abort", None),
        ("network_error", None),
        ("insufficient_system_resource", None),
        (7, None),
    ],
)
def test_a_reply_that_did_not_end_by_itself_is_no_answer(serve, finish, state):  # noqa: F811
    server = serve(lambda *_: [response(200, chat("Score: 5", finish=finish))])
    if state is None:  # something broke: it is asked again
        with pytest.raises(TransientError, match="finish_reason"):
            once(server)
        return
    assert once(server).state == state


@pytest.mark.parametrize(
    "message",
    [
        {"content": None, "reasoning_content": "Score: 5"},
        {"content": "", "reasoning": "Score: 5"},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Score: 5"}]}]},
        {"content": [{"type": "reasoning", "text": "Score: 5"}]},
        {"content": "  \n"},
    ],
)
def test_a_thought_alone_is_no_answer(serve, message):  # noqa: F811
    body = chat()
    body["choices"][0]["message"] = message
    reply = once(serve(lambda *_: [response(200, body)]))
    assert reply.state == "failed" and reply.text is None


@pytest.mark.parametrize(
    "usage, prompt, completion",
    [
        (
            {"prompt_tokens": 1000, "completion_tokens": 50, "total_tokens": 3050},
            1000,
            2050,
        ),  # Gemini: thoughts in the total
        (
            {
                "prompt_tokens": 1000,
                "completion_tokens": 2050,
                "total_tokens": 3050,
                "completion_tokens_details": {"reasoning_tokens": 2000},
            },
            1000,
            2050,
        ),
        (
            {"prompt_tokens": 1000, "completion_tokens": 50, "completion_tokens_details": {"reasoning_tokens": 2000}},
            1000,
            2050,
        ),
        ({"prompt_tokens": "1000", "completion_tokens": "100", "total_tokens": "1100"}, 1000, 100),
        ({"input_tokens": 10, "output_tokens": 5}, 10, 5),
        ({"completion_tokens": 5, "total_tokens": 15}, 10, 5),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, None, 0),
        (None, None, 1 + 2),  # estimated: 4 letters and 2 signs that are none of ASCII
    ],
)
def test_usage_counts_what_is_billed(usage, prompt, completion):
    body = {**chat("fine图片"), "usage": usage}
    said = read_reply(body)
    assert (said.prompt_tokens, said.completion_tokens) == (prompt, completion)
    hidden = read_reply({**chat("fine", reasoning_content="x" * 400), "usage": None})
    assert hidden.completion_tokens == 101


# ---------------------------------------------------------------- errors

FILTERS = [
    (400, {"error": {"code": "data_inspection_failed", "message": "Input data may contain inappropriate content."}}),
    (400, {"code": "DataInspectionFailed", "message": "Output data may contain inappropriate content."}),
    (400, {"error": {"code": "1301", "message": "系统检测到输入或生成内容可能包含不安全或敏感内容"}}),
    (400, {"error": {"code": "1301", "message": "System has detected unsafe or sensitive content in input"}}),
    (403, {"error": {"code": 403, "message": "Your chosen model requires moderation and your input was flagged",
                     "metadata": {"reasons": ["sexual"], "flagged_input": "..."}}}),
    (400, {"error": {"code": "content_filter", "message": "The prompt triggered Azure OpenAI's "
                     "content management policy.", "innererror": {"code": "ResponsibleAIPolicyViolation"}}}),
    (400, {"error": {"type": "content_filter", "message": "The request was considered high risk"}}),
    (400, {"error": {"code": "InputImageSensitiveContentDetected", "message": "The request failed"}}),
    (400, {"error": {"code": "invalid_prompt", "message": "Invalid prompt: your prompt was flagged"}}),
    (400, {"error": {"type": "invalid_request_error", "message": "Output blocked by content filtering policy"}}),
    (451, {"error": {"type": "censorship_blocked", "message": "The content you provided is blocked"}}),
    (403, {"code": "x", "error": "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE"}),
    (422, {"detail": [{"msg": "the image was flagged", "loc": ["body"]}]}),
    (200, {"choices": [], "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usage": {"prompt_tokens": 9}}),
    (200, {"choices": None, "base_resp": {"status_code": 1026, "status_msg": "input new_sensitive"}}),
    (200, {"error": {"code": 400, "message": "The input image was blocked"}}),
    (400, {"error": {"message": "litellm.BadRequestError: litellm.ContentPolicyViolationError: no", "code": "400"}}),
    (400, {"error": {"message": "Error code: 400 - {'error': {'code': 'content_filter', 'status': 400}}"}}),
    (400, {"error": {"message": "Content Exists Risk", "type": "invalid_request_error"}}),
    (400, {"error": {"message": "Your request was rejected as a result of our safety system. Your prompt may contain "
                     "text that is not allowed by our safety system.", "code": None}}),
    (400, {"error": {"code": "invalid_prompt", "message": "Invalid prompt: we've limited access to this content for "
                     "safety reasons. You can read more in our blog post"}}),
    (400, {"error": {"message": "Your input image may contain content that is not allowed by our safety system."}}),
    (400, {"error": {"code": "content_filter", "message": "Repeated requests may get your account suspended"}}),
]  # fmt: skip


@pytest.mark.parametrize("status, body", FILTERS)
def test_the_filters_of_the_services_are_filtered(serve, status, body):  # noqa: F811
    reply = once(serve(lambda *_: [response(status, body)]))
    assert reply.state == "filtered"
    assert status == 200 or (reply.prompt_tokens, reply.completion_tokens) == (0, 0), "and paid for by nobody"


@pytest.mark.parametrize(
    "status, body, kind",
    [
        (403, {"error": {"message": "Your account was flagged for violating the usage policy"}}, "run"),
        (403, {"error": {"message": "Country, region, or territory not supported"}}, "run"),
        (400, {"error": {"message": "User location is not supported for the API use."}}, "run"),
        (400, {"error": {"code": "Arrearage", "message": "Access denied, account not in good standing"}}, "run"),
        (402, {"error": {"message": "Insufficient credits"}}, "run"),
        (429, {"error": {"code": "insufficient_quota", "message": "You exceeded your current quota"}}, "run"),
        (429, {"error": {"message": "Rate limit reached for the content policy service"}}, "transient"),
        (400, {"error": {"message": "image too large: exceeds usage policy limits"}}, "request"),
        (400, {"error": {"message": "Request rejected: over the 20 MB limit of our content policy"}}, "request"),
        (400, {"error": {"code": "invalid_prompt", "message": "Invalid prompt: malformed schema"}}, "request"),
        (
            403,
            {"error": {"message": "Your organization must be verified to use this model, see our content policy"}},
            "run",
        ),
        (403, {"error": {"message": "Your access was terminated due to violation of our usage policies"}}, "run"),
        (403, b"<html><title>403</title>The request is blocked.</html>", "run"),  # a firewall's
        (404, {"error": {"message": "content filter configuration `mine` was not found"}}, "run"),
        (529, {"error": {"type": "overloaded_error"}}, "transient"),
        (500, b"<html>", "transient"),
        (501, {}, "run"),
        (400, {"error": {"message": "image dimensions exceed 8000 pixels"}}, "request"),
        (413, b"Request Entity Too Large", "request"),
        (422, {"detail": "cannot decode image"}, "request"),
    ],
)
def test_what_a_refusal_is_about(status, body, kind):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    parsed = None
    with contextlib.suppress(ValueError):
        parsed = read_json(data)
    assert Refusal(status, parsed, data.decode()).kind == kind


@pytest.mark.parametrize("value", VALUES)
def test_errors_may_hold_anything(value):
    for name in ("error", "message", "detail", "code", "type", "param", "metadata", "innererror", "loc", "details"):
        for body in ({name: value}, {"error": {name: value}}, [{name: value}], value):
            refusal = Refusal(400, body, "text")
            assert isinstance(refusal.words, str) and refusal.words and refusal.kind in ("request", "run", "filtered")
            assert refusal.declined({"temperature": 1}) == {}
            after({}, refusal.error)


def test_when_to_ask_again():
    assert after({"retry-after-ms": "1500", "retry-after": "9"}, {}) == 1.5
    assert after({"retry-after": "9"}, {}) == 9
    gemini = {"details": [{"@type": "x"}, {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "37s"}]}
    assert after({}, gemini) == 37
    assert after({"retry-after": "-5"}, {}) == 0 and after({"retry-after": "nan"}, {}) is None


# ---------------------------------------------------------------- parameters

SENT = {"temperature": 0.1, "top_p": 0.9, "seed": 3, "max_tokens": 99, "response_format": {"type": "json_object"}}


@pytest.mark.parametrize(
    "status, body, left_out",
    [
        (
            400,
            {
                "error": {
                    "message": "Unsupported parameter: 'temperature' is not supported with this model.",
                    "param": "temperature",
                    "code": None,
                }
            },
            {"temperature": None},
        ),
        (
            400,
            {
                "error": {
                    "message": "Unsupported value: 'temperature' does not support 0.1 with this model. Only the "
                    "default (1) value is supported.",
                    "param": "temperature",
                    "code": "unsupported_value",
                }
            },
            {"temperature": None},
        ),
        (400, {"error": {"message": "invalid temperature: only 1 is allowed for this model"}}, {"temperature": None}),
        (
            400,
            {
                "error": {
                    "message": "`temperature` and `top_p` cannot both be specified for this model. Please use only one."
                }
            },
            {"top_p": None},
        ),
        (
            400,
            {"error": {"message": "temperature and top_p are not supported with this model"}},
            {"temperature": None, "top_p": None},
        ),
        (
            422,
            {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]},
            {"seed": None},
        ),
        (400, {"error": {"message": "Unrecognized request argument supplied: seed"}}, {"seed": None}),
        (
            400,
            {
                "error": {
                    "message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                    "'max_completion_tokens' instead.",
                    "param": "max_tokens",
                }
            },
            {"max_tokens": "max_completion_tokens"},
        ),
        (
            400,
            {"error": {"message": "max_tokens is too large: 99. This model supports at most 64 completion tokens"}},
            {"max_tokens": None},
        ),
        (400, {"error": {"message": "Invalid parameter", "param": "response_format"}}, {"response_format": None}),
        (
            400,
            {"error": {"message": "'response_format.type' must be 'json_schema'; json_object is not supported"}},
            {"response_format": None},
        ),
        (500, {"error": {"message": "unexpected keyword argument 'top_p'"}}, {"top_p": None}),
        (400, {"error": {"message": "temperature must be between 0 and 2"}}, {}),  # the user's mistake
        (400, {"error": {"message": "the image cannot be decoded"}}, {}),
        (429, {"error": {"message": "temperature is not supported"}}, {}),
        (
            400,
            {"error": {"message": "'max_tokens' and 'max_completion_tokens' at the same time are not supported."}},
            {"max_tokens": None},
        ),
        (400, {"error": {"message": 'Unknown name "seed": Cannot find field.'}}, {"seed": None}),
        (400, {"error": {"message": "Additional properties are not allowed ('seed' was unexpected)"}}, {"seed": None}),
        (400, {"error": {"message": "Unknown parameter: 'seed'.", "code": "unknown_parameter"}}, {"seed": None}),
        (500, {"error": {"message": "an unexpected error occurred while the temperature was applied"}}, {}),
        (500, {"error": {"message": "unknown failure (temperature 0.1)"}}, {}),
        (500, {"error": {"message": "model not available, request: temperature=0.1 seed=3"}}, {}),
        (400, {"error": {"message": "an unknown error, temperature was 0.1"}}, {}),
        (400, {"error": {"message": "The model `m` does not exist (temperature 0.1)"}}, {}),
    ],
)
def test_declined_parameters_are_known_by_code_and_by_words(status, body, left_out):
    sent = SENT | ({"max_completion_tokens": 9} if "at the same time" in str(body) else {})
    assert Refusal(status, body, "").declined(sent) == left_out


CROWDED = [  # how OpenAI, DeepSeek, vLLM, SGLang, TGI, OpenRouter and Anthropic say it
    (400, "This model's maximum context length is 131072 tokens. However, you requested 131134 tokens (122942 in the "
          "messages, 8192 in the completion). Please reduce the length of the messages or completion."),
    (400, "This model's maximum context length is 64 tokens. Please reduce max_tokens."),
    (400, "'max_tokens' or 'max_completion_tokens' is too large: 99. This model's maximum context length is 64 tokens "
          "and your request has 30 input tokens (99 > 64 - 30)."),
    (400, "Requested token count exceeds the model's maximum context length of 64 tokens. You requested a total of 129 "
          "tokens: 30 tokens from the input messages and 99 tokens for the completion."),
    (422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 64. Given: 30 `inputs` tokens and 99 "
          "`max_new_tokens`"),
    (400, "This endpoint's maximum context length is 64 tokens. However, you requested about 129 tokens (30 of text "
          "input, 99 in the output). Please reduce the length of either one"),
    (400, "input length and `max_tokens` exceed context limit: 30 + 99 > 64, decrease input length or `max_tokens`"),
]  # fmt: skip


@pytest.mark.parametrize("status, words", CROWDED)
def test_a_long_row_goes_without_a_bound_and_all_others_keep_theirs(serve, store, capsys, status, words):  # noqa: F811
    refusal = Refusal(status, {"error": {"message": words}}, "")
    assert refusal.declined(SENT) == {} and refusal.crowded and refusal.kind == "request"

    def script(prompt, number):
        wrong = prompt == "long" and "max_tokens" in server.bodies[-1]
        return [response(status, {"error": {"message": words}}) if wrong else response(200, chat())]

    server = serve(script)
    asked = [(prompt, Request("m", (prompt,), dict(SENT))) for prompt in ("a", "long", "b", "c")]
    replies = dict(request_all(asked, EndpointClient(server.url), store, RequestPolicy(concurrency=1)))
    assert {reply.state for reply in replies.values()} == {"ok"} and server.total == 5
    sent = [{"temperature", "max_tokens"} & body.keys() for body in server.bodies]
    assert sent.count({"temperature"}) == 1 and sent.count({"temperature", "max_tokens"}) == 4
    assert capsys.readouterr().err.count("goes without `max_tokens`") == 1
    # where the prompt alone is too long it is the row's failure, and in a batch it is one at once
    server.script = lambda *_: [response(status, {"error": {"message": words}})]
    again = dict(request_all([(0, Request("m", ("longer",), dict(SENT)))], EndpointClient(server.url), store))
    assert again[0].state == "failed" and server.calls["longer"] == 2
    client = EndpointClient(server.url)
    body = json.dumps({"error": {"message": words}}).encode()
    reply = client.read(status, body, Request("m", ("x",), dict(SENT)), client.manner())
    assert reply.state == "failed" and words[:40] in reply.error and client.instead == {}


def test_a_declined_detail_leaves_images_as_they_are(serve, capsys):  # noqa: F811
    wrong = {"error": {"message": "Unknown field", "param": "messages[0].content[1].image_url.detail"}}
    answers = {True: response(400, wrong), False: response(200, chat())}
    server = serve(lambda *_: [answers['"detail"' in json.dumps(server.bodies[-1])]])
    image = EncodedImage(png(1).data, "image/png", "high")
    assert once(server, Request("m", ("look", image))).state == "ok"
    assert len(server.bodies) == 2 and "`detail` is left out" in capsys.readouterr().err


# ---------------------------------------------------------------- other interfaces


def test_addresses():
    assert read_address("https://x.example/v1/chat/completions").base == "https://x.example/v1"
    found = read_address("https://r.openai.azure.com/openai/deployments/d/chat/completions?api-version=2024-10-21")
    assert found.of(found.interface) == (
        "https://r.openai.azure.com/openai/deployments/d/chat/completions?api-version=2024-10-21"
    )
    assert read_address("https://x.example/v1/responses/").interface == "responses"
    # of files and batches: OpenAI, Zhipu (/v4), Gemini, Azure
    assert found.account == "https://r.openai.azure.com/openai" and found.batched("responses") == "/responses"
    versions = {"api.openai.com/v1": "/v1", "open.bigmodel.cn/api/paas/v4": "/v4", "x.com/v1beta/openai": "/v1"}
    for place, url in versions.items():
        other = read_address(f"https://{place}")
        assert other.account == other.base and other.batched("chat/completions") == f"{url}/chat/completions"


def test_azure_has_its_version_in_the_address_and_its_key_in_a_header_of_its_own(serve):  # noqa: F811
    server = serve()
    base, server.url = server.url, f"{server.url}/openai/deployments/d?api-version=2024-10-21"
    assert once(server).state == "ok"
    head = server.heads[0].lower()
    assert "post /v1/openai/deployments/d/chat/completions?api-version=2024-10-21 " in head
    assert f"api-key: {KEY}" in head and "authorization" not in head
    assert EndpointClient(server.url).name == f"{base}/openai/deployments/d"


def test_a_model_that_only_streams_is_asked_for_a_stream(serve, capsys):  # noqa: F811
    no = {"error": {"message": "This model only support stream mode, please enable the stream parameter.", "code": "x"}}
    chunks = [{"choices": [{"delta": {"content": text}}]} for text in ("a", "b")]
    chunks.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    chunks.append({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}})
    stream = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    answers = {None: response(400, no), True: response(200, stream.encode())}
    server = serve(lambda *_: [answers[server.bodies[-1].get("stream")]])
    reply = once(server)
    assert (reply.state, reply.text, reply.prompt_tokens, reply.completion_tokens) == ("ok", "ab", 5, 2)
    assert server.bodies[-1]["stream_options"] == {"include_usage": True}
    assert "replies come as streams" in capsys.readouterr().err


def test_the_responses_interface_by_its_address_and_by_what_the_endpoint_says(monkeypatch, capsys):
    """A server of its own: the shared one reads chat messages."""
    from test_clients import Server

    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    class Responses(Server):
        async def _connection(self, reader, client):
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    head = (await reader.readuntil(b"\r\n\r\n")).decode()
                    length = int(head.lower().split("content-length:")[1].split("\r\n")[0])
                    body = json.loads(await reader.readexactly(length))
                    self.heads.append(head)
                    self.bodies.append(body)
                    if "/responses" in head.split(" ")[1]:
                        client.write(response(200, RESPONSE))
                    else:
                        said = "This model is only supported in v1/responses and not in v1/chat/completions."
                        client.write(response(404, {"error": {"message": said}}))
                    await client.drain()

    server = Responses()
    try:
        schema = json_format("x", {"type": "object"})
        image = EncodedImage(b"\x89PNG...", "image/png", "high")
        parameters = {"max_tokens": 9, "seed": 1, "logprobs": True, "top_logprobs": 5, "response_format": schema}
        request = Request("m", ("look", image), parameters)
        for address, calls in ((server.url, 2), (f"{server.url}/responses", 1)):
            server.bodies.clear()

            async def call(address=address):
                client = EndpointClient(address)
                try:
                    return await client.ask(request, begin)
                finally:
                    await client.close()

            assert asyncio.run(call()) == Reply("ok", "fine", None, "m", 11, 3)
            assert len(server.bodies) == calls
            sent = server.bodies[-1]
            assert sent["input"][0]["content"][0] == {"type": "input_text", "text": "look"}
            shown = sent["input"][0]["content"][1]
            assert (shown["type"], shown["detail"]) == ("input_image", "high")
            assert shown["image_url"].startswith("data:image/png;")
            assert sent["max_output_tokens"] == 9 and sent["text"]["format"]["type"] == "json_schema"
            assert sent["text"]["format"]["schema"] == {"type": "object"} and sent["store"] is False
            assert sent["include"] == ["message.output_text.logprobs"]
            assert not sent.keys() & {"seed", "max_tokens", "messages"}
        assert "the Responses API is asked" in capsys.readouterr().err
    finally:
        server.close()
    cut = {**RESPONSE, "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    assert read_reply(cut).finish == "max_output_tokens"


def test_a_source_that_waits_for_its_replies_is_given_what_failed(store):  # noqa: F811
    """Failures are held back until something is answered; who asks nothing more before has them after a moment."""
    from edittools.vlm.backends.echo import EchoClient

    arrived = [threading.Event(), threading.Event()]

    def source():
        for number, event in enumerate(arrived):
            yield number, Request("m", (f"question {number}",))
            assert event.wait(30)

    client = EchoClient(lambda request: Reply("failed", error="this one cannot be done"))
    states = []
    for number, reply in request_all(source(), client, store):
        states.append((number, reply.state))
        arrived[number].set()
    assert states == [(0, "failed"), (1, "failed")]
