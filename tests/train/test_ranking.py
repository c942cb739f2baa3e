"""Reward models of pairs: the loss by hand, what the heads are shown, that they learn an order, and that `edit score`
reads what a run leaves.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import encode
from safetensors.torch import load_file
from test_judge import TINY, learn, sample
from tiny_vlm import tiny_model

import edittools
from edittools.errors import EditError, RowError, UsageError
from edittools.nets import editreward, load_edit_model
from edittools.nets.editreward import rao_kupper
from edittools.score.reward_models import Triplet, load_reward_model
from edittools.stream import codec
from edittools.stream.fetch import Fetcher
from edittools.stream.run import RunOptions, open_input
from edittools.train.config import load_recipe
from edittools.train.data import Loader
from edittools.train.replies import ReplyFeatures, ReplyRows, ReplySampler, Taught, load_teacher
from edittools.vlm import EncodedImage

TEXTS = {
    "INSTRUCTION_EDIT_FOLLOWING": "Is it done? {text_prompt}",
    "INSTRUCTION_EDIT_QUALITY": "Good?",
    "prompt_with_special_token": " Say: <|Reward|> now",
}


def test_the_loss_is_the_model_of_ties() -> None:
    """Rao and Kupper 1967 by their worths π = e^r, in float64, and its gradient by finite differences."""
    a, b = torch.randn(2, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    for theta in (1.5, 5.0):
        worth, other = a.exp(), b.exp()
        first, second = worth / (worth + theta * other), other / (other + theta * worth)
        tie = (theta**2 - 1) * worth * other / ((worth + theta * other) * (other + theta * worth))
        assert torch.allclose(first + second + tie, torch.ones_like(tie), atol=1e-14)
        for said, p in ((1.0, first), (0.0, second), (0.5, tie)):
            found = rao_kupper(a - b, torch.full_like(a, said), theta)
            assert torch.allclose(found, -p.log(), rtol=1e-12, atol=1e-12)
            d = (a - b).requires_grad_()
            [gradient] = torch.autograd.grad(rao_kupper(d, torch.full_like(a, said), theta).sum(), d)
            step = 1e-5
            up, down = (rao_kupper(d.detach() + s * step, torch.full_like(a, said), theta) for s in (1, -1))
            assert torch.allclose(gradient, (up - down) / (2 * step), atol=1e-7)
    # rewards far apart: no overflow; equal ones: a tie is likeliest, and its loss least
    far = rao_kupper(torch.tensor([800.0, -800.0]), torch.tensor([1.0, 1.0]), 5.0)
    assert far.tolist() == pytest.approx([0, 800 + np.log(5)])
    d = torch.linspace(-9, 9, 181, dtype=torch.float64)
    assert d[rao_kupper(d, torch.full_like(d, 0.5), 5.0).argmin()].abs() < 1e-9


def pairs(folder: Path, count: int, seed: int = 0) -> Path:
    """Rows whose target is by how much brighter than the source than the rejected one people said; a third are even."""
    random, rows = np.random.default_rng(seed), []
    folder.mkdir(parents=True)
    for k in range(count):
        source = random.integers(20, 90, (1, 1, 3)) + random.integers(-15, 16, (56, 56, 3))
        better, worse = random.integers(0, 5, 2)
        worse = better if k % 3 == 0 else worse
        for name, pixels in (("s", source), ("t", source + 28 * better), ("r", source + 28 * worse)):
            (folder / f"{name}{k}.png").write_bytes(encode(np.clip(pixels, 0, 255).astype(np.uint8), "PNG"))
        rows.append({
            "id": f"{seed}-{k}", "task": "tone", "source": [f"s{k}.png"], "target": f"t{k}.png",
            "rejected": f"r{k}.png", "instruction": {"en": "Make it brighter."},
            "scores": {"editreward_preference": float((better > worse) + 0.5 * (better == worse)),
                       "bright": float(better), "dim": float(worse)},
        })  # fmt: skip
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    edittools.read(str(folder / "rows.jsonl")).write(str(folder / "set"))
    return folder / "set"


@pytest.fixture(scope="module")
def root(tmp_path_factory: Any) -> Path:
    """Weights, texts, rows; images of 4 tokens, that the tests be quick."""
    folder = tmp_path_factory.mktemp("ranking")
    for kind in ("Qwen2_5_VL", "Qwen3_VL"):
        tiny_model(folder / kind, kind)
    (folder / "texts.json").write_text(json.dumps(TEXTS))
    pairs(folder / "pairs", 96)
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(editreward, "PIXELS", 4 * 28 * 28)


def settings(root: Path, **more: Any) -> dict[str, Any]:
    return {**TINY, "model.weights": str(root / "Qwen2_5_VL"), "objective_settings.prompts": str(root / "texts.json"),
            "objective_settings.ratings": None, **more}  # fmt: skip


def opened(root: Path, rows: Path | None = None, **more: Any) -> tuple[Any, ReplyRows, ReplyFeatures]:
    told = {name: value for name, value in settings(root, **more).items() if value is not None}
    recipe = load_recipe("ranking", told)
    model = load_edit_model(recipe.system, recipe.model)
    model.bound_images(28**2, 56**2)
    found = ReplyRows(recipe, open_input([str(rows or root / "pairs/set")], RunOptions()), 10**8)
    return model, found, ReplyFeatures(model, found)


def rank(root: Path, out: Path, kind: str = "Qwen2_5_VL", **more: Any) -> Path:
    """Train, without the settings of the objective `judge`."""
    told: dict[str, Any] = {"objective_settings__prompts": str(root / "texts.json")}
    told |= {"objective_settings__ratings": None, "model__vision_rate": 0.1}
    return learn(root / "pairs/set", out, root / kind, "ranking", **{**told, **more})


def triplets(rows: Path) -> list[tuple[Triplet, Triplet, dict[str, float]]]:
    """Of every row source and target, source and rejected, its scores."""
    found = []
    for row in edittools.read(str(rows)).rows():
        source, target, rejected = (codec.decode(Fetcher().get(each), codec.FULL)
                                    for each in (row["source"][0], row["target"], row["rejected"]))  # fmt: skip
        text = row["instruction"]["en"]
        found.append((Triplet(source, target, text), Triplet(source, rejected, text), row["scores"]))
    return found


@pytest.mark.parametrize("kind", ["Qwen2_5_VL", "Qwen3_VL"])
def test_the_rewards_in_training_are_those_of_edit_score(root, tmp_path, kind) -> None:
    """Pairs of other lengths side by side, of images of other shapes; the checkpoint that a run leaves, by its name."""
    run = rank(root, tmp_path / "run", kind, steps=2, lr=1e-3)
    scorer = load_reward_model("editreward", str(run), str(root / "texts.json"), "cpu", "float32")
    model, rows, given = opened(root, **{"model.weights": str(run)})
    with torch.no_grad():
        batch = model.collate([given(sample(k, "pair")).conditioning for k in range(3)])
        rewards = model.network.rewards(batch)
        losses = model.network(torch.zeros(1), torch.zeros(1), [], batch)
    assert rewards.shape == (3, 2, 2) and batch["preferences"].shape == (3, 2)
    for k, (first, second, scores) in enumerate(triplets(root / "pairs/set")[:3]):
        for which, case in enumerate((first, second)):
            [said] = scorer.score([case])
            heads = [said["editreward_following"], said["editreward_quality"]]
            assert rewards[k, :, which].tolist() == pytest.approx(heads, abs=1e-5)
        differences = rewards[k, :, 0] - rewards[k, :, 1]
        by_hand = rao_kupper(differences, torch.full((2,), scores["editreward_preference"]), 5.0).mean()
        assert losses[k, 0].item() == pytest.approx(by_hand.item(), rel=1e-5)
    # what batches are filled by is what is shown
    sizes = list(rows.sizes())
    counted = [sum(model.image_tokens(*size) for size in each) for [each] in sizes[:3]]
    assert counted == [int((given(sample(k, "pair")).conditioning["kinds"] == 1).sum()) for k in range(3)] == [32] * 3
    assert (run / "vlm" / "config.json").is_file() and not list(run.rglob("*.bin"))
    start, left = load_file(root / kind / "model.safetensors"), load_file(run / "vlm/model.safetensors")
    assert "lm_head.weight" not in left and {name for name in left if name.startswith("rm_heads.")}
    moved = [name for name in start if name in left and start[name].shape == left[name].shape
             and not torch.equal(start[name], left[name])]  # fmt: skip
    assert len(moved) > 30 and any("visual" in name for name in moved)


@pytest.mark.parametrize("kind", ["Qwen2_5_VL", "Qwen3_VL"])
def test_heads_learn_an_order_and_a_run_goes_on(root, tmp_path, kind) -> None:
    """Of rows that were not trained on: the rewards rise with the brightness, ties are told, the mean is `editreward`;
    a run that was interrupted ends bit for bit as one that was not.
    """
    told = {"lr": 3e-3, "steps": 30, "batch_tokens": 256, "warmup": 3, "checkpoint_every": 100}
    run = rank(root, tmp_path / "run", kind, **told)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert np.mean([line["loss"] for line in log[-5:]]) < 0.6 * log[0]["loss"]
    assert np.mean([line["objective"]["right_heads"] for line in log[-5:]]) > 0.65
    scorer = load_reward_model("editreward", str(run), str(root / "texts.json"), "cpu", "float32")
    right = []
    for first, second, scores in triplets(pairs(tmp_path / "held", 24, seed=5)):
        a, b = (each["editreward"] for each in scorer.score([first, second]))
        if scores["editreward_preference"] != 0.5:
            right.append((a > b) == (scores["editreward_preference"] == 1))
        else:
            assert a == pytest.approx(b, abs=1e-5)  # the same image
    assert len(right) > 8 and np.mean(right) >= 0.85


def test_an_interrupted_run_ends_as_one_that_was_not(root, tmp_path) -> None:
    """And held-out pairs: their loss is the mean of what the network says of each."""
    held = pairs(tmp_path / "held", 6, seed=3)
    whole = rank(root, tmp_path / "whole", steps=4, lr=1e-3, checkpoint_every=2, heldout=held)
    rank(root, tmp_path / "run", steps=2, lr=1e-3, checkpoint_every=2)
    parts = rank(root, tmp_path / "run", steps=4, lr=1e-3, checkpoint_every=2)
    first, second = (load_file(out / "vlm/model.safetensors") for out in (whole, parts))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    said = [json.loads(line) for line in (whole / "heldout.jsonl").read_text().splitlines()]
    model, _, given = opened(root, rows=held, **{"model.weights": str(whole)})
    with torch.no_grad():
        batch = model.collate([given(sample(k, "pair")).conditioning for k in range(6)])
        by_hand = model.network(torch.zeros(1), torch.zeros(1), [], batch)[:, 0].mean().item()
    assert [line["rows"] for line in said] == [6, 6, 6] and said[-1]["loss"]["raw"] == pytest.approx(by_hand, rel=1e-4)


# -------------------------------------------------------------------------------------------------- what is taught


def taught(root: Path, scores: list[dict[str, Any]], **given: str) -> list[Any]:
    told = {f"objective_settings.{name}": value for name, value in given.items()}
    teacher = load_teacher(load_recipe("ranking", {"objective_settings.prompts": str(root / "texts.json"), **told}), 9)
    rows = pa.RecordBatch.from_pylist([
        {"id": f"{k}", "source": [{"file": "s"}], "target": {"file": "t"}, "rejected": {"file": "r"},
         "instruction": {"en": "do it"}, "scores": each} for k, each in enumerate(scores)
    ])  # fmt: skip
    teacher.check(rows.schema)
    return teacher.taught(rows)


def test_votes_and_scores_become_preferences(root) -> None:
    votes = [{"editreward_preference": value} for value in (1.0, 0.0, 0.5, None, 0.7)]
    won, lost, tie, none, odd = taught(root, votes)
    assert won == Taught({"pair": "1 1"}, "1 1") and lost.replies == {"pair": "0 0"} and tie.group == "0.5 0.5"
    assert none == "a preference" and isinstance(odd, RowError)
    scores = [{"a": 4.0, "b": 2.0, "p": 0.5}, {"a": 1.0, "b": 2.0, "p": 1.0}, {"a": 2.0, "b": 2.0, "p": 0.0},
              {"a": None, "b": 2.0, "p": 1.0}]  # fmt: skip
    found = taught(root, scores, following="a>b", quality="p")
    assert [each.group for each in found[:3]] == ["1 0.5", "0 1", "0.5 0"] and found[3] == "a preference"
    broken = taught(root, [{"a": math.nan, "b": 2.0}, {"a": 1.0, "b": -math.inf}], following="a>b", quality="a>b")
    assert [isinstance(each, RowError) for each in broken] == [True, True]
    for wrong, words in (({"following": "a>b>c"}, "SCORE>SCORE"), ({"quality": "nobody"}, "no score `nobody`")):
        with pytest.raises(UsageError, match=words):
            taught(root, scores, **{"following": "a>b", "quality": "p", **wrong})


def test_a_qwen3_sees_what_its_own_class_sees(root, tmp_path) -> None:
    """The state at the token of whole messages, one by one, positions by the class itself."""
    from transformers import Qwen3VLForConditionalGeneration

    run = rank(root, tmp_path / "run", "Qwen3_VL", steps=1)
    scorer = load_reward_model("editreward", str(run), str(root / "texts.json"), "cpu", "float32")
    case = triplets(root / "pairs/set")[1][0]
    left = load_file(run / "vlm/model.safetensors")
    plain = Qwen3VLForConditionalGeneration.from_pretrained(run / "vlm", ignore_mismatched_sizes=True)
    [said] = scorer.score([case])
    for k, name in enumerate(("INSTRUCTION_EDIT_FOLLOWING", "INSTRUCTION_EDIT_QUALITY")):
        text = (TEXTS[name] + TEXTS["prompt_with_special_token"]).format(text_prompt=case.instruction)
        shown = [editreward.sized(each, plain.config.vision_config) for each in (case.source, case.result)]
        inputs = editreward.message(scorer.processor, text, shown)
        with torch.no_grad():
            states = plain(**inputs, output_hidden_states=True).hidden_states[-1][0]
            place = inputs["input_ids"][0].tolist().index(scorer.token)
            reward = states[place]
            for part in (0, 2, 4):
                weight, bias = (left[f"rm_heads.head_{k}.{part}.{what}"] for what in ("weight", "bias"))
                reward = weight @ (reward.relu() if part else reward) + bias
        assert said[("editreward_following", "editreward_quality")[k]] == pytest.approx(reward.item(), abs=1e-4)


def test_what_cannot_be_learned_is_one_line(root, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(editreward, "NETWORKS", ("qwen2_5_vl",))  # as a network that is none of them
    (tmp_path / "bad.json").write_text(json.dumps(TEXTS | {"prompt_with_special_token": "no token"}))
    for more, words in (
        ({"objective_settings__prompts": ""}, "names the heads' texts"),
        ({"model__weights": str(root / "Qwen3_VL")}, r"no Qwen2\.5-VL"),
        ({"model__theta": 1.0}, "at 1 there are no ties"),
        ({f"model__{name}_rate": 0 for name in ("vision", "projector", "language", "head")}, "nothing trains"),
        ({"objective_settings__prompts": str(tmp_path / "bad.json")}, "0 times, not once"),
    ):
        with pytest.raises(EditError, match=words):
            rank(root, tmp_path / "run", **more)
    with pytest.raises(UsageError, match='objective `judge` is for `system = "qwen_vl"`'):
        ratings = "rating=bright@0..4"
        learn(root / "pairs/set", tmp_path / "run", root / "Qwen2_5_VL", system="editreward",
              objective_settings__ratings=ratings)  # fmt: skip


def test_an_instruction_that_spells_the_token_is_a_row_that_fails(root) -> None:
    model, _, _ = opened(root)
    image = EncodedImage(encode(np.zeros((56, 56, 3), np.uint8), "PNG"), "image/png")
    parts = [TEXTS["INSTRUCTION_EDIT_QUALITY"] + TEXTS["prompt_with_special_token"], image, image, image]
    assert model.replied(parts, "1")["words"].shape[0] == 2
    with pytest.raises(RowError, match="2 times"):
        model.replied(["Write <|Reward|>." + parts[0], *parts[1:]], "1")


def test_heads_alone_are_trained(root, tmp_path, monkeypatch) -> None:
    frozen = {f"model__{name}_rate": 0 for name in ("vision", "projector", "language")}
    run = rank(root, tmp_path / "run", steps=2, lr=1e-2, checkpointing="full", **frozen)
    start, left = load_file(root / "Qwen2_5_VL/model.safetensors"), load_file(run / "vlm/model.safetensors")
    same = [name for name in start if name in left and start[name].shape == left[name].shape]
    assert len(same) > 30 and all(torch.equal(start[name], left[name]) for name in same)
    new = editreward._new_heads(32, 0)[0].state_dict()
    assert not torch.allclose(left["rm_heads.head_0.0.weight"], new["0.weight"], atol=1e-3)
    # they go on, and the network's weights are not read a second time for them
    monkeypatch.setattr("safetensors.torch.load_file", lambda *_: pytest.fail("the whole file was read"))
    heads = opened(root, **{"model.weights": str(run)})[0].network.rm_heads.state_dict()
    assert len(heads) == 12 and all(torch.equal(value, left[f"rm_heads.{name}"]) for name, value in heads.items())


def test_heads_are_computed_as_edit_score_does(root, monkeypatch) -> None:
    """In float32 on whatever states bfloat16 arithmetic has left."""
    model, _, given = opened(root)
    states: list[torch.Tensor] = []
    looked = editreward.states_at
    monkeypatch.setattr(editreward, "states_at", lambda *a: states.append(looked(*a)) or states[-1])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rewards = model.network.rewards(model.collate([given(sample(k, "pair")).conditioning for k in range(3)]))
    picked = states[0].float().unflatten(0, (3, 2, 2))
    heads = model.network.rm_heads.values()
    with torch.no_grad():
        by_hand = torch.stack([head(picked[:, k])[..., 0] for k, head in enumerate(heads)], 1)
    assert torch.allclose(rewards, by_hand, rtol=1e-6, atol=1e-7)


def test_the_recipe_shows_two_pairs_at_once(root, monkeypatch) -> None:
    monkeypatch.setattr(editreward, "PIXELS", 256 * 28 * 28)
    model, _, _ = opened(root)
    tokens = [8 * model.image_tokens(height, width) for height in range(300, 900, 37) for width in range(300, 900, 41)]
    most = load_recipe("ranking", {"objective_settings.prompts": "-"}).batch_tokens
    assert 2 * max(tokens) <= most + 16 and 3 * min(tokens) > most
    assert np.mean([2 * each <= most for each in tokens]) > 0.99


def test_rows_of_about_as_many_tokens_share_a_batch(root) -> None:
    model, rows, given = opened(root, batch_tokens=128)
    recipe = load_recipe("ranking", {k: v for k, v in settings(root, batch_tokens=128).items() if v is not None})
    sampler = ReplySampler(recipe, rows, model)
    first = next(iter(sampler.steps(0)))
    assert [len(batch) for batch in first] == [4]  # of 32 tokens each
    made = Loader(recipe, sampler, model, given, first=0).load(0, 4, 0, first[0])
    words = sum(int(given(each).conditioning["mask"].sum()) for each in made.samples)
    assert made.text_tokens - made.padding == words, "of all messages about a pair"
