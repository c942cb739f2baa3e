"""Vision-language checkpoints with tiny random weights."""

from __future__ import annotations

import json

from tiny_models import ALPHABET

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<|vision_start|><|image_pad|><|vision_end|>{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def learned_pieces(texts):
    """The vocabulary and merges of a byte-level tokenizer that has learned from texts; of the bytes alone without."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    if not texts:
        return list(ALPHABET), []
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=1000, initial_alphabet=ALPHABET, show_progress=False)
    plain.train_from_iterator(texts, trainer)
    learned = json.loads(plain.to_str())["model"]
    return sorted(learned["vocab"], key=learned["vocab"].get), [tuple(pair) for pair in learned["merges"]]


def tiny_model(folder, kind, texts=(), width=32):
    """Random weights of a Qwen2.5-VL or Qwen3-VL, as a checkpoint has them.

    Its tokenizer knows the bytes, and the pieces of words that `texts` are made of. width: of the language model's
    states, a multiple of 32.
    """
    import torch
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2Tokenizer,
        Qwen2VLImageProcessorPil,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
    )

    torch.manual_seed(0)
    names = ("endoftext", "im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad")
    special = [f"<|{name}|>" for name in names]
    pieces, merges = learned_pieces(texts)
    vocabulary = {c: k for k, c in enumerate([*pieces, *special])}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=merges, extra_special_tokens=special)
    tokenizer.chat_template = TEMPLATE
    number = dict(zip(names, tokenizer.convert_tokens_to_ids(special)))
    text = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": width // 16,
        "num_key_value_heads": width // 16,
        "vocab_size": len(vocabulary),
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6},
        "eos_token_id": number["im_end"],
        "bos_token_id": None,
        "pad_token_id": number["endoftext"],
    }
    vision = {"depth": 2, "hidden_size": width // 2, "intermediate_size": width, "num_heads": 2}
    vision["out_hidden_size"] = width
    ids = {
        "image_token_id": number["image_pad"],
        "video_token_id": number["video_pad"],
        "vision_start_token_id": number["vision_start"],
        "vision_end_token_id": number["vision_end"],
    }
    if kind == "Qwen2_5_VL":
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids))
    else:
        text["head_dim"] = 16
        vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 16}
        model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, **ids))
    model.generation_config.eos_token_id = number["im_end"]
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    patch = model.config.vision_config.patch_size
    images = Qwen2VLImageProcessorPil(size={"shortest_edge": 784, "longest_edge": 3136}, patch_size=patch)
    images.save_pretrained(folder)
    path = folder / "preprocessor_config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"processor_class": f"{kind.replace('3_', '3')}Processor"})
    )
    return folder
