"""A vision-language checkpoint in this process, through transformers: Qwen2.5-VL, Qwen3-VL and their like."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from edittools.errors import RowError, UsageError
from edittools.vlm import CUT_OFF, Begin, EncodedImage, Reply, Request, State
from edittools.vlm.grammar import Grammars, allowed
from edittools.vlm.processing import bound_images, decode, end_tokens, open_checkpoint, prompt
from edittools.weights.digest import model_digest

HELP = "transformers"
WHAT = "a model in this process"
TAKES = ("device", "dtype", "batch_size", "image_pixels")
DETERMINISTIC = True

_GATHER = 0.005  # seconds to wait for more requests before a batch is started
_TOKENS = 512  # written where the request has no max_tokens
_MOST_LIKELY = 20  # tokens whose log-probabilities can be asked for
_KNOWN = {"max_tokens", "temperature", "top_p", "seed", "logprobs", "top_logprobs", "response_format"}


def load(model: str, image_pixels: tuple[int, int] | None = None, **told: Any) -> LocalClient:
    least, most = image_pixels or (None, None)
    return LocalClient(model, min_pixels=least, max_pixels=most, **told)


class LocalClient:
    """Answers in batches of what is asked at the same time.

    A reply depends on its request alone, not on the batch: prompts are padded on the left, and every request draws
    from its own generator, seeded by Request.key. Without a temperature the most likely token is written; a
    checkpoint's own sampling settings (temperature, repetition penalty) are not used.
    """

    def __init__(
        self,
        spec: str,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        batch_size: int = 8,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
    ) -> None:
        """`spec`: see open_checkpoint().

        Images are resized so that their area is at least `min_pixels` and at most `max_pixels`; None: the
        checkpoint's own bounds. Raises EditError that names what is missing.
        """
        if dtype not in ("float32", "bfloat16"):
            raise UsageError(f"no dtype `{dtype}`", hint="float32 or bfloat16")
        spec, self.model, self.processor = open_checkpoint(spec, getattr(torch, dtype))
        self.model = self.model.to(device).eval()
        self.name = model_digest(spec)  # what makes it judge otherwise is part of its name
        if dtype != "float32":
            self.name += f", {dtype}"
        self.batch_size = batch_size
        if min_pixels is not None or max_pixels is not None:
            bound_images(self.processor, min_pixels, max_pixels)
            self.name += f", images of {min_pixels or ''}..{max_pixels or ''} pixels"
        self.ends = end_tokens(self.model, self.processor, spec)
        self.waiting: list[tuple[Request, asyncio.Future[Reply]]] = []
        self.working: asyncio.Task[None] | None = None
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="generate")
        self.bounded = True  # JSON schemas may bound lengths
        self.grammars: Grammars | None = None  # made when the first request wants one

    def draws(self, request: Request) -> bool:
        return bool(request.parameters.get("temperature"))

    def prepare(self, request: Request) -> None:
        pass

    async def ask(self, request: Request, begin: Begin) -> Reply:
        """Raises UsageError for a parameter that it does not know, such as `stop`."""
        await begin()
        if unknown := sorted(set(request.parameters) - _KNOWN):
            raise UsageError(f"a local model takes no `{unknown[0]}`")
        future = asyncio.get_running_loop().create_future()
        self.waiting.append((request, future))
        if self.working is None or self.working.done():
            self.working = asyncio.create_task(self._work())
        return await future

    async def close(self) -> None:
        pass

    async def _work(self) -> None:
        """Answer batch after batch; while one is written, the next gathers."""
        while self.waiting:
            if len(self.waiting) < self.batch_size:
                await asyncio.sleep(_GATHER)
            batch, self.waiting = self.waiting[: self.batch_size], self.waiting[self.batch_size :]
            loop = asyncio.get_running_loop()
            try:
                replies = await loop.run_in_executor(self.thread, self.answer, [request for request, _ in batch])
            except BaseException as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), reply in zip(batch, replies):
                if not future.done():
                    future.set_result(reply)

    @torch.no_grad()
    def answer(self, requests: list[Request]) -> list[Reply]:
        """Write one reply per request, in one batch. An image that cannot be read makes a `failed` reply."""
        images: list[list[Image.Image]] = []
        replies: dict[int, Reply] = {}
        for k, request in enumerate(requests):
            try:
                images.append([decode(part) for part in request.parts if isinstance(part, EncodedImage)])
            except RowError as error:
                images.append([])
                replies[k] = Reply("failed", error=str(error), model=self.name)
        rows = [k for k in range(len(requests)) if k not in replies]
        if rows:
            written = self._write([requests[k] for k in rows], [images[k] for k in rows])
            replies.update(zip(rows, written))
        return [replies[k] for k in range(len(requests))]

    def _write(self, requests: list[Request], images: list[list[Image.Image]]) -> list[Reply]:
        from transformers import GenerationConfig, LogitsProcessorList

        flat = [image for row in images for image in row]
        try:
            inputs = self.processor(
                text=[prompt(self.processor, request.parts) for request in requests],
                images=flat or None,
                padding=True,
                padding_side="left",
                return_tensors="pt",
            ).to(self.model.device)
        except ValueError as refusal:  # of one row: an image thinner than 1:200, a text that spells an image's place
            if len(requests) == 1:
                return [Reply("failed", error=f"the model does not take the message: {refusal}", model=self.name)]
            return [reply for request, row in zip(requests, images) for reply in self._write([request], [row])]
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        start = inputs["input_ids"].shape[1]
        lengths = [int(request.parameters.get("max_tokens") or _TOKENS) for request in requests]
        chooser = _Chooser(requests, self.model.device, [self._matcher(request) for request in requests], self.ends[0])
        tokens = self.model.generate(
            **inputs,
            generation_config=GenerationConfig(
                max_new_tokens=max(lengths), do_sample=False, eos_token_id=self.ends, pad_token_id=self.ends[0]
            ),
            logits_processor=LogitsProcessorList([chooser]),
        )[:, start:].tolist()
        prompts = inputs["attention_mask"].sum(1).tolist()
        replies = []
        for k, (request, length) in enumerate(zip(requests, lengths)):
            row = tokens[k][:length]
            count = next((n for n, token in enumerate(row) if token in self.ends), len(row))
            text = self.processor.tokenizer.decode(row[:count], skip_special_tokens=True)
            steps = [self._named(chooser.steps[n][k]) for n in range(count)] if _wanted(request) is not None else None
            used = min(count + 1, len(row))  # the end token was written too
            error = "empty reply" if not text else CUT_OFF if count == len(row) else None
            state: State = "ok" if error is None else "failed"
            replies.append(Reply(state, text or None, error, self.name, prompts[k], used, steps))
        return replies

    def _matcher(self, request: Request) -> Any | None:
        """What holds the reply to `response_format`, where the request has one."""
        form = request.parameters.get("response_format") or {}
        if form.get("type") != "json_schema":
            return None
        if self.grammars is None:
            vocabulary = self.model.get_output_embeddings().weight.shape[0]
            self.grammars = Grammars(self.processor.tokenizer, vocabulary, self.ends)
        return self.grammars.matcher(form["json_schema"]["schema"])

    def _named(self, step: list[tuple[int, float]]) -> list[tuple[str, float]]:
        return [(self.processor.tokenizer.decode([token]), value) for token, value in step]


class _Chooser:
    """A logits processor that chooses the tokens, so that every row has its own temperature, top_p and generator.

    `steps[n][k]` has, for token n of row k, (token, log-probability) of the written token first and then of the most
    likely others, under the model's own distribution (temperature 1, nothing left out).
    """

    def __init__(
        self, requests: list[Request], device: torch.device, matchers: list[Any | None] | None = None, end: int = 0
    ) -> None:
        """`matchers` hold rows to a grammar (grammar.py); `end` is the token that ends a reply."""
        self.requests, self.device = requests, device
        self.matchers, self.end = matchers or [None] * len(requests), end
        self.most = [_wanted(request) for request in requests]
        self.steps: list[list[list[tuple[int, float]]]] = []
        self.generators = [torch.Generator().manual_seed(int(request.key[:15], 16)) for request in requests]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(rows, vocabulary) in and out; out, the chosen token is the only one."""
        logits = scores.float()
        open_ = allowed(logits, self.matchers, self.end)  # the log-probabilities are those of all tokens
        chosen = open_.argmax(-1)
        for k, request in enumerate(self.requests):
            temperature = float(request.parameters.get("temperature") or 0.0)
            if temperature > 0:
                chosen[k] = self._draw(open_[k] / temperature, request.parameters.get("top_p"), self.generators[k])
        for matcher, token in zip(self.matchers, chosen.tolist()):
            if matcher is not None and not matcher.is_stopped():
                matcher.consume_token(token)
        if any(most is not None for most in self.most):
            self._note(logits.log_softmax(-1), chosen)
        only = torch.full_like(scores, -torch.inf)
        return only.scatter_(1, chosen[:, None], 0.0)

    def _draw(self, logits: Tensor, top_p: float | None, generator: torch.Generator) -> int:
        # On the processor: a generator there draws the same numbers for every device.
        shares, order = logits.softmax(-1).cpu().sort(descending=True, stable=True)
        if top_p is not None:
            shares = shares * (shares.cumsum(-1) - shares < float(top_p))
        return int(order[torch.multinomial(shares, 1, generator=generator)])

    def _note(self, logs: Tensor, chosen: Tensor) -> None:
        values, tokens = (part.tolist() for part in logs.topk(min(_MOST_LIKELY + 1, logs.shape[-1]), dim=-1))
        own = logs.gather(1, chosen[:, None])[:, 0].tolist()
        step = []
        for k, most in enumerate(self.most):
            written = int(chosen[k])
            others = [pair for pair in zip(tokens[k], values[k]) if pair[0] != written]
            step.append([(written, own[k]), *others[: max((most or 0) - 1, 0)]])
        self.steps.append(step)


def _wanted(request: Request) -> int | None:
    """How many tokens' log-probabilities are wanted at every step; None for no log-probabilities."""
    if not request.parameters.get("logprobs"):
        return None
    most = int(request.parameters.get("top_logprobs") or 0)
    if not 0 <= most <= _MOST_LIKELY:
        raise UsageError(f"top_logprobs {most}: at most {_MOST_LIKELY}")
    return most
