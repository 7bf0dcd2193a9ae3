"""Metrics that are exact over uneven batches, computed only when somebody looks."""

from mlpug.evaluation.mean import WeightedMean
from mlpug.evaluation.metric import Metric
from mlpug.evaluation.metric_evaluator import MetricEvaluator
from mlpug.evaluation.streaming import StreamingMetric

__all__ = ["Metric", "MetricEvaluator", "StreamingMetric", "WeightedMean"]
