"""Captions of generated scenes, and scores of captions by their content.

Every other reference uses one plain template, so that there is a sentence
that a model can settle on; the others vary words and order. Content words
outnumber function words: few n-grams are right without seeing the picture.
"""

import collections
import re
from typing import Any

import numpy as np

from collab_jax.data import world

PLAIN = 0.55  # share of references in the plain template
LONGEST = 30  # words in a varied reference

_PHRASES = {
  'left': ('left of', 'to the left of', 'on the left of'),
  'right': ('right of', 'to the right of', 'on the right of'),
  'above': ('above', 'over', 'higher than'),
  'below': ('below', 'under', 'beneath'),
  'near': ('near', 'beside', 'close to'),
}
_PLACES = {
  'grass': ('on grass', 'on green grass', 'on a lawn'),
  'sand': ('on sand', 'on dry sand', 'at the beach'),
  'water': ('on water', 'on blue water', 'at sea'),
  'wood': ('on wood', 'on brown wood', 'on planks'),
  'bricks': ('on bricks', 'on a brick wall', 'on old bricks'),
  'sky': ('in sky', 'in blue sky', 'among clouds'),
  'night': ('at night', 'on a dark night', 'after nightfall'),
  'snow': ('on snow', 'on white snow', 'in deep snow'),
}
_SIZES = {
  'small': ('small', 'little', 'tiny'),
  'large': ('large', 'big', 'huge'),
}
_TEXTURES = {
  'solid': ('', 'plain', 'solid'),
  'striped': ('striped', 'stripy', 'lined'),
  'dotted': ('dotted', 'spotted', 'speckled'),
}
_OPENINGS = ('', '', 'there is', 'we see', 'photo of')
_NUMBERS = ('zero', 'one', 'two', 'three', 'four', 'five', 'six')

_WORDS: dict[str, tuple[str, str]] = {}
for _kind, _names in (('shape', world.SHAPES), ('colour', world.COLOURS)):
  _WORDS.update({name: (_kind, name) for name in _names})
for _name, _synonyms in _TEXTURES.items():
  _WORDS.update({s: ('texture', _name) for s in _synonyms if s})
_WORDS.update(
  {
    word: ('background', name)
    for name, words in {
      'grass': ('grass', 'lawn'),
      'sand': ('sand', 'beach'),
      'water': ('water', 'sea'),
      'wood': ('wood', 'planks'),
      'bricks': ('bricks', 'brick'),
      'sky': ('sky', 'clouds'),
      'night': ('night', 'nightfall'),
      'snow': ('snow',),
    }.items()
    for word in words
  }
)
_WORDS.update(
  {
    word: ('relation', name)
    for name, words in {
      'left': ('left',),
      'right': ('right',),
      'above': ('above', 'over', 'higher'),
      'below': ('below', 'under', 'beneath'),
      'near': ('near', 'beside', 'close'),
    }.items()
    for word in words
  }
)
_OPPOSITE = {
  'left': 'right',
  'right': 'left',
  'above': 'below',
  'below': 'above',
  'near': 'near',
}


def captions(
  scene: world.Scene, rng: np.random.Generator, count: int = 5
) -> tuple[str, ...]:
  """Returns references of a scene: lower case, no punctuation.

  Objects are in canonical order (large before small, then from left to
  right), each related to the next. Of more than four the first four are
  named, without their sizes in the plain template, and the others counted.

  Args:
    scene: from `sample`.
    rng: source of the variation.
    count: number of references.
  """
  random = rng.random
  return tuple(
    plain(scene) if random() < PLAIN else _varied(scene, random)
    for _ in range(count)
  )


def plain(scene: world.Scene) -> str:
  """Returns the most common reference: complete, in the plain template."""
  return _sentence(scene, lambda: 0.0)


def _varied(scene, random):
  for _ in range(8):
    sentence = _sentence(scene, random)
    if len(sentence.split()) <= LONGEST:
      return sentence
  return plain(scene)


def _pick(options, random):
  return options[int(len(options) * random())]


def _sentence(scene, random):
  """Makes a sentence; a random source of zeros gives the plain one."""
  things = scene.things[: world.MENTIONED]
  opening = _pick(_OPENINGS, random)
  article = _pick(('a', 'a', 'one'), random)
  unnamed = len(scene.things) - len(things)
  sized = (random() < 0.75) == (unnamed == 0)  # in a crowd most are small
  first = random() > 0.75
  place = _pick(_PLACES[scene.background], random)
  words = [place] if first else []
  words.append(opening)
  size_word, texture_word = random(), random()
  for i, thing in enumerate(things):
    noun = [thing.colour]
    if sized:
      noun.insert(0, _pick(_SIZES[thing.size], lambda: size_word))
    noun.append(_pick(_TEXTURES[thing.texture], lambda: texture_word))
    noun.append(thing.shape)
    an = article == 'a' and noun[0] == 'orange'
    words += ['an' if an else article, *noun]
    if i + 1 < len(things):
      words.append(_pick(_PHRASES[_relation(scene, i)], random))
  if unnamed:
    words.append(f'and {_NUMBERS[unnamed]} more')
  if not first:
    words.append(place)
  return ' '.join(' '.join(words).split())


def _relation(scene, i):
  a, b = scene.things[i : i + 2]
  return world.relation(a.x - b.x, a.y - b.y) or 'near'


def parse(caption: str) -> dict[str, Any]:
  """Reads objects, relations and backgrounds from any text.

  Returns:
    'objects': list of {'shape', 'colour' or None, 'texture'} in the order of
    the words ('solid' where no texture is named); 'relations': list of (i, j,
    relation) with indices in that list; 'backgrounds': set of names.
  """
  objects, links, places = [], [], set()
  attributes: dict[str, str] = {}
  link = None
  for word in re.findall('[a-z]+', caption.lower()):
    kind, name = _WORDS.get(word, ('', ''))
    if kind == 'shape':
      objects.append(
        {
          'shape': name,
          'colour': attributes.get('colour'),
          'texture': attributes.get('texture', 'solid'),
        }
      )
      if link and len(objects) > 1:
        links.append((len(objects) - 2, len(objects) - 1, link))
      attributes, link = {}, None
    elif kind == 'background':
      places.add(name)
      attributes, link = {}, None
    elif kind == 'relation':
      link = name
    elif kind:
      attributes[kind] = name
  return {'objects': objects, 'relations': links, 'backgrounds': places}


def slots(caption: str, info: dict[str, Any]) -> dict[str, float | None]:
  """Computes the shares of a scene that a caption names rightly, 0 to 1.

  Shapes, colours, textures and pairs (shape and colour of one object) are
  matched as multisets with those of the objects that should be mentioned, and
  divided by the larger of the two numbers of objects, so leaving out and
  making up both cost.

  Args:
    caption: any text.
    info: `Example.info` of a generated scene.

  Returns:
    'shape', 'colour', 'pair', 'texture', 'background', 'relation'. A relation
    is right when it is said of two objects that follow each other in the
    canonical order, both named rightly, and is true; None where the scene has
    one object.
  """
  said = parse(caption)
  truth = info['objects'][: info['mentioned']]
  size = max(len(truth), len(said['objects']))

  def share(*keys):
    counts = [
      collections.Counter(tuple(o[k] for k in keys) for o in objects)
      for objects in (truth, said['objects'])
    ]
    return sum((counts[0] & counts[1]).values()) / size

  scores: dict[str, float | None] = {
    'shape': share('shape'),
    'colour': share('colour'),
    'pair': share('shape', 'colour'),
    'texture': share('texture'),
    'background': float(said['backgrounds'] == {info['background']}),
    'relation': None,
  }
  names = [(o['shape'], o['colour']) for o in truth]
  true = set()
  for i, name in enumerate(info['relations']):
    true.add((names[i], names[i + 1], name))
    true.add((names[i + 1], names[i], _OPPOSITE[name]))
  if len(truth) > 1:
    named = [(o['shape'], o['colour']) for o in said['objects']]
    stated = [(named[i], named[j], r) for i, j, r in said['relations']]
    right = {
      frozenset(((a, b), (b, a))) for a, b, r in stated if (a, b, r) in true
    }
    scores['relation'] = len(right) / max(len(truth) - 1, len(stated))
  return scores
