"""What happens while training: callbacks, the same on every backend."""

from mlpug.callbacks.callback import Callback
from mlpug.callbacks.checkpoint_manager import CheckpointManager
from mlpug.callbacks.describe import BatchSizeLogger, DescribeLogsObject
from mlpug.callbacks.device_memory import DeviceMemory, LogDeviceMemory
from mlpug.callbacks.history import History
from mlpug.callbacks.lr_schedules import LRSchedulerWrapper
from mlpug.callbacks.metrics import DatasetMetricsLogger, LoggingMode, TestMetricsLogger, TrainingMetricsLogger
from mlpug.callbacks.progress import LogProgress
from mlpug.callbacks.progress_bar import ProgressBar
from mlpug.callbacks.tensorboard import AutoTensorboard, Tensorboard

__all__ = [
    "AutoTensorboard",
    "BatchSizeLogger",
    "Callback",
    "CheckpointManager",
    "DatasetMetricsLogger",
    "DescribeLogsObject",
    "DeviceMemory",
    "History",
    "LRSchedulerWrapper",
    "LogDeviceMemory",
    "LogProgress",
    "LoggingMode",
    "ProgressBar",
    "Tensorboard",
    "TestMetricsLogger",
    "TrainingMetricsLogger",
]
