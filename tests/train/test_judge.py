"""Vision-language models that learn to judge: what they are asked and taught, that they learn it, and that a run that
was interrupted ends as one that was not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import encode
from safetensors.torch import load_file
from tiny_captions import drawn, told_right, untrained
from tiny_captions import learn as learn_captions
from tiny_vlm import tiny_model

import edittools
from edittools.caption.config import CaptionConfig
from edittools.caption.kinds.detailed import detailed_schema
from edittools.caption.model_stage import ModelCaptionStage
from edittools.caption.schemas import read_answer
from edittools.errors import EditError, RowError, UsageError
from edittools.judge.rubrics import load_rubric
from edittools.judge.stage import JUDGEMENT, VlmJudgeStage
from edittools.nets import load_edit_model
from edittools.record import IMAGE, PROVENANCE, TEXT
from edittools.rubric.calls import JudgedEdit
from edittools.stream.run import RunOptions, open_input
from edittools.train.bucket_sampler import TrainSample
from edittools.train.config import load_recipe
from edittools.train.console import TrainOptions, train_with_progress
from edittools.train.mixture import row_weights
from edittools.train.rejects import Rejects, Unusable
from edittools.train.replies import ReplyFeatures, ReplyRows, ReplySampler, Taught, load_teacher
from edittools.train.settings import TrainConfig
from edittools.vlm import EncodedImage
from edittools.vlm.backends.local import LocalClient
from edittools.vlm.processing import decode, prompt

KINDS = ["Qwen2_5_VL", "Qwen3VL"]
TINY = {
    "resolution": [28, 56], "batch_tokens": 32, "microbatches": 1, "steps": 6, "schedule": "linear", "warmup": 0,
    "lr": 3e-3, "dtype": "float32", "checkpointing": "none", "checkpoint_every": 3, "log_every": 1,
    "model.vision_rate": 1.0, "model.language_rate": 1.0, "objective_settings.ratings": "rating=human",
}  # fmt: skip


def brighter(folder: Path, count: int, seed: int = 0, **more: Any) -> Path:
    """Rows whose rating, 1 to 5, says by how much the edit has brightened a picture."""
    random, rows = np.random.default_rng(seed), []
    folder.mkdir(parents=True)
    for k in range(count):
        rating = k % 5 + 1
        source = random.integers(20, 90, (1, 1, 3)) + random.integers(-15, 16, (56, 56, 3))
        for name, pixels in (("s", source), ("t", source + 28 * (rating - 1)), ("r", source)):
            data = encode(np.clip(pixels, 0, 255).astype(np.uint8), "PNG")
            (folder / f"{name}{k}.png").write_bytes(data)
        rows.append({"id": f"{seed}-{k}", "task": "tone" if k % 3 else "color", "source": [f"s{k}.png"],
                     "target": f"t{k}.png", "instruction": {"en": "Make it brighter."},
                     "scores": {"human": float(rating), "wide": 10.0 * rating}, **more})  # fmt: skip
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    edittools.read(str(folder / "rows.jsonl")).write(str(folder / "set"))
    return folder / "set"


def learn(
    rows: Path, out: Path, weights: Path, recipe: str = "judge", heldout: Path | None = None, **settings: Any
) -> Path:
    given = {**TINY, "model.weights": str(weights), **{k.replace("__", "."): v for k, v in settings.items()}}
    overrides = tuple(f"{name}={json.dumps(value)}" for name, value in given.items() if value is not None)
    config = TrainConfig(recipe=recipe, overrides=overrides)
    held = None if heldout is None else open_input([str(heldout)], RunOptions())
    asked = TrainOptions(config, str(out), heldout=held, quiet=True)
    train_with_progress(config.load(), open_input([str(rows)], RunOptions()), asked)
    return out


@pytest.fixture(scope="module", params=KINDS)
def weights(request: Any, tmp_path_factory: Any) -> Path:
    return tiny_model(tmp_path_factory.mktemp("vlm") / request.param, request.param)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: Any) -> Path:
    return brighter(tmp_path_factory.mktemp("rated") / "rows", 40)


def judge(rows: Path, model: Path, rubric: str = "rating", **settings: Any) -> list[dict[str, Any]]:
    """What a model says of rows, asked by the stage of `edit judge` with its usual settings."""
    client = LocalClient(str(model), batch_size=20)

    def ask(requests: Any, check: Any) -> Any:
        every = list(requests)
        return iter(list(zip([tag for tag, _ in every], client.answer([request for _, request in every]))))

    stage = VlmJudgeStage(load_rubric(rubric), ask, model="m", endpoint="here", soft=True, **settings)
    return list(edittools.read(str(rows)).pipe(stage).rows())


def features(weights: Path, rows: Path, **settings: Any) -> tuple[Any, ReplyRows, ReplyFeatures]:
    """The architecture, the rows, and what gives their features."""
    recipe = load_recipe("judge", {**TINY, "model.weights": str(weights), **settings})
    model = load_edit_model(recipe.system, recipe.model)
    model.bound_images(28**2, 56**2)
    found = ReplyRows(recipe, open_input([str(rows)], RunOptions()), 10**8)
    return model, found, ReplyFeatures(model, found)


def sample(row: int, name: str) -> TrainSample:
    return TrainSample(row, name, (), ((4, 1),))


@pytest.mark.parametrize("rubric", ["rating", "viescore"])
def test_a_model_is_trained_on_what_it_will_be_asked(weights, rows, rubric) -> None:
    """The tokens and patches of every message are those of the requests of `edit judge` as the local backend shows
    them, and behind them stands what the rubric reads as these numbers, ended as the model ends a reply.
    """
    labels = [label for each in ("SC", "PQ") for label in load_rubric("viescore").labels(each)]
    ratings = "rating=human" if rubric == "rating" else " ".join(f"{label}=wide@10..50" for label in labels)
    told = {"objective_settings.ratings": ratings, "objective_settings.rubric": rubric}
    _, found, given = features(weights, rows, **told)
    client = LocalClient(str(weights), min_pixels=28**2, max_pixels=56**2)
    stage = VlmJudgeStage(load_rubric(rubric), lambda requests, check: iter(()), model="m", endpoint="e")
    asked = list(stage.requests(open_input([str(rows)], RunOptions()), rows=7))
    calls = list(found.replies(0))
    assert len(asked) == 7 * len(calls)
    for number, (request, check) in enumerate(asked):
        row, call = number // len(calls), calls[number % len(calls)]
        read = given(sample(row, call)).conditioning
        images = [decode(part) for part in request.parts if isinstance(part, EncodedImage)]
        shown = client.processor(text=[prompt(client.processor, request.parts)], images=images, return_tensors="pt")
        length = shown["input_ids"].shape[1]
        assert torch.equal(read["words"][:length], shown["input_ids"][0])
        assert torch.equal(read["kinds"][:length], shown["mm_token_type_ids"][0])
        assert torch.equal(read["pixels"], shown["pixel_values"])
        assert torch.equal(read["grids"], shown["image_grid_thw"])
        # nothing is learnt before the reply, and nothing after its end
        assert (read["labels"][:length] == -100).all() and read["words"][-1] == client.ends[0]
        assert torch.equal(read["labels"][length:], read["words"][length:]) and not read["kinds"][length:].any()
        reply = client.processor.tokenizer.decode(read["words"][length:-1])
        check(reply)
        rating = row % 5 + 1
        numbers = {"rating": rating} if rubric == "rating" else dict.fromkeys(load_rubric(rubric).labels(call), 0)
        said = load_rubric(rubric).read(reply, call, JudgedEdit("tone", "", (), b""), {})
        # 10..50 on 0..10: 0, 2.5, 5, 7.5, 10, and a half goes up
        assert said.values == {name: rating if rubric == "rating" else [0, 3, 5, 8, 10][rating - 1] for name in numbers}


def test_the_loss_is_that_of_transformers_and_a_batch_the_mean_of_its_rows(weights, tmp_path) -> None:
    rows = brighter(tmp_path / "rows", 3)
    ratings = "compliance=human naturalness=human coherence=human"
    told = {"objective_settings.rubric": "dimensions", "objective_settings.ratings": ratings}
    model, _, given = features(weights, rows, **told)
    read = [given(sample(k, "judge")).conditioning for k in range(3)]
    assert len({len(each["words"]) for each in read}) > 1  # the tasks have other words: rows are padded

    def losses(*each: Any) -> torch.Tensor:
        with torch.no_grad():
            return model.network(torch.zeros(1), torch.zeros(1), [], model.collate(list(each)))

    for k, each in enumerate(read):
        inputs = {"input_ids": each["words"], "labels": each["labels"], "mm_token_type_ids": each["kinds"]}
        with torch.no_grad():
            theirs = model.network.vlm(**{name: value[None] for name, value in inputs.items()},
                                       pixel_values=each["pixels"], image_grid_thw=each["grids"]).loss  # fmt: skip
        assert losses(each)[0, 0].item() == pytest.approx(theirs.item(), rel=1e-5)
        assert losses(*read)[k, 0].item() == pytest.approx(theirs.item(), rel=1e-5)


def tensors(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model.safetensors")


def test_an_interrupted_run_ends_as_one_that_was_not(weights, rows, tmp_path) -> None:
    """Bit for bit, and lower losses at the end; the model is a checkpoint as it was released, all of it trained."""
    held = brighter(tmp_path / "held", 5, seed=3)
    whole = learn(rows, tmp_path / "whole", weights, heldout=held)
    learn(rows, tmp_path / "run", weights, steps=3)
    parts = learn(rows, tmp_path / "run", weights)
    first, second = tensors(whole / "vlm"), tensors(parts / "vlm")
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    log = [json.loads(line) for line in (parts / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [1, 2, 3, 4, 5, 6] and log[-1]["loss"] < log[0]["loss"] * 0.9
    loss = [json.loads(line)["loss"]["raw"] for line in (whole / "heldout.jsonl").read_text().splitlines()]
    assert len(loss) == 3 and loss[-1] < loss[0] * 0.9  # before, at the checkpoint, at the end
    # the same names as the released file has; every parameter has moved, the vision tower's too
    before = tensors(weights)
    assert before.keys() == first.keys()
    assert not [name for name in before if torch.equal(before[name], first[name])]
    assert not list(parts.rglob("*.bin")) and not list(parts.rglob("*.pt*"))
    for name in ("tokenizer.json", "generation_config.json", "chat_template.jinja"):
        assert (parts / "vlm" / name).read_text() == (weights / name).read_text()
    sizes = json.loads((parts / "vlm" / "preprocessor_config.json").read_text())
    assert sizes["size"] == {"shortest_edge": 784, "longest_edge": 3136}
    assert sizes["processor_class"] == json.loads((weights / "preprocessor_config.json").read_text())["processor_class"]
    judged = judge(held, parts)  # by the run's name alone
    assert all(len(row["judgements"]) == 1 and row["judgements"][0]["reply"] for row in judged)


def test_three_rates(weights, rows, tmp_path) -> None:
    """Adam's first step moves a parameter by its rate, whatever the gradient; a rate of 0 moves nothing."""
    rates = {"model__vision_rate": 0.5, "model__projector_rate": 2.0, "model__language_rate": 0.0}
    out = learn(rows, tmp_path / "run", weights, steps=1, lr=1e-3, weight_decay=0.0, **rates)
    before, after = tensors(weights), tensors(out / "vlm")
    found: dict[str, float] = {}
    for name in before:
        part = "language" if "visual." not in name else "projector" if "merger" in name else "vision"
        found[part] = max(found.get(part, 0.0), (after[name] - before[name]).abs().max().item())
    assert found == {"vision": pytest.approx(5e-4, rel=1e-2), "projector": pytest.approx(2e-3, rel=1e-2), "language": 0}


def test_adapters_are_in_the_weights_at_the_end(weights, rows, tmp_path) -> None:
    told = {"model__lora__rank": 2, "model__lora__targets": ["q_proj", "down_proj"]}
    frozen = {"model__vision_rate": 0.0, "model__projector_rate": 0.0}
    out = learn(rows, tmp_path / "run", weights, "judge-lora", steps=2, **told, **frozen)
    before, after = tensors(weights), tensors(out / "vlm")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys()
    assert moved == {name for name in before if "visual." not in name and ("q_proj.w" in name or "down_proj.w" in name)}
    # what is written replies as what was trained, whatever the adapters are
    model, _, given = features(weights, rows, **{"model.lora.rank": 2})
    random = torch.Generator().manual_seed(0)
    for name, parameter in model.network.named_parameters():
        if "lora_" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=random)
    read = model.collate([given(sample(0, "judge")).conditioning])
    exported = model.exported({name: p.detach() for name, p in model.network.named_parameters()})
    plain = load_edit_model("qwen_vl", {"weights": str(weights)})
    plain.network.load_state_dict(exported, strict=False)
    with torch.no_grad():
        both = [one.network(torch.zeros(1), torch.zeros(1), [], read) for one in (model, plain)]
    assert torch.allclose(*both, rtol=1e-5) and set(exported) == {n for n, _ in plain.network.named_parameters()}


# -------------------------------------------------------------------------------------------------- what is taught


def taught(rows: list[dict[str, Any]], **settings: Any) -> list[Any]:
    recipe = load_recipe("judge", {f"objective_settings.{name}": value for name, value in settings.items()})
    scores = pa.struct([(name, pa.float64()) for name in ("a", "b", "c", "p")])
    types = {
        "id": pa.string(), "task": pa.string(), "source": pa.list_(IMAGE), "target": IMAGE, "rejected": IMAGE,
        "instruction": TEXT, "provenance": PROVENANCE, "scores": scores, "judgements": pa.list_(JUDGEMENT),
    }  # fmt: skip
    made = pa.record_batch([pa.array([row.get(name) for row in rows], kind) for name, kind in types.items()],
                           pa.schema(list(types.items())))  # fmt: skip
    teacher = load_teacher(recipe, 10**8)
    teacher.check(made.schema)
    return teacher.taught(made)


def test_ratings_become_replies() -> None:
    scores = [{"a": 2.0}, {"a": 3.5}, {"a": None}, {"a": 5.5}, {"a": 1.0, "b": 4.0}]
    rows = [{"id": f"r{k}", "scores": each} for k, each in enumerate(scores)]
    first, half, none, off, last = taught(rows, ratings="rating=a")
    assert first == Taught({"judge": "2"}, "2") and half.replies == {"judge": "4"} and none == "a rating"
    assert isinstance(off, RowError) and last.replies == {"judge": "1"}
    # 1..4 on 1..5; the other image of a pair has ratings of its own, where it has some
    rows[4]["rejected"] = {"file": "r.png"}
    both = taught(rows, ratings="rating=a@1..4", rejected_ratings="rating=b@0..4")
    assert [each.replies for each in both[::4]] == [{"judge": "2"}, {"judge": "1", "rejected judge": "5"}]
    assert [each.group for each in both[::4]] == ["2", "1 5"], "a pair of ratings is a cell, not their mean"
    fixed = taught(rows, ratings="rating=5", rejected_ratings="rating=1")
    assert fixed[0].replies == {"judge": "5"}, "there is no image that it would be of"
    with pytest.raises(UsageError, match="every number"):
        taught(rows, ratings="rating=a", rubric="dimensions")
    with pytest.raises(UsageError, match="LABEL=SCORE"):
        taught(rows, ratings="rating")
    with pytest.raises(UsageError, match="no score `x`"):
        taught(rows, ratings="rating=x")


def test_negatives_are_learned_one_to_one(tmp_path) -> None:
    """The target under an instruction that it does not follow, asked as `edit judge` would ask about it; a row without
    one teaches nothing.
    """
    both = brighter(tmp_path / "both", 3, instruction_negative={"en": "Make it darker."})
    without = brighter(tmp_path / "without", 2, 1, instruction_negative=None)
    settings = {"ratings": "rating=5", "negative_ratings": "rating=1"}
    recipe = load_recipe("judge", {f"objective_settings.{name}": value for name, value in settings.items()})
    found = ReplyRows(recipe, open_input([str(both), str(without)], RunOptions()), 10**8)
    assert len(found) == 3 and found.variants == 2 and found.left_out == {"without an instruction_negative": 2}
    for k in range(3):
        assert found.replies(k) == {"judge": "5", "negative judge": "1"}
        good, bad = (list(found.message(k, name)) for name in ("judge", "negative judge"))
        assert good[0].replace("Make it brighter.", "Make it darker.") == bad[0] != good[0]
        assert good[1:] == bad[1:]
    with pytest.raises(UsageError, match="instruction_negative"):
        ReplyRows(recipe, open_input([str(brighter(tmp_path / "none", 2))], RunOptions()), 10**8)
    with pytest.raises(UsageError, match="beside `ratings`"):
        load_teacher(load_recipe("judge", {"objective_settings.negative_ratings": "rating=1"}), 10**8)


def test_preferences_become_replies_in_both_orders() -> None:
    rows = [{"id": f"r{k}", "scores": {"p": p}} for k, p in enumerate((1.0, 0.0, 0.5, None, 0.7))]
    found = taught(rows, rubric="pairwise", preference="p")
    said = [{call: json.loads(reply)["better"] for call, reply in each.replies.items()} for each in found[:3]]
    assert said == [{"forward": 1, "backward": 2}, {"forward": 2, "backward": 1}, {"forward": 0, "backward": 0}]
    assert found[3] == "a preference" and isinstance(found[4], RowError)
    read = load_rubric("pairwise")
    for each, preference in zip(found, (1.0, 0.0, 0.5)):  # the rubric makes the same preference of them
        calls = {call: read.read(reply, call, None, {}).values for call, reply in each.replies.items()}
        assert read.dimensions[0].value(calls) == preference
    with pytest.raises(UsageError, match="preference"):
        taught(rows, rubric="pairwise")


def test_another_judge_is_learned_with_its_reasons_or_without() -> None:
    reply = json.dumps({"rationale": "fine", "compliance": 4, "naturalness": 5, "coherence": 3})
    usual = {"rubric": "dimensions", "judge": None, "dimension": "overall", "state": "ok", "reply": reply, "pass": 0}
    rows = [{"id": "a", "judgements": [usual]}, {"id": "b", "judgements": [{**usual, "state": "unparsed"}]},
            {"id": "c", "judgements": [{**usual, "judge": "other"}]}]  # fmt: skip
    numbers, none, others = taught(rows, rubric="dimensions")
    assert json.loads(numbers.replies["judge"]) == {"compliance": 4, "naturalness": 5, "coherence": 3}
    assert none == others == "a judgement" and numbers.group == "4"
    assert taught(rows, rubric="dimensions", reasons=True)[0].replies == {"judge": reply}
    assert [isinstance(each, Taught) for each in taught(rows, rubric="dimensions", judge="other")] == [
        False,
        False,
        True,
    ]
    two = json.dumps({"SC": '{"success": 7, "preservation": 6}', "PQ": '{"naturalness": 3, "cleanness": 2}'})
    both = [{"id": "a", "judgements": [{**usual, "rubric": "viescore", "reply": two}]}]
    assert [json.loads(reply) for reply in taught(both, rubric="viescore")[0].replies.values()] == [
        {"success": 7, "preservation": 6}, {"naturalness": 3, "cleanness": 2},
    ]  # fmt: skip


def test_a_row_that_the_model_does_not_take_costs_itself_alone(weights, tmp_path) -> None:
    """Too thin an image, a text that spells an image's place; another row, of fewer tokens, stands in for it."""
    folder = brighter(tmp_path / "rows", 6)
    lines = [json.loads(line) for line in (folder.parent / "rows.jsonl").read_text().splitlines()]
    thin = encode(np.full((4, 1000, 3), 90, np.uint8), "PNG")
    for name in ("s0.png", "t0.png"):
        (folder.parent / name).write_bytes(thin)
    lines[1]["instruction"] = {"en": "Make <|image_pad|> brighter."}
    (folder.parent / "odd.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    edittools.read(str(folder.parent / "odd.jsonl")).write(str(tmp_path / "odd"))
    model, found, given = features(weights, tmp_path / "odd")
    for row in range(2):
        with pytest.raises(Unusable):
            given(sample(row, "judge"))
    given(sample(2, "judge"))
    sampler = ReplySampler(load_recipe("judge", {**TINY, "model.weights": str(weights)}), found, model)
    others = list(sampler.alike(0))
    assert sorted(others) == [1, 2, 3, 4, 5], "all the others, although none has as many tokens"


def test_what_cannot_be_learned_is_one_line(rows, tmp_path) -> None:
    weights = tiny_model(tmp_path / "vlm", "Qwen3VL")
    for settings, words in (
        ({"objective_settings__ratings": "rating=nobody"}, "no score `nobody`"),
        ({"objective_settings__ratings": ""}, "no `judgements` column"),
        ({"objective_settings__ratings": "rating=human@0..5..50"}, "LABEL=SCORE@LOW..HIGH"),
        ({"objective_settings__column": "task"}, "`task` holds no images"),
        ({"sample_every": 5}, "sample_every"),
        ({"model__vision_rate": 0.0, "model__projector_rate": 0.0, "model__language_rate": 0.0}, "nothing trains"),
        ({"batch_tokens": 1}, "batch_tokens"),
        ({"balance": "nothing"}, "nothing"),
    ):
        with pytest.raises(EditError, match=words):
            learn(rows, tmp_path / "run", weights, **settings)
        assert not (tmp_path / "run" / "config.json").exists()


def test_cells_of_task_and_rating_are_drawn_equally(weights, rows) -> None:
    _, found, _ = features(weights, rows)
    recipe = load_recipe("judge", TINY)
    groups = [found[k].cluster for k in range(len(found))]
    assert sorted(set(groups)) == sorted(f"{task} {rating}" for task in ("color", "tone") for rating in range(1, 6))
    weight = dict.fromkeys(groups, 0.0)
    for group, each in zip(groups, row_weights(recipe, found)):
        weight[group] += each
    assert list(weight.values()) == pytest.approx([len(found) / 10] * 10)


def test_a_pair_of_ratings_takes_the_room_of_its_larger_message(weights, tmp_path) -> None:
    """Source and target, or source and rejected, whichever has more tokens; all three where one message compares."""
    folder = brighter(tmp_path / "rows", 4).parent
    lines = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    wide = encode(np.full((28, 112, 3), 90, np.uint8), "PNG")
    (folder / "wide.png").write_bytes(wide)
    for line, rejected in zip(lines, ("s0.png", "wide.png", None, "r3.png")):
        line |= {"rejected": rejected, "scores": line["scores"] | {"p": 1.0}}
    lines[3]["target"] = "wide.png"
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    edittools.read(str(folder / "pairs.jsonl")).write(str(tmp_path / "pairs"))
    told = {"objective_settings.rejected_ratings": "rating=1", "resolution": [28, 112]}
    model, found, given = features(weights, tmp_path / "pairs", **told)
    model.bound_images(28**2, 112**2)

    def tokens(row: int, name: str) -> int:
        return int((given(sample(row, name)).conditioning["kinds"] == 1).sum())

    sampler = ReplySampler(load_recipe("judge", {**TINY, "model.weights": str(weights), **told}), found, model)
    room = [int(sampler._tokens[sampler._code[row]]) for row in range(4)]
    most = [max(tokens(row, name) for name in found.replies(row)) for row in range(4)]
    assert [len(found.replies(row)) for row in range(4)] == [2, 2, 1, 2]
    assert all(each <= size for each, size in zip(most, room)) and max(room) == max(most)
    settings = {"objective_settings.rubric": "pairwise", "objective_settings.preference": "p"}
    model, found, given = features(weights, tmp_path / "pairs", **settings, **{"objective_settings.ratings": ""})
    counted = [sum(model.image_tokens(*size) for size in sizes) for [sizes] in found.sizes()]
    assert counted[0] == tokens(0, "forward") == tokens(0, "backward")


# ------------------------------------------------------------------------------------------------------- captions


def test_a_captioner_is_trained_on_what_it_will_be_asked(weights, tmp_path) -> None:
    """Messages are the first requests of `edit caption`, and replies what the kind takes for an answer."""
    change = {"action": "change", "object": "picture", "before": "dark", "after": "bright", "where": "whole image"}
    same = {**change, "after": "dark"}
    rows = brighter(
        tmp_path / "rows", 5, instruction_detailed={"en": "Make the whole picture brighter."}, changes=[change]
    )
    others = brighter(tmp_path / "others", 2, 1, instruction_detailed={"en": "Make it so."}, changes=[same])
    lacking = brighter(tmp_path / "lacking", 2, 2, instruction_detailed=None, changes=[change])
    settings = {"model.weights": str(weights), "resolution": [28, 56]}
    recipe = load_recipe("captioner", settings)
    model = load_edit_model(recipe.system, recipe.model)
    model.bound_images(28**2, 56**2)
    source = open_input([str(rows), str(others), str(lacking)], RunOptions())
    found = ReplyRows(recipe, source, 10**8)
    assert len(found) == 7 and found.left_out == {"without a caption": 2}
    given = ReplyFeatures(model, found)
    stage = ModelCaptionStage(
        CaptionConfig(model="m", kinds="detailed", language="en"), lambda requests, check: iter(())
    )
    asked = [request for _, request in stage.requests(open_input([str(rows)], RunOptions()), 5)]
    for row, request in enumerate(asked):
        parts = found.message(row, "detailed")
        assert tuple(parts) == request.parts
        read = given(sample(row, "detailed")).conditioning
        said = model.processor.tokenizer.decode(read["words"][read["labels"] != -100][:-1])
        answer = read_answer(said, detailed_schema(stage.rows_of(next(source.batches(lambda shard: True)))[0]))
        assert answer["changes"] == [change] and answer["task"] == ("tone" if row % 3 else "color")
    with pytest.raises(Unusable, match="changes nothing"):
        found.message(5, "detailed")
    with pytest.raises(UsageError, match="no columns tell"):
        load_teacher(load_recipe("captioner", {"objective_settings.kind": "classify"}), 10**8)


def test_batches_count_the_parts_of_small_edits(weights, tmp_path) -> None:
    """Tokens of images are those that the model is shown: of rows with a small mask both sides closer, too."""
    change = {"action": "change", "object": "picture", "before": "dark", "after": "bright", "where": "whole image"}
    folder, lines = (
        brighter(tmp_path / "rows", 4, instruction_detailed={"en": "Brighten it."}, changes=[change]).parent,
        [],
    )
    for k, line in enumerate((folder / "rows.jsonl").read_text().splitlines()):
        mask = np.zeros((56, 56), np.uint8)
        mask[10 : 10 + (3, 26, 50)[k % 3], 20:26] = 255
        (folder / f"m{k}.png").write_bytes(encode(mask if k < 3 else np.zeros_like(mask), "PNG"))
        lines.append(json.dumps(json.loads(line) | {"mask": f"m{k}.png"}))
    (folder / "masked.jsonl").write_text("\n".join(lines))
    recipe = load_recipe("captioner", {"model.weights": str(weights), "resolution": [28, 56], "batch_tokens": 64})
    model = load_edit_model(recipe.system, recipe.model)
    model.bound_images(28**2, 56**2)
    found = ReplyRows(recipe, open_input([str(folder / "masked.jsonl")], RunOptions()), 10**8)
    given = ReplyFeatures(model, found)
    counted = [sum(model.image_tokens(*size) for size in sizes) for [sizes] in found.sizes()]
    shown = [int((given(sample(k, "detailed")).conditioning["kinds"] == 1).sum()) for k in range(4)]
    images = [len(given(sample(k, "detailed")).conditioning["grids"]) for k in range(4)]
    assert counted == shown and images == [4, 4, 4, 2]
    # a mask that cannot be read costs its row, as it would later
    (folder / "m0.png").write_bytes(b"no image")
    lines[1] = lines[0].replace("m0.png", "m1.png").replace('"0-0"', '"0-1"')
    (folder / "damaged.jsonl").write_text("\n".join(lines))
    rejects = Rejects("100%")
    assert len(ReplyRows(recipe, open_input([str(folder / "damaged.jsonl")], RunOptions()), 10**8, rejects)) == 3
    assert "0-0" in rejects


def test_a_captioner_learns(rows, tmp_path) -> None:
    change = {"action": "change", "object": "picture", "before": "dark", "after": "bright", "where": "whole image"}
    rows = brighter(tmp_path / "rows", 4, instruction_detailed={"en": "Brighten it."}, changes=[change])
    weights = tiny_model(tmp_path / "vlm", "Qwen3VL")
    settings = {"resolution": [28, 56], "batch_tokens": 4, "microbatches": 1, "steps": 3, "warmup": 0, "lr": 3e-3,
                "dtype": "float32", "log_every": 1, "model.weights": str(weights)}  # fmt: skip
    overrides = tuple(f"{name}={json.dumps(value)}" for name, value in settings.items())
    config = TrainConfig(recipe="captioner", overrides=overrides)
    train_with_progress(
        config.load(), open_input([str(rows)], RunOptions()), TrainOptions(config, str(tmp_path / "run"), quiet=True)
    )
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < log[0]["loss"]
    assert LocalClient(str(tmp_path / "run")).name


@pytest.mark.long
def test_a_captioner_tells_edits_of_new_pictures(tmp_path) -> None:
    """By the exact test of captioners, before and after; what it says is of its own row, so that it has looked."""
    rows = drawn(tmp_path / "train", 832, 1000)
    others = drawn(tmp_path / "heldout", 64, 2000, taught=False)
    start = untrained(tmp_path / "vlm", rows)
    before = told_right(others, start, tmp_path / "before")
    now = told_right(others, learn_captions(rows, tmp_path / "run", start, 500), tmp_path / "now")
    assert before["right"] == 0 and min(now["right"], now["claims"], now["task"]) >= 0.8 and now["shuffled"] <= 0.1
