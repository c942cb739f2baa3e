"""Judges by their name alone: `edit judge --judge NAME` where no rubric is given."""

from __future__ import annotations

import dataclasses

from edittools.errors import UsageError
from edittools.judge.config import JudgeConfig
from edittools.judge.rubrics import rubric_names
from edittools.score.config import ScoreConfig
from edittools.score.reward_models import reward_model_names

HEARD = frozenset({"judge", "model", "prompts", "language", "instruction", "column", "max_pixels", "device", "dtype"})
"""What a reward model has a use for."""


def named_judge(config: JudgeConfig, strict: bool = True) -> JudgeConfig | ScoreConfig:
    """What the settings come to where `judge` says who judges: a reward model that is asked in this process and writes
    no words (its scores are those of `edit score --reward-model`), or who is asked by the rubric of that name.

    Settings with a rubric stay. Raises UsageError where neither says what to ask, and if `strict` for settings that a
    reward model has no use for.
    """
    if config.rubric is not None:
        return config
    if config.judge in rubric_names():
        return dataclasses.replace(config, rubric=config.judge, judge=None)
    if config.judge in reward_model_names():
        return _reward_model(config, strict)
    known = ", ".join(reward_model_names())
    raise UsageError(
        "--rubric NAME says what to ask a model"
        + (f": `{config.judge}` is no judge by itself" if config.judge else ""),
        hint=f"the rubrics: {', '.join(rubric_names())}; trained judges that are asked by none, --judge NAME: {known}; "
        "what is measured without asking: edit score",
    )


def _reward_model(config: JudgeConfig, strict: bool) -> ScoreConfig:
    for name in ("model", "prompts"):
        if getattr(config, name) is None:
            raise UsageError(f"--judge {config.judge} needs --{name}: its {_MEANT[name]}")
    for field in dataclasses.fields(config) if strict else ():
        if field.name not in HEARD and (getattr(config, field.name) or None) != (field.default or None):
            raise UsageError(f"--{field.name.replace('_', '-')} changes nothing beside --judge {config.judge}")
    return ScoreConfig(
        reward_model=config.judge,
        reward_weights=config.model,
        **{name: getattr(config, name) for name in HEARD - {"judge", "model"}},
    )


_MEANT = {"model": "weights, a folder or a name", "prompts": "texts, a checkout of its code"}
