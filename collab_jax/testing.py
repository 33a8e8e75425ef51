"""Checks of the contracts of quantizers, codecs, metrics and tasks."""

from collections.abc import Callable, Mapping
import dataclasses
import difflib
import functools
import re
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from collab_jax import _validate, codecs, quantizers, random_keys, wire
from collab_jax import message as messages
from collab_jax.metrics.contract import check_metric
from collab_jax.models import paligemma
from collab_jax.quantizers import base, padding
from collab_jax.tasks.contract import check_task

__all__ = ['check_codec', 'check_metric', 'check_quantizer', 'check_task']
__dir__ = __all__.copy


def check_quantizer(
  quantizer: quantizers.QuantizerLike,
  n: int = 256,
  d: int = 32,
  seed: int = 0,
  gradient: bool = True,
) -> None:
  """Checks that a quantizer keeps the contract of `quantizers.Quantizer`.

      cj.testing.check_quantizer(MyQuantizer(k=8))

  That is: a hashable frozen dataclass; messages as declared, also for data
  that are constant, repeated, huge or tiny; the same under jit, vmap and a
  second call with the same key; back to the bit through bytes; finite float32
  tokens; messages and tokens that follow n and d, for more and wider vectors,
  unless the quantizer refuses those by ValueError; a gradient that passes
  straight through; and what `quantizers.Quantizer` promises of each hook that
  the class overrides.

  Args:
    quantizer: The quantizer under test.
    n: Number of vectors.
    d: Their width.
    seed: For the data and keys.
    gradient: Whether to check `quantizers.straight_through`.

  Raises:
    AssertionError: It says what was checked, what was found and what is needed.
  """
  _check_class(quantizer)
  quantizer = quantizers.as_quantizer(quantizer)
  keys = jax.random.split(random_keys.make(seed), 4)
  _check_fields(quantizer, n, d)
  name = quantizers.name(quantizer)
  init_params = _guarded(quantizer.init_params, f'{name}: init_params()')
  params = init_params(keys[0], n, d)
  _require(
    isinstance(params, Mapping),
    f'{name}: init_params() must return a dict, got {_short(params)}.',
  )
  quantize = _guarded(jax.jit(quantizer.quantize), f'{name}: quantize()')
  dequantize = _guarded(jax.jit(quantizer.dequantize), f'{name}: dequantize()')
  sessions = _sessions(quantizer, params, n, d)
  data = _data(keys[1], n, d)
  for case, x in data.items():
    message = quantize(params, x, keys[2])
    _check_message(quantizer, case, message, n, d)
    _check_wire(quantizer, case, jax.device_get(message), sessions)
    tokens = dequantize(params, message)
    _check_tokens(quantizer, case, tokens, n, d)
  _check_shapes(quantizer, keys[0], 4 * n, 2 * d)
  calls = quantize, dequantize
  _check_transforms(quantizer, calls, params, data['normal'], *keys[2:])
  _check_hooks(quantizer, calls, params, data['normal'], keys[2])
  if gradient:
    _check_gradient(quantizer, calls, params, data['normal'], keys[2])


def _check_class(quantizer):
  cls = type(quantizer)
  title = cls.__name__
  if isinstance(quantizer, type):
    raise _validate.error(
      'quantizer',
      quantizer,
      'an instance, not a class',
      f'make one, as in {quantizer.__name__}(...)',
      AssertionError,
    )
  if isinstance(quantizer, str):
    raise _validate.error(
      'quantizer',
      quantizer,
      'an instance, not a name',
      f'make one by collab_jax.quantizers.make({quantizer!r})',
      AssertionError,
    )
  _require(
    _validate.is_frozen(quantizer), f'{title} must be a dataclass(frozen=True).'
  )
  missing = base.missing(quantizer)
  _require(
    not missing,
    f'{title} lacks {", ".join(missing)}; a quantizer has {base.MEMBERS}.',
  )
  _check_spelling(quantizer)
  try:
    same = hash(quantizer) == hash(dataclasses.replace(quantizer))
  except TypeError as error:
    raise AssertionError(f'{title} must be hashable: {error}') from error
  _require(same, f'{title}: equal settings must have equal hashes.')
  _require(
    dataclasses.replace(quantizer) == quantizer,
    f'{title}: equal settings must compare equal.',
  )
  _require(
    isinstance(quantizer.uses_key, bool),
    f'{title}.uses_key must be a bool, got {quantizer.uses_key!r}.',
  )
  name = quantizers.name(quantizer)
  _require(
    isinstance(name, str) and '0x' not in name,
    f'{title}: the name must not hold an address, got {name!r}; inner '
    'quantizers must be quantizers themselves.',
  )


def _check_spelling(quantizer):
  """Finds mistyped hooks of the author's classes, which nothing would read."""
  settings = {f.name for f in dataclasses.fields(cast(Any, quantizer))}
  for cls in type(quantizer).__mro__:
    if cls.__module__.startswith('collab_jax.'):
      continue
    for name in vars(cls).keys() - vars(quantizers.Quantizer).keys() - settings:
      near = difflib.get_close_matches(name, _OPTIONAL, n=1, cutoff=0.85)
      _require(
        not near or name.startswith('_'),
        f'{cls.__name__} has {name!r}; did you mean {near and near[0]!r}?'
        " Begin the name of a helper with '_'.",
      )


def _guarded(call: Callable[..., Any], what: str) -> Callable[..., Any]:
  """Returns the same call, whose exceptions become findings."""

  def guarded(*args):
    try:
      return call(*args)
    except AssertionError:
      raise
    except Exception as error:
      raise AssertionError(
        f'{what} raised {type(error).__name__}: {error}'
      ) from error

  return guarded


def _short(value):
  text = repr(value)
  return text if len(text) <= 80 else f'{text[:77]}...'


def _check_fields(quantizer, n, d):
  name = quantizers.name(quantizer)
  fields = _guarded(quantizer.fields, f'{name}: fields()')(n, d)
  known = isinstance(fields, Mapping) and all(
    isinstance(f, messages.Symbols | messages.Values) for f in fields.values()
  )
  _require(
    known and fields,
    f'{name}: fields() must return a dict with a Symbols or Values for each'
    f' field, one at least, got {_short(fields)}.',
  )
  sent = _guarded(quantizer.sent, f'{name}: sent()')(n)
  _require(
    isinstance(sent, int) and 0 <= sent <= n,
    f'{name}: sent({n}) must be an int in [0, {n}], got {sent!r}.',
  )


def _data(key, n, d):
  """Returns inputs that have broken quantizers before."""
  normal = jax.random.normal(key, (n, d))
  return {
    'normal': normal,
    'zero': jnp.zeros((n, d)),
    'constant': jnp.full((n, d), 3.0),
    'repeated': jnp.tile(normal[:2], (-(-n // 2), 1))[:n],
    'far from the origin': normal + 1000.0,
    'huge': normal * 1e30,
    'tiny': normal * 1e-30,
    'one outlier': normal.at[n // 2].mul(1e6),
  }


def _check_message(quantizer, case, message, n, d):
  fields = quantizer.fields(n, d)
  where = f'{quantizers.name(quantizer)} on {case} data'
  if not isinstance(message, Mapping):
    raise AssertionError(
      f'{where}: quantize() must return a dict of arrays, got '
      f'{_short(message)}.'
    )
  _require(
    message.keys() == fields.keys(),
    f'{where}: fields() declares {sorted(fields)}, quantize() returned '
    f'{sorted(message)}.',
  )
  for name, field in fields.items():
    if not hasattr(message[name], 'dtype'):
      raise AssertionError(
        f'{where}: field {name!r} must be an array, got '
        f'{_short(message[name])}.'
      )
    value = np.asarray(message[name])
    shape = tuple(field.shape)
    _require(
      value.shape == shape,
      f'{where}: field {name!r} must have shape {shape}, got {value.shape}.',
    )
    dtype = 'int32' if isinstance(field, messages.Symbols) else field.dtype
    _require(
      value.dtype.name == dtype,
      f'{where}: field {name!r} must have dtype {dtype}, got {value.dtype}.',
    )
    if isinstance(field, messages.Symbols):
      inside = not value.size or (
        value.min() >= 0 and value.max() < field.alphabet
      )
      _require(
        inside,
        f'{where}: symbols of {name!r} must lie in [0, {field.alphabet}).',
      )
    else:
      _require(
        np.isfinite(value.astype(np.float32)).all(),
        f'{where}: {name!r} must be finite; clip it to its format.',
      )


def _sessions(quantizer, params, n, d):
  name = quantizers.name(quantizer)
  priors = _guarded(quantizer.priors, f'{name}: priors()')(params)
  priors = jax.device_get(priors)
  make = _guarded(wire.Session, f'{name}: a wire.Session of its fields')
  return [make(quantizer.fields(n, d), priors, None, c) for c in wire.CODINGS]


def _check_wire(quantizer, case, host, sessions):
  for session in sessions:
    what = (
      f'{quantizers.name(quantizer)} on {case} data, {session.coding} bytes'
    )
    data = _guarded(session.pack, what)(host)
    sizes = session.sizes(data)
    total = sum(sizes.values())
    _require(len(data) == total, f'{what}: {len(data)}, but by field {sizes}.')
    _same(host, session.unpack(data), what, exact=True)


def _check_tokens(quantizer, case, tokens, n, d):
  where = f'{quantizers.name(quantizer)} on {case} data'
  if not isinstance(tokens, messages.Tokens):
    raise AssertionError(
      f'{where}: dequantize() must return message.Tokens, got {_short(tokens)}.'
    )
  for name, value in tokens._asdict().items():
    if not hasattr(value, 'dtype'):
      raise AssertionError(
        f'{where}: tokens.{name} must be an array, got {_short(value)}.'
      )
  _require(
    tokens.x.ndim == 2,
    f'{where}: tokens.x must have shape (m, {d}), got {tokens.x.shape}.',
  )
  m = tokens.x.shape[0]
  want = {
    'x': ((m, d), 'float32'),
    'valid': ((m,), 'bool'),
    'positions': ((m,), 'int32'),
    'end': ((), 'int32'),
  }
  for name, (shape, dtype) in want.items():
    value = getattr(tokens, name)
    _require(
      value.shape == shape and value.dtype.name == dtype,
      f'{where}: tokens.{name} must be {dtype}{shape}, got '
      f'{value.dtype.name}{value.shape}.',
    )
  _require(m <= n, f'{where}: {m} tokens from {n} vectors.')
  _require(
    bool(jnp.isfinite(tokens.x).all()),
    f'{where}: dequantize() returned numbers that are not finite.',
  )
  positions = np.asarray(tokens.positions)[np.asarray(tokens.valid)]
  if not (np.diff(positions) > 0).all():
    raise AssertionError(
      f'{where}: the positions of valid tokens must increase: {positions}.'
    )
  end = int(tokens.end)
  if positions.size and not 0 <= positions[0] <= positions[-1] < end <= n:
    raise AssertionError(
      f'{where}: positions must lie in [0, end), end at most n; got '
      f'{positions} and end {end}.'
    )


def _check_shapes(quantizer, key, n, d):
  """Checks messages and tokens of other n and d, by their shapes alone."""
  try:
    fields = quantizer.fields(n, d)
    params = quantizer.init_params(key, n, d)
  except ValueError:  # Not for vectors of every number and width.
    return
  where = f'{quantizers.name(quantizer)} for {n} vectors of width {d}'
  x = jax.ShapeDtypeStruct((n, d), jnp.float32)
  quantize = _guarded(jax.eval_shape, f'{where}: quantize()')
  dequantize = _guarded(jax.eval_shape, f'{where}: dequantize()')
  message = quantize(quantizer.quantize, params, x, key)
  got = {name: value.shape for name, value in message.items()}
  declared = {name: tuple(field.shape) for name, field in fields.items()}
  _require(
    got == declared,
    f'{where}: fields() declares the shapes {declared}, quantize() returned'
    f' {got}.',
  )
  tokens = dequantize(quantizer.dequantize, params, message)
  _require(
    tokens.x.ndim == 2 and tokens.x.shape[1] == d and len(tokens.x) <= n,
    f'{where}: tokens.x must have shape (m, {d}), m at most {n}, got'
    f' {tokens.x.shape}.',
  )


def _check_transforms(quantizer, calls, params, x, key, other):
  name = quantizers.name(quantizer)
  quantize, dequantize = calls
  message = quantize(params, x, key)
  again = quantize(params, x, key)
  _same(message, again, f'{name}: two calls with one key', exact=True)
  eager = _guarded(quantizer.quantize, f'{name}: quantize(), eager,')
  _same(message, eager(params, x, key), f'{name}: quantize, jit and eager')
  tokens = dequantize(params, message)
  eager = _guarded(quantizer.dequantize, f'{name}: dequantize(), eager,')
  _same(tokens, eager(params, message), f'{name}: dequantize, jit and eager')
  if not quantizer.uses_key:
    _same(
      message,
      quantize(params, x, other),
      f'{name}: uses_key is False, but two keys',
      exact=True,
    )
  xs = jnp.stack([x, x[::-1], 2 * x + 1])
  keys = jax.random.split(other, 3)
  many = jax.jit(jax.vmap(quantizer.quantize, in_axes=(None, 0, 0)))
  batch = _guarded(many, f'{name}: quantize(), vmapped,')(params, xs, keys)
  many = jax.jit(jax.vmap(quantizer.dequantize, in_axes=(None, 0)))
  rebuilt = _guarded(many, f'{name}: dequantize(), vmapped,')(params, batch)
  for i in range(3):
    single = quantize(params, xs[i], keys[i])
    row = {field: value[i] for field, value in batch.items()}
    _same(single, row, f'{name}: quantize, loop and vmap')
    tokens = dequantize(params, single)
    row = messages.Tokens(*(value[i] for value in rebuilt))
    _same(tokens, row, f'{name}: dequantize, loop and vmap')


class _Sample(NamedTuple):
  """Vectors, their message and tokens, for the checks of hooks."""

  quantizer: quantizers.Quantizer
  params: base.Params
  x: jax.Array
  key: jax.Array
  message: messages.Message
  tokens: messages.Tokens

  @property
  def shape(self) -> tuple[int, int]:
    """Number and width of the vectors."""
    return self.x.shape[0], self.x.shape[1]

  def rows(self) -> tuple[tuple[str, ...], int]:
    """Returns the fields with a row for each sent vector, and how many rows."""
    names = self.quantizer.row_fields(*self.shape)
    fields = self.quantizer.fields(*self.shape)
    return names, fields[names[0]].shape[0] if names else 0


def _check_hooks(quantizer, calls, params, x, key):
  """Checks each hook that is defined below `Quantizer` itself."""
  quantize, dequantize = calls
  message = quantize(params, x, key)
  tokens = dequantize(params, message)
  sample = _Sample(quantizer, params, x, key, message, tokens)
  for hook, check in _HOOKS.items():
    owner = next(c for c in type(quantizer).__mro__ if hook in vars(c))
    if owner is not quantizers.Quantizer:
      where = f'{quantizers.name(quantizer)}: {hook}'
      _guarded(check, where)(sample, where)


def _check_draws(sample, where):
  draws, uses_key = sample.quantizer.draws, sample.quantizer.uses_key
  _require(
    isinstance(draws, bool) and (uses_key or not draws),
    f'{where} must be a bool, and uses_key True where it is; got {draws!r} and'
    f' uses_key {uses_key!r}.',
  )


def _check_sender(sample, where):
  sender = sample.quantizer.sender
  _require(
    sender.sender == sender, f'{where}: the sender of a sender must be itself.'
  )
  if sender != sample.quantizer:
    message = sender.quantize(sample.params, sample.x, sample.key)
    _same(sample.message, message, f'{where}: quantize of both')


def _check_receiver(sample, where):
  receiver = sample.quantizer.receiver
  _require(
    receiver.receiver == receiver,
    f'{where}: the receiver of a receiver must be itself.',
  )
  if receiver != sample.quantizer:
    tokens = receiver.dequantize(sample.params, sample.message)
    _same(sample.tokens, tokens, f'{where}: dequantize of both')


def _check_padded(sample, where):
  """Checks the program of a bucket against that of the quantizer's own k."""
  quantizer, (n, d) = sample.quantizer, sample.shape
  if quantizer.aux_inputs:
    return  # Taken by keyword; the vectors alone do.
  sender = padding.find(quantizer.sender, n, d)
  if sender.num_used is not None:

    def quantize(count, params, x, key):
      return sender.quantizer.using(count).quantize(params, x, key)

    inputs = sample.params, sample.x, sample.key
    message = jax.jit(quantize)(sender.argument, *inputs)
    batch = sender.trim({name: value[None] for name, value in message.items()})
    message = {name: value[0] for name, value in batch.items()}
    _same(sample.message, message, f'{where}: quantize with a larger k')
  receiver = padding.find(quantizer.receiver, n, d)
  if receiver.num_used is not None:

    def dequantize(count, params, message):
      return receiver.quantizer.using(count).dequantize(params, message)

    batch = {name: np.asarray(v)[None] for name, v in sample.message.items()}
    message = {name: v[0] for name, v in receiver.pad(batch).items()}
    tokens = jax.jit(dequantize)(receiver.argument, sample.params, message)
    m = len(sample.tokens.x)
    _require(
      not bool(tokens.valid[m:].any()),
      f'{where}: tokens of vectors that are not used must not be valid.',
    )
    x, valid, positions = (part[:m] for part in tokens[:3])
    used = messages.Tokens(x, valid, positions, tokens.end)
    _same(sample.tokens, used, f'{where}: dequantize with a larger k')


def _check_row_wise(sample, where):
  """Checks that copies of a vector behind others change nothing of theirs."""
  quantizer, (n, d) = sample.quantizer, sample.shape
  row_wise = quantizer.row_wise
  _require(isinstance(row_wise, bool), f'{where} must be a bool.')
  if not base.is_row_wise(quantizer):
    return
  half = max(1, n // 2)
  fewer, params = (
    {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    for leaves in (
      jax.tree_util.tree_leaves_with_path(
        quantizer.init_params(sample.key, count, d)
      )
      for count in (half, n)
    )
  )
  _same(fewer, params, f'{where}: init_params of other n', exact=True)
  names, count = sample.rows()
  _require(
    count == n, f'{where}: the message must have a row for each of {n} vectors.'
  )
  quantize, dequantize = map(
    jax.jit, (quantizer.quantize, quantizer.dequantize)
  )
  used = jnp.arange(n)[:, None] < half
  message = quantize(sample.params, sample.x[:half], sample.key)
  more = quantize(
    sample.params, jnp.where(used, sample.x, sample.x[0]), sample.key
  )
  first = {k: v[:half] if k in names else v for k, v in more.items()}
  _same(message, first, f'{where}: quantize with copies of a vector behind')
  tokens, rebuilt = (
    {'x': dequantize(sample.params, m).x[:half]} for m in (message, more)
  )
  _same(tokens, rebuilt, f'{where}: dequantize with more rows behind')


def _check_aux_inputs(sample, where):
  aux_inputs, (n, d) = sample.quantizer.aux_inputs, sample.shape
  _require(
    isinstance(aux_inputs, tuple)
    and all(re.fullmatch(r'attention|reduced=[1-9]\d*', n) for n in aux_inputs),
    f"{where} must be a tuple of 'attention' and 'reduced=SIDE', got"
    f' {aux_inputs!r}.',
  )
  aux = {}
  for name, _, side in (text.partition('=') for text in aux_inputs):
    shape = (int(side) ** 2, d) if side else (n,)
    aux[name] = jax.random.uniform(sample.key, shape)
  quantize = sample.quantizer.quantize
  message = quantize(sample.params, sample.x, sample.key, **aux)
  _check_message(sample.quantizer, 'auxiliary', message, n, d)


def _check_indices(indices, count, stop, where):
  _require(
    hasattr(indices, 'dtype')
    and np.issubdtype(indices.dtype, np.integer)
    and indices.shape == (count,)
    and bool(jnp.all((indices >= 0) & (indices < stop))),
    f'{where} must be None or {count} integers in [0, {stop}), got'
    f' {_short(indices)}.',
  )


def _check_origins(sample, where):
  origins = sample.quantizer.origins(sample.message)
  if origins is not None:
    _check_indices(origins, len(sample.tokens.x), len(sample.x), where)


def _check_row_of(sample, where):
  row_of = sample.quantizer.row_of(sample.message)
  if row_of is not None:
    _check_indices(row_of, len(sample.tokens.x), sample.rows()[1], where)


def _check_row_fields(sample, where):
  names, count = sample.rows()
  fields = sample.quantizer.fields(*sample.shape)
  _require(
    isinstance(names, tuple)
    and all(fields[name].shape[:1] == (count,) for name in names),
    f'{where} must be a tuple of fields with as many rows, got {names!r}.',
  )


def _check_conceal(sample, where):
  names, count = sample.rows()
  if not names:
    return
  conceal, message = sample.quantizer.conceal, sample.message
  every = conceal(message, jnp.ones(count, bool), names)
  _same(message, every, f'{where}: nothing lost, the message', exact=True)
  if count < 2:
    return
  # Whatever stands in a lost row must not matter.
  lost = count // 2
  zeros = {
    name: value.at[lost].set(0) if name in names else value
    for name, value in message.items()
  }
  concealed = [
    conceal(m, jnp.arange(count) != lost, names) for m in (message, zeros)
  ]
  n, d = sample.shape
  _check_message(sample.quantizer, 'concealed', concealed[0], n, d)
  tokens = [sample.quantizer.dequantize(sample.params, m) for m in concealed]
  _check_tokens(sample.quantizer, 'concealed', tokens[0], n, d)
  # Tokens that are not valid may hold anything.
  read = [
    t._replace(x=jnp.where(t.valid[:, None], t.x, 0), positions=t.valid)
    for t in tokens
  ]
  _same(read[0], read[1], f'{where}: tokens for two contents of a lost row')


def _check_coordinates(sample, where):
  names = [
    q.coordinates()
    for q in (
      sample.quantizer,
      dataclasses.replace(cast(Any, sample.quantizer)),
    )
  ]
  _require(
    isinstance(names[0], str) and ' ' not in names[0] and names[0] == names[1],
    f'{where}() must be a name without spaces, equal for equal settings, got'
    f' {names}.',
  )


def _has_book(quantizer):
  fields = dataclasses.fields(cast(Any, quantizer))
  return 'book' in {field.name for field in fields}


def _check_uses_book(sample, where):
  uses_book = sample.quantizer.uses_book
  _require(
    isinstance(uses_book, bool) and _has_book(sample.quantizer),
    f'{where} must be a bool, of a quantizer with a field book; got'
    f' {uses_book!r}.',
  )
  if not uses_book:
    unread: Any = sample.quantizer
    unread = dataclasses.replace(unread, book='no such book')
    unread.init_params(sample.key, *sample.shape)


def _check_reads_quantiles(sample, where):
  reads = sample.quantizer.reads_quantiles
  _require(
    isinstance(reads, bool) and (not reads or _has_book(sample.quantizer)),
    f'{where} must be a bool, True only with a field book; got {reads!r}.',
  )


def _check_decode_partial(sample, where):
  """Checks `decode_partial`, and with it `row_of`, of a layered message."""
  fields = sample.quantizer.fields(*sample.shape)
  coarse = [name for name, field in fields.items() if not field.layer]
  names, count = sample.rows()
  if not names or len(coarse) == len(fields):
    return
  rough = {name: sample.message[name] for name in coarse}
  for received, message in ((True, sample.message), (False, rough)):
    got = sample.quantizer.decode_partial(
      sample.params, sample.message, jnp.full(count, received), coarse
    )
    expected = sample.quantizer.dequantize(sample.params, message)
    _same(expected, got, f'{where}: rows with received {received}')


# Hooks of `Quantizer` beside the members that every quantizer has; `priors` are
# checked with the bytes, `uses_key` with the keys, `using` with `padded`.
_HOOKS = {
  'draws': _check_draws,
  'sender': _check_sender,
  'receiver': _check_receiver,
  'padded': _check_padded,
  'row_wise': _check_row_wise,
  'aux_inputs': _check_aux_inputs,
  'origins': _check_origins,
  'row_of': _check_row_of,
  'row_fields': _check_row_fields,
  'conceal': _check_conceal,
  'decode_partial': _check_decode_partial,
  'coordinates': _check_coordinates,
  'uses_book': _check_uses_book,
  'reads_quantiles': _check_reads_quantiles,
}


_OPTIONAL = ('init_params', 'priors', 'sent', 'uses_key', *_HOOKS)


def _check_gradient(quantizer, calls, params, x, key):
  name = quantizers.name(quantizer)
  quantize, dequantize = calls
  tokens = dequantize(params, quantize(params, x, key))

  # The sum of what is rebuilt: each rebuilt vector passes ones to one of x.
  @functools.partial(jax.grad, has_aux=True)
  def total(x):
    value = quantizers.straight_through(quantizer, params, x, key)
    return value.x.sum(), value

  gradient, value = _guarded(jax.jit(total), f'{name}: straight_through()')(x)
  _same(tokens, value, f'{name}: value straight through')
  rows = np.asarray(gradient)
  ones = (rows == 1).all(axis=1)
  zeros = (rows == 0).all(axis=1)
  m = tokens.x.shape[0]
  _require(
    bool((ones | zeros).all()) and int(ones.sum()) == m,
    f'{name}: straight_through must pass the gradient of each of {m} rebuilt '
    f'vectors on unchanged; {int(ones.sum())} of {len(rows)} got it.',
  )


def _same(
  a: Mapping[str, Any] | messages.Tokens,
  b: Any,
  where: str,
  exact: bool = False,
) -> None:
  a = a._asdict() if isinstance(a, messages.Tokens) else a
  b = b._asdict() if isinstance(b, messages.Tokens) else b
  if not isinstance(b, Mapping) or a.keys() != b.keys():
    raise AssertionError(f'{where} disagree: {_short(a)}\n{_short(b)}')
  for name in a:
    left, right = np.asarray(a[name]), np.asarray(b[name])
    kinds = [f'{v.dtype}{list(v.shape)}' for v in (left, right)]
    close = left.dtype == right.dtype and left.shape == right.shape
    # bfloat16, the coarsest, has 8 bits; only the last may differ.
    step = 0 if exact or left.dtype.kind in 'iub' else 2.0**-7
    if close and left.dtype.kind in 'iub':
      close = np.array_equal(left, right)
    elif close:
      left, right = left.astype(np.float32), right.astype(np.float32)
      close = np.allclose(left, right, rtol=step, atol=step * 1e-2)
    if not close:
      raise AssertionError(
        f'{where} disagree in {name!r}:\n{kinds[0]} {left}\n{kinds[1]} {right}'
      )


def _require(condition: Any, message: str) -> None:
  """Raises unless a condition holds; for messages that print no arrays."""
  if not condition:
    raise AssertionError(message)


# Dimensions of the model of `check_codec`, with random weights.
_MODEL = {
  'name': 'check_codec',
  'image_size': 64,
  'patch_size': 16,
  'vit': {'width': 16, 'depth': 1, 'num_heads': 2, 'mlp_dim': 16},
  'llm': {
    'width': 16,
    'depth': 1,
    'mlp_dim': 16,
    'num_heads': 2,
    'num_kv_heads': 1,
    'head_dim': 8,
    'vocab_size': 16,
  },
}


def check_codec(
  codec: type[codecs.Codec] | codecs.Codec, seed: int = 0
) -> None:
  """Checks that a codec keeps the contract of `codecs.Codec`.

      cj.testing.check_codec(MyCodec)
      cj.testing.check_codec(MyCodec(model, side=4))

  That is: settings that can be read again from the name; a message of bytes per
  picture, the same in any batch and for a second call with the same key; sizes
  that add up; layers that join to the message; `FormatError` or a picture for
  whatever bytes arrive; and a finite prefix per message.

  Args:
    codec: The codec, or its class where all settings have defaults, which is
      checked with a small random model.
    seed: For pictures, keys and damage.

  Raises:
    AssertionError: It says what was checked, what was found and what is needed.
    TypeError: It is no codec.
  """
  if isinstance(codec, type):
    cls: Any = codec
    codec = _guarded(cls, cls.__name__)(_small_model(seed))
  codecs.check_codec('codec', codec)
  name = _guarded(lambda: cast(Any, codec).name, type(codec).__name__)()
  side = codec.model.config.vision.image_size
  rng = np.random.default_rng(seed)
  images = rng.integers(0, 256, (3, side, side, 3)).astype(np.uint8)
  images[1] = 0
  encode = _guarded(codec.encode, f'{name}: encode()')
  keys = jax.random.split(random_keys.make(seed), 2)
  messages = encode(images, keys[0], [5, 6, 7])
  for other, what in (
    (encode(images, keys[0], [5, 6, 7]), 'for a second call'),
    (
      [encode(images[i : i + 1], keys[0], [5 + i])[0] for i in range(3)],
      'in a batch of one; use fold_in(key, image_id)',
    ),
  ):
    _require(messages == other, f'{name}: encode() differs {what}.')
  if not codec.uses_key:
    again = encode(images, keys[1], [5, 6, 7])
    _require(
      messages == again, f'{name}: uses_key is False, but two keys differ.'
    )
  for message in messages:
    _check_codec_message(codec, name, message)
  _check_damage(codec, name, messages, rng)
  decode = _guarded(codec.decode, f'{name}: decode()')
  prefix = decode(messages)
  width = codec.model.config.text.width
  _require(
    prefix.x.shape[::2] == (3, width) and bool(jnp.isfinite(prefix.x).all()),
    f'{name}: decode() must give finite x[3, n, {width}], got'
    f' {prefix.x.shape}.',
  )
  _guarded(codec.warm_up, f'{name}: warm_up()')(2)


def _small_model(seed: int) -> paligemma.Model:
  """Returns a random image encoder."""
  config = paligemma.Config.from_dict(_MODEL)
  rng = np.random.default_rng(seed)
  params = jax.tree.map(
    lambda p: jnp.asarray(rng.normal(0, 0.5, p.shape), jnp.float32),
    {'img': paligemma.shapes(config)['img']},
  )
  return paligemma.Model(params, config)


def _check_codec_message(codec, name, message):
  """Checks sizes, layers and the unpacking of one message."""
  sizes = _guarded(codec.sizes, f'{name}: sizes()')(message)
  _require(
    sum(sizes.values()) == len(message),
    f'{name}: sizes() must add up to {len(message)} bytes, got {sizes}.',
  )
  parts = _guarded(codec.split_layers, f'{name}: split_layers()')(message)
  _require(
    len(parts) == codec.layers and b''.join(parts) == message,
    f'{name}: split_layers() must cut a message into {codec.layers} parts.',
  )
  for layers in range(1, codec.layers + 1):
    if codec.decodes_layers(layers):
      unpacked = _guarded(codec.unpack, f'{name}: unpack()')(
        b''.join(parts[:layers])
      )
      _require(
        codec.layers_of(unpacked) == layers,
        f'{name}: layers_of() must be {layers} for as many layers.',
      )


def _check_damage(codec, name, messages, rng):
  """Checks that damaged messages are pictures or raise FormatError."""
  message = messages[0]
  for data in (
    *(b'', message[:-1], message[: len(message) // 2], message + b'\0'),
    *(rng.bytes(len(message)) for _ in range(8)),
    *(rng.bytes(int(n)) for n in rng.integers(0, 100, 8)),
  ):
    try:
      codec.unpack(data)
    except wire.FormatError:
      continue
    except Exception as error:
      raise AssertionError(
        f'{name}: unpack() of {len(data)} damaged bytes: {error}'
      ) from error
