"""What `edit score` can be told."""

from __future__ import annotations

from dataclasses import dataclass

from edittools.errors import UsageError
from edittools.score.reward_models import reward_model_names
from edittools.settings import Placed, max_pixels_setting, setting


def _judge_name(name: str | None) -> str | None:
    from edittools.rubric.names import check_judge_name

    return None if name is None else check_judge_name(name)


@dataclass(frozen=True)
class ScoreConfig(Placed):
    """Settings of what is measured without asking for an opinion."""

    max_pixels: int = max_pixels_setting()
    clip: str | None = setting(None, "Also CLIP similarity of the result.", group="Model", metavar="NAME")
    dino: str | None = setting(None, "Also DINO similarity of the result.", group="Model", metavar="NAME")
    alignment: bool = setting(
        False,
        "Also how far target and result lie off the source: `shift` (mean motion), `shift_x`, `shift_y` in pixels, "
        "`zoom`, `rotation` in degrees, with `result_` before those of the result.",
    )
    identity: str | None = setting(
        None,
        "Also how alike the faces of result and target, and of source and target, are to a face-recognition network "
        "(ArcFace), of rows with `faces` (`edit ground --detector face`).",
        group="Model",
        metavar="NAME",
    )
    ocr: bool = setting(
        False,
        "Instead: does the writing in the result (or target) read as the instruction says in quotation marks? "
        "`ocr_similarity`, `ocr_completion`, `ocr_words` and their weighted mean `ocr`, definitions and weights ours.",
    )
    layout: bool = setting(
        False,
        "With --ocr: also a reward for training (`ocr_reward`), the mean of whether all writing is that of the target "
        "to the letter (`ocr_exact`) and whether its characters stand where the target has them, no larger "
        "(`ocr_layout`).",
    )
    targets: str | None = setting(
        None,
        "With --ocr: the wanted texts, `id` and `text` in CSV, Parquet or JSON lines; rows that it lacks go by their "
        "instruction.",
        metavar="FILE",
    )
    reward_model: str | None = setting(
        None,
        "Instead: the scores of a trained reward model, in this process, of every result (or target).",
        group="Model",
        choices=reward_model_names(),
    )
    reward_weights: str | None = setting(
        None, "With --reward-model: its weights.", group="Model", metavar="FOLDER|NAME", recorded=False
    )
    prompts: str | None = setting(
        None,
        "With --reward-model: a checkout of its code, whose texts it is asked with.",
        group="Model",
        metavar="PATH",
        recorded=False,
    )
    judge: str | None = setting(
        None,
        "With --reward-model: call it NAME: its scores get columns of their own that end in `__NAME`, as those of "
        "`edit judge --judge`, such as one for each --column.",
        metavar="NAME",
        parse=_judge_name,
    )
    language: str | None = setting(
        None,
        "With --ocr or --reward-model: of the instructions. Default: English, or what a row has.",
        choices=("en", "zh"),
    )
    instruction: str | None = setting(
        None,
        "With --ocr or --reward-model: column of the instruction; `instruction_negative` is that of hard negatives. "
        "Default: `instruction`.",
        metavar="COLUMN",
    )
    column: str | None = setting(
        None,
        "With --ocr or --reward-model: the image that is looked at. Default: `result`, otherwise `target`.",
        metavar="COLUMN",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ocr and self.reward_model:
            raise UsageError("--ocr and --reward-model: two commands, one after the other")
        instead = "--ocr" if self.ocr else "--reward-model" if self.reward_model else None
        needs: dict[str, tuple[str, ...]] = {name: ("--ocr",) for name in ("layout", "targets")}
        needs |= {name: ("--reward-model",) for name in ("reward_weights", "prompts", "judge")}
        needs |= {name: ("--ocr", "--reward-model") for name in ("language", "instruction", "column")}
        for name in ("clip", "dino", "alignment", "identity", *needs):
            flag = "--" + name.replace("_", "-")
            if getattr(self, name) in (None, False):
                if self.reward_model and name in ("reward_weights", "prompts"):
                    raise UsageError(f"--reward-model {self.reward_model} needs {flag}")
            elif name in needs and instead not in needs[name]:
                raise UsageError(f"{flag} needs " + " or ".join(needs[name]))
            elif name not in needs and instead:
                raise UsageError(f"{flag} changes nothing beside {instead}")
