"""Metrics that are exact over uneven batches, computed only when somebody looks."""

from mlpug.evaluation.mean import WeightedMean
from mlpug.evaluation.metric import Metric, StreamingMetric
from mlpug.evaluation.metric_evaluator import MetricEvaluator

__all__ = ["Metric", "MetricEvaluator", "StreamingMetric", "WeightedMean"]
