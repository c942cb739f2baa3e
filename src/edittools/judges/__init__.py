"""Scores for edit pairs and for results: from pixels (`truth`, on the metrics of `pixels`)."""

from edittools.judges.truth import judge_pair, judge_result

__all__ = ["judge_pair", "judge_result"]
