"""Plausible records without a model."""

import random

from collab_jax import quantizers

METHODS = {
  ('kmeans', 'init', '++'): 0.9,
  ('kmeans', 'init', 'random'): 0.8,
  ('random', 'rebuild', 'nearest'): 0.5,
  ('random', 'rebuild', 'keep'): 0.4,
  ('random', 'rebuild', 'close'): 0.4,
  ('random', 'rebuild', 'zero'): 0.2,
}
_WORDS = (
  *('a', 'large', 'red', 'star', 'left', 'of', 'the'),
  *('small', 'blue', 'ring', 'on', 'wet', 'green', 'grass'),
)


def _caption(truth, right, rng):
  return ' '.join(w if rng.random() < right else 'dog' for w in truth)


# Kind, quality, size, strip -> bytes and skill.
PICTURES = {
  ('jpeg', 10, 64, False): (400, 0.5),
  ('jpeg', 50, 64, False): (900, 0.9),
  ('jpeg', 95, 64, False): (2500, 0.97),
  ('jpeg', 50, 32, False): (350, 0.4),
  ('avif', 8, 64, True): (100, 0.5),
  ('avif', 30, 64, True): (260, 0.8),
  ('avif', 60, 64, True): (700, 0.95),
  ('avif', 60, 32, True): (300, 0.6),
}


def make(
  images=20, ks=(1, 2, 4, 8), seeds=(0, 1, 2), methods=None, pictures=None
):
  """Records whose captions get better with k, and with more bytes."""
  rng = random.Random(0)
  truths = [rng.sample(_WORDS, 12) for _ in range(images)]
  references = [
    [' '.join(t), ' '.join(t[:10]), ' '.join(t[2:])] for t in truths
  ]
  records = []

  def add(codec, name, seed, sent, size, right):
    records.extend(
      {
        'image_id': i,
        'codec': codec,
        'name': name,
        'seed': seed,
        'caption': _caption(truth, right, rng),
        'references': references[i],
        'sent': sent,
        'vectors': 256,
        'ratio': sent / 256,
        'bytes': {'x': size} if size else {},
        'total_bytes': size,
        'distortion': None,
        'seconds': {'caption': 0.01},
        'model': 'tiny',
        'data': 'scenes/test',
        'slots': {'shape': right, 'pair': right, 'relation': None},
      }
      for i, truth in enumerate(truths)
    )

  feature = {'codec': 'feature', 'split': 'encoder'}
  for (quantizer, field, value), skill in (methods or METHODS).items():
    for k in ks:
      codec = {**feature, 'quantizer': quantizer, 'k': k, field: value}
      name = f'{quantizer}(k={k},{field}={value})'
      if not methods:
        name = quantizers.name(quantizers.make(name))
      right = 1 - (1 - skill) / (1 + k / 4)
      for seed in seeds:
        add(codec, name, seed, k, 256 * k + 32, right)
  full = {**feature, 'quantizer': 'identity', 'dtype': 'float16'}
  add(full, 'identity', 0, 256, 65536, 0.99)
  for (kind, quality, size, strip), (count, right) in (pictures or {}).items():
    codec = {'codec': 'image', 'kind': kind, 'quality': quality}
    codec |= {'size': size, 'strip': strip}
    name = f'{kind}(quality={quality},size={size},strip={strip})'
    add(codec, name, 0, 256, count, right)
  for kind in ('zeroed', 'mean', 'shuffled'):
    blind = {'codec': 'blind', 'split': 'encoder', 'kind': kind}
    add(blind, f'blind({kind})', 0, 0, 0, 0.3)
  return records


def answered(codec, name, sent, size, questions, image_id, number, text, **kw):
  """A record of an answer to one of a picture's questions; 'yes' is right.

  Args:
    codec: Its settings.
    name: Its name.
    sent: Vectors sent.
    size: Bytes of the picture's message.
    questions: Number of questions about the picture.
    image_id: The picture.
    number: Number of the question.
    text: The answer.
    **kw: Other fields, or other values.
  """
  return {
    'image_id': image_id,
    'codec': codec,
    'name': name,
    'seed': 0,
    'caption': text,
    'answer': text,
    'references': ['yes'],
    'sent': sent,
    'vectors': 64,
    'ratio': sent / 64,
    'bytes': {'x': size},
    'total_bytes': size,
    'distortion': None,
    'seconds': {},
    'model': 'm',
    'data': 'd/test',
    'task': 'scenes',
    'question': f'{image_id}/{number}',
    'prompt': 'p',
    'questions': questions,
    'question_bytes': size / questions,
    'scores': {'exact': float(text == 'yes')},
    **kw,
  }
