"""World of the generated scenes: objects, backgrounds and placement.

A scene is a function of (split, index). Only
`Generator.random()` is drawn from, because NumPy keeps the bits of PCG64 and
SeedSequence fixed but not the algorithms of its distributions.
"""

import dataclasses
import itertools
import math
from typing import Any, TypeAlias, cast

import numpy as np

Triple: TypeAlias = tuple[float, float, float]

SHAPES = (
  'circle',
  'square',
  'triangle',
  'star',
  'cross',
  'ring',
  'heart',
  'crescent',
)
COLOURS = (
  'red',
  'orange',
  'yellow',
  'green',
  'blue',
  'purple',
  'pink',
  'brown',
  'black',
  'white',
)
TEXTURES = ('solid', 'striped', 'dotted')
SIZES = ('small', 'large')
BACKGROUNDS = (
  'grass',
  'sand',
  'water',
  'wood',
  'bricks',
  'sky',
  'night',
  'snow',
)
RELATIONS = ('left', 'right', 'above', 'below', 'near')

SIDE = 64
MENTIONED = 4  # objects that a caption names; the others are only counted

# name -> (number in the seed, number of scenes). The image id is
# number * 10**9 + index, which stays below 2**32.
SPLITS = {
  'train': (0, 10**9),
  'val': (1, 1000),
  'test': (2, 2000),
  'dense': (3, 1000),
  'train_dense': (4, 2**32 - 4 * 10**9),
}

_ENTROPY = 0x5CE9E5
_HIDDEN = {  # colours that would not stand out
  'grass': ('green',),
  'sand': ('yellow',),
  'water': ('blue',),
  'wood': ('brown', 'orange'),
  'bricks': ('red', 'brown'),
  'sky': ('blue', 'white'),
  'night': ('black', 'brown'),
  'snow': ('white',),
}
# Colours of the things on a background.
VISIBLE = {
  b: tuple(c for c in COLOURS if c not in _HIDDEN[b]) for b in BACKGROUNDS
}
# Farthest point of each silhouette from its centre, in radii.
REACH = {
  'circle': 1.0,
  'square': 1.14,
  'triangle': 1.23,
  'star': 1.18,
  'cross': 1.08,
  'ring': 1.04,
  'heart': 1.14,
  'crescent': 1.19,
}
# px; in a crowd the small ones are a little smaller
_RADIUS = {'small': (6.0, 7.0), 'large': (10.0, 12.0), 'tiny': (5.5, 6.2)}
_MARGIN = {'small': 9.2, 'large': 15.4, 'tiny': 8.2}
_GAP = 1.3  # px between two objects
_STEP = 2.5  # px in x between objects of one size: makes their order clear


@dataclasses.dataclass(frozen=True)
class Thing:
  """Object of a scene; lengths in px, x right, y down, angles in radians."""

  shape: str
  colour: str
  texture: str
  size: str
  x: float
  y: float
  radius: float
  angle: float
  tint: Triple  # added to the colour, in 1/255
  grain: Triple  # texture: direction and two phases


@dataclasses.dataclass(frozen=True)
class Scene:
  """A background and objects in canonical order (large first, then by x)."""

  background: str
  things: tuple[Thing, ...]
  seed: tuple[int, int]  # (number of the split, index)

  @property
  def image_id(self) -> int:
    """Id, unique over all splits, below 2**32."""
    return self.seed[0] * 10**9 + self.seed[1]

  def info(self) -> dict[str, Any]:
    """Returns a JSON-able description, enough to score a caption."""
    names = ('shape', 'colour', 'texture', 'size', 'x', 'y')
    return {
      'background': self.background,
      'objects': [{n: getattr(t, n) for n in names} for t in self.things],
      'relations': relations(self),
      'mentioned': min(len(self.things), MENTIONED),
    }


def generator(seed: tuple[int, int], stream: int) -> np.random.Generator:
  """Makes the generator of 0 objects, 1 pixels, 2 captions, 3 questions."""
  sequence = np.random.SeedSequence(_ENTROPY, spawn_key=(*seed, stream))
  return np.random.Generator(np.random.PCG64(sequence))


def relation(dx: float, dy: float) -> str | None:
  """Returns the relation of an object to another at an offset in px.

  One axis must dominate by 1.5; 'near' is a close diagonal (within 1.2 of
  45 degrees and 30 px). None in between: such pairs are never generated.
  """
  across, down = abs(dx), abs(dy)
  if across >= 1.5 * down:
    return 'right' if dx > 0 else 'left'
  if down >= 1.5 * across:
    return 'below' if dy > 0 else 'above'
  if max(across, down) <= 1.2 * min(across, down) and across + down <= 42:
    return 'near'
  return None


def relations(scene: Scene) -> list[str]:
  """Returns the relation of each mentioned object to the next."""
  things = scene.things[:MENTIONED]
  return [
    relation(a.x - b.x, a.y - b.y) or 'near'
    for a, b in itertools.pairwise(things)
  ]


def sample(split: str, index: int) -> Scene:
  """Samples scene number `index` of a split, deterministically.

  Args:
    split: a name in `SPLITS`.
    index: from 0; not checked against the number of scenes (`Scenes` does).

  Raises:
    KeyError: unknown split.
  """
  seed = (SPLITS[split][0], index)
  random = generator(seed, 0).random
  background = BACKGROUNDS[int(8 * random())]
  dense = split in ('dense', 'train_dense')
  if dense:
    count = 6 + int(5 * random())
    large = int(count <= 7 and random() < 0.6)
  else:
    u = random()
    count = 1 + (u >= 0.2) + (u >= 0.55) + (u >= 0.83)
    large = min(sum(random() < 0.45 for _ in range(count)), 2)
  sizes = ['large'] * large + ['small'] * (count - large)
  taken = set()
  looks = []
  for size in sizes:
    while True:
      shape = SHAPES[int(8 * random())]
      colour = VISIBLE[background][int(random() * len(VISIBLE[background]))]
      if (shape, colour) not in taken:
        break
    taken.add((shape, colour))
    low, high = _RADIUS['tiny' if dense and size == 'small' else size]
    u = random()
    texture = TEXTURES[(u >= 0.4) + (u >= 0.7)]
    looks.append((shape, colour, texture, size, low + (high - low) * random()))
  places = None
  while places is None:
    places = _place(looks, dense, random)
  things = []
  for look, (x, y) in zip(looks, places, strict=True):
    shape, colour, texture, size, radius = look
    things.append(
      Thing(
        shape,
        colour,
        texture,
        size,
        x,
        y,
        round(radius, 3),
        round(0.5 * (random() - 0.5), 4),
        cast(Triple, tuple(round(24 * (random() - 0.5), 2) for _ in range(3))),
        cast(Triple, tuple(round(random(), 4) for _ in range(3))),
      )
    )
  return Scene(background, tuple(things), seed)


def _place(looks, dense, random):
  """Returns positions in canonical order; None if there is no room."""
  places = []
  sizes = [look[3] for look in looks]
  for size in ('large', 'small'):
    number = sizes.count(size)
    if number == 0:
      continue
    low = _MARGIN['tiny' if dense and size == 'small' else size]
    room = SIDE - 2 * low
    free = room - (number - 1) * _STEP
    steps = sorted(random() for _ in range(number))
    for i, step in enumerate(steps):
      x = round(low + step * free + i * _STEP, 3)
      y = _drop(looks, places, x, low, random)
      if y is None:
        return None
      places.append((x, y))
  return places


def _drop(looks, places, x, low, random):
  """Returns a free height of the next object, with a clear relation."""
  new = len(places)
  reach = REACH[looks[new][0]] * looks[new][4] + _GAP
  free = [(low, SIDE - low)]
  for (other_x, other_y), look in zip(places, looks, strict=False):
    apart = reach + REACH[look[0]] * look[4]
    half = apart * apart - (x - other_x) ** 2
    if half > 0:
      half = math.sqrt(half)
      free = _without(free, other_y - half, other_y + half)
  room = sum(b - a for a, b in free)
  if room <= 0:
    return None
  for _ in range(8):
    y = random() * room
    for a, b in free:
      if y <= b - a:
        y += a
        break
      y -= b - a
    y = round(y, 3)
    if not 0 < new < MENTIONED:
      return y
    last_x, last_y = places[-1]
    if relation(last_x - x, last_y - y) is not None:
      return y
  return None


def _without(intervals, low, high):
  """Returns intervals without the part from low to high."""
  parts = [(a, min(b, low)) for a, b in intervals if a < low]
  parts += [(max(a, high), b) for a, b in intervals if b > high]
  return parts
