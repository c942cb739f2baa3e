"""The connector of Step1X-Edit against an independent transcription of its equations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import step1x_reference as reference
import torch
from safetensors.torch import load_file, save_file

from edittools.errors import EditError
from edittools.nets.step1x.connector import Connector, ConnectorConfig, sinusoids

OFFICIAL = {  # written down by hand, so that a mistake in the conversion cannot hide here
    "embed": "connector.S.input_embedder",
    "time.0": "connector.S.t_embedder.mlp.0",
    "time.2": "connector.S.t_embedder.mlp.2",
    "context.0": "connector.S.c_embedder.linear_1",
    "context.2": "connector.S.c_embedder.linear_2",
    "norm_attention": "norm1",
    "qkv": "self_attn_qkv",
    "out": "self_attn_proj",
    "norm_mlp": "norm2",
    "mlp.0": "mlp.fc1",
    "mlp.2": "mlp.fc2",
    "gates": "adaLN_modulation.1",
    "pooled": "connector.global_proj_out",
    "quoted_text": "text_token_mapping",
}


def official(name: str) -> str:
    if name == "pooled_scale":
        return "connector.scale_factor"
    layer, _, kind = name.rpartition(".")
    if layer.startswith("blocks."):
        _, block, inner = layer.split(".", 2)
        return f"connector.S.individual_token_refiner.blocks.{block}.{OFFICIAL[inner]}.{kind}"
    return f"{OFFICIAL[layer]}.{kind}"


def config(size: reference.Size) -> ConnectorConfig:
    return ConnectorConfig(
        size.states, size.text, size.text_heads, size.refiners, size.pooled,
        pooled_scale=size.scaled, quoted_text=size.quoted,
    )  # fmt: skip


def make(size: reference.Size, seed: int = 0) -> tuple[Connector, reference.Weights]:
    weights = reference.random_weights(size, seed)
    connector = Connector(config(size))
    connector.load_state_dict({name: weights[official(name)] for name in connector.state_dict()})
    return connector, weights


def batch(size: reference.Size) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three rows of seven states: all valid, padded behind, and valid ones behind an invalid first."""
    generator = torch.Generator().manual_seed(9)
    mask = torch.tensor([[1] * 7, [1, 1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 0, 1]]).bool()
    return torch.randn(3, 7, size.states, generator=generator), torch.tensor([0.0, 0.37, 1.0]), mask


@pytest.mark.parametrize("scaled", [True, False])
def test_equations(scaled: bool) -> None:
    size = reference.Size(scaled=scaled)
    connector, weights = make(size)
    states, t, mask = batch(size)
    text, pooled = connector(states, t, mask)
    assert text.shape == (3, 7, size.text) and pooled.shape == (3, size.pooled)
    for found, expected in zip((text, pooled), reference.connector(weights, size, states, t, mask)):
        assert expected.abs().max() > 1  # there is something to compare
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_every_weight_counts() -> None:
    size = reference.Size(quoted=True)
    states, t, mask = batch(size)
    quoted, where = states.flip(1), torch.tensor([[0, 1, 1, 0, 0, 0, 0]] * 3).bool()
    for name in Connector(config(size)).state_dict():
        connector, weights = make(size)
        before = torch.cat([x.flatten() for x in connector(states, t, mask, quoted, where)])
        shifted = {**weights, official(name): weights[official(name)] + 0.1}
        connector.load_state_dict({own: shifted[official(own)] for own in connector.state_dict()})
        after = torch.cat([x.flatten() for x in connector(states, t, mask, quoted, where)])
        assert (after - before).abs().max() > 1e-4, name
        expected = reference.connector(shifted, size, states, t, mask, quoted, where)
        torch.testing.assert_close(after.double(), torch.cat([x.flatten() for x in expected]), rtol=2e-5, atol=2e-5)


def test_quoted_text() -> None:
    size = reference.Size(scaled=False, quoted=True)
    connector, weights = make(size)
    states, t, mask = batch(size)
    quoted = torch.randn(states.shape, generator=torch.Generator().manual_seed(4))
    where = torch.tensor([[0, 1, 1, 0, 0, 0, 0], [0] * 7, [0, 0, 0, 0, 0, 0, 1]]).bool()
    text, pooled = connector(states, t, mask, quoted, where)
    expected, _ = reference.connector(weights, size, states, t, mask, quoted, where)
    torch.testing.assert_close(text.double(), expected, rtol=1e-5, atol=1e-5)
    plain, same = connector(states, t, mask)
    assert torch.equal(pooled, same)
    assert torch.equal((text != plain).any(-1), where)  # quoted tokens alone change, and row 1 has none
    with pytest.raises(ValueError, match="together"):
        connector(states, t, mask, quoted)
    with pytest.raises(ValueError, match="no branch for quoted"):
        make(reference.TINY)[0](states, t, mask, quoted, where)


def test_what_invalid_states_reach() -> None:
    connector, _ = make(reference.TINY)
    states, t, mask = batch(reference.TINY)
    text, pooled = connector(states, t, mask)
    other = states.clone()
    other[1, 4:] += 5
    changed, same = connector(other, t, mask)
    assert torch.equal(pooled, same)
    assert torch.equal(changed[1, :4], text[1, :4])  # valid tokens do not see them
    assert (changed[1, 4:] != text[1, 4:]).any()  # but they are refined themselves: the transformer reads them
    alone, _ = connector(states[1:2, :4], t[1:2], mask[1:2, :4])
    torch.testing.assert_close(alone[0], text[1, :4], rtol=1e-5, atol=1e-5)
    for given in (None, torch.ones(1, 7, dtype=torch.bool), torch.ones(1, 7, dtype=torch.int64)):
        text_of_all, pooled_of_all = connector(states[:1], t[:1], given)
        torch.testing.assert_close(text_of_all[0], text[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(pooled_of_all[0], pooled[0], rtol=1e-5, atol=1e-5)


def test_a_new_connector() -> None:
    """The gates start at zero: text is the embedding alone, whatever the time. v1.0 starts at 9% of the mean."""
    torch.manual_seed(0)
    connector = Connector(config(reference.TINY))
    states, t, mask = batch(reference.TINY)
    text, pooled = connector(states, t, mask)
    assert torch.equal(text, connector.embed(states)) and torch.equal(text, connector(states, 1 - t, mask)[0])
    mean = torch.stack([row[valid].mean(0) for row, valid in zip(states, mask)])
    torch.testing.assert_close(pooled, 0.09 * mean @ connector.pooled.weight.T + connector.pooled.bias)


def test_sinusoids() -> None:
    found = sinusoids(torch.tensor([0.0, 250.0]))
    assert found.shape == (2, 256) and torch.equal(found[0], torch.tensor([1.0] * 128 + [0.0] * 128))
    # cos 250 and sin 250; the 64th of 128 frequencies is 1/100
    assert found[1, [0, 128, 64, 192]].tolist() == pytest.approx([0.240988, -0.970528, -0.801144, 0.598472], abs=1e-5)


def test_bfloat16_stays_near() -> None:
    """The time is turned into sinusoids in float32 even so: 0.996 and 1 are one number in bfloat16."""
    connector, weights = make(reference.TINY)
    states, t, mask = batch(reference.TINY)
    text, _ = connector.bfloat16()(states.bfloat16(), t, mask)
    expected, _ = reference.connector(weights, reference.TINY, states, t, mask)
    assert text.dtype == torch.bfloat16
    assert (text.double() - expected).norm() < 0.02 * expected.norm()
    near, _ = connector(states.bfloat16(), t - torch.tensor([0, 0, 0.001]), mask)
    assert not torch.equal(near[2], text[2])


def test_full_size() -> None:
    with torch.device("meta"):
        counts = [
            sum(p.numel() for p in Connector(ConnectorConfig(**flags)).parameters())
            for flags in ({"pooled_scale": True}, {}, {"quoted_text": True})
        ]
    assert counts == [536_621_825, 536_621_824, 536_621_824 + 3584 * 4096 + 4096]


def test_saved_and_loaded(tmp_path: Path) -> None:
    connector, _ = make(reference.Size(quoted=True))
    connector.bfloat16().save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "step1x_connector"
    loaded = Connector.load(tmp_path)
    assert loaded.config == connector.config
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == torch.bfloat16 and torch.equal(tensor, connector.state_dict()[name])
    assert all(p.requires_grad for p in loaded.parameters())
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["blocks.1.gates.bias"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(EditError, match="not those of this model"):
        Connector.load(tmp_path)
    for content, said in (
        ('{"model_type": "clip"}', "not that of a step1x_connector"),
        ('{"model_type": "step1x_connector", "widht": 3}', "widht"),
        ('{"model_type": "step1x_connector", "width": 24, "heads": 5}', "no multiple of 5 heads"),
        ('{"model_type": "step1x_connector", "width": "24"}', "not a positive int"),
    ):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(EditError, match=said):
            Connector.load(tmp_path)
