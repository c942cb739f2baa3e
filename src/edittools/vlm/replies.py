"""What the body of a reply says: chat completions, the Responses API, and either as a stream of events.

Servers, gateways and proxies put anything anywhere. Every function here takes whatever JSON holds and never fails:
what has not the form that it should have is not there.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_MOST_TOKENS = 1 << 40  # more is no count, and no database holds it


@dataclass(frozen=True)
class Said:
    """A reply as it was sent. `text` is the answer (None: there is none), `thought` what is known of the thinking.

    `finish` is the reason why the model stopped, in lower case, None where none is said. `paid`: a model has worked for
    it. `prompt_tokens` and `completion_tokens` are None where nobody says; thought tokens count as completion.
    """

    text: str | None = None
    thought: str = ""
    finish: str | None = None
    refusal: str | None = None
    blocked: str | None = None  # by which filter, where the body says so instead of giving a choice
    model: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    logprobs: list[list[tuple[str, float]]] | None = None
    answered: bool = False  # there is a message, be it empty
    paid: bool = False


def read_json(data: bytes) -> Any:
    """The JSON value of a body, of a stream of events the one that they add up to. Raises ValueError.

    Byte order marks and UTF-16 are read; half of a surrogate pair, which JSON can escape and no file can hold, becomes
    a question mark.
    """
    encoding = "utf-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    text = data.decode(encoding, "replace").strip()
    try:
        try:
            value = json.loads(text)
        except ValueError:
            value = [json.loads(event) for event in _events(text)]
            if not value:
                raise
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if "\\ud" in text.lower():
        value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    chunks = [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
    if len(chunks) == 1:
        return chunks[0]
    return _joined(chunks) if chunks else value


def _events(text: str) -> Iterator[str]:
    """The data of server-sent events, or the lines of JSON lines; `[DONE]` becomes a chunk that says so."""
    for line in re.split(r"\r\n|\r|\n", text):  # other ends of lines may stand in a JSON string
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            yield '{"done": true}'
        elif data and not re.match(r":|(event|id|retry):", line):
            yield data


def _joined(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """The body that a stream adds up to. One that breaks off has the finish reason `stream ended early`."""
    whole = next((chunk["response"] for chunk in reversed(chunks) if isinstance(chunk.get("response"), dict)), None)
    if whole is not None:  # the Responses API repeats the whole at the end
        ended = str(chunks[-1].get("type")) in ("response.completed", "response.incomplete", "response.failed")
        return whole if ended or chunks[-1].get("done") else {**whole, "status": "stream ended early"}
    body: dict[str, Any] = {}
    message: dict[str, Any] = {}
    finish, logprobs, begun = None, [], False
    for chunk in chunks:
        body.update({name: value for name, value in chunk.items() if value is not None and name != "choices"})
        choice = _first(chunk.get("choices"))
        if choice is None:
            continue
        begun = True
        for name, value in {**_dict(choice.get("message")), **_dict(choice.get("delta"))}.items():
            old = message.get(name)
            joins = type(old) is type(value) and isinstance(value, str | list)
            message[name] = old + value if joins else old if value is None else value
        finish = choice.get("finish_reason") or finish
        logprobs += _list(_dict(choice.get("logprobs")).get("content"))
    if finish is None and (not body.get("done") or body.get("error")):
        finish = "stream ended early"
    if begun:
        body["choices"] = [{"message": message, "finish_reason": finish, "logprobs": {"content": logprobs}}]
    return body


# ---------------------------------------------------------------- from JSON to what was said


def read_reply(body: dict[str, Any]) -> Said:
    """Parse a body of either interface."""
    output = body.get("output")
    if "choices" not in body and (body.get("object") == "response" or isinstance(output, list)):
        return _read_response(body)
    return _read_chat(body)


def _read_chat(body: dict[str, Any]) -> Said:
    choice = _first(body.get("choices"))
    prompt, completion = _usage(body.get("usage"))
    paid = choice is not None or bool(prompt) or bool(completion) or isinstance(body.get("choices"), list)
    facts: dict[str, Any] = {"model": _text(body.get("model")), "paid": paid, "prompt_tokens": prompt}
    if choice is None:
        return Said(blocked=_block(body), completion_tokens=completion, **facts)
    message = choice.get("message") if isinstance(choice.get("message"), dict) else None
    content = (message or {}).get("content", choice.get("text"))
    text, refusal = _parts(content)
    thought = "".join(_parts((message or {}).get(name))[0] or "" for name in ("reasoning_content", "reasoning"))
    finish = choice.get("finish_reason", choice.get("native_finish_reason"))
    facts["completion_tokens"] = _estimated((text or "") + thought) if completion is None else completion
    return Said(
        text=text,
        thought=thought,
        finish=None if finish in (None, "") else _finish(finish),
        refusal=_text((message or {}).get("refusal")) or refusal,
        blocked=_block(body) if text is None else None,
        logprobs=_logprobs(_dict(choice.get("logprobs")).get("content")),
        answered=message is not None or text is not None,
        **facts,
    )


def _read_response(body: dict[str, Any]) -> Said:
    """The Responses API: `output` has reasoning, and messages with their parts."""
    items = [item for item in _list(body.get("output")) if isinstance(item, dict)]
    messages = [item for item in items if item.get("type") == "message"]
    read = [_parts(item.get("content")) for item in messages]
    texts = [text for text, _ in read if text is not None]
    status = _finish(body.get("status"))
    if status == "incomplete":
        status = _finish(_dict(body.get("incomplete_details")).get("reason"))
    prompt, completion = _usage(body.get("usage"))
    text = "".join(texts) if texts else None
    parts = [_dict(part) for item in messages for part in _list(item.get("content"))]
    steps = [step for part in parts for step in _list(part.get("logprobs"))]
    return Said(
        text=text,
        finish={"completed": "stop", "failed": "error"}.get(status, status),
        refusal=next((refusal for _, refusal in read if refusal), None),
        model=_text(body.get("model")),
        prompt_tokens=prompt,
        completion_tokens=_estimated(text or "") if completion is None and text else completion,
        logprobs=_logprobs(steps),
        answered=bool(messages),
        paid=bool(items) or bool(prompt) or bool(completion),
    )


def _parts(content: Any) -> tuple[str | None, str | None]:
    """(text, refusal) of a message's content: a text, or a list of parts, of which thoughts are none."""
    if isinstance(content, str):
        return content, None
    texts, refusals = [], []
    for part in _list(content):
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        written = part.get("text") if isinstance(part, dict) else part
        if kind in ("text", "output_text") and isinstance(written, str):
            texts.append(written)
        elif kind == "refusal" and _text(part.get("refusal")):
            refusals.append(part["refusal"])
    return "".join(texts) if texts else None, "".join(refusals) or None


def _finish(reason: Any) -> str:
    """`FinishReason.STOP` and `STOP` are `stop`."""
    return reason.rpartition("FinishReason.")[2].strip().lower() if isinstance(reason, str) else f"{reason!r:.40}"


def _block(body: dict[str, Any]) -> str | None:
    """Why Gemini gave no candidate, or which of MiniMax's filters answered."""
    feedback = _dict(body.get("prompt_feedback") or body.get("promptFeedback"))
    reason = feedback.get("block_reason") or feedback.get("blockReason")
    if reason:
        return str(reason)[:100]
    sensitive = [name for name in ("input_sensitive", "output_sensitive") if body.get(name) is True]
    return sensitive[0] if sensitive else None


def _usage(usage: Any) -> tuple[int | None, int | None]:
    """(prompt, completion) tokens. Gemini's addresses leave thought tokens out of the completion and not of the total;
    where no total shows them, their own count does.
    """
    usage = _dict(usage)
    prompt = _tokens(usage.get("prompt_tokens")) or _tokens(usage.get("input_tokens"))  # 0: nobody counted
    completion = _tokens(usage.get("completion_tokens", usage.get("output_tokens")))
    total = _tokens(usage.get("total_tokens"))
    details = _dict(usage.get("completion_tokens_details") or usage.get("output_tokens_details"))
    thought = _tokens(details.get("reasoning_tokens", usage.get("reasoning_tokens"))) or 0
    if total and prompt:
        return prompt, max(total - prompt, completion or 0)
    if total and completion is not None and total > completion:
        return total - completion, completion
    if total and completion is None:
        return None, total
    if completion is not None and thought > completion:
        completion += thought
    return prompt, completion


def _tokens(value: Any) -> int | None:
    if isinstance(value, str):
        value = int(value) if value.strip().isascii() and value.strip().isdecimal() and len(value) < 16 else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value < _MOST_TOKENS else None  # NaN is not


def _estimated(text: str) -> int:
    """Tokens of a text whose server does not count: one for 4 ASCII characters, and one for every other."""
    other = sum(not character.isascii() for character in text)
    return other + (len(text) - other + 3) // 4


def _logprobs(steps: Any) -> list[list[tuple[str, float]]] | None:
    """For each token the written one first. None where any is not what it should be: positions would be wrong."""
    read = []
    for step in _list(steps):
        written = _token(step)
        if written is None:
            return None
        others = [_token(other) for other in _list(step.get("top_logprobs"))]
        read.append([written, *(other for other in others if other is not None and other[0] != written[0])])
    return read or None


def _token(step: Any) -> tuple[str, float] | None:
    token, value = _dict(step).get("token"), _dict(step).get("logprob")
    if not isinstance(token, str) or isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return None
    return token, float(min(max(value, -1e300), 1e300))  # an integer may be larger than any float


def _first(items: Any) -> dict[str, Any] | None:
    return items[0] if isinstance(items, list) and items and isinstance(items[0], dict) else None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
