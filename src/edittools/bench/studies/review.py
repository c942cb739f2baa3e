"""What people decided about pairs: two look at each without knowing of the other, a third decides where they differ.

Step1X-Edit 3.1.1 and FireRed 2.6 ("double-blind annotation"); what happens where two disagree they do not say.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edittools.bench.studies.answers import given_answers
from edittools.bench.studies.design import Design, design_of
from edittools.bench.studies.score import aligned
from edittools.metrics import agreement
from edittools.rounding import rounded

OPEN = "open"
"""The decision about a pair that too few have seen, or that they disagree about."""


@dataclass(frozen=True)
class Vote:
    """One person's complete answer about a pair; `first` is when it was there first, as ISO 8601 text."""

    rater: str
    decision: str
    reason: str | None = None
    instruction: tuple[tuple[str, str], ...] | None = None  # of a correction: language, words
    first: str = ""

    @property
    def said(self) -> tuple[Any, ...]:
        """What has to be the same for two to agree: a correction has words, which spaces do not change."""
        words = None if self.instruction is None else tuple((name, " ".join(text.split())) for name, text in self.words)
        return (self.decision, words)

    @property
    def words(self) -> list[tuple[str, str]]:
        return [(name, text) for name, text in self.instruction or () if text.strip()]


@dataclass(frozen=True)
class Decision:
    decision: str  # accept, correct, reject or open
    reason: str | None = None
    instruction: dict[str, str] | None = None


def decide(votes: Sequence[Vote], asked: Design) -> Decision:
    """What the votes come to, in the order of their times: the first two where they say the same, else the majority.

    Several corrections that are not alike: the last one's words stand, which are the third person's if theirs is one.
    """
    if len(votes) < (asked.raters or 2):
        return Decision(OPEN)
    first = votes[: asked.raters]
    if len({vote.said for vote in first}) > 1:
        (winner, count), *_ = Counter(vote.decision for vote in votes).most_common()
        if len(votes) == len(first) or 2 * count <= len(votes):
            return Decision(OPEN)
    else:
        winner = first[0].decision
    for_it = [vote for vote in votes if vote.decision == winner]
    reasons = Counter(vote.reason for vote in for_it if vote.reason)
    reason = reasons.most_common(1)[0][0] if reasons else None
    corrected = [vote for vote in for_it if vote.instruction is not None]
    return Decision(winner, reason, dict(corrected[-1].words) if corrected else None)


def vote_of(rater: str, answer: Mapping[str, Any], asked: Design) -> Vote:
    """The vote that a complete answer is."""
    (levels,) = answer["given"].values()
    (level,) = levels.values()
    decision = asked.levels[level - 1]
    words = answer.get("instruction") if decision == asked.edits else None
    return Vote(
        rater,
        decision,
        answer.get("reason") if decision == asked.levels[-1] else None,
        None if words is None else tuple(sorted(words.items())),
        str(answer.get("first") or answer.get("at") or ""),
    )


def votes_of(key: Mapping[str, Any], answers: Sequence[Mapping[str, Any]], asked: Design) -> dict[int, list[Vote]]:
    """Case -> its votes by the times of the first complete answers: whoever changes one keeps the place."""
    votes: dict[int, list[Vote]] = defaultdict(list)
    for rater, number, answer, values in given_answers(key, answers, asked):
        if values is not None:
            votes[number].append(vote_of(rater, answer, asked))
    return {number: sorted(votes[number], key=lambda vote: (vote.first, vote.rater)) for number in sorted(votes)}


def undecided(key: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]) -> list[int]:
    """Cases that as many as are needed have seen, without agreeing."""
    asked = design_of(key)
    votes = votes_of(key, answers, asked)
    needed = asked.raters or 2
    return [n for n, said in votes.items() if len(said) >= needed and decide(said, asked).decision == OPEN]


def score(key: Mapping[str, Any], answers: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, Any]:
    """Decisions per task and over all, agreement of those who came first, reasons. Nothing is drawn: no `seed`.

    Raises EditError for answers that the design has not.
    """
    asked = design_of(key)
    votes = votes_of(key, answers, asked)
    decided = {number: decide(said, asked) for number, said in votes.items()}
    tasks: dict[str, Counter[str]] = defaultdict(Counter)
    for number, case in enumerate(key["cases"]):
        tasks[case["task"]][decided[number].decision if number in decided else "unseen"] += 1
    names = [*asked.levels, OPEN, "unseen"]
    return rounded(
        {
            "study": key["study"],
            "design": key["design"],
            "raters": dict(Counter(vote.rater for said in votes.values() for vote in said)),
            "cases": len(key["cases"]),
            "dropped": len(key["dropped"]),
            "decisions": {name: sum(counts[name] for counts in tasks.values()) for name in names},
            "tasks": {task: {name: tasks[task][name] for name in names} for task in sorted(tasks)},
            "reasons": dict(Counter(one.reason for one in decided.values() if one.reason).most_common()),
            "agreement": _agreement(votes, asked),
        }
    )


def _agreement(votes: Mapping[int, Sequence[Vote]], asked: Design) -> dict[str, Any]:
    """Of the blind ones: who decides about a disagreement sees only what others found hard."""
    first = [said[: asked.raters] for said in votes.values()]
    raters = sorted({vote.rater for said in first for vote in said})
    levels = {
        (number, vote.rater): asked.levels.index(vote.decision) for number, said in enumerate(first) for vote in said
    }
    table = [[levels.get((number, rater)) for number in range(len(first))] for rater in raters]
    kappas = []
    for a, b in itertools.combinations(table, 2):
        both = sum(x is not None and y is not None for x, y in zip(a, b))
        kappa = agreement.cohen_kappa(a, b)
        if kappa is not None:
            kappas.append((both, kappa))
    seen = [said for said in first if len(said) >= 2]
    same = sum(len({vote.decision for vote in said}) == 1 for said in seen)
    return {
        "items": len(seen),
        "same": same / len(seen) if seen else None,
        "kappa": sum(n * kappa for n, kappa in kappas) / sum(n for n, _ in kappas) if kappas else None,
        "alpha": agreement.krippendorff_alpha(table, "nominal") if raters else None,
    }


def export(key: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]) -> str:
    """One line of JSON per pair that somebody has seen, which `edit filter --review` reads."""
    asked = design_of(key)
    lines = []
    for number, said in votes_of(key, answers, asked).items():
        found = decide(said, asked)
        line = {
            "id": key["cases"][number]["id"],
            "decision": found.decision,
            "reason": found.reason,
            "instruction": found.instruction,
            "votes": [{"rater": v.rater, "decision": v.decision, "reason": v.reason} for v in said],
            "study": key["study"],
        }
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return "".join(lines)


def as_text(found: Mapping[str, Any], markdown: bool = False) -> str:
    """Decisions per task, reasons and agreement."""
    names = list(found["decisions"])
    rows = [["task", *names]]
    rows += [[task, *(str(counts[name]) for name in names)] for task, counts in found["tasks"].items()]
    if len(found["tasks"]) > 1:
        rows.append(["all", *(str(found["decisions"][name]) for name in names)])
    lines = [*aligned(rows, markdown), ""]
    if found["reasons"]:
        lines += [f"Rejected for: {_listed(found['reasons'].items())}.", ""]
    agreed = found["agreement"]
    numbers = [
        f"{label} {agreed[name]:.3f}"
        for label, name in (("same decision", "same"), ("Cohen's kappa", "kappa"), ("Krippendorff's alpha", "alpha"))
        if agreed[name] is not None
    ]
    if numbers:
        lines += [f"Agreement of two on {agreed['items']} pairs: {', '.join(numbers)}.", ""]
    lines.append(f"Raters: {_listed(found['raters'].items())}; dropped before: {found['dropped']}.")
    return "\n".join([*lines, ""])


def _listed(items: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{name} {count}" for name, count in items) or "none"
