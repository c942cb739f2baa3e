"""Files of adapters: every spelling read and written, with the right scale, or refused."""

import itertools
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_architectures import FLUX, QWEN

from edittools.errors import EditError, UsageError
from edittools.nets.lora import add_adapters, add_lora, convert, save_adapters, split_parameter, trained_adapters
from edittools.nets.lora_files import FILES, FORMATS, Adapter, modules_of, read_adapters

R = 3


def network(name):
    from diffusers import FluxTransformer2DModel, QwenImageTransformer2DModel

    torch.manual_seed(0)
    if name == "qwen":
        return QwenImageTransformer2DModel(**QWEN)
    return FluxTransformer2DModel(**{**FLUX, "guidance_embeds": True})


CHOSEN = {
    "qwen": [
        "transformer_blocks.0.attn.to_q", "transformer_blocks.1.attn.to_out.0", "transformer_blocks.1.img_mlp.net.2",
    ],
    "flux": [
        "transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.to_k", "transformer_blocks.0.attn.to_v",
        "transformer_blocks.0.attn.to_add_out", "single_transformer_blocks.0.attn.to_q",
        "single_transformer_blocks.0.attn.to_k", "single_transformer_blocks.0.attn.to_v",
        "single_transformer_blocks.0.proj_mlp", "single_transformer_blocks.0.proj_out", "norm_out.linear",
    ],
}  # fmt: skip


def made(kind, modules, chosen, seed=0, dtype=torch.float32, scale=1.5):
    """An adapter for each chosen module, all different."""
    random = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=random).to(dtype)

    adapters = {}
    for name in chosen:
        out, inner = modules[name]
        if kind == "lokr":
            tensors = {"w1": draw(4, 2), "w2_a": draw(out // 4, R), "w2_b": draw(R, inner // 2)}
        elif kind == "whole lokr":
            tensors = {"w1": draw(2, 4), "w2": draw(out // 2, inner // 4)}
        else:
            tensors = {"down": draw(R, inner), "up": draw(out, R)}
        if kind == "dora":
            tensors["magnitude"] = 1 + draw(out, 1).abs()
        adapters[name] = Adapter(tensors, scale)
    return adapters


def expected(net, adapters, strength=1.0):
    """Weights with adapters, by the formulas of the papers, in float64."""
    found = {}
    for name, adapter in adapters.items():
        t = {k: v.double() for k, v in adapter.tensors.items()}
        w = net.get_submodule(name).weight.detach().double()
        if "up" in t:
            delta = sum(torch.outer(t["up"][:, r], t["down"][r]) for r in range(len(t["down"])))
        else:
            w1, w2 = t["w1"], t["w2"] if "w2" in t else t["w2_a"] @ t["w2_b"]
            delta = (w1[:, None, :, None] * w2[None, :, None, :]).reshape(w.shape)
        delta = delta * adapter.scale
        adapted = w + delta
        if "magnitude" in t:
            adapted = t["magnitude"] * adapted / adapted.square().sum(1, keepdim=True).sqrt()
        found[name] = w + strength * (adapted - w)
    return found


def check(net, wanted, atol=1e-4):
    fresh = network("qwen" if "Qwen" in type(net).__name__ else "flux")
    for name, module in fresh.named_modules():
        if isinstance(module, torch.nn.Linear):
            target = wanted.get(name, module.weight.detach().double())
            assert torch.allclose(net.get_submodule(name).weight.double(), target, atol=atol), name


TABLE = [
    (spelling, architecture, kind)
    for spelling, architecture, kind in itertools.product(
        FORMATS, ("qwen", "flux"), ("lora", "dora", "lokr", "whole lokr")
    )
    if not (architecture == "flux" and "lokr" in kind and spelling in ("kohya", "comfyui"))
]


@pytest.mark.parametrize(("spelling", "architecture", "kind"), TABLE)
def test_what_is_written_is_read_with_the_same_effect(spelling, architecture, kind, tmp_path):
    """The round trip, scale 1.5: written, read, merged at strength 0.5, against the papers' formulas."""
    net = network(architecture)
    adapters = made(kind, modules_of(net), CHOSEN[architecture])
    save_adapters(adapters, net, tmp_path, spelling, torch.float32)
    wanted = expected(net, adapters, 0.5)
    add_adapters({"transformer": net}, [f"{tmp_path}:0.5"], merge=True)
    check(net, wanted)


@pytest.mark.parametrize("spelling", ["kohya", "comfyui"])
def test_what_released_names_cannot_join_is_said(spelling, tmp_path):
    net = network("flux")
    adapters = made("lokr", modules_of(net), CHOSEN["flux"])
    with pytest.raises(UsageError, match="cannot be joined") as caught:
        save_adapters(adapters, net, tmp_path, spelling, torch.float32)
    assert "diffusers or peft" in caught.value.hint


def test_a_part_of_a_joint_module_is_written_under_released_names(tmp_path):
    """Only q and v: k of the joint module stays as it is."""
    net = network("flux")
    chosen = [
        "transformer_blocks.0.attn.to_q",
        "transformer_blocks.0.attn.to_v",
        "single_transformer_blocks.0.attn.to_k",
    ]
    adapters = made("lora", modules_of(net), chosen)
    save_adapters(adapters, net, tmp_path, "kohya", torch.float32)
    [file] = tmp_path.glob("*.safetensors")
    assert set(load_file(file)) == {
        f"lora_unet_{m}.{e}" for m in ("double_blocks_0_img_attn_qkv", "single_blocks_0_linear1")
        for e in ("lora_down.weight", "lora_up.weight", "alpha")
    }  # fmt: skip
    found = read_adapters(file, {"transformer": modules_of(net)})["transformer"]
    assert set(found) == set(chosen) and all(a.rank == R for a in found.values())
    wanted = expected(net, adapters)
    add_adapters({"transformer": net}, [str(file)], merge=True)
    check(net, wanted)


@pytest.mark.parametrize("architecture", ["qwen", "flux"])
@pytest.mark.parametrize("spelling", [f for f in FORMATS if f != "peft"])
def test_diffusers_reads_what_is_written(spelling, architecture, tmp_path):
    """Its own reader, with its own ideas of alpha: the same weights."""
    from diffusers import FluxKontextPipeline, QwenImageEditPlusPipeline

    kind = QwenImageEditPlusPipeline if architecture == "qwen" else FluxKontextPipeline
    net = network(architecture)
    chosen = [name for name in CHOSEN[architecture] if name != "norm_out.linear"]
    if spelling in ("kohya", "comfyui"):  # there it reads single blocks of FLUX.1's own width alone
        chosen = [name for name in chosen if not name.startswith("single")]
    adapters = made("lora", modules_of(net), chosen)
    save_adapters(adapters, net, tmp_path, spelling, torch.float32)
    wanted = expected(net, adapters)
    names = {"qwen": ("scheduler", "vae", "text_encoder", "tokenizer", "processor"),
             "flux": ("scheduler", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")}  # fmt: skip
    pipe = kind(**dict.fromkeys(names[architecture]), transformer=net)
    pipe.load_lora_weights(str(tmp_path))
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    check(pipe.transformer, wanted)


@pytest.mark.parametrize("kind", ["lora", "dora", "lokr"])
def test_peft_reads_what_is_written(kind, tmp_path):
    """peft's own PeftModel, from its own two files."""
    from peft import PeftModel

    net = network("qwen")
    chosen = ["transformer_blocks.0.attn.to_q", "transformer_blocks.1.attn.to_k"]
    if kind == "lokr":  # peft has its own idea of the factors
        add_lora(net, {"rank": 2, "kind": "lokr", "alpha": 3, "targets": ["attn.to_q", "attn.to_k"]}, seed=0)
        with torch.no_grad():
            for name, p in net.named_parameters():
                if "lokr" in name:
                    p.normal_()
        adapters = {n: Adapter({k: v.detach().clone() for k, v in a.tensors.items()}, a.scale)
                    for n, a in trained_adapters(net).items()}  # fmt: skip
        net = network("qwen")
        from edittools.nets.lora import adapted_modules

        assert adapted_modules(net) == modules_of(net)
    else:
        adapters = made(kind, modules_of(net), chosen)
    save_adapters(adapters, net, tmp_path, "peft", torch.float32)
    configuration = json.loads((tmp_path / "adapter_config.json").read_text())
    assert configuration["peft_type"] == ("LOKR" if kind == "lokr" else "LORA")
    wanted = expected(net, adapters)
    merged = PeftModel.from_pretrained(net, str(tmp_path)).merge_and_unload()
    check(merged, wanted)


def tensors_of(adapters, spelling):
    """Tensors by hand."""
    found = {}
    for name, adapter in adapters.items():
        found[spelling.format(name, "A")] = adapter.tensors["down"]
        found[spelling.format(name, "B")] = adapter.tensors["up"]
    return found


@pytest.mark.parametrize(
    ("prefix", "ends"),
    [
        ("transformer.", ("lora_A.weight", "lora_B.weight")),
        ("transformer.", ("lora_A.default.weight", "lora_B.default.weight")),
        ("transformer.", ("lora.down.weight", "lora.up.weight")),
        ("base_model.model.", ("lora_A.weight", "lora_B.weight")),
        ("base_model.model.transformer.", ("lora_A.weight", "lora_B.weight")),
        ("diffusion_model.", ("lora_A.weight", "lora_B.weight")),
        ("diffusion_model.", ("lora_down.weight", "lora_up.weight")),
        ("model.diffusion_model.", ("lora_down.weight", "lora_up.weight")),
        ("lora_unet_", ("lora_down.weight", "lora_up.weight")),
        ("lycoris_", ("lora_down.weight", "lora_up.weight")),
        ("", ("lora_A.weight", "lora_B.weight")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("alpha", [None, 6.0])
def test_spellings_that_others_write(prefix, ends, alpha, tmp_path):
    net = network("qwen")
    adapters = made("lora", modules_of(net), CHOSEN["qwen"], scale=1.0 if alpha is None else alpha / R)
    tensors = {}
    for name, adapter in adapters.items():
        module = prefix + (name.replace(".", "_") if prefix.endswith("_") else name)
        tensors[f"{module}.{ends[0]}"], tensors[f"{module}.{ends[1]}"] = adapter.tensors["down"], adapter.tensors["up"]
        if alpha is not None:
            tensors[f"{module}.alpha"] = torch.tensor(alpha)
    save_file(tensors, tmp_path / "a.safetensors")
    wanted = expected(net, adapters)
    add_adapters({"transformer": net}, [str(tmp_path / "a.safetensors")], merge=True)
    check(net, wanted)


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("stabilised", [False, True])
def test_scales_in_metadata_and_beside_the_file(beside, stabilised, tmp_path):
    net = network("qwen")
    first, second, third = CHOSEN["qwen"]
    root = R**0.5 if stabilised else R
    adapters = made("lora", modules_of(net), CHOSEN["qwen"])
    for name, alpha in ((first, 12), (second, 6), (third, 12)):
        adapters[name].scale = alpha / root
    configuration = {"r": R, "lora_alpha": 12, "alpha_pattern": {second: 6}, "use_rslora": stabilised}
    if beside:
        save_file(tensors_of(adapters, "base_model.model.{}.lora_{}.weight"), tmp_path / "adapter_model.safetensors")
        (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **configuration}))
    else:
        packed = {f"transformer.{k}": v for k, v in configuration.items()}
        metadata = {"lora_adapter_metadata": json.dumps(packed)}
        save_file(tensors_of(adapters, "transformer.{}.lora_{}.weight"), tmp_path / "a.safetensors", metadata)
    wanted = expected(net, adapters)
    add_adapters({"transformer": net}, [str(tmp_path)], merge=True)
    check(net, wanted)


@pytest.mark.parametrize("spelling", FORMATS)
def test_a_configuration_of_peft_is_of_pefts_file_alone(spelling, tmp_path):
    """Another file in the same folder has the scale that it says itself."""
    net = network("qwen")
    adapters = made("lora", modules_of(net), CHOSEN["qwen"])
    save_adapters(adapters, net, tmp_path, spelling, torch.float32)
    if spelling != "peft":
        (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": R, "lora_alpha": 7 * R}))
    wanted = expected(net, adapters)
    add_adapters({"transformer": net}, [str(tmp_path)], merge=True)
    check(net, wanted)


def test_alpha_keys_count_before_metadata(tmp_path):
    net = network("qwen")
    adapters = made("lora", modules_of(net), CHOSEN["qwen"][:1], scale=4 / R)
    tensors = tensors_of(adapters, "transformer.{}.lora_{}.weight")
    tensors[f"transformer.{CHOSEN['qwen'][0]}.alpha"] = torch.tensor(4.0)
    metadata = {"lora_adapter_metadata": json.dumps({"transformer.r": R, "transformer.lora_alpha": 4})}
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    wanted = expected(net, adapters)
    add_adapters({"transformer": net}, [str(tmp_path)], merge=True)
    check(net, wanted)


def test_bf16_files_and_weights(tmp_path):
    net = network("qwen").to(torch.bfloat16)
    adapters = made("lora", modules_of(net), CHOSEN["qwen"], dtype=torch.bfloat16)
    save_adapters(adapters, net, tmp_path, "comfyui", torch.bfloat16)
    assert {t.dtype for n, t in load_file(tmp_path / FILES["diffusers"]).items() if "lora" in n} == {torch.bfloat16}
    wanted = {name: w.to(torch.bfloat16).double() for name, w in expected(net, adapters).items()}
    add_adapters({"transformer": net}, [str(tmp_path)], merge=True)
    for name, weight in wanted.items():
        assert torch.allclose(net.get_submodule(name).weight.double(), weight, atol=0.1, rtol=0.01)


# --------------------------------------------------------------------------------------------------------- refused


def broken(tmp_path, change):
    net = network("qwen")
    tensors = tensors_of(made("lora", modules_of(net), CHOSEN["qwen"]), "transformer.{}.lora_{}.weight")
    change(tensors)
    save_file(tensors, tmp_path / "a.safetensors")
    before = {name: p.clone() for name, p in net.named_parameters()}
    with pytest.raises(EditError) as caught:
        add_adapters({"transformer": net}, [str(tmp_path / "a.safetensors")], merge=True)
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())  # all or nothing
    return str(caught.value)


FIRST = f"transformer.{CHOSEN['qwen'][0]}"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop(f"{FIRST}.lora_A.weight"), "half of an adapter"),
        (lambda t: t.pop(f"{FIRST}.lora_B.weight"), "half of an adapter"),
        (lambda t: t.update({"transformer.transformer_blocks.7.attn.to_q.lora_A.weight": torch.ones(3, 32),
                             "transformer.transformer_blocks.7.attn.to_q.lora_B.weight": torch.ones(32, 3)}),
         "transformer_blocks.7.attn.to_q is of no module"),
        (lambda t: t.update({f"{FIRST}.diff_b": torch.ones(32)}), "`diff_b` is not"),
        (lambda t: t.update({f"{FIRST}.oft_blocks": torch.ones(4, 8, 8)}), "`oft_blocks` is not"),
        (lambda t: t.update({f"{FIRST}.lokr_t2": torch.ones(3, 3, 1, 1)}), "`lokr_t2` is not"),
        (lambda t: t.update({f"{FIRST}.hada_w1_a": torch.ones(32, 3)}), "half of an adapter"),
        (lambda t: t.update({"lora_unet_conv_in.lora_down.weight": torch.ones(3, 4, 3, 3),
                             "lora_unet_conv_in.lora_up.weight": torch.ones(32, 3, 1, 1)}),
         "adapters of a convolution are not read"),
        (lambda t: t.update({f"{FIRST}.alpha": torch.ones(2)}), "its alpha or rank cannot be read"),
        (lambda t: t.update({f"{FIRST}.alpha": torch.tensor(float("nan"))}), "its alpha is nan"),
        (lambda t: t.update({"nonsense": torch.ones(1)}), "nonsense is of no module"),
        (lambda t: t.update({f"{FIRST}.lora_A.weight": torch.ones(3, 31)}), "32 x 31, and the module has 32 x 32"),
        (lambda t: t.update({f"{FIRST}.lora_A.weight": torch.ones(4, 32)}), "do not fit one another: ranks 3 and 4"),
        (lambda t: t.update({f"{FIRST}.alpha": torch.tensor(1.0), f"diffusion_model.{CHOSEN['qwen'][0]}.lora_A.weight":
                             torch.ones(3, 32), f"diffusion_model.{CHOSEN['qwen'][0]}.lora_B.weight":
                             torch.ones(32, 3)}), "two adapters for transformer"),
        (lambda t: (t.clear(), t.update({"a.weight": torch.ones(1)})), "holds no adapters"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_an_error_and_changes_nothing(tmp_path, change, said):
    assert said in broken(tmp_path, change)


def test_patterns_of_ranks_and_alphas_are_pefts(tmp_path):
    """Regular expressions, with alternatives that match whole endings only: the effect is that of peft itself."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=4, lora_alpha=6, target_modules=CHOSEN["qwen"], init_lora_weights=False,
        rank_pattern={r"to_q|to_k": 2, r"attn\.to_out\.\d": 3}, alpha_pattern={r"img_mlp|to_v": 20, "to_out.0": 5},
    )  # fmt: skip
    theirs = get_peft_model(network("qwen"), config)
    theirs.save_pretrained(tmp_path)
    wanted = theirs.merge_and_unload()
    net = network("qwen")
    add_adapters({"transformer": net}, [str(tmp_path)], merge=True)
    for name in CHOSEN["qwen"]:
        ours, peft = (n.get_submodule(name).weight for n in (net, wanted))
        assert torch.allclose(ours, peft, atol=1e-5)
        assert not torch.allclose(ours, network("qwen").get_submodule(name).weight)
    found = read_adapters(tmp_path / "adapter_model.safetensors", {"transformer": modules_of(net)})["transformer"]
    assert [found[name].scale for name in CHOSEN["qwen"]] == pytest.approx([6 / 2, 5 / 3, 6 / 4])


@pytest.mark.parametrize("configuration", [
    [1], {"r": "x"}, {"r": 3, "lora_alpha": "y"}, {"r": 3, "lora_alpha": 3, "alpha_pattern": {"(": 1}}, {"r": [2]},
    {"r": 3, "lora_alpha": 3, "rank_pattern": [1]}, {"r": -3, "lora_alpha": 3, "use_rslora": True},
])  # fmt: skip
@pytest.mark.parametrize("beside", [False, True])
def test_hostile_configurations_are_one_line(configuration, beside, tmp_path):
    net = network("qwen")
    tensors = tensors_of(made("lora", modules_of(net), CHOSEN["qwen"]), "transformer.{}.lora_{}.weight")
    packed = configuration
    if isinstance(configuration, dict) and not beside:
        packed = {f"transformer.{key}": value for key, value in configuration.items()}
    metadata = {} if beside else {"lora_adapter_metadata": json.dumps(packed)}
    save_file(tensors, tmp_path / "adapter_model.safetensors", metadata)
    if beside:
        (tmp_path / "adapter_config.json").write_text(json.dumps(configuration))
    with pytest.raises(EditError, match=r"alpha|configuration") as caught:
        read_adapters(tmp_path / "adapter_model.safetensors", {"transformer": modules_of(net)})
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------------ LoHa


@pytest.mark.parametrize("prefix", ["lora_unet_", "lycoris_", "diffusion_model."])
def test_loha_has_the_effect_that_peft_gives_it(prefix, tmp_path):
    """Adapters of peft's own LoHa, written as LyCORIS spells them, against peft's merged weights."""
    from peft import LoHaConfig, get_peft_model

    target = CHOSEN["qwen"][0]
    theirs = get_peft_model(network("qwen"), LoHaConfig(r=R, alpha=5, target_modules=[target], init_weights=False))
    tensors = {}
    name = prefix + (target.replace(".", "_") if prefix.endswith("_") else target)
    for key, value in theirs.state_dict().items():
        if ".hada_" in key:
            tensors[f"{name}.{key.split('.')[-2]}"] = value
    assert len(tensors) == 4
    save_file({**tensors, f"{name}.alpha": torch.tensor(5.0)}, tmp_path / "a.safetensors")
    wanted = theirs.merge_and_unload().get_submodule(target).weight
    net = network("qwen")
    before = net.get_submodule(target).weight.detach().clone()
    add_adapters({"transformer": net}, [str(tmp_path / "a.safetensors")], merge=True)
    assert torch.allclose(net.get_submodule(target).weight, wanted, atol=1e-5) and not torch.allclose(before, wanted)
    found = read_adapters(tmp_path / "a.safetensors", {"transformer": modules_of(net)})["transformer"]
    for spelling in FORMATS:
        if spelling not in ("kohya", "comfyui"):
            with pytest.raises(UsageError, match="LoHa has no names"):
                save_adapters(found, net, tmp_path, spelling, torch.float32)
            continue
        (tmp_path / spelling).mkdir()
        save_adapters(found, net, tmp_path / spelling, spelling, torch.float32)
        fresh = network("qwen")
        add_adapters({"transformer": fresh}, [str(tmp_path / spelling)], merge=True)
        assert torch.allclose(fresh.get_submodule(target).weight, wanted, atol=1e-5)


# ------------------------------------------------------------------------------------------------------ converting


@pytest.mark.parametrize("architecture", ["qwen", "flux"])
@pytest.mark.parametrize("first", FORMATS)
def test_every_spelling_becomes_every_other(first, architecture, tmp_path):
    net = network(architecture)
    net.save_config(tmp_path / "model" / "transformer")
    adapters = made("lora", modules_of(net), CHOSEN[architecture])
    wanted = expected(net, adapters)
    (tmp_path / first).mkdir()
    save_adapters(adapters, net, tmp_path / first, first, torch.float32)
    for second in FORMATS:
        out = tmp_path / f"{first}-{second}"
        out.mkdir()
        said = convert(str(tmp_path / first), out, second, model=str(tmp_path / "model"))
        assert said == f"{len(adapters)} modules of this model"
        fresh = network(architecture)
        add_adapters({"transformer": fresh}, [str(out)], merge=True)
        check(fresh, wanted)
        # as `edit train` would have written it, tensor by tensor, but for how ranks of a joint module lie
        (tmp_path / "direct").mkdir(exist_ok=True)
        save_adapters(adapters, net, tmp_path / "direct", second, torch.float32)
        file = FILES.get(second, FILES["diffusers"])
        assert load_file(out / file).keys() == load_file(tmp_path / "direct" / file).keys()


def test_the_command(model_edit, tmp_path):
    """Of a file for FLUX.1 that only its names tell; what cannot be is one line, and nothing is left behind."""
    rank, (out, inner) = 4, (3072, 3072)
    random = torch.Generator().manual_seed(0)
    down, up = torch.randn(rank, inner, generator=random), torch.randn(out, rank, generator=random)
    name = "single_transformer_blocks.37.attn.to_q"
    tensors = {f"transformer.{name}.lora_A.weight": down, f"transformer.{name}.lora_B.weight": up}
    save_file({k: t.to(torch.bfloat16) for k, t in tensors.items()}, tmp_path / "a.safetensors")
    done = model_edit("lora", "a.safetensors", "-o", "b.safetensors", "--lora-format", "kohya", cwd=tmp_path)
    assert "1 modules of FLUX.1, kohya: b.safetensors" in done.stderr
    found = load_file(tmp_path / "b.safetensors")
    joint = "lora_unet_single_blocks_37_linear1"
    assert set(found) == {f"{joint}.{end}" for end in ("lora_down.weight", "lora_up.weight", "alpha")}
    assert found[f"{joint}.lora_up.weight"].dtype == torch.bfloat16 and found[f"{joint}.alpha"] == rank
    assert found[f"{joint}.lora_up.weight"].shape == (3 * 3072 + 4 * 3072, rank)
    assert torch.equal(found[f"{joint}.lora_up.weight"][:3072], up.to(torch.bfloat16))
    model_edit("lora", "b.safetensors", "-o", "c/", "--lora-format", "peft", "--dtype", "float32", "-q", cwd=tmp_path)
    assert {path.name for path in (tmp_path / "c").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    back = load_file(tmp_path / "c" / "adapter_model.safetensors")
    assert torch.equal(back[f"base_model.model.{name}.lora_A.weight"], down.to(torch.bfloat16).float())
    before = sorted(path.name for path in tmp_path.iterdir())

    def fails(*words, status):
        said = model_edit("lora", *words, cwd=tmp_path, check=status).stderr
        assert "Traceback" not in said and sorted(path.name for path in tmp_path.iterdir()) == before
        return said

    assert "exists" in fails("a.safetensors", "-o", "b.safetensors", "--lora-format", "comfyui", status=1)
    assert "peft has two files" in fails("a.safetensors", "-o", "d.safetensors", "--lora-format", "peft", status=2)
    assert "no such safetensors file" in fails("none.safetensors", "-o", "d/", "--lora-format", "peft", status=1)


def test_adapters_that_fit_both_published_models(tmp_path):
    name = "transformer_blocks.0.attn.to_q"
    tensors = {f"transformer.{name}.lora_A.weight": torch.ones(2, 3072), f"transformer.{name}.lora_B.weight":
               torch.ones(3072, 2)}  # fmt: skip
    save_file(tensors, tmp_path / "a.safetensors")
    (tmp_path / "out").mkdir()
    assert "FLUX.1 or Qwen-Image" in convert(str(tmp_path / "a.safetensors"), tmp_path / "out", "diffusers")
    with pytest.raises(UsageError, match=r"fits FLUX\.1 and Qwen-Image and FLUX\.2 \[klein\] 4B alike") as caught:
        convert(str(tmp_path / "a.safetensors"), tmp_path / "out", "kohya")
    assert "--model" in caught.value.hint
    save_file({"lora_te1_layers_0_fc1.lora_down.weight": torch.ones(2, 3)}, tmp_path / "b.safetensors")
    with pytest.raises(EditError, match="is of no module") as caught:
        convert(str(tmp_path / "b.safetensors"), tmp_path / "out", "kohya")
    assert "--model" in caught.value.hint
    with pytest.raises(EditError, match=r"config\.json"):
        convert(str(tmp_path / "a.safetensors"), tmp_path / "out", "kohya", model=str(tmp_path))


# -------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("kind", ["lora", "dora", "lokr"])
@pytest.mark.parametrize("spelling", FORMATS)
def test_adapters_that_trained_are_what_their_file_says(kind, spelling, tmp_path):
    """The network with adapters that were trained, and a fresh one with their file merged, say the same."""
    net, fresh = network("qwen"), network("qwen")
    settings = {"rank": 2, "alpha": 3, "kind": kind, "targets": ["attn.to_q", "attn.to_out.0"]}
    add_lora(net, settings, seed=0)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if split_parameter(name)[1]:
                p.add_(0.3 * torch.randn(p.shape, generator=random))
    save_adapters(trained_adapters(net), net, tmp_path, spelling, torch.float32)
    add_adapters({"transformer": fresh}, [str(tmp_path)], merge=True)
    call = {
        "hidden_states": torch.randn(1, 16, 16, generator=random), "timestep": torch.tensor([0.5]),
        "encoder_hidden_states": torch.randn(1, 5, 16, generator=random), "img_shapes": [[(1, 4, 4)]],
        "return_dict": False,
    }  # fmt: skip
    with torch.no_grad():
        ours, theirs, plain = fresh(**call)[0], net(**call)[0], network("qwen")(**call)[0]
    assert torch.allclose(ours, theirs, atol=1e-4) and (ours - plain).abs().max() > 1e-2
    # and other adapters that start from the file are these
    other = network("qwen")
    add_lora(other, {**settings, "alpha": 6, "start": str(tmp_path)}, seed=5)
    with torch.no_grad():
        assert torch.allclose(other(**call)[0], theirs, atol=1e-4)


def test_adapters_start_only_from_their_like(tmp_path):
    net = network("qwen")
    save_adapters(
        made("lora", modules_of(net), ["transformer_blocks.0.attn.to_q"]), net, tmp_path, "peft", torch.float32
    )
    with pytest.raises(EditError, match="other modules"):
        add_lora(network("qwen"), {"rank": R, "targets": ["attn.to_q"], "start": str(tmp_path)}, seed=0)
    with pytest.raises(EditError, match="adapters of rank 3, and `rank` is 2"):
        add_lora(
            network("qwen"), {"rank": 2, "targets": ["transformer_blocks.0.attn.to_q"], "start": str(tmp_path)}, seed=0
        )
