"""A GPU that is not there: tensors that say they are on another device, and hold real numbers.

The device is called "meta", torch's own name for one without memory. What runs there is counted, and so is where the
host would wait for it. An operation on tensors of both sides, which a GPU refuses, is refused here too.
"""

import sys
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("meta")
_SOURCES = str(Path(__file__).resolve().parents[3])
_MASKS, _WAITS = {"index", "index_put", "index_put_"}, {"_local_scalar_dense", "nonzero"}


class OnGpu(torch.Tensor):
    """A tensor there; `held` has its numbers."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor):
        of = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype, "device": GPU}
        tensor = torch.Tensor._make_wrapper_subclass(cls, held.shape, **of)
        tensor.held = held
        return tensor

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise AssertionError("tensors of the GPU met code that runs outside of `pretended`")


class _Dispatch(TorchDispatchMode):
    def __init__(self, counted: Counter) -> None:
        super().__init__()
        self.counted = counted

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name, leaves = function._schema.name.removeprefix("aten::"), tree_leaves((args, kwargs))
        there = [x for x in leaves if isinstance(x, OnGpu)]
        here = [x for x in leaves if isinstance(x, torch.Tensor) and not isinstance(x, OnGpu) and x.ndim]
        goes = kwargs.get("device")
        if not there and goes != GPU:
            return function(*args, **kwargs)
        if goes == GPU:
            kwargs = kwargs | {"device": torch.device("cpu")}
        copies = name in ("_to_copy", "copy_", "lift_fresh")
        assert copies or name in _MASKS or not (there and here), f"{name} of tensors on two devices"
        # To fill what a mask says with one number is no reason to wait; how many rows it picks is.
        fills = name != "index" and args[2].numel() == 1 if name in _MASKS else False
        indices = [x for x in tree_leaves(args[1]) if isinstance(x, torch.Tensor)] if name in _MASKS else []
        masked = not fills and any(x.dtype == torch.bool for x in indices)
        crosses = (copies and (bool(here) or (goes is not None and goes != GPU))) or (name in _MASKS and bool(here))
        if crosses or masked or name in _WAITS:
            self.counted[f"wait {_where()} {name}"] += 1
        elif not function.is_view:
            self.counted[f"launch {name}{'_out' if 'out' in kwargs else ''}"] += 1
        held = tree_map(lambda x: x.held if isinstance(x, OnGpu) else x, (args, kwargs))
        found = function(*held[0], **held[1])
        if name in ("empty", "new_empty", "empty_like", "empty_strided") and found.is_floating_point():
            found.fill_(torch.nan)  # so that what reads it too early is found
        if name == "_local_scalar_dense" or (name == "_to_copy" and goes is not None and goes != GPU):
            return found
        known = {id(x.held): x for x in there}
        return tree_map(lambda x: known.get(id(x), OnGpu(x)) if isinstance(x, torch.Tensor) else x, found)


class _Function(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu") == GPU:
            return function(*args, **kwargs | {"device": "cpu"}).to(GPU)
        if function is torch.Tensor.tolist and isinstance(args[0], OnGpu):
            return args[0].cpu().tolist()
        return function(*args, **kwargs)


def _where() -> str:
    frame: Any = sys._getframe(2)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(_SOURCES) and path != __file__:
            return f"{path.removeprefix(_SOURCES)}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


@contextmanager
def pretended() -> Generator[Counter]:
    """Within, `GPU` is a device; what happens there is counted."""
    counted: Counter = Counter()
    with _Dispatch(counted), _Function(), torch.no_grad():
        yield counted
