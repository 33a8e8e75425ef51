"""Drawing of generated scenes: signed distances, analytic anti-aliasing.

A shape is a signed distance in px (negative inside); the share of a pixel
that it covers is clip(0.5 - distance, 0, 1). No supersampling, about half a
millisecond a picture.
"""

from jaxtyping import Float, Int, UInt8
import numpy as np

from collab_jax import boxes
from collab_jax.data import backgrounds, world

PATCH = 4

_PAINT = {
  'red': (216, 36, 36),
  'orange': (248, 128, 20),
  'yellow': (252, 218, 44),
  'green': (36, 150, 62),
  'blue': (36, 84, 214),
  'purple': (126, 44, 168),
  'pink': (252, 140, 192),
  'brown': (112, 64, 32),
  'black': (26, 26, 28),
  'white': (246, 246, 246),
}
# Stripes and dots: pale on strong colours, dark on pale ones.
_PALE, _DARK = (250, 244, 226), (44, 36, 44)
_ACCENT = {
  'red': _PALE,
  'orange': _DARK,
  'yellow': _DARK,
  'green': _PALE,
  'blue': _PALE,
  'purple': _PALE,
  'pink': _DARK,
  'brown': _PALE,
  'black': (158, 160, 164),
  'white': (134, 138, 146),
}


def coverage(
  distance: Float[np.ndarray, '...'],
) -> Float[np.ndarray, '...']:
  """Computes the share of each pixel in a shape from its centre's distance."""
  return np.clip(0.5 - distance, 0, 1)


def distance(
  shape: str,
  x: Float[np.ndarray, '...'],
  y: Float[np.ndarray, '...'],
  radius: float,
) -> Float[np.ndarray, '...']:
  """Computes the signed distance in px to a centred silhouette, y down."""
  return _DISTANCES[shape](x, y, radius)


def _circle(x, y, r):
  return np.sqrt(x * x + y * y) - r


def _box(x, y, w, h):
  u, v = np.abs(x) - w, np.abs(y) - h
  outside = np.sqrt(np.maximum(u, 0) ** 2 + np.maximum(v, 0) ** 2)
  return outside + np.minimum(np.maximum(u, v), 0)


def _square(x, y, r):
  return _box(x, y, 0.8 * r, 0.8 * r)


def _triangle(x, y, r):
  sides = np.maximum(0.8660254 * np.abs(x) - 0.5 * y, y)
  return sides - 0.61 * r


def _star(x, y, r):
  """Five points; the fold into one half point is Quilez's `sdStar`."""
  a, e, r = np.pi / 5, np.pi / 3.1, 1.17 * r
  turn = np.mod(np.arctan2(x, -y), 2 * a) - a
  length = np.sqrt(x * x + y * y)
  u = length * np.cos(turn) - r * np.cos(a)
  v = length * np.abs(np.sin(turn)) - r * np.sin(a)
  along = np.clip(
    -(u * np.cos(e) + v * np.sin(e)), 0, r * np.sin(a) / np.sin(e)
  )
  u, v = u + np.cos(e) * along, v + np.sin(e) * along
  return np.sqrt(u * u + v * v) * np.sign(u)


def _cross(x, y, r):
  return np.minimum(
    _box(x, y, 1.02 * r, 0.34 * r), _box(x, y, 0.34 * r, 1.02 * r)
  )


def _ring(x, y, r):
  return np.abs(np.sqrt(x * x + y * y) - 0.76 * r) - 0.27 * r


def _heart(x, y, r):
  """Quilez's `sdHeart`, scaled to the radius and centred."""
  scale = 1.7 * r
  x, y = np.abs(x) / scale, 0.56 - y / scale
  lobe = np.sqrt((x - 0.25) ** 2 + (y - 0.75) ** 2) - 0.35355339
  fold = 0.5 * np.maximum(x + y, 0)
  tip = np.minimum(x * x + (y - 1) ** 2, (x - fold) ** 2 + (y - fold) ** 2)
  tip = np.sqrt(tip) * np.sign(x - y)
  return np.where(x + y > 1, lobe, tip) * scale


def _crescent(x, y, r):
  x = x - 0.22 * r
  bite = 0.84 * r - np.sqrt((x - 0.58 * r) ** 2 + y * y)
  return np.maximum(np.sqrt(x * x + y * y) - 1.04 * r, bite)


_DISTANCES = {
  'circle': _circle,
  'square': _square,
  'triangle': _triangle,
  'star': _star,
  'cross': _cross,
  'ring': _ring,
  'heart': _heart,
  'crescent': _crescent,
}


def render(scene: world.Scene) -> UInt8[np.ndarray, '64 64 3']:
  """The picture of a scene, u8[64 64 3]."""
  return draw(scene)[0]


def draw(
  scene: world.Scene,
) -> tuple[UInt8[np.ndarray, '64 64 3'], Float[np.ndarray, 'n 64 64']]:
  """The picture, and the share of each pixel that each object covers."""
  side = world.SIDE
  random = world.generator(scene.seed, 1).random
  picture = backgrounds.PAINTERS[scene.background](random)
  covers = np.zeros((len(scene.things), side, side), np.float32)
  for cover, thing in zip(covers, scene.things, strict=True):
    window, (x, y), (u, v), signed = _silhouette(thing)
    inside = coverage(signed)
    cover[window] = inside
    patch = picture[window]
    shadow = np.zeros_like(inside)
    shadow[1:, 1:] = 0.3 * np.clip(0.6 - signed[:-1, :-1] / 2.5, 0, 1)
    patch *= (1 - shadow)[..., None]
    light = 1 - 0.09 * (x + y) / np.float32(thing.radius)
    light *= 0.86 + 0.14 * np.clip(-signed, 0, 1)  # a faint rim
    paint = _fill(thing, u, v, signed) * light[..., None]
    patch += inside[..., None] * (paint - patch)
  picture = np.clip(picture + 0.5, 0, 255).astype(np.uint8)
  return picture, covers


def _silhouette(thing):
  """Returns a window, offsets in it, the turned ones, and the distance."""
  side = world.SIDE
  centres = np.arange(side, dtype=np.float32) + 0.5
  reach = world.REACH[thing.shape] * thing.radius + 3
  left, right = max(int(thing.x - reach), 0), int(thing.x + reach) + 1
  top, bottom = max(int(thing.y - reach), 0), int(thing.y + reach) + 1
  x = (centres[left:right] - np.float32(thing.x))[None, :]
  y = (centres[top:bottom] - np.float32(thing.y))[:, None]
  cos, sin = np.float32(np.cos(thing.angle)), np.float32(np.sin(thing.angle))
  u, v = cos * x + sin * y, cos * y - sin * x
  signed = distance(thing.shape, u, v, thing.radius)
  return np.s_[top:bottom, left:right], (x, y), (u, v), signed


def box(thing: world.Thing) -> boxes.Box:
  """Returns the box of the pixels that a thing covers by at least a half.

  Its edges are edges of pixels, in shares of the picture's sides.
  """
  window, _, _, signed = _silhouette(thing)
  edges = []
  for axis, part in ((1, window[0]), (0, window[1])):
    inside = np.flatnonzero((signed <= 0).any(axis))
    edges.append((part.start + inside[0], part.start + inside[-1] + 1))
  (top, bottom), (left, right) = edges
  return boxes.Box(*(float(e) / world.SIDE for e in (top, left, bottom, right)))


def _fill(thing, x, y, signed):
  """Colour of each pixel; the pattern leaves a rim, so the outline stays."""
  base = np.asarray(_PAINT[thing.colour], np.float32)
  base = base + np.asarray(thing.tint, np.float32)
  if thing.texture == 'solid':
    return base
  direction, first, second = (np.float32(g) for g in thing.grain)
  large = thing.size == 'large'
  if thing.texture == 'striped':
    period = 5.6 if large else 4.6
    turn = np.pi / 4 * int(4 * direction)
    along = np.float32(np.cos(turn)) * x + np.float32(np.sin(turn)) * y
    away = np.abs(np.mod(along / period + first, 1) - 0.5) * period
    share = coverage(away - 0.21 * period)
  else:
    period, dot = (5.4, 1.55) if large else (4.6, 1.25)
    u = (np.mod((x + y) / (1.4142 * period) + first, 1) - 0.5) * period
    v = (np.mod((x - y) / (1.4142 * period) + second, 1) - 0.5) * period
    share = coverage(np.sqrt(u * u + v * v) - dot)
  share = share * np.clip(-0.2 - signed, 0, 1)
  accent = np.asarray(_ACCENT[thing.colour], np.float32)
  return base + share[..., None] * (accent - base)


def labels(
  scene: world.Scene,
  covers: Float[np.ndarray, 'n 64 64'] | None = None,
  share: float = 0.25,
) -> dict[str, Int[np.ndarray, '16 16']]:
  """Returns the labels of each 4 x 4 patch, for dense training.

  The object that covers most of a patch owns it, if that is at least
  `share` of the patch (a quarter: arms and rings are about a patch wide and
  rarely fill one).

  Args:
    scene: the scene.
    covers: coverage from `draw(scene)`; None to draw the scene.
    share: smallest share of the patch, 0 to 1.

  Returns:
    int32[16 16] each: 'shape', 'colour', 'texture' and 'size' (0 nothing,
    else 1 + the index in the tuples of `world`), 'object' (0 nothing, else 1
    + the place in the canonical order) and 'background' (its index,
    everywhere).
  """
  covers = draw(scene)[1] if covers is None else covers
  grid = world.SIDE // PATCH
  shares = covers.reshape(-1, grid, PATCH, grid, PATCH).mean((2, 4))
  owner = np.where(shares.max(0) >= share, 1 + shares.argmax(0), 0)
  maps = {'object': owner.astype(np.int32)}
  for name, values in (
    ('shape', world.SHAPES),
    ('colour', world.COLOURS),
    ('texture', world.TEXTURES),
    ('size', world.SIZES),
  ):
    ids = [1 + values.index(getattr(t, name)) for t in scene.things]
    maps[name] = np.asarray([0, *ids], np.int32)[owner]
  background = world.BACKGROUNDS.index(scene.background)
  maps['background'] = np.full((grid, grid), background, np.int32)
  return maps
