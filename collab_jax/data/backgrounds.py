"""Eight natural-looking backgrounds for the generated scenes.

Each painter takes a source of uniform random numbers and returns f32[64 64 3]
in 0..255. Value noise is two small matrix products: a random grid stretched
to the picture by smooth interpolation matrices.
"""

import functools

import numpy as np

from collab_jax.data import world

_SIDE = world.SIDE
_ROWS = (np.arange(_SIDE, dtype=np.float32) + 0.5)[:, None]
_COLUMNS = _ROWS.T


@functools.cache
def _stretch(cells, phase):
  """Makes a matrix f32[64 cells+2] of smooth, shifted interpolation."""
  place = (np.arange(_SIDE) + 0.5) * cells / _SIDE + phase / 8
  left = place.astype(int)
  step = place - left
  step = step * step * (3 - 2 * step)
  matrix = np.zeros((_SIDE, cells + 2), np.float32)
  matrix[np.arange(_SIDE), left] = 1 - step
  matrix[np.arange(_SIDE), left + 1] += step
  return matrix


def _noise(random, rows, columns):
  """Makes value noise in -1..1 with so many cells down and across."""
  grid = 2 * random((rows + 2, columns + 2), dtype=np.float32) - 1
  down = _stretch(rows, int(8 * random()))
  across = _stretch(columns, int(8 * random()))
  return down @ grid @ across.T


def _speckle(random):
  return 2 * random((_SIDE, _SIDE), dtype=np.float32) - 1


def _mix(share, low, high):
  """From colour `low` (share 0) to `high` (share 1), clipped."""
  low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
  return low + np.clip(share, 0, 1)[..., None] * (high - low)


def _grass(random):
  blades = _noise(random, 14, 32) + 0.6 * _speckle(random)
  share = 0.5 + 0.26 * blades + 0.22 * _noise(random, 4, 4)
  return _mix(share, (58, 112, 40), (138, 182, 76))


def _sand(random):
  warp = 5 * _noise(random, 3, 3)
  pitch = 8 + 4 * random()
  ripples = np.sin(2 * np.pi * (_ROWS + 0.3 * _COLUMNS + warp) / pitch)
  share = 0.5 + 0.2 * ripples + 0.26 * _speckle(random)
  return _mix(share, (204, 176, 126), (236, 214, 168))


def _water(random):
  warp = 4 * _noise(random, 4, 3)
  pitch = 6 + 3 * random()
  waves = np.sin(2 * np.pi * (_ROWS + warp) / pitch)
  glints = np.clip(_noise(random, 20, 8) - 0.45, 0, 1)
  share = 0.36 + 0.24 * waves + 0.16 * _noise(random, 3, 3) + 0.9 * glints
  return _mix(share, (20, 92, 140), (92, 178, 204))


def _wood(random):
  plank = 13 + 6 * random()
  place = (_ROWS + plank * random()) / plank
  number = place.astype(int)
  tones = random(8, dtype=np.float32)[number]
  rings = np.sin(0.9 * _ROWS + 5 * tones + 2.5 * _noise(random, 6, 2))
  seam = np.clip(
    1.2 - plank * np.minimum(place - number, 1 + number - place), 0, 1
  )
  share = (
    0.5 + 0.22 * rings + 0.3 * (tones - 0.5) + 0.12 * _noise(random, 32, 4)
  )
  return (
    _mix(share, (142, 94, 54), (192, 142, 92)) * (1 - 0.4 * seam)[..., None]
  )


def _bricks(random):
  high, wide = 8.0, 16.0
  row = (_ROWS + high * random()) / high
  across = (_COLUMNS + wide * random()) / wide + 0.5 * (row.astype(int) % 2)
  down, right = row.astype(int), across.astype(int)
  tone = random((10, 8), dtype=np.float32)[down, right]
  edge = np.minimum(
    high * (0.5 - np.abs(row - down - 0.5)),
    wide * (0.5 - np.abs(across - right - 0.5)),
  )
  brick = _mix(
    0.2 + 0.6 * tone + 0.16 * _speckle(random), (142, 70, 54), (186, 106, 86)
  )
  joint = np.clip(1.25 - edge, 0, 1)[..., None]
  return brick + joint * (np.asarray((196, 182, 164), np.float32) - brick)


def _sky(random):
  clouds = _noise(random, 4, 3) + 0.5 * _noise(random, 9, 6)
  clouds += 0.25 * _noise(random, 18, 12)
  blue = _mix(_ROWS / _SIDE + 0 * _COLUMNS, (92, 158, 228), (158, 204, 242))
  white = 0.85 * np.clip(1.5 * clouds - 0.15, 0, 1)[..., None]
  return blue + white * (np.asarray((238, 244, 250), np.float32) - blue)


def _night(random):
  haze = _ROWS / _SIDE + 0.25 * _noise(random, 3, 3)
  dark = _mix(haze, (10, 12, 38), (42, 36, 84))
  for _ in range(26):
    row, column = int(_SIDE * random()), int(_SIDE * random())
    dark[row, column] += 70 + 130 * random()
  return dark


def _snow(random):
  drifts = _noise(random, 4, 3) + 0.5 * _noise(random, 9, 5)
  share = 0.55 + 0.42 * drifts + 0.12 * _speckle(random)
  return _mix(share, (204, 218, 238), (250, 252, 254))


PAINTERS = {
  'grass': _grass,
  'sand': _sand,
  'water': _water,
  'wood': _wood,
  'bricks': _bricks,
  'sky': _sky,
  'night': _night,
  'snow': _snow,
}
