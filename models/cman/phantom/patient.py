"""The latent patient: breasts, lesions, nodes, and the label that they imply. Does no I/O.

Label of a side (metastasis in its axilla): Bernoulli of a logit that rises most when ONE lesion is both spiculated (seen
on mammograms) and washes out (seen on MRI), and with the node's cortex (seen on ultrasound). Counting spiculated lesions
and washing-out lesions apart is not enough, they have to be matched. Nothing here says anything about real patients.
"""

import math
from dataclasses import dataclass

import numpy as np

_BASE, _BOTH, _SPICULATED, _WASHOUT, _CORTEX = -3.6, 3.6, 0.5, 0.5, 1.9


@dataclass(frozen=True, slots=True)
class Hospital:
    """What differs between sites: scanners, noise, positioning, prevalence."""

    name: str = "A"
    noise: float = 1.0  # factor on every modality's noise
    blur: float = 0.0  # additional standard deviation, mm
    shift_mm: float = 4.0  # how far a lesion lies from where another modality shows it, standard deviation
    contrast: float = 1.0  # factor on the lesions' contrast
    prevalence: float = 0.0  # added to the logit
    mg_vendors: tuple[str, ...] = ("linear", "sigmoid", "inverted")
    mr_phases: tuple[int, ...] = (4, 5, 6)


HOSPITALS = {
    "A": Hospital(),
    "B": Hospital(
        name="B",
        noise=1.5,
        blur=0.5,
        shift_mm=6.0,
        contrast=0.88,
        prevalence=-0.4,
        mg_vendors=("lut", "inverted", "exact"),
        mr_phases=(4, 5),
    ),
}


@dataclass(frozen=True, slots=True)
class Lesion:
    """One lesion at (u, v, w): u -1 lateral .. 1 medial, v -1 superior .. 1 inferior, w 0 chest wall .. 1 nipple."""

    place: tuple[float, float, float]
    radius_mm: float
    spiculated: bool
    washout: bool
    uptake: float  # early enhancement relative to the reference tissue
    mass: float  # contrast on mammograms
    seed: int


@dataclass(frozen=True, slots=True)
class Node:
    """The most suspicious axillary node: half axes and cortex in mm."""

    long_mm: float
    short_mm: float
    cortex_mm: float
    seed: int


@dataclass(frozen=True, slots=True)
class Breast:
    """One side with its truth. risk: the probability from which `metastasis` was drawn."""

    side: str  # "R" | "L"
    radius_mm: float
    depth_mm: float
    lesions: tuple[Lesion, ...]
    node: Node
    risk: float
    metastasis: bool
    seed: int


@dataclass(frozen=True, slots=True)
class Patient:
    """One latent patient. density 0..1; breasts: right, left."""

    seed: int
    hospital: Hospital
    age_years: int
    density: float
    mg_vendor: str
    mr_phases: int
    field_t: float
    probe_mhz: float
    breasts: tuple[Breast, Breast]


def draw(seed: int, hospital: Hospital | None = None) -> Patient:
    """The patient of a seed: the same seed and hospital give the same patient, on any machine."""
    hospital = hospital or HOSPITALS["A"]
    rng = np.random.default_rng([seed, 1])
    age = int(np.clip(rng.normal(54, 11), 25, 88))
    density = float(np.clip(rng.beta(2.2, 2.2) - 0.006 * (age - 54), 0.02, 0.98))
    size = float(np.clip(rng.normal(72, 9), 52, 95))
    vendor = str(rng.choice(hospital.mg_vendors))
    phases = int(rng.choice(hospital.mr_phases))
    field_t = float(rng.choice((1.5, 3.0)))
    probe = float(rng.choice((7.5, 10.0, 12.0)))
    right, left = (_breast(side, seed, n, size, hospital) for n, side in enumerate(("R", "L")))
    return Patient(seed, hospital, age, density, vendor, phases, field_t, probe, (right, left))


def _breast(side: str, seed: int, index: int, size: float, hospital: Hospital) -> Breast:
    rng = np.random.default_rng([seed, 2, index])
    radius = size * float(rng.normal(1.0, 0.03))
    count = int(rng.choice((2, 3, 4), p=(0.4, 0.4, 0.2)))
    lesions = _lesions(rng, count, radius)
    thickness = float(rng.normal())
    node = Node(
        long_mm=float(rng.uniform(8, 11)),
        short_mm=float(rng.uniform(5.2, 6.5)),
        cortex_mm=float(np.clip(2.9 + 1.0 * thickness, 0.8, 5.2)),
        seed=int(rng.integers(1 << 31)),
    )
    logit = _BASE + _logit(lesions, thickness) + hospital.prevalence
    risk = 1 / (1 + math.exp(-logit))
    return Breast(
        side=side,
        radius_mm=radius,
        depth_mm=radius * float(rng.uniform(1.05, 1.3)),
        lesions=tuple(lesions),
        node=node,
        risk=risk,
        metastasis=bool(rng.uniform() < risk),
        seed=int(rng.integers(1 << 31)),
    )


def _lesions(rng: np.random.Generator, count: int, radius_mm: float) -> list[Lesion]:
    """Lesions that lie apart in both mammographic planes; a draw that leaves no room is begun again."""
    while True:
        lesions: list[Lesion] = []
        for _ in range(60):
            lesion = _lesion(rng)
            if all(_apart(lesion, o) * radius_mm > lesion.radius_mm + o.radius_mm + 6 for o in lesions):
                lesions.append(lesion)
            if len(lesions) == count:
                return lesions


def _logit(lesions: list[Lesion], thickness: float) -> float:
    both = any(n.spiculated and n.washout for n in lesions)
    spiculated = sum(n.spiculated for n in lesions)
    washout = sum(n.washout for n in lesions)
    return _BOTH * both + _SPICULATED * spiculated + _WASHOUT * washout + _CORTEX * thickness


def _lesion(rng: np.random.Generator) -> Lesion:
    """Uniform in the inner part of the breast; the two signs are independent."""
    while True:
        u, v = rng.uniform(-0.7, 0.7, 2)
        w = rng.uniform(0.22, 0.72)
        if u * u + v * v + w * w < 0.62:
            break
    return Lesion(
        place=(float(u), float(v), float(w)),
        radius_mm=float(rng.uniform(5.5, 9.0)),
        spiculated=bool(rng.uniform() < 0.4),
        washout=bool(rng.uniform() < 0.4),
        uptake=float(rng.uniform(1.1, 1.7)),
        mass=float(rng.uniform(0.8, 1.15)),
        seed=int(rng.integers(1 << 31)),
    )


def _apart(a: Lesion, b: Lesion) -> float:
    """The smaller of the distances in the two mammographic planes, in breast radii: lesions never hide one another."""
    du, dv, dw = (p - q for p, q in zip(a.place, b.place, strict=True))
    return min(math.hypot(du, dw), math.hypot((du + dv) / math.sqrt(2), dw))
