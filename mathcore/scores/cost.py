"""What a loss costs, counted and not timed: the same number in every run and on every machine."""

from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


def matmul_flops(fn: Callable[[], Any]) -> int:
    """Return the floating-point operations that a call of ``fn`` spends in matrix products and convolutions, two per multiplication.

    Counted are the products that are carried out, those of backward passes inside ``fn`` included; elementwise operations are not.

    Raises:
        TypeError: ``fn`` cannot be called.
    """
    if not callable(fn):
        raise TypeError(f"fn must be a function without arguments, got {type(fn).__name__}")
    with _Counter() as counter:
        fn()
    return counter.total


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out
