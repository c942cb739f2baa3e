"""Rewards of the members of one group: which score is meant, with what weight, and several of them as one number.

A reward is a list of numbers, one per member, None where there is none: whoever makes them has the form
`score(cases) -> list[float | None]`. What failed is no reward: such a member takes no part, it is not counted as bad.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edittools.settings import names_of, setting

FLAT = 1e-6  # a spread up to this is none


@dataclass(frozen=True)
class Reward:
    """A score by its name, its weight among several, and the value below which a member counts as the group's worst.

    One without weight is there for its floor alone.
    """

    name: str
    weight: float = 1.0
    floor: float | None = None

    @classmethod
    def parse(cls, text: str) -> Reward:
        """`NAME` or `NAME:WEIGHT`. Raises ValueError."""
        name, weight = split_number(text, 1.0)
        if weight <= 0:
            raise ValueError(f"the weight of `{name}` is {weight:g}; a weight is above 0")
        return cls(name, weight)


def split_number(text: str, default: float | None = None) -> tuple[str, float]:
    """`NAME:NUMBER`; without a number `default`, where there is one. Raises ValueError."""
    name, colon, number = text.rpartition(":")
    if not colon:
        name, number = text, "" if default is None else str(default)
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not name or not math.isfinite(value):
        raise ValueError(f"`{text}` is not NAME{':NUMBER' if default is None else '[:NUMBER]'}")
    return name, value


def normalised(values: Sequence[float]) -> list[float]:
    """Less their mean, in units of their standard deviation (of all, n in the denominator); 0 where they are equal."""
    mean = math.fsum(values) / len(values)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
    return [0.0 if spread <= FLAT else (value - mean) / spread for value in values]


def combined(values: Mapping[str, Sequence[float | None]], rewards: Sequence[Reward]) -> list[float | None]:
    """One reward of a group's members out of several; the higher the better, as all of `values` have to be.

    One alone stays as it is. Of several each is first normalised by itself, over the members that have all of them, so
    that a reward on a large scale does not drown the others, and weighted then. A member that is below a floor gets
    what the worst member has.
    """
    count = len(values[rewards[0].name])
    whole = [k for k in range(count) if all(values[reward.name][k] is not None for reward in rewards)]
    if not whole:
        return [None] * count
    known = {reward.name: [float(values[reward.name][k] or 0) for k in whole] for reward in rewards}
    counted = [reward for reward in rewards if reward.weight]
    if len(counted) == 1:
        totals = known[counted[0].name]
    else:
        weighed = [[reward.weight * value for value in normalised(known[reward.name])] for reward in counted]
        totals = [math.fsum(parts) for parts in zip(*weighed)]
    worst = min(totals)
    made: list[float | None] = [None] * count
    below = below_floor(values, rewards)
    for place, k in enumerate(whole):
        made[k] = worst if below[k] else totals[place]
    return made


def below_floor(values: Mapping[str, Sequence[float | None]], rewards: Sequence[Reward]) -> list[bool]:
    """Which members of a group are below a floor."""
    below = [False] * len(values[rewards[0].name])
    for reward in rewards:
        for k, value in enumerate(values[reward.name]):
            below[k] |= value is not None and reward.floor is not None and value < reward.floor
    return below


def optimality(values: Sequence[float | None], clip: float) -> list[float | None]:
    """What a group's rewards come to: 1/2 is the group's mean, 0 and 1 are `clip` standard deviations off it, or more.

    None of a member without reward, and of all where fewer than two have one or all are equal: nothing can be learned
    from such a group.
    """
    # r = (1 + clip(A, ±c) / c) / 2,  A = (R - mean) / std over the group   [Zheng et al. 2025, equation 6]
    known = [value for value in values if value is not None]
    if len(known) < 2 or not any(advantages := normalised(known)):
        return [None] * len(values)
    made = iter([0.5 + min(max(advantage, -clip), clip) / clip / 2 for advantage in advantages])
    return [None if value is None else next(made) for value in values]


def floor_setting(group: str = "Selection") -> Any:
    """The field `floor` of stages that choose among candidates."""
    return setting(
        "",
        "A candidate that is worse than this in one of these scores (result_edit_ratio:0.001 is a guard against copies "
        "of the source) counts as the worst of its group.",
        metavar="SCORE:VALUE,...",
        group=group,
        parse=names_of,
    )
