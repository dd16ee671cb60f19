"""A small generator of the minority class, in the space of concatenated features: the paper's third baseline, today's way.

The paper names a GAN. On vectors of some four hundred numbers a GAN is the less stable of the ways to draw new ones; flow
matching (Lipman et al. 2023) trains by plain regression, cannot collapse to a mode, and samples in twenty steps. It is
trained on the positive sides' vectors of a fold's own concatenation head, with the risk as one more number, so that a
made-up side brings its own target. Images are not made up: no generator of images could be trained in the time that is
there, and what would be tested then is the generator. Does no I/O.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.cman.evidence.heads import Concat

STEPS_OF_FLOW = 20
WIDTH = 256
REFIT_STEPS = 600


class Flow(nn.Module):
    """The velocity of (n, d) vectors on their way from noise (time 0) to data (time 1)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(size + 3, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, size)
        )

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Time: (n, 1) in 0..1."""
        velocity: Tensor = self.net(torch.cat([x, time, torch.sin(6.2832 * time), torch.cos(6.2832 * time)], 1))
        return velocity


def fit_flow(data: Tensor, generator: torch.Generator, steps: int = 1500, batch: int = 128) -> Flow:
    """Train on standardised vectors (n, d)."""
    flow = Flow(data.shape[1])
    optimiser = torch.optim.AdamW(flow.parameters(), lr=1e-3)
    for _ in range(steps):
        real = data[torch.randint(len(data), (batch,), generator=generator)]
        noise = torch.randn(real.shape, generator=generator)
        time = torch.rand(batch, 1, generator=generator)
        loss = functional.mse_loss(flow((1 - time) * noise + time * real, time), real - noise)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch
        optimiser.step()
    return flow.eval()


@torch.no_grad()
def draw(flow: Flow, count: int, size: int, generator: torch.Generator) -> Tensor:
    """New vectors (count, size), by Euler steps from noise."""
    x = torch.randn(count, size, generator=generator)
    for n in range(STEPS_OF_FLOW):
        x = x + flow(x, torch.full((count, 1), n / STEPS_OF_FLOW)) / STEPS_OF_FLOW
    return x


def balanced(vectors: Tensor, risk: Tensor, label: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Vectors (n, d) and risks with as many made-up positives added as it takes to have both classes alike."""
    generator = torch.Generator().manual_seed(seed)
    chance = torch.logit(risk.clamp(1e-4, 1 - 1e-4))[:, None]
    whole = torch.cat([vectors, chance], 1)[label == 1]
    centre, spread = whole.mean(0), whole.std(0).clamp(min=1e-3)
    missing = int((label == 0).sum() - (label == 1).sum())
    if missing <= 0:
        return vectors, risk
    made = draw(fit_flow((whole - centre) / spread, generator), missing, whole.shape[1], generator) * spread + centre
    return torch.cat([vectors, made[:, :-1]]), torch.cat([risk, torch.sigmoid(made[:, -1])])


def refit(head: Concat, vectors: Tensor, risk: Tensor, label: Tensor, seed: int) -> None:
    """Train the head's last layers again, from the start, on the balanced vectors; pools stay as they are. In place."""
    x, goal = balanced(vectors, risk, label, seed)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    for layer in head.mlp:
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    optimiser = torch.optim.AdamW(head.mlp.parameters(), lr=1e-3, weight_decay=1e-4)
    head.mlp.train()
    for _ in range(REFIT_STEPS):
        at = torch.randint(len(x), (64,), generator=generator)
        loss = functional.binary_cross_entropy_with_logits(head.mlp(x[at])[:, 0], goal[at])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch
        optimiser.step()
    head.eval()
