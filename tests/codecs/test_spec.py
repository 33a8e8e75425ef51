"""Codecs from flags: a whole one, or a quantizer and its k."""

import pytest

from collab_jax import codecs


@pytest.mark.parametrize(
  ('text', 'k', 'name'),
  [
    ('kmeans', None, 'kmeans(k=8)'),
    ('kmeans', 3, 'kmeans(k=3)'),
    ('kmeans(k=5)', None, 'kmeans(k=5)'),
    ('kmeans(init=++)', 4, 'kmeans(k=4,init=++)'),
    ('visionzip', 4, 'attended(k=4)'),
    ('scalar(bits=3)', None, 'scalar(bits=3)'),
    ('centred(vectors=merge(k={k}))', 4, 'centred(vectors=merge(k=4))'),
    ('centred(vectors=merge(k={k}))', None, 'centred(vectors=merge(k=8))'),
    ('centred(vectors=merge(k=2))', None, 'centred(vectors=merge(k=2))'),
  ],
)
def test_a_quantizer_says_its_k_or_a_flag_does(text, k, name):
  given = [] if k is None else ['k']
  spec = codecs.choose('', text, 8 if k is None else k, given)
  assert spec.name == name


@pytest.mark.parametrize(
  ('codec', 'quantizer', 'given', 'said'),
  [
    (
      '',
      'kmeans(k=5)',
      ['k'],
      "^quantizer: got 'kmeans.k=5.*'k' may not stand",
    ),
    ('', 'identity', [], "^quantizer: got 'identity', which sends all"),
    ('', 'kmean', [], "^quantizer: got 'kmean'; did you mean 'kmeans'"),
    ('webp', 'kmeans', ['k'], '^k: is given beside codec'),
    ('pool(k=4)', 'pool', ['quantizer'], '^quantizer: is given beside codec'),
  ],
)
def test_flags_that_do_not_go_together(codec, quantizer, given, said):
  with pytest.raises(ValueError, match=said):
    codecs.choose(codec, quantizer, 8, given)
