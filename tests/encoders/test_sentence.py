"""Encoders of sentences: tiny random weights through the real classes, against the networks asked text by text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from edittools.encoders.embedders import load_embedder
from edittools.errors import EditError, UsageError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"remove the cat from sofa make it blue a boat".split()]
TEXTS = ["remove the cat", "make it blue", "a boat", "", "the the the the cat from a blue sofa make it a boat"]


def save(folder: Path, kind: str) -> Path:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": len(WORDS), "max_position_embeddings": 12}
    names = ("dim", "n_layers", "n_heads", "hidden_dim")
    if kind != "DistilBert":
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    made = getattr(transformers, f"{kind}Config")(**sizes, **dict(zip(names, (16, 2, 2, 32))))
    getattr(transformers, f"{kind}Model")(made).save_pretrained(folder)
    transformers.BertTokenizer(vocab={word: k for k, word in enumerate(WORDS)}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["Bert", "DistilBert", "XLMRoberta"])
@pytest.mark.parametrize("first", [False, True])
def test_vectors_are_the_networks_own(tmp_path: Path, kind: str, first: bool) -> None:
    folder = save(tmp_path / "minilm", kind)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_cls_token": first}))
    model = load_embedder(str(folder))
    made = model.texts(TEXTS * 8)  # more than one batch
    assert made.shape == (40, 16) and made.dtype == np.float32
    network = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for text, vector in zip(TEXTS, made):
        tokens = tokenizer(text, truncation=True, max_length=10, return_tensors="pt")
        with torch.inference_mode():
            states = network(input_ids=tokens["input_ids"]).last_hidden_state[0].numpy()
        wanted = states[0] if first else states.mean(axis=0)
        assert vector == pytest.approx(wanted / np.linalg.norm(wanted), abs=1e-5)
    assert np.allclose(made[:5], made[35:], atol=1e-6) and model.texts([]).shape == (0, 16)


def test_it_has_no_vectors_of_images(tmp_path: Path) -> None:
    model = load_embedder(str(save(tmp_path / "minilm", "Bert")))
    with pytest.raises(UsageError, match="a model of texts"):
        model.images([np.zeros((4, 4, 3), np.uint8)])
    for path in (tmp_path / "minilm").glob("*token*"):
        path.unlink()
    with pytest.raises(EditError, match="tokenizer"):
        load_embedder(str(tmp_path / "minilm"))


@pytest.mark.parametrize(
    ("pooling", "modules", "first"),
    [
        ({"embedding_dimension": 16, "pooling_mode": "cls"}, [], True),
        ({"embedding_dimension": 16, "pooling_mode": "mean"}, ["Transformer", "Pooling", "Normalize"], False),
        ({"pooling_mode_max_tokens": True, "pooling_mode_cls_token": False}, [], None),
        ({"pooling_mode": "lasttoken"}, [], None),
        ({"pooling_mode_mean_tokens": True}, ["Transformer", "Pooling", "Dense"], None),
    ],
)
def test_pooling_is_what_the_files_say(
    tmp_path: Path, pooling: dict[str, object], modules: list[str], first: bool | None
) -> None:
    """Both formats of sentence-transformers; what is not the first state or the mean is an error, no other vector."""
    folder = save(tmp_path / "minilm", "Bert")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))
    kinds = [{"type": f"sentence_transformers.models.{kind}"} for kind in modules]
    (folder / "modules.json").write_text(json.dumps(kinds))
    if first is None:
        with pytest.raises(EditError, match="is not known here"):
            load_embedder(str(folder))
        return
    assert load_embedder(str(folder)).first is first  # type: ignore[attr-defined]
