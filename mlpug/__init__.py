"""mlpug: one training API for PyTorch, TensorFlow and JAX that owns no training loop.

Import the backend to train with, and keep the rest of the script:

    import mlpug.pytorch as mlp

Importing ``mlpug`` itself loads no machine-learning library.
"""

__version__ = "0.1.0"
