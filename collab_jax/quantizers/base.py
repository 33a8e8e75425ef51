"""What a quantizer is, and what quantizers are made from."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from collab_jax import _renamed, _validate
from collab_jax import message as messages

if not TYPE_CHECKING:  # Unknown names are errors to type checkers.
  __getattr__ = _renamed.module_getattr(__name__)

Params = Mapping[str, Any]


@runtime_checkable
class Quantizer(Protocol):
  """Turns the n vectors of one image into a message, and back.

  An implementation is a frozen dataclass of plain values: hashable, hence a
  static argument of a jitted function. It is written for one image; callers
  `vmap` it. Every shape follows from n, d and the dataclass.

  A quantizer may have properties `sender` and `receiver`: a quantizer that
  quantizes, or dequantizes, just as it does, and is the same one for many. What
  it is the same for shares one compiled program. One whose inner quantizer gets
  other coordinates than it gets itself has a method `coordinates() -> str`
  that names them; see `books.check_coordinates`. One whose property `needs`
  names what the encoder knows beside the vectors gets it by keyword, as
  `quantize(params, x, key, attention=...)`, where the caller has it.

  Attributes:
    uses_key: False if the message does not depend on the key, so that an
      evaluation need not repeat it for several seeds.
  """

  @property
  def uses_key(self) -> bool:
    """Whether another key may give another message."""
    ...

  # Not `init`: that is the field in which KMeans and others say how they start.
  def init_params(self, key: Key[Array, ''], n: int, d: int) -> Params:
    """Returns what both ends share; empty without a shared codebook."""
    ...

  def quantize(
    self, params: Params, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> messages.Message:
    """Returns the message: int32 for `Symbols`, the dtype of `Values`."""
    ...

  def dequantize(
    self, params: Params, message: messages.Message
  ) -> messages.Tokens:
    """Rebuilds the vectors, in float32, from what crossed the link."""
    ...

  def fields(self, n: int, d: int) -> dict[str, messages.Field]:
    """Declares the message that `quantize` returns for n vectors of width d."""
    ...

  def sent(self, n: int) -> int:
    """Returns how many vectors cross the link: the paper's ratio times n."""
    ...


def straight_through(
  quantizer: Quantizer,
  params: Params,
  x: Float[Array, 'n d'],
  key: Key[Array, ''],
) -> messages.Tokens:
  """Quantizes and rebuilds with the identity as gradient.

  The value is that of `dequantize(quantize(x))` to the bit; the gradient of a
  rebuilt vector goes to the vector of x in whose place it stands. Gradients
  do not reach `params`.

  Args:
    quantizer: Any quantizer. If it rebuilds m != n vectors, it must have a
      method `origins(message) -> i32[m]` that returns which vector of x each
      of them stands for.
    params: What `quantizer.init_params` returned.
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
  quantizer: Quantizer,
  x: Float[Array, 'n d'],
  sent: messages.Message,
  tokens: messages.Tokens,
) -> messages.Tokens:
  """Gives what was rebuilt of a message the gradient of `straight_through`.

  Args:
    quantizer: What quantized and rebuilt.
    x: The vectors.
    sent: The message of them.
    tokens: What was rebuilt of it.

  Returns:
    The tokens.

  Raises:
    ValueError: As `straight_through`.
  """
  still = jax.lax.stop_gradient(x)
  origins = getattr(quantizer, 'origins', None)
  if tokens.x.shape[0] == x.shape[0]:
    wire = x - still
  elif origins is not None:
    wire = (x - still)[origins(sent)]
  else:
    raise ValueError(
      f'{type(quantizer).__name__} rebuilds {tokens.x.shape[0]} of '
      f'{x.shape[0]} vectors and has no method origins(message), so it is '
      'unknown where their gradient belongs; add one.'
    )
  return tokens._replace(x=jax.lax.stop_gradient(tokens.x) + wire)


def split(key: Key[Array, ''], inner: Quantizer) -> tuple[jax.Array, jax.Array]:
  """Returns a key to draw from, and one for an inner quantizer.

  They are the same where the inner one ignores its key: on a CPU the program
  that splits a key takes longer to compile than many a quantizer.
  """
  return tuple(jax.random.split(key)) if inner.uses_key else (key, key)


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


def priors(quantizer: Quantizer, params: Params) -> dict[str, Any]:
  """Returns the frequencies of a quantizer's symbols that both ends know.

  Args:
    quantizer: Any; one without a method `priors` has none.
    params: What its `init_params` returned.

  Returns:
    For some of the fields of `Symbols` positive int32[rows, alphabet], of sum
    at most 2**16 a row, rows being 1 or the size of the field's last axis.
  """
  known = getattr(quantizer, 'priors', None)
  return known(params) if known else {}


def needs(quantizer: Quantizer) -> tuple[str, ...]:
  """Returns what a quantizer takes by keyword beside the vectors.

  Args:
    quantizer: Any; one without a property `needs` takes nothing.

  Returns:
    Of 'attention': f32[n], the attention that each vector received in the
    encoder's last block, averaged over heads and queries; and 'reduced=SIDE',
    by the keyword `reduced`: f32[SIDE^2 d], the vectors of the picture reduced
    to SIDE x SIDE patches.
  """
  return getattr(quantizer, 'needs', ())


def receiver(quantizer: Quantizer) -> Any:
  """Returns what rebuilds just as a quantizer does; see `Quantizer`."""
  return getattr(quantizer, 'receiver', quantizer)


def map_or_vmap(one: Callable[..., Any]) -> Callable[..., Any]:
  """Returns a function of one image with its own rule for many.

  Under `vmap` a CPU takes one image after the other, so that its matrices
  stay in the cache and its loops end when they have; other devices take them
  side by side.

  Args:
    one: Arrays of one image to a tree of arrays.
  """
  solve = jax.custom_batching.custom_vmap(one)

  @solve.def_vmap
  def many(axis_size, batched, *args):
    args = [
      a if b else jnp.broadcast_to(a, (axis_size, *a.shape))
      for a, b in zip(args, batched, strict=True)
    ]
    out = jax.lax.platform_dependent(
      *args,
      cpu=lambda *a: jax.lax.map(lambda one: solve(*one), a),
      default=jax.vmap(one),
    )
    return out, jax.tree.map(lambda _: True, out)

  return solve


def check_k(k: int) -> None:
  """Raises ValueError unless k can be a number of vectors."""
  _validate.integer('k', k)


def check_k_of_n(k: int, n: int) -> None:
  """Raises ValueError unless k of n vectors can be sent."""
  if k > n:
    raise _validate.error(
      'k', k, f'at most n = {n} vectors', f'choose k <= {n}'
    )


def full_grid(x: Float[Array, 'n d']) -> messages.Tokens:
  """Returns the tokens of a rebuilt grid: all valid, in their own places."""
  n = x.shape[0]
  return messages.Tokens(
    x=x.astype(jnp.float32),
    valid=jnp.ones(n, bool),
    positions=jnp.arange(n, dtype=jnp.int32),
    end=jnp.asarray(n, jnp.int32),
  )
