"""Questions whose answers mean nothing are remarked on."""

import dataclasses

import pytest

from collab_jax import data, tasks
from collab_jax.evaluation import askable
from collab_jax.models import tokenizer
from tests import standin

BOX = '<loc0000><loc0000><loc1023><loc1023>'


def model_of(name, pieces):
  model = standin.small()
  config = dataclasses.replace(model.config, name=name)
  words = model.tokenizer.extended(pieces) if pieces else model.tokenizer
  return dataclasses.replace(model, config=config, tokenizer=words)


def remark(prompt, answer, name='tiny', pieces=()):
  asked = data.Question(prompt, (answer,), '', '0')
  picture = dataclasses.replace(data.scenes('test')[0], questions=(asked,))
  return askable.remark(tasks.Jsonl(), picture, model_of(name, pieces))


@pytest.mark.parametrize(
  ('prompt', 'answer', 'name', 'pieces', 'said'),
  [
    ('caption en', 'a ring', 'tiny', (), ''),
    ('caption en', 'a ring', 'tiny', tokenizer.LOCATIONS, ''),
    ('answer en what', 'red', 'tiny', tokenizer.LOCATIONS, ''),
    ('detect ring', f'{BOX} ring', 'tiny', tokenizer.LOCATIONS, ''),
    ('left dog', BOX + '<seg001>' * 16, 'other', tokenizer.LOCATIONS, '<seg'),
    ('detect ring', f'{BOX} ring', 'other', (), 'such as <loc0000>, which the'),
    ('describe <loc0001>', 'red', 'other', (), 'such as <loc0001>'),
    ('what is it', 'red', 'other', (), ''),
    ('answer en what', 'red', 'tiny', (), "begin with 'caption en' alone"),
    (
      'What is it',
      'red',
      'tiny',
      tokenizer.LOCATIONS,
      "asks 'What is it', and tiny was trained on prompts that begin with"
      " 'caption en', 'answer en', 'detect' alone",
    ),
  ],
)
def test_what_is_remarked(prompt, answer, name, pieces, said):
  got = remark(prompt, answer, name, pieces)
  assert said in got
  assert bool(got) == bool(said)
  assert '\n' not in got
