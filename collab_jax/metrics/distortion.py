"""Distortion of rebuilt features."""

from jaxtyping import Float
import numpy as np


def mse(
  original: Float[np.ndarray, '...'], rebuilt: Float[np.ndarray, '...']
) -> float:
  """Computes the mean squared error per number, summed in float64.

  Args:
    original: The features.
    rebuilt: The dequantized features, in the same shape.

  Returns:
    The mean of the squared differences.

  Raises:
    ValueError: The shapes differ; they are never broadcast.
  """
  if np.shape(original) != np.shape(rebuilt):
    raise ValueError(
      f'got shapes {np.shape(original)} and {np.shape(rebuilt)}, expected '
      'equal ones: a grid that was not rebuilt has no distortion'
    )
  difference = np.asarray(original, np.float64) - np.asarray(
    rebuilt, np.float64
  )
  return float(np.mean(np.square(difference)))
