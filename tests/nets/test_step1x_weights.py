"""Step1X-Edit's checkpoints: names and shapes at full size, round trips, and the published equations as the truth."""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import step1x_reference as reference
import torch
from conftest import tree
from diffusers import FluxTransformer2DModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from edittools import convert
from edittools.errors import EditError
from edittools.nets.step1x import weights as step1x_weights
from edittools.nets.step1x.connector import Connector, ConnectorConfig
from edittools.nets.step1x.weights import Entry, Shape, fork_moves, official_moves, open_checkpoint, stacked

# As narrow as a model can be whose heads the official file leaves unsaid, as the release does: 128 numbers each.
NARROW = reference.Size(8, 128, 1, (16, 56, 56), 1, 1, 20, 128, 1, 1, 12)
STOCK = {
    "in_channels": 64, "out_channels": None, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128,
    "num_attention_heads": 24, "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": False,
    "axes_dims_rope": (16, 56, 56),
}  # fmt: skip


def save_official(
    path: Path, size: reference.Size, weights: dict[str, torch.Tensor] | None = None, **more: Any
) -> Path:
    """A file in the official layout; one of another head width says how it is divided, as ours do."""
    metadata = {"axes_dims_rope": json.dumps(size.axes), "connector_heads": str(size.text_heads)}
    weights = weights or reference.random_weights(size)
    save_file({**weights, **more}, path, metadata=metadata if size.axes != (16, 56, 56) else None)
    return path


# ---------------------------------------------------------------- full size


@pytest.mark.parametrize("flags", [{"pooled_scale": True}, {}, {"quoted_text": True}], ids=["v1.0", "v1.1", "v1.2"])
def test_full_size_is_covered_once(flags: dict[str, bool]) -> None:
    with torch.device("meta"):
        transformer, connector = FluxTransformer2DModel(guidance_embeds=False), Connector(ConnectorConfig(**flags))
    ours = {f"transformer.{name}": tuple(t.shape) for name, t in transformer.state_dict().items()}
    ours |= {f"connector.{name}": tuple(t.shape) for name, t in connector.state_dict().items()}
    shape = Shape(STOCK, ConnectorConfig(**flags))
    assert shape.tensors() == ours
    layouts = {"official": official_moves(shape)} | ({} if flags.get("pooled_scale") else {"fork": fork_moves(shape)})
    for moves in layouts.values():
        assert Counter(name for move in moves for name in move.ours) == Counter(list(ours))  # each just once
        assert max(Counter(move.theirs for move in moves).values()) == 1
        for move in moves:
            assert len({ours[name][1:] for name in move.ours}) == 1  # they fit below one another
    full = reference.Size(
        **{**vars(reference.FULL), "scaled": "pooled_scale" in flags, "quoted": "quoted_text" in flags}
    )
    assert {move.theirs: stacked(move, ours)[0] for move in layouts["official"]} == reference.shapes(full)
    assert sum(math.prod(size) for name, size in ours.items() if name.startswith("transformer.")) == 11_891_178_560


def test_the_released_file_to_the_byte() -> None:
    """step1x-edit-i1258.safetensors: 12,427,800,385 parameters in 24,855,692,578 bytes, names and all."""
    shape = Shape(STOCK, ConnectorConfig(pooled_scale=True))
    tensors = shape.tensors()
    entries = [Entry(m.theirs, "BF16", stacked(m, tensors)[0], lambda: iter(())) for m in official_moves(shape)]
    header = io.BytesIO()
    step1x_weights.write_safetensors(header, entries)
    assert sum(math.prod(entry.shape) for entry in entries) == 12_427_800_385 == 11_891_178_560 + 536_621_825
    assert len(header.getvalue()) + sum(entry.size for entry in entries) == 24_855_692_578


def test_the_fork_by_name() -> None:
    """Its embedders are named after the official ones, its connector is the official one, the rest is diffusers'."""
    tensors = Shape(STOCK, ConnectorConfig(quoted_text=True)).tensors()
    names = {move.ours[0]: move.theirs for move in fork_moves(Shape(STOCK, ConnectorConfig(quoted_text=True)))}
    assert names.keys() == tensors.keys()
    other = {ours: theirs for ours, theirs in names.items() if ours != f"transformer.{theirs}"}
    embedders = {ours: theirs for ours, theirs in other.items() if ours.startswith("transformer.")}
    inner = "transformer.time_text_embed."
    assert embedders == {
        f"{inner}{a}.linear_{k}.{kind}": f"{b}_embed.{layer}_layer.{kind}"
        for a, b in (("timestep_embedder", "time"), ("text_embedder", "vec"))
        for k, layer in ((1, "in"), (2, "out"))
        for kind in ("weight", "bias")
    }
    official = {name for name in reference.shapes(reference.FULL) if name.startswith("connector.")}
    connector = {theirs for ours, theirs in names.items() if ours.startswith("connector.")}
    assert connector == official - {"connector.scale_factor"} | {"text_token_mapping.weight", "text_token_mapping.bias"}


# ---------------------------------------------------------------- the equations


def predict(folder: Path, size: reference.Size, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """Our connector and diffusers' own transformer, from a converted folder."""
    transformer, report = FluxTransformer2DModel.from_pretrained(folder / "transformer", output_loading_info=True)
    assert not any(report.values())
    with torch.no_grad():
        text, pooled = Connector.load(folder / "connector")(
            given["states"], given["t"], given["mask"], given.get("quoted"), given.get("quoted_mask")
        )
        return transformer(
            hidden_states=given["tokens"], encoder_hidden_states=text, pooled_projections=pooled, timestep=given["t"],
            txt_ids=given["places"][: text.shape[1]], img_ids=given["places"][text.shape[1] :], return_dict=False,
        )[0]  # fmt: skip


def expect(weights: reference.Weights, size: reference.Size, given: dict[str, torch.Tensor]) -> torch.Tensor:
    quotes = (given.get("quoted"), given.get("quoted_mask"))
    text, pooled = reference.connector(weights, size, given["states"], given["t"], given["mask"], *quotes)
    return reference.transformer(weights, size, given["tokens"], given["places"], given["t"], text, pooled)


def inputs(size: reference.Size) -> dict[str, torch.Tensor]:
    """Two rows: a 2 x 3 image and a reference at shifted places, and five states, of which one row has three."""
    generator = torch.Generator().manual_seed(3)
    image = torch.tensor([[0, y, x] for y in range(2) for x in range(3)])
    given = {
        "states": torch.randn(2, 5, size.states, generator=generator),
        "mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool(),
        "t": torch.tensor([0.31, 0.94]),
        "tokens": torch.randn(2, 12, size.channels, generator=generator),
        "places": torch.cat([torch.zeros(5, 3), image, image + 1]).float(),
    }
    if size.quoted:
        given["quoted"] = torch.randn(2, 5, size.states, generator=generator)
        given["quoted_mask"] = torch.tensor([[0, 1, 1, 0, 0], [0, 0, 1, 0, 0]]).bool()
        given["places"][:5] = torch.tensor([[-5.0 + k, k % 2, k % 3] for k in range(5)])  # v1.2 places text, too
    return given


@pytest.mark.parametrize(
    "size",
    [reference.TINY, reference.Size(scaled=False), reference.Size(scaled=False, quoted=True), NARROW],
    ids=["v1.0", "v1.1", "v1.2", "released heads"],
)
def test_stock_transformer_is_step1x(tmp_path: Path, size: reference.Size) -> None:
    weights, given = reference.random_weights(size), inputs(size)
    step1x_weights.convert(save_official(tmp_path / "o.safetensors", size), tmp_path / "ours")
    found, expected = predict(tmp_path / "ours", size, given), expect(weights, size, given)
    assert 0.5 < expected.std() < 50 and (expected[0] - expected[1]).abs().max() > 0.5
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    given["mask"] = torch.ones_like(given["mask"])
    assert (expect(weights, size, given)[1] - expected[1]).abs().max() > 1e-3  # the padding was a case of its own


def test_every_official_tensor_counts(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """Each tensor changed alone changes the output, and by the same through the conversion as in the equations.

    Every tensor with --long; else every fifth, which has one of each kind of weight and bias."""
    size = reference.Size(double=1, single=1, refiners=1, scaled=True, quoted=True)
    weights, given = reference.random_weights(size), inputs(size)
    before = expect(weights, size, given)
    for k, name in enumerate(weights):
        if k % 5 and not pytestconfig.getoption("--long"):
            continue
        noise = 0.2 * torch.randn(weights[name].shape, generator=torch.Generator().manual_seed(k))
        changed = {**weights, name: weights[name] + noise}
        step1x_weights.convert(save_official(tmp_path / "o.safetensors", size, changed), tmp_path / str(k))
        expected = expect(changed, size, given)
        assert (expected - before).abs().max() > 1e-3, name
        found = predict(tmp_path / str(k), size, given).double()
        torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5, msg=lambda said, name=name: f"{name}: {said}")


# ---------------------------------------------------------------- round trips


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float8_e4m3fn], ids=str)
def test_there_and_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    weights = {name: tensor.to(dtype) for name, tensor in reference.random_weights(NARROW).items()}
    path = save_official(tmp_path / "official.safetensors", NARROW, weights)
    said = step1x_weights.convert(path, tmp_path / "ours")
    assert said == f"step1x (official, 1 + 1 blocks, {sum(t.numel() for t in weights.values()):,} parameters)"
    step1x_weights.convert(tmp_path / "ours", tmp_path / "again.safetensors", "official")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()  # safetensors' own file, to the byte
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.safetensors", "official.safetensors", "ours"]


def test_there_and_back_with_other_heads(tmp_path: Path) -> None:
    """Heads that the shapes do not tell are kept beside the tensors."""
    path = save_official(tmp_path / "o.safetensors", reference.TINY)
    step1x_weights.convert(path, tmp_path / "ours")
    step1x_weights.convert(tmp_path / "ours", tmp_path / "again.safetensors", "official")
    with safe_open(path, "pt") as a, safe_open(tmp_path / "again.safetensors", "pt") as b:
        assert {k: json.loads(v) for k, v in a.metadata().items()} == {
            k: json.loads(v) for k, v in b.metadata().items()
        }
        assert a.keys() == b.keys() and all(torch.equal(a.get_tensor(name), b.get_tensor(name)) for name in a.keys())
    step1x_weights.convert(tmp_path / "again.safetensors", tmp_path / "ours again")
    assert tree(tmp_path / "ours again") == tree(tmp_path / "ours")
    save_file(load_file(path), path)
    with pytest.raises(EditError, match="does not say how they are divided"):
        step1x_weights.convert(path, tmp_path / "new")


@pytest.mark.parametrize("quoted", [False, True], ids=["v1.1", "v1.2"])
def test_the_fork_there_and_back(tmp_path: Path, quoted: bool) -> None:
    size = reference.Size(**{**vars(NARROW), "scaled": False, "quoted": quoted})
    weights = reference.random_weights(size)
    path = save_official(tmp_path / "o.safetensors", size, weights)
    step1x_weights.convert(path, tmp_path / "fork", "fork")
    config = json.loads((tmp_path / "fork/transformer/config.json").read_text())
    assert config["_class_name"] == "Step1XEditTransformer2DModel" and config["enable_text_token_mapping"] is quoted
    assert (config["connector_hidden_size"], config["connector_in_channels"], config["vector_in_dim"]) == (128, 20, 12)
    tensors = load_file(tmp_path / "fork/transformer/diffusion_pytorch_model.safetensors")
    assert torch.equal(tensors["time_embed.in_layer.weight"], weights["time_in.in_layer.weight"])
    shift, scale = weights["final_layer.adaLN_modulation.1.bias"].chunk(2)
    assert torch.equal(tensors["norm_out.linear.bias"], torch.cat([scale, shift]))
    kept = {name for name in weights if name.startswith(("connector.", "text_token_mapping."))}
    assert all(torch.equal(tensors[name], weights[name]) for name in kept)
    for k, source in enumerate((tmp_path / "fork", tmp_path / "fork/transformer")):
        step1x_weights.convert(source, tmp_path / f"ours{k}")
    assert tree(tmp_path / "ours0") == tree(tmp_path / "ours1")
    step1x_weights.convert(path, tmp_path / "ours2")
    assert tree(tmp_path / "ours0") == tree(tmp_path / "ours2")
    step1x_weights.convert(tmp_path / "ours0", tmp_path / "fork again", "fork")
    assert tree(tmp_path / "fork again") == tree(tmp_path / "fork")
    step1x_weights.convert(tmp_path / "fork", tmp_path / "again.safetensors", "official")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("shard", ["10GB", 40_000])
def test_shards_are_those_of_diffusers(tmp_path: Path, shard: int | str) -> None:
    with open_checkpoint(save_official(tmp_path / "o.safetensors", reference.TINY)) as checkpoint:
        step1x_weights.save_ours(checkpoint, tmp_path / "ours", shard)
    network = FluxTransformer2DModel.from_pretrained(tmp_path / "ours/transformer")
    network.save_pretrained(tmp_path / "theirs", max_shard_size=shard)
    ours, theirs = tree(tmp_path / "ours/transformer"), tree(tmp_path / "theirs")
    assert len(ours) == (2 if shard == "10GB" else len(theirs)) and (len(ours) > 4) is (shard != "10GB")
    del ours["config.json"], theirs["config.json"]
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("ours/transformer", "theirs")]
    configs[1].pop("_name_or_path", None)
    assert configs[0] == configs[1]
    assert ours == theirs
    step1x_weights.convert(tmp_path / "ours", tmp_path / "again.safetensors", "official")  # shards are read, too
    assert all(
        torch.equal(tensor, load_file(tmp_path / "o.safetensors")[name])
        for name, tensor in load_file(tmp_path / "again.safetensors").items()
    )


# ---------------------------------------------------------------- what cannot be converted


def test_tensors_that_do_not_fit(tmp_path: Path) -> None:
    weights, path = reference.random_weights(reference.TINY), tmp_path / "o.safetensors"
    name = "single_blocks.1.linear1.bias"
    for changed, said in (
        ({n: t for n, t in weights.items() if n != name}, f"the tensor {name} is missing"),
        (
            {n: t for n, t in weights.items() if not n.startswith("double_blocks.0.img_mlp.0")},
            r"the tensor double_blocks.0.img_mlp.0.weight is missing \(and 1 more\)",
        ),
        ({**weights, "single_blocks.1.extra": torch.zeros(1)}, "the tensor single_blocks.1.extra is not of this model"),
        ({**weights, name: torch.zeros(7)}, rf"the tensor {name} has the wrong shape, \(7,\) for \(224,\)"),
        ({**weights, name: torch.zeros(224, dtype=torch.int64)}, f"the tensor {name} is not of floating-point numbers"),
        ({n: t for n, t in weights.items() if n != "txt_in.weight"}, "the tensor txt_in.weight is missing"),
        ({**weights, "txt_in.weight": torch.zeros(())}, "the tensor txt_in.weight is missing or has too few axes"),
        ({"a": torch.zeros(1)}, "no checkpoint of Step1X-Edit"),
    ):
        save_official(path, reference.TINY, changed)
        with pytest.raises(EditError, match=said) as caught:
            step1x_weights.convert(path, tmp_path / "out")
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()
    for content in (b"", b"junk that is no header", path.read_bytes()[:-1]):
        path.write_bytes(content)
        with pytest.raises(EditError, match="not a safetensors file"):
            step1x_weights.convert(path, tmp_path / "out")


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    step1x_weights.convert(save_official(tmp_path / "o.safetensors", reference.TINY), tmp_path / "ours")
    ours, out = tmp_path / "ours", tmp_path / "out.safetensors"

    def refused(said: str, layout: str = "official", source: Path = ours) -> None:
        with pytest.raises(EditError, match=said) as caught:
            step1x_weights.convert(source, out, layout)
        assert "\n" not in str(caught.value) and not out.exists()

    refused("is in the layout `ours` already", "ours")
    refused("the diffusers fork cannot hold a v1.0 connector", "fork")
    config = ours / "transformer/config.json"
    kept = config.read_text()
    for change, said in (
        ({"_class_name": "QwenImageTransformer2DModel"}, "not that of a FluxTransformer2DModel"),
        ({"guidance_embeds": True}, "guidance_embeds"),
        ({"num_layers": 3}, "the tensor transformer.transformer_blocks.2.*is missing"),
        ({"num_layers": 1}, "the tensor transformer.transformer_blocks.1.*is not of this model"),
        ({"num_layers": "2"}, "no possible configuration"),
        ({"axes_dims_rope": [4, 4, 4]}, "do not add up to 16"),
        ({"joint_attention_dim": 23}, "transformer.context_embedder.weight has the wrong shape"),
    ):
        config.write_text(json.dumps({**json.loads(kept), **change}))
        refused(said)
    config.write_text(kept)
    path = ours / "transformer/diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "transformer_blocks.0.attn.to_k.bias": torch.zeros(32).bfloat16()}, path)
    refused("to_v.bias become one tensor, but are BF16 and F32")
    save_file(tensors, path)
    save_file({"proj_out.bias": tensors["proj_out.bias"]}, path.with_name("other.safetensors"))
    refused("proj_out.bias is in another file of the folder, too")
    path.with_name("other.safetensors").unlink()
    path.unlink()
    refused("transformer: no safetensors")
    refused("absent: no such file or folder", source=tmp_path / "absent")


def test_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save_official(tmp_path / "o.safetensors", reference.TINY)
    (tmp_path / "out/vae").mkdir(parents=True)
    read = step1x_weights.Checkpoint.read

    def fail(self: step1x_weights.Checkpoint, name: str) -> torch.Tensor:
        if name == "connector.pooled.bias":
            raise OSError(28, "No space left on device")
        return read(self, name)

    monkeypatch.setattr(step1x_weights.Checkpoint, "read", fail)
    with pytest.raises(EditError, match=r"out.*: cannot be written: No space left"):
        step1x_weights.convert(source, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["vae"]
    monkeypatch.undo()
    step1x_weights.convert(source, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["connector", "edit.json", "transformer", "vae"]
    before = tree(tmp_path / "out")
    with pytest.raises(EditError, match="out/connector is there already"):
        step1x_weights.convert(source, tmp_path / "out")
    assert tree(tmp_path / "out") == before
    monkeypatch.setattr(step1x_weights.Checkpoint, "read", fail)
    with pytest.raises(EditError, match="cannot be written"):
        step1x_weights.convert(tmp_path / "out", tmp_path / "again.safetensors", "official")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o.safetensors", "out"]


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = reference.Size(scaled=False)
    source = save_official(tmp_path / "o.safetensors", size)
    count = sum(t.numel() for t in reference.random_weights(size).values())
    assert convert.main([str(source), str(tmp_path / "ours")]) == 0
    assert capsys.readouterr().err == (
        f"step1x (official, 2 + 2 blocks, {count:,} parameters): {tmp_path}/ours\n"
        "hint: to train or sample it also needs vae/, text_encoder/, processor/: --vae, --language-model\n"
    )
    assert convert.main([str(tmp_path / "ours"), str(tmp_path / "fork"), "--to", "fork"]) == 0
    assert convert.main([str(tmp_path / "fork"), str(tmp_path / "a.safetensors"), "--to", "official"]) == 0
    assert load_file(tmp_path / "a.safetensors").keys() == load_file(source).keys()
    capsys.readouterr()
    assert convert.main([str(source), str(tmp_path / "ours")]) == 1
    assert capsys.readouterr().err == (
        f"convert: {tmp_path}/ours/connector is there already\nhint: give another folder, or move it away\n"
    )
    assert convert.main([str(tmp_path / "ours"), str(tmp_path / "fork"), "--to", "official"]) == 1  # a folder is there
    assert "fork: cannot be written" in capsys.readouterr().err
    assert convert.main([str(source), str(tmp_path / "x"), "--to", "else"]) == 2
    torch.save({"layers.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    assert convert.main([str(tmp_path / "other.pth"), str(tmp_path / "x"), "--to", "official"]) == 1


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2"])
def test_a_converted_folder_says_its_version_and_has_its_encoders(tmp_path: Path, version: str) -> None:
    """From the released file and the folders of its encoders to a model that loads."""
    from tiny_architectures import save_step1x

    from edittools.nets import load_edit_model

    folder, dropped = save_step1x(tmp_path / "source", version)
    convert.convert(folder, tmp_path / "official.safetensors", "official")
    # Qwen2.5-VL as it is published: weights and processor in one folder
    language_model = tmp_path / "Qwen2.5-VL"
    language_model.mkdir()
    for part in ("text_encoder", "processor"):
        for path in (folder / part).iterdir():
            (language_model / path.name).write_bytes(path.read_bytes())
    made = tmp_path / "made"
    convert.convert(tmp_path / "official.safetensors", made)
    assert step1x_weights.missing_encoders(made) == ["vae", "text_encoder", "processor"]
    assert json.loads((made / "edit.json").read_text()) == {"system": "step1x", "version": version}
    with pytest.raises(EditError, match="vae/, text_encoder/, processor/ are missing") as caught:
        load_edit_model("step1x", {"weights": str(made), "dropped": dropped})
    assert "--language-model" in str(caught.value.hint)
    whole = tmp_path / "whole"
    encoders = {"vae": folder / "vae", "text_encoder": language_model}
    convert.convert(tmp_path / "official.safetensors", whole, given=encoders)
    assert step1x_weights.missing_encoders(whole) == []
    load_edit_model("step1x", {"weights": str(whole), "dropped": dropped})
    with pytest.raises(EditError, match="not the folder of a vae"):
        convert.convert(tmp_path / "official.safetensors", tmp_path / "other", given={"vae": tmp_path})
