"""Which codecs an operator lets edges use.

The receiving codec is made from the names in a session, by this end's own
code, and only if the operator has listed it; nothing that the other end sends
becomes code or a table.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import itertools

from collab_jax import codecs, config, quantizers, wire
from collab_jax import message as messages
from collab_jax.models import paligemma
from collab_jax.serving import protocol
from collab_jax.serving.server import decoders

ANY = 'any'

# Names of quantizers are shorter; no name can make the reader recurse deeply.
_LONGEST_NAME = 512
# Of all tables that an unlisted quantizer may have, in frequencies.
_LARGEST_TABLES = 1 << 24


class RefusedError(Exception):
  """The server and the edge do not agree; the text says on what."""


class CodecAllowlist:
  """What an operator lets edges use.

  Attributes:
    any_quantizer: Whether every quantizer of the package's own will do.
    any_image: Whether every image codec will.
    quantizers: Those that were listed, by the name that sessions have.
    images: Those that were listed, by their names.
  """

  def __init__(self, model: paligemma.Model, listed: str, images: str):
    """Reads the lists.

    Args:
      model: The model.
      listed: Quantizers with ';' between them, or 'any'.
      images: Image codecs with ';' between them, 'any', or '' for none.

    Raises:
      ValueError: There is none of such a name, or it is not for the model.
      ImportError: Its module cannot be imported.
    """
    vision = model.config.vision
    self._model = model
    self.any_quantizer, self.any_image = listed == ANY, images == ANY
    self.quantizers: dict[str, list[quantizers.Quantizer]] = {}
    self.images: dict[str, codecs.ImageSettings] = {}
    for text in [] if self.any_quantizer else _split(listed):
      made = quantizers.make(text)
      made.sent(vision.num_tokens)
      self.quantizers.setdefault(_name(made), []).append(made)
    for text in [] if self.any_image else _split(images):
      settings = _image(text).at(vision.image_size)
      self.images[settings.name] = settings

  def listed(
    self, splits: Sequence[str]
  ) -> Iterator[Callable[[], decoders.MessageDecoder]]:
    """Yields what makes every codec that was listed."""
    every = [q for some in self.quantizers.values() for q in some]
    for made, split, coding in itertools.product(every, splits, wire.CODINGS):
      yield lambda q=made, s=split, c=coding: self._features(q, s, c)
    for settings in self.images.values():
      yield lambda settings=settings: self._pictures(settings)

  def make(self, agreement: protocol.Agreement) -> decoders.MessageDecoder:
    """Makes the codec that an edge describes; on the worker's thread.

    Args:
      agreement: What the edge said.

    Raises:
      RefusedError: It is not offered, or differs.
      FormatError: There is no such codec.
    """
    try:
      made = [make() for make in self._candidates(agreement)]
    except (ValueError, TypeError) as error:
      if isinstance(error, wire.FormatError):
        raise
      raise RefusedError(str(error)) from error
    wrong = [protocol.differences(one.codec, agreement) for one in made]
    for one, lines in zip(made, wrong, strict=True):
      if not lines:
        return one
    fewest = min(wrong, key=len)
    raise RefusedError('the sessions differ: ' + '; '.join(fewest))

  def check(self, agreement: protocol.Agreement) -> None:
    """Raises what `make` would, as far as it is known without a device."""
    self._candidates(agreement)

  def _candidates(self, there):
    spec = there.spec
    if spec.get('codec') == 'image':
      found = self._image_settings(spec['name'])
      return [lambda: self._pictures(found)]
    name, split = spec['quantizer'], spec['split']
    if split not in codecs.SPLITS:
      raise wire.FormatError(
        f'The split is {split!r}, expected one of {codecs.SPLITS}.'
      )
    coding = there.described['coding']
    if coding not in wire.CODINGS:
      raise wire.FormatError(
        f'The coding is {coding!r}, expected one of {wire.CODINGS}.'
      )
    found = self.quantizers.get(name)
    if found is None and self.any_quantizer:
      found = [self._own(name)]
    if found is None:
      raise RefusedError(_unknown('quantizer', name, self.quantizers))
    return [lambda q=q: self._features(q, split, coding) for q in found]

  def _own(self, name: str) -> quantizers.Quantizer:
    """A quantizer of the package's own, with no book of anybody's."""
    vision = self._model.config.vision
    if len(name) > _LONGEST_NAME or ':' in name:
      raise RefusedError(_not_own(name))
    try:
      made = quantizers.make(name)
      fields = made.fields(vision.num_tokens, vision.width)
    except (ValueError, TypeError, RecursionError) as error:
      raise wire.FormatError(f'No quantizer: {error}') from error
    if made != quantizers.pretrained.unnamed(made):
      raise RefusedError(_not_own(name))
    size = sum(
      f.alphabet * (f.shape[-1] if f.shape else 1)
      for f in fields.values()
      if isinstance(f, messages.Symbols)
    )
    if size > _LARGEST_TABLES:
      raise RefusedError(
        f'quantizer: {name[:64]} may have tables of {size} frequencies,'
        f' expected at most {_LARGEST_TABLES} where it is not listed'
      )
    return made

  def _image_settings(self, name: str) -> codecs.ImageSettings:
    if name in self.images:
      return self.images[name]
    if not self.any_image:
      raise RefusedError(_unknown('image codec', name, self.images))
    try:
      return _image(name).at(self._model.config.vision.image_size)
    except ValueError as error:
      raise wire.FormatError(f'No image codec: {error}') from error

  def _features(self, made, split: str, coding: str) -> decoders.MessageDecoder:
    codec = codecs.FeatureCodec(self._model, made, split, coding=coding)
    return decoders.FeatureDecoder(codec)

  def _pictures(
    self, settings: codecs.ImageSettings
  ) -> decoders.MessageDecoder:
    return decoders.ImageDecoder(
      codecs.ImageCodec(self._model, **dataclasses.asdict(settings))
    )


def _split(text: str) -> list[str]:
  return [part for part in map(str.strip, text.split(';')) if part]


def _name(made: quantizers.Quantizer) -> str:
  return quantizers.name(quantizers.pretrained.unnamed(made))


def _image(text: str) -> codecs.ImageSettings:
  kind, settings = config.call(text, 'images', 'webp(quality=20)', ('kind',))
  return codecs.ImageSettings.make(kind, settings)


def _not_own(name: str) -> str:
  return (
    f"quantizer: got {name[:64]!r}, expected one of the package's own, as"
    ' sessions name them: without modules and books'
  )


def _unknown(what: str, name: str, offered) -> str:
  known = ', '.join(sorted(offered)) or 'none'
  return f'{what}: got {name[:64]!r}, the server takes {known}'
