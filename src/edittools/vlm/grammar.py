"""Holds a model in this process to a JSON schema: which tokens may come next, by llguidance (extra `captions`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edittools.errors import UsageError, missing_extra


class Grammars:
    """Makes matchers for one tokenizer, which is looked through once (2 s for 150,000 tokens)."""

    def __init__(self, tokenizer: Any, vocabulary: int, ends: Sequence[int]) -> None:
        """`vocabulary` is the number of scores that the model gives. Raises EditError without llguidance."""
        try:
            import llguidance.hf
        except ImportError as error:
            raise missing_extra("llguidance", "captions", "holding a local model to a JSON schema") from error
        self.tokens = llguidance.hf.from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=list(ends))

    def matcher(self, schema: dict[str, Any]) -> Any:
        """Follows one reply. Raises UsageError for a schema that it does not know."""
        from llguidance import LLMatcher

        # One way to write blanks: a weak model would write them for ever.
        manner = {"whitespace_flexible": False, "key_separator": ": ", "item_separator": ", "}
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema | {"x-guidance": manner}))
        if problem := LLMatcher.validate_grammar(grammar, self.tokens):
            raise UsageError(f"a local model cannot be held to this schema: {problem}")
        return LLMatcher(self.tokens, grammar)


def allowed(logits: Tensor, matchers: Sequence[Any | None], end: int) -> Tensor:
    """(rows, vocabulary) -> the same, with -inf where a row's grammar lets no token follow; rows without one unchanged.

    A reply that is complete, or stuck, may only end.
    """
    import llguidance.torch

    rows = [(k, matcher) for k, matcher in enumerate(matchers) if matcher is not None]
    if not rows:
        return logits
    held = logits.detach().cpu().clone()
    mask = llguidance.torch.allocate_token_bitmask(1, logits.shape[-1])
    for k, matcher in rows:
        if matcher.is_stopped() or matcher.is_error():
            held[k] = -torch.inf
            held[k, end] = 0.0
            continue
        llguidance.torch.fill_next_token_bitmask(matcher, mask, 0)
        llguidance.torch.apply_token_bitmask_inplace(held[k], mask[0])
    return held.to(logits.device)
