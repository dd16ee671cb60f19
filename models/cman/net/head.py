"""The head: gated attention pooling per modality whose contributions sum to the logit exactly. Does no I/O.

contribution_t = a_t * softplus(w_m . h_t + b_m) + base_m / T, with a the softmax over the T present tokens of modality m
(Ilse et al. 2018, gated attention): each modality gives its share of the logit, and the shares add up, as log odds of
separate observations do. So sum_t contribution_t = logit, and the heat-map is an additive decomposition that needs no
gradient. What a token adds only speaks for; what speaks against is that little was found, and lies evenly over the images
(base_m). With evidence of either sign an image that spoke against had its lesion at the coldest place and its hottest
place, which is what a reader is shown, anywhere. After the cross-attention a token also carries what it learned from
other images: the map says where evidence was collected.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.cman.net.attention import MASKED
from models.cman.net.config import CONCEPTS, MODALITIES, NetConfig

# Findings are 0 to 1 and are wanted in units of log odds: with this factor they learn at the pace of the rest.
FINDING_SCALE = 4.0
START = -0.9  # of base: with softplus(0) per modality the network begins near a third


class GatedPool(nn.Module):
    """Tokens (B, T, d), findings (B, T, 5) and presence (B, T) of one modality -> contributions (B, T)."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        d = config.width
        self.norm = nn.LayerNorm(d)
        self.tanh = nn.Linear(d, d // 2)
        self.gate = nn.Linear(d, d // 2)
        self.score = nn.ModuleDict({m: nn.Linear(d // 2, 1) for m in MODALITIES})
        self.evidence = nn.ModuleDict({m: nn.Linear(d, 1) for m in MODALITIES})
        for reading in (*self.score.values(), *self.evidence.values()):
            nn.init.zeros_(reading.weight)
            nn.init.zeros_(reading.bias)
        # A way past attention for what the token itself shows; it starts by looking at lesions and nodes.
        self.score_of = nn.ParameterDict({m: nn.Parameter(torch.tensor([6.0, 2.0, 2.0, 6.0, 0.0])) for m in MODALITIES})
        self.evidence_of = nn.ParameterDict({m: nn.Parameter(torch.zeros(len(CONCEPTS))) for m in MODALITIES})
        self.base = nn.ParameterDict({m: nn.Parameter(torch.tensor([START])) for m in MODALITIES})

    def forward(self, modality: str, tokens: Tensor, findings: Tensor, present: Tensor) -> Tensor:
        """See the class."""
        attention, evidence = self.parts(modality, tokens, findings, present)
        return attention * evidence + self.base[modality] * present / present.sum(1, keepdim=True).clamp(min=1.0)

    def parts(
        self, modality: str, tokens: Tensor, findings: Tensor, present: Tensor, log_weight: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Attention and evidence for, (B, T) each; log_weight (B, T): how many tokens each stands for (training only)."""
        h = self.norm(tokens)
        score = self.score[modality](torch.tanh(self.tanh(h)) * torch.sigmoid(self.gate(h)))[..., 0]
        score = score + findings @ self.score_of[modality]
        if log_weight is not None:
            score = score + log_weight
        # The product keeps a modality without any image at exactly 0: an all-masked softmax would be uniform.
        attention = torch.softmax(score + (1.0 - present) * MASKED, -1) * present
        evidence = self.evidence[modality](h)[..., 0] + FINDING_SCALE * (findings @ self.evidence_of[modality])
        return attention, functional.softplus(evidence)
