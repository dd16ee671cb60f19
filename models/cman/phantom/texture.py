"""Noise with the look of tissue: power-law fields, speckle, smooth warps; the same for the same generator. Does no I/O."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def power_law(
    rng: np.random.Generator, shape: tuple[int, int], beta: float, longest: float = 1.0
) -> NDArray[np.float32]:
    """Zero mean, unit variance noise (H, W) whose power falls with frequency to the power beta.

    Mammograms: beta about 3 (Burgess 1999). longest: the largest structure, as a share of the longer side.
    """
    h, w = shape
    fy, fx = np.fft.fftfreq(h)[:, None] * h, np.fft.rfftfreq(w)[None] * w
    scale = max(h, w)
    radius = np.sqrt((fy * scale / h) ** 2 + (fx * scale / w) ** 2).astype(np.float32)
    gain = np.maximum(radius, 1.0 / longest) ** np.float32(-beta / 2)
    gain[0, 0] = 0.0
    spectrum = rng.standard_normal((h, w // 2 + 1, 2), np.float32).view(np.complex64)[..., 0] * gain
    field = np.fft.irfft2(spectrum, s=(h, w)).astype(np.float32)
    return (field - field.mean()) / max(float(field.std()), 1e-9)


def enlarge(field: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Bicubic resize of (H, W)."""
    if field.shape == shape:
        return field
    image = Image.fromarray(np.ascontiguousarray(field, np.float32))
    return np.asarray(image.resize((shape[1], shape[0]), Image.Resampling.BICUBIC), np.float32)


def smooth_cube(rng: np.random.Generator, shape: tuple[int, int, int], cells: int) -> NDArray[np.float32]:
    """Smooth noise (Z, Y, X), unit variance, with about `cells` structures along an axis; linear between cells."""
    field = rng.standard_normal((cells, cells, cells), np.float32)
    for axis, count in enumerate(shape):
        at = np.linspace(0, cells - 1.001, count, dtype=np.float32)
        low = at.astype(np.intp)
        part = (at - low).reshape([-1 if n == axis else 1 for n in range(3)])
        field = np.take(field, low, axis) * (1 - part) + np.take(field, low + 1, axis) * part
    return field / np.float32(max(float(field.std()), 1e-9))


def smooth(image: NDArray[np.float32], sigma: tuple[float, float]) -> NDArray[np.float32]:
    """Gaussian blur of (H, W) by separable convolution, sigma in pixels per axis, edges repeated."""
    for axis, s in enumerate(sigma):
        if s < 0.2:
            continue
        reach = max(1, int(np.ceil(2.5 * s)))
        kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / s) ** 2).astype(np.float32)
        kernel /= kernel.sum()
        pads = [(reach, reach) if n == axis else (0, 0) for n in range(2)]
        wide = np.pad(image, pads, mode="edge")
        n = image.shape[axis]
        image = sum(k * (wide[i : i + n] if axis == 0 else wide[:, i : i + n]) for i, k in enumerate(kernel))
    return image


def speckle(rng: np.random.Generator, shape: tuple[int, int], size_px: tuple[float, float]) -> NDArray[np.float32]:
    """Fully developed speckle: envelope (Rayleigh, mean square 1) of complex noise through a Gaussian pulse."""
    real, imaginary = (smooth(rng.standard_normal(shape, np.float32), size_px) for _ in range(2))
    envelope = np.sqrt(real**2 + imaginary**2)
    return envelope / np.float32(np.sqrt(np.mean(envelope**2)))
