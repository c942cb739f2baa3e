"""Vision-language checkpoints with tiny random weights."""

from __future__ import annotations

import json

from tiny_models import ALPHABET

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<|vision_start|><|image_pad|><|vision_end|>{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_model(folder, kind):
    """Random weights of a Qwen2.5-VL or Qwen3-VL, with a tokenizer that knows the bytes, as a checkpoint has them."""
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
    vocabulary = {c: k for k, c in enumerate(ALPHABET + special)}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], extra_special_tokens=special)
    tokenizer.chat_template = TEMPLATE
    number = dict(zip(names, tokenizer.convert_tokens_to_ids(special)))
    text = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": len(vocabulary),
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6},
        "eos_token_id": number["im_end"],
        "bos_token_id": None,
        "pad_token_id": number["endoftext"],
    }
    vision = {"depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
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
