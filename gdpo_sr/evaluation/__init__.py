"""Scoring folders of results, comparing methods, and writing tables and the report."""

from gdpo_sr.evaluation.results import Evaluation, MetricInfo, Run

__all__ = ["Evaluation", "MetricInfo", "Run"]
