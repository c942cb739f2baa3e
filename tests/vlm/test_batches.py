"""Requests by the file: a loopback service that behaves like OpenAI's files and batches, killed and run again."""

from __future__ import annotations

import contextlib
import email.parser
import errno
import functools
import json
import os
import random
import re
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from test_clients import KEY, chat, png

from edittools.errors import EditError, IncompleteError
from edittools.vlm import Request, batches
from edittools.vlm.backends.endpoint import EndpointClient
from edittools.vlm.batches import Batches
from edittools.vlm.prices import Price, Prices
from edittools.vlm.requests import RequestPolicy, RequestStats, request_all
from edittools.vlm.store import ReplyStore

PRICES = Prices({"m": Price(input=1.0, output=10.0)}, "today", "USD", "table")


class Service:
    """`answer(body)` gives (status, reply body), or None for a request that the batch did not come to."""

    def __init__(self, answer=lambda body: (200, chat("fine"))):
        self.answer, self.files, self.batches, self.log = answer, {}, {}, []
        self.lock, self.slow, self.broken = threading.Lock(), 0, ""
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def _send(self, status, body):
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_POST(self):
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                with service.lock:
                    self._send(*service.post(self.path, self.headers, raw))

            def do_GET(self):
                with service.lock:
                    self._send(*service.get(self.path))

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def post(self, path, headers, raw):
        self.log.append(path)
        if headers["Authorization"] != f"Bearer {KEY}":
            return 401, {"error": {"message": "Incorrect API key provided"}}
        if path == "/v1/files":
            head = f"Content-Type: {headers['Content-Type']}\n\n".encode()
            parts = email.parser.BytesParser().parsebytes(head + raw).get_payload()
            named = [(part.get_param("name", header="content-disposition"), part) for part in parts]
            fields = {name: part.get_payload(decode=True) for name, part in named}
            assert fields["purpose"] == b"batch"
            name = f"file-{len(self.files)}"
            self.files[name] = fields["file"]
            return 200, {"id": name, "object": "file", "bytes": len(fields["file"]), "purpose": "batch"}
        if path == "/v1/batches":
            if self.broken == "batches":
                return 503, {"error": {"message": "try later"}}
            wanted = json.loads(raw)
            assert wanted["completion_window"] == "24h"
            assert wanted["endpoint"] in ("/v1/chat/completions", "/v1/responses")
            lines = [json.loads(line) for line in self.files[wanted["input_file_id"]].splitlines()]
            assert len({line["custom_id"] for line in lines}) == len(lines)
            assert {(line["method"], line["url"]) for line in lines} == {("POST", wanted["endpoint"])}
            name = f"batch_{len(self.batches)}"
            self.batches[name] = {"id": name, "object": "batch", "status": "validating", "lines": lines, "seen": 0,
                                  "input_file_id": wanted["input_file_id"]}  # fmt: skip
            return 200, self.shown(name)
        return 404, {"error": {"message": f"no {path}"}}

    def shown(self, name):
        return {key: value for key, value in self.batches[name].items() if key not in ("lines", "seen")}

    def get(self, path):
        self.log.append(path)
        if match := re.fullmatch(r"/v1/files/([^/]+)/content", path):
            return 200, self.files[match[1]]
        if path.startswith("/v1/batches?"):
            return 200, {"object": "list", "data": [self.shown(name) for name in self.batches], "has_more": False}
        batch = self.batches[path.rpartition("/")[2]]
        batch["seen"] += 1
        if batch["status"] not in ("completed", "expired", "failed") and batch["seen"] > self.slow:
            self.finish(batch)
        return 200, self.shown(batch["id"])

    def finish(self, batch):
        if self.broken == "validation":
            batch["status"] = "failed"
            batch["errors"] = {"object": "list", "data": [{"code": "invalid_json_line", "message": "Line 1 is bad"}]}
            return
        good, bad = [], []
        for line in batch["lines"]:
            made = self.answer(line["body"])
            out = {"id": f"r-{line['custom_id'][:6]}", "custom_id": line["custom_id"], "response": None, "error": None}
            if made is None:
                out["error"] = {"code": "batch_expired", "message": "This request could not be executed in time."}
            else:
                out["response"] = {"status_code": made[0], "request_id": "x", "body": made[1]}
            (good if made and made[0] == 200 else bad).append(out)
        random.Random(0).shuffle(good)  # the order is the service's
        batch["status"] = "expired" if any(line["error"] for line in bad) else "completed"
        for kind, lines in (("output_file_id", good), ("error_file_id", bad)):
            if lines:
                batch[kind] = f"{batch['id']}-{kind}"
                self.files[batch[kind]] = "\n".join(map(json.dumps, lines)).encode()
        batch["request_counts"] = {"total": len(good) + len(bad), "completed": len(good), "failed": len(bad)}


@pytest.fixture
def service(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    made = Service()
    yield made
    made.server.shutdown()


@pytest.fixture
def store(tmp_path):
    made = ReplyStore(str(tmp_path / "replies"))
    yield made
    made.close()


def requests(count, start=0):
    return [Request("m", (f"question {k}", png(k, 8, 8)), {"max_tokens": 50}) for k in range(start, start + count)]


def anything(text):
    pass


def submit(service, store, wanted, check=anything, **options):
    return Batches(store, EndpointClient(service.url), "m").submit([(request, check) for request in wanted], **options)


def collect(service, store, wanted, check=None, stats=None, **policy):
    found = Batches(store, EndpointClient(service.url), "m")
    client = found.collect()
    tagged = [(number, request) for number, request in enumerate(wanted)]
    replies = dict(
        request_all(
            tagged,
            client,
            store,
            RequestPolicy(give_up=False, **policy),
            check=check and (lambda tag, text: check(text)),
            stats=stats,
        )
    )
    found.taken()
    return [replies[number] for number in range(len(wanted))]


def posts(service, what):
    return sum(path == f"/v1/{what}" for path in service.log)


def test_what_is_submitted_is_collected_into_the_store_at_half_the_price(service, store, monkeypatch):
    monkeypatch.setattr(batches, "REQUESTS", 4)
    service.answer = lambda body: (200, {**chat(body["messages"][0]["content"][0]["text"]),
                                         "usage": {"prompt_tokens": 1000, "completion_tokens": 100}})  # fmt: skip
    wanted = requests(10)
    done = submit(service, store, wanted, prices=PRICES)
    assert (done.requests, done.batches, done.stored) == (10, 3, 0)
    assert [len(batch["lines"]) for batch in service.batches.values()] == [4, 4, 2]
    first = service.batches["batch_0"]["lines"][0]
    assert first["custom_id"] == wanted[0].key and first["body"]["max_tokens"] == 50
    assert [part["type"] for part in first["body"]["messages"][0]["content"]] == ["text", "image_url"]
    # submitting again sends nothing: it is with the service
    assert submit(service, store, wanted).waiting == 10 and posts(service, "batches") == 3
    service.slow = 3
    with pytest.raises(IncompleteError, match="3 of 3 batches are at work: batch_0 "):
        collect(service, store, wanted)
    service.slow = 0
    stats = RequestStats()
    replies = collect(service, store, wanted, prices=PRICES.scaled(batches.DISCOUNT), stats=stats)
    assert [reply.text for reply in replies] == [f"question {k}" for k in range(10)]
    assert stats.cost == pytest.approx(0.5 * 10 * (1000 + 1000) / 1e6)
    assert {reply.client for reply in replies} == {service.url}
    # the replies are in the store as any others: an ordinary run and another submission find them
    ordinary = dict(request_all(list(enumerate(wanted)), EndpointClient("http://127.0.0.1:9/v1"), store))
    assert [ordinary[k] for k in range(10)] == replies
    assert submit(service, store, wanted).stored == 10 and posts(service, "batches") == 3


def test_requests_without_an_answer_are_submitted_again_and_no_others(service, store):
    broken = {"question 1": None, "question 2": (500, {"error": {"message": "oops"}}),
              "question 3": (400, {"error": {"code": "content_filter", "message": "no"}}),
              "question 4": (200, chat("not JSON"))}  # fmt: skip
    service.answer = lambda body: broken.get(body["messages"][0]["content"][0]["text"], (200, chat('{"a": 1}')))
    wanted = requests(6)
    assert submit(service, store, wanted, json.loads).requests == 6
    replies = collect(service, store, wanted, json.loads)
    assert [reply.state for reply in replies] == ["ok", "failed", "failed", "filtered", "unparsed", "ok"]
    assert "batch_expired" in replies[1].error and "oops" in replies[2].error
    broken.clear()
    again = submit(service, store, wanted, json.loads)
    assert (again.requests, again.stored) == (3, 3)
    assert [line["custom_id"] for line in service.batches["batch_1"]["lines"]][:2] == [wanted[1].key, wanted[2].key]
    replies = collect(service, store, wanted, json.loads)
    assert [reply.state for reply in replies] == ["ok", "ok", "ok", "filtered", "ok", "ok"]


def test_a_submission_that_was_killed_goes_on(service, store):
    """Between upload and batch, and after the batch was made but before this program knew it."""
    service.broken = "batches"
    with pytest.raises(EditError, match="HTTP 503: try later"):
        submit(service, store, requests(3))
    assert posts(service, "files") == 1 and not service.batches
    with pytest.raises(IncompleteError, match="not submitted yet"):
        collect(service, store, requests(3))
    service.broken = ""
    assert submit(service, store, requests(3)).waiting == 3
    assert posts(service, "files") == 1 and len(service.batches) == 1
    (state,) = (path for path in Batches(store, EndpointClient(service.url), "m").parts)
    with open(f"{state}.json") as file:
        known = json.load(file)
    with open(f"{state}.json", "w") as file:
        json.dump({**known, "batch": None, "status": "written"}, file)
    with open(f"{state}.jsonl", "w"):
        pass
    assert submit(service, store, requests(3)).waiting == 3
    assert len(service.batches) == 1, "the batch that was made is found by its file"
    assert {reply.state for reply in collect(service, store, requests(3))} == {"ok"}


def test_a_batch_that_fails_as_a_whole_says_why_and_can_be_submitted_again(service, store):
    submit(service, store, requests(2))
    service.broken = "validation"
    with pytest.raises(EditError, match="batch_0 failed: Line 1 is bad"):
        collect(service, store, requests(2))
    service.broken = ""
    assert submit(service, store, requests(2)).requests == 2
    assert {reply.state for reply in collect(service, store, requests(2))} == {"ok"}


def test_max_cost_bounds_what_is_submitted(service, store):
    with pytest.raises(EditError, match="stopped after"):
        submit(service, store, requests(100), prices=PRICES, max_cost=0.001)
    sent = [line for batch in service.batches.values() for line in batch["lines"]]
    assert 0 < len(sent) < 100
    with pytest.raises(EditError, match="stopped after 0 requests"):
        submit(service, store, requests(100)[len(sent) :], prices=PRICES, max_cost=0.0)


def test_batches_of_another_run_wait_for_it(service, store):
    one, two = requests(3), requests(3, 100)
    submit(service, store, one)
    submit(service, store, two)
    assert {reply.state for reply in collect(service, store, one)} == {"ok"}
    assert {reply.state for reply in collect(service, store, two)} == {"ok"}
    assert submit(service, store, [*one, *two]).stored == 6 and posts(service, "batches") == 2


def test_failures_in_front_take_no_paid_reply_away(service, store):
    bad = (400, {"error": {"message": "no picture"}})
    service.answer = lambda body: bad if int(body["messages"][0]["content"][0]["text"][9:]) < 12 else (200, chat())
    submit(service, store, requests(20))
    stats = RequestStats()
    replies = collect(service, store, requests(20), prices=PRICES, stats=stats)
    assert [reply.state for reply in replies] == ["failed"] * 12 + ["ok"] * 8
    assert stats.prompt_tokens == 8 * 11, "what was turned away costs nothing"


def test_declined_parameters_are_left_out_of_the_next_submission(service, store):
    wrong = {"error": {"message": "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens'."}}
    service.answer = lambda body: (400, wrong) if "max_tokens" in body else (200, chat())
    wanted = requests(12)
    submit(service, store, wanted)
    assert all("has to be sent otherwise" in reply.error for reply in collect(service, store, wanted))
    assert submit(service, store, wanted).requests == 12
    assert all(line["body"]["max_completion_tokens"] == 50 for line in service.batches["batch_1"]["lines"])
    assert {reply.state for reply in collect(service, store, wanted)} == {"ok"}


def pairs_of(folder):
    rows = []
    (folder / "p").mkdir()
    for k in range(3):
        for role in ("source", "result"):
            (folder / "p" / f"{k}{role}.png").write_bytes(png(k, 40, 40).data)
        rows.append({"id": f"r{k}", "task": "color", "instruction": {"en": f"make it {k}"},
                     "source": [{"file": f"p/{k}source.png"}], "result": {"file": f"p/{k}result.png"}})  # fmt: skip
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "rows.jsonl"


def test_the_command_submits_and_collects(service, edit, tmp_path):
    edit = functools.partial(edit, env={**os.environ, "OPENAI_API_KEY": KEY})
    service.answer = lambda body: (200, chat(json.dumps(
        {"rationale": "r", "compliance": 5, "naturalness": 4, "coherence": 4})))  # fmt: skip
    words = ["judge", pairs_of(tmp_path), "--rubric", "dimensions", "--model", "gpt-4o", "--api-base", service.url]
    words += ["-o", tmp_path / "j"]
    done = edit(*words, "--batch", "submit")
    assert "3 requests submitted in 1 batches" in done.stderr and "USD at the rate of batches" in done.stderr
    assert not (tmp_path / "j").exists()
    service.slow = 2
    assert "at work" in edit(*words, "--batch", "collect", check=4).stderr
    service.slow = 0
    good, service.answer = service.answer, lambda body: None if "it 1" in json.dumps(body) else good(body)
    assert "batch_expired" in edit(*words, "--batch", "collect", check=3).stderr
    service.answer = good
    assert "1 requests submitted" in edit(*words, "--batch", "submit").stderr
    away = edit(*words, "--overwrite", check=3).stderr
    assert "1 requests are with batches: --batch collect takes their replies" in away
    # finished shards that lack a reply are made anew; what is paid for is not bounded again
    last = edit(*words, "--batch", "collect", "--max-cost", "0", "--rpm", "0.1")
    assert "with batches" not in last.stderr
    rows = [json.loads(line) for line in edit("cat", tmp_path / "j", "-f", "jsonl").stdout.splitlines()]
    assert [row["scores"]["judge_dimensions_compliance"] for row in rows] == [5.0] * 3
    assert sum("chat/completions" in path for path in service.log) == 1, "that of the run without batches"
    assert "--batch" in edit(*words, "--batch", "submit", "--redo", "failed", check=2).stderr
    assert "--batch" in edit(*words[:4], "--model", "e", "--backend", "echo", "-o", tmp_path / "k", "--batch", "submit",
                             check=2).stderr  # fmt: skip


# ---------------------------------------------------------------- several attempts, several tasks


def test_a_third_attempt_that_can_be_read_is_read_and_nothing_is_paid_for_again(service, store, tmp_path):
    """Each attempt is one round of submit and collect."""
    rounds = []
    service.answer = lambda body: (200, chat('{"a": 1}' if len(rounds) > 2 else "no JSON"))
    wanted = requests(2)
    for _ in range(3):
        rounds.append(submit(service, store, wanted, json.loads).requests)
        replies = collect(service, store, wanted, json.loads)
    assert rounds == [2, 2, 2] and [reply.state for reply in replies] == ["ok"] * 2
    assert submit(service, store, wanted, json.loads).stored == 2 and posts(service, "batches") == 3
    # once more, as for another output: the attempts come out of the store, whose parts are taken
    assert collect(service, store, wanted, json.loads) == replies
    assert collect(service, store, wanted, json.loads, redo={"failed", "unparsed"}) == replies
    with contextlib.closing(
        ReplyStore(str(tmp_path / "other"))
    ) as other:  # three replies that cannot be read are the end
        service.answer = lambda body: (200, chat("no JSON"))
        for _ in range(3):
            submit(service, other, wanted, json.loads)
            assert {reply.state for reply in collect(service, other, wanted, json.loads)} == {"unparsed"}
        assert submit(service, other, wanted, json.loads).stored == 2 and posts(service, "batches") == 6


def test_another_split_of_tasks_finds_batches_and_pays_nothing_twice(service, store):
    wanted = requests(4)
    with contextlib.closing(ReplyStore(store.folder, "00001")) as second:
        submit(service, second, wanted[:2])
        assert (done := submit(service, store, wanted)).waiting == 2 and done.requests == 2
        service.slow = 1  # the other task's batch ends later
        service.batches["batch_1"]["seen"] = 9
        replies = collect(service, store, wanted[2:])
        assert {reply.state for reply in replies} == {"ok"}, "what is not asked is not waited for"
        with pytest.raises(IncompleteError, match=r"another task's batch is at work: batch_0 \(validating"):
            service.slow, service.batches["batch_0"]["seen"] = 5, 0
            collect(service, store, wanted)
        service.slow = 0
        assert {reply.state for reply in collect(service, store, wanted)} == {"ok"}
        assert submit(service, store, wanted).stored == 4
        assert {reply.state for reply in collect(service, second, wanted[:2])} == {"ok"}
    assert posts(service, "batches") == 2


def test_a_submission_that_was_killed_goes_on_in_another_task(service, store):
    service.broken = "batches"
    with contextlib.closing(ReplyStore(store.folder, "00001")) as second, pytest.raises(EditError, match="try later"):
        submit(service, second, requests(3))
    service.broken = ""
    assert submit(service, store, requests(3)).waiting == 3 and len(service.batches) == 1
    assert {reply.state for reply in collect(service, store, requests(3))} == {"ok"}


def test_batches_of_another_endpoint_are_left_alone_and_not_paid_for_again(service, store):
    other = Service()
    try:
        other.broken = "batches"
        with pytest.raises(EditError, match="try later"):
            submit(other, store, requests(2))  # the file is there, the batch is not
        assert submit(service, store, requests(3)).waiting == 2
        assert len(service.batches["batch_0"]["lines"]) == 1 and posts(service, "files") == 1
        assert collect(service, store, requests(3)[2:])[0].state == "ok"
        with pytest.raises(IncompleteError, match=re.escape(other.url)):
            collect(service, store, requests(3))
        other.broken = ""
        assert submit(other, store, requests(3)).stored == 1
        assert {reply.state for reply in collect(other, store, requests(3))} == {"ok"}
    finally:
        other.server.shutdown()


def test_commands_with_other_inputs_wait_for_each_other(service, store, capfd, monkeypatch):
    """Two at once on one store, each with two files: no file is taken by both, and every reply is found."""
    monkeypatch.setattr(batches, "REQUESTS", 4)
    inputs, done, waits = [requests(8), requests(8, 100)], [], threading.Barrier(2)

    def run(wanted):
        class Slow(list):
            def __iter__(self):
                for item in super().__iter__():
                    time.sleep(0.02)
                    yield item

        waits.wait()
        done.append(submit(service, store, Slow(wanted)))

    threads = [threading.Thread(target=run, args=[wanted]) for wanted in inputs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.requests for one in done] == [8, 8] and len(service.batches) == 4
    assert "another process works with these batches: waits" in capfd.readouterr().err
    for wanted in inputs:
        assert {reply.state for reply in collect(service, store, wanted)} == {"ok"}
        assert submit(service, store, wanted).stored == 8


@pytest.mark.parametrize("when", ["requests", "after the batch", "replies"])
def test_a_disk_that_is_full_is_one_line_and_nothing_is_paid_for_twice(service, store, monkeypatch, when):
    """`errno` as the system says it, at the n-th file that is written."""
    real, full = os.fsync, []

    def fsync(number):
        if full and full.pop(0):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(number)

    monkeypatch.setattr(os, "fsync", fsync)
    if when == "replies":
        submit(service, store, requests(3))
    full += {"requests": [1], "after the batch": [0, 0, 0, 1], "replies": [1]}[when]
    with pytest.raises(EditError, match="No space left on device"):
        collect(service, store, requests(3)) if when == "replies" else submit(service, store, requests(3))
    full.clear()
    submit(service, store, requests(3))
    assert {reply.state for reply in collect(service, store, requests(3))} == {"ok"} and len(service.batches) == 1


def test_a_folder_that_cannot_be_used_is_one_line(service, store):
    folder = os.path.join(store.folder, "batches")
    with open(folder, "w"):
        pass
    with pytest.raises(EditError, match=r"cannot use these batches: .*exists"):
        submit(service, store, requests(1))
    os.unlink(folder)
    os.makedirs(folder)
    for name, text in (("00000-00000.json", "{"), ("00000-00000.json", "[]"), ("declined.json", "no")):
        with open(os.path.join(folder, name), "w") as file:
            file.write(text)
        with pytest.raises(EditError, match="cannot use these batches"):
            submit(service, store, requests(1))
        os.unlink(os.path.join(folder, name))


def test_what_a_model_declines_is_known_of_that_model_alone(service, store):
    wrong = {"error": {"message": "Unsupported parameter: 'max_tokens' is not supported with this model."}}
    service.answer = lambda body: (400, wrong) if body["model"] == "m" and "max_tokens" in body else (200, chat())
    with open(os.path.join(os.path.dirname(store.path), "batches", "declined.json"), "w", opener=_made) as file:
        json.dump({"temperature": None}, file)  # of an earlier version: of whichever model
    wanted = [replace(request, parameters={**request.parameters, "temperature": 0.5}) for request in requests(2)]
    submit(service, store, wanted)
    collect(service, store, wanted)
    other = [replace(request, model="other") for request in wanted]
    Batches(store, EndpointClient(service.url), "other").submit([(request, anything) for request in other])
    submit(service, store, wanted)
    sent = [{*batch["lines"][0]["body"]} - {"model", "messages"} for batch in service.batches.values()]
    assert sent == [{"max_tokens", "temperature"}, {"max_tokens", "temperature"}, {"temperature"}]


def test_a_batch_from_before_a_parameter_was_declined_says_nothing_of_its_new_name(service, store):
    """Two tasks submit; what the first one's replies say is known when the second's are read."""
    wrong = {"error": {"message": "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens'."}}
    service.answer = lambda body: (400, wrong) if "max_tokens" in body else (200, chat())
    with contextlib.closing(ReplyStore(store.folder, "00001")) as second:
        submit(service, store, requests(2))
        submit(service, second, requests(2, 100))
        collect(service, store, requests(2))
        collect(service, second, requests(2, 100))
        assert submit(service, second, requests(2, 100)).requests == 2
    assert service.batches["batch_2"]["lines"][0]["body"]["max_completion_tokens"] == 50


def test_a_model_of_the_responses_interface_is_known_as_such_to_the_next_submission(service, store):
    wrong = {"error": {"message": "This model is only supported in v1/responses and not in v1/chat/completions."}}
    right = {"object": "response", "status": "completed", "output": [
        {"type": "message", "content": [{"type": "output_text", "text": "fine"}]}]}  # fmt: skip
    service.answer = lambda body: (404, wrong) if "messages" in body else (200, right)
    submit(service, store, requests(2))
    assert {reply.state for reply in collect(service, store, requests(2))} == {"failed"}
    submit(service, store, requests(2))
    assert {reply.text for reply in collect(service, store, requests(2))} == {"fine"}
    assert service.batches["batch_1"]["lines"][0]["url"] == "/v1/responses"


def _made(path, flags):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    return os.open(path, flags, 0o666)


def test_every_failure_of_a_batch_is_handed_on_beside_what_was_answered(service, store):
    """An account that ran dry within the batch: the rows before it are answered and paid for."""
    dry = (429, {"error": {"code": "insufficient_quota", "message": "You exceeded your current quota"}})
    service.answer = lambda body: dry if int(body["messages"][0]["content"][0]["text"][9:]) % 20 else (200, chat())
    submit(service, store, requests(40))
    replies = collect(service, store, requests(40), concurrency=1)
    assert [k for k, reply in enumerate(replies) if reply.state == "ok"] == [0, 20]
    assert "exceeded your current quota" in replies[1].error


def test_lines_that_are_no_replies_leave_their_requests_unanswered(service, store):
    submit(service, store, requests(3))
    real = service.finish

    def finish(batch):
        real(batch)
        lines = service.files[batch["output_file_id"]].split(b"\n")
        odd = [b"<html>", b"[1]", b'{"custom_id": null}', b'{"custom_id": "x"}', b"{" * 5000, lines[0][:-9]]
        service.files[batch["output_file_id"]] = b"\n".join([*odd, *lines[1:]])

    service.finish = finish
    assert sorted(reply.state for reply in collect(service, store, requests(3))) == ["failed", "ok", "ok"]
    assert submit(service, store, requests(3)).requests == 1


def test_a_batch_is_not_over_before_its_files_are_there(service, store):
    submit(service, store, requests(2))
    batch = service.batches["batch_0"]
    service.finish(batch)
    name = batch.pop("output_file_id")
    with pytest.raises(IncompleteError, match=r"batch_0 \(completed, 2 of 2\)"):
        collect(service, store, requests(2))
    batch["output_file_id"], batch["error_file_id"] = name, ""  # as some services write that there is none
    assert {reply.state for reply in collect(service, store, requests(2))} == {"ok"}
