"""`edit judge --rubric` as a command: rows that are asked about again, parameters, and what stderr says of failures."""

from __future__ import annotations

import functools
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import Runner
from test_batches import pairs_of
from test_clients import KEY, chat, response, serve  # noqa: F401  (a fixture)

SCORES = {"success": 7, "preservation": 8, "naturalness": 6, "cleanness": 9}


def good(prompt: str) -> str:
    keys = ("success", "preservation") if '"success"' in prompt else ("naturalness", "cleanness")
    return json.dumps({"rationale": "r", **{key: SCORES[key] for key in keys}})


@pytest.fixture
def judge(edit: Runner, tmp_path: Path, serve):  # noqa: F811
    """(run `edit judge` on three shards of one pair each, the server): its script may be replaced."""
    edit("shard", pairs_of(tmp_path), "--rows", 1, "-o", tmp_path / "pairs")
    server = serve(lambda prompt, number: [response(200, chat(good(prompt)))])
    run = functools.partial(
        edit, "judge", tmp_path / "pairs", "--rubric", "viescore", "--model", "gpt-4o", "--api-base", server.url,
        "-o", tmp_path / "judged", env={**os.environ, "OPENAI_API_KEY": KEY},
    )  # fmt: skip
    return run, server


def judged(edit: Runner, folder: Path) -> dict[str, tuple[float | None, list[str]]]:
    found = {}
    for line in edit("cat", folder, "-f", "jsonl").stdout.splitlines():
        row = json.loads(line)
        states = [judgement["state"] for judgement in row["judgements"]]
        found[row["instruction"]["en"]] = row["scores"]["judge_viescore_sc"], states
    return found


@pytest.mark.parametrize(
    "answer, state, options",
    [
        (response(400, {"error": {"message": "bad image"}}), "failed", ["--redo", "failed"]),
        (response(400, {"error": {"message": "bad image"}}), "failed", ["--overwrite"]),
        (response(400, {"error": {"code": "content_filter"}}), "filtered", ["--redo", "failed,filtered"]),
        (response(200, chat("no JSON")), "unparsed", ["--redo", "unparsed"]),
        (response(200, chat(None, refusal="I will not")), "refused", ["--redo", "refused"]),
    ],
)
def test_redo_asks_again_about_rows_of_a_state_and_leaves_the_others(judge, edit, tmp_path, answer, state, options):
    run, server = judge
    works = []
    server.script = lambda prompt, number: [
        response(200, chat(good(prompt))) if works or "make it 1" not in prompt else answer
    ]
    first = run(check=None).stderr
    said = {"failed": "HTTP 400: bad image", "unparsed": "unusable reply", "refused": "I will not"}.get(state, state)
    assert f"judge: 1 {state}: " in first and said in first
    assert judged(edit, tmp_path / "judged")["make it 1"] == (None, [state, "ok", state])
    shards = sorted((tmp_path / "judged").glob("*.parquet"))
    before, calls = [os.stat(path).st_ino for path in shards], server.total
    run(check=None)
    assert server.total == calls, "a finished set is left as it is"
    works.append(True)
    run(*options)
    assert server.total == calls + 1
    assert judged(edit, tmp_path / "judged")["make it 1"] == (7.0, ["ok"] * 3)
    after = [os.stat(path).st_ino for path in shards]
    assert [a == b for a, b in zip(before, after)] == [True, False, True]
    run("--redo", "all")
    assert server.total == calls + 1 + 6


def test_the_same_command_in_other_words_is_refused_while_it_runs(judge, edit, tmp_path):
    run, server = judge
    answer = server.script
    refused = threading.Event()

    def once_refused(prompt, number):
        while not refused.is_set():
            yield 0.05
        yield from answer(prompt, number)

    server.script = once_refused
    with ThreadPoolExecutor() as pool:
        first = pool.submit(run)
        while not server.total:
            time.sleep(0.05)
        rest = [word for word in run.args if word not in (tmp_path / "pairs", tmp_path / "judged")]
        place = rest.index("-o") + 1
        words = ["judge", f"{tmp_path}/./pairs/", *rest[1:place], f"{tmp_path}/p/../judged", *rest[place:]]
        try:
            assert "another process runs the same command now" in edit(*words, check=1, **run.keywords).stderr
        finally:
            refused.set()
        first.result()
    assert server.total == 6


def test_parameters_are_set_and_left_out(judge, tmp_path):
    run, server = judge
    given = ("max_tokens=", "top_p=0.5", 'chat_template_kwargs={"a": 1}', "stop=x")
    run(*(word for parameter in given for word in ("--param", parameter)))
    for body in server.bodies:
        assert body.keys() == {"model", "messages", "top_p", "chat_template_kwargs", "stop"}
        assert (body["top_p"], body["chat_template_kwargs"], body["stop"]) == (0.5, {"a": 1}, "x")
    assert "--overwrite" in run("--param", "top_p=0.6", check=1).stderr, "they decide the result"
    for words in (["--param", "top_p"], ["--param", "model=x"], ["--param", "a b=1"], ["--redo", "good"],
                  ["--param", "temperature=1", "--temperature", "1"], ["--param", "max_tokens=many"],
                  ["--param", "temperature=warm"], ["--param", "seed=1.5"],
                  ["--param", "max_tokens=true"]):  # fmt: skip
        assert words[0] in run(*words, "-o", tmp_path / "x", check=2).stderr
    assert "--rubric NAME" in run.func("judge", tmp_path / "pairs", "--redo", "failed", check=2).stderr


def test_an_endpoint_that_refuses_everything_leaves_no_output_and_its_words(judge, tmp_path):
    run, server = judge
    server.script = lambda prompt, number: [response(404, {"error": {"message": "The model `gpt-4o` does not exist"}})]
    result = run(check=1)
    assert "HTTP 404: The model `gpt-4o` does not exist" in result.stderr
    assert "hint: is the model's name" in result.stderr
    assert not list((tmp_path / "judged").glob("*.parquet"))
