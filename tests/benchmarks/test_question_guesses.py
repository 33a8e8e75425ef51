"""Guesses of questions, which see no picture."""

import pytest

from benchmarks import questions
from collab_jax import boxes, data
from collab_jax.data import scene_questions


def test_guesses_are_the_most_common_answers():
  known = [
    data.Question('answer en what colour is the ring', ('red',), 'colour'),
    data.Question('answer en what colour is the ring', ('red',), 'colour'),
    data.Question('answer en what colour is the star', ('blue',), 'colour'),
  ]
  by_kind, by_text = questions.guesses(known, 'colour')
  assert by_kind == {'colour': 'red'}
  assert by_text[known[2].prompt] == 'blue'


def test_a_guessed_box_hits_most_things():
  places = [boxes.Box(0, 0, 0.5, left) for left in (0.5, 0.45, 0.9)]
  known = [
    data.Question('detect ring', (boxes.write([box], 'ring'),), 'detect')
    for box in places
  ]
  by_kind, _ = questions.guesses(known, 'detect')
  scores = [scene_questions.score(q, by_kind['detect']) for q in known]
  assert sum(scores) == 3
  assert scene_questions.score(known[0], 'a ring') == 0


def test_guesses_of_scenes():
  known = list(questions.asked('train', 40))
  kinds = questions.guessed('test', 20, known)
  assert {*kinds} == {*scene_questions.KINDS}
  assert kinds['yes_no'].by_kind == pytest.approx(50)
  assert kinds['relation'].by_text < 10
  assert kinds['detect'].by_kind < 15
