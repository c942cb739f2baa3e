"""What `edit pair` can be told."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from edittools.errors import UsageError
from edittools.filter.direction import parse_rewards
from edittools.metrics.rewards import Reward, floor_setting
from edittools.settings import Config, max_pixels_setting, names_of, setting

TRUTH = "target"


@dataclass(frozen=True, kw_only=True)
class PairConfig(Config):
    """Settings of the stage that pairs candidates."""

    max_pixels: int = max_pixels_setting()
    by: tuple[str, ...] = setting(
        dataclasses.MISSING,
        "Score that says which candidate is better; several, with weights, are each normalised within the group and "
        "added up. Distances (l1) and filters that bound from above (niqe) are the better the lower they are.",
        metavar="SCORE[:WEIGHT],...",
        parse=names_of,
    )
    floor: tuple[str, ...] = floor_setting()
    winners: tuple[str, ...] = setting(
        (),
        "Where the winners are from: `target`, the truth of the row, or a set of candidates of the same rows, cut into "
        "the same shards, such as an expert's; may be repeated. The losers are the input's. Default: both are.",
        metavar="target|FOLDER",
        group="Input",
        recorded=False,
    )
    margin: float = setting(
        0.0, "Least difference of the two scores; equal ones make no pair but by --ties.", low=0, metavar="X"
    )
    ties: bool = setting(
        False,
        "Also pairs that --margin leaves undecided: their score `preference` is 0.5 (1 of all others). The recipes "
        "`ranking` and `judge` learn them; preference optimisation leaves them out.",
    )
    near_equal: float = setting(
        40.0,
        "Drop pairs whose images are as near to each other as this, in dB of PSNR; equal ones never make a pair.",
        low=0,
        metavar="DB",
    )
    per_group: int = setting(
        1, "Pairs of a group: the best with the worst, the second best with the second worst, ...", low=1, metavar="N"
    )
    column: str = setting("result", "Column of the images that are compared.", metavar="COLUMN")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.by:
            raise UsageError("--by: nothing is left")
        parse_rewards(self.by, self.floor)
        if TRUTH in self.winners:
            if len(self.winners) > 1:
                raise UsageError("--winners target: the truth of a row is its only winner then")
            if self.margin or self.ties:
                flag = "--margin" if self.margin else "--ties"
                raise UsageError(f"{flag}: the truth has no score to be compared", hint="--winners target goes alone")

    @property
    def rewards(self) -> list[Reward]:
        """Parsed values of `by` and `floor`."""
        return parse_rewards(self.by, self.floor)
