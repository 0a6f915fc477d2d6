"""Shape-carrying type aliases shared by the whole package."""

from jaxtyping import Float, Int
from torch import Tensor

Time = float | int | Float[Tensor, ""] | Float[Tensor, " n"]
"""A time: a Python number, a 0-d tensor, or one time per sample ``(N,)``."""

Index = int | Int[Tensor, ""] | Int[Tensor, " n"]
"""A step index of a discrete chain, shared or one per sample ``(N,)``."""

Points = Float[Tensor, "n d"]
Scalars = Float[Tensor, " n"]
Matrices = Float[Tensor, "n d d"]
