"""Replies of judges: what the released scripts make of them, and what we do."""

from __future__ import annotations

import json
import math
import os
from itertools import pairwise
from pathlib import Path

import pytest

from edittools.judge.expected_score import expected_rating, rating_positions, soft_score, soft_values
from edittools.rubric import parsing
from edittools.rubric.parsing import Random, Scores, Unparsed, viescore_strict
from edittools.suites import gedit, imgedit, kris, rededit, risebench

# ---------------------------------------------------------------- labelled lines

# (the line, numbers that ImgEdit's script counts, numbers that REDEdit-Bench's counts, what we read: None = nothing)
SPELLINGS = [
    ("Label: 4", [4], [4], 4),
    ("  Label: 4  ", [4], [4], 4),
    ("- Label: 4", [4], [4], 4),
    ("1. Label: 4", [4], [4], 4),
    ("* Label: 4", [4], [4], 4),
    ("**Label**: 4", [4], [4], 4),
    ("**Label:** 4", [], [], 4),
    ("**Label: 4**", [], [], 4),
    ("Label: **4**", [], [], 4),
    ("Label: `4`", [], [], 4),
    ("Label: 4/5", [], [], 4),
    ("Label: 4 / 5", [], [], 4),
    ("Label: 4/10", [], [], None),
    ("Label: 4.", [], [], 4),
    ("Label: 4.0", [], [], 4),
    ("Label: 4.5", [], [], None),
    ("Label: four", [], [], None),
    ("Label:4", [], [], 4),
    ("Label:  4", [], [4], 4),
    ("Label :4", [], [], 4),
    ("Label：4", [], [], 4),
    ("Label： 4", [], [], 4),
    ("Label: ４", [4], [4], 4),
    ("Label: 0", [0], [0], None),
    ("Label: 7", [7], [7], None),
    ("Label: -1", [], [], None),
    ("Label: 4 (good)", [], [], 4),
    ("Label: about 4", [], [], None),
    ("Label: 4 or 5", [], [], None),
    ("Label: note: 4", [], [], None),
    ("Label 4", [], [], None),
    ("Label: ", [], [], None),
    ("LABEL: 4", [4], [4], 4),
]


@pytest.mark.parametrize(("line", "loose", "looser", "ours"), SPELLINGS)
def test_spellings_of_a_score_line(line, loose, looser, ours):
    assert imgedit.imgedit_official(line) == loose
    assert rededit.rededit_official(line) == looser
    strict = parsing.labelled_strict(line, ["Label"])
    if ours is None:
        assert isinstance(strict, Unparsed)
    else:
        assert isinstance(strict, Scores) and strict.values == {"Label": ours}
        begin, end = strict.spans["Label"]
        assert float(line[begin:end]) == ours


def test_official_counts_what_is_no_score():
    reply = "Brief reasoning: 3\nPrompt Compliance: 4\nTotal: 12"
    assert imgedit.imgedit_official(reply) == [3, 4, 12]
    assert parsing.official_average([3, 4, 12]) == 6.33
    assert isinstance(parsing.labelled_strict(reply), Unparsed)


def test_official_defects_that_raise():
    with pytest.raises(ValueError):
        imgedit.imgedit_official("Label: ²")
    with pytest.raises(AttributeError):
        imgedit.imgedit_official({"error": "x"})  # type: ignore[arg-type]
    assert rededit.rededit_official({"error": "x"}) == []
    assert rededit.rededit_official("Error: 503 overloaded") == []
    assert rededit.rededit_official("Error: 429") == [429]
    assert isinstance(parsing.labelled_strict("Error: 429", count=1), Unparsed)


def test_the_average_is_rounded_half_to_even_and_none_without_numbers():
    assert parsing.official_average([]) is None
    assert parsing.official_average([1, 5, 5]) == 3.67
    assert parsing.official_average([4, 5, 4, 4, 4, 4, 4, 4]) == 4.12  # 4.125


THREE = "Brief reasoning: {}\nPrompt Compliance: {}\nVisual Naturalness: {}\nPhysical & Detail Coherence: {}"
LABELS = ("Prompt Compliance", "Visual Naturalness", "Physical & Detail Coherence")


def test_strict_wants_every_label_once_and_caps():
    read = parsing.labelled_strict(THREE.format("ok", 2, 5, 5), LABELS)
    assert isinstance(read, Scores)
    assert list(read.values.values()) == [2, 2, 2]
    assert read.capped == LABELS[1:]
    assert parsing.official_average(imgedit.imgedit_official(THREE.format("ok", 2, 5, 5))) == 4.0
    free = parsing.labelled_strict(THREE.format("ok", 2, 5, 5), LABELS, cap=False)
    assert isinstance(free, Scores) and list(free.values.values()) == [2, 5, 5] and free.capped == ()
    # the order is that of the rubric, not of the reply
    turned = "\n".join(reversed(THREE.format("ok", 3, 2, 1).splitlines()))
    again = parsing.labelled_strict(turned, LABELS)
    assert isinstance(again, Scores) and list(again.values.values()) == [3, 2, 1]


@pytest.mark.parametrize(
    ("reply", "labels", "says"),
    [
        ("Prompt Compliance: 4\nVisual Naturalness: 4", LABELS, "no line for `Physical & Detail Coherence`"),
        (THREE.format("ok", 4, 4, 6), LABELS, "not an integer from 1 to 5"),
        (THREE.format("ok", 4, 4, 4) + "\nPrompt Compliance: 5", LABELS, "twice"),
        (THREE.format("ok", 4, "see above", 4), LABELS, "no number"),
        ("I cannot help with that.", LABELS, "no line for"),
        ("", LABELS, "no line for"),
        ("A: 1\nB: 2", None, "2 lines with a number instead of 3"),
        ("A: 1\nB: 2\nC: 3\nD: 4", None, "4 lines"),
    ],
)
def test_strict_refuses_and_says_why(reply, labels, says):
    read = parsing.labelled_strict(reply, labels)
    assert isinstance(read, Unparsed) and says in read.reason


def test_strict_without_known_labels_leaves_reasons_and_totals_out():
    read = parsing.labelled_strict("Brief reasoning: 3\nA: 5\nB: 4\nC: 4\nOverall: 4\nNote: it is late")
    assert isinstance(read, Scores) and read.values == {"A": 5, "B": 4, "C": 4}


@pytest.mark.parametrize(
    ("reply", "official", "ours"),
    [
        ("Brief reasoning: a.\nScore: 2", [2], 2),
        ("Brief reasoning: good, but the sky changed. Score: 2.", [], 2),
        ("Score: 3 (Acceptable)", [], 3),
        ("Score: 3/5", [], 3),
        ("Score: 6", [6], None),
        ("Score: 3\nFinal score: 4", [3, 4], None),
        ("Brief reasoning: fine.", [], None),
    ],
)
def test_uge(reply, official, ours):
    assert imgedit.imgedit_official(reply) == official
    read = imgedit.uge_strict(reply)
    assert (read.values["score"] if isinstance(read, Scores) else None) == ours


# ---------------------------------------------------------------- VIEScore

GOOD = '{"score": [8, 6], "reasoning": "r"}'
# (reply, on the first try, on later tries, ours). A list is the official `score`.
VIE = [
    (GOOD, [8, 6], [8, 6], [8, 6]),
    (f"```json\n{GOOD}\n```", [8, 6], [8, 6], [8, 6]),
    (f"Here you are: {GOOD} Done.", [8, 6], [8, 6], [8, 6]),
    (f"||V^=^V||\n{GOOD}\n||V^=^V||", [8, 6], [8, 6], [8, 6]),
    (f"||V^=^V||{GOOD}", [8, 6], [8, 6], [8, 6]),
    ('{"score": 9, "reasoning": "scalar"}', [9], [9], None),
    ('{"score": [12, -3]}', [12, -3], [12, -3], None),
    ('{"score": "7/10"}', ["7/10"], ["7/10"], None),
    ('{"score": []}', [], [], None),
    ('{"score": [8, 6, 5]}', [8, 6, 5], [8, 6, 5], None),
    ("{score: 5}", [5], [5], None),  # repaired
    ("[7, 3]", [7, 3], Random, None),
    ("I say [7,3].", [7, 3], Random, None),
    ("[7,  3]", Unparsed, Random, None),
    ("[7, 3, 1]", Unparsed, Random, None),
    ("8", [8], Random, None),
    (" 10\n", [10], Random, None),
    ("11", Unparsed, Random, None),
    ("", Unparsed, Random, None),
    ("bad reply", Unparsed, Random, None),
    ("I'm sorry, I can't assist with that.", Unparsed, Random, None),
    # with braces that cannot be repaired the script asks for ever
    ('{"score": [8, 6], "reasoning": "a "b" c"}', Unparsed, Unparsed, None),
    ('{"score": [8, 6],}', Unparsed, Unparsed, [8, 6]),
    ("{'score': [8, 6]}", Unparsed, Unparsed, None),
    ('{"score"： [8, 6]}', Unparsed, Unparsed, None),
    ('{"score": [8, 6], "reasoning": "a\tb"}', Unparsed, Unparsed, [8, 6]),
    ("||V^=^V||||V^=^V||", Unparsed, Unparsed, None),
    (f"||V^=^V||{GOOD}||V^=^V||V^=^V||", Unparsed, Unparsed, [8, 6]),  # the last delimiter is the one that overlaps
]


@pytest.mark.parametrize(("reply", "first", "later", "ours"), VIE)
def test_viescore(reply, first, later, ours):
    for expected, again in ((first, False), (later, True)):
        found = gedit.viescore_official(reply, later=again)
        if expected is Random:
            assert found == Random(0, 10)
        elif expected is Unparsed:
            assert isinstance(found, Unparsed)
        else:
            assert found["score"] == expected
    strict = viescore_strict(reply)
    assert (list(strict.values.values()) if isinstance(strict, Scores) else None) == ours
    if isinstance(strict, Scores):
        assert [reply[slice(*strict.spans[name])] for name in ("score_1", "score_2")] == ["8", "6"]


@pytest.mark.parametrize(
    "reply", ['{"score": [8, 1' + "0" * 400 + "]}", '{"score":' * 900 + "1" + "}" * 900, '{"score": [NaN, 6]}']
)
def test_viescore_numbers_that_cannot_be_written_out(reply):
    strict = viescore_strict(reply)
    assert isinstance(strict, Unparsed) and len(strict.reason) < 80


def test_viescore_scores_raise_where_the_script_does():
    assert gedit.viescore_official_scores({"score": [8, 6]}, {"score": [9, 7]}) == (6, 7, math.sqrt(42))
    for semantics, error in (
        ({"score": ["7/10"]}, TypeError),
        ({"score": [12, -3]}, ValueError),
        ({"score": []}, ValueError),
        ({"reasoning": "no score"}, KeyError),
        ({"score": [None]}, TypeError),
        ({"score": [10**400]}, OverflowError),
    ):
        with pytest.raises(error):
            gedit.viescore_official_scores(semantics, {"score": [9, 7]})
    assert gedit.viescore_official("{reasoning: only}") == {"reasoning": "only"}  # repaired, and still no score


@pytest.fixture
def shared_case() -> Path:
    """A GEdit case with what the official script makes of it; EDIT_BENCHMARK_CASES names the folder of cases."""
    folder = Path(os.environ.get("EDIT_BENCHMARK_CASES", "")) / "gedit" / "e2e01_judge_to_scores"
    if not folder.is_dir():
        pytest.skip("EDIT_BENCHMARK_CASES does not name the shared cases")
    return folder


def test_replies_of_the_shared_case_give_the_official_csv(shared_case):
    expected = json.loads((shared_case / "expected.json").read_text("utf-8"))
    given = json.loads((shared_case / "input" / "dataset_and_replies.json").read_text("utf-8"))
    rows = [row for file in expected["csv_files"].values() for row in file["rows_sorted_by_edited_image"]]
    by_key = {Path(row["edited_image"]).stem: row for row in rows}
    compared = 0
    for key, replies in given["judge_replies_by_key_in_call_order"].items():
        if key not in by_key:
            continue
        for attempt, (semantics, quality) in enumerate(zip(replies[::2], replies[1::2])):
            read = [gedit.viescore_official(reply, later=attempt > 0) for reply in (semantics, quality)]
            if not any(isinstance(one, Unparsed) for one in read):
                break
        assert not any(isinstance(one, Unparsed | Random) for one in read), key
        sc, pq, _ = gedit.viescore_official_scores(*read)
        assert (str(sc), str(pq)) == (by_key[key]["sementics_score"], by_key[key]["quality_score"])
        compared += 1
    assert compared == len(by_key) > 40


# ---------------------------------------------------------------- RISEBench, KRIS-Bench

RISE = [
    ("Steps.\n**Final Score:** **4**", [4], 4),
    ("Final Score: 4", [4], 4),
    ("**Final Score**: 4", [4], 4),
    ("final score 4", [4], 4),
    ("Final Score: 4/5", [4], 4),
    ("Final Score: 4, 5", [4, 5], None),  # a second number breaks the script's table
    ("Final Score: 4\n5", [4, 5], 4),
    ("Final Scores: 4", [4], None),
    ("Final Score: none", [], None),
    ("Final Score: 9", [9], None),
    ("Final Score: -4", [], None),
    ("Failed to obtain answer via API. ", None, None),
]


@pytest.mark.parametrize(("reply", "official", "ours"), RISE)
def test_risebench(reply, official, ours):
    found = risebench.risebench_official(reply)
    assert (found or None) == (official or None)
    strict = risebench.risebench_strict(reply)
    assert (strict.values["score"] if isinstance(strict, Scores) else None) == ours


KRIS = [
    ('{"consistency_score": 4, "reasoning": "r"}', 4, 4),
    ('```json\n{"consistency_score": 4}\n```', 4, 4),
    ('{"consistency_score": "4"}', 4, None),
    ('{"consistency_score": 4.7}', 4, None),
    ('{"consistency_score": 9}', 9, None),
    ("consistency score: 3", 3, None),
    ("I would give it 4 / 5", 4, None),
    ("3 out of 5", 3, None),
    ("I see 2 dogs", 2, None),
    ("", None, None),
]


@pytest.mark.parametrize(("reply", "official", "ours"), KRIS)
def test_kris(reply, official, ours):
    assert kris.kris_official(reply, "consistency_score") == official
    strict = kris.kris_strict(reply, ("consistency_score",))
    assert (strict.values["consistency_score"] if isinstance(strict, Scores) else None) == ours


def test_kris_variants():
    null = '{"consistency_score": null, "reasoning": "2 dogs"}'
    assert kris.kris_official(null, "consistency_score") == 2
    assert kris.kris_official(null, "consistency_score", knowledge=True) is None
    wordy = "out of 3 dogs, consistency score 5"
    assert kris.kris_official(wordy, "consistency_score") == 5
    assert kris.kris_official(wordy, "consistency_score", named=False) == 3
    assert kris.kris_official(wordy, "consistency_score", knowledge=True) == 3
    dual = '{"instruction_score": 5, "knowledge_score": null}'
    assert kris.kris_official_dual(dual) == {"instruction_score": 5, "knowledge_score": None}
    words = "Instruction score: 4, knowledge_score：2"
    assert kris.kris_official_dual(words) == {"instruction_score": 4, "knowledge_score": 2}
    assert isinstance(kris.kris_strict(dual, ("instruction_score", "knowledge_score")), Unparsed)


# ---------------------------------------------------------------- our own JSON


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        ('{"a": 4, "b": 5}', None),
        ('Sure:\n```json\n{"rationale": "x {y}", "a": 4, "b": 5}\n```', None),
        ('{"a": 4, "b": 5} and again {"a": 4, "b": 5}', None),
        ('{"a": 4, "b": 5} no: {"a": 3, "b": 5}', "different scores"),
        ('{"a": 4}', "`b` is missing"),
        ('{"a": 4, "a": 2, "b": 5}', "there twice"),
        ('{"a": 4.5, "b": 5}', "not an integer"),
        ('{"a": "4", "b": 5}', "not an integer"),
        ('{"a": true, "b": 5}', "not an integer"),
        ('{"a": 6, "b": 5}', "not from 1 to 5"),
        ('{"scores": {"a": 4, "b": 5}}', "no JSON object"),
        ('{"a": 4, "b": 5', "no JSON object"),
        ("[4, 5]", "no JSON object"),
        ("{" * 5000, "no JSON object"),
        ("", "no JSON object"),
    ],
)
def test_json_scores(reply, says):
    read = parsing.json_strict(reply, ("a", "b"), 1, 5)
    if says is None:
        assert isinstance(read, Scores) and read.values == {"a": 4, "b": 5}
        assert [reply[slice(*read.spans[key])] for key in "ab"] == ["4", "5"]
    else:
        assert isinstance(read, Unparsed) and says in read.reason


# ---------------------------------------------------------------- soft scores

HALF, TENTH = math.log(0.5), math.log(0.1)


def test_expected_rating_by_hand():
    # P(4) = 0.5, P(5) = 0.25 (two spellings), the word is no rating: (4 * 0.5 + 5 * 0.25) / 0.75
    candidates = [("4", HALF), ("5", math.log(0.125)), (" 5", math.log(0.125)), ("good", math.log(0.25))]
    assert expected_rating(candidates, range(1, 6)) == pytest.approx(13 / 3)
    # log-probabilities may be shifted by any constant, as logits are
    assert expected_rating([(t, v - 700) for t, v in candidates], range(1, 6)) == pytest.approx(13 / 3)
    assert expected_rating([("7", HALF), ("good", HALF)], range(1, 6)) is None
    assert expected_rating([], range(1, 6)) is None
    assert expected_rating([("4", -math.inf)], range(1, 6)) is None


def test_two_digit_ratings():
    assert expected_rating([("10", HALF), ("9", HALF)], range(11)) == pytest.approx(9.5)
    # a `1` may be the start of a 10 where the tokenizer writes digit by digit: nothing is known then
    assert expected_rating([("1", HALF), ("9", HALF)], range(11)) is None
    assert expected_rating([("8", HALF), ("9", HALF)], range(11)) == pytest.approx(8.5)


def test_k_passes():
    assert soft_score([4.0, 3.0]) == 3.5
    assert soft_score([4.0, None]) is None
    assert soft_score([]) is None


def tokens(*written: str, other: dict[int, tuple[str, float]] | None = None):
    return [[(token, HALF), (other or {}).get(k, ("?", TENTH))] if token else [] for k, token in enumerate(written)]


def test_ratings_are_found_behind_the_rationale():
    text = '{"rationale": "4 of 5", "a": 4, "b": 2}'
    read = parsing.json_strict(text, ("a", "b"), 1, 5)
    assert isinstance(read, Scores)
    written = ['{"', "rationale", '":', ' "', "4", " of", " ", "5", '",', ' "', "a", '":', " ", "4"]
    written += [",", ' "b":', " 2", "}"]
    assert "".join(written) == text
    given = tokens(*written, "<|im_end|>", other={13: ("5", HALF), 16: (" 1", math.log(1 / 6))})
    assert rating_positions(text, given, read.spans) == {"a": 13, "b": 16}
    values = soft_values(text, given, read.spans, range(1, 6))
    assert values["a"] == pytest.approx(4.5)
    assert values["b"] == pytest.approx((2 * 0.5 + 1 / 6) / (0.5 + 1 / 6))
    # a rationale that does not fit its tokens (a character in two halves) does no harm
    given[4] = [("\ufffd", HALF)]
    assert rating_positions(text, given, read.spans) == {"a": 13, "b": 16}
    # tokens that do not reach back to a number leave it unknown
    given[14] = [("x", HALF)]
    assert rating_positions(text, given, read.spans) == {"a": None, "b": 16}
    assert soft_values(text, None, read.spans, range(1, 6)) == {"a": None, "b": None}


def test_the_softer_the_judge_the_nearer_the_neighbour():
    steps = [expected_rating([("4", math.log(1 - p)), ("5", math.log(p))], range(1, 6)) for p in (0.1, 0.3, 0.5)]
    assert all(a is not None and b is not None and a < b for a, b in pairwise(steps))


def test_long_blanks_are_read_in_one_pass():
    """A reply that ends in blanks or stars is a known way for a model to go astray; it must not hang the reader."""
    import time

    started = time.process_time()
    for filler in (" ", "*", "\t"):
        parsing.labelled_strict("A: 3" + filler * 20_000 + "x")
        risebench.risebench_strict("Final Score: 3" + filler * 20_000 + "x")
    assert time.process_time() - started < 20  # cubic, this would take days
