"""Tensors of a file into a module: every name, shape and value is checked before the first one is copied."""

import hashlib
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn

from ptq_export.errors import InputError

__all__ = ["fit", "require_finite", "require_plain", "tensors_sha256"]

_OTHER_NET = "the file belongs to another net, or is incomplete"


def fit(module: nn.Module, tensors: Mapping[str, Tensor], path: str, file_name: Callable[[str], str] = str) -> None:
    """Give `module` (on the meta device) the values of `tensors`, each copied to memory of its own as float32.

    `file_name` tells how the file calls a tensor of the module; a 1x1 convolution of the file, over one or two
    dimensions, fits a linear layer.

    Raises:
        InputError: tensors missing or left over, other shapes, not plain float tensors, NaN or infinity.
    """
    expected = {file_name(name): (name, tensor.shape) for name, tensor in module.state_dict().items()}
    _require_none(path, "lacks the tensors", [name for name in expected if name not in tensors])
    _require_none(path, "has the unexpected tensors", [name for name in tensors if name not in expected])
    state = {name: _shaped(path, key, tensors[key], shape) for key, (name, shape) in expected.items()}
    require_finite({key: state[name] for key, (name, _) in expected.items()}, path)
    module.load_state_dict(state, assign=True)


def require_finite(tensors: Mapping[str, Tensor], path: str) -> None:
    """Refuse NaN and infinite values, naming the first tensor that has one."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"{path}: the tensor {name} holds NaN or infinite values", "use an earlier checkpoint")


def require_plain(name: str, tensor: Tensor, path: str) -> None:
    """Refuse integers, sparse tensors and tensors without values."""
    if not tensor.is_floating_point() or tensor.layout is not torch.strided or tensor.is_meta:
        kind = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}"
        raise InputError(f"{path}: the tensor {name} is not a plain float tensor ({kind})", "save float weights")


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hexadecimal sha256 of names, dtypes, shapes and bytes, whatever file they are in."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _require_none(path: str, complaint: str, names: Collection[str]) -> None:
    if not names:
        return
    shown = ", ".join(sorted(names)[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    raise InputError(f"{path} {complaint} {shown}", _OTHER_NET)


def _shaped(path: str, name: str, tensor: Tensor, shape: torch.Size) -> Tensor:
    require_plain(name, tensor, path)
    if tensor.shape not in (shape, (*shape, 1), (*shape, 1, 1)):
        found = f"has the shape {list(tensor.shape)}, the net needs {list(shape)}"
        raise InputError(f"{path}: the tensor {name} {found}", _OTHER_NET)
    return tensor.reshape(shape).to(torch.float32, copy=True, memory_format=torch.contiguous_format)
