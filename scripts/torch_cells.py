"""LSTM with h-detach and UR-LSTM as loops in PyTorch, for `bench_recurrence.py` to compare with.

A module of its own, because TorchScript reads the source of what it compiles. Both take projected
inputs, one `(batch, 4 d)` tensor a step, so that a step holds one fused product. (`unsafe_chunk`,
because TorchScript's gradient of `chunk` was seen to lose gates whose gradient is undefined.)
"""

import torch  # pyright: ignore[reportMissingImports]
from torch import Tensor  # pyright: ignore[reportMissingImports]


def lstm_step(z: Tensor, h: Tensor, c: Tensor, wh: Tensor) -> tuple[Tensor, Tensor]:
    """One step of an LSTM; gates packed f, i, o, u. Returns h and c."""
    f, i, o, u = torch.addmm(z, h, wh).unsafe_chunk(4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(u)
    return torch.sigmoid(o) * torch.tanh(c), c


def urlstm_step(z: Tensor, h: Tensor, c: Tensor, wh: Tensor) -> tuple[Tensor, Tensor]:
    """One step of a UR-LSTM (Gu et al. 2020, eq. 9-12); gates packed f, r, o, u."""
    f, r, o, u = torch.addmm(z, h, wh).unsafe_chunk(4, 1)
    f, r2, u = torch.sigmoid(f), 2 * torch.sigmoid(r), torch.tanh(u)
    g = f * (r2 + (1 - r2) * f)
    c = u + g * (c - u)
    return torch.sigmoid(o) * torch.tanh(c), c


def lstm_loop(zs: list[Tensor], h: Tensor, c: Tensor, wh: Tensor, blocked: list[bool]) -> Tensor:
    """All steps, h detached where `blocked` (Arpit et al. 2019). Returns the last h."""
    for t, z in enumerate(zs):
        h, c = lstm_step(z, h.detach() if blocked[t] else h, c, wh)
    return h


def urlstm_loop(zs: list[Tensor], h: Tensor, c: Tensor, wh: Tensor, blocked: list[bool]) -> Tensor:
    """All steps, h detached where `blocked`. Returns the last h."""
    for t, z in enumerate(zs):
        h, c = urlstm_step(z, h.detach() if blocked[t] else h, c, wh)
    return h
