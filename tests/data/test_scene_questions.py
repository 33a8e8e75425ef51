import collections
import itertools
import re
import subprocess
import sys
import zlib

import numpy as np
import pytest

from collab_jax import boxes, data
from collab_jax.data import drawing, scene_questions, world

ATTRIBUTES = ('size', 'colour', 'texture', 'shape')
PLURALS = {'crosses': 'cross'} | {
  f'{s}s': s for s in world.SHAPES if s != 'cross'
}
SIDES = {
  'left of': lambda a, b: b.x - a.x >= 1.5 * abs(b.y - a.y),
  'right of': lambda a, b: a.x - b.x >= 1.5 * abs(b.y - a.y),
  'above': lambda a, b: b.y - a.y >= 1.5 * abs(b.x - a.x),
  'below': lambda a, b: a.y - b.y >= 1.5 * abs(b.x - a.x),
}


@pytest.fixture(scope='module')
def asked():
  scenes = [world.sample('train', i) for i in range(300)]
  scenes += [world.sample('train_dense', i) for i in range(150)]
  return [(scene, data.questions(scene)) for scene in scenes]


def things(scene, phrase):
  """Returns the things of a scene that a phrase of words describes."""
  words = [PLURALS.get(w, w) for w in phrase.split()]
  words = [w for w in words if w not in {'the', 'a', 'an', 'thing', 'things'}]
  return [
    t
    for t in scene.things
    if {*words} <= {getattr(t, name) for name in ATTRIBUTES}
  ]


def answer(scene, prompt):
  """Answers a question by the description, from the words alone."""
  question = prompt.removeprefix('answer en ')
  if match := re.fullmatch(r'what (\w+) is the (.+)', question):
    (thing,) = things(scene, match[2])
    return getattr(thing, match[1])
  if match := re.fullmatch(r'how many (.+)', question):
    return str(len(things(scene, match[1])))
  if match := re.fullmatch(r'what is (.+?) the (.+)', question):
    (thing,) = things(scene, match[2])
    others = (t for t in scene.things if t is not thing)
    (other,) = (t for t in others if SIDES[match[1]](t, thing))
    return f'{other.colour} {other.shape}'
  if match := re.fullmatch(r'is there (.+)', question):
    return 'yes' if things(scene, match[1]) else 'no'
  for side, holds in SIDES.items():
    if match := re.fullmatch(rf'is the (.+) {side} the (.+)', question):
      (first,), (second,) = (things(scene, match[i]) for i in (1, 2))
      return 'yes' if holds(first, second) else 'no'
  match = re.fullmatch(r'is the (.+?) (an? \w+|\w+)', question)
  (thing,) = things(scene, match[1])
  return 'yes' if things(scene, match[2]).count(thing) else 'no'


def test_answers_are_right(asked):
  for scene, several in asked:
    for question in several:
      (reference,) = question.references
      if question.kind != 'detect':
        assert answer(scene, question.prompt) == reference, question


def test_boxes_are_those_of_the_pixels(asked):
  for scene, several in asked[:200]:
    covers = data.draw(scene)[1] >= 0.5
    by_thing = dict(zip(scene.things, covers, strict=True))
    for question in several:
      if question.kind != 'detect':
        continue
      name = question.prompt.removeprefix('detect ')
      expected = []
      for thing in things(scene, name):
        rows, columns = (
          np.flatnonzero(by_thing[thing].any(axis)) for axis in (1, 0)
        )
        edges = (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1)
        expected.append(boxes.Box(*(float(e) / world.SIDE for e in edges)))
      expected.sort(key=lambda box: (box.left, box.top))
      assert question.references == (boxes.write(expected, name),)
      got = [box for box, _ in boxes.read(question.references[0])]
      assert boxes.matched(got, expected, 0.95) == 1
      assert 1 <= len(expected) <= scene_questions.MOST_BOXES


def test_boxes_take_whole_pixels(asked):
  grid = {round(i / world.SIDE * 1023) for i in range(world.SIDE + 1)}
  assert len(grid) == 65
  for _, several in asked:
    for question in several:
      steps = re.findall(r'<loc(\d{4})>', question.references[0])
      assert {int(step) for step in steps} <= grid
  thing = world.sample('test', 0).things[0]
  assert drawing.box(thing).top < thing.y / world.SIDE


def test_relations_have_no_near_ties(asked):
  for scene, several in asked:
    for question in several:
      match = re.fullmatch(r'answer en what is (.+?) the (.+)', question.prompt)
      if not match:
        continue
      (thing,) = things(scene, match[2])
      points = [
        scene_questions.direction(t.x - thing.x, t.y - thing.y, match[1])
        for t in scene.things
        if t is not thing
      ]
      assert points.count(True) == 1
      assert None not in points


def test_directions():
  assert scene_questions.direction(-3.0, 1.0, 'left of') is True
  assert scene_questions.direction(-3.0, 3.0, 'left of') is None
  assert scene_questions.direction(-3.0, 5.0, 'left of') is False
  assert scene_questions.direction(3.0, 0.0, 'left of') is False
  assert scene_questions.direction(3.0, -2.0, 'right of') is True
  assert scene_questions.direction(0.0, -2.0, 'above') is True
  assert scene_questions.direction(0.0, 2.0, 'below') is True


def test_numbers_and_ids(asked):
  ids = collections.Counter(q.id for _, several in asked for q in several)
  assert set(ids.values()) == {1}
  for scene, several in asked:
    kinds = collections.Counter(q.kind for q in several)
    assert set(kinds) <= {*scene_questions.KINDS}
    assert kinds['count'] == scene_questions.PER_KIND
    assert all(
      count <= (6 if kind == 'yes_no' else scene_questions.PER_KIND)
      for kind, count in kinds.items()
    )
    sizes = {t.size for t in scene.things}
    assert (kinds['size'] > 0) <= (len(sizes) == 2)
    assert len({q.prompt for q in several}) == len(several)
    assert all(q.id.startswith(f'{scene.image_id}/') for q in several)


def test_answers_are_balanced(asked):
  answers = collections.defaultdict(collections.Counter)
  for _, several in asked:
    for question in several:
      answers[question.kind][question.references[0]] += 1

  def share(kind):
    counts = answers[kind]
    return counts.most_common(1)[0][1] / sum(counts.values())

  assert answers['yes_no']['yes'] == answers['yes_no']['no']
  assert share('size') < 0.52
  assert share('texture') < 0.38
  assert share('colour') < 0.15
  assert share('shape') < 0.17
  assert share('count') < 0.4
  assert share('relation') < 0.04
  assert len(answers['count']) == 11


def test_reader_has_questions_only_where_asked():
  plain, reader = data.scenes('val', 3), data.scenes('val', 3, questions=True)
  for a, b in zip(plain, reader, strict=True):
    assert a.questions == ()
    assert a.captions == b.captions
    np.testing.assert_array_equal(a.image, b.image)
    scene = world.sample('val', a.image_id - 10**9)
    assert b.questions == data.questions(scene) != ()
    assert isinstance(b.questions[0], data.Question)
  assert plain.name == reader.name
  assert plain != reader


def test_other_processes_ask_the_same():
  code = (
    'import zlib\nfrom collab_jax import data\n'
    'asked = [data.scenes(s, questions=True)[i].questions'
    " for s in ('train', 'val', 'test', 'dense') for i in range(5)]\n"
    'print(zlib.crc32(repr(asked).encode()))'
  )
  runs = {
    subprocess.run(
      [sys.executable, '-c', code],
      capture_output=True,
      text=True,
      check=True,
      env={'PYTHONPATH': ':'.join(sys.path), 'PYTHONHASHSEED': seed},
    ).stdout
    for seed in ('1', '2')
  }
  assert len(runs) == 1


def test_the_questions_are_those_of_the_records():
  """Published numbers refer to these questions: no change goes unnoticed."""
  text = ''.join(
    f'{q.prompt}={q.references[0]}\n'
    for split, i in itertools.product(world.SPLITS, range(10))
    for q in data.scenes(split, questions=True)[i].questions
  )
  assert zlib.crc32(text.encode()) == 4012579559
