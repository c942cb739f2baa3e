"""Building the network of a recipe, and saying which optimiser trains which of its parameters."""

import torch
from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformer2DModel
from torch import nn

from edittools.models.edit_dit import EditDiT, TextEncoder, Vocabulary, input_channels, output_channels
from edittools.train.config import Recipe
from edittools.train.muon import Muon


def build_model(recipe: Recipe, vocabulary: Vocabulary) -> EditDiT:
    """The network with random weights, a function of the recipe's seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        transformer = QwenImageTransformer2DModel(
            patch_size=1,  # the patches are made outside: a token is a whole patch
            in_channels=input_channels(recipe.patch, recipe.text_width),
            out_channels=output_channels(recipe.patch, recipe.residual),
            num_layers=recipe.layers,
            attention_head_dim=recipe.head_dim,
            num_attention_heads=recipe.heads,
            joint_attention_dim=recipe.text_width,
            axes_dims_rope=tuple(recipe.rope),
            zero_cond_t=recipe.clean_references,
        )
        text = TextEncoder(
            vocabulary,
            width=recipe.text_width,
            heads=recipe.text_heads,
            layers=recipe.text_layers,
            max_words=recipe.max_words,
        )
    # adaLN-Zero (DiT, Peebles and Xie 2023, 3.2): every block starts as the identity and the output as zero.
    # The class does not do this itself.
    modulations = [layer for block in transformer.transformer_blocks for layer in (block.img_mod[1], block.txt_mod[1])]
    for layer in (*modulations, transformer.norm_out.linear, transformer.proj_out):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    # Nothing reads the last block's text output: these parameters would never get a gradient.
    last = transformer.transformer_blocks[-1]
    for dead in (last.attn.add_q_proj, last.attn.norm_added_q, last.attn.to_add_out, last.txt_mlp):
        dead.requires_grad_(False)
    return EditDiT(transformer, text, patch=recipe.patch, predicts=recipe.predicts, residual=recipe.residual)


def optimizers(model: EditDiT, recipe: Recipe) -> list[tuple[torch.optim.Optimizer, float]]:
    """Optimisers with their base learning rates: Muon for the blocks' matrices if asked for, AdamW for the rest."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    # The modulation layers turn one time into scales and shifts; they are no maps between features: AdamW.
    muon = [
        p
        for name, p in named
        if recipe.optimizer == "muon"
        and p.ndim == 2
        and name.startswith("transformer.transformer_blocks.")
        and "_mod." not in name
    ]
    chosen = {id(p) for p in muon}
    adamw = torch.optim.AdamW(
        [p for _, p in named if id(p) not in chosen],
        lr=recipe.adam_lr,
        betas=(recipe.adam_betas[0], recipe.adam_betas[1]),
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    pairs: list[tuple[torch.optim.Optimizer, float]] = [(adamw, recipe.adam_lr)]
    if muon:
        pairs.append((Muon(muon, recipe.muon_lr, recipe.muon_momentum, recipe.weight_decay), recipe.muon_lr))
    return pairs
