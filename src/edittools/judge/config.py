"""What `edit judge` can be told."""

from __future__ import annotations

from dataclasses import dataclass

from edittools.score.reward_models import reward_model_names
from edittools.settings import max_pixels_setting, setting
from edittools.vlm.config import VlmConfig, with_backend_options


def _judge_name(name: str | None) -> str | None:
    from edittools.rubric.names import ENSEMBLE, check_judge_name

    return name if name in (None, ENSEMBLE) else check_judge_name(name)


@with_backend_options
@dataclass(frozen=True)
class JudgeConfig(VlmConfig):
    """Settings of a judge: a model that is asked by a rubric, or what is made of such judges' scores."""

    max_pixels: int = max_pixels_setting()
    rubric: str | None = setting(None, "By which rubric the model judges.", metavar="NAME")
    prompts: str | None = setting(
        None, "The benchmark's texts: a file, a folder or a checkout that holds them.", metavar="PATH"
    )
    repeats: int = setting(
        1,
        "Judge every row K times: the mean, and from five on its 95% interval (`_low`, `_high`).",
        metavar="K",
        low=1,
    )
    judge: str | None = setting(
        None,
        "Call this judge NAME (letters, digits, _ - .): its scores get columns of their own, "
        "`judge_RUBRIC_DIMENSION__NAME` with _ for - and ., beside those of other judges; `edit eval report --judge` "
        "chooses. Without --rubric, who judges: " + ", ".join(reward_model_names()) + ", or a rubric.",
        metavar="NAME",
        parse=_judge_name,
    )
    soft: bool = setting(False, "Also the expected rating under the token probabilities (`_soft`).")
    structured: bool = setting(False, "Ask for JSON by schema: where endpoint and rubric can.")
    language: str | None = setting(
        None, "Of the instructions. Default: English, or what a row has.", choices=("en", "zh")
    )
    instruction: str | None = setting(
        None,
        "Column of the instruction; `instruction_negative` is that of hard negatives. Default: `instruction`.",
        metavar="COLUMN",
    )
    column: str | None = setting(None, "The edited image. Default: `result`, otherwise `target`.", metavar="COLUMN")
    other_column: str | None = setting(None, "The other result's column (rubric pairwise).", metavar="COLUMN")
    max_side: int = setting(
        1024,
        "Longest side of the images that our own rubrics send; a benchmark's have their own encoding.",
        metavar="N",
        low=64,
    )
    ratings: str | None = setting(
        None,
        "Instead: what people said, as scores of the rows (CSV, Parquet or JSON lines, as of --calibrate): "
        "`human_DIMENSION`, or `human` (no dimension, or `overall`), the mean over raters. Of a file of several "
        "models' ratings --model says whose the rows are. `edit pair` and the recipe `judge` learn from these.",
        metavar="FILE",
    )
    calibrate: str | None = setting(
        None,
        "Instead: put the scores of judged rows on the scale of human ratings (CSV, Parquet or JSON lines: id, score, "
        "and rater and dimension where there are several), by isotonic regression: "
        "`judge_RUBRIC_DIMENSION_calibrated`, of a rated row by a fit without its fold. --rubric and --judge narrow "
        "down whose scores.",
        metavar="FILE",
    )
    ensemble: bool = setting(
        False,
        "Instead: put the judges of a rubric together, asking nobody: the mean of their scores, "
        "`judge_RUBRIC_DIMENSION__ensemble`, and their standard deviation, `judge_RUBRIC_DIMENSION_spread__ensemble`, "
        "of rows that all of them scored. `edit eval report --judge ensemble` and --calibrate take it for a judge. "
        "--rubric narrows down whose judges.",
    )
    folds: int | None = setting(None, "With --calibrate: of the cross-validation. Default: 5.", metavar="K", low=2)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.judge is not None and self.calibrate is None:  # which takes an ensemble for a judge
            from edittools.rubric.names import check_judge_name

            check_judge_name(self.judge)
