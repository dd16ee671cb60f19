"""The head: gated attention pooling whose contributions sum to the logit exactly. Does no I/O.

contribution_t = a_t * (w . h_t + b), with a the softmax over all present tokens (Ilse et al. 2018, gated attention), so
that sum_t contribution_t = logit and the heat-map is an additive decomposition that needs no gradient. After the
cross-attention a token also carries what it learned from other images: the map says where evidence was collected.
"""

import torch
from torch import Tensor, nn

from models.cman.net.attention import MASKED
from models.cman.net.config import NetConfig


class GatedPool(nn.Module):
    """Tokens (B, T, d) and their presence (B, T) -> contributions (B, T) that sum to the logit (B,)."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        d = config.width
        self.norm = nn.LayerNorm(d)
        self.tanh = nn.Linear(d, d // 2)
        self.gate = nn.Linear(d, d // 2)
        self.score = nn.Linear(d // 2, 1)
        self.evidence = nn.Linear(d, 1)

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """See the class."""
        attention, evidence = self.parts(tokens, present)
        return attention * evidence

    def parts(self, tokens: Tensor, present: Tensor, log_weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attention and evidence, (B, T) each; log_weight (B, T): how many tokens each stands for (training only)."""
        h = self.norm(tokens)
        score = self.score(torch.tanh(self.tanh(h)) * torch.sigmoid(self.gate(h)))[..., 0]
        # The product keeps a side without any image at exactly 0: an all-masked softmax would be uniform.
        if log_weight is not None:
            score = score + log_weight
        attention = torch.softmax(score + (1.0 - present) * MASKED, -1) * present
        return attention, self.evidence(h)[..., 0]
