"""A study that is served: who is given what, a server that is killed, and people at their browsers."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import Chromium, missing, wait
from test_study_rows import invoke, items_of, rows_file

from edittools.bench.studies import review
from edittools.bench.studies.answers import read_answers
from edittools.bench.studies.build import build_items
from edittools.bench.studies.serve import Service, application
from edittools.bench.studies.store import OtherTab
from edittools.errors import EditError

pytest.importorskip("uvicorn")
testclient = pytest.importorskip("starlette.testclient")

ACCEPT = {"given": {"a": {"decision": 1}}, "shown": ["a"], "at": "2026-01-01T00:00:00Z"}
REJECT = {"given": {"a": {"decision": 3}}, "shown": ["a"], "at": "2026-01-01T00:00:01Z", "reason": "other"}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A review of three pairs."""
    build_items(items_of(rows_file(tmp_path / "rows.parquet", 4)), "review", str(tmp_path / "study"))
    return tmp_path / "study"


def test_every_pair_is_given_to_two_and_to_a_third_where_they_differ(study: Path) -> None:
    service = Service(str(study))
    for rater in ("Ann", "Bo", "Cy"):
        service.store.begin(rater, "t")

    def given(rater: str) -> int | None:
        return service.next(rater, "t")["case"]

    first, other = given("Ann"), given("Bo")
    assert given("Ann") == first  # what was given and not answered comes again
    service.answer("Ann", "t", first, ACCEPT)
    seen = {"Ann": [first], "Bo": []}
    for rater in ("Bo", "Ann", "Bo", "Ann", "Bo"):
        number = given(rater)
        assert number not in (None, *seen[rater])
        seen[rater].append(number)
        # Bo rejects what Ann has accepted first, and half an answer counts as none.
        service.answer(rater, "t", number, REJECT if rater == "Bo" and number == first else ACCEPT)
    assert sorted(seen["Ann"]) == sorted(seen["Bo"]) == [0, 1, 2] and other in seen["Bo"]
    assert service.next("Ann", "t") == {"case": None, "left": 0}
    assert service.next("Cy", "t") == {"case": first, "left": 1}  # who saw neither answer decides
    service.answer("Cy", "t", first, {**REJECT, "reason": None})
    assert given("Cy") == first  # not complete
    service.answer("Cy", "t", first, REJECT)
    assert given("Cy") is None
    with pytest.raises(OtherTab):
        service.answer("Cy", "another", first, ACCEPT)
    with pytest.raises(EditError, match="no answer to this design"):
        service.answer("Cy", "t", first, {"given": {"a": {"decision": 9}}})
    service.store.close()
    said = read_answers(str(study / "answers.sqlite"))
    assert {one["rater"]: len(one["answers"]) for one in said} == {"Ann": 3, "Bo": 3, "Cy": 1}
    again = Service(str(study))  # goes on
    ((number, kept),) = again.store.begin("Cy", "u").items()
    assert (number, {**kept, "first": None}) == (str(first), {**REJECT, "first": None})
    again.store.close()
    build_items(items_of(study.parent / "rows.parquet"), "review", str(study), 7, overwrite=True)
    with pytest.raises(EditError, match="answers of another study"):
        Service(str(study))


def test_who_was_first_stays_first_whatever_pages_clocks_say(study: Path) -> None:
    """Ann's clock is a day late, Bo changes a word of his reason last, Cy's page claims to have been first."""
    service = Service(str(study))
    late, early = "2026-01-02T00:00:00Z", "2025-01-01T00:00:00Z"
    for rater, answer in (
        ("Ann", {**ACCEPT, "at": late}),
        ("Bo", REJECT),
        ("Cy", {**REJECT, "at": early, "first": early}),
        ("Bo", {**REJECT, "reason": None, "at": late}),  # no answer for a moment
        ("Bo", {**REJECT, "reason": "nothing changed", "at": late}),
    ):
        service.store.begin(rater, "t")
        service.answer(rater, "t", 0, answer)
    service.store.close()
    key, answers = service.key, read_answers(str(study / "answers.sqlite"))
    assert [vote.rater for vote in review.votes_of(key, answers, service.asked)[0]] == ["Ann", "Bo", "Cy"]
    # one accepts, one rejects: no better than chance; Bo and Cy, who are not the blind two, are of one mind
    assert review.score(key, answers)["agreement"] == {"items": 1, "same": 0, "kappa": 0, "alpha": 0}
    old = [{**one, "answers": {"0": {**one["answers"]["0"], "first": None}}} for one in answers]  # of earlier pages
    assert [vote.rater for vote in review.votes_of(key, old, service.asked)[0]] == ["Cy", "Ann", "Bo"]


@contextlib.contextmanager
def served(study: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "edittools", "eval", "study", "serve", str(study), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        yield process.stderr.readline().split()[0], process
    finally:
        process.kill()
        process.wait()


def post(url: str, path: str, **said: Any) -> Any:
    data = json.dumps({"rater": "Ann", "tab": "t", **said}).encode()
    request = urllib.request.Request(url + path, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("begin", b'{"rater": "\\ud800", "tab": "t"}', 400),  # half a sign, which SQLite does not take
        ("begin", b'{"rater": "A", "tab": "t", "x": ' + b"[" * 30_000 + b"]" * 30_000 + b"}", 400),
        ("begin", b'{"rater": "A", "tab": "' + b"t" * 70_000 + b'"}', 400),
        ("begin", b"[]", 400),
        ("answer/0", b'{"rater": "A", "tab": "t", "answer": {"given": {"a": {"decision": true}}}}', 400),
        ("answer/0", b'{"rater": "A", "tab": "t", "answer": {"given": {}, "note": "\\udfff"}}', 400),
        ("answer/99999999999999999999", b'{"rater": "A", "tab": "t", "answer": {"given": {}}}', 400),
        ("answer/0", b'{"rater": "A", "tab": "another", "answer": {"given": {"a": {"decision": 1}}}}', 409),
        ("answer/0", b'{"rater": "Nobody", "tab": "t", "answer": {"given": {"a": {"decision": 1}}}}', 409),
        ("key.json", b"{}", 404),
        ("case/../key.json", b"{}", 404),
    ],
)
def test_what_no_page_sends_is_refused(study: Path, path: str, body: bytes, status: int) -> None:
    service = Service(str(study))
    service.store.begin("A", "t")
    client = testclient.TestClient(application(service), raise_server_exceptions=False)
    assert client.post(f"/{path}", content=body, headers={"content-type": "application/json"}).status_code == status
    assert client.post("/begin", data={"rater": "A", "tab": "t"}).status_code == 400  # a form of another site
    assert service.store.begin("A", "t") == {}
    service.store.close()


def test_a_disk_that_is_full_is_tried_again_later(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    service = Service(str(study))
    monkeypatch.setattr(service.store, "save", full)
    answer = {"rater": "A", "tab": "t", "answer": ACCEPT}
    said = testclient.TestClient(application(service)).post("/answer/0", json=answer)
    assert (said.status_code, said.text) == (503, f"{study}/answers.sqlite: database or disk is full")
    service.store.close()


def test_a_killed_server_has_every_answer_that_it_confirmed(study: Path) -> None:
    with served(study) as (url, process):
        with urllib.request.urlopen(url) as answer:
            page = answer.read().decode()
        assert 'id="case-' not in page and '{"assigned": true}' in page and "connect-src 'self'" in page
        with urllib.request.urlopen(url + "case/1") as answer:
            assert json.load(answer)["results"].keys() == {"a"}
        post(url, "begin")
        for number in range(3):
            post(url, f"answer/{number}", answer=ACCEPT)
        for path, said, status in (
            ("answer/9", {"answer": ACCEPT}, 400),
            ("answer/1", {"answer": {"given": {"a": {"decision": "x"}}}}, 400),
            ("answer/1", {"answer": ACCEPT, "tab": "other"}, 409),
            ("begin", {"rater": ""}, 400),
            ("answer/1", {"answer": {**ACCEPT, "note": "x" * (1 << 16)}}, 400),
            ("case/9", {}, 405),
        ):
            with pytest.raises(urllib.error.HTTPError) as error:
                post(url, path, **said)
            assert error.value.code == status, path
        form = urllib.request.Request(url + "begin", b'{"rater": "Ann", "tab": "t"}', {"content-type": "text/plain"})
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(form)
        process.send_signal(signal.SIGKILL)
        process.wait()
    (said,) = read_answers(str(study / "answers.sqlite"))
    assert all(one.pop("first").startswith("20") for one in said["answers"].values())
    assert said["rater"] == "Ann" and said["answers"] == {str(number): ACCEPT for number in range(3)}


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_people_at_their_browsers_and_a_server_that_dies_meanwhile(study: Path, tmp_path: Path) -> None:
    """Two review everything; the server is killed in the middle and started again at the same place."""
    homes = [tmp_path / "ann", tmp_path / "bo"]
    for home in homes:
        home.mkdir()
    with served(study) as (url, process), Chromium(homes[0], tmp_path) as ann, Chromium(homes[1], tmp_path) as bo:
        for who, name in ((ann, "Ann"), (bo, "Bo")):
            who.open(url)
            who.type(name)
            who.press("Enter")
            wait(lambda who=who: who.run("page !== null && order.length === 1"))

        def answer(who: Chromium, *keys: str) -> None:
            before = who.run("order.length")
            who.press(*keys)
            wait(lambda: who.run("element('saved').textContent") == "saved")
            who.press("Enter")
            wait(lambda: who.run(f"order.length > {before} || !element('end').hidden"))
            wait(lambda: who.run("element('rating').hidden || order[position] === page.number"))

        answer(ann, "a")
        answer(bo, "a")
        process.send_signal(signal.SIGKILL)
        process.wait()
        ann.press("a")
        wait(lambda: not ann.run("element('trouble').hidden"))
        assert ann.run("element('saved').textContent") == "not saved"
        port = url.rstrip("/").rpartition(":")[2]
        command = [sys.executable, "-m", "edittools", "eval", "study", "serve", str(study), "--port", port]
        second = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            wait(lambda: ann.run("element('saved').textContent") == "saved")  # sent by itself
            answer(ann)
            answer(bo, "a")
            answer(ann, "a")
            answer(bo, "r", "1")
            assert "Nothing for you" in bo.run("element('verdict').textContent") or bo.run("left") == 0
            ann.reload()
            wait(lambda: ann.run("rater === 'Ann' && Object.keys(answers).length") == 3)
        finally:
            second.kill()
            second.wait()
    found = json.loads(invoke("score", study / "key.json", study / "answers.sqlite", "-f", "json").stdout)
    assert found["raters"] == {"Ann": 3, "Bo": 3}
    assert found["decisions"]["accept"] == 2 and found["decisions"]["open"] == 1
