"""Image quality metrics by name."""

from gdpo_sr.metrics.registry import Metric, create_metric

__all__ = ["Metric", "create_metric"]
