"""The `Codec` base class: pictures to messages, and messages to prefixes."""

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import functools
import json
import threading
import time
from typing import Any, ClassVar, NamedTuple, TypeAlias

import jax
from jaxtyping import Array, UInt8
import numpy as np

from collab_jax import _validate, channels, random_keys, sharding
from collab_jax import message as messages
from collab_jax.codecs import (
  contract,
  device_clock,
  encoder,
  fingerprint,
)
from collab_jax.codecs.transports import base as transports
from collab_jax.models import paligemma
from collab_jax.wire import session_json

Images: TypeAlias = UInt8[Array | np.ndarray, 'B H W 3']
Seconds: TypeAlias = dict[str, float]


@contextlib.contextmanager
def timed(seconds: Seconds, stage: str) -> Iterator[None]:
  """Writes the seconds that its body takes to `seconds[stage]`."""
  start = time.perf_counter()
  yield
  seconds[stage] = time.perf_counter() - start


class Encoded(NamedTuple):
  """Result of encoding a batch.

  Attributes:
    messages: What is sent, one per image: bytes; of a `Link`, `Packets`.
    seconds: Time that the whole batch took, by stage: 'encode' (image encoder,
      or image file), 'quantize' and 'pack'.
    features: f32[B N D], the vectors that were quantized; None where a codec
      has none. The distortion is measured against them.
    unlike: bool[B], whether a picture is unlike those that the model was
      trained on; None where nothing is known of these.
  """

  messages: list[Any]
  seconds: Seconds
  features: Array | None = None
  unlike: np.ndarray | None = None


class Decoded(NamedTuple):
  """Result of decoding a batch.

  Attributes:
    prefix: What the captioner reads; arbitrary in the rows of messages that
      did not arrive. None if no message did.
    tokens: Rebuilt vectors before the projection; None where a codec has none.
    arrived: False for a message that is lost or unreadable; None if all can be
      read.
    rows: Share of each message's vectors that arrived; None if all did.
  """

  prefix: messages.Prefix | None
  tokens: messages.Tokens | None = None
  arrived: Sequence[bool] | None = None
  rows: Sequence[float] | None = None


class FeatureCache:
  """Image features of one batch, computed and timed once for many codecs.

  Codecs of one split and equal auxiliary inputs share an entry. Threads may
  share a cache: the first one computes, the others wait.

  Attributes:
    clock: Times the device's programs.
  """

  def __init__(
    self,
    compiled: set[Any] | None = None,
    clock: device_clock.DeviceClock | None = None,
  ):
    """Starts empty.

    Args:
      compiled: Keys of the entries whose programs ran before, which the cache
        extends. Of a program that is not among them compiling is not timed.
        None: all have run.
      clock: Times the programs; by default one that waits for each.
    """
    self.clock = clock or device_clock.DeviceClock()
    self._compiled = compiled
    self._entries: dict[Any, tuple[Any, Callable[[], float]]] = {}
    self._lock = threading.Lock()

  def get(self, key: Any, compute: Callable[[], Any]) -> tuple[Any, float]:
    """Returns an entry and the seconds that it took to compute.

    Args:
      key: Identifies what is computed.
      compute: Called if there is no such entry.
    """
    value, seconds = self.dispatch(key, compute)
    return jax.block_until_ready(value), seconds()

  def dispatch(
    self, key: Any, compute: Callable[[], Any]
  ) -> tuple[Any, Callable[[], float]]:
    """Like `get`, but waits for nothing: its seconds are those of the clock.

    Args:
      key: As of `get`.
      compute: As of `get`.

    Returns:
      The entry, and a function that waits and returns its seconds.
    """
    with self._lock:
      if key not in self._entries:
        compiles = self._compiled is not None and key not in self._compiled
        if self._compiled is not None:
          self._compiled.add(key)
        self._entries[key] = self.clock.dispatch(compute, compiles)
      return self._entries[key]


class Codec(abc.ABC):
  """Codec between an edge and a server: pictures to messages, and to prefixes.

  A codec of one's own is a dataclass, whose first field is the model::

    @dataclasses.dataclass
    class Thumbnail(cj.codecs.Codec):
      model: cj.models.paligemma.Model
      side: int = 16

      def encode(self, images, key=None, image_ids=None):
        return [shrink(image, self.side).tobytes() for image in images]

      def unpack(self, message):
        if len(message) != 3 * self.side**2:
          raise cj.wire.FormatError(f'got {len(message)} bytes')
        pixels = np.frombuffer(message, np.uint8)
        return enlarge(pixels.reshape(self.side, self.side, 3))

  `encode` runs on the edge. `unpack` runs on the server's host and returns a
  picture, on which the server runs the image encoder; a codec that sends
  something else overrides `decode_unpacked` too. Evaluation, links, server,
  client and page use these methods alone, and the others have defaults.

  Attributes:
    model: The model; the edge uses its `img`, the server its `llm` too.
    split: Where the codec cuts the model, 'encoder' or 'head'; None if
      pictures are sent and the server runs the image encoder.
    uses_key: Whether another random key may give other messages.
    layers: Number of layers of a message, coarse to fine; see `unpack`.
    channel: Channel of a `Link`, else None.
  """

  model: paligemma.Model
  split: str | None = None
  uses_key: bool = False
  layers: int = 1
  channel: channels.Channel | None = None

  def __init_subclass__(cls, **kw: Any):
    """Guards classes of users; those of this package are left alone."""
    super().__init_subclass__(**kw)
    bases = [c for c in cls.__mro__ if c.__module__.startswith('collab_jax.')]
    # A class that overrides the whole would not be asked for the parts.
    for whole, part in _PARTS.items():
      if whole in vars(cls) and part not in vars(cls):
        setattr(cls, part, getattr(Codec, part))
    if bases == [Codec]:
      pictures = cls.decode_unpacked is Codec.decode_unpacked
      contract.guard(cls, pictures)

  def __post_init__(self):
    """Raises ValueError if a setting of a user's codec cannot be used."""
    _ = self.spec  # Checks them.

  @functools.cached_property
  def spec(self) -> Any:
    """`CodecSpec` of the codec: the settings without the model."""
    names = contract.parameters(type(self))
    items = [(name, getattr(self, name)) for name in names]
    return OwnCodecSpec(type(self), tuple(items))

  @functools.cached_property
  def name(self) -> str:
    """Canonical short name, unique among different settings."""
    return self.spec.name

  @functools.cached_property
  def settings(self) -> dict[str, Any]:
    """All settings as nested plain values, from which labels are made."""
    return {'codec': self.spec.path, **dict(self.spec.items)}

  @property
  def programs(self) -> Any:
    """Hashable key, equal for codecs that run the same compiled programs."""
    return self.name

  @functools.cached_property
  def vectors(self) -> int:
    """Number of vectors per image."""
    return self.model.config.vision.num_tokens

  @functools.cached_property
  def sent(self) -> int:
    """Number of vectors that reach the decoder; by default all."""
    return self.vectors

  @functools.cached_property
  def layout(self) -> transports.MessageLayout:
    """Fields and sizes of messages, which transports ask for."""
    return self.spec.layout(self.model.config)

  def describe(self) -> dict[str, Any]:
    """Returns the settings as flat plain values, for records and tables."""
    return self.settings

  @abc.abstractmethod
  def encode(
    self,
    images: Images,
    key: jax.Array,
    image_ids: Sequence[int] | None = None,
  ) -> list[Any]:
    """Turns pictures into messages: the edge.

    Args:
      images: Pictures of the model's size, 0..255.
      key: Random key; each image uses fold_in(key, its id).
      image_ids: Default 0..B-1.

    Returns:
      One message per picture.
    """

  @abc.abstractmethod
  def unpack(self, message: bytes) -> Any:
    """Checks a message and parses it on the host; on any thread.

    Args:
      message: A message, or its first layers.

    Returns:
      What `decode_unpacked` takes: by default a picture u8[H W 3] of the
      model's size.

    Raises:
      collab_jax.wire.FormatError: It is no message of this codec.
    """

  def encode_batch(
    self,
    images: Images,
    key: jax.Array,
    image_ids: Sequence[int] | None = None,
    cache: FeatureCache | None = None,
    pack: Callable[[Any], list[Any]] | None = None,
  ) -> Encoded:
    """Encodes a batch and times the stages.

    Args:
      images: As of `encode`.
      key: As of `encode`.
      image_ids: As of `encode`.
      cache: Features of these pictures, shared with other codecs.
      pack: Makes what is sent of what the codec would pack, or of its
        messages; a `Link` cuts them into packets.
    """
    del cache
    seconds: Seconds = {}
    with timed(seconds, 'encode'):
      sent = self.encode(images, key, image_ids)
    if pack is not None:
      with timed(seconds, 'pack'):
        sent = pack(sent)
    return Encoded(sent, seconds)

  def dispatch_encode(
    self,
    images: Images,
    key: jax.Array,
    image_ids: Sequence[int] | None = None,
    cache: FeatureCache | None = None,
    pack: Callable[[Any], list[Any]] | None = None,
  ) -> Callable[[], Encoded]:
    """Dispatches the device's part of `encode_batch`, and waits for nothing.

    Args:
      images: As of `encode_batch`.
      key: As of `encode_batch`.
      image_ids: As of `encode_batch`.
      cache: As of `encode_batch`; its clock times the device.
      pack: As of `encode_batch`.

    Returns:
      The host's part, for any thread. By default it is all of `encode_batch`,
      except on a mesh, whose programs one thread has to dispatch.
    """
    encode = functools.partial(
      self.encode_batch, images, key, image_ids, cache, pack
    )
    if sharding.mesh_of(self.model.params) is None:
      return encode
    encoded = encode()
    return lambda: encoded

  def pack(self, batch: Any) -> list[Any]:
    """Returns the messages of what `encode_batch` gives to its `pack`."""
    return batch

  def prefetch(self, images: Images, cache: FeatureCache) -> None:
    """Dispatches what `encode_batch` takes from a cache; here nothing."""
    del images, cache

  def transmit(
    self, message: Any, seed: int, image_id: int
  ) -> tuple[Any, transports.DeliveryStats | None]:
    """Sends a message; returns what arrives and, of a `Link`, statistics."""
    del seed, image_id
    return message, None

  def decode_unpacked(self, unpacked: Sequence[Any]) -> Decoded:
    """Decodes a batch of what `unpack` returned, all of equally many layers.

    By default these are pictures, on which the image encoder is run.
    """
    side = self.model.config.vision.image_size
    pictures = np.asarray(unpacked, np.uint8).reshape(-1, side, side, 3)
    return Decoded(encoder.picture_prefix(self.model, pictures))

  def decode_batch(self, data: Sequence[Any]) -> Decoded:
    """Decodes a batch of messages; of a `Link`, of what arrived."""
    return self.decode_unpacked([self.unpack(message) for message in data])

  def prepare_decode(self, data: Sequence[Any]) -> Callable[[], Decoded]:
    """Does the host's part of `decode_batch`, on any thread.

    Args:
      data: As of `decode_batch`.

    Returns:
      The device's part, which waits for nothing. By default that is
      `decode_unpacked`, or all of a `decode_batch` that a class overrides.
    """
    if type(self).decode_batch is not Codec.decode_batch:
      return functools.partial(self.decode_batch, data)
    unpacked = [self.unpack(message) for message in data]
    return functools.partial(self.decode_unpacked, unpacked)

  def decode(self, data: Sequence[Any]) -> messages.Prefix:
    """Turns messages into what the captioner reads: the server.

    Args:
      data: Messages of this codec.

    Returns:
      The prefix at the decoder's width.

    Raises:
      collab_jax.wire.FormatError: A message is damaged, or another codec's.
      TypeError: It is one message, and no list of them.
      ValueError: None of the messages arrived over a link.
    """
    if isinstance(data, bytes | bytearray):
      raise TypeError('data: got bytes, expected a list of messages; [message]')
    prefix = self.decode_batch(data).prefix
    if prefix is None:
      raise ValueError(f'{self.name}: got no message, expected one or more')
    return prefix

  def layers_of(self, unpacked: Any) -> int:
    """Returns how many layers an unpacked message has."""
    del unpacked
    return self.layers

  def split_layers(self, message: bytes) -> list[bytes]:
    """Splits a message into its layers; the first L are a message too."""
    return [message]

  def decodes_layers(self, layers: int) -> bool:
    """Returns whether messages of only the first `layers` can be decoded."""
    return layers == self.layers

  def blank(self, layers: int | None = None) -> Any:
    """Returns an unpacked message of a black picture, to compile with.

    Args:
      layers: How many layers it has; None for all.
    """
    del layers
    return self.unpack(self.encode(self._black(1), random_keys.make(0))[0])

  def warm_up(self, batch_size: int) -> messages.Prefix:
    """Compiles what a batch needs by running it on black pictures.

    Args:
      batch_size: Number of pictures that will come at a time.

    Returns:
      A prefix, for the captioner to compile too.
    """
    return self.decode(self.pack(self.blank_batch(batch_size)))

  def blank_batch(self, batch_size: int) -> Any:
    """Returns a batch of black pictures as `pack` takes it."""
    return self.encode(self._black(batch_size), random_keys.make(0))

  def sizes(self, message: Any) -> dict[str, int]:
    """Returns the bytes of a message by field; they add up to its length."""
    return {'message': len(message)}

  def picture(self, message: bytes) -> UInt8[np.ndarray, 'H W 3'] | None:
    """Returns the picture that a message holds; None if it holds none."""
    unpacked = self.unpack(message)
    # A codec that is decoded otherwise may unpack arrays of anything else.
    side = self.model.config.vision.image_size
    is_picture = (
      self.split is None
      and isinstance(unpacked, np.ndarray)
      and unpacked.dtype == np.uint8
      and unpacked.shape == (side, side, 3)
    )
    return unpacked if is_picture else None

  def description(self) -> Mapping[str, Any]:
    """Returns what both ends must have in common, for the handshake.

    Plain values: 'format', 'version' and 'spec', which names the codec.
    """
    return {
      'format': 'collab_jax.codec',
      'version': 1,
      'spec': {
        'codec': 'own',
        'name': self.name,
        'size': self.model.config.vision.image_size,
        'model': fingerprint.architecture(self.model.config.vision),
      },
    }

  def to_json(self) -> str:
    """Returns the description and its digest, as the edge sends them."""
    plain = dict(self.description())
    return json.dumps({**plain, 'digest': self.digest.hex()})

  @functools.cached_property
  def digest(self) -> bytes:
    """SHA-256 of the description."""
    return session_json.digest(self.description())

  @property
  def encoder_fingerprint(self) -> str:
    """Fingerprint of the image encoder that the edge runs; '' for none."""
    return ''

  def _black(self, batch_size: int) -> np.ndarray:
    side = self.model.config.vision.image_size
    return np.zeros((batch_size, side, side, 3), np.uint8)


_PARTS = {'encode_batch': 'dispatch_encode', 'decode_batch': 'prepare_decode'}


class CodecSpec(abc.ABC):
  """Settings of a codec, checked without a model and bound to one once.

  Specs are frozen dataclasses of plain values; `collab_jax.codecs.parse` makes
  them from text.

  Attributes:
    needs_weights: Whether the edge needs the image encoder's weights.
    family: 'feature', 'image' or 'own', as in descriptions of sessions.
  """

  needs_weights: bool = True
  family: ClassVar[str] = 'own'

  @property
  @abc.abstractmethod
  def name(self) -> str:
    """The codec's canonical name."""

  @property
  def uses_key(self) -> bool | None:
    """`Codec.uses_key`; None where only the bound codec knows it."""
    return None

  @property
  def session_name(self) -> str:
    """Name in descriptions of sessions, without split and local files."""
    return self.name

  @property
  def server_encodes(self) -> bool:
    """Whether the server runs the image encoder, on the pictures sent."""
    return True

  @abc.abstractmethod
  def bind(self, model: paligemma.Model) -> Codec:
    """Returns the codec of a model.

    Raises:
      ValueError: The settings do not fit the model.
    """

  def layout(self, config: paligemma.Config) -> transports.MessageLayout:
    """Returns fields and sizes of the codec's messages.

    Args:
      config: The model's dimensions.

    Raises:
      ValueError: The settings do not fit the dimensions.
    """
    del config
    return transports.MessageLayout(self.name)

  def validate(
    self,
    config: paligemma.Config,
    load_encoder: Callable[[], paligemma.Model] | None = None,
  ) -> 'CodecSpec':
    """Checks that the codec fits a model, before its weights are loaded.

    Args:
      config: The model's dimensions.
      load_encoder: Returns the model, of which only the image encoder is
        looked at; called if pretrained parameters say whose features they are
        for. None leaves that to `bind`.

    Returns:
      The spec, without settings that change nothing for this model.

    Raises:
      ValueError: It sends more vectors, numbers or pixels than there are, or
        pretrained parameters are missing, damaged, or for something else.
    """
    del load_encoder
    self.layout(config)
    return self


@dataclasses.dataclass(frozen=True)
class OwnCodecSpec(CodecSpec):
  """Settings of a codec of one's own, a subclass of `Codec`.

  Attributes:
    cls: The class, which is called as `cls(model, **settings)`.
    items: Names and values of the settings, in the order of its arguments.
  """

  cls: type[Codec]
  items: tuple[tuple[str, Any], ...] = ()

  def __post_init__(self):
    """Raises ValueError if class or settings cannot be used."""
    contract.check_settings(self.cls, dict(self.items))

  @property
  def path(self) -> str:
    """Module and name of the class: 'package.module:Class'."""
    return contract.path(self.cls)

  @property
  def name(self) -> str:
    """The codec's canonical name; settings at their defaults are left out."""
    defaults = contract.parameters(self.cls)
    changed = [(n, v) for n, v in self.items if v != defaults[n].default]
    settings = ','.join(f'{name}={value}' for name, value in changed)
    return f'{self.path}({settings})' if changed else self.path

  @property
  def uses_key(self) -> bool | None:
    """`Codec.uses_key` of the class, if it is not of each codec."""
    value = self.cls.uses_key
    return value if isinstance(value, bool) else None

  @property
  def server_encodes(self) -> bool:
    """Whether the server runs the image encoder; not behind a split."""
    return not isinstance(dict(self.items).get('split', self.cls.split), str)

  def bind(self, model: paligemma.Model) -> Codec:
    """Returns the codec of a model."""
    make: Any = self.cls
    return make(model, **dict(self.items))

  @classmethod
  def make(
    cls, codec: type[Codec], settings: Mapping[str, Any]
  ) -> 'OwnCodecSpec':
    """Makes a spec of settings as `config.call` reads them.

    Args:
      codec: The class.
      settings: Its arguments behind the model.

    Raises:
      ValueError: It has no such setting, or lacks one.
    """
    parameters = contract.parameters(codec)
    path = contract.path(codec)
    for name in settings:
      if name not in parameters:
        raise _validate.unknown(f'setting of {path}', name, parameters)
    for name, parameter in parameters.items():
      if parameter.default is parameter.empty and name not in settings:
        raise ValueError(f'{name} of {path}: got none, expected a value')
    items = [
      (name, contract.convert(parameter, settings[name]))
      for name, parameter in parameters.items()
      if name in settings
    ]
    return cls(codec, tuple(items))


def check_codec(name: str, codec: Any) -> None:
  """Raises TypeError unless an argument is a codec that is bound to a model.

  Args:
    name: The argument.
    codec: Its value.
  """
  if hasattr(codec, 'encode_batch') and not isinstance(codec, type):
    return
  text = codec if isinstance(codec, str) else '...'
  do = f'make one by cj.FeatureCodec(model, {text!r})'
  if isinstance(codec, CodecSpec):
    do = 'bind it to a model by `bind(model)`'
  raise _validate.error(name, codec, 'a codec', do, TypeError)
