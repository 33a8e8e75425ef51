"""Contract of a quantizer, and base classes that fill in most of it."""

import abc
from collections.abc import Collection, Mapping
import copy
import dataclasses
import functools
from typing import (
  TYPE_CHECKING,
  Any,
  ClassVar,
  Protocol,
  cast,
  runtime_checkable,
)

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from collab_jax import _renamed, _validate
from collab_jax import message as messages
from collab_jax.quantizers import concealment

if not TYPE_CHECKING:  # Unknown names are errors to type checkers.
  __getattr__ = _renamed.module_getattr(__name__)

Params = Mapping[str, Any]

_MEMBERS = 'uses_key', 'init_params', 'quantize', 'dequantize', 'fields', 'sent'
MEMBERS = ', '.join(_MEMBERS)


@runtime_checkable
class QuantizerLike(Protocol):
  """Members that every quantizer has, whether it inherits them or not.

  A frozen dataclass with these six is accepted wherever a quantizer is; the
  optional hooks of `Quantizer` are read from it too, where it has them.
  """

  @property
  def uses_key(self) -> bool:
    """See `Quantizer.uses_key`."""
    ...

  def init_params(self, key: Key[Array, ''], n: int, d: int) -> Params:
    """See `Quantizer.init_params`."""
    ...

  def quantize(
    self, params: Params, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> messages.Message:
    """See `Quantizer.quantize`."""
    ...

  def dequantize(
    self, params: Params, message: messages.Message
  ) -> messages.Tokens:
    """See `Quantizer.dequantize`."""
    ...

  def fields(self, n: int, d: int) -> dict[str, messages.Field]:
    """See `Quantizer.fields`."""
    ...

  def sent(self, n: int) -> int:
    """See `Quantizer.sent`."""
    ...


class Quantizer(abc.ABC):
  """Turns the n vectors of one image into a message, and back.

      @dataclasses.dataclass(frozen=True)
      class Signs(cj.quantizers.Quantizer):
        def fields(self, n, d):
          return {'x': cj.message.Symbols(alphabet=2, shape=(n, d))}

        def quantize(self, params, x, key):
          return {'x': (x > 0).astype(jnp.int32)}

        def dequantize(self, params, message):
          return cj.quantizers.full_grid(2.0 * message['x'] - 1.0)

  A subclass is a frozen dataclass of plain values and inner quantizers:
  hashable, hence a static argument of a jitted function. It is written for one
  image; callers `vmap` it. Every shape follows from n, d and the fields.

  `fields`, `quantize` and `dequantize` are needed; every other member is a
  hook with a default, to be overridden where the default does not hold.
  `testing.check_quantizer` tests each hook that a class overrides.

  Attributes:
    draws: Whether the quantizer itself draws from the key of `quantize`.
    row_wise: Whether the rows of the message stand for one vector each, copies
      of vectors change no other row, and `params` do not depend on n, apart
      from an inner quantizer: then it may follow a `padded` quantizer. Not
      inherited.
    reads_quantiles: Whether the quantiles of its `book` are read, which are
      those of the coordinates that the book's own transform makes.
  """

  # So that `as_quantizer` serves classes with slots too.
  __slots__ = ()

  draws: ClassVar[bool] = False
  row_wise: ClassVar[bool] = False
  reads_quantiles: ClassVar[bool] = False

  def __init_subclass__(cls, **kwargs: Any):
    """Refuses a hook's former name; resets what each class says of itself."""
    super().__init_subclass__(**kwargs)
    if hasattr(cls, 'needs'):
      raise TypeError(f'{cls.__name__}.needs is now called aux_inputs')
    # Said of the methods of one class: a subclass may override them.
    for name in ('row_wise', 'dynamic_k'):
      if name not in vars(cls) and getattr(cls, name, False):
        setattr(cls, name, False)

  @property
  def uses_key(self) -> bool:
    """Whether another key may give another message.

    If not, an evaluation does not repeat it for several seeds.
    """
    return self.draws

  # Not `init`: that is the field in which KMeans and others say how they start.
  def init_params(self, key: Key[Array, ''], n: int, d: int) -> Params:
    """Returns what both ends share; empty without trained parameters.

    Args:
      key: For parameters that are drawn.
      n: Number of vectors.
      d: Their width.
    """
    del key, n, d
    return {}

  @abc.abstractmethod
  def fields(self, n: int, d: int) -> dict[str, messages.Field]:
    """Declares the message that `quantize` returns for n vectors of width d."""

  @abc.abstractmethod
  def quantize(
    self, params: Params, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> messages.Message:
    """Returns the message: int32 for `Symbols`, the dtype of `Values`.

    A quantizer with `aux_inputs` takes those by keyword, and must do without
    them too: a caller may have the vectors alone.
    """

  @abc.abstractmethod
  def dequantize(
    self, params: Params, message: messages.Message
  ) -> messages.Tokens:
    """Rebuilds the vectors, in float32, from what crossed the link."""

  def sent(self, n: int) -> int:
    """Returns how many vectors cross the link: the paper's ratio times n."""
    return n

  @property
  def aux_inputs(self) -> tuple[str, ...]:
    """Outputs of the image encoder that `quantize` takes beside the vectors.

    - 'attention': by the keyword `attention`, f32[n], the attention that each
      vector received in the encoder's last block, averaged over heads and
      queries.
    - 'reduced=SIDE': by the keyword `reduced`, f32[SIDE^2 d], the vectors of
      the image reduced to SIDE x SIDE patches.
    """
    return ()

  @property
  def sender(self) -> 'Quantizer':
    """Quantizer with the same `quantize`, and the same one for many.

    Quantizers with equal senders share one compiled program on the edge.
    """
    return self

  @property
  def receiver(self) -> 'Quantizer':
    """Quantizer with the same `dequantize`, and the same one for many.

    Quantizers with equal receivers share one compiled program on the server.
    """
    return self

  def padded(self, n: int) -> 'Quantizer | None':
    """Returns the quantizer whose programs serve this one and others of its k.

    It has a larger k, see `bucket`, and what it does depends on `num_used`
    alone: with `using(k)` it returns this quantizer's message, with more rows
    behind that mean nothing, and reads such a message. The last bits of a sum
    may differ between the two programs, and what depends on them at a tie.

    Args:
      n: Number of vectors.

    Returns:
      The quantizer; None where every k needs a program of its own.
    """
    del n
    return None

  @property
  def num_used(self) -> Int[Array, ''] | None:
    """Number of vectors in use, of k, in a program of a `padded` quantizer.

    None outside of such programs: all k are.
    """
    return getattr(self, '_num_used', None)

  def using(self, count: Int[Array, '']) -> 'Quantizer':
    """Returns a copy that uses so many of its k vectors.

    Args:
      count: The number, which may be traced; see `num_used`.
    """
    changed = copy.copy(self)
    # Past the __setattr__ of a frozen dataclass: it is no field.
    object.__setattr__(changed, '_num_used', count)
    return changed

  def priors(self, params: Params) -> dict[str, jax.Array]:
    """Returns symbol frequencies that both ends know, for the entropy coder.

    Args:
      params: From `init_params`.

    Returns:
      For some of the fields of `Symbols` positive int32[rows, alphabet], of
      sum at most 2**16 a row; rows is 1 or the size of the field's last axis.
    """
    del params
    return {}

  def origins(self, message: messages.Message) -> Int[Array, ' m'] | None:
    """Returns which of the n vectors each of m tokens stands for.

    The gradient of a token goes there. None where token i stands for vector i;
    a quantizer that rebuilds m != n vectors must say it.
    """
    del message
    return None

  def row_of(self, message: messages.Message) -> Int[Array, ' m'] | None:
    """Returns which sent row makes each token, or None where row i makes i."""
    del message
    return None

  def row_fields(self, n: int, d: int) -> tuple[str, ...]:
    """Returns the names of the fields with a row for every vector sent.

    By default they are those that grow with the number of vectors: with k
    where that is a field of the dataclass, else with n.

    Args:
      n: Number of vectors.
      d: Their width.
    """
    fields = self.fields(n, d)
    settings = {
      f.name: getattr(self, f.name) for f in dataclasses.fields(cast(Any, self))
    }
    k = settings.get('k')
    if isinstance(k, int) and n > 1:
      count = k
      other, grown = self._neighbour(k, n, d)
    else:
      count, other = n, n + 1
      grown = self.fields(other, d)
    return tuple(
      name
      for name, field in fields.items()
      if name in grown
      and field.shape[:1] == (count,)
      and grown[name].shape[:1] == (other,)
    )

  def _neighbour(self, k, n, d):
    """Returns the nearest other k that is valid, and its fields."""
    for other in sorted({*range(1, n + 1)} - {k}, key=lambda o: abs(o - k)):
      try:
        changed = dataclasses.replace(cast(Any, self), k=other)
        return other, changed.fields(n, d)
      except ValueError:  # Not every k makes a grid, or leaves room.
        pass
    return k, {}

  def conceal(
    self,
    message: messages.Message,
    received: Bool[Array, ' k'],
    rows: Collection[str],
  ) -> messages.Message:
    """Returns a message that `dequantize` can read as if nothing were missing.

    By default a lost row is replaced by the nearest that arrived: on the grid
    if the rows make a square, else in their order.

    Args:
      message: With anything in the rows that were lost.
      received: False for a lost row; at least one is True.
      rows: From `row_fields`.
    """
    return concealment.copied(message, rows, concealment.nearest(received))

  def decode_partial(
    self,
    params: Params,
    message: messages.Message,
    received: Bool[Array, ' k'],
    coarse: Collection[str],
  ) -> messages.Tokens:
    """Rebuilds the vectors, those of lost rows from their coarse layers only.

    For progressive quantizers; `row_of` says which row makes a token.

    Args:
      params: From `init_params`.
      message: With anything in the finer layers of the rows that were lost.
      received: False for a row whose finer layers were lost.
      coarse: The fields that arrived of all rows.

    Raises:
      ValueError: It is unknown which row makes a token.
    """
    fine = self.dequantize(params, message)
    rough = self.dequantize(params, {n: message[n] for n in coarse})
    row_of = self.row_of(message)
    if row_of is not None:
      received = received[row_of]
    elif fine.x.shape[0] != received.shape[0]:
      raise ValueError(
        f'{type(self).__name__} rebuilds {fine.x.shape[0]} vectors of'
        f' {received.shape[0]} rows and has no method row_of(message); add one'
      )
    return fine._replace(x=jnp.where(received[:, None], fine.x, rough.x))

  def coordinates(self) -> str:
    """Returns a name of the coordinates that the inner quantizer works in.

    Empty where those are the coordinates of the vectors themselves. A codebook
    is read in the coordinates it was trained in; see
    `pretrained.check_coordinates`.
    """
    return ''

  @property
  def uses_book(self) -> bool:
    """Whether the parameter file in the field `book`, if any, is read."""
    return True


def as_quantizer(quantizer: QuantizerLike) -> Quantizer:
  """Gives a quantizer that inherits nothing the default hooks.

  Args:
    quantizer: An instance of any class with the members of `QuantizerLike`.

  Returns:
    The quantizer itself if it is a `Quantizer`; else an equal copy, whose class
    has `Quantizer` as its last base.

  Raises:
    TypeError: It lacks a member.
  """
  if isinstance(quantizer, Quantizer):
    return quantizer
  if isinstance(quantizer, type):
    raise TypeError(
      f'quantizer: got the class {quantizer.__name__}, expected an instance;'
      f' write {quantizer.__name__}(...)'
    )
  if not isinstance(quantizer, QuantizerLike):
    raise _validate.error(
      'quantizer',
      quantizer,
      f'an object with {MEMBERS}',
      f'add {", ".join(missing(quantizer))}, or inherit'
      ' collab_jax.quantizers.Quantizer',
      TypeError,
    )
  adapted = copy.copy(quantizer)
  # Past the __setattr__ of a frozen dataclass.
  object.__setattr__(adapted, '__class__', _with_hooks(type(quantizer)))
  return cast(Quantizer, adapted)


def missing(quantizer: Any) -> list[str]:
  """Returns the members of `QuantizerLike` that an object lacks."""
  return [name for name in _MEMBERS if not hasattr(quantizer, name)]


def is_row_wise(quantizer: Quantizer) -> bool:
  """Returns whether a quantizer is `row_wise`, and those inside of it."""
  inner = isinstance(quantizer, Composite) and quantizer.inner
  return quantizer.row_wise and (not inner or is_row_wise(inner))


@functools.cache
def _with_hooks(cls: Any) -> type:
  """Returns a subclass of a plain dataclass that has the default hooks."""

  def equal(self, other):
    if type(other) not in (cls, type(self)):
      return NotImplemented
    return all(getattr(self, name) == getattr(other, name) for name in names)

  names = [field.name for field in dataclasses.fields(cls)]
  return abc.ABCMeta(
    cls.__name__,
    (cls, Quantizer),
    {
      # A field without a default must not find a property of `Quantizer`.
      **{n: None for n in names if not hasattr(cls, n)},
      'row_wise': getattr(cls, 'row_wise', False),
      '__module__': cls.__module__,
      '__qualname__': cls.__qualname__,
      '__doc__': cls.__doc__,
      '__slots__': (),
      '__eq__': equal,
      '__hash__': cls.__hash__,
    },
  )


class Composite(Quantizer):
  """Base for quantizers that hand vectors of their own to an inner quantizer.

  The message and parameters of the inner one stand under its field's name, as
  in 'centroids/x'. Subclasses say what the inner one gets, in `inner_shape`.

  Attributes:
    inner_field: Name of the field that holds the inner quantizer.
    dynamic_k: Whether the methods take the k in use from `num_used`, so that
      one program serves every k up to a bucket. Not inherited.
  """

  inner_field: ClassVar[str] = 'vectors'
  dynamic_k: ClassVar[bool] = False

  @property
  def inner(self) -> Quantizer:
    """The inner quantizer, with all hooks."""
    return as_quantizer(getattr(self, self.inner_field))

  @abc.abstractmethod
  def inner_shape(self, n: int, d: int) -> tuple[int, int]:
    """Returns number and width of the vectors that the inner quantizer gets.

    Raises:
      ValueError: This quantizer is not for n vectors of width d.
    """

  def padded(self, n: int) -> 'Quantizer | None':
    """Returns the quantizer with the k of a bucket; see `Quantizer.padded`."""
    if not (self.dynamic_k and is_row_wise(self.inner)):
      return None
    changed: Any = self
    return dataclasses.replace(changed, k=bucket(changed.k, n))

  @property
  def uses_key(self) -> bool:
    """Whether this quantizer or the inner one draws."""
    return self.draws or self.inner.uses_key

  def init_params(self, key: Key[Array, ''], n: int, d: int) -> Params:
    """Returns the parameters of the inner quantizer."""
    params = self.inner.init_params(key, *self.inner_shape(n, d))
    return nest(self.inner_field, params)

  def fields(self, n: int, d: int) -> dict[str, messages.Field]:
    """Returns the fields of the inner quantizer."""
    return prefix(self.inner_field, self.inner.fields(*self.inner_shape(n, d)))

  def sent(self, n: int) -> int:
    """Returns how many vectors the inner quantizer gets."""
    return self.inner_shape(n, 1)[0]

  def priors(self, params: Params) -> dict[str, jax.Array]:
    """Returns the symbol frequencies of the inner quantizer."""
    inner = self.inner.priors(unnest(self.inner_field, params))
    return prefix(self.inner_field, inner)

  def split_key(self, key: Key[Array, '']) -> tuple[jax.Array, jax.Array]:
    """Returns a key to draw from, and one for the inner quantizer.

    They are the same where the inner one ignores its key: on a CPU the program
    that splits a key takes longer to compile than many a quantizer.
    """
    return tuple(jax.random.split(key)) if self.inner.uses_key else (key, key)

  def quantize_inner(
    self,
    params: Params,
    x: Float[Array, 'm w'],
    key: Key[Array, ''],
    **aux: Any,
  ) -> messages.Message:
    """Returns the inner quantizer's part of the message.

    Args:
      params: Parameters of this quantizer.
      x: Vectors for the inner quantizer.
      key: Key for the inner quantizer.
      **aux: Its auxiliary inputs.
    """
    inner = unnest(self.inner_field, params)
    message = self.inner.quantize(inner, x, key, **aux)
    return prefix(self.inner_field, message)

  def dequantize_inner(
    self, params: Params, message: messages.Message
  ) -> messages.Tokens:
    """Returns the tokens that the inner quantizer rebuilds from its part."""
    return self.inner.dequantize(
      unnest(self.inner_field, params), unprefix(self.inner_field, message)
    )


def straight_through(
  quantizer: QuantizerLike,
  params: Params,
  x: Float[Array, 'n d'],
  key: Key[Array, ''],
) -> messages.Tokens:
  """Quantizes and rebuilds with the identity as gradient.

  The value is that of `dequantize(quantize(x))` to the bit; the gradient of a
  rebuilt vector goes to the vector of x in whose place it stands. Gradients
  do not reach `params`.

  Args:
    quantizer: Any quantizer; one that rebuilds m != n vectors has `origins`.
    params: From `quantizer.init_params`.
    x: The vectors.
    key: The key of this image.

  Returns:
    The rebuilt vectors.

  Raises:
    ValueError: If m != n and the quantizer has no `origins`.

  Source: Bengio et al. 2013, arXiv 1308.3432, section 4.
  """
  sent = quantizer.quantize(params, jax.lax.stop_gradient(x), key)
  return with_gradient(quantizer, x, sent, quantizer.dequantize(params, sent))


def with_gradient(
  quantizer: QuantizerLike,
  x: Float[Array, 'n d'],
  sent: messages.Message,
  tokens: messages.Tokens,
) -> messages.Tokens:
  """Gives rebuilt vectors the gradient of `straight_through`.

  Args:
    quantizer: The quantizer.
    x: The vectors.
    sent: Their message.
    tokens: The vectors rebuilt from the message.

  Returns:
    The tokens.

  Raises:
    ValueError: As `straight_through`.
  """
  identity = x - jax.lax.stop_gradient(x)
  if tokens.x.shape[0] != x.shape[0]:
    origins = as_quantizer(quantizer).origins(sent)
    if origins is None:
      raise ValueError(
        f'{type(quantizer).__name__} rebuilds {tokens.x.shape[0]} of '
        f'{x.shape[0]} vectors and has no method origins(message), so it is '
        'unknown where their gradient belongs; add one.'
      )
    identity = identity[origins]
  return tokens._replace(x=jax.lax.stop_gradient(tokens.x) + identity)


def shuffled(key: Key[Array, ''], n: int) -> Int[Array, ' n']:
  """Returns 0..n-1 in random order; equal 32-bit draws stay in order."""
  return jnp.argsort(jax.random.bits(key, (n,)))


def prefix(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
  """Puts the fields of an inner quantizer, or a message, under 'name/'."""
  return {f'{name}/{key}': value for key, value in fields.items()}


def unprefix(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields under 'name/' as the inner quantizer knows them."""
  start = f'{name}/'
  return {
    key.removeprefix(start): value
    for key, value in fields.items()
    if key.startswith(start)
  }


def nest(name: str, params: Params) -> Params:
  """Returns an inner quantizer's params under `name`; empty stays empty."""
  return {name: params} if params else {}


def unnest(name: str, params: Params) -> Params:
  """Returns the params that `nest` put under `name`."""
  return params.get(name, {})


def check_k(k: int) -> None:
  """Raises ValueError unless k can be a number of vectors."""
  _validate.integer('k', k)


def check_k_of_n(k: int, n: int) -> None:
  """Raises ValueError unless k of n vectors can be sent."""
  if k > n:
    raise _validate.error(
      'k', k, f'at most n = {n} vectors', f'choose k <= {n}'
    )


def full_grid(
  x: Float[Array, 'n d'], num_used: Int[Array, ''] | None = None
) -> messages.Tokens:
  """Returns the tokens of a rebuilt grid: all valid, in their own places.

  Args:
    x: The vectors.
    num_used: How many of them are valid; None for all.
  """
  n = x.shape[0]
  count = n if num_used is None else num_used
  positions = jnp.arange(n, dtype=jnp.int32)
  return messages.Tokens(
    x=x.astype(jnp.float32),
    valid=positions < count,
    positions=positions,
    end=jnp.asarray(count, jnp.int32),
  )


# The first number of vectors to which k is padded, and the ratio of the next.
_FIRST, _RATIO = 16, 8


def bucket(k: int, n: int) -> int:
  """Returns the number of vectors to which k are padded: 16, 128, 1024, ...

  Args:
    k: Number of vectors.
    n: Number of all vectors. Below it k stays below: tokens of k vectors are
      not mistaken for those of the grid.
  """
  if k >= n:
    return k
  size = _FIRST
  while size < k:
    size *= _RATIO
  return min(size, n - 1)


def pad_rows(
  rows: Float[Array, 'k d'], num_used: Int[Array, ''] | None
) -> Float[Array, 'k d']:
  """Puts the first row in the place of those that are not used.

  Args:
    rows: Vectors.
    num_used: How many of them are used; None for all.
  """
  if num_used is None:
    return rows
  used = jnp.arange(len(rows)) < num_used
  return jnp.where(used[:, None], rows, rows[0])
