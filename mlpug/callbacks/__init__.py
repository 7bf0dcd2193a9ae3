"""What happens while training: callbacks, the same on every backend."""

from mlpug.callbacks.callback import Callback
from mlpug.callbacks.describe import BatchSizeLogger, DescribeLogsObject
from mlpug.callbacks.metrics import DatasetMetricsLogger, LoggingMode, TestMetricsLogger, TrainingMetricsLogger
from mlpug.callbacks.progress import LogProgress

__all__ = [
    "BatchSizeLogger",
    "Callback",
    "DatasetMetricsLogger",
    "DescribeLogsObject",
    "LogProgress",
    "LoggingMode",
    "TestMetricsLogger",
    "TrainingMetricsLogger",
]
