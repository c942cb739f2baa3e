"""What an error says: whether it is about this request, about a parameter, about the whole run, or will pass.

Statuses alone do not tell. Services answer 400 for a filter and for an unknown parameter, 403 for a wrong key and for
a flagged picture, 404 for a wrong address and for a model that sees no pictures: their words decide, as far as they are
known here, and otherwise how many requests meet the same (`asking`).
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
_TRANSIENT = (408, 409, 425, 429)
_OF_THE_REQUEST = (400, 406, 413, 414, 415, 416, 422, 431)
# OpenAI, Azure, DashScope (data_inspection_failed), Moonshot, Volcengine (...SensitiveContentDetected), StepFun, Zhipu
# and z.AI (1301), MiniMax (1026, 1027): letters and digits of `code` and `type`, in lower case.
_FILTER_CODES = re.compile(
    r"contentfilter|contentpolicyviolation|responsibleaipolicyviolation|moderationblocked|contentmoderation|"
    r"datainspection|sensitivecontent|censorship|prohibitedcontent|contentblocked|^invalidprompt$|^(1301|1026|1027)$"
)
_FILTER_WORDS = re.compile(
    r"inappropriate content|content[ _-](management|filter\w*|moderation|usage|safety)|"
    r"(content|usage|safety) (policy|policies|guidelines|system|filter)|"
    r"(input|prompt|image|content|request|output)s? (was|were|is|has been|may be|being) (flagged|blocked|rejected by)|"
    r"requires moderation|unsafe or sensitive|sensitive (content|words)|considered high risk|prohibited[ _]content|"
    r"不安全或敏感|敏感(内容|信息|词)|违规|内容安全",
    re.IGNORECASE,
)
# The account is meant, not a picture.
_ACCOUNT_WORDS = re.compile(
    r"\b(account|organi[sz]ation|api[ _-]?key|subscription)\b.{0,40}(flagged|suspended|disabled|deactivated|banned)|"
    r"insufficient[ _](balance|quota|credit|funds)|exceeded your current quota|arrearage|overdue|billing|"
    r"api key not valid|API_KEY_INVALID|location is not supported|余额不足|欠费",
    re.IGNORECASE,
)
_ACCOUNT_CODES = re.compile(
    r"insufficientquota|apikeyinvalid|invalidapikey|modelnotfound|arrearage|invalidauth|billing"
)
_DECLINES = re.compile(
    r"unsupported|not (be |currently |yet )?(support|allow|permit|available|accept|recogni|implement|applicable)|"
    r"not compatible|n't (support|allow|accept|recogni)|unrecogni|unknown|unexpected|extra (inputs|fields)|"
    r"only (the )?default|"
    r"only \S+ is (allowed|supported)|can(not|'t| not) (both )?be (used|specified|set|combined|changed|modified)|"
    r"only one of|either .* or|deprecated|(should|must) (be )?(omitted|removed|left out|unset|not)|fixed|"
    r"does not exist|invalid (parameter|argument|field)|不支持|无效",
    re.IGNORECASE,
)
_TOO_MANY = re.compile(
    r"too (large|big|high|many)|exceed|at most|maximum|less than or equal|context|range", re.IGNORECASE
)
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
            found = body.get(name)
            found = found[0] if isinstance(found, list) and found else found
            if isinstance(found, dict):
                return found
            if isinstance(found, str) and found:
                return {**body, "message": found}
        return body

    @cached_property
    def words(self) -> str:
        """The server's own, in full."""
        error = self.error
        said = next((error[n] for n in ("message", "msg", "status_msg", "error_msg", "reason") if error.get(n)), None)
        if said is None and self.body is None:
            title = re.search(r"<title[^>]*>(.*?)</title", self.text, re.IGNORECASE | re.DOTALL)
            said = f"an HTML page: {title[1].strip()}" if title else None
        said = said if isinstance(said, str) else self.text if said is None else json.dumps(said, ensure_ascii=False)
        said = said.strip() or responses.get(self.status, "no word")
        beneath = _dict(error.get("metadata"))
        details = [beneath.get("raw"), beneath.get("reasons")]  # OpenRouter: what the provider said
        return ": ".join([said, *(d if isinstance(d, str) else json.dumps(d) for d in details if d)])

    @cached_property
    def codes(self) -> tuple[str, ...]:
        """Letters and digits of every code, in lower case."""
        error = self.error
        given = [error.get(name) for name in ("code", "type", "status", "status_code")]
        given.append(_dict(error.get("innererror")).get("code"))
        return tuple(re.sub(r"[^0-9a-z]", "", str(code).lower()) for code in given if isinstance(code, str | int))

    @cached_property
    def kind(self) -> Kind:
        """`filtered`: a filter blocked this request. `transient`: repeating may help. `run`: probably every other
        request meets it too. `request`: it is about this one.
        """
        about_account = _ACCOUNT_WORDS.search(self.words) or any(map(_ACCOUNT_CODES.search, self.codes))
        if not about_account and self.status != 429 and self._is_filter():
            return "filtered"
        if about_account and self.status < 500:
            return "run"
        if self.status in _TRANSIENT or (self.status >= 500 and self.status not in (501, 505)):
            return "transient"
        return "request" if self.status in _OF_THE_REQUEST else "run"

    def _is_filter(self) -> bool:
        flagged = "flagged_input" in _dict(self.error.get("metadata"))
        by_words = self.status < 500 and bool(_FILTER_WORDS.search(self.words))
        return flagged or by_words or self.status == 451 or any(map(_FILTER_CODES.search, self.codes))

    @property
    def needs_stream(self) -> bool:
        return self.status in (400, 422) and bool(_NEEDS_STREAM.search(self.words))

    @property
    def needs_responses(self) -> bool:
        """The model is asked through the Responses API only."""
        return self.status in (400, 404) and bool(_NEEDS_RESPONSES.search(self.words))

    def declined(self, sent: Collection[str]) -> dict[str, str | None]:
        """Which of the parameters that were `sent` the model does not take: name -> None, or the name that it wants."""
        if self.status not in (400, 403, 404, 422, 500):  # 403: OpenAI's, for log-probabilities that it keeps
            return {}
        declines = any("unsupported" in code or "unknownparam" in code for code in self.codes)
        if _DECLINES.search(self.words) and not _OUT_OF_RANGE.search(self.words):  # that is the user's mistake
            declines = True
        named = self._named(sent)
        found: dict[str, str | None] = {}
        for name in named:
            if name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
                wanted = "max_completion_tokens"
                if name == "max_tokens" and wanted in self.words and not _TOO_MANY.search(self.words):
                    found[name] = wanted
                elif declines or _TOO_MANY.search(self.words):
                    found[name] = None
            elif declines:
                found[name] = None
        if {"temperature", "top_p"} <= found.keys() and _CONFLICT.search(self.words) and "support" not in self.words:
            del found["temperature"]
        if found.keys() & {"logprobs", "top_logprobs"}:  # the written tokens' own would pass for a distribution
            found |= {name: None for name in ("logprobs", "top_logprobs") if name in sent}
        return found

    def _named(self, sent: Collection[str]) -> list[str]:
        """The sent parameters that the error names: in its fields, in quotation marks, or anywhere in its words."""
        place = self.error.get("loc")
        places = [self.error.get("param"), *(place if isinstance(place, list) else [])]
        path = {part for place in places if isinstance(place, str) for part in re.split(r"[.\[\]]+", place)}
        if found := [name for name in sent if name in path]:
            return found
        quoted = {part for said in _QUOTED.findall(self.words) for part in re.split(r"[.\[\]]+", said)}
        if found := [name for name in sent if name in quoted]:
            return found
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
