"""Affine maps between pixel grids, and pixel <-> patient (LPS) for image planes. Does no I/O.

Pixel coordinates are (row, column) of pixel centres, 0-based, so the top left pixel's centre is (0, 0).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Affine2:
    """A map from (row, col) of one grid to (row, col) of another: a 2x3 matrix."""

    matrix: NDArray[np.float64]

    @staticmethod
    def identity() -> "Affine2":
        """The map that changes nothing."""
        return Affine2(np.eye(2, 3))

    @staticmethod
    def crop(row: float, col: float) -> "Affine2":
        """From a crop's pixels to those of the grid it was cut from at (row, col)."""
        return Affine2(np.array([[1.0, 0.0, row], [0.0, 1.0, col]]))

    @staticmethod
    def resize(small: tuple[int, int], large: tuple[int, int]) -> "Affine2":
        """From a grid of shape `small` to one of shape `large` that covers the same area (pixel areas aligned)."""
        sr, sc = large[0] / small[0], large[1] / small[1]
        return Affine2(np.array([[sr, 0.0, 0.5 * sr - 0.5], [0.0, sc, 0.5 * sc - 0.5]]))

    @staticmethod
    def flip_columns(width: int) -> "Affine2":
        """From a grid mirrored left to right to the one it was made from."""
        return Affine2(np.array([[1.0, 0.0, 0.0], [0.0, -1.0, width - 1.0]]))

    def then(self, after: "Affine2") -> "Affine2":
        """First this map, then `after`."""
        a, b = np.vstack([self.matrix, [0, 0, 1]]), np.vstack([after.matrix, [0, 0, 1]])
        return Affine2((b @ a)[:2])

    def inverse(self) -> "Affine2":
        """The way back. Raises numpy.linalg.LinAlgError when the map is not invertible."""
        return Affine2(np.linalg.inv(np.vstack([self.matrix, [0, 0, 1]]))[:2])

    def __call__(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map points (N, 2) of (row, col)."""
        mapped: NDArray[np.float64] = points @ self.matrix[:, :2].T + self.matrix[:, 2]
        return mapped
