"""`edit caption --kinds` against an endpoint on loopback: plan, run, run again, redo, rejects, options that exclude."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import Runner, encode, pixels, rejects_of, rows_of
from scripted import in_language

from edittools.caption.schemas import specimen


class Endpoint:
    """Answers every question with the smallest valid answer; `odd` says of a body what else."""

    def __init__(self) -> None:
        self.bodies: list[dict] = []
        self.odd = lambda body: None
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                endpoint.bodies.append(body)
                said = endpoint.odd(body)
                if said is None:
                    schema = body["response_format"]["json_schema"]["schema"]
                    said = json.dumps(in_language(specimen(schema)), ensure_ascii=False)
                choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}
                usage = {"prompt_tokens": 20, "completion_tokens": 9, "total_tokens": 29}
                data = json.dumps({"model": "teller-1", "choices": [choice], "usage": usage}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *parts: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        self.server.handle_error = lambda *_: None  # a client that was killed
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def endpoint():
    made = Endpoint()
    yield made
    made.close()


@pytest.fixture
def asked(edit: Runner, shards: Path, endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`edit caption` of the crawl, by the endpoint."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789")

    def run(*options: str, check: int = 0, out: str = "out"):
        words = ["--model", "teller", "--api-base", endpoint.url, "-o", tmp_path / out, *options]
        return edit("caption", shards, *words, check=check)

    run.out = tmp_path / "out"
    return run


def test_a_run_writes_columns_and_a_second_one_asks_nothing(asked, endpoint: Endpoint) -> None:
    plan = asked("--kinds", "structured,concise", "-n")
    assert not endpoint.bodies
    assert "structured: 1,000 calls per 1,000 rows" in plan.stderr + plan.stdout.decode()
    asked("--kinds", "structured")
    rows = rows_of(asked.out)
    assert len(rows) == 24 == len(endpoint.bodies)
    assert rows[0]["caption"]["zh"].startswith("文字") and rows[0]["annotations"][0]["model"] == "teller-1"
    assert rows[0]["caption_structured"]["image_type"] == "text"
    strict = endpoint.bodies[0]["response_format"]["json_schema"]
    assert strict["strict"] and "maxLength" not in json.dumps(strict)
    asked("--kinds", "structured", "--overwrite")  # replies are kept
    assert len(endpoint.bodies) == 24


def test_what_cannot_be_read_is_a_reject_that_redo_asks_about_again(asked, endpoint: Endpoint) -> None:
    endpoint.odd = lambda body: "I cannot say." if len(endpoint.bodies) % 12 == 5 or "could not" in str(body) else None
    asked("--kinds", "structured", "--attempts", "2", check=3)
    rejects = rejects_of(asked.out)
    assert rejects and {r["reason"] for r in rejects} == {"structured: unparsed"}
    assert all("no JSON object" in r["value"] for r in rejects)
    before = len(endpoint.bodies)
    endpoint.odd = lambda body: None
    asked("--kinds", "structured", "--attempts", "2", "--redo", "unparsed")
    assert len(rows_of(asked.out)) == 24 and len(endpoint.bodies) == before + len(rejects)


def test_counting_needs_no_model_and_kinds_that_ask_do(edit: Runner, asked, endpoint: Endpoint, tmp_path: Path) -> None:
    asked("--kinds", "structured")
    made = len(endpoint.bodies)
    edit("caption", asked.out, "--kinds", "", "--check", "language", "-o", tmp_path / "checked")
    assert {row["scores"]["caption_language"] for row in rows_of(tmp_path / "checked")} == {1.0}
    assert len(endpoint.bodies) == made
    refused = edit("caption", asked.out, "--kinds", "names", "-o", tmp_path / "none", check=2)
    assert "--model NAME says whom to ask" in refused.stderr


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--kinds", "poem"), "no kind of that name"),
        (("--kinds", "structured", "--check", "taste"), "no test of that name"),
        (("--kinds", "structured", "--language", "de"), "of en, zh"),
        (("--kinds", "grammar,concise"), "both write `instruction_concise`"),
        (("--kinds", "instruct", "--tasks", "fly"), "no task of that name"),
        (("--kinds", "evolve", "--stages", "7"), "numbers from 1 to 6"),
        (("--kinds", "detailed"), "has no `source` column"),
        (("--kinds", "structured", "--examples", "none.jsonl"), "No such file"),
    ],
)
def test_what_cannot_be_carried_out_is_one_line(asked, endpoint: Endpoint, options, why) -> None:
    refused = asked(*options, check=2 if "examples" not in str(options) else 1)
    assert why in refused.stderr and "Traceback" not in refused.stderr and not endpoint.bodies


def test_the_list_names_every_kind_and_test(edit: Runner) -> None:
    from edittools.caption.checks import CHECKS
    from edittools.caption.kind import KINDS

    said = edit("caption", "--list").stdout.decode()
    for name in (*KINDS.names, *CHECKS.names, "grammar"):
        assert f"\n  {name} " in said


@pytest.mark.parametrize(
    ("kills", "tasks", "rows"), [(2, 3, 18), pytest.param(8, 16, 320, marks=pytest.mark.long)], ids=["few", "many"]
)
def test_killed_anywhere_and_in_tasks_no_reply_is_asked_twice_but_those_in_flight(
    edit: Runner, endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: int, tasks: int, rows: int
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789")
    (tmp_path / "crawl").mkdir()
    for number in range(rows):
        (tmp_path / f"crawl/{number:04}.png").write_bytes(encode(pixels(number, 24, 24), "PNG"))
    edit("shard", tmp_path / "crawl", "--rows", max(1, rows // tasks), "-o", tmp_path / "raw")
    endpoint.odd = lambda body: time.sleep(0.01)  # the smallest valid answer, a little later
    words = ["caption", tmp_path / "raw", "--kinds", "structured,instruct", "--model", "teller", "-q"]
    words += ["--api-base", endpoint.url, "--concurrency", 4]
    whole = [*words, "-o", tmp_path / "whole"]
    with open("/dev/null", "r+b") as nothing:
        at = nothing.fileno()
        for kill in range(kills):
            child = edit.start(*whole, stdin=at, stdout=at, stderr=at)
            before = len(endpoint.bodies)
            while child.returncode is None and len(endpoint.bodies) < before + 2 + 5 * kill:
                time.sleep(0.001)
            os.kill(child.pid, signal.SIGKILL)
            assert child.wait() == -signal.SIGKILL
        edit(*whole)
        asked = [json.dumps(body, sort_keys=True) for body in endpoint.bodies]
        assert len(rows_of(tmp_path / "whole")) == rows
        assert len(asked) - len(set(asked)) <= 4 * kills
        endpoint.bodies.clear()
        # The same by an array of tasks that start together on one store: none asks what another one has asked.
        shared = [*words, "--cache-dir", tmp_path / "store", "-o", tmp_path / "spread"]
        children = [edit.start(*shared, "--task", f"{k}/{tasks}", stdin=at, stdout=at, stderr=at) for k in range(tasks)]
        assert [child.wait() for child in children] == [0] * tasks
    spread = [json.dumps(body, sort_keys=True) for body in endpoint.bodies]
    assert len(spread) == len(set(spread)) and set(spread) == set(asked)
    edit(*shared)
    assert len(endpoint.bodies) == len(spread)
    assert [row["edit"] for row in rows_of(tmp_path / "spread")] == [row["edit"] for row in rows_of(tmp_path / "whole")]
