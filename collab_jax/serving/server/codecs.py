"""Codecs of a server: those its operator allows, and those agreed upon.

A receiving codec is made from the names in a session, by this end's own code,
and only if the operator has listed it; nothing that the other end sends becomes
code or a table.
"""

import asyncio
import collections
from collections.abc import Callable, Coroutine, Iterator, Sequence
import dataclasses
import itertools
import logging
from typing import Any, cast

from collab_jax import codecs, config, quantizers, wire
from collab_jax import message as messages
from collab_jax.codecs import fingerprint
from collab_jax.models import paligemma
from collab_jax.serving import protocol
from collab_jax.serving.server import decoders

_LOG = logging.getLogger(__name__)

# Families of codecs, and their names in errors.
_FAMILIES = {'feature': 'quantizer', 'image': 'image codec', 'own': 'codec'}

# Names of quantizers are shorter; no name can make the reader recurse deeply.
_LONGEST_NAME = 512
# Limit of all tables of an unlisted quantizer, in frequencies.
_LARGEST_TABLES = 1 << 24
# Number of codecs that may wait to be made ready: a caller's, and all.
_PENDING = 4
_PENDING_IN_ALL = 16
# Callers of a codec that are remembered; others are asked for a handshake.
_CALLERS = 4096


class RefusedError(Exception):
  """The server and the edge do not agree; the text says on what."""


class BusyError(Exception):
  """Too many codecs are being made ready."""


class CodecAllowlist:
  """Codecs that an operator lets edges use.

      CodecAllowlist(model, 'kmeans(k=8);merge(k=4)', 'webp(quality=30)')

  Only the operator's lists may name modules and files, never a handshake.
  """

  def __init__(self, model: paligemma.Model, quantizer_list: str, images: str):
    """Parses the lists, with ';' between their entries.

    The entry 'any' admits all of the package beside those that are listed,
    which are compiled at the start. A codec or quantizer of one's own,
    'package.module:Class(...)', may stand in either: what it sends follows from
    its class.

    Args:
      model: The model.
      quantizer_list: Quantizers.
      images: Image codecs; '' for none.

    Raises:
      ValueError: A name is unknown, the codec does not fit the model, or the
        model lacks the image encoder that it needs.
      ImportError: The module of a codec cannot be imported.
    """
    encoding = server_encoded(quantizer_list, images)
    if encoding and not fingerprint.has_encoder(model):
      raise ValueError(
        f'model: got no image encoder, expected one for {encoding[0]}, whose'
        " pictures the server encodes; load all of it, not the part 'server'"
      )
    self._model = model
    self._any = {
      'feature': protocol.ANY in protocol.entries(quantizer_list),
      'image': protocol.ANY in protocol.entries(images),
    }
    self._listed: dict[str, dict[str, list[codecs.CodecSpec]]] = {
      family: {} for family in _FAMILIES
    }
    for spec in _parse_lists(quantizer_list, images):
      self._add(spec)

  def _add(self, spec: codecs.CodecSpec) -> None:
    if spec.family == 'feature':
      # Widths are checked where it is bound: they differ between splits.
      quantizer = cast(codecs.FeatureCodecSpec, spec).quantizer
      quantizer.sent(self._model.config.vision.num_tokens)
    else:
      spec = spec.validate(self._model.config)
    listed = self._listed[spec.family]
    listed.setdefault(spec.session_name, []).append(spec)

  def decoder_factories(
    self, splits: Sequence[str]
  ) -> Iterator[Callable[[], decoders.MessageDecoder]]:
    """Yields a function for each listed codec that makes its decoder."""
    for family, listed in self._listed.items():
      for spec in itertools.chain.from_iterable(listed.values()):
        variants = [spec]
        if family == 'feature':
          variants = [
            _with_coding(spec, split, coding)
            for split, coding in itertools.product(splits, wire.CODINGS)
          ]
        for variant in variants:
          yield lambda variant=variant: self._decoder(variant)

  def create(
    self, description: protocol.SessionDescription
  ) -> decoders.MessageDecoder:
    """Makes the decoder that an edge describes.

    Args:
      description: Session description of the edge.

    Raises:
      RefusedError: The codec is not allowed, or differs.
      FormatError: There is no such codec.
    """
    try:
      candidates = [self._decoder(s) for s in self._specs(description)]
    except (ValueError, TypeError) as error:
      if isinstance(error, wire.FormatError):
        raise
      raise RefusedError(str(error)) from error
    differences = []
    for decoder in candidates:
      differences.append(protocol.differences(decoder.codec, description))
      if not differences[-1]:
        return decoder
    fewest = min(differences, key=len)
    raise RefusedError('the sessions differ: ' + '; '.join(fewest))

  def check(self, description: protocol.SessionDescription) -> None:
    """Raises the errors of `create` that are known without a device."""
    self._specs(description)

  def _decoder(self, spec: codecs.CodecSpec) -> decoders.MessageDecoder:
    return decoders.MessageDecoder(spec.bind(self._model))

  def _specs(
    self, description: protocol.SessionDescription
  ) -> list[codecs.CodecSpec]:
    """Returns the allowed specs that a description may mean."""
    family, spec = description.family, description.spec
    if family != 'feature':
      return self._allowed(family, spec['name'])
    split, coding = spec['split'], description.values['coding']
    if split not in codecs.SPLITS:
      raise wire.FormatError(
        f'split: got {split!r}, expected one of {", ".join(codecs.SPLITS)}'
      )
    if coding not in wire.CODINGS:
      raise wire.FormatError(
        f'coding: got {coding!r}, expected one of {", ".join(wire.CODINGS)}'
      )
    allowed = self._allowed(family, spec['quantizer'])
    return [_with_coding(spec, split, coding) for spec in allowed]

  def _allowed(self, family: str, name: str) -> list[codecs.CodecSpec]:
    listed = self._listed[family]
    if name in listed:
      return listed[name]
    if not self._any.get(family):
      known = ', '.join(sorted(listed)) or 'none'
      raise RefusedError(
        f'{_FAMILIES[family]}: got {name[:64]!r}, the server takes {known}'
      )
    if family == 'feature':
      return [codecs.FeatureCodecSpec(self._package_quantizer(name))]
    try:
      return [_parse_image(name).validate(self._model.config)]
    except ValueError as error:
      raise wire.FormatError(f'No image codec: {error}') from error

  def _package_quantizer(self, name: str) -> quantizers.Quantizer:
    """Makes an unlisted quantizer, which may name no module and no file."""
    vision = self._model.config.vision
    if len(name) > _LONGEST_NAME or ':' in name:
      raise RefusedError(_not_package(name))
    try:
      quantizer = quantizers.make(name)
      fields = quantizer.fields(vision.num_tokens, vision.width)
    except (ValueError, TypeError, RecursionError) as error:
      raise wire.FormatError(f'No quantizer: {error}') from error
    if quantizer != quantizers.pretrained.with_default_books(quantizer):
      raise RefusedError(_not_package(name))
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
    return quantizer


class _Entry:
  """Decoder of a codec, and the callers that have agreed on it."""

  def __init__(self, decoder: decoders.MessageDecoder, maker: str):
    self.decoder = decoder
    self.maker = maker
    self._callers = collections.OrderedDict({maker: None})

  def add(self, caller: str) -> None:
    """Lets a caller use the codec."""
    self._callers[caller] = None
    while len(self._callers) > _CALLERS:
      self._callers.popitem(last=False)

  def __contains__(self, caller: str) -> bool:
    return caller in self._callers


class CodecRegistry:
  """Decoders of the codecs that edges and the server have agreed on.

  Those that the operator has listed are everybody's, and stay. The others
  belong to the callers whose handshakes have named them: of the caller with the
  most, the least recently used one is dropped. An edge that uses a dropped one
  again is asked for a handshake, which it does by itself.
  """

  def __init__(
    self,
    allowlist: CodecAllowlist,
    capacity: int,
    call: Callable[..., Any],
    warm_up: Callable[[decoders.MessageDecoder], Coroutine],
  ):
    """Makes an empty registry.

    Args:
      allowlist: Codecs that may be agreed on.
      capacity: Number of decoders to keep, besides those that are listed.
      call: Coroutine that runs a function on a thread that may compile.
      warm_up: Coroutine that compiles the programs of a decoder.
    """
    self._allowlist = allowlist
    self._capacity = capacity
    self._call = call
    self._warm_up = warm_up
    self._listed: dict[bytes, decoders.MessageDecoder] = {}
    self._agreed: collections.OrderedDict[bytes, _Entry]
    self._agreed = collections.OrderedDict()
    self._pending: dict[bytes, tuple[str, asyncio.Task]] = {}
    self._turns: dict[str, asyncio.Lock] = {}
    self._dropped = 0  # Since programs were freed.
    self._recompiling: asyncio.Task | None = None

  def __len__(self) -> int:
    """Number of decoders."""
    return len(self._listed) + len(self._agreed)

  def get(
    self, name: bytes, caller: str = ''
  ) -> decoders.MessageDecoder | None:
    """Returns the decoder that a request of a caller names, if it has one."""
    if name in self._listed:
      return self._listed[name]
    entry = self._agreed.get(name)
    if entry is None or caller not in entry:
      return None
    self._agreed.move_to_end(name)
    return entry.decoder

  async def get_or_create(
    self, text: str, caller: str = ''
  ) -> decoders.MessageDecoder:
    """Returns the decoder of a session, made and compiled if it is new.

    Args:
      text: Session description, as `protocol.to_json` writes it.
      caller: Name of the caller, who may use the decoder from then on.

    Returns:
      The decoder, ready to be used.

    Raises:
      FormatError: The text describes no codec.
      RefusedError: The codec is not allowed, or differs from the server's.
      BusyError: Too many codecs are being made ready.
    """
    description = protocol.parse(text)
    name = description.digest[: protocol.ID]
    if name in self._agreed:
      self._agreed[name].add(caller)
    decoder = self.get(name, caller)
    if decoder is not None:
      return decoder
    if name not in self._pending:
      self._allowlist.check(description)
      self._check_pending(caller)
      task = asyncio.create_task(self._create(description, caller))
      self._pending[name] = caller, task
      task.add_done_callback(lambda done: self._forget_task(name, done))
    # One edge that goes away leaves the others waiting.
    decoder = await asyncio.shield(self._pending[name][1])
    if name in self._agreed:
      self._agreed[name].add(caller)
    return decoder

  def _check_pending(self, caller: str) -> None:
    """Raises BusyError where too many codecs are being made ready."""
    owners = [owner for owner, _ in self._pending.values()]
    if owners.count(caller) >= _PENDING or len(owners) >= _PENDING_IN_ALL:
      raise BusyError(
        f'{len(owners)} codecs are being made ready; try again later'
      )

  async def add(
    self, make: Callable[[], decoders.MessageDecoder]
  ) -> decoders.MessageDecoder:
    """Adds a decoder that the operator has listed."""
    decoder = await self._make(make)
    self._listed[decoder.id] = decoder
    return decoder

  async def _create(
    self, description: protocol.SessionDescription, caller: str
  ) -> decoders.MessageDecoder:
    """Makes a decoder; those of a caller one after the other."""
    async with self._turns.setdefault(caller, asyncio.Lock()):
      decoder = await self._make(lambda: self._allowlist.create(description))
    return self._keep(decoder, caller)

  async def _make(
    self, make: Callable[[], decoders.MessageDecoder]
  ) -> decoders.MessageDecoder:
    decoder = await self._call(make)
    await self._warm_up(decoder)
    return decoder

  def _forget_task(self, name: bytes, task: asyncio.Task) -> None:
    caller, _ = self._pending.pop(name)
    if all(owner != caller for owner, _ in self._pending.values()):
      self._turns.pop(caller, None)
    if not task.cancelled():
      task.exception()  # Marks it as retrieved: nobody may be waiting.

  def _keep(
    self, decoder: decoders.MessageDecoder, caller: str
  ) -> decoders.MessageDecoder:
    self._agreed[decoder.id] = _Entry(decoder, caller)
    while len(self._agreed) > self._capacity:
      counts = collections.Counter(e.maker for e in self._agreed.values())
      most = max(counts.values())
      name = next(n for n, e in self._agreed.items() if counts[e.maker] == most)
      del self._agreed[name]
      self._dropped += 1
    if self._dropped >= self._capacity and self._recompiling is None:
      self._dropped = 0
      self._recompiling = asyncio.create_task(self._recompile())
      self._recompiling.add_done_callback(self._recompiled)
    return decoder

  async def _recompile(self) -> None:
    """Frees the programs of dropped codecs; compiles the others' anew.

    Memory is bounded by those listed and twice the capacity, however many
    codecs come and go.
    """
    await self._call(codecs.forget_programs)
    agreed = [entry.decoder for entry in self._agreed.values()]
    for decoder in [*self._listed.values(), *agreed]:
      await self._warm_up(decoder)

  def _recompiled(self, task: asyncio.Task) -> None:
    self._recompiling = None
    if not task.cancelled() and task.exception() is not None:
      _LOG.warning('programs were not made anew: %s', task.exception())


def server_encoded(quantizer_list: str, images: str) -> list[str]:
  """Lists the codecs for which the server needs the image encoder.

  Args:
    quantizer_list: As of `CodecAllowlist`.
    images: As of `CodecAllowlist`.

  Returns:
    Names, or 'any'; none if the part 'server' of a model is enough.

  Raises:
    ValueError: A name is unknown.
    ImportError: The module of a codec cannot be imported.
  """
  specs = _parse_lists(quantizer_list, images)
  names = [spec.name for spec in specs if spec.server_encodes]
  return (
    [*names, protocol.ANY]
    if protocol.ANY in protocol.entries(images)
    else names
  )


def _parse_lists(quantizer_list: str, images: str) -> list[codecs.CodecSpec]:
  """Parses an operator's lists; 'any' lists nothing."""
  return [
    _parse_entry(entry, family)
    for family, text in (('feature', quantizer_list), ('image', images))
    for entry in protocol.entries(text)
    if entry != protocol.ANY
  ]


def _parse_entry(text: str, family: str) -> codecs.CodecSpec:
  """Parses an entry of an operator's list."""
  if ':' in text.partition('(')[0]:
    return codecs.parse(text)
  if family == 'image':
    return _parse_image(text)
  return codecs.FeatureCodecSpec(quantizers.make(text))


def _parse_image(text: str) -> codecs.CodecSpec:
  kind, settings = config.call(text, 'images', 'webp(quality=20)', ('kind',))
  return codecs.ImageCodecSpec.make(kind, settings)


def _with_coding(
  spec: codecs.CodecSpec, split: str, coding: str
) -> codecs.CodecSpec:
  feature = cast(codecs.FeatureCodecSpec, spec)
  return dataclasses.replace(feature, split=split, coding=coding)


def _not_package(name: str) -> str:
  return (
    f"quantizer: got {name[:64]!r}, expected one of the package's own, as"
    ' sessions name them: without modules and books'
  )
