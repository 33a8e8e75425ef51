"""Codecs from text: 'kmeans(k=8)', 'webp(quality=20)', 'pkg.mod:Class(...)'."""

from collections.abc import Collection
import dataclasses
from typing import Any

from collab_jax import _validate, config, quantizers, registry
from collab_jax.codecs import base, feature, image

# Default of programs at both ends: the paper's k-means, from a random start.
METHOD = 'kmeans'
K = 8
DEFAULT = f'{METHOD}(k={K})'


def parse(
  text: str, split: str = 'encoder', coding: str = 'fixed'
) -> base.CodecSpec:
  """Reads a codec with all of its settings.

  ::

    codecs.parse('webp(quality=5,size=32,strip=true)')
    codecs.parse('kmeans(k=8,init=++)', coding='best')
    codecs.parse('mine:Thumbnail(side=16)')

  Args:
    text: An image codec, a quantizer, or 'package.module:Class' of a quantizer
      or of a codec of one's own, with its settings in parentheses.
    split: Where a quantizer cuts the model.
    coding: How a quantizer's messages are coded; see `wire.Session`.

  Returns:
    The spec, not yet checked against a model.

  Raises:
    ValueError: There is none of that name, or it has no such settings.
    ImportError: Its module cannot be imported.
  """
  if ' | ' in text:
    raise _validate.error(
      'codec',
      text,
      'a codec alone',
      'name a transport in `sent` of configs/channel.py, or make a cj.Link',
    )
  name, settings = config.call(text, 'codec', 'webp(quality=20)', ('name',))
  if name in image.KINDS:
    return image.ImageCodecSpec.make(name, settings)
  known = [*image.KINDS, *quantizers.NAMES]
  if ':' not in name:
    if name not in known and name not in quantizers.ALIASES:
      raise registry.unknown(known, 'codec', name)
  else:
    cls = registry.load('codec', name)
    if isinstance(cls, type) and issubclass(cls, base.Codec):
      return base.OwnCodecSpec.make(cls, settings)
    if not hasattr(cls, 'quantize'):
      raise _validate.error('codec', name, 'a class of a codec or quantizer')
  quantizer = quantizers.make(name, **settings)
  return feature.FeatureCodecSpec(quantizer, split, coding)


def parse_method(
  text: str, field: str = 'method'
) -> tuple[str, dict[str, Any]]:
  """Reads a quantizer without its k.

  Args:
    text: For instance 'kmeans(init=++)', 'pool' or 'pkg.mod:Class(bits=4)'.
    field: Field or flag that holds it, for errors.

  Returns:
    Its name and settings; numbers become int or float.

  Raises:
    ValueError: It is not of that form.
  """
  return config.call(text, field, 'kmeans(init=++)', ('k', 'name'))


def make_method(
  text: str, k: int, field: str = 'method'
) -> quantizers.Quantizer:
  """Makes the quantizer that sends k vectors.

  Args:
    text: As `parse_method` reads it; or a whole quantizer with {k} in the
      place of its k: 'centred(vectors=merge(k={k}))'.
    k: Number of vectors sent.
    field: As of `parse_method`.

  Returns:
    The quantizer.

  Raises:
    ValueError: There is none of that name, or it has no such settings.
    ImportError: Its module cannot be imported.
  """
  if '{k}' in text:
    return quantizers.make(text.replace('{k}', str(k)))
  name, settings = parse_method(text, field)
  if name == 'identity':
    raise ValueError(
      f"{field}: got 'identity', which sends all vectors and has no k; all"
      ' vectors are sent for comparison anyway, so give another one, such as'
      " 'kmeans'"
    )
  return quantizers.make(name, k=k, **settings)


def make_quantizer(
  text: str, k: int, is_given: bool = True
) -> quantizers.Quantizer:
  """Makes a quantizer from flags, where its k may stand beside it.

  Args:
    text: A quantizer, 'kmeans(k=8)', or one without its k, as `make_method`
      reads it.
    k: Number of vectors sent.
    is_given: Whether the user gave k, which then must not stand in the text;
      else it is for quantizers that need one.

  Returns:
    The quantizer.

  Raises:
    ValueError: There is none of that name, or it has no such settings.
    ImportError: Its module cannot be imported.
  """
  if not is_given and '{k}' not in text:
    example = 'kmeans(k=8)'
    name, settings = config.call(text, 'quantizer', example, ('name',))
    if 'k' in settings or not _takes_k(name):
      return quantizers.make(name, **settings)
  return make_method(text, k, 'quantizer')


def _takes_k(name: str) -> bool:
  """Whether a quantizer has a number of vectors among its settings."""
  name = quantizers.ALIASES.get(name, name)
  cls: Any = registry.find(quantizers.NAMES, 'quantizer', name)
  return any(field.name == 'k' for field in dataclasses.fields(cls))


def choose(
  codec: str,
  quantizer: str,
  k: int,
  given: Collection[str] = (),
  split: str = 'encoder',
  coding: str = 'fixed',
) -> base.CodecSpec:
  """Reads a codec from flags: `codec`, or `quantizer` and `k`.

  Args:
    codec: A whole codec, as `parse` reads it; '' for none.
    quantizer: A quantizer, as `make_quantizer` reads it.
    k: Number of vectors sent.
    given: Which of the two were named by the user, not left at a default.
    split: As of `parse`.
    coding: As of `parse`.

  Returns:
    The spec.

  Raises:
    ValueError: Both ways are used, or as `parse` and `make_quantizer`.
    ImportError: Its module cannot be imported.
  """
  if not codec:
    if quantizer == 'identity':
      make_method(quantizer, k, 'quantizer')  # Refuses it.
    chosen = make_quantizer(quantizer, k, 'k' in given)
    return feature.FeatureCodecSpec(chosen, split, coding)
  for name in given:
    raise ValueError(
      f'{name}: is given beside codec, which says all; write it into codec, as'
      " in --codec='kmeans(k=8)', or leave one of them out"
    )
  return parse(codec, split, coding)
