"""The search, on a toy language model whose best sequence can be counted."""

import itertools

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from collab_jax.models import decoding

V, EOS = 4, 1
RNG = np.random.default_rng(3)
FIRST = RNG.standard_normal((2, V)).astype(np.float32)
NEXT = 2 * RNG.standard_normal((V, V)).astype(np.float32)


def markov(token, position, cache, slot, visible):
  """Logits depend on the last token only; the cache counts the steps."""
  assert token.shape == position.shape == visible.shape[:1]
  return jnp.asarray(NEXT)[token], cache + 1


def write(steps, method, eos=EOS, key=None):
  start = decoding.Start(
    logits=jnp.asarray(FIRST),
    cache=jnp.zeros((2, 1)),
    visible=jnp.zeros((2, 3 + steps), bool).at[:, :3].set(True),
    position=jnp.array([3, 3], jnp.int32),
  )
  return np.asarray(decoding.generate(markov, start, steps, eos, method, key))


def score(row, tokens):
  """Log-probability up to and with eos."""
  total, logits = 0.0, FIRST[row]
  for token in tokens:
    total += logits[token] - np.log(np.exp(logits).sum())
    if token == EOS:
      break
    logits = NEXT[token]
  return total


def ended(tokens):
  """The tokens, 0 after eos."""
  keep = list(itertools.takewhile(lambda t: t != EOS, tokens))
  keep = [*keep, EOS][: len(tokens)]
  return (*keep, *[0] * (len(tokens) - len(keep)))


@pytest.mark.parametrize('steps', [1, 4])
def test_wide_beam_finds_the_most_likely_sequence(steps):
  got = write(steps, decoding.Beam(beams=V**steps))
  for row in range(2):
    every = {ended(t) for t in itertools.product(range(V), repeat=steps)}
    best = max(every, key=lambda tokens: score(row, tokens))
    assert tuple(got[row]) == best


def test_wide_beam_with_length_penalty():
  got = write(3, decoding.Beam(beams=V**3, alpha=1.0))

  def rank(row, tokens):
    return score(row, tokens) / max(np.count_nonzero(tokens), 1e-9)

  for row in range(2):
    # Token 0 is the padding, which the length does not count.
    every = {ended(t) for t in itertools.product(range(1, V), repeat=3)}
    assert rank(row, got[row]) >= max(rank(row, t) for t in every) - 1e-6


@pytest.mark.parametrize('beams', [1, 2, 3])
def test_beam_is_at_least_as_likely_as_greedy(beams):
  greedy = write(6, decoding.Greedy())
  beam = write(6, decoding.Beam(beams))
  for row in range(2):
    assert score(row, beam[row]) >= score(row, greedy[row]) - 1e-6
  if beams == 1:
    np.testing.assert_array_equal(beam, greedy)


def test_greedy_takes_the_first_of_equals():
  choice = decoding.Greedy().choose(
    jnp.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]), jnp.zeros(2), None, None
  )
  assert choice.token.tolist() == [1, 0]


def nucleus(logits, temperature, top_p):
  """The distribution to draw from, with NumPy."""
  p = np.exp(logits / temperature - (logits / temperature).max())
  p /= p.sum()
  order = np.argsort(-p)
  before = np.cumsum(p[order]) - p[order]
  keep = order[before < max(top_p, 1e-9)]
  out = np.zeros_like(p)
  out[keep] = p[keep]
  return out / out.sum()


@pytest.mark.parametrize(
  ('temperature', 'top_p'), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.7), (2.0, 0.4)]
)
def test_sample_draws_from_the_nucleus(temperature, top_p):
  logits, n = np.array([0.3, 1.7, -0.5, 1.1, -2.0], np.float32), 20_000
  method = decoding.Sample(temperature, top_p)
  choice = method.choose(
    jnp.tile(logits, (n, 1)),
    jnp.zeros(n),
    jnp.zeros(n, bool),
    jax.random.split(jax.random.key(0), n),
  )
  p = nucleus(logits, temperature, top_p)
  got = np.bincount(choice.token, minlength=len(p)) / n
  assert (got[p == 0] == 0).all()
  assert (np.abs(got - p) <= 4.5 * np.sqrt(p * (1 - p) / n) + 1e-9).all()
  logp = logits - np.log(np.exp(logits).sum())
  np.testing.assert_allclose(choice.score, logp[choice.token], atol=1e-5)


def test_top_p_of_zero_is_greedy():
  got = write(5, decoding.Sample(top_p=0.0), key=jax.random.key(1))
  np.testing.assert_array_equal(got, write(5, decoding.Greedy()))


@pytest.mark.parametrize(
  ('method', 'rows', 'halvings'),
  [
    (decoding.Greedy(), 1, 3),
    (decoding.Greedy(), 7, 1),
    (decoding.Greedy(), 7, 3),
    (decoding.Sample(1.5), 7, 3),
    (decoding.Beam(3), 7, 3),
  ],
  ids=str,
)
def test_halving_the_rows_changes_nothing(method, rows, halvings):
  steps = 9
  rare = np.where(np.arange(V) == EOS, 2, 0).astype('f')  # For longer texts.
  first = np.random.default_rng(5).standard_normal((rows, V)).astype('f') - rare
  start = decoding.Start(
    logits=jnp.asarray(first),
    cache=jnp.zeros((rows, 1)),
    visible=jnp.ones((rows, steps), bool),
    position=jnp.arange(rows, dtype=jnp.int32),
  )

  def run(halvings):
    sizes = []

    def step(token, position, cache, slot, visible):
      sizes.append(len(token))
      logits, cache = markov(token, position, cache, slot, visible)
      # What a row writes depends on its own position too.
      return logits - rare + jnp.sin(jnp.outer(position, jnp.arange(V))), cache

    key = jax.random.key(1)
    got = decoding.generate(step, start, steps, EOS, method, key, halvings)
    return np.asarray(got), {n // method.beams for n in sizes}

  whole, sizes = run(0)
  assert sizes == {rows}
  ends = (whole == EOS).argmax(1)
  assert rows < 7 or len(set(ends)) > 1  # Or there was nothing to halve.
  got, sizes = run(halvings)
  np.testing.assert_array_equal(got, whole)
  assert sizes == {rows >> h for h in range(halvings + 1)} - {0}


def test_same_key_same_tokens():
  method = decoding.Sample(temperature=3.0)
  one, two, other = (
    write(12, method, eos=-1, key=jax.random.key(seed)) for seed in (5, 5, 6)
  )
  np.testing.assert_array_equal(one, two)
  assert (one != other).any()


def test_key_per_row():
  keys = jax.random.split(jax.random.key(0), 2)
  method = decoding.Sample(temperature=3.0)
  both = write(12, method, eos=-1, key=keys)
  other = write(12, method, eos=-1, key=keys.at[0].set(jax.random.key(9)))
  np.testing.assert_array_equal(both[1], other[1])
  assert (both[0] != other[0]).any()


@pytest.mark.parametrize('method', [decoding.Greedy(), decoding.Beam(2)])
def test_nothing_follows_eos(method):
  got = write(10, method)
  for row in got:
    assert tuple(row) == ended(row)


def test_wrong_settings():
  with pytest.raises(ValueError, match='temperature'):
    decoding.Sample(temperature=0.0)
  with pytest.raises(ValueError, match='top_p'):
    decoding.Sample(top_p=1.5)
  with pytest.raises(ValueError, match='beams'):
    decoding.Beam(0)
  with pytest.raises(ValueError, match='key'):
    write(2, decoding.Sample())


@pytest.mark.parametrize(
  ('text', 'method', 'name'),
  [
    ('greedy', decoding.Greedy(), 'greedy'),
    ('beam2', decoding.Beam(2), 'beam(beams=2,alpha=0.0)'),
    ('beam(beams=4,alpha=1)', decoding.Beam(4, 1.0), 'beam(beams=4,alpha=1.0)'),
    ('sample', decoding.Sample(), 'sample(temperature=1.0,top_p=1.0)'),
    (
      ' sample(temperature=.7, top_p=0.9) ',
      decoding.Sample(0.7, 0.9),
      'sample(temperature=0.7,top_p=0.9)',
    ),
  ],
)
def test_methods_by_name(text, method, name):
  assert decoding.make(text) == method
  assert decoding.name(method) == name
  assert decoding.make(name) == method
  assert method.uses_key == name.startswith('sample')


@pytest.mark.parametrize(
  ('text', 'said'),
  [
    ('gredy', "got 'gredy'; did you mean 'greedy'"),
    ('beam0', 'beams: got 0, expected at least 1'),
    ('beam(2)', r"expected 'name' or 'name\(setting=value,...\)'"),
    ('beam(beam=2)', "setting of beam: got 'beam'; did you mean 'beams'"),
    ('beam(beams=2.5)', 'beams: got 2.5, expected an integer'),
    ('sample(top_p=all)', "top_p: got 'all', expected a number"),
    ('sample(temperature=0)', 'temperature: got 0.0, expected a positive'),
  ],
)
def test_other_names_are_refused(text, said):
  with pytest.raises(ValueError, match=said):
    decoding.make(text)
