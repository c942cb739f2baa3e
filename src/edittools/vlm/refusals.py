"""What an error says: whether it is about this request, about a parameter, about the whole run, or will pass.

Statuses alone do not tell. Services answer 400 for a filter and for an unknown parameter, 403 for a wrong key and for
a flagged image, 404 for a wrong address and for a model that sees no images: their words decide, as far as they are
known here, and otherwise how many requests meet the same (`requests`).
"""

from __future__ import annotations

import email.utils
import json
import math
import re
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from http.client import responses
from typing import Any, Literal

Kind = Literal["filtered", "transient", "run", "request"]

_LONGEST_AFTER = 600.0  # seconds; a server that asks for more is asked again all the same
_LONGEST = 4000  # characters of a message; some servers repeat the whole request in it, images and all
_TRANSIENT = (408, 409, 425, 429)
_OF_THE_REQUEST = (400, 406, 413, 414, 415, 416, 422, 431)
# OpenAI, Azure, DashScope (data_inspection_failed), Moonshot, Volcengine (...SensitiveContentDetected), StepFun, Zhipu
# and z.AI (1301), MiniMax (1026, 1027): letters and digits of `code` and `type`, in lower case.
_FILTER_CODES = re.compile(
    r"contentfilter|contentpolicyviolation|responsibleaipolicyviolation|moderationblocked|contentmoderation|"
    r"datainspection|sensitivecontent|censorship|prohibitedcontent|contentblocked|^(1301|1026|1027)$"
)
# A policy that is named alone may be about sizes, or about who may use a model: something has to offend against it.
_POLICY = (
    r"(content|usage|safety)[ _-]((management|filter\w*|moderation|usage)[ _-])?"
    r"(policy|policies|guidelines?|system|filter\w*|moderation|checks?)"
)
_OFFENDS = r"(violat|breach|flagg|block|reject|trigger|filtered|prohibit|against|not (be )?(allow|permit))"
_FILTER_WORDS = re.compile(
    rf"{_OFFENDS}.{{0,80}}{_POLICY}|{_POLICY}.{{0,80}}{_OFFENDS}|inappropriate content|content exists risk|"
    r"content_?policy_?violation|['\"]content_filter['\"]|"  # of gateways that repeat a service's whole error
    r"for safety reasons|(input|prompt|image|content|output)s? (was|were|is|has been|may be|being) (flagged|blocked)|"
    r"request (was|has been) (flagged|rejected by)|requires moderation|unsafe or sensitive|sensitive (content|words)|"
    r"considered high risk|prohibited[ _]content|不安全或敏感|敏感(内容|信息|词)|违规|内容安全",
    re.IGNORECASE,
)
_SIZE_WORDS = re.compile(
    r"too (large|big|long|many)|"
    r"(exceed|maximum|larger|over)\w*.{0,40}(size|pixel|bytes|mb\b|resolution|dimension|limit)",
    re.IGNORECASE,
)
# The account is meant, not an image.
_ACCOUNT_WORDS = re.compile(
    r"\b(account|organi[sz]ation|api[ _-]?key|subscription|access)\b.{0,40}"
    r"(flagged|suspended|disabled|deactivated|banned|terminated|must be verified)|verify (your )?organi[sz]ation|"
    r"insufficient[ _](balance|quota|credit|funds)|exceeded your current quota|arrearage|overdue|billing|"
    r"api key not valid|API_KEY_INVALID|location is not supported|余额不足|欠费",
    re.IGNORECASE,
)
_ACCOUNT_CODES = re.compile(
    r"insufficientquota|apikeyinvalid|invalidapikey|modelnotfound|arrearage|invalidauth|billing"
)
_PARAMETER = r"(request )?(keyword|parameter|argument|field|key\b|name|input|propert|attribute|option)"
_DECLINES = re.compile(
    r"unsupported|not (be |currently |yet )?(support|allow|permit|available|accept|recogni|implement|applicable)|"
    rf"not compatible|n't (support|allow|accept|recogni)|unrecogni|(unknown|unexpected|invalid|extra) {_PARAMETER}|"
    r"only (the )?default|only \S+ is (allowed|supported)|unexpected value; permitted|"
    r"can(not|'t| not) (both )?be (used|specified|set|combined|changed|modified)|"
    r"only one of|either .* or|deprecated|(should|must) (be )?(omitted|removed|left out|unset|not)|fixed (at|to)\b|"
    rf"{_PARAMETER}\b.{{0,40}}does not exist|不支持|无效",
    re.IGNORECASE,
)
# What a server says that broke, and may break for any reason.
_DECLINES_WHERE_IT_BROKE = re.compile(rf"support|unrecogni|(unknown|unexpected) {_PARAMETER}", re.IGNORECASE)
_TOO_MANY = re.compile(r"too (large|big|high|many)|exceed|at most|maximum|less than or equal|range", re.IGNORECASE)
# The prompt and what may be written do not fit in together; what the two are called there.
_CONTEXT = re.compile(
    r"context[ _-]*(length|window|limit|size)|(total|requested)( number of)? tokens?|tokens?`? \+ ", re.IGNORECASE
)
_WRITTEN = re.compile(r"max_\w*tokens|max tokens|completion|output", re.IGNORECASE)
MOST_TOKENS = ("max_tokens", "max_completion_tokens", "max_output_tokens")  # that bound what is written
_OUT_OF_RANGE = re.compile(
    r"between|at (most|least)|less than|greater than|out of range|minimum|maximum", re.IGNORECASE
)
_CONFLICT = re.compile(r"\bboth\b|only one|together|at the same time|same time|either", re.IGNORECASE)
_NEEDS_STREAM = re.compile(
    r"only support\w*.{0,20}stream|stream\W.{0,30}(must|required|true)|enable the stream|must be stream|"
    r"streaming (is )?required",
    re.IGNORECASE,
)
_NEEDS_RESPONSES = re.compile(r"v1/responses|responses (api|endpoint)", re.IGNORECASE)
_QUOTED = re.compile(r"[`'\"“‘]([A-Za-z_][\w.\[\]]*)[`'\"”’]")


@dataclass(frozen=True)
class Refusal:
    """An answer that is no reply: its status, its JSON (None: it is none) and its text."""

    status: int
    body: Any
    text: str

    @cached_property
    def error(self) -> dict[str, Any]:
        """The object that says what is wrong, wherever the server puts it."""
        body = self.body[0] if isinstance(self.body, list) and self.body else self.body
        if not isinstance(body, dict):
            return {"message": body} if isinstance(body, str) else {}
        for name in ("error", "errors", "base_resp", "detail"):
            inner = body.get(name)
            inner = inner[0] if isinstance(inner, list) and inner else inner
            if isinstance(inner, dict):
                return inner
            if isinstance(inner, str) and inner:
                return {**body, "message": inner}
        return body

    @cached_property
    def words(self) -> str:
        """The server's own: as much of them as can be looked through."""
        error = self.error
        said = next((error[n] for n in ("message", "msg", "status_msg", "error_msg", "reason") if error.get(n)), None)
        if said is None and self.body is None:
            title = re.search(r"<title[^>]*>(.*?)</title", self.text, re.IGNORECASE | re.DOTALL)
            said = f"an HTML page: {title[1].strip()}" if title else None
        said = said if isinstance(said, str) else self.text if said is None else json.dumps(said, ensure_ascii=False)
        said = said.strip() or responses.get(self.status, "no word")
        beneath = _dict(error.get("metadata"))
        details = [beneath.get("raw"), beneath.get("reasons")]  # OpenRouter: what the provider said
        words = ": ".join([said[:_LONGEST], *(d if isinstance(d, str) else json.dumps(d) for d in details if d)])
        return words[:_LONGEST]

    @cached_property
    def codes(self) -> tuple[str, ...]:
        """Letters and digits of every code, in lower case."""
        error = self.error
        values = [error.get(name) for name in ("code", "type", "status", "status_code")]
        values.append(_dict(error.get("innererror")).get("code"))
        return tuple(re.sub(r"[^0-9a-z]", "", str(code).lower()) for code in values if isinstance(code, str | int))

    @cached_property
    def kind(self) -> Kind:
        """`filtered`: a filter blocked this request. `transient`: repeating may help. `run`: probably every other
        request meets it too. `request`: it is about this one.
        """
        about_account = _ACCOUNT_WORDS.search(self.words) or any(map(_ACCOUNT_CODES.search, self.codes))
        if any(map(_FILTER_CODES.search, self.codes)) or (not about_account and self._is_filter()):
            return "filtered"
        if about_account and self.status < 500:
            return "run"
        if self.status in _TRANSIENT or (self.status >= 500 and self.status not in (501, 505)):
            return "transient"
        return "request" if self.status in _OF_THE_REQUEST else "run"

    def _is_filter(self) -> bool:
        """By what it says, without a code for it."""
        if "flagged_input" in _dict(self.error.get("metadata")) or self.status == 451:
            return True
        by_words = _FILTER_WORDS.search(self.words) and not _SIZE_WORDS.search(self.words)
        return bool(by_words) and self.status < 500 and self.status != 429

    @property
    def needs_stream(self) -> bool:
        return self.status in (400, 422) and bool(_NEEDS_STREAM.search(self.words))

    @property
    def needs_responses(self) -> bool:
        """The model is asked through the Responses API only."""
        return self.status in (400, 404) and bool(_NEEDS_RESPONSES.search(self.words))

    @property
    def crowded(self) -> bool:
        """What this request may write does not fit behind its prompt: about it alone, however large others are."""
        about = self.status in (400, 413, 422, 500) and _CONTEXT.search(self.words)
        return bool(about) and bool(_WRITTEN.search(self.words))

    def declined(self, sent: Collection[str]) -> dict[str, str | None]:
        """Which of the parameters that were `sent` the model does not take: name -> None, or the name that it wants."""
        if self.status not in (400, 403, 404, 422, 500):  # 403: OpenAI's, for log-probabilities that it keeps
            return {}
        declines = any("unsupported" in code or "unknownparam" in code for code in self.codes)
        words = _DECLINES if self.status < 500 else _DECLINES_WHERE_IT_BROKE
        if words.search(self.words) and not _OUT_OF_RANGE.search(self.words):  # that is the user's mistake
            declines = True
        refused: dict[str, str | None] = {}
        for name in self._named(sent):
            if name in MOST_TOKENS:
                wanted = "max_completion_tokens"
                if self.crowded:
                    continue
                if name == "max_tokens" and wanted in self.words and not _TOO_MANY.search(self.words):
                    refused[name] = None if wanted in sent else wanted
                elif declines or _TOO_MANY.search(self.words):
                    refused[name] = None
            elif declines:
                refused[name] = None
        if {"temperature", "top_p"} <= refused.keys() and _CONFLICT.search(self.words) and "support" not in self.words:
            del refused["temperature"]
        if {"max_tokens", "max_completion_tokens"} <= refused.keys() and _CONFLICT.search(self.words):
            del refused["max_completion_tokens"]  # one bound stays
        if refused.keys() & {"logprobs", "top_logprobs"}:  # the written tokens' own would pass for a distribution
            refused |= {name: None for name in ("logprobs", "top_logprobs") if name in sent}
        return refused

    def _named(self, sent: Collection[str]) -> list[str]:
        """The sent parameters that the error names: in its fields, in quotation marks, or anywhere in its words."""
        location = self.error.get("loc")
        places = [self.error.get("param"), *(location if isinstance(location, list) else [])]
        path = {part for location in places if isinstance(location, str) for part in re.split(r"[.\[\]]+", location)}
        if named := [name for name in sent if name in path]:
            return named
        quoted = {part for said in _QUOTED.findall(self.words) for part in re.split(r"[.\[\]]+", said)}
        if named := [name for name in sent if name in quoted]:
            return named
        plain = [name for name in sent if name != "detail"]  # a word of its own
        return [name for name in plain if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", self.words)]


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def after(headers: Mapping[str, str], error: Mapping[str, Any]) -> float | None:
    """When to ask again, in seconds from now: Retry-After (a number or a date), or what Gemini's details say."""
    text = headers.get("retry-after-ms", "").strip()
    scale = 0.001 if text else 1.0
    text = text or headers.get("retry-after", "").strip()
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        if not text and isinstance(detail, dict) and isinstance(detail.get("retryDelay"), str):
            text = detail["retryDelay"].removesuffix("s")
    try:
        seconds = float(text) * scale
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), _LONGEST_AFTER) if math.isfinite(seconds) else None
