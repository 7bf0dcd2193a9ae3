"""Tensors as what a checkpoint holds, and back."""

from __future__ import annotations

from typing import Any

import torch

from mlpug.checkpoints import RawTensor
from mlpug.checkpoints.tensors import NUMPY_TYPES, OTHER_TYPES, Array
from mlpug.errors import StateError

# What torch has of the types that numpy hasn't: older versions lack some.
_RAW_NAMES = {getattr(torch, name): raw for name, raw in OTHER_TYPES.items() if hasattr(torch, name)}
_RAW_TYPES = {raw: dtype for dtype, raw in _RAW_NAMES.items()}


def as_array(tensor: torch.Tensor) -> Array | RawTensor:
    """The tensor's numbers: its own memory where that is the CPU's, a copy where not.

    Raises:
        StateError: A sparse or quantized tensor, one without memory, or a type of numbers that a checkpoint can't hold.

    >>> as_array(torch.ones(2, requires_grad=True))
    array([1., 1.], dtype=float32)
    >>> as_array(torch.ones(2, dtype=torch.bfloat16)).dtype
    'BF16'
    """
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type == "meta":
        raise StateError(
            f"A checkpoint can't hold a tensor of layout {tensor.layout} and dtype {tensor.dtype} on the device "
            f"{tensor.device}. Make it a dense tensor with memory."
        )
    plain = tensor.detach().resolve_conj().resolve_neg().cpu()
    if plain.dtype in _RAW_NAMES:
        data = plain.contiguous().reshape(-1).view(torch.uint8).numpy()
        return RawTensor(_RAW_NAMES[plain.dtype], tuple(plain.shape), data)
    try:
        return plain.numpy()
    except TypeError as error:  # complex32, and what torch packs several to a byte
        raise StateError(f"A checkpoint can't hold a tensor of {tensor.dtype}. Make it one of float32.") from error


def as_tensor(array: Array | RawTensor) -> torch.Tensor:
    """The array as a tensor on the CPU, which shares its memory.

    >>> as_tensor(as_array(torch.tensor([0.5, 2.0], dtype=torch.bfloat16)))
    tensor([0.5000, 2.0000], dtype=torch.bfloat16)
    """
    if not isinstance(array, RawTensor):
        return torch.from_numpy(array)
    if array.dtype in NUMPY_TYPES:
        return torch.from_numpy(array.data.view(NUMPY_TYPES[array.dtype]).reshape(array.shape))
    dtype = _RAW_TYPES[array.dtype]
    if not array.data.size:  # which torch can't view as another type
        return torch.empty(array.shape, dtype=dtype)
    return torch.from_numpy(array.data).view(dtype).reshape(array.shape)


def leaf_to_plain(value: Any) -> Any:
    """The `leaf` of `mlpug.plain.to_plain`: tensors, dtypes and devices, which come back as they were, on the CPU.

    >>> from mlpug.plain import from_plain, to_plain
    >>> from_plain(to_plain({"step": torch.tensor(3.0)}, leaf_to_plain), leaf_from_plain)
    {'step': tensor(3.)}
    """
    if isinstance(value, torch.Tensor):
        return {"tensor": as_array(value)}
    if isinstance(value, torch.Size):
        return {"size": list(value)}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    return NotImplemented


def leaf_from_plain(content: Any) -> Any:
    """The `leaf` of `mlpug.plain.from_plain`."""
    ((kind, value),) = content.items()
    if kind == "tensor":
        return as_tensor(value)
    if kind == "size":
        return torch.Size(value)
    if kind == "dtype":
        dtype = getattr(torch, value, None)
        if isinstance(dtype, torch.dtype):
            return dtype
    if kind == "device":
        return torch.device(value)
    raise ValueError(f"no {kind}: {value!r}")


def placed_to_plain(value: Any) -> Any:
    """As `leaf_to_plain`, for tensors that nobody moves to where they were: they come back on their own device."""
    if isinstance(value, torch.Tensor) and value.device.type != "cpu":
        return {"placed": [as_array(value), str(value.device)]}
    return leaf_to_plain(value)


def placed_from_plain(content: Any) -> Any:
    """The `leaf` of `from_plain` for it; of a device that isn't here, the first one of its kind."""
    if "placed" not in content:
        return leaf_from_plain(content)
    array, name = content["placed"]
    device, tensor = torch.device(name), as_tensor(array)
    try:
        return tensor.to(device)
    except RuntimeError:
        return tensor.to(device.type)
