"""Writers: what goes over the wire and what comes back, replies that are paid for once, local models in batches."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import io
import itertools
import json
import logging
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_models import ALPHABET
from tiny_vlm import TEMPLATE, tiny_model

from edittools.errors import EditError, RowError, UsageError
from edittools.vlm import EncodedImage, Reply, Request, TransientError, UnreachableError, json_format
from edittools.vlm import requests as asking
from edittools.vlm.backends import endpoint
from edittools.vlm.backends.echo import EchoClient
from edittools.vlm.backends.endpoint import EndpointClient
from edittools.vlm.journal import Journal, left_journal, notes
from edittools.vlm.load import load_client
from edittools.vlm.prices import Price, Prices, estimate, estimate_tokens, load_prices
from edittools.vlm.requests import RETRY, RequestPolicy, RequestStats, request_all
from edittools.vlm.store import ReplyStore

KEY = "sk-test-3b1f0c9d8e7a6f5e4d3c2b1a"


# ---------------------------------------------------------------- a server that misbehaves as it is told


def chat(text="fine", finish="stop", **message):
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "snapshot-2026-01-01",
        "choices": [
            {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
        ],
        "usage": {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14},
    }


def response(status, body, headers=""):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n{headers}\r\n"
    return head.encode() + data


class Server:
    """A loopback server. `script(prompt, number)` says what the n-th call with this prompt gets: a list of bytes to
    write, seconds to wait, and None to hang up."""

    def __init__(self, script=lambda prompt, number: [response(200, chat())]):
        self.script = script
        self.calls, self.heads, self.bodies = Counter(), [], []
        self.inside = self.most = 0
        self.loop = asyncio.new_event_loop()
        self.server = self.loop.run_until_complete(asyncio.start_server(self._connection, "127.0.0.1", 0))
        self.port = self.server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    async def _connection(self, reader, client):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next(
                    int(h.split(":")[1]) for h in head.split("\r\n") if h.lower().startswith("content-length")
                )
                body = json.loads(await reader.readexactly(length))
                prompt = "".join(p["text"] for p in body["messages"][0]["content"] if p["type"] == "text")
                self.calls[prompt] += 1
                self.heads.append(head)
                self.bodies.append(body)
                self.inside += 1
                self.most = max(self.most, self.inside)
                try:
                    for step in self.script(prompt, self.calls[prompt]):
                        if step is None:
                            return client.close()
                        if isinstance(step, bytes):
                            client.write(step)
                            await client.drain()
                        else:
                            await asyncio.sleep(step)
                finally:
                    self.inside -= 1

    @property
    def total(self):
        return self.calls.total()

    def close(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()


@pytest.fixture
def serve(monkeypatch):
    servers = []
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def start(script=None):
        servers.append(Server(script) if script else Server())
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def store(tmp_path):
    made = ReplyStore(str(tmp_path / "replies"))
    yield made
    made.close()


async def begin():
    """There is always room for one more call."""


def once(server, request=None, **options):
    """One call without repetition."""

    async def call():
        client = EndpointClient(server.url, **options)
        try:
            return await client.ask(request or Request("m", ("hello",)), begin)
        finally:
            await client.close()

    return asyncio.run(call())


def questions(count, start=0):
    return [(k, Request("m", (f"question {k}",))) for k in range(start, start + count)]


def png(seed, height=40, width=60):
    buffer = io.BytesIO()
    array = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(array).save(buffer, "PNG")
    return EncodedImage(buffer.getvalue(), "image/png")


# ---------------------------------------------------------------- the endpoint


def test_request_holds_parts_in_order_and_images_byte_for_byte(serve):
    server = serve()
    first, second = EncodedImage(bytes(range(256)) * 3, "image/jpeg"), EncodedImage(b"\x89PNG...", "image/png")
    parameters = {"max_tokens": 7, "temperature": 0.0, "response_format": json_format("x", {"type": "object"})}
    reply = once(server, Request("some-model", ('before 图\n"', first, "between", second), parameters))
    body = server.bodies[0]
    content = body["messages"][0]["content"]
    assert [part["type"] for part in content] == ["text", "image_url", "text", "image_url"]
    assert [part["text"] for part in content if part["type"] == "text"] == ['before 图\n"', "between"]
    for part, image in zip(content[1::2], (first, second)):
        label, data = part["image_url"]["url"].split(",")
        assert label == f"data:{image.mime};base64" and base64.b64decode(data) == image.data
    assert body == {"model": "some-model", "messages": [{"role": "user", "content": content}], **parameters}
    assert f"authorization: bearer {KEY}" in server.heads[0].lower()
    assert "POST /v1/chat/completions " in server.heads[0]
    assert reply == Reply("ok", "fine", None, "snapshot-2026-01-01", 11, 3)


def test_detail_is_sent_and_keyed_where_it_is_said(serve):
    server = serve()
    plain, high = EncodedImage(b"\x89PNG...", "image/png"), EncodedImage(b"\x89PNG...", "image/png", "high")
    once(server, Request("m", ("look", plain, high)))
    first, second = (part["image_url"] for part in server.bodies[0]["messages"][0]["content"][1:])
    assert set(first) == {"url"} and second == {**first, "detail": "high"}
    assert Request("m", (plain,)).key != Request("m", (high,)).key
    # as it was before images had a detail: stored replies are still found
    assert Request("m", ("look", plain)).key == "923cfed0e241c82a50d4e3d359faf4e9ef18dcabe0329d8e208d7883a98452ea"


def test_logprobs_begin_with_the_written_token(serve):
    step = {
        "token": "5",
        "logprob": -1.5,
        "top_logprobs": [{"token": "4", "logprob": -0.4}, {"token": "5", "logprob": -1.5}],
    }
    body = chat("5")
    body["choices"][0]["logprobs"] = {"content": [step]}
    assert once(serve(lambda *_: [response(200, body)])).logprobs == [[("5", -1.5), ("4", -0.4)]]


HALF = response(200, chat())[:-20]


@pytest.mark.parametrize(
    "steps, after",
    [
        ([response(429, {"error": {"message": "slow down"}}, "Retry-After: 7\r\n")], 7),
        ([response(429, {"error": {"message": "slow down"}})], None),
        ([response(429, {}, "Retry-After: 1000000\r\n")], 600),
        ([response(429, {}, "Retry-After: soon\r\n")], None),
        ([response(503, b"<html>busy</html>", "Retry-After: Fri, 21 Nov 2025 00:00:00 GMT\r\n")], 0),
        ([response(500, {"error": {"message": "oops"}})], None),
        ([response(408, b"")], None),
        ([HALF, None], None),
        ([None], None),
        ([b"hello\r\n\r\n", None], None),  # what is not HTTP
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc", None], None),
        ([response(200, chat(), "X: " + "x" * 100_000 + "\r\n")], None),
        ([response(200, chat(), "Content-Encoding: gzip\r\n")], None),
        ([response(204, b"")], None),
        ([response(200, b'{"choices": [')], None),
        ([response(200, b"[1]")], None),
        ([response(200, b'\xff\xfe{"')], None),
        ([response(200, {"choices": []})], None),
        ([response(200, {"choices": [{"message": None}]})], None),
        ([response(200, {"error": {"code": 502, "message": "upstream"}})], None),
        ([HALF, 30.0], None),  # with the timeout below
        ([30.0], None),
    ],
)
def test_what_may_pass_is_transient(serve, steps, after):
    with pytest.raises(TransientError) as caught:
        once(serve(lambda *_: steps), timeout=0.5 if 30.0 in steps else 20)
    assert caught.value.after == after
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 300


def test_a_server_that_hangs_up_is_reached_and_may_have_to_be_paid(serve):
    with pytest.raises(TransientError, match="disconnected") as caught:
        once(serve(lambda *_: [None]))
    assert not isinstance(caught.value, UnreachableError) and caught.value.paid == Reply("failed")


@pytest.mark.parametrize("status", [200, 400, 422, 500])
def test_a_server_that_repeats_the_whole_request_is_read_in_time(serve, status):
    """With an image in it, as one word of a million letters."""
    body = {"detail": [{"msg": "x" * 1_000_000, "input": {"messages": "y" * 1_000_000}}], "message": "z" * 1_000_000}
    started = time.monotonic()
    with contextlib.suppress(TransientError):
        assert len(once(serve(lambda *_: [response(status, body)])).error) <= 320
    assert time.monotonic() - started < 10


def test_bytes_that_trickle_do_not_postpone_the_timeout(serve):
    with pytest.raises(TransientError, match=r"no reply within 0\.6 s"):
        once(serve(lambda *_: [HALF[:60]] + [0.2, b"x"] * 40), timeout=0.6)


def test_nobody_listens(serve):
    server = serve()
    server.url = "http://127.0.0.1:9/v1"
    with pytest.raises(TransientError):
        once(server)


def block(**error):
    return response(400, {"error": {"message": "no", **error}})


@pytest.mark.parametrize(
    "answer, state, text",
    [
        (block(code="content_filter"), "filtered", None),
        (block(code="x", innererror={"code": "ResponsibleAIPolicyViolation"}), "filtered", None),
        (block(type="content_policy_violation"), "filtered", None),
        (response(200, chat("half of", finish="content_filter")), "filtered", None),
        (response(200, chat(None, finish="content_filter: PROHIBITED_CONTENT")), "filtered", None),
        (response(200, chat(None, refusal="I cannot help with that")), "refused", "I cannot help with that"),
        (response(200, chat("", refusal="No.")), "refused", "No."),
        (response(200, chat(None, finish="length")), "failed", None),
        (response(200, chat("")), "failed", None),
        (block(code="image_parse_error"), "failed", None),
        (response(413, b"too large"), "failed", None),
        (response(200, chat([{"type": "text", "text": "in "}, {"type": "text", "text": "parts"}])), "ok", "in parts"),
        (response(200, b'{"choices":[{"message":{"content":"a\\ud800b"}}]}'), "ok", "a?b"),
    ],
)
def test_states_of_a_reply(serve, answer, state, text):
    reply = once(serve(lambda *_: [answer]))
    assert (reply.state, reply.text) == (state, text)
    assert (reply.error is None) == (state in ("ok", "refused"))


@pytest.mark.parametrize(
    "answer, words",
    [
        (response(401, {"error": {"message": f"Incorrect API key provided: {KEY}"}}), "Incorrect API key provided"),
        (response(401, {"error": {"message": "Incorrect API key: sk-pr**********1a2b."}}), "Incorrect API key: .key."),
        (response(402, {"error": {"message": "Insufficient Balance"}}), "Insufficient Balance"),
        (response(403, {"error": {"message": "no"}}), "no"),
        (response(404, {"error": {"message": "no such model", "code": "model_not_found"}}), "no such model"),
        (response(404, {"detail": "Not Found"}), "Not Found"),
        (response(404, {"error": {"message": "No endpoints found that support images", "code": 404}}), "images"),
        (response(429, {"error": {"message": "pay first", "code": "insufficient_quota"}}), "pay first"),
        (response(400, [{"error": {"message": "API key not valid. Please pass a valid API key."}}]), "not valid"),
        (response(307, b"", "Location: http://127.0.0.1:9/\r\n"), "Temporary Redirect"),
        (response(200, b"<!DOCTYPE html><html><title>Sign in</title>"), "an HTML page: Sign in"),
        (response(405, b"Method Not Allowed"), "Method Not Allowed"),
    ],
)
def test_what_every_request_would_meet_stops_the_run_in_the_servers_words(serve, store, answer, words):
    """Of three requests, all of which meet it. The key is part of no message."""
    server = serve(lambda *_: [answer])
    with pytest.raises(EditError, match=words) as caught:
        list(request_all(questions(3), EndpointClient(server.url), store, RequestPolicy(concurrency=1)))
    assert server.total == 3 and "failed alike" in str(caught.value)
    said = f"{caught.value}{caught.value.hint}"
    assert KEY not in said and "1a2b" not in said and caught.value.hint


def test_a_refusal_that_one_row_meets_is_its_own(serve, store):
    """The first one, too: the others show that the endpoint works."""
    for status in (401, 403, 404, 405, 413):
        refused = response(status, {"error": {"message": f"not this one, {status}"}})
        answers = {prompt: refused for prompt in ("question 0", "question 3")}
        server = serve(lambda prompt, number, answers=answers: [answers.get(prompt, response(200, chat()))])
        asked = [(k, Request(f"m{status}", (f"question {k}",))) for k in range(6)]
        replies = dict(request_all(asked, EndpointClient(server.url), store, RequestPolicy(concurrency=1)))
        assert [replies[k].state for k in range(6)] == ["failed", "ok", "ok", "failed", "ok", "ok"]
        assert replies[0].error == f"HTTP {status}: not this one, {status}" and server.total == 6


def test_a_run_whose_first_calls_all_fail_alike_stops(serve, store):
    """Also where each might be the row's own fault; and what was a success once is not forgotten."""
    wrong = response(400, {"message": "At most 1 image(s) may be provided, request 4f1c9a", "code": 400})
    server = serve(lambda prompt, number: [wrong])
    with pytest.raises(EditError, match="the first 10 requests failed alike: HTTP 400: At most 1 image"):
        list(request_all(questions(1000), EndpointClient(server.url), store, RequestPolicy(concurrency=4)))
    assert server.total <= 10 + 4 + 4
    server.script = lambda prompt, number: [response(200, chat()) if prompt == "question 0" else wrong]
    stats = RequestStats()
    replies = dict(
        request_all(questions(40), EndpointClient(server.url), store, RequestPolicy(concurrency=1), stats=stats)
    )
    assert len(replies) == 40 and stats.failed == 39
    assert stats.reasons.most_frequent(3) == [(39, "failed", replies[1].error)]
    # a key that is revoked: not one of the rows that follow can be asked about
    revoked = response(401, {"error": {"message": "key revoked"}})
    server.script = lambda prompt, number: [revoked if int(prompt.split()[1]) > 104 else response(200, chat())]
    server.calls.clear()
    with pytest.raises(EditError, match="the last 10 requests failed alike: HTTP 401: key revoked"):
        list(request_all(questions(500, 100), EndpointClient(server.url), store, RequestPolicy(concurrency=1)))
    assert server.total <= 5 + 10 + 10
    # fewer than ten that fail for a reason of their own are rows that failed
    server.script = lambda prompt, number: [wrong]
    assert {r.state for _, r in request_all(questions(9, 900), EndpointClient(server.url), store)} == {"failed"}


def test_parameters_that_the_endpoint_does_not_take_are_left_out_or_renamed(serve, store, capsys):
    """In the words of OpenAI, of Gemini and of a server that checks its schema; the calls in flight all meet them."""

    def script(prompt, number):
        sent = server.bodies[-1]
        if "max_tokens" in sent:
            said = "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."
            return [0.05, block(message=said, param="max_tokens", code="unsupported_parameter")]
        if "temperature" in sent:
            said = "Unsupported value: 'temperature' does not support 0.1 with this model. Only the default (1) is."
            return [0.05, block(message=said, param="temperature", code="unsupported_value")]
        if "response_format" in sent:
            return [0.05, block(message="Invalid parameter", param="response_format")]
        if prompt == "question 0" and "logprobs" in sent:
            said = {"message": "You are not allowed to request logprobs from this model", "param": None}
            return [0.05, response(403, {"error": said})]
        if "top_logprobs" in sent:
            return [0.05, response(422, {"detail": "Unexpected fields in the request: {'top_logprobs'}"})]
        return [response(200, chat())]

    server = serve(script)
    client, stats = EndpointClient(server.url), RequestStats()
    parameters = {"max_tokens": 9, "response_format": {"type": "json_object"}, "logprobs": True, "top_logprobs": 20}
    parameters["temperature"] = 0.1
    requests = [(k, Request("m", (f"question {k}",), {**parameters, "seed": k})) for k in range(8)]
    replies = dict(request_all(requests, client, store, RequestPolicy(concurrency=4, attempts=1), stats=stats))
    assert {reply.state for reply in replies.values()} == {"ok"} and stats.failed == 0
    taken = [body for body in server.bodies if not body.keys() & {"max_tokens", "response_format", "top_logprobs"}]
    assert len(taken) == 8 and all(body["max_completion_tokens"] == 9 and "logprobs" not in body for body in taken)
    assert all(number == 1 for prompt, number in server.calls.items() if prompt in ("question 6", "question 7"))
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 4 and "from now on `max_tokens` becomes `max_completion_tokens`" in said[0]
    assert "`temperature` is left out" in said[1] and "`response_format` is left out" in said[2]
    assert "`logprobs` is left out, `top_logprobs` is" in said[3]
    assert store.get(requests[0][1].key) == replies[0]
    # what was not sent cannot be left out
    plain = once(serve(lambda *_: [block(message="no logprobs here")]), Request("m", ("x",), {"seed": 1}))
    assert plain.state == "failed"
    # a value that no model takes is the user's mistake
    wrong = block(message="temperature: at most 2", param="temperature", code="decimal_above_max_value")
    assert once(serve(lambda *_: [wrong]), Request("m", ("x",), {"temperature": 5.0})).state == "failed"


def test_an_endpoint_that_is_not_there_stops_the_run(serve, store):
    """What was never reached is a wrong address; what was there once may come back."""
    requests, stats = [(k, Request("m", (f"question {k}",))) for k in range(20)], RequestStats()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{probe.getsockname()[1]}/v1"
        with pytest.raises(EditError, match=f"{nobody} cannot be reached: Cannot connect .*[(]2 calls[)]"):
            list(
                request_all(
                    requests,
                    EndpointClient(nobody),
                    store,
                    RequestPolicy(concurrency=4, attempts=2, backoff=0.01),
                    stats=stats,
                )
            )
    assert stats.replies == 0 and 2 <= stats.calls <= 16
    came = itertools.count()

    def leave(request: Request) -> Reply:
        if next(came):
            raise UnreachableError("no connection")
        return Reply("ok", "here")

    replies = dict(
        request_all(requests[:3], EchoClient(leave), store, RequestPolicy(concurrency=1, attempts=2, backoff=0.01))
    )
    assert replies[0].state == "ok" and {replies[1].state, replies[2].state} == {"failed"}
    assert replies[1].error == "no connection (after 2 calls)"


def test_an_empty_store_is_not_looked_into(store, tmp_path, monkeypatch):
    """Nothing that could be found is missed: replies from before, logs of other tasks, another process's journal."""
    assert store.is_empty()
    looked = []
    monkeypatch.setattr(
        ReplyStore, "get", lambda self, *args, real=ReplyStore.get: looked.append(args) or real(self, *args)
    )
    requests = [(k, Request("m", (f"question {k % 5}",))) for k in range(10)]
    client = EchoClient()
    replies = dict(request_all(requests, client, store, RequestPolicy(concurrency=1)))
    assert client.asked == 5 and len(looked) <= 5, "only what this run has asked already"
    assert not store.is_empty()
    assert dict(request_all(requests, client, store)) == replies and client.asked == 5
    other = ReplyStore(store.folder, "00001")
    assert not other.is_empty()
    assert dict(request_all(requests, client, other)) == replies and client.asked == 5
    other.close()
    first = ReplyStore(str(tmp_path / "two"))
    second = ReplyStore(str(tmp_path / "two"))  # the same log, while another process is at work
    assert not first.is_empty() and not second.is_empty()
    first.close()
    assert second.is_empty()
    second.close()


def test_messages_are_made_before_their_turn(serve, store, monkeypatch):
    """In the preparing threads, also where two calls show one image: the loop has no time for it."""
    made = []
    monkeypatch.setattr(endpoint, "_messages", lambda request, *form, real=endpoint._messages: made.append(
        (request.parts[0], threading.current_thread().name)) or real(request, *form))  # fmt: skip
    shown = png(1)
    requests = [(k, Request("m", (f"question {k}", shown))) for k in range(6)]
    answers = [response(503, {"error": {"message": "busy"}}), response(200, chat())]
    server = serve(lambda prompt, number: [answers[min(number, 2) - 1 if prompt == "question 3" else 1]])
    replies = dict(request_all(requests, EndpointClient(server.url), store, RequestPolicy(concurrency=2, backoff=0.01)))
    assert {reply.state for reply in replies.values()} == {"ok"}
    assert sorted(made) == sorted([(f"question {k}", "preparing") for k in range(6)] + [("question 3", "asking")])
    url = f"data:image/png;base64,{base64.b64encode(shown.data).decode()}"
    sent = [body["messages"][0]["content"] for body in server.bodies]
    assert [part[1]["image_url"]["url"] for part in sent] == [url] * 7


def test_the_key_is_nowhere(serve, store, caplog, monkeypatch):
    """A server that repeats the key in errors and replies; nothing of it stays."""
    caplog.set_level(logging.DEBUG)
    answers = {
        "a": [response(200, chat(f"your key is {KEY}"))],
        "b": [block(message=f"bad: {KEY}")],
        "c": [response(500, {"error": {"message": f"Bearer {KEY}"}})],
        "d": [response(200, chat(None, refusal=KEY))],
        "e": [response(200, f"not JSON {KEY}".encode())],
    }
    server = serve(lambda prompt, number: answers[prompt])
    client = EndpointClient(server.url)
    assert client.name == server.url
    requests = [(name, Request("m", (name,))) for name in answers]
    replies = dict(request_all(requests, client, store, RequestPolicy(attempts=2, backoff=0.01)))
    assert replies["a"].text == "your key is [key]"
    files = b"".join(path.read_bytes() for path in Path(store.folder).iterdir())
    for text in (str(replies), files.decode("latin1"), caplog.text):
        assert KEY not in text
    assert b"uthorization" not in files


def test_where_the_endpoint_and_the_key_come_from(serve, monkeypatch):
    server = serve()
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("EDITTOOLS_API_BASE", server.url + "/")
    assert EndpointClient().name == server.url
    assert EndpointClient("https://[::1]:80/x").name == "https://[::1]:80/x"
    monkeypatch.delenv("EDITTOOLS_API_BASE")
    assert EndpointClient().name == "http://127.0.0.1:9/v1"
    monkeypatch.delenv("OPENAI_BASE_URL")
    assert EndpointClient().name == "https://api.openai.com/v1"
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(EditError, match="key") as caught:
        EndpointClient()
    assert "OPENAI_API_KEY" in caught.value.hint
    with pytest.raises(EditError) as caught:
        EndpointClient(server.url, api_key_env="OTHER_KEY")
    assert "OTHER_KEY" in caught.value.hint
    monkeypatch.setenv("OTHER_KEY", "another-key")
    once(server, api_key_env="OTHER_KEY")
    assert "bearer another-key" in server.heads[0].lower()
    EndpointClient(server.url)  # a server of one's own needs no key
    for wrong in ("ftp://x/v1", "127.0.0.1:80", "http://", "http://x:port/"):
        with pytest.raises(EditError, match="http"):
            EndpointClient(wrong)
    for wrong in (f"http://user:{KEY}@127.0.0.1/v1", f"http://127.0.0.1/v1?key={KEY}"):
        with pytest.raises(EditError, match="password") as caught:
            EndpointClient(wrong)
        assert KEY not in str(caught.value)


def test_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(EditError, match="not installed") as caught:
        EndpointClient("http://127.0.0.1:9/v1")
    assert caught.value.hint == "pip install 'edittools[vlm]'"


# ---------------------------------------------------------------- asking


def test_every_tag_comes_back_with_its_reply(store):
    client = EchoClient(lambda request: request.parts[0].upper())
    replies = dict(request_all(questions(300), client, store))
    assert replies == {k: Reply("ok", f"QUESTION {k}", model="echo", client="echo") for k in range(300)}
    assert client.asked == 300
    assert dict(request_all(iter([]), client, store)) == {}


def test_what_is_stored_is_not_asked_again_except_failures(store, tmp_path):
    states = {"a": "ok", "b": "refused", "c": "filtered", "d": "failed"}

    def answer(request):
        return Reply(states[request.parts[0]], "text", logprobs=[[("x", -0.5), ("图", -1.0)]])

    requests = [(name, Request("m", (name, png(1)), {"seed": 1})) for name in states]
    first = dict(request_all(requests, EchoClient(answer), store))
    again, stats = EchoClient(answer), RequestStats()
    assert dict(request_all(requests, again, store, stats=stats)) == first
    assert (again.asked, stats.calls, stats.stored) == (1, 1, 3)
    # another task reads this log as well, and a reply that failed there is replaced by one that did not
    states["d"] = "ok"
    other, task = EchoClient(answer), ReplyStore(store.folder, "00001")
    assert dict(request_all(requests, other, task))["d"].state == "ok" and other.asked == 1
    task.close()
    third = EchoClient(answer)
    with contextlib.closing(ReplyStore(store.folder)) as rerun:
        assert dict(request_all(requests, third, rerun))["d"].state == "ok" and third.asked == 0
    # what decides the reply decides the key
    for other in (
        Request("n", ("a", png(1)), {"seed": 1}),
        Request("m", ("a", png(2)), {"seed": 1}),
        Request("m", (png(1), "a"), {"seed": 1}),
        Request("m", ("a", png(1)), {"seed": 2}),
        Request("m", ("a", png(1)), {"seed": 1}, attempt=1),
        Request("m", ("a", EncodedImage(png(1).data, "image/jpeg")), {"seed": 1}),
    ):
        assert store.get(other.key) is None
    assert store.get(requests[0][1].key) == first["a"]


class Named(EchoClient):
    """A client of another name, which it answers with."""

    def __init__(self, name):
        super().__init__(name)
        self.name = name


def test_a_stored_reply_says_who_answered_and_counts_for_whom_it_can(store):
    def answer(name):
        client = Named(name)
        return dict(request_all(questions(1), client, store))[0], client.asked

    echo, judge, other = "echo", "judge@1f2e", "judge@9a8b"
    one, two = "https://one.example/v1", "http://localhost:8000/v1"
    for name in (echo, judge, other, one):
        assert answer(name) == (Reply("ok", name, model="echo", client=name), 1)
    for name in (echo, judge, other, one):  # and none of these took the place of another
        assert answer(name) == (Reply("ok", name, model="echo", client=name), 0)
    assert answer(two) == (Reply("ok", one, model="echo", client=one), 0)


def test_a_store_says_what_was_asked(store):
    import hashlib

    image = png(1)
    request = Request("m", ("one", image, "two"), {"seed": 1}, attempt=2)
    list(request_all([(0, request)], EchoClient("text"), store))
    with contextlib.closing(sqlite3.connect(store.path)) as log:
        log.row_factory = sqlite3.Row
        (row,) = map(dict, log.execute("SELECT * FROM replies"))
    assert row["prompt_sha256"] == hashlib.sha256(b"one\ntwo").hexdigest()
    assert json.loads(row["images"]) == [["image/png", hashlib.sha256(image.data).hexdigest()]]
    assert (row["key"], row["asked"], row["model"], row["attempt"]) == (request.key, "m", "echo", 2)
    assert (row["writer"], row["state"], row["text"]) == ("echo", "ok", "text")


def test_what_is_on_its_way_to_the_log_outlives_a_kill(store, monkeypatch):
    """Replies that a commit has not brought to disk yet are found in a copy of the folder, as a kill leaves it."""
    put, left = ReplyStore.put, {}

    def copy_first(self, rows):
        folder = f"{store.folder}-{len(left)}"
        shutil.copytree(store.folder, folder)
        left[folder] = [row[0] for row in rows]
        put(self, rows)

    monkeypatch.setattr(ReplyStore, "put", copy_first)
    requests = [(k, Request("m", (f"question {k}",))) for k in range(60)]
    replies = dict(
        request_all(requests, EchoClient(lambda request: request.parts[0] * 50), store, RequestPolicy(concurrency=4))
    )
    keys = {request.key: replies[k] for k, request in requests}
    assert sum(map(len, left.values())) == 60 and max(map(len, left.values())) > 1
    for folder, on_their_way in left.items():
        # of a task of this name, and of another's
        for name in ("00001", "00000"):
            with contextlib.closing(ReplyStore(folder, name)) as found:
                assert [found.get(key) for key in on_their_way] == [keys[key] for key in on_their_way]
        assert not list(Path(folder).glob("*.journal"))
    with contextlib.closing(sqlite3.connect(store.path)) as log:
        assert log.execute("SELECT COUNT(*) FROM replies").fetchone() == (60,)


def test_a_journal_that_was_cut_or_is_full(tmp_path):
    def read_journal(path):
        return list(notes(Path(path).read_bytes()))

    journal = Journal(str(tmp_path), "j")
    path = journal.path
    assert journal.note(["a", None]) and journal.note(["b", 1])
    assert read_journal(path) == [["a", None], ["b", 1]]
    with left_journal(path) as left:  # of a process that is alive
        assert left == []
    assert journal.turn() and not journal.turn()  # the first half is not cleared
    assert journal.note(["c"]) and read_journal(path) == [["a", None], ["b", 1], ["c"]]
    journal.clear()
    assert read_journal(path) == [["c"]]
    assert not journal.note(["x" * (1 << 18)])
    count = 0
    while journal.note(["y" * 1000]):
        count += 1
    assert 250 <= count <= 262 and len(read_journal(path)) == count + 1
    journal.close()
    assert len(read_journal(path)) == count + 1  # it held something
    content = bytearray(Path(path).read_bytes())
    for place in range((1 << 18) + 5000, (1 << 18) + 5900, 90):  # a power cut leaves anything
        Path(path).write_bytes(content[:place] + b"?" + content[place + 1 :])
        assert len(read_journal(path)) == (place - (1 << 18) - 14) // 1014 + 1
        Path(path).write_bytes(content[:place])
        assert len(read_journal(path)) == (place - (1 << 18) - 14) // 1014 + 1
    for _ in range(2):
        with pytest.raises(OSError), left_journal(path) as left:
            assert len(left) > 4
            raise OSError("not stored")
    with left_journal(path) as left:
        assert len(left) > 4
    with left_journal(path) as left:
        assert left == [] and not os.path.exists(path)


def test_store_that_is_no_store(tmp_path):
    (tmp_path / "00000.sqlite").write_bytes(b"this is not a database, whatever its name says" * 10)
    with pytest.raises(EditError, match=r"00000\.sqlite"):
        ReplyStore(str(tmp_path))
    with pytest.raises(EditError, match=r"00000\.sqlite"):
        ReplyStore(str(tmp_path), "00001")
    with pytest.raises(EditError, match="file"):
        (tmp_path / "file").write_text("")
        ReplyStore(str(tmp_path / "file"))
    with pytest.raises(EditError, match="local folder"):
        ReplyStore("s3://bucket/replies")


def test_what_a_call_waits_for_does_not_count_as_its_time(serve, store):
    server = serve(lambda prompt, number: [0.4, response(200, chat(prompt))])
    client = EndpointClient(server.url, timeout=2.2)  # less than all of them one after the other
    replies = dict(request_all(questions(6), client, store, RequestPolicy(concurrency=1, attempts=1)))
    assert {reply.state for reply in replies.values()} == {"ok"} and server.most == 1


def test_threads_that_make_requests_are_as_many_as_are_needed(store, monkeypatch):
    def threads(seconds):
        seen = set()

        def make(k):
            seen.add(threading.get_ident())
            time.sleep(seconds)
            return Request("m", (f"{seconds} {k}",))

        calls = [(k, functools.partial(make, k)) for k in range(40)]
        assert len(list(request_all(calls, EchoClient("yes"), store, RequestPolicy(concurrency=8)))) == 40
        return len(seen)

    monkeypatch.setattr(asking, "_PREPARERS", 3)
    assert threads(0.02) == 3
    monkeypatch.setattr(asking, "_STARVING", 60.0)
    assert threads(0.01) == 1


def test_errors_that_pass_are_repeated_and_others_stay(serve, store):
    def script(prompt, number):
        kind, times = prompt.split()
        if number <= int(times):
            return {
                "429": [response(429, {}, "Retry-After: 0\r\n")],
                "500": [response(500, {})],
                "half": [HALF, None],
                "json": [response(200, b"{")],
                "hangup": [None],
            }[kind]
        return [response(200, chat(prompt))]

    server = serve(script)
    prompts = [f"{kind} {times}" for kind in ("429", "500", "half", "json", "hangup") for times in (0, 1, 3, 99)]
    stats = RequestStats()
    requests = [(p, Request("m", (p,))) for p in prompts]
    replies = dict(
        request_all(requests, EndpointClient(server.url), store, RequestPolicy(attempts=4, backoff=0.01), stats=stats)
    )
    for prompt in prompts:
        times = int(prompt.split()[1])
        assert server.calls[prompt] == min(times + 1, 4)
        assert replies[prompt].state == ("failed" if times == 99 else "ok")
    assert (stats.calls, stats.failed, stats.repeated) == (server.total, 5, server.total - len(prompts))
    assert "after 4 calls" in replies["429 99"].error
    # a rerun asks for the failed ones only
    server.calls.clear()
    server.script = lambda prompt, number: [response(200, chat(prompt))]
    rerun = dict(request_all(requests, EndpointClient(server.url), store, RequestPolicy(attempts=4, backoff=0.01)))
    assert {reply.state for reply in rerun.values()} == {"ok"}
    assert server.calls == Counter(p for p in prompts if p.endswith("99"))


def test_pauses_double_and_retry_after_holds_everybody(store, monkeypatch):
    slept = []

    async def sleep(self, seconds, leave=True):
        slept.append(seconds)
        self.limiter.hold_until = 0.0

    monkeypatch.setattr(asking._Run, "_sleep", sleep)
    monkeypatch.setattr(asking, "_STAGGER", 0.0)

    def busy(request):
        raise TransientError("busy")

    list(request_all(questions(1), EchoClient(busy), store, RequestPolicy(attempts=9, backoff=2.0)))
    assert len(slept) == 8
    for n, seconds in enumerate(slept):
        assert min(60, 2 * 2**n) / 2 <= seconds <= min(60, 2 * 2**n)
    slept.clear()

    def later(request):
        if request.parts[0] == "question 5" and not slept:
            raise TransientError("busy", after=100.0)
        return "ok"

    assert {
        r.state for _, r in request_all(questions(40, 1), EchoClient(later), store, RequestPolicy(concurrency=1))
    } == {"ok"}
    assert len(slept) == 1 and 100 <= slept[0] <= 110


def test_identical_requests_are_asked_once(serve, store):
    server = serve(lambda prompt, number: [0.05, response(200, chat(prompt))])
    requests = [(k, Request("m", (f"question {k % 7}",))) for k in range(200)]
    replies = dict(request_all(requests, EndpointClient(server.url), store, RequestPolicy(concurrency=16)))
    assert {k: reply.text for k, reply in replies.items()} == {k: f"question {k % 7}" for k in range(200)}
    assert set(server.calls.values()) == {1}
    # also those that fail
    server.script = lambda prompt, number: [response(500, {})]
    failing = [(k, Request("n", ("the same",))) for k in range(50)]
    replies = dict(
        request_all(failing, EndpointClient(server.url), store, RequestPolicy(attempts=2, backoff=0.01, concurrency=4))
    )
    assert {reply.state for reply in replies.values()} == {"failed"} and server.calls["the same"] == 2


def test_requests_are_made_just_before_they_are_sent_and_in_flight_is_bounded(serve, store):
    server = serve(lambda prompt, number: [0.01, response(200, chat())])
    made, ahead = 0, []
    lock = threading.Lock()

    def make(k):
        nonlocal made
        with lock:
            made += 1
            ahead.append(made - server.total)
        return Request("m", (f"question {k}", png(k)))

    lazy = ((k, lambda k=k: make(k)) for k in range(400))
    replies = dict(request_all(lazy, EndpointClient(server.url), store, RequestPolicy(concurrency=8)))
    assert len(replies) == server.total == made == 400
    assert server.most == 8
    # sent but not yet counted by the server, waiting for a slot, or waiting for a place
    assert max(ahead) <= 8 + 4 + max(8 // 2, 2 * asking._PREPARERS) + asking._PREPARERS


def test_a_slow_caller_bounds_what_is_asked(store):
    client = EchoClient("x")
    replies = request_all(questions(1000), client, store, RequestPolicy(concurrency=4))
    next(replies)
    time.sleep(0.5)
    assert client.asked <= 1 + 4 * 4 + 4 + 4  # taken, waiting for the caller, and one at each of 4 + 4 places
    replies.close()


def test_pace_spreads_calls(store):
    limiter = asking.RateLimiter(120.0, 6000.0)
    moments = [limiter.next(tokens) for tokens in (0, 0, 200, 0)]
    assert [round(b - a, 3) for a, b in itertools.pairwise(moments)] == [0.5, 0.5, 2.0]


def test_row_errors_are_replies_and_other_errors_stop_the_run(serve, store):
    server = serve(lambda prompt, number: [0.02, response(200, chat(prompt))])

    def bad():
        raise RowError("image_broken")

    requests = [*questions(5), ("bad", bad), *questions(5, 5)]
    replies = dict(request_all(requests, EndpointClient(server.url), store))
    assert replies["bad"] == Reply("failed", error="image_broken") and len(replies) == 11

    def source():
        yield from questions(10, 100)
        raise EditError("the input is broken")

    with pytest.raises(EditError, match="the input is broken"):
        list(request_all(source(), EndpointClient(server.url), store))
    sent = [prompt for prompt in server.calls if int(prompt.split()[1]) >= 100]
    for prompt in sent:  # what was sent before the error is stored
        assert store.get(Request("m", (prompt,)).key).text == prompt
    server.script = lambda prompt, number: [response(401, {})]
    with pytest.raises(EditError, match="10 requests failed alike: HTTP 401"):
        list(request_all(questions(500, 200), EndpointClient(server.url), store, RequestPolicy(concurrency=4)))
    assert server.total <= 11 + 10 + 10 + 4


def test_leaving_early_stores_what_is_in_flight(serve, store):
    server = serve(lambda prompt, number: [0.2, response(200, chat(prompt))])
    with contextlib.closing(
        request_all(questions(500), EndpointClient(server.url), store, RequestPolicy(concurrency=16))
    ) as replies:
        next(replies)
    assert 16 <= server.total <= 40
    assert all(store.get(Request("m", (prompt,)).key).text == prompt for prompt in server.calls)


def test_unusable_replies_are_asked_for_again_and_the_last_is_kept(store):
    def answer(request):
        good = request.parts[0] == "question 0" or (request.parts[0] == "question 3" and request.attempt == 2 * RETRY)
        return '{"score": 4}' if good else f"no score {request.attempt}"

    def check(tag, text):
        if tag != 1 and not text.startswith("{"):
            raise ValueError("no JSON object")

    client, stats = EchoClient(answer), RequestStats()
    replies = dict(request_all(questions(4), client, store, check=check, stats=stats))
    assert [replies[k].state for k in range(4)] == ["ok", "ok", "unparsed", "ok"] and stats.unparsed == 1
    assert replies[1].text == "no score 0"  # good enough for this one
    assert replies[2].text == "no score 2000" and "no JSON object" in replies[2].error
    assert client.asked == 1 + 1 + 3 + 3 and stats.asked_again == 4
    texts = {store.get(Request("m", ("question 2",), attempt=n * RETRY).key).text for n in range(3)}
    assert texts == {"no score 0", "no score 1000", "no score 2000"}  # as they came
    # a rerun pays for none of it again, unless it is told to: then for what none of the attempts can be read of
    again = EchoClient(answer)
    assert dict(request_all(questions(4), again, store, check=check)) == replies
    assert again.asked == 0
    redone = dict(request_all(questions(4), again, store, RequestPolicy(redo={"failed", "unparsed"}), check=check))
    assert again.asked == 3 and redone == replies
    greedy = EchoClient("no score, whatever you do")
    greedy.draws = lambda request: False
    asked = dict(request_all([(7, Request("greedy", ("x",)))], greedy, store, check=check))
    assert asked[7].state == "unparsed" and greedy.asked == 1


def test_redo_asks_again_for_replies_of_these_states_and_for_no_others(store, tmp_path):
    states = {"a": "ok", "b": "refused", "c": "filtered", "d": "failed"}
    requests = [(name, Request("m", (name,))) for name in states]
    list(request_all(requests, EchoClient(lambda request: Reply(states[request.parts[0]], "before")), store))
    for redo, expected in (
        ({"filtered"}, "c"), ({"refused", "failed"}, "bd"), ({"ok", "refused", "filtered", "failed"}, "abcd"),
    ):  # fmt: skip
        copy = tmp_path / expected
        shutil.copytree(store.folder, copy)
        client = EchoClient("after")
        with contextlib.closing(ReplyStore(str(copy), "00001")) as task:  # the old replies are in another task's log
            replies = dict(request_all([*requests, *requests], client, task, RequestPolicy(redo=redo)))
            assert client.asked == len(expected)
            assert {tag for tag, reply in replies.items() if reply.text == "after"} == set(expected)
        with contextlib.closing(ReplyStore(str(copy))) as rerun:  # and the new ones are what every later run finds
            assert dict(request_all(requests, EchoClient("later"), rerun, RequestPolicy(redo=set()))) == replies
            # and a call that fails takes none of them away
            if expected == "abcd":
                list(
                    request_all(
                        requests,
                        EchoClient(lambda request: Reply("failed", error="down")),
                        rerun,
                        RequestPolicy(redo=redo),
                    )
                )
                assert dict(request_all(requests, EchoClient("later"), rerun, RequestPolicy(redo=set()))) == replies


def test_calls_that_give_no_reply_are_paid_for_too(serve, store):
    """A body without choices that says what it took, a reply that broke off, a timeout (its prompt, as estimated)."""
    usage = {"prompt_tokens": 1000, "completion_tokens": 50}
    bodies = {
        "no choices": {"choices": [], "usage": usage},
        "null": {"choices": None, "usage": usage},
        "no message": {"choices": [{"message": None}], "usage": usage},
        "error": {**chat("half", finish="error"), "usage": usage},
        "unfinished": {**chat("half", finish="length"), "usage": usage},
    }
    prices = Prices({"m": Price(input=1.0, output=10.0)}, "today", "USD", "table")
    for name, body in bodies.items():
        server, stats = serve(lambda prompt, number, body=body: [response(200, body)]), RequestStats()
        reply = dict(
            request_all(
                [(0, Request("m", (name,)))],
                EndpointClient(server.url),
                store,
                RequestPolicy(prices=prices, backoff=0.01),
                stats=stats,
            )
        )[0]
        assert reply.state == "failed" and server.total == (1 if name == "unfinished" else 3)
        assert stats.cost == pytest.approx(server.total * (1000 + 500) / 1e6)
    server, stats = serve(lambda prompt, number: [5.0]), RequestStats()
    client = EndpointClient(server.url, timeout=0.2)
    long = Request("m", ("x" * 4000,))
    list(request_all([(0, long)], client, store, RequestPolicy(prices=prices, attempts=2, backoff=0.01), stats=stats))
    assert stats.prompt_tokens == 2 * 1000
    with pytest.raises(EditError, match="next call may cost"):
        list(
            request_all(
                questions(300),
                EndpointClient(serve(lambda *_: [response(200, bodies["null"])]).url),
                store,
                RequestPolicy(prices=prices, max_cost=0.05, concurrency=4, backoff=0.01),
                stats=(stats := RequestStats()),
            )
        )
    assert stats.cost <= 0.05 + 4 * 0.0015


def test_a_long_wait_is_announced_once(serve, store, capsys, monkeypatch):
    monkeypatch.setattr(asking, "_LONG_WAIT", 2.5)
    busy = response(429, {"error": {"message": "requests per day"}}, "Retry-After: 3\r\n")
    first: list[float] = []

    def script(prompt, number):
        first.append(time.monotonic())
        return [busy if first[-1] - first[0] < 1.0 else response(200, chat())]

    server = serve(script)
    replies = dict(request_all(questions(8), EndpointClient(server.url), store, RequestPolicy(concurrency=4)))
    assert len(server.bodies) > 8
    assert {reply.state for reply in replies.values()} == {"ok"}
    said = capsys.readouterr().err
    assert said.count("waits") == 1, said
    assert "waits 3 s, until" in said and "(HTTP 429: requests per day)" in said


def test_the_same_command_is_refused_while_it_runs(tmp_path):
    code = (
        "import sys; from edittools.vlm.store import ReplyStore\n"
        "store = ReplyStore(sys.argv[1], sys.argv[2]); store.claim('judge', 'out/', int(sys.argv[3]))\n"
        "print('mine', flush=True); sys.stdin.read(); store.close()"
    )

    def start(name, fact):
        command = [sys.executable, "-c", code, str(tmp_path / "store"), name, str(fact)]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(command, text=True, **pipes)

    first = start("00000", 1)
    assert first.stdout.readline() == "mine\n"
    second, other = start("00000", 1), start("00001", 2)
    assert "another process runs the same command" in second.communicate()[1] and second.returncode
    assert other.communicate()[0] == "mine\n" and not other.returncode
    first.kill()
    first.wait()
    third = start("00000", 1)  # a lock dies with its process
    assert third.communicate()[0] == "mine\n" and not list((tmp_path / "store").glob("*.lock"))


def test_tasks_that_start_together_on_one_store_all_run(tmp_path):
    code = (
        "import sys, time; from edittools.vlm import Reply, Request\n"
        "from edittools.vlm.store import ReplyStore, row\n"
        "time.sleep(max(0, float(sys.argv[3]) - time.time()))\n"
        "store = ReplyStore(sys.argv[1], sys.argv[2]); request = Request('m', (sys.argv[2],))\n"
        "store.get(request.key); store.put([row(request.key, request, Reply('ok', 'x', client='echo'))]); store.close()"
    )
    for round in range(3):
        folder, moment = str(tmp_path / str(round)), str(time.time() + 1.0)
        commands = [[sys.executable, "-c", code, folder, f"{k:05d}", moment] for k in range(8)]
        tasks = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
        assert [task.communicate()[1] for task in tasks] == [""] * 8
        with contextlib.closing(ReplyStore(folder)) as store:
            assert all(store.get(Request("m", (f"{k:05d}",)).key).text == "x" for k in range(8))


def test_max_cost_stops_and_a_rerun_goes_on(serve, store):
    body = {**chat(), "usage": {"prompt_tokens": 1000, "completion_tokens": 100}}
    server = serve(lambda prompt, number: [0.01, response(200, body)])
    prices = Prices({"m": Price(input=1.0, output=10.0)}, "today", "USD", "table")  # 0.002 a call
    requests = [(k, Request("m", (f"{k:04d}" + "x" * 3996,), {"max_tokens": 100})) for k in range(60)]
    stats, got = RequestStats(), 0
    with pytest.raises(EditError, match=r"at most 0\.041 are spent: stopped after 20 calls") as caught:
        for _ in request_all(
            requests,
            EndpointClient(server.url),
            store,
            RequestPolicy(concurrency=8, max_cost=0.041, prices=prices),
            stats=stats,
        ):
            got += 1
    assert "run the same command again" in caught.value.hint
    assert server.total == got == stats.calls == 20 and stats.cost == pytest.approx(0.04)
    rest = dict(
        request_all(
            requests,
            EndpointClient(server.url),
            store,
            RequestPolicy(max_cost=1.0, prices=prices),
            stats=(t := RequestStats()),
        )
    )
    assert len(rest) == 60 and server.total == 60 and t.stored == 20 and set(server.calls.values()) == {1}


def test_max_cost_reserves_what_replies_took_where_nothing_bounds_them(serve, store):
    body = {**chat(), "usage": {"prompt_tokens": 0, "completion_tokens": 2000}}  # 500 are expected without max_tokens
    server = serve(lambda prompt, number: [0.01, response(200, body)])
    prices = Prices({"m": Price(input=0.0, output=1.0)}, "today", "USD", "table")
    stats = RequestStats()
    with pytest.raises(EditError, match="stopped after 4 calls"):
        list(
            request_all(
                questions(20),
                EndpointClient(server.url),
                store,
                RequestPolicy(concurrency=1, max_cost=0.009, prices=prices),
                stats=stats,
            )
        )
    assert stats.cost == pytest.approx(0.008) and server.total == 4


# ---------------------------------------------------------------- killed at any moment

CHILD = """
import contextlib, os, signal, sys
from edittools.errors import Interrupted
from edittools.vlm import Request
from edittools.vlm.requests import RequestPolicy, request_all
from edittools.vlm.backends.endpoint import EndpointClient
from edittools.vlm.store import ReplyStore
from edittools.stream.run import signals

def stage(store):
    requests = ((k, lambda k=k: Request("m", (f"question {k}",))) for k in range(200))
    for tag, reply in request_all(requests, EndpointClient(sys.argv[1]), store, RequestPolicy(concurrency=8)):
        os.write(1, f"{tag} {reply.text}\\n".encode())  # whole or not at all
        yield tag

try:
    with signals():
        items = stage(ReplyStore(sys.argv[2]))
        try:
            print("started", flush=True)
            for item in items:
                pass
        finally:
            items.close()
except Interrupted as stop:
    os._exit(128 + stop.signum)
"""


def child(server, folder):
    command = [sys.executable, "-c", CHILD, server.url, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": "src"})


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_killed_runs_pay_at_most_for_what_was_in_flight(serve, tmp_path, signum):
    server = serve(lambda prompt, number: [0.05 + random.random() / 10, response(200, chat(prompt))])
    seen, kills = {}, 0
    for attempt in range(4):
        process = child(server, tmp_path)
        before = server.total
        if attempt < 3:
            if process.stdout.readline() and not random.random() < 0.2:
                while process.poll() is None and server.total < before + random.randrange(1, 60):
                    time.sleep(0.001)
            time.sleep(random.random() / 20)
            process.send_signal(signum)
        for line in process.communicate()[0].splitlines():
            if line.startswith("started"):
                continue
            tag, _, text = line.partition(" ")
            assert seen.setdefault(tag, text) == text
        kills += process.returncode in (-signum, 128 + signum)
        if process.returncode == 0:
            break
    assert process.returncode == 0 and kills >= 1
    assert len(seen) >= 200 or signum == signal.SIGKILL
    assert len(server.calls) == 200
    repeated = server.total - 200
    assert repeated == 0 if signum == signal.SIGINT else repeated <= 8 * kills
    final = child(server, tmp_path)
    assert len(final.communicate()[0].splitlines()) == 201
    assert server.total == 200 + repeated  # everything is stored


# ---------------------------------------------------------------- models in this process


@pytest.fixture(scope="module", params=["Qwen2_5_VL", "Qwen3VL"])
def checkpoint(request, tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("models") / request.param, request.param)


def mixed_requests():
    """With and without images, of many lengths, greedy and drawn."""
    settings = {"max_tokens": 12, "logprobs": True, "top_logprobs": 20}
    return [
        Request("m", ("look ", png(1), " what changed?"), settings),
        Request("m", ("short",), settings),
        Request("m", (png(2, 56, 28), png(3, 30, 90), "两张图片"), settings | {"temperature": 0.8}),
        Request("m", ("a longer prompt without any image at all",), settings | {"temperature": 1.0, "top_p": 0.5}),
        Request("m", ("one word", png(4)), settings | {"max_tokens": 1}),
    ]


@pytest.fixture(scope="module")
def local(checkpoint):
    from edittools.vlm.backends.local import LocalClient

    return LocalClient(str(checkpoint))


def test_a_batch_equals_single_requests(local):
    requests = mixed_requests()
    together, alone = local.answer(requests), [local.answer([request])[0] for request in requests]
    for a, b in zip(together, alone):
        assert (a.state, a.text, a.prompt_tokens, a.completion_tokens) == (
            b.state, b.text, b.prompt_tokens, b.completion_tokens,
        )  # fmt: skip
        for step, other in zip(a.logprobs, b.logprobs, strict=True):
            assert dict(step).keys() == dict(other).keys()
            assert max(abs(x[1] - y[1]) for x, y in zip(step, other)) < 1e-4
    assert [len(reply.logprobs) for reply in together][-1] == 1
    assert len({reply.text for reply in together}) == len(together)


def test_a_request_that_the_model_does_not_take_fails_alone(local):
    good = mixed_requests()[0]
    spelled = Request("m", ("What is <|image_pad|> here?", png(1, 64, 64)), {"max_tokens": 2})
    thin = Request("m", ("What is it?", png(1, 4, 1000)), {"max_tokens": 2})
    first, second, third = local.answer([spelled, good, thin])
    assert second == local.answer([good])[0] and second.text, second
    for reply in (first, third):
        assert reply.state == "failed" and "does not take the message" in reply.error


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "side": {"type": "string", "enum": ["left", "right"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["name", "side", "count"],
    "additionalProperties": False,
}


def test_random_weights_held_to_a_schema_write_valid_json(local):
    """Every reply of a model that knows nothing is valid by jsonschema, drawn or greedy; beside one that is not held.
    Log-probabilities are those of all tokens: they add up to 1 over the vocabulary, not over what is allowed.
    """
    pytest.importorskip("llguidance")
    import jsonschema

    held = {"max_tokens": 120, "response_format": json_format("thing", SCHEMA), "logprobs": True, "top_logprobs": 3}
    requests = [Request("m", (f"row {k}", png(k)), held | {"temperature": 1.5 * (k % 2)}) for k in range(6)]
    free = Request("m", ("free",), {"max_tokens": 12, "logprobs": True, "top_logprobs": 3})
    *replies, other = local.answer([*requests, free])
    for reply in replies:
        assert reply.state == "ok", reply
        jsonschema.validate(json.loads(reply.text), SCHEMA)
        assert min(step[0][1] for step in reply.logprobs) < -3  # the form makes it write what it would not
    assert other.text == local.answer([free])[0].text
    assert local.answer([requests[1]])[0].text == replies[1].text  # a row's own generator, whatever the batch


def test_a_schema_that_the_grammar_does_not_know_is_one_line(local):
    pytest.importorskip("llguidance")
    odd = {"type": "object", "properties": {"a": {"type": "string"}}, "unevaluatedProperties": 3}
    with pytest.raises(UsageError, match="cannot be held to this schema"):
        local.answer([Request("m", ("x",), {"response_format": json_format("odd", odd)})])


def test_greedy_text_and_logprobs_equal_a_plain_forward_pass(local):
    """The written tokens and their log-probabilities, from the model alone, without our batch and our chooser."""
    import torch

    request = mixed_requests()[0]
    reply = local.answer([request])[0]
    image = Image.open(io.BytesIO(request.parts[1].data)).convert("RGB")
    prompt = (
        "<|im_start|>user\nlook <|vision_start|><|image_pad|><|vision_end|> what changed?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    inputs = local.processor(text=[prompt], images=[image], return_tensors="pt")
    with torch.no_grad():
        for step in reply.logprobs:
            logs = local.model(**inputs).logits[0, -1].log_softmax(-1)
            best = int(logs.argmax())
            assert abs(step[0][1] - float(logs[best])) < 1e-4
            assert [value for _, value in step] == pytest.approx(logs.topk(20).values.tolist(), abs=1e-4)
            assert step[0][0] == local.processor.tokenizer.decode([best])
            for name, value in (("input_ids", best), ("attention_mask", 1), ("mm_token_type_ids", 0)):
                inputs[name] = torch.cat([inputs[name], torch.tensor([[value]])], 1)
    assert reply.model == local.name and "/" not in local.name


def test_drawn_replies_depend_on_the_attempt_and_not_on_the_run(local):
    request = Request("m", ("write",), {"max_tokens": 16, "temperature": 1.0})
    texts = [local.answer([Request("m", ("write",), request.parameters, k)])[0].text for k in range(4)]
    assert len(set(texts)) == 4 and local.answer([request])[0].text == texts[0]


def test_draws_follow_the_distribution(local):
    """The first token of 3000 passes against the model's probabilities, and top_p leaves the tail out."""
    import torch

    from edittools.vlm.backends.local import _Chooser

    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, -50.0]])
    for top_p, expected in ((None, (logits / 0.7).softmax(-1)[0]), (0.8, None)):
        settings = {"temperature": 0.7} | ({"top_p": top_p} if top_p else {})
        requests = [Request("m", ("x",), settings, k) for k in range(3000)]
        chosen = _Chooser(requests, torch.device("cpu"))(None, logits.expand(3000, 5)).argmax(-1)
        shares = torch.bincount(chosen, minlength=5) / 3000
        if expected is None:  # 0.76 + 0.18 reach 0.8
            expected = torch.cat([(logits / 0.7)[0, :2].softmax(-1), torch.zeros(3)])
        assert (shares - expected).abs().max() < 0.04
        assert (shares[expected == 0] == 0).all()


def test_a_local_model_behind_ask_all(local, store):
    requests = [*enumerate(mixed_requests()), ("broken", Request("m", (EncodedImage(b"no picture", "image/png"),)))]
    replies = dict(request_all(requests, local, store))
    assert replies["broken"].state == "failed" and "cannot be read" in replies["broken"].error
    for k, reply in enumerate(local.answer(mixed_requests())):
        assert replies[k].text == reply.text and store.get(requests[k][1].key).text == reply.text
    with pytest.raises(UsageError, match="stop"):
        list(request_all([(0, Request("m", ("x",), {"stop": "."}))], local, store))
    by_schema = Request("m", ("short",), {"max_tokens": 12, "response_format": json_format("x", {"type": "object"})})
    assert local.answer([by_schema])[0].text.startswith("{")  # it is held to the form
    # none of them ended by itself: what is cut off is no reply, however it reads
    assert {reply.state for tag, reply in replies.items() if tag != len(mixed_requests()) - 1} == {"failed"}
    assert "cut off" in replies[1].error
    with pytest.raises(UsageError, match="at most 20"):
        list(request_all([(0, Request("m", ("x",), {"logprobs": True, "top_logprobs": 21}))], local, store))


def test_pixel_bounds_decide_the_number_of_tokens(checkpoint):
    from edittools.vlm.backends.local import LocalClient

    def tokens(**bounds):
        request = Request("m", (png(1, 200, 200),), {"max_tokens": 1})
        return LocalClient(str(checkpoint), **bounds).answer([request])[0].prompt_tokens

    side = json.loads((checkpoint / "config.json").read_text())["vision_config"]["patch_size"] * 2
    assert tokens(max_pixels=16 * side**2) - tokens(max_pixels=4 * side**2) == 16 - 4
    assert tokens(min_pixels=100 * side**2, max_pixels=100 * side**2) - tokens(max_pixels=4 * side**2) == 100 - 4
    bounded = load_client(str(checkpoint), "local", image_pixels=(16 * side**2, 32 * side**2))
    assert bounded.processor.image_processor.size == {"shortest_edge": 16 * side**2, "longest_edge": 32 * side**2}
    assert bounded.name != LocalClient(str(checkpoint)).name  # neither is given what the other one wrote
    with pytest.raises(UsageError, match="pixels"):
        LocalClient(str(checkpoint), min_pixels=10_000, max_pixels=100)


def test_local_models_that_cannot_be_loaded(tmp_path, checkpoint, monkeypatch):
    import shutil

    import torch

    from edittools.vlm.backends.local import LocalClient

    with pytest.raises(EditError, match="nowhere"):
        LocalClient("./nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EditError, match="empty"):
        LocalClient(str(tmp_path / "empty"))
    with pytest.raises(UsageError, match="float8"):
        LocalClient(str(checkpoint), dtype="float8")
    pickled = tmp_path / "pickled"
    shutil.copytree(checkpoint, pickled, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(EditError, match="pickled"):
        LocalClient(str(pickled))
    half = LocalClient(str(checkpoint), dtype="bfloat16")
    assert half.name == f"{LocalClient(str(checkpoint)).name}, bfloat16"  # it is not given what the other one wrote
    assert half.answer([mixed_requests()[0]])[0].completion_tokens > 0


# ---------------------------------------------------------------- a real server


@pytest.fixture
def served(tmp_path):
    """`transformers serve` with a tiny LLaVA of random weights: (its address, the checkpoint's folder)."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")

    import torch
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor, Qwen2Tokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    folder = tmp_path / "llava"
    torch.manual_seed(0)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"]
    vocabulary = {c: k for k, c in enumerate(ALPHABET + special)}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], extra_special_tokens=special)
    blank, _, end, image = tokenizer.convert_tokens_to_ids(special)
    sizes = {"intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            text_config={
                "model_type": "qwen2", "hidden_size": 32, "num_key_value_heads": 2, "vocab_size": len(vocabulary),
                "eos_token_id": end, "bos_token_id": None, "pad_token_id": blank, **sizes,
            },
            vision_config={
                "model_type": "clip_vision_model", "hidden_size": 16, "image_size": 28, "patch_size": 14,
                "projection_dim": 16, **sizes,
            },
            image_token_id=image,
        )
    )  # fmt: skip
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    model.generation_config.eos_token_id = end
    model.save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    LlavaProcessor(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", "<image>"),
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = "import sys; from transformers.cli.transformers import main; sys.argv[0] = 'transformers'; main()"
    options = ["serve", str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with open(tmp_path / "server.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", script, *options, "--dtype", "float32"],
            stdout=log,
            stderr=log,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
    yield f"http://127.0.0.1:{port}/v1", folder
    process.kill()
    process.wait()


def test_a_real_server_writes_what_the_same_model_writes_here(served, store, monkeypatch):
    from edittools.vlm.backends.local import LocalClient

    url, folder = served
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    settings = {"max_tokens": 8, "temperature": 0.0}
    requests = [(k, Request(str(folder), ("look ", png(k), " what changed?"), settings)) for k in range(4)]
    requests.append(("text", Request(str(folder), ("only text",), settings)))
    # until the server listens, calls are refused connections, which are repeated
    replies = dict(
        request_all(requests, EndpointClient(url), store, RequestPolicy(concurrency=2, attempts=100, backoff=0.5))
    )
    local = LocalClient(str(folder))
    for tag, request in requests:
        here = local.answer([request])[0]
        assert (replies[tag].state, replies[tag].text) == (here.state, here.text) == ("failed", here.text)  # cut off
        assert (replies[tag].prompt_tokens, replies[tag].completion_tokens) == (here.prompt_tokens, 8)
        assert replies[tag].model.startswith(str(folder))
    assert len({reply.text for reply in replies.values()}) == 5
    with pytest.raises(UsageError, match="no bounds"):
        LocalClient(str(folder), max_pixels=1000)
    captions_of_random_weights(url, str(folder), store)


def captions_of_random_weights(url, model, store):
    """It ignores JSON schemas: what random weights write is a reject that says why."""
    import pyarrow as pa

    from edittools.caption.config import CaptionConfig
    from edittools.caption.model_stage import CutIsUnparsed, ModelCaptionStage
    from edittools.record import COLUMNS
    from edittools.stream.batch import Batch, Shard

    stats = RequestStats()

    def ask(requests, check):
        client = CutIsUnparsed(EndpointClient(url))
        return request_all(requests, client, store, RequestPolicy(repeats=0), check=check, stats=stats)

    config = CaptionConfig(kinds="classify,names", model=model, max_tokens=8, attempts=2, temperature=0.0)
    rows = [{"id": f"r{k}", "target": {"bytes": png(k).data, "width": 30, "height": 90}} for k in range(3)]
    columns = {name: pa.array([row[name] for row in rows], COLUMNS[name]) for name in ("id", "target")}
    batch = Batch(pa.record_batch(list(columns.values()), names=list(columns)), Shard(0, 1, "x"), last=True, seen=3)
    [made] = list(ModelCaptionStage(config, ask)(iter([batch])))
    assert made.rows.num_rows == 0 and len(made.rejects) == 3  # each by the kind whose answer came first
    assert {reject.reason for reject in made.rejects} <= {"classify: unparsed", "names: unparsed"}
    assert all("cut off" in reject.value or "no JSON" in reject.value for reject in made.rejects)
    assert stats.calls >= 3 and not stats.refused


# ---------------------------------------------------------------- prices


def test_estimates_follow_the_stated_rule():
    assert estimate_tokens(Request("m", ("x" * 40 + "图片",))) == (12, 500)
    assert estimate_tokens(Request("m", (png(1, 56, 280),), {"max_tokens": 9})) == (2 + 20, 9)
    prices = Prices({"m": Price(2.0, 8.0, image_base=100, pixels_per_token=10, max_pixels=1000)}, "", "USD", "t")
    request = Request("m", (png(1, 56, 280),), {"max_completion_tokens": 50})
    assert estimate_tokens(request, prices) == (200, 50)
    total = estimate([request, request], prices, calls=2_000_000)
    assert (total.calls, total.prompt_tokens, total.completion_tokens) == (2_000_000, 400_000_000, 100_000_000)
    assert total.cost == pytest.approx(400 * 2.0 + 100 * 8.0)
    assert estimate([request]).cost is None and estimate([], prices, calls=0).cost == 0


def test_price_tables(tmp_path):
    prices = load_prices()
    assert prices.find("gpt-4o-2024-08-06") is prices.models["gpt-4o"]
    assert prices.find("gpt-4o-mini-2024-07-18") is prices.models["gpt-4o-mini"]
    assert prices.find("models/gemini-2.5-flash-preview-05-20") is prices.models["gemini-2.5-flash"]
    assert prices.cost("gpt-4o", 1_000_000, 100_000) == pytest.approx(3.5)
    for unknown in ("gpt-4o-audio", "llama", "gpt"):
        with pytest.raises(EditError, match=unknown):
            prices.find(unknown)
    own = tmp_path / "p.toml"
    own.write_text('date = "2026-01-02"\n["my model"]\ninput = 1\noutput = 2.5\n')
    assert load_prices(str(own)).find("my model") == Price(1, 2.5)
    for wrong in ("[m]\ninput = 1", "[m]\ninput = -1\noutput = 1", "[m]\ninput = 1\noutput = 1\nx = 1", "m = 1", "["):
        own.write_text(wrong)
        with pytest.raises(EditError, match=r"p\.toml"):
            load_prices(str(own))
    with pytest.raises(EditError, match="absent"):
        load_prices(str(tmp_path / "absent.toml"))


def test_echo_marks_what_it_makes():
    reply = asyncio.run(EchoClient().ask(Request("gpt-4o", ("what", png(1), "changed?")), begin))
    assert reply == Reply("ok", "[echo] what changed?", model="echo")
    refusing = EchoClient(lambda r: Reply("refused", "no", model="gpt-4o"))
    assert asyncio.run(refusing.ask(Request("m", ()), begin)).model == "echo"
