"""Optional hooks of quantizers: defaults, plain classes, and wrong ones."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from collab_jax import codecs, quantizers, testing
from collab_jax import message as messages

N, D = 9, 4


@dataclasses.dataclass(frozen=True)
class Plain:
  """A quantizer that inherits nothing."""

  scale: float = 1.0

  uses_key = False

  def init_params(self, key, n, d):
    return {}

  def fields(self, n, d):
    return {'x': messages.Values('float16', (n, d))}

  def quantize(self, params, x, key):
    return {'x': jnp.clip(x, -60000, 60000).astype('float16')}

  def dequantize(self, params, message):
    return quantizers.full_grid(message['x'])

  def sent(self, n):
    return n


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted(Plain):
  """A plain quantizer without a `__dict__` of its own."""

  shift: int = 0


@dataclasses.dataclass(frozen=True)
class KeyField(Plain):
  """A plain quantizer with a required field of a hook's name."""

  draws: bool = dataclasses.field(kw_only=True)


@dataclasses.dataclass(frozen=True)
class Inherits(quantizers.Quantizer):
  """A quantizer of the three methods that are needed."""

  fields = Plain.fields
  quantize = Plain.quantize
  dequantize = Plain.dequantize


@pytest.mark.parametrize(
  'quantizer',
  [Plain(2.0), Slotted(shift=3), KeyField(draws=False), Inherits()],
  ids=lambda q: type(q).__name__,
)
def test_defaults(quantizer):
  adapted = quantizers.as_quantizer(quantizer)
  assert adapted == quantizer
  assert quantizer == adapted
  assert hash(adapted) == hash(quantizer)
  assert isinstance(adapted, type(quantizer))
  assert dataclasses.replace(adapted) == adapted
  assert quantizers.name(adapted) == quantizers.name(quantizer)
  assert quantizers.settings(adapted) == quantizers.settings(quantizer)
  assert quantizers.as_quantizer(adapted) is adapted
  assert type(quantizers.as_quantizer(quantizer)) is type(adapted)
  message = {'x': jnp.zeros((N, D), 'float16')}
  assert adapted.sender is adapted
  assert adapted.receiver is adapted
  assert adapted.priors({}) == {}
  assert adapted.aux_inputs == ()
  assert adapted.origins(message) is None
  assert adapted.row_of(message) is None
  assert adapted.row_fields(N, D) == ('x',)
  assert adapted.coordinates() == ''
  assert adapted.uses_book
  assert not adapted.uses_key
  assert not adapted.draws
  assert not adapted.reads_quantiles
  assert adapted.sent(N) == N
  assert adapted.init_params(jax.random.key(0), N, D) == {}
  testing.check_quantizer(quantizer, N, D)


def test_settings_tell_plain_quantizers_apart():
  assert quantizers.as_quantizer(Plain(2.0)) != Plain(3.0)
  assert quantizers.as_quantizer(Plain()) != quantizers.as_quantizer(Slotted())


def test_a_plain_quantizer_serves_within_others():
  outer = quantizers.KMeans(2, centroids=Plain())
  other = quantizers.KMeans(2, '++', centroids=Plain())
  assert outer.receiver == other.receiver
  assert quantizers.make(quantizers.name(outer)) == outer
  for quantizer in (outer, quantizers.PositionMean(Plain(), 'random')):
    testing.check_quantizer(quantizer, N, D)


def test_what_lacks_members_is_refused(unchecked):
  with pytest.raises(TypeError, match='expected an object with uses_key, init'):
    quantizers.as_quantizer(3)  # pyright: ignore[reportArgumentType]
  with pytest.raises(TypeError, match='needs is now called aux_inputs'):

    class _Old(quantizers.Quantizer):
      needs = ('attention',)


@dataclasses.dataclass(frozen=True)
class NoSent:
  """A plain quantizer without one of its members."""

  uses_key = False
  init_params = Plain.init_params
  fields = Plain.fields
  quantize = Plain.quantize
  dequantize = Plain.dequantize


def test_the_missing_member_is_named(unchecked):
  with pytest.raises(TypeError, match=r'; add sent, or inherit'):
    quantizers.as_quantizer(NoSent())  # pyright: ignore[reportArgumentType]
  with pytest.raises(AssertionError, match='NoSent lacks sent;'):
    testing.check_quantizer(NoSent())  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
  ('quantizer', 'match'),
  [
    (Plain, r'expected an instance, not a class; make one, as in Plain\('),
    ('kmeans(k=8)', r"not a name; .*quantizers\.make\('kmeans\(k=8\)'\)"),
  ],
)
def test_a_class_and_a_name_are_no_quantizers(quantizer, match, unchecked):
  with pytest.raises(AssertionError, match=match):
    testing.check_quantizer(quantizer)


@dataclasses.dataclass
class Thawed(quantizers.Quantizer):
  """A quantizer that may be changed, so that it has no hash."""

  fields = Plain.fields
  quantize = Plain.quantize
  dequantize = Plain.dequantize


def test_what_is_not_frozen_is_refused():
  sentence = r'Thawed must be a dataclass\(frozen=True\)'
  with pytest.raises(AssertionError, match=sentence):
    testing.check_quantizer(Thawed())
  with pytest.raises(TypeError, match=sentence):
    codecs.FeatureCodecSpec(Thawed())


def _with(name, value):
  """Returns a quantizer whose class has one more attribute."""
  cls = type('More', (Inherits,), {name: value, '__module__': __name__})
  return dataclasses.dataclass(frozen=True)(cls)()


@pytest.mark.parametrize(
  ('name', 'hook'),
  [
    ('aux_input', 'aux_inputs'),
    ('row_field', 'row_fields'),
    ('draw', 'draws'),
    ('use_key', 'uses_key'),
    ('orgins', 'origins'),
  ],
)
def test_a_mistyped_hook_is_found(name, hook):
  match = f"More has '{name}'; did you mean '{hook}'"
  with pytest.raises(AssertionError, match=match):
    testing.check_quantizer(_with(name, ()))


def test_helpers_are_no_mistyped_hooks():
  for name in ('_draw', 'quantized', 'field', 'means', 'sends'):
    testing._check_spelling(_with(name, ()))


@dataclasses.dataclass(frozen=True)
class Hidden(Inherits):
  """A quantizer whose message does not show the width.

  Attributes:
    width: Width of what is rebuilt.
    only: Whether other widths are refused.
  """

  width: int = D
  only: bool = False

  def fields(self, n, d):
    if self.only and d != self.width:
      raise ValueError(f'd: got {d}, expected {self.width}')
    return {'x': messages.Values('float16', (n,))}

  def quantize(self, params, x, key):
    return {'x': jnp.clip(x.mean(1), -60000, 60000).astype('float16')}

  def dequantize(self, params, message):
    grid = jnp.tile(message['x'][:, None], (1, self.width))
    return quantizers.full_grid(grid)


def test_a_width_that_is_assumed_is_found():
  testing.check_quantizer(Hidden(only=True), N, D)
  match = r'for 36 vectors of width 8: tokens.x must have shape \(m, 8\)'
  with pytest.raises(AssertionError, match=match):
    testing.check_quantizer(Hidden(), N, D)


@dataclasses.dataclass(frozen=True)
class Wrong(quantizers.Selection):
  """A selection of the first k vectors."""

  k: int = 4
  rebuild: str = 'keep'
  book: str = ''

  def select(self, x, key):
    return jnp.arange(self.k)


class Draws(Wrong):
  """Says that it draws, and that it does not use its key."""

  draws = True
  uses_key = False


class Sender(Wrong):
  """Has a sender that sends another message."""

  @property
  def sender(self):
    return quantizers.TopNorm(self.k)


class Receiver(Wrong):
  """Has a receiver that rebuilds other tokens."""

  @property
  def receiver(self):
    return quantizers.TopNorm(self.k, rebuild='zero').receiver


class EndlessReceiver(Wrong):
  """Has a receiver whose own receiver is another one."""

  @property
  def receiver(self):
    return dataclasses.replace(self, book=self.book + 'x')


class UnknownAux(Wrong):
  """Asks for what the encoder does not have."""

  aux_inputs = ('colour',)


class UnusedAux(Wrong):
  """Asks for the attention and does not take it."""

  aux_inputs = ('attention',)


@dataclasses.dataclass(frozen=True)
class Origins(Wrong):
  """Says that tokens stand for vectors that do not exist."""

  rebuild: str = 'close'

  def origins(self, message):
    return super().origins(message) + 100


class Rows(Wrong):
  """Says that tokens are made from rows that do not exist."""

  def row_of(self, message):
    return jnp.full(self.k, -1)


class RowFields(Wrong):
  """Names fields with different numbers of rows."""

  def row_fields(self, n, d):
    return 'vectors/x', 'mask'


class Changes(Wrong):
  """Conceals where nothing was lost."""

  def conceal(self, message, received, rows):
    return {**message, 'vectors/x': 0 * message['vectors/x']}


class Leaks(Wrong):
  """Lets the contents of a lost row through."""

  def conceal(self, message, received, rows):
    return message


class Coordinates(Wrong):
  """Names its coordinates by two words."""

  def coordinates(self):
    return 'turned twice'


class Book(Wrong):
  """Says that it does not read its book, and reads it."""

  uses_book = False

  def init_params(self, key, n, d):
    if self.book:
      raise ValueError(f'book: got {self.book!r}')
    return super().init_params(key, n, d)


class Quantiles(Wrong):
  """Answers a question of yes or no by a number."""

  reads_quantiles = 1


class Priors(Wrong):
  """Knows frequencies of a field that is not there."""

  def priors(self, params):
    return {'y': jnp.ones((1, 2), jnp.int32)}


class Raises(Wrong):
  """Has a hook that fails."""

  def coordinates(self):
    raise KeyError('axes')


@dataclasses.dataclass(frozen=True)
class Partial(quantizers.ResidualVQ):
  """Has a row for each token, and says the first made them all."""

  stages: int = 2
  size: int = 4
  book: str = 'random'

  def decode_partial(self, params, message, received, coarse):
    return self.dequantize(params, {n: message[n] for n in coarse})


class Centred(quantizers.Identity):
  """Says that its rows stand for one vector each, and subtracts the mean."""

  row_wise = True

  def quantize(self, params, x, key):
    x = jnp.clip(x, -1e4, 1e4)
    return super().quantize(params, x - x.mean(0), key)


@pytest.mark.parametrize(
  ('cls', 'match'),
  [
    (Centred, 'row_wise: quantize with copies of a vector behind disagree'),
    (Draws, 'draws must be a bool, and uses_key True'),
    (Sender, 'sender: quantize of both disagree'),
    (Receiver, 'receiver: dequantize of both disagree'),
    (EndlessReceiver, 'the receiver of a receiver must be itself'),
    (UnknownAux, r"aux_inputs must be a tuple .* got \('colour',\)"),
    (UnusedAux, "aux_inputs raised TypeError: .* argument 'attention'"),
    (Origins, r'origins must be None or 4 integers in \[0, 9\)'),
    (Rows, r'row_of must be None or 4 integers in \[0, 4\)'),
    (RowFields, 'row_fields must be a tuple of fields with as many rows'),
    (Changes, 'conceal: nothing lost, the message disagree'),
    (Leaks, 'conceal: tokens for two contents of a lost row disagree'),
    (Coordinates, 'coordinates.* without spaces'),
    (Book, "uses_book raised ValueError: book: got 'no such book'"),
    (Quantiles, 'reads_quantiles must be a bool'),
    (Priors, 'a wire.Session of its fields raised'),
    (Raises, "coordinates raised KeyError: 'axes'"),
    (Partial, 'decode_partial: rows with received True disagree'),
  ],
)
def test_wrong_hooks_are_found(cls, match):
  with pytest.raises(AssertionError, match=match):
    testing.check_quantizer(cls(), N, D, gradient=False)


def test_every_hook_of_the_base_class_is_checked():
  base = quantizers.Quantizer
  hooks = {name for name in vars(base) if not name.startswith('_')}
  assert testing._HOOKS.keys() == hooks - {
    'dequantize',
    'fields',
    'init_params',
    'num_used',
    'priors',
    'quantize',
    'sent',
    'uses_key',
    'using',
  }
  assert base.__abstractmethods__ == {'dequantize', 'fields', 'quantize'}
