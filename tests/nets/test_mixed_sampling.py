"""FLUX.2 and Qwen-Image-2.1 through `edit sample`: candidates, dialogues, adapters, offloading, 8 bits."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import encode, pixels, rejects_of, rows_of
from PIL import Image
from test_mixed_references import MIXED, batch_of, models, requests, short_texts, system_of  # noqa: F401
from test_sample import apart, image, unrounded
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import edittools
from edittools.errors import UsageError
from edittools.nets import load_edit_model
from edittools.nets.acceleration import MODULATION
from edittools.nets.editor import EditRequest
from edittools.nets.load import load_editor
from edittools.nets.lora import _targets, save_adapters
from edittools.nets.lora_files import Adapter, modules_of
from edittools.sample.stage import row_seed, turn_identity
from edittools.stream import codec


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A row from text alone, one of two sources, a dialogue, a row with a damaged source, one with too many."""
    folder = tmp_path_factory.mktemp("rows")
    for k in range(3):
        (folder / f"{k}.png").write_bytes(encode(pixels(k, 64, 64 + 32 * k), "PNG"))
    (folder / "bad.png").write_bytes(encode(pixels(9), "PNG")[:90])
    turns = [{"parent": -1, "instruction": {"en": "invert"}}, {"parent": 0, "instruction": {"en": "paint it"}}]
    made = [
        {"id": "text", "source": [], "caption": {"en": "a red kite"}},
        {"id": "two", "source": ["1.png", "0.png"], "instruction": {"en": "both"}},
        {"id": "talk", "source": ["0.png"], "turns": turns},
        {"id": "bad", "source": ["0.png", "bad.png"], "instruction": {"en": "x"}},
        {"id": "many", "source": ["0.png"] * 11, "instruction": {"en": "x"}},
    ]
    usual: dict[str, Any] = {"instruction": {}, "caption": {}, "turns": []}
    (folder / "rows.jsonl").write_text("".join(json.dumps({**usual, **row}) + "\n" for row in made))
    edittools.read(str(folder / "rows.jsonl")).write(str(folder / "set"))
    return folder / "set"


@pytest.fixture
def adapter(models, tmp_path):  # noqa: F811
    """Random adapters on the attention of a model, as a file."""

    def save(kind: str) -> str:
        network = load_edit_model(system_of(kind), {"weights": str(models(kind))}, encoders=False).network.transformer
        sizes, random = modules_of(network), torch.Generator().manual_seed(0)
        found = {
            name: Adapter({"down": torch.randn(2, sizes[name][1], generator=random),
                           "up": torch.randn(sizes[name][0], 2, generator=random)}, 1.0)
            for name in _targets(network, ["attention"])
        }  # fmt: skip
        save_adapters(found, network, tmp_path, "comfyui", torch.float32)
        return str(next(tmp_path.glob("*.safetensors")))

    return save


def opened(data: bytes) -> np.ndarray:
    import io

    return np.asarray(Image.open(io.BytesIO(data)))


def near(a: np.ndarray, b: np.ndarray) -> bool:
    """To a level of rounding."""
    return a.shape == b.shape and int(np.abs(a.astype(int) - b).max()) <= 1


@pytest.mark.parametrize("kind", ["distilled", "qwen21"])
def test_candidates_dialogues_and_adapters(models, rows, adapter, kind, tmp_path):  # noqa: F811
    """Every image is what the editor makes of that row with that seed; the next turn sees a result's alpha."""
    lora = adapter(kind)
    given = {"steps": 2, "resolution": 64}
    made = edittools.read(str(rows)).sample(str(models(kind)), candidates=2, seed=5, lora=(f"{lora}:0.5",), **given)
    made.write(str(tmp_path / "out"), max_errors="50%")
    found = {row["id"]: row for row in rows_of(tmp_path / "out")}
    assert list(found) == [f"{name}-c{k}" for name in ("text", "two", "talk") for k in range(2)]
    why = {reject["id"]: json.dumps(reject) for reject in rejects_of(tmp_path / "out")}
    assert why.keys() == {"bad", "many"} and "the model takes" in why["many"]
    editor = load_editor(str(models(kind)), lora=(f"{lora}:0.5",), **given)
    plain = load_editor(str(models(kind)), **given)
    small, wide = (codec.decode(encode(pixels(k, 64, 64 + 32 * k), "PNG"), codec.FULL) for k in range(2))
    for k in range(2):
        asked = {"text": ([], "a red kite"), "two": ([wide, small], "both"), "talk": ([small], "invert")}
        for name, (sources, text) in asked.items():
            seed = row_seed(5 + k, turn_identity(name, 1) if name == "talk" else name)
            request = EditRequest(sources, text, seed)
            [expected], [without] = editor.edit([request]), plain.edit([request])
            row = found[f"{name}-c{k}"]
            first = opened(row["result_turns"][0] if name == "talk" else row["result"])
            assert first.shape[2] == (4 if kind == "qwen21" else 3) and near(first, expected), name
            assert not near(first, without)
        [second] = editor.edit([EditRequest([first], "paint it", row_seed(5 + k, turn_identity("talk", 2)))])
        assert near(opened(found[f"talk-c{k}"]["result"]), second)


@pytest.mark.parametrize("kind", ["base", "kv", "qwen21"])
def test_weights_that_are_fetched_block_by_block_change_nothing(models, kind):  # noqa: F811
    """As `--offload` has it: and what is kept of references is still kept, by torch's count of the work."""
    given, works, found = requests(MIXED), [], []
    for offload in (False, True):
        editor = load_editor(str(models(kind)), steps=3, resolution=96)
        if offload:
            editor.offload = True
            editor.edit_model.network.transformer.enable_group_offload(
                torch.device("cpu"), torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1
            )
        prepared = list(editor.prepared(given))
        with FlopCounterMode(display=False) as counter:
            found.append(editor.sample(prepared))
        works.append(counter.get_total_flops())
    assert works[0] == works[1]
    assert torch.equal(*found)


@pytest.mark.parametrize("kind", ["dev", "base", "kv", "qwen21"])
def test_what_scales_all_tokens_is_not_rounded_to_eight_bits(models, kind):  # noqa: F811
    """Every layer that sees one token per row is one that diffusers is told to leave alone, and no other is."""
    _, edit_model, _, _, batch = batch_of(kind, models(kind))
    alone, others = set(), set()
    for name, module in edit_model.network.transformer.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(
                lambda _, given, name=name: (alone if given[0].ndim == 2 else others).add(name)
            )
    with torch.no_grad():
        edit_model.network(batch.target, batch.t, batch.references, batch.conditioning)
    # as TorchAoHfQuantizer.check_if_quantized_param() decides
    left = {name for name in alone | others if any(f"{word}." in f"{name}.weight" for word in MODULATION)}
    assert alone and left == alone


@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="needs torchao")
@pytest.mark.parametrize("kind", ["base", "kv", "qwen21"])
def test_int8_is_near_and_rows_stay_independent(models, kind):  # noqa: F811
    exact, editor = (load_editor(str(models(kind)), steps=2, resolution=96, quantize=how) for how in (None, "int8"))
    linear = editor.edit_model.network.transformer.transformer_blocks[0].attn.to_q
    assert type(linear.weight).__name__ != "Parameter"
    given = requests(MIXED)
    plain, rough = unrounded(exact, given, 4), unrounded(editor, given, 4)
    assert 1e-5 < apart(plain, rough)
    assert max((a - b).abs().mean().item() for a, b in zip(plain, rough)) < 0.02
    # what lies between two of the 256 levels goes one way or the other
    assert max((a - b).abs().mean().item() for a, b in zip(unrounded(editor, given, 1), rough)) < 0.01


@pytest.mark.parametrize("kind", ["base", "qwen21"])
def test_cached_steps_that_diffusers_has_not_are_refused(models, kind):  # noqa: F811
    """Before the first image: FLUX.2's would end in the middle of it, by diffusers' own pipeline too."""
    with pytest.raises(UsageError, match=r"diffusers has none for a .*Transformer"):
        load_editor(str(models(kind)), cache="first-block")


def test_rows_are_sampled_in_bfloat16(models):  # noqa: F811
    """Times are as exact as the stock pipeline has them; results are near."""
    for kind in ("base", "qwen21"):
        found = [load_editor(str(models(kind)), dtype=dtype, steps=2, resolution=64).edit(
            [EditRequest([image(0, 64, 64)], "x", 0)])[0].astype(int) for dtype in ("float32", "bfloat16")]  # fmt: skip
        assert np.abs(found[0] - found[1]).mean() < 3
