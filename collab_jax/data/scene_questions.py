"""Questions about generated scenes, each with one right answer.

Questions are a function of (split, index), as scenes are. Answers are drawn
so that little can be guessed without the picture: yes and no, small and large
are equally frequent, the three textures nearly so. `benchmarks/questions.py`
measures what remains.
"""

from collections.abc import Callable, Iterator, Sequence
import itertools
from typing import TypeAlias

from collab_jax import boxes
from collab_jax.data import drawing, question, world

Random: TypeAlias = Callable[[], float]
# Prompt and answer.
Pair: TypeAlias = tuple[str, str]
# Values by the name of the attribute, in the order of `_ORDER`.
Phrase: TypeAlias = dict[str, str]

PER_KIND = 4  # questions of a kind, but yes_no, which has a pair of each sort
MOST_BOXES = 4  # things that a question of detection asks for

_ORDER = ('size', 'colour', 'texture', 'shape')
_PLURALS = {'cross': 'crosses', '': 'things'}
# Offsets are turned so that the direction points to positive numbers.
_DIRECTIONS = {
  'left of': lambda dx, dy: (-dx, dy),
  'right of': lambda dx, dy: (dx, dy),
  'above': lambda dx, dy: (-dy, dx),
  'below': lambda dx, dy: (dy, dx),
}
# 40% of the things are solid, 30% striped: so many as of the others are asked.
_KEPT = {'solid': 0.75, 'striped': 1.0, 'dotted': 1.0}


def questions(scene: world.Scene) -> tuple[question.Question, ...]:
  """Returns the questions about a scene, kind by kind: lower case, no marks.

  Kinds are 'colour', 'shape', 'texture', 'size' (where both sizes occur),
  'count' (from 0), 'relation' (where exactly one thing lies in a direction),
  'yes_no' (pairs of yes and no, about existence, attributes and relations)
  and 'detect'. Each has up to four questions, yes_no six.
  """
  random = world.generator(scene.seed, 3).random
  asked = []
  for kind, make in _KINDS.items():
    pairs = dict(make(scene, random))
    asked += [
      question.Question(prompt, (answer,), kind, f'{scene.image_id}/{kind}/{i}')
      for i, (prompt, answer) in enumerate(pairs.items())
    ]
  return tuple(asked)


def score(asked: question.Question, answer: str) -> float:
  """Scores an answer, 0 to 1: the same words, or boxes where they should be.

  Boxes are right from an intersection over union of 0.5, see `boxes.matched`.
  """
  if asked.kind != 'detect':
    return float(answer in asked.references)
  got, expected = (
    [box for box, _ in boxes.read(text)]
    for text in (answer, asked.references[0])
  )
  return boxes.matched(got, expected)


def direction(dx: float, dy: float, name: str) -> bool | None:
  """Returns whether an offset in px points in a direction; None if unclear.

  One axis must dominate by 1.5, as in `world.relation`.

  Args:
    dx: to the right.
    dy: down.
    name: 'left of', 'right of', 'above' or 'below'.
  """
  along, across = _DIRECTIONS[name](dx, dy)
  if along >= 1.5 * abs(across):
    return True
  return False if abs(across) >= 1.5 * along else None


def _text(phrase: Phrase, plural: bool = False) -> str:
  shape = phrase.get('shape', '')
  noun = shape or 'thing'
  if plural:
    noun = _PLURALS.get(shape, f'{shape}s')
  return ' '.join([*(phrase[n] for n in _ORDER[:3] if n in phrase), noun])


def _fits(thing: world.Thing, phrase: Phrase) -> bool:
  return all(getattr(thing, name) == value for name, value in phrase.items())


def _matches(
  things: Sequence[world.Thing], phrase: Phrase
) -> list[world.Thing]:
  return [thing for thing in things if _fits(thing, phrase)]


def _phrases(thing: world.Thing, names: Sequence[str]) -> list[Phrase]:
  """Returns the descriptions of a thing by up to three of the attributes."""
  return [
    {name: getattr(thing, name) for name in chosen}
    for count in range(min(len(names), 3) + 1)
    for chosen in itertools.combinations(names, count)
  ]


def _references(
  things: Sequence[world.Thing], thing: world.Thing, unsaid: str = ''
) -> list[Phrase]:
  """Returns descriptions that fit a thing alone and leave an attribute out."""
  names = [name for name in _ORDER if name != unsaid]
  return [
    phrase
    for phrase in _phrases(thing, names)
    if len(_matches(things, phrase)) == 1
  ]


def _pick(options, random: Random):
  return options[int(len(options) * random())]


def _shuffled(items, random: Random) -> list:
  items = [(random(), i, item) for i, item in enumerate(items)]
  return [item for _, _, item in sorted(items, key=lambda row: row[:2])]


def _asked(
  things: Sequence[world.Thing], name: str, random: Random
) -> list[world.Thing]:
  """Draws things whose attribute is asked for, with balanced values."""
  order = _shuffled(things, random)
  if name == 'texture':
    return [t for t in order if random() < _KEPT[t.texture]]
  if name == 'size':
    sizes = [[t for t in order if t.size == size] for size in world.SIZES]
    # As many of one size as of the other.
    return [t for pair in zip(*sizes, strict=False) for t in pair]
  return order


def _attribute(name: str):
  """Makes the generator of questions such as 'what colour is the ring'."""

  def make(scene: world.Scene, random: Random) -> Iterator[Pair]:
    # Few things are described twice, in different words.
    twice = 2 if len(scene.things) <= 2 else 1
    for thing in _asked(scene.things, name, random)[: PER_KIND // twice]:
      references = _references(scene.things, thing, name)
      for phrase in _shuffled(references, random)[:twice]:
        yield (
          f'answer en what {name} is the {_text(phrase)}',
          getattr(thing, name),
        )

  return make


def _count(scene: world.Scene, random: Random) -> Iterator[Pair]:
  """Yields questions such as 'how many rings', each number as often."""
  phrases: list[Phrase] = [{}]
  for name, values in (
    ('shape', world.SHAPES),
    ('colour', world.COLOURS),
    ('texture', world.TEXTURES),
    ('size', world.SIZES),
  ):
    phrases += [{name: value} for value in values]
  by_number: dict[int, list[Phrase]] = {}
  for phrase in _shuffled(phrases, random):
    by_number.setdefault(len(_matches(scene.things, phrase)), []).append(phrase)
  numbers = _shuffled(by_number, random)
  rounds = itertools.zip_longest(*(by_number[n][:PER_KIND] for n in numbers))
  taken = [
    phrase for several in rounds for phrase in several if phrase is not None
  ]
  for phrase in taken[:PER_KIND]:
    number = len(_matches(scene.things, phrase))
    yield f'answer en how many {_text(phrase, True)}', str(number)


def _relation(scene: world.Scene, random: Random) -> Iterator[Pair]:
  """Yields questions such as 'what is left of the red ring'."""
  cases = []
  for thing, name in itertools.product(scene.things, _DIRECTIONS):
    others = [t for t in scene.things if t is not thing]
    points = [direction(t.x - thing.x, t.y - thing.y, name) for t in others]
    if points.count(True) == 1 and None not in points:
      cases.append((thing, name, others[points.index(True)]))
  for thing, name, other in _shuffled(cases, random)[:PER_KIND]:
    phrase = _text(_pick(_references(scene.things, thing), random))
    yield (
      f'answer en what is {name} the {phrase}',
      f'{other.colour} {other.shape}',
    )


def _yes_no(scene: world.Scene, random: Random) -> Iterator[Pair]:
  """Yields a pair of yes and no of each sort of question."""
  for ask in (_exists, _has, _lies):
    yes, no = ask(scene, random, True), ask(scene, random, False)
    if yes and no:
      yield f'answer en {yes}', 'yes'
      yield f'answer en {no}', 'no'


def _exists(scene: world.Scene, random: Random, true: bool) -> str:
  """Asks for a thing, or for one that differs from it in one attribute."""
  # Sizes are left out: of most shapes there is a small one.
  pairs = list(itertools.combinations(('colour', 'texture', 'shape'), 2))
  for _ in range(8):
    thing, names = _pick(scene.things, random), _pick(pairs, random)
    phrase = {name: getattr(thing, name) for name in names}
    if not true:
      name = _pick(names, random)
      phrase[name] = _other(scene, thing, name, random)
    if true or not _matches(scene.things, phrase):
      return f'is there {_article(_text(phrase))}'
  return ''


def _has(scene: world.Scene, random: Random, true: bool) -> str:
  """Asks whether a thing has a value of an attribute."""
  for _ in range(8):
    name = _pick(_ORDER, random)
    things = scene.things
    if name == 'size':
      things = _asked(things, name, random)
    if not things:
      continue
    thing = _pick(things, random)
    references = _references(scene.things, thing, name)
    if not references:
      continue
    value = getattr(thing, name)
    if not true:
      value = _other(scene, thing, name, random)
    value = _article(value) if name == 'shape' else value
    return f'is the {_text(_pick(references, random))} {value}'
  return ''


def _lies(scene: world.Scene, random: Random, true: bool) -> str:
  """Asks whether a thing lies in a direction from another."""
  cases = [
    (a, b, name)
    for a, b in itertools.permutations(scene.things, 2)
    for name in _DIRECTIONS
    if direction(a.x - b.x, a.y - b.y, name) is true
  ]
  if not cases:
    return ''
  a, b, name = _pick(cases, random)
  first, second = (
    _text(_pick(_references(scene.things, thing), random)) for thing in (a, b)
  )
  return f'is the {first} {name} the {second}'


def _other(
  scene: world.Scene, thing: world.Thing, name: str, random: Random
) -> str:
  """Draws another value of an attribute, as frequent as in scenes."""
  values = {
    'shape': world.SHAPES,
    'colour': world.VISIBLE[scene.background],
    # Twice, since more things are solid than striped or dotted.
    'texture': ('solid', *world.TEXTURES),
    'size': world.SIZES,
  }[name]
  return _pick([v for v in values if v != getattr(thing, name)], random)


def _article(noun: str) -> str:
  return f'{"an" if noun.startswith("orange") else "a"} {noun}'


def _detect(scene: world.Scene, random: Random) -> Iterator[Pair]:
  """Yields prompts such as 'detect red ring', boxes from left to right."""
  for _ in range(PER_KIND):
    thing = _pick(scene.things, random)
    phrase = _pick(_phrases(thing, _ORDER), random)
    things = _matches(scene.things, phrase)
    if len(things) <= MOST_BOXES:
      places = sorted((drawing.box(t) for t in things), key=_from_left)
      name = _text(phrase)
      yield f'detect {name}', boxes.write(places, name)


def _from_left(box: boxes.Box) -> tuple[float, float]:
  return box.left, box.top


_KINDS: dict[str, Callable[[world.Scene, Random], Iterator[Pair]]] = {
  'colour': _attribute('colour'),
  'shape': _attribute('shape'),
  'texture': _attribute('texture'),
  'size': _attribute('size'),
  'count': _count,
  'relation': _relation,
  'yes_no': _yes_no,
  'detect': _detect,
}
KINDS = tuple(_KINDS)
