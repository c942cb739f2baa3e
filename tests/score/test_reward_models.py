"""Trained reward models, from tiny random copies of their released layouts: the numbers of their published code."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import Runner, encode, pixels
from PIL import Image
from safetensors.torch import save_file
from tiny_vlm import tiny_model
from torch import nn

import edittools
from edittools.convert import convert
from edittools.errors import EditError, UsageError
from edittools.nets import load_edit_model
from edittools.score.reward_models import Triplet, load_reward_model, reward_model_names
from edittools.score.reward_stage import RewardStage
from edittools.train.config import load_recipe
from edittools.train.rewards import open_rewards

WIDTH = 32
# Words of our own in the places where a checkout of EditReward has its texts.
PROMPTS = """
INSTRUCTION_EDIT_FOLLOWING = "Was it done? {text_prompt} {{yes or no}}"
INSTRUCTION_EDIT_QUALITY = "Is it good?"
"""
COLLATOR = 'prompt_with_special_token = """\\nRate: <|Reward|>\\n\\nEND\\n"""\n'


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "base", "Qwen2_5_VL")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout") / "EditReward" / "dataset"
    folder.mkdir(parents=True)
    (folder / "prompts.py").write_text(PROMPTS)
    (folder / "data_collator_qwen_edit.py").write_text(COLLATOR)
    (folder / "prompt_template.py").write_text('SCORE_LOGIT = "Rate 0 to 5: {prompt} {requirement}"\n')
    return folder.parents[1]


def cases(count: int = 2) -> list[Triplet]:
    words = ["make it red", "把天空变成粉色", "leave it alone"]
    return [Triplet(pixels(k, 60, 84), pixels(9 + k, 84, 60), words[k % 3]) for k in range(count)]


# ---------------------------------------------------------------- EditReward


class Published(nn.Module):
    """The released class as its code says: the base, the vocabulary cut to the tokenizer's with one token more, and two
    heads of three layers."""

    def __init__(self, base: Path) -> None:
        from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil

        super().__init__()
        self.model = Qwen2_5_VLForConditionalGeneration.from_pretrained(base)
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        self.tokenizer.add_tokens(["<|Reward|>"], special_tokens=True)
        self.model.resize_token_embeddings(len(self.tokenizer))
        torch.manual_seed(5)
        with torch.no_grad():
            self.model.get_input_embeddings().weight[-1].normal_()
        self.images = Qwen2VLImageProcessorPil.from_pretrained(base)
        self.rm_heads = nn.ModuleDict()
        for k in range(2):
            self.rm_heads[f"head_{k}"] = nn.Sequential(
                nn.Linear(WIDTH, 1024), nn.ReLU(), nn.Dropout(0.05), nn.Linear(1024, 16), nn.ReLU(), nn.Linear(16, 2)
            )
        self.eval()

    def released(self, names: str) -> dict[str, torch.Tensor]:
        """model.pth as torch.save has it, under the names of transformers before 4.52 or since."""
        made = {}
        for name, tensor in self.model.state_dict().items():
            inner = name.removeprefix("model.")
            if names == "old":
                inner = "model." + inner.removeprefix("language_model.") if inner.startswith("language") else inner
                made[inner] = tensor
            else:
                made[name] = tensor
        return made | {f"rm_heads.{name}": tensor for name, tensor in self.rm_heads.state_dict().items()}

    @torch.no_grad()
    def reward(self, case: Triplet) -> list[list[float]]:
        """Per head the mean and the log deviation: embeddings with the images' scattered in, positions one by one, the
        state at the token, the head; by hand."""
        found = []
        text = PROMPTS.split('"')
        for k, said in enumerate((text[1].format(text_prompt=case.instruction), text[3])):
            shown = []
            for one in (case.source, case.result):
                # 200,704 pixels in patches of 28: 14 x 14 of them of a square, in the proportions of the image
                scale = np.sqrt(256 * 28 * 28 / (one.shape[0] * one.shape[1]))
                down = [np.floor(side * scale / 28) * 28 for side in one.shape[:2]]
                exact = [round(side / 28) * 28 for side in one.shape[:2]]
                up = [np.ceil(side * scale / 28) * 28 for side in one.shape[:2]]
                height, width = up if np.prod(exact) < 256 * 28 * 28 else down
                shown.append(Image.fromarray(one).resize((int(width), int(height))))
            self.images.size = {"shortest_edge": 1, "longest_edge": 1 << 40}
            seen = self.images(shown, return_tensors="pt")
            pads = [int(grid.prod()) // 4 for grid in seen["image_grid_thw"]]
            places = "".join(f"<|vision_start|>{'<|image_pad|>' * pad}<|vision_end|>" for pad in pads)
            ending = "\nRate: <|Reward|>\n\nEND\n"
            prompt = f"<|im_start|>user\n{places}{said}{ending}<|im_end|>\n<|im_start|>assistant\n"
            ids = self.tokenizer(prompt, return_tensors="pt")["input_ids"]
            states = self.model.get_input_embeddings()(ids)
            made = self.model.model.visual(seen["pixel_values"], grid_thw=seen["image_grid_thw"])
            vectors = getattr(made, "pooler_output", made)
            mask = (ids == self.model.config.image_token_id)[..., None].expand_as(states)
            states = states.masked_scatter(mask, torch.cat([*vectors]) if isinstance(vectors, tuple) else vectors)
            length = ids.shape[1]
            out = self.model.model.language_model(
                inputs_embeds=states, position_ids=torch.arange(length).expand(3, 1, length)
            ).last_hidden_state
            at = int((ids[0] == self.tokenizer.convert_tokens_to_ids("<|Reward|>")).nonzero())
            found.append(self.rm_heads[f"head_{k}"](out)[0, at].tolist())
        return found


@pytest.fixture(scope="module")
def published(base: Path) -> Published:
    return Published(base)


def with_base(base: Path, folder: Path) -> Path:
    """The base model's files without its weights, as a user copies them."""
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors*", "generation_config.json"))
    return folder


@pytest.mark.parametrize("names", ["new", "old"])
def test_editreward_is_its_published_number(
    names: str, published: Published, base: Path, checkout: Path, tmp_path: Path
) -> None:
    released = published.released(names)
    torch.save(released, tmp_path / "model.pth")
    save_file({name: tensor.clone() for name, tensor in released.items()}, tmp_path / "model.safetensors")
    folder = with_base(base, tmp_path / "editreward")
    assert convert(tmp_path / ("model.pth" if names == "old" else "model.safetensors"), folder) == "editreward"
    model = load_reward_model("editreward", str(folder), str(checkout), "cpu", "float32")
    for case, scores in zip(cases(), model.score(cases())):
        (following, _), (quality, _) = published.reward(case)
        assert scores is not None
        assert scores["editreward_following"] == pytest.approx(following, abs=1e-4)
        assert scores["editreward_quality"] == pytest.approx(quality, abs=1e-4)
        assert scores["editreward"] == pytest.approx((following + quality) / 2, abs=1e-4)
    # training starts from a release, whose vocabulary is not the one that its config.json says
    recipe = load_recipe("ranking", {"model.weights": str(folder), "objective_settings.prompts": "-"})
    start = load_edit_model(recipe.system, recipe.model).network.rm_heads.state_dict()
    heads = published.rm_heads.state_dict()
    for mine, theirs in ((0, 0), (2, 3), (4, 5)):  # they have dropout
        assert torch.equal(start[f"head_1.{mine}.weight"], heads[f"head_1.{theirs}.weight"])
    first, second = model.score(cases())
    assert abs(first["editreward"] - second["editreward"]) > 1e-3  # type: ignore[index]


def test_editreward_says_what_is_missing(published: Published, base: Path, checkout: Path, tmp_path: Path) -> None:
    torch.save(published.released("new"), tmp_path / "model.pth")
    with pytest.raises(EditError, match=r"config\.json"):
        convert(tmp_path / "model.pth", tmp_path / "empty")
    (tmp_path / "bare").mkdir()
    with pytest.raises(EditError, match=r"no config\.json") as told:  # the release alone
        load_reward_model("editreward", str(tmp_path / "bare"), str(checkout), "cpu", "float32")
    assert "edittools.convert" in told.value.hint
    with pytest.raises(EditError, match="0 heads"):
        load_reward_model("editreward", str(base), str(checkout), "cpu", "float32")
    folder = with_base(base, tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "qwen3_vl"}))
    convert(tmp_path / "model.pth", folder)
    with pytest.raises(EditError, match="a release on qwen3_vl"):
        load_reward_model("editreward", str(folder), str(checkout), "cpu", "float32")


# ---------------------------------------------------------------- UniWorld


def test_uniworld_is_its_published_number(base: Path, checkout: Path) -> None:
    from transformers import Qwen2_5_VLForConditionalGeneration

    from edittools.vlm.processing import load_processor

    model, processor = Qwen2_5_VLForConditionalGeneration.from_pretrained(base), load_processor(str(base))
    found = load_reward_model("uniworld", str(base), str(checkout), "cpu", "float32").score(cases(3))
    for case, scores in zip(cases(3), found):
        said = f"Rate 0 to 5: {case.instruction} "
        place = "<|vision_start|><|image_pad|><|vision_end|>"
        prompt = f"<|im_start|>user\n{place}{place}{said}<|im_end|>\n<|im_start|>assistant\n"
        shown = [Image.fromarray(case.source), Image.fromarray(case.result)]
        inputs = processor(text=[prompt], images=shown, return_tensors="pt")
        out = model.generate(
            **inputs, max_new_tokens=1, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
        tokens = [processor.tokenizer.convert_tokens_to_ids(str(k)) for k in range(6)]
        shares = torch.softmax(out.logits[0][-1, tokens], dim=-1)
        assert scores is not None
        assert scores["uniworld"] == pytest.approx(float((shares * torch.arange(6)).sum()) / 5, abs=1e-4)
        assert 0 < scores["uniworld"] < 1


# ---------------------------------------------------------------- as `edit score` and `edit judge`


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Two cases, and one whose result is cut off."""
    few = cases(2)
    table = pa.table({
        "id": ["a", "b", "bad"],
        "instruction": [{"en": case.instruction} for case in few] + [{"en": "x"}],
        "provenance": [{"path": "a.png"}] * 3,
        "numbers": [{"one": 1.0}] * 3,
        "instruction_negative": [{"en": "undo it"}, {"en": "another"}, {"en": "x"}],
        "source": [[{"bytes": encode(case.source, "PNG"), "path": None}] for case in (*few, few[0])],
        "result": [{"bytes": encode(case.result, "PNG"), "path": None} for case in few]
        + [{"bytes": encode(few[0].result, "PNG")[:90], "path": None}],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


def test_scores_of_rows(base: Path, checkout: Path, rows: Path) -> None:
    """A row's score does not depend on the others; what cannot be read is a reject, and no reward of 0."""
    few = cases(2)
    opened = edittools.read(str(rows))
    told = {"reward_model": "uniworld", "reward_weights": str(base), "prompts": str(checkout)}
    found = {row["id"]: row["scores"]["uniworld"] for row in opened.score(**told).rows()}
    alone = load_reward_model("uniworld", str(base), str(checkout), "cpu", "float32")
    assert found == {k: pytest.approx(alone.score([case])[0]["uniworld"], rel=1e-5) for k, case in zip("ab", few)}
    both = opened.score(**told, judge="a.b").score(**told, column="source", judge="second")  # one beside the other
    assert [sorted(row["scores"]) for row in both.rows()] == [["uniworld__a_b", "uniworld__second"]] * 2
    named = {row["id"]: row["scores"]["uniworld__a_b"] for row in both.rows()}
    assert named == found
    other = opened.score(**told, instruction="instruction_negative").rows()
    negative = dataclasses.replace(few[0], instruction="undo it")
    assert next(iter(other))["scores"]["uniworld"] == pytest.approx(alone.score([negative])[0]["uniworld"], rel=1e-5)
    for name in ("id", "provenance", "numbers"):
        with pytest.raises(UsageError, match=f"`{name}` holds no instructions"):
            list(opened.score(**told, instruction=name).rows())
    with pytest.raises(UsageError, match="letters, digits"):
        opened.score(**told, judge="a b")
    with pytest.raises(UsageError, match="--judge needs --reward-model"):
        opened.score(judge="a")
    for lacking in ("reward_weights", "prompts"):
        with pytest.raises(UsageError, match=re.escape("--" + lacking.replace("_", "-"))):
            opened.score(**{**told, lacking: None})
    with pytest.raises(UsageError, match="--reward-model"):
        opened.score(reward_weights="x")


def test_a_judge_by_its_name_is_that_reward_model(
    base: Path, checkout: Path, rows: Path, tmp_path: Path, edit: Runner
) -> None:
    asked = ("--judge", "uniworld", "--model", base, "--prompts", checkout, "--max-errors", "1")
    edit("judge", rows, *asked, "-o", tmp_path / "judged")
    told = {"reward_model": "uniworld", "reward_weights": str(base), "prompts": str(checkout)}
    wanted = {row["id"]: row["scores"] for row in edittools.read(str(rows)).score(**told).rows()}
    assert {row["id"]: row["scores"] for row in edittools.read(str(tmp_path / "judged")).rows()} == wanted
    # other texts are another result
    other = shutil.copytree(checkout, tmp_path / "other")
    path = other / "EditReward/dataset/prompt_template.py"
    path.write_text(path.read_text().replace("Rate", "Say"))
    again = [other if word is checkout else word for word in asked]
    assert "other settings" in edit("judge", rows, *again, "-o", tmp_path / "judged", check=1).stderr
    # a file may hold what is another judge's
    (tmp_path / "c.toml").write_text("[judge]\nbatch-size = 3\nconcurrency = 2\n")
    edit("judge", rows, *asked, "--config", tmp_path / "c.toml", "-o", tmp_path / "configured")
    for more in (["--concurrency", "3"], ["--soft"], ["--batch-size", "2"]):
        said = edit("judge", rows, *asked, *more, "-o", tmp_path / "other", check=2).stderr
        assert f"{more[0]} changes nothing beside --judge uniworld" in said
    for lacking in ("--model", "--prompts"):
        fewer = [word for k, word in enumerate(asked) if lacking not in (word, asked[k - 1])]
        assert f"--judge uniworld needs {lacking}" in edit("judge", rows, *fewer, check=2).stderr
    said = edit("judge", rows, "--judge", "nobody", "--model", "m", check=2).stderr
    assert "`nobody` is no judge by itself" in said and "editreward, uniworld" in said
    for device in ("nosuch", "meta:x"):
        said = edit("judge", rows, *asked, "--device", device, "-o", tmp_path / "other", check=1).stderr
        assert f"--device {device}: " in said
    # judges that write are asked by the rubric of their name
    echo = ("--model", "m", "--backend", "echo", "--max-errors", "100%", "-n")
    assert b'"rubric": "rating"' in edit("judge", rows, "--judge", "rating", *echo).stdout
    # and as rewards of a run
    by = {"rewards": f"judge --judge uniworld --model {base} --prompts {checkout}", "by": ["uniworld"], "floor": []}
    with open_rewards(by, tmp_path / "run") as rewards:
        (stage,) = rewards.stages
        assert isinstance(stage, RewardStage)
    for more, words in (
        ("--soft", "--soft changes nothing beside --judge uniworld"),
        ("--concurrency 3", "--concurrency changes nothing beside --judge uniworld"),
        ("--rubric rating --ratings r.csv", "--ratings asks nobody"),
    ):
        with pytest.raises(UsageError, match=words):
            open_rewards(by | {"rewards": f"{by['rewards']} {more}"}, tmp_path / "run").__enter__()


def test_every_file_is_a_reward_model() -> None:
    assert reward_model_names() == ("editreward", "uniworld")
