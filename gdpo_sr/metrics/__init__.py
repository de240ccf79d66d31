"""Image quality metrics by name, and published protocols."""

from gdpo_sr.metrics.protocols import PROTOCOLS, Protocol, make_protocol
from gdpo_sr.metrics.pyiqa_build import MetricUnavailable
from gdpo_sr.metrics.registry import Metric, create_metric
from gdpo_sr.metrics.set_metric import SetMetric, create_set_metric

__all__ = [
    "PROTOCOLS",
    "Metric",
    "MetricUnavailable",
    "Protocol",
    "SetMetric",
    "create_metric",
    "create_set_metric",
    "make_protocol",
]
