"""Programs that serve every k up to a bucket, with equal messages."""

import dataclasses
from typing import ClassVar

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest

import collab_jax as cj
from collab_jax import evaluation, quantizers, testing
from collab_jax.codecs import feature
from collab_jax.quantizers import base, padding

N, D = 36, 6
QUANTIZERS = (
  quantizers.KMeans(k=1),
  quantizers.KMeans(k=1, init='++'),
  quantizers.KMeans(k=1, rebuild='keep'),
  quantizers.KMeans(k=1, rebuild='close', centroids=quantizers.Scalar(bits=4)),
  quantizers.KMeans(
    k=1, centroids=quantizers.Scalar(bits=4, scales='dimension')
  ),
  quantizers.Spatial(k=1),
  quantizers.Spherical(k=1),
  quantizers.WeightedKMeans(k=1),
  quantizers.Medoids(k=1),
  quantizers.DpcKnn(k=1),
  quantizers.Agglomerative(k=1, iters=2, smooth=1.0),
  quantizers.Random(k=1, rebuild='close'),
  quantizers.Random(k=1, rebuild='keep'),
  quantizers.Random(k=1, rebuild='zero'),
  quantizers.Random(k=1, rebuild='nearest'),
  quantizers.TopNorm(k=1),
  quantizers.DivPrune(k=1),
  quantizers.FarthestPoint(k=1),
  quantizers.PCA(dims=3, book='random', vectors=quantizers.Random(k=1)),
)


def with_k(quantizer, k):
  if isinstance(quantizer, quantizers.PCA):
    return dataclasses.replace(quantizer, vectors=with_k(quantizer.vectors, k))
  return dataclasses.replace(quantizer, k=k)


@pytest.fixture(scope='module')
def features():
  rng = np.random.default_rng(0)
  return rng.normal(size=(3, N, D)).cumsum(1).astype(np.float32)


@pytest.mark.parametrize('quantizer', QUANTIZERS, ids=quantizers.name)
def test_program_of_a_bucket_is_exact(quantizer, features):
  keys = jax.random.split(jax.random.key(1), len(features))
  params = quantizer.init_params(jax.random.key(0), N, D)

  @jax.jit
  def larger(count, x, keys):
    used = program.using(count)
    return jax.vmap(lambda x, key: used.quantize(params, x, key))(x, keys)

  @jax.jit
  def rebuilt(count, message):
    used = receiver.using(count)
    return jax.vmap(lambda m: used.dequantize(params, m))(message)

  program = padding.find(quantizer.sender, N, D).quantizer
  receiver = padding.find(quantizer.receiver, N, D).quantizer
  for k in (3, 16):
    own = with_k(quantizer, k)
    sender, end = (padding.find(q, N, D) for q in (own.sender, own.receiver))
    assert (sender.quantizer, end.quantizer) == (program, receiver)
    assert sender.num_used == end.num_used == k
    quantize = jax.vmap(lambda x, key, own=own: own.quantize(params, x, key))
    message = jax.jit(quantize)(features, keys)
    got = sender.trim(jax.device_get(larger(sender.argument, features, keys)))
    assert message.keys() == got.keys()
    for name, value in message.items():
      np.testing.assert_array_equal(got[name], value)

    dequantize = jax.vmap(lambda m, own=own: own.dequantize(params, m))
    tokens = jax.jit(dequantize)(message)
    padded = rebuilt(end.argument, end.pad(jax.device_get(message)))
    m = tokens.x.shape[1]
    for value, larger_one in zip(tokens[:3], padded[:3], strict=True):
      np.testing.assert_array_equal(np.asarray(larger_one)[:, :m], value)
    assert not np.asarray(padded.valid)[:, m:].any()
    np.testing.assert_array_equal(padded.end, tokens.end)
  assert larger._cache_size() == rebuilt._cache_size() == 1


def test_buckets():
  sizes = [base.bucket(k, 256) for k in (1, 16, 17, 128, 129, 255, 256)]
  assert sizes == [16, 16, 128, 128, 255, 255, 256]
  # Never the whole grid: tokens of k vectors are told from it by their number.
  assert base.bucket(5, 16) == 15


@dataclasses.dataclass(frozen=True)
class Own(quantizers.Selection):
  """Selection that says nothing of `dynamic_k`."""

  def select(self, x, key):
    return jnp.arange(self.k)


def test_a_quantizer_without_dynamic_k_keeps_its_own_program():
  own = Own(k=3)
  assert padding.find(own.sender, N, D).num_used is None
  # Its message is rebuilt by the program of all selections.
  received = padding.find(own.receiver, N, D)
  assert received == padding.find(quantizers.Random(k=3).receiver, N, D)
  places = quantizers.KMeans(
    k=3, centroids=quantizers.PositionMean(book='random')
  )
  assert padding.find(places.sender, N, D).num_used is None


@dataclasses.dataclass(frozen=True)
class Ends(quantizers.TopNorm):
  """Selection of other vectors than the class it inherits from."""

  def select(self, x, key):
    return jnp.linspace(0, len(x) - 1, self.k).round().astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Slices(quantizers.KMeans):
  """Clustering of its own, which knows nothing of `num_used`."""

  def cluster(self, x, key):
    parts = (jnp.arange(len(x)) * self.k // len(x)).astype(jnp.int32)
    hot = jax.nn.one_hot(parts, self.k, axis=0)
    return parts, hot @ x / hot.sum(1)[:, None]


@dataclasses.dataclass(frozen=True)
class Steps(quantizers.Identity):
  """Quantizer of the difference of each vector from the one before."""

  def quantize(self, params, x, key):
    return super().quantize(params, jnp.diff(x, axis=0, prepend=0), key)

  def dequantize(self, params, message):
    tokens = super().dequantize(params, message)
    return tokens._replace(x=jnp.cumsum(tokens.x, axis=0))


@pytest.mark.parametrize('quantizer', [Ends(k=3), Slices(k=3)])
def test_a_subclass_with_methods_of_its_own_has_a_program_of_its_own(quantizer):
  testing.check_quantizer(quantizer, N, D)
  assert padding.find(quantizer.sender, N, D).num_used is None


def test_a_subclass_need_not_be_row_wise():
  outer = quantizers.KMeans(k=3, centroids=Steps())
  assert padding.find(outer.sender, N, D).num_used is None
  assert padding.find(outer.receiver, N, D).num_used is None


@pytest.mark.parametrize('says', [False, True])
def test_row_wise_of_a_class_that_inherits_nothing(says):
  @dataclasses.dataclass(frozen=True)
  class Plain:
    row_wise: ClassVar[bool] = says

    uses_key = False
    init_params = quantizers.Identity.init_params
    quantize = quantizers.Identity.quantize
    dequantize = quantizers.Identity.dequantize
    fields = quantizers.Identity.fields
    sent = quantizers.Identity.sent

    dtype: str = 'float16'

  outer = quantizers.KMeans(k=3, centroids=Plain())
  assert (padding.find(outer.sender, N, D).num_used == 3) == says


def test_programs_of_a_sweep_over_k():
  """A sweep compiles one program per method and bucket, whatever the ks."""
  model = cj.load('tiny')
  captioner = cj.Captioner(model, max_tokens=2)
  data = cj.data.Scenes('test', limit=2)
  programs = []

  def listen(event, seconds, fun_name='', **kw):
    del seconds, kw
    if event == '/jax/core/compile/backend_compile_duration':
      programs.append(fun_name)

  def sweep(ks, seeds=(0,)):
    codecs = [
      cj.FeatureCodec(model, quantizer)
      for k in ks
      for quantizer in (
        quantizers.KMeans(k=k),
        quantizers.KMeans(k=k, init='++'),
        quantizers.Random(k=k, rebuild='keep'),
        quantizers.TopNorm(k=k, rebuild='keep'),
      )
    ]
    return evaluation.evaluate(
      codecs,
      captioner=captioner,
      data=data,
      seeds=seeds,
      batch_size=2,
      progress=False,
    )

  feature.forget_programs()
  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    sweep((2, 5))
    first = len(programs)
    names = [name for name in programs if 'quantize' in name]
    assert len(names) == 4, programs  # Two ways of k-means, two selections.
    names = [name for name in programs if 'rebuild' in name]
    assert len(names) == 2, programs  # Of clusters, and of selected vectors.
    sweep((1, 3, 4, 7, 11, 16), seeds=(3, 4))  # Keys are data, too.
    assert programs[first:] == []
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
