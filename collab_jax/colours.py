"""Maps vectors to colours that show which are similar."""

from collections.abc import Callable

from jaxtyping import Float
import numpy as np

Vectors = Float[np.ndarray, 'n d']


def by_axes(features: Vectors) -> Callable[[Vectors], Float[np.ndarray, 'm 3']]:
  """Maps vectors to colours by the three main axes of some features.

  Args:
    features: Features of a picture, whose axes span the colours.

  Returns:
    A function from vectors of the same width to red, green and blue, 0..1;
    equal vectors have equal colours.
  """
  mean = features.mean(0)
  axes = np.linalg.svd(features - mean, full_matrices=False)[2][:3]
  # The sign of an axis is arbitrary; fixed, so that figures can be compared.
  axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]
  coordinates = (features - mean) @ axes.T
  low, high = np.percentile(coordinates, [2, 98], axis=0)

  def colours(x: Vectors) -> Float[np.ndarray, 'm 3']:
    unit = ((x - mean) @ axes.T - low) / np.maximum(high - low, 1e-12)
    return 0.12 + 0.82 * np.clip(unit, 0, 1)

  return colours
