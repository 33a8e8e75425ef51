import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab_jax import codecs, quantizers, testing
from collab_jax import message as messages
from collab_jax.quantizers import base

SETTINGS = {
  'identity': [{}, {'dtype': 'bfloat16'}, {'dtype': 'float32'}],
  'kmeans': [
    {'k': 1},
    {'k': 256, 'iters': 2},
    {
      'k': 8,
      'init': '++',
      'centroids': {'name': 'identity', 'dtype': 'float32'},
    },
  ],
  'random': [
    {'k': 7, 'rebuild': rebuild}
    for rebuild in ('close', 'keep', 'zero', 'nearest')
  ]
  + [{'k': 256}],
  'pool': [{'k': 1}, {'k': 8}, {'k': 9}, {'k': 256}],
  'resized': [{'k': 4}, {'k': 64}],
  'top_norm': [{'k': 3}, {'k': 40, 'rebuild': 'nearest'}],
  'farthest_point': [{'k': 3}, {'k': 256, 'rebuild': 'keep'}],
  'merge': [{'k': 5}, {'k': 3, 'iters': 2, 'smooth': 0.5}],
  'adaptive': [
    {'k': 6},
    {'k': 5, 'error': 0.6, 'centroids': {'name': 'ecvq', 'book': 'random'}},
  ],
  'low_rank': [{'k': 3, 'more': 2, 'reach': 7}],
  'packed': [
    {'k': 3, 'book': 'random'},
    {'k': 2, 'parts': 3, 'smooth': 1, 'rebuild': 'keep', 'book': 'random'},
  ],
  'centred': [
    {'book': 'random', 'vectors': {'name': 'random', 'k': 7}},
  ],
  'attended': [{'k': 5}, {'k': 2, 'saliency': 'norm', 'rebuild': 'keep'}],
  'bisecting': [{'k': 6}, {'k': 1}],
  'divprune': [{'k': 5}],
  'dpc_knn': [{'k': 5, 'weight': 2}],
  'medoids': [{'k': 4}],
  'salient': [{'k': 4}, {'k': 3, 'saliency': 'attention'}],
  'spatial': [{'k': 4}],
  'spherical': [{'k': 4}],
  'tome': [{'k': 5, 'rebuild': 'close'}],
  # These have books for the shipped model's vectors; here they draw theirs.
  'pca': [
    {'dims': 8, 'book': 'random'},
    {'dims': 4, 'book': 'random', 'vectors': {'name': 'scalar', 'bits': 2}},
  ],
  'scalar': [
    {'bits': 2},
    {'scales': 'dimension'},
    {'scales': 'book', 'book': 'random', 'bits': 3},
  ],
  'ecsq': [{'book': 'random', 'reach': 3}],
  'ecvq': [{'book': 'random', 'stages': 2, 'size': 5, 'beam': 3}],
  'fsq': [{'book': 'random'}, {'book': 'random', 'levels': 4}],
  'residual_vq': [{'book': 'random', 'stages': 2, 'size': 5}],
  'product_vq': [{'book': 'random', 'groups': 2, 'size': 5}],
  'shared_vq': [{'book': 'random', 'size': 5}],
}
# Many, wide vectors; of the others few show all there is to see, and having one
# size they share most of what they compile.
LARGE = {'pool', 'resized', 'pca'}
# One of each base class, on a grid with an even side too.
EVEN = (
  ('kmeans', {'k': 8}),
  ('top_norm', {'k': 3}),
  ('ecvq', {'book': 'random', 'stages': 2, 'size': 5, 'beam': 3}),
  ('centred', {'book': 'random', 'vectors': {'name': 'random', 'k': 7}}),
  ('residual_vq', {'book': 'random', 'stages': 2, 'size': 5}),
)
CASES = [(name, kw) for name, kws in SETTINGS.items() for kw in kws]


def test_every_quantizer_has_settings():
  assert SETTINGS.keys() == quantizers.NAMES.keys()


@pytest.mark.parametrize(('name', 'kw'), CASES, ids=str)
def test_contract(name, kw):
  large = name in LARGE or kw.get('k', 0) > 25
  n, d = (256, 32) if large else (25, 8)
  testing.check_quantizer(quantizers.make(name, **kw), n, d)


@pytest.mark.parametrize(('name', 'kw'), EVEN, ids=str)
def test_contract_on_an_even_grid(name, kw):
  testing.check_quantizer(quantizers.make(name, **kw), n=16, d=8)


@pytest.mark.parametrize(
  'quantizer',
  [
    quantizers.Random(7, 'nearest'),
    quantizers.TopNorm(3, 'keep'),
    quantizers.KMeans(4, '++', 2, quantizers.Identity('float32')),
  ],
  ids=quantizers.name,
)
def test_one_program_for_several(quantizer):
  x, key = jax.random.normal(jax.random.key(0), (16, 3)), jax.random.key(1)
  message = quantizer.quantize({}, x, key)
  tokens = quantizer.dequantize({}, message)
  sender, receiver = quantizer.sender, quantizer.receiver
  assert {sender, receiver} != {quantizer}
  for expected, got in (
    (message, sender.quantize({}, x, key)),
    (tokens, receiver.dequantize({}, message)),
  ):
    jax.tree.map(np.testing.assert_array_equal, expected, got)


@pytest.mark.parametrize('name', ['kmeans', 'farthest_point', 'pool'])
def test_few_vectors(name):
  kw = {'k': 2, 'n': 4} if name == 'pool' else {'k': 2}
  testing.check_quantizer(quantizers.make(name, **kw), n=4, d=3)


@pytest.mark.parametrize(('name', 'kw'), CASES, ids=str)
def test_composes(name, kw):
  inner = quantizers.make(name, **kw)
  n = 256
  outer = [quantizers.Random(n, vectors=inner)]
  if isinstance(inner, quantizers.Identity):
    outer.append(quantizers.KMeans(8, centroids=inner))
  for quantizer in outer:
    fields = quantizer.fields(n, 8)
    assert any('/' in field for field in fields)
    key = jax.random.key(1)
    params = quantizer.init_params(key, n, 8)
    message = jax.eval_shape(quantizer.quantize, params, jnp.zeros((n, 8)), key)
    assert message.keys() == fields.keys()
    for name, field in fields.items():
      assert message[name].shape == field.shape


def test_vectors_inside_vectors():
  inner = quantizers.KMeans(3, init='++')
  outer = quantizers.Random(64, rebuild='keep', vectors=inner)
  testing.check_quantizer(outer)
  assert set(outer.fields(256, 8)) == {
    'mask',
    'vectors/assignments',
    'vectors/centroids/x',
  }
  assert outer.uses_key
  assert quantizers.name(outer) == (
    'random(k=64,rebuild=keep,vectors=kmeans(k=3,init=++))'
  )


def test_names():
  assert quantizers.name(quantizers.Identity()) == 'identity'
  got = quantizers.name(quantizers.KMeans(8, init='++'))
  assert got == 'kmeans(k=8,init=++)'
  made = {quantizers.name(quantizers.make(n, **kw)) for n, kw in CASES}
  assert len(made) == len(CASES)


def test_names_are_read_back():
  for name, kw in CASES:
    quantizer = quantizers.make(name, **kw)
    assert quantizers.make(quantizers.name(quantizer)) == quantizer
  text = 'kmeans(init=++,centroids=pca(dims=8,vectors=scalar(bits=3)))'
  want = quantizers.KMeans(
    8,
    init='++',
    centroids=quantizers.PCA(8, vectors=quantizers.Scalar(bits=3)),
  )
  assert quantizers.make(text, k=8) == want
  with pytest.raises(ValueError, match="'k' may not stand there"):
    quantizers.make('kmeans(k=8)', k=8)
  with pytest.raises(ValueError, match="did you mean 'bits'"):
    quantizers.make('kmeans', k=8, centroids='scalar(bit=3)')


def test_describe_is_plain():
  got = quantizers.describe(quantizers.KMeans(8))
  assert got == {
    'quantizer': 'kmeans',
    'k': 8,
    'init': 'random',
    'iters': 50,
    'centroids': 'identity',
    'rebuild': 'grid',
  }


def test_make_refuses_and_suggests():
  with pytest.raises(ValueError, match="did you mean 'kmeans'"):
    quantizers.make('kmean', k=8)
  with pytest.raises(ValueError, match="did you mean 'rebuild'"):
    quantizers.make('random', k=8, rebuilt='zero')
  with pytest.raises(ValueError, match='k'):
    quantizers.make('random')
  with pytest.raises(ValueError, match='expected a frozen dataclass'):
    quantizers.make('math:sqrt')


def test_make_finds_outsiders():
  name = f'{__name__}:Half'
  assert __name__ in sys.modules
  made = quantizers.make(name, scale=0.5)
  assert quantizers.name(made) == f'{name}(scale=0.5)'
  testing.check_quantizer(made)


@pytest.mark.parametrize('k', [0, -1, True])
@pytest.mark.parametrize('name', ['kmeans', 'random', 'pool'])
def test_k_is_a_positive_int(name, k):
  with pytest.raises(ValueError, match=f'k: got {k}, expected an integer'):
    quantizers.make(name, k=k)


@pytest.mark.parametrize('name', ['kmeans', 'random', 'farthest_point'])
def test_k_is_at_most_n(name):
  quantizer = quantizers.make(name, k=17)
  x, key = jnp.zeros((16, 2)), jax.random.key(0)
  for call in (
    lambda: quantizer.fields(16, 2),
    lambda: quantizer.sent(16),
    lambda: quantizer.init_params(key, 16, 2),
    lambda: quantizer.quantize({}, x, key),
  ):
    with pytest.raises(ValueError, match='k <= 16'):
      call()


@pytest.mark.parametrize(
  'kw',
  [
    {'name': 'random', 'k': 2, 'rebuild': 'none'},
    {'name': 'kmeans', 'k': 2, 'init': 'zeros'},
    {'name': 'kmeans', 'k': 2, 'iters': -1},
    {'name': 'identity', 'dtype': 'int8'},
  ],
)
def test_choices(kw):
  with pytest.raises(ValueError, match=r'got .*expected'):
    quantizers.make(**kw)


@dataclasses.dataclass(frozen=True)
class Half:
  """An outsider's quantizer, and what may be wrong with it."""

  scale: float = 1.0
  flaw: str = ''

  @property
  def uses_key(self):
    return False

  def init_params(self, key, n, d):
    return None if self.flaw == 'params' else {}

  def fields(self, n, d):
    if self.flaw == 'no fields':
      return None
    if self.flaw == 'plain fields':
      return {'x': (n, d)}
    shape = (n, d + 1) if self.flaw == 'shape' else (n, d)
    return {'x': messages.Values('float16', shape)}

  def sent(self, n):
    return n

  def quantize(self, params, x, key):
    if self.flaw == 'no message':
      return None
    if self.flaw == 'no array':
      return {'x': None}
    if self.flaw == 'raises':
      raise KeyError('codebook')
    if self.flaw == 'eager' and not isinstance(x, jax.core.Tracer):
      return {'y': x}
    if self.flaw == 'nan':
      x = x / jnp.sum(x * x)
    if self.flaw == 'key':
      x = x + jax.random.normal(key, x.shape)
    if self.flaw == 'batch':
      x = x - jax.lax.stop_gradient(x).mean() * np.random.random()  # noqa: NPY002
    dtype = 'float32' if self.flaw == 'dtype' else 'float16'
    return {'x': jnp.clip(x, -60000, 60000).astype(dtype)}

  def dequantize(self, params, message):
    tokens = base.full_grid(message['x'])
    if self.flaw == 'no tokens':
      return None
    if self.flaw == 'tuple':
      return tuple(tokens)
    if self.flaw == 'no end':
      return tokens._replace(end=None)
    if self.flaw in ('flat', 'deep'):
      x = tokens.x
      return tokens._replace(x=x[:, 0] if self.flaw == 'flat' else x[None])
    if self.flaw == 'positions':
      return tokens._replace(positions=tokens.positions + 1)
    return tokens


@pytest.mark.parametrize(
  ('flaw', 'match'),
  [
    ('shape', 'must have shape'),
    ('dtype', 'must have dtype'),
    ('nan', 'finite'),
    ('key', 'uses_key is False'),
    ('batch', 'disagree'),
    ('positions', 'positions must lie'),
    ('no fields', r'fields\(\) must return a dict .* got None'),
    ('plain fields', r'fields\(\) must return a dict'),
    ('params', r'init_params\(\) must return a dict, got None'),
    ('no message', r'quantize\(\) must return a dict of arrays, got None'),
    ('no array', "field 'x' must be an array, got None"),
    ('raises', r"quantize\(\) raised KeyError: 'codebook'"),
    ('eager', 'quantize, jit and eager disagree'),
    ('no tokens', r'dequantize\(\) must return message.Tokens, got None'),
    ('tuple', r'dequantize\(\) must return message.Tokens, got \('),
    ('no end', 'tokens.end must be an array, got None'),
    ('flat', r'tokens.x must have shape \(m, 32\), got \(256,\)'),
    ('deep', r'must have shape \(m, 32\), got \(1, 256, 32\)'),
  ],
)
def test_flaws_are_found(flaw, match):
  with pytest.raises(AssertionError, match=match):
    testing.check_quantizer(Half(flaw=flaw))


def test_disagreement_tells_dtypes_and_shapes():
  one, other = jnp.zeros((2, 1), 'float16'), jnp.zeros(2)
  with pytest.raises(AssertionError) as error:
    testing._same({'x': one}, {'x': other}, 'here')
  assert 'float16[2, 1]' in str(error.value)
  assert 'float32[2]' in str(error.value)


def test_gradient_of_dropped_vectors_goes_to_those_sent():
  quantizer = quantizers.TopNorm(2)
  x = jnp.array([[1.0, 0], [5, 0], [0, 2], [0, 7]])
  key = jax.random.key(0)

  def loss(x):
    tokens = quantizers.straight_through(quantizer, {}, x, key)
    return (tokens.x * jnp.array([[1.0, 2], [3, 4]])).sum()

  np.testing.assert_array_equal(
    jax.grad(loss)(x), [[0, 0], [1, 2], [0, 0], [3, 4]]
  )


def test_settings_are_nested_and_plain():
  got = quantizers.settings(
    quantizers.make(
      'centred(vectors=merge(k=4,centroids=pca(dims=8,vectors=ecvq)))'
    )
  )
  assert got['quantizer'] == 'centred'
  assert got['vectors']['quantizer'] == 'merge'
  assert got['vectors']['k'] == 4
  assert got['vectors']['rebuild'] == 'grid'
  assert got['vectors']['centroids']['vectors']['quantizer'] == 'ecvq'
  assert json.loads(json.dumps(got)) == got


@pytest.mark.parametrize('alias', quantizers.ALIASES)
def test_aliases_make_the_canonical_quantizer(alias):
  canonical = quantizers.ALIASES[alias]
  args = '' if canonical == 'centred' else '(k=4)'
  made = quantizers.make(f'{alias}{args}')
  assert made == quantizers.make(f'{canonical}{args}')
  assert quantizers.name(made) == f'{canonical}{args}'
  assert codecs.parse(f'{alias}{args}').name == f'{canonical}{args}'
  assert alias not in quantizers.NAMES
