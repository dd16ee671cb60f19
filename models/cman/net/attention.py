"""Cross-modal attention: each modality's tokens ask the tokens of the others, plus a learned null. Does no I/O.

The alignment prior is an additive bias between the tokens of two views of one anatomical plane: a Gaussian around the
place where a learned affine map expects the partner (craniocaudal with axial, mediolateral oblique with sagittal).
Without it, attention was no better than concatenation in the feasibility study.
Masks are the number -1e4, not -inf: a row without any key stays finite, also in fp16.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from casework.modelspec import SLOTS
from models.cman.net.config import MODALITIES, NetConfig
from models.cman.net.tokens import positions

MASKED = -1e4

# (query modality, slot) <-> (key modality, slot), and where a query's (row, col) is expected in the key's grid:
# CC: rows lateral to medial, columns posterior to anterior; AX: rows anterior to posterior, columns lateral to medial;
# MLO and SAG: rows superior to inferior, columns posterior to anterior.
_CC_AX = ((0.0, -1.0), (1.0, 0.0))
_SAME = ((1.0, 0.0), (0.0, 1.0))
PLANES: tuple[tuple[str, str, tuple[tuple[float, float], tuple[float, float]]], ...] = (
    ("CC", "AX", _CC_AX),
    ("CC", "AX_SUP", _CC_AX),
    ("CC", "AX_INF", _CC_AX),
    ("MLO", "SAG", _SAME),
)


class AlignmentPrior(nn.Module):
    """The bias between MG and MR tokens, (V_mg * n, V_mr * k) for grids with n (fine) and k (pooled) positions."""

    fine: Tensor
    coarse: Tensor

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.register_buffer("fine", positions(config.grid), persistent=False)
        self.register_buffer("coarse", positions(config.grid // config.key_pool), persistent=False)
        pairs = len(PLANES)
        self.turn = nn.Parameter(torch.tensor([a for _, _, a in PLANES]))
        self.shift = nn.Parameter(torch.zeros(pairs, 2))
        self.turn_back = nn.Parameter(torch.linalg.inv(torch.tensor([a for _, _, a in PLANES])))
        self.shift_back = nn.Parameter(torch.zeros(pairs, 2))
        self.log_sigma = nn.Parameter(torch.full((2, pairs), -1.2))
        self.height = nn.Parameter(torch.full((2, pairs), 3.0))

    def _bias(self, way: int, pair: int, turn: Tensor, shift: Tensor) -> Tensor:
        expected = self.fine @ turn[pair].T + shift[pair]
        distance = ((expected[:, None] - self.coarse[None]) ** 2).sum(-1)
        spread = torch.exp(-2.0 * self.log_sigma[way, pair])
        return self.height[way, pair] * torch.exp(-0.5 * distance * spread)

    def forward(self, queries: str, keys: str) -> Tensor:
        """The bias of queries of one modality on keys of the other (MG and MR, either way)."""
        forth = queries == "MG"
        turn, shift = (self.turn, self.shift) if forth else (self.turn_back, self.shift_back)
        zero = self.fine.new_zeros(self.fine.shape[0], self.coarse.shape[0])
        rows = []
        for q in SLOTS[queries]:
            row = []
            for k in SLOTS[keys]:
                pair = next((n for n, (a, b, _) in enumerate(PLANES) if (a, b) == ((q, k) if forth else (k, q))), -1)
                row.append(zero if pair < 0 else self._bias(0 if forth else 1, pair, turn, shift))
            rows.append(torch.cat(row, 1))
        return torch.cat(rows, 0)


class CrossBlock(nn.Module):
    """One round of questions: for every modality, attention over the others' tokens and a feed-forward, residual."""

    def __init__(self, config: NetConfig, prior: AlignmentPrior) -> None:
        super().__init__()
        d = config.width
        self.config = config
        self.prior = [prior]  # shared by all blocks: held in a list so that it is registered once, by CMAN
        self.query = nn.Linear(d, d)
        self.key = nn.Linear(d, d)
        self.value = nn.Linear(d, d)
        self.out = nn.Linear(d, d)
        self.null = nn.Parameter(0.02 * torch.randn(d))
        self.norm_token = nn.LayerNorm(d)
        self.norm_mix = nn.LayerNorm(d)
        self.mix = nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d))

    def _pool(self, tokens: Tensor, slots: int) -> Tensor:
        """Average tokens over key_pool x key_pool: (B, V*g*g, d) -> (B, V*(g/p)^2, d)."""
        g, p, d = self.config.grid, self.config.key_pool, self.config.width
        blocks = tokens.reshape(-1, slots, g // p, p, g // p, p, d)
        return blocks.mean((3, 5)).reshape(-1, slots * (g // p) ** 2, d)

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.config.heads, -1).transpose(1, 2)

    def _bias(self, modality: str, others: list[str], masks: dict[str, Tensor]) -> Tensor:
        """Mask and prior, (B, 1, queries, keys + null)."""
        n = self.config.grid**2
        k = (self.config.grid // self.config.key_pool) ** 2
        columns = []
        for other in others:
            mask = ((1.0 - masks[other]) * MASKED)[:, :, None].expand(-1, -1, k).flatten(1)[:, None, None]
            if {modality, other} == {"MG", "MR"}:
                columns.append(mask + self.prior[0](modality, other))
            else:
                columns.append(mask.expand(-1, 1, len(SLOTS[modality]) * n, -1))
        return functional.pad(torch.cat(columns, -1), (0, 1))

    def ask(
        self,
        tokens: dict[str, Tensor],
        normed: dict[str, Tensor],
        masks: dict[str, Tensor],
        at: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        """Forward for some tokens only: at (B, n) per modality -> (B, n, d). For training with the prior's rows picked."""
        pooled = {m: self._pool(t, len(SLOTS[m])) for m, t in normed.items()}
        result = {}
        for modality in MODALITIES:
            others = [m for m in MODALITIES if m != modality]
            keys = torch.cat([*(pooled[m] for m in others), self.null.expand(len(at[modality]), 1, -1)], 1)
            index = at[modality][:, :, None].expand(-1, -1, self.config.width)
            query, key = self._heads(self.query(normed[modality].gather(1, index))), self._heads(self.key(keys))
            k = (self.config.grid // self.config.key_pool) ** 2
            columns = []
            for other in others:
                mask = ((1.0 - masks[other]) * MASKED)[:, :, None].expand(-1, -1, k).flatten(1)[:, None]
                pair = {modality, other} == {"MG", "MR"}
                columns.append(
                    mask + self.prior[0](modality, other)[at[modality]] if pair else mask.expand(-1, index.shape[1], -1)
                )
            bias = functional.pad(torch.cat(columns, -1), (0, 1))[:, None]
            answer = torch.softmax(query @ key.transpose(2, 3) * query.shape[3] ** -0.5 + bias, -1) @ self._heads(
                self.value(keys)
            )
            mixed = tokens[modality].gather(1, index) + self.out(answer.transpose(1, 2).flatten(2))
            result[modality] = mixed + self.mix(self.norm_mix(mixed))
        return result

    def forward(self, tokens: dict[str, Tensor], masks: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tokens (B, T, d) and masks (B, V) per modality -> tokens of the same shapes."""
        normed = {m: self.norm_token(t) for m, t in tokens.items()}
        pooled = {m: self._pool(t, len(SLOTS[m])) for m, t in normed.items()}
        result = {}
        for modality in MODALITIES:
            others = [m for m in MODALITIES if m != modality]
            null = self.null.expand(pooled[modality].shape[0], 1, -1)
            keys = torch.cat([*(pooled[m] for m in others), null], 1)
            query, key = self._heads(self.query(normed[modality])), self._heads(self.key(keys))
            # Written out: the exporter can't decompose the fused operator with a dynamic batch.
            score = query @ key.transpose(2, 3) * query.shape[3] ** -0.5 + self._bias(modality, others, masks)
            answer = torch.softmax(score, -1) @ self._heads(self.value(keys))
            mixed = tokens[modality] + self.out(answer.transpose(1, 2).flatten(2))
            result[modality] = mixed + self.mix(self.norm_mix(mixed))
        return result
