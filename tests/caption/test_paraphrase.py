"""Both sides of hard negatives go through one rewriter: its handwriting tells nothing, and theirs is gone."""

from __future__ import annotations

import re
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Runner
from scripted import Talk, batch_of, row, text_of

from edittools.bench.probe import LabelledText, probe
from edittools.record import TEXT

COLOURS = ("red", "blue", "green", "yellow", "white", "black")
PLACES = ("by the wall", "on the table", "in the rain", "near the tree", "at the shop", "behind the fence")
THINGS = ("car", "door", "hat", "chair", "boat", "lamp", "cup", "coat")


NEGATIVE = {
    "instruction_negative": TEXT,
    "instruction_detailed": TEXT,
    "perturbation": pa.struct([("operator", pa.string()), ("changed", pa.string())]),
}


def rows(count: int) -> list[dict]:
    """Their negatives are another colour, in the handwriting of whoever made them up."""
    rng, made = np.random.default_rng(3), []
    for k in range(count):
        colour, other = rng.choice(COLOURS, 2, replace=False)
        thing, place = rng.choice(THINGS), rng.choice(PLACES)
        made.append(row(
            k, task=("color", "material")[k % 2], instruction={"en": f"Paint the {thing} {place} {colour}."},
            instruction_negative={"en": f"Instead, the {thing} {place} has to be {other}."},
            perturbation={"operator": "colours", "changed": "the colour"},
        ))  # fmt: skip
    return made


def rewritten(request) -> dict:
    """In words of its own, which differ from request to request."""
    said = re.search(r"^en: (.*)$", text_of(request), re.MULTILINE)[1]
    thing, place, colour = (next(w for w in words if w in said) for words in (THINGS, PLACES, (*COLOURS, "purple")))
    dice = np.random.default_rng(zlib.crc32(text_of(request).encode()))
    text = dice.choice([f"would you kindly turn the {thing} {place} {colour}", f"dear friend, {colour} is what the "
                        f"{thing} {place} should be", f"i wish for a {colour} {thing} {place}"])  # fmt: skip
    return {"instruction": {"en": str(text)}}


def area(made: list[dict], positive: str = "instruction") -> float:
    samples = []
    for each in made:
        samples += [LabelledText(each[positive]["en"], False, each["id"], each["task"]),
                    LabelledText(each["instruction_negative"]["en"], True, each["id"], each["task"])]  # fmt: skip
    return probe(samples)["auc"]


def test_words_alone_tell_nothing_where_both_sides_are_rewritten(edit: Runner, tmp_path) -> None:
    given = rows(300)
    assert area(given) == 1
    talk = Talk(
        tmp_path, rewritten, batch_of(given, **NEGATIVE), kinds="paraphrase", language="en", model=("first", "second")
    )
    assert len(talk.rows) == 300 and not talk.rejects
    assert {request.model for request in talk.requests} == {"first", "second"}
    # 1:1 in every task, and the gate is passed
    pq.write_table(pa.Table.from_pylist([
        {name: each[name] for name in ("id", "task", "instruction", "instruction_negative")} for each in talk.rows
    ]), tmp_path / "rows.parquet")  # fmt: skip
    edit("eval", "probe", tmp_path / "rows.parquet", "-f", "json")
    # had the negatives alone been, it is not; nor by a rewriter that leaves their handwriting as it is
    one_sided = [each | {"positive": before["instruction"]} for each, before in zip(talk.rows, given)]
    assert area(one_sided, "positive") == 1

    def idle(request) -> dict:
        return {"instruction": {"en": "Please: " + re.search(r"^en: (.*)$", text_of(request), re.MULTILINE)[1]}}

    assert area(Talk(tmp_path / "idle", idle, batch_of(given, **NEGATIVE), kinds="paraphrase", language="en").rows) == 1


def test_nothing_says_which_of_the_two_it_is(tmp_path) -> None:
    """One model, one manner, and the instruction is all in which the two questions differ."""
    manners = set()
    for one in rows(8):
        made = batch_of([one], **NEGATIVE)
        talk = Talk(tmp_path / one["id"], rewritten, made, kinds="paraphrase", language="en", model=("a", "b"))
        first, second = talk.requests
        lines = list(zip(text_of(first).splitlines(), text_of(second).splitlines(), strict=True))
        assert [pair for pair in lines if pair[0] != pair[1]] == [
            (f"en: {one['instruction']['en']}", f"en: {one['instruction_negative']['en']}")
        ]
        assert first.model == second.model and first.parameters == second.parameters
        manners.add(next(one for one, _ in lines if one.startswith("Write it anew")))
    assert len(manners) > 4


def test_a_rewriter_has_to_keep_the_facts_of_either_side(tmp_path) -> None:
    """Who corrects the negative to what was done is asked again, and the row goes: 1:1 it stays."""
    given = rows(4)

    def corrects(request) -> dict:
        said = rewritten(request)["instruction"]["en"]
        if "Instead" in text_of(request) and given[0]["instruction_negative"]["en"] in text_of(request):
            wrong, right = (next(c for c in COLOURS if c in given[0][name]["en"].split(" ")[-1])
                            for name in ("instruction_negative", "instruction"))  # fmt: skip
            said = said.replace(wrong, right)
        return {"instruction": {"en": said}}

    talk = Talk(tmp_path, corrects, batch_of(given, **NEGATIVE), kinds="paraphrase", language="en")
    assert [each["id"] for each in talk.rows] == ["r1", "r2", "r3"]
    assert [(reject.id, reject.reason) for reject in talk.rejects] == [("r0", "paraphrase: unparsed")]


def test_the_positive_is_the_text_that_the_negative_was_made_of(tmp_path) -> None:
    detailed = {"en": "Turn the old car by the wall into a red one, with all its doors and both its lamps."}
    negative = {"en": "Turn the old car by the wall into a blue one, with all its doors and both its lamps."}
    texts = []

    def answer(request) -> dict:
        texts.append(re.search(r"^en: (.*)$", text_of(request), re.MULTILINE)[1])
        return {"instruction": {"en": texts[-1].replace("Turn", "Make")}}

    one = row(instruction={"en": "Make the car red."}, instruction_detailed=detailed, instruction_negative=negative)
    other = row(1, instruction={"en": "Make the car red."}, instruction_detailed=detailed,
                instruction_negative={"en": "Make the car blue."})  # fmt: skip
    bare = row(2, instruction_negative=None)
    talk = Talk(tmp_path, answer, batch_of([one, other, bare], **NEGATIVE), kinds="paraphrase", language="en")
    assert sorted(texts) == sorted([
        detailed["en"], negative["en"], "Make the car red.", "Make the car blue.",
    ])  # fmt: skip
    assert talk.rows[2]["instruction"]["en"] == "Make the car red." and talk.rows[2]["instruction_negative"] is None


@pytest.mark.parametrize("kinds", ["perturb,paraphrase", "paraphrase,perturb"])
def test_negatives_of_the_same_run_go_through_it_too(tmp_path, kinds) -> None:
    """In whichever order the kinds are named, no side keeps the words of whoever made it up."""

    def answer(request) -> dict:
        said = text_of(request)
        if "Is every part of that done" in said:
            return {"seen": "no", "done": False}
        if "Here is an instruction" in said:
            return rewritten(request)
        before = re.search(r"^en: (.*)$", said, re.MULTILINE)[1]
        colour = next(each for each in COLOURS if each in before)
        return {"instruction": {"en": before.replace(colour, "purple") + " Instead!"}, "changed": colour}

    given = [{k: v for k, v in each.items() if k not in NEGATIVE} for each in rows(6)]
    talk = Talk(tmp_path, answer, given, kinds=kinds, language="en")
    assert len(talk.rows) == 6 and len({each["perturbation"]["operator"] for each in talk.rows}) > 1
    for each in talk.rows:
        for name in ("instruction", "instruction_negative"):
            assert each[name]["en"].startswith(("would you", "dear friend", "i wish")), name
        assert "purple" in each["instruction_negative"]["en"] and "purple" not in each["instruction"]["en"]
