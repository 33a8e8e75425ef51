"""Passes of a batch: through a codec, or through the blind baselines."""

from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from collab_jax import captioner as captioning
from collab_jax import codecs as codecs_lib
from collab_jax import distributed, random_keys, sharding
from collab_jax.codecs import base
from collab_jax.codecs.transports import base as transports
from collab_jax.evaluation import (
  batches,
  blind,
  message_cache,
  recorder,
  texts,
)


@jax.jit
def mean_squared_error(
  rebuilt: Float[Array, 'B N D'], features: Float[Array, 'B N D']
) -> Float[Array, ' B']:
  """Returns the mean squared error per number, one per image."""
  return jnp.mean(jnp.square(rebuilt - features), axis=(1, 2))


class _Transmitted(NamedTuple):
  """Batch behind its channel.

  Attributes:
    encoded: Messages, seconds and features.
    stats: Statistics of each message; None without a channel.
    rebuild: The device's part of decoding what arrived.
    edge_seconds: Seconds of the edge's stages.
  """

  encoded: base.Encoded
  stats: Sequence[transports.DeliveryStats | None]
  rebuild: Callable[[], base.Decoded]
  edge_seconds: dict[str, float]


class _Captioned(NamedTuple):
  """Batch behind the captioner, on the device.

  Attributes:
    arrived: False for a message that is lost or unreadable.
    rows: Share of each message's vectors that arrived.
    written: Texts of the pictures; None if no message arrived.
    lost: Texts of pictures whose message did not, of a grey picture; None if
      all arrived.
    errors: f32[B], distortions; None where the grid is not rebuilt.
    seconds: Functions that wait for the seconds of a stage.
  """

  arrived: Sequence[bool]
  rows: Sequence[float]
  written: Sequence[texts.Chunk] | None
  lost: Sequence[texts.Chunk] | None
  errors: Array | None
  seconds: dict[str, Callable[[], float]]


class CodecPass:
  """Pass of a batch through a codec: encoded, sent, decoded and captioned.

  Of a task, each question about a picture is answered instead: the picture is
  encoded and sent once. A message that is lost or unreadable gets the caption
  of a grey picture: the server has seen nothing.

  Attributes:
    batch: The pictures.
  """

  def __init__(
    self,
    codec: base.Codec,
    seed: int,
    batch: batches.Batch,
    cache: base.FeatureCache,
    captioner: captioning.Captioner,
    records: recorder.Recorder,
    host: futures.Executor,
    kept: message_cache.MessageCache | None = None,
  ):
    """Binds a pass.

    Args:
      codec: A codec or a link.
      seed: Of the quantizer, the channel and the captions.
      batch: The pictures.
      cache: Their features, shared with other codecs; its clock times all.
      captioner: Writes the captions.
      records: Makes the records.
      host: Runs the host's part.
      kept: Messages of earlier evaluations, which are sent again.
    """
    self._kept = kept
    self._known = None if kept is None else kept.get(codec.name, seed, batch)
    self._codec = codec
    self._seed = seed
    self.batch = batch
    self._cache = cache
    self._captioner = captioner
    self._recorder = records
    self._host = host
    one_device = sharding.mesh_of(captioner.model.params) is None
    self._own_stream = one_device and jax.default_backend() == 'cpu'
    self._transmitted: futures.Future[_Transmitted]
    self._records: futures.Future[list[dict[str, Any]]]

  def encode(self) -> None:
    """Dispatches the encoder; a thread packs, sends and unpacks."""
    if (known := self._known) is not None:
      seconds = dict(known.seconds)
      encoded = base.Encoded(known.messages, seconds, None, known.unlike)
      self._transmitted = self._host.submit(self._transmit, lambda: encoded)
      return
    batch, key = self.batch, random_keys.make(self._seed)
    finish = self._codec.dispatch_encode(
      batch.images, key, batch.padded_ids, self._cache
    )
    self._transmitted = self._host.submit(self._transmit, finish)

  def _transmit(self, finish: Callable[[], base.Encoded]) -> _Transmitted:
    encoded = finish()
    edge_seconds = dict(encoded.seconds)
    ids = self.batch.ids
    sent = encoded.messages[: len(ids)]
    deliveries = [
      self._codec.transmit(message, self._seed, image_id)
      for message, image_id in zip(sent, ids, strict=True)
    ]
    # All rows of a process may be padding, which nothing was lost of.
    received = [message for message, _ in deliveries] or encoded.messages[:1]
    received += received[-1:] * (len(self.batch.images) - len(received))
    with base.timed(encoded.seconds, 'decode'):
      rebuild = self._codec.prepare_decode(received)
    stats = [stats for _, stats in deliveries]
    return _Transmitted(encoded, stats, rebuild, edge_seconds)

  def decode(self) -> None:
    """Dispatches rebuilding and captions; a thread makes the records.

    A single CPU runs the programs of a thread one after the other, and its
    cores are not busy then: there the thread dispatches them itself.
    """
    sent = self._transmitted.result()
    del self._transmitted
    if self._own_stream:
      self._records = self._host.submit(
        lambda: self._make_records(*self._caption(sent))
      )
    else:
      captioned = self._caption(sent)
      self._records = self._host.submit(self._make_records, *captioned)

  def _caption(self, sent: _Transmitted):
    """Dispatches rebuilding and captions."""
    clock = self._cache.clock
    dispatch = clock.dispatch_beside if self._own_stream else clock.dispatch
    seconds, batch = {}, self.batch
    decoded, seconds['decode'] = dispatch(sent.rebuild)
    params = self._captioner.model.params
    errors, _ = dispatch(
      lambda: sharding.settle(_errors(sent.encoded, decoded), params)
    )
    arrived, written, lost = (
      decoded.arrived or [True] * len(batch.images),
      None,
      None,
    )
    if (prefix := decoded.prefix) is not None:
      written, seconds['caption'] = dispatch(
        lambda: self._write(prefix, arrived)
      )
    # Others may have lost what arrived here: all run the same programs.
    spans = sharding.spans_processes(sharding.mesh_of(params))
    if not all(arrived) or (spans and self._codec.channel is not None):
      lost, _ = dispatch(lambda: self._write_unseen(arrived))
    rows = decoded.rows or [1.0] * len(arrived)
    captioned = _Captioned(arrived, rows, written, lost, errors, seconds)
    encoded = sent.encoded._replace(features=None)  # Their memory is free.
    return sent._replace(encoded=encoded), captioned

  def _write(self, prefix: Any, arrived: Sequence[bool]) -> list[texts.Chunk]:
    """Dispatches the texts of all pictures that arrived."""
    batch = self.batch
    if self._recorder.task is None:
      return texts.dispatch_captions(
        self._captioner, prefix, self._seed, batch.padded_ids
      )
    asked = [
      texts.AskedPicture(
        int(batch.rows[i]),
        example.image_id,
        example.questions if arrived[i] else (),
      )
      for i, example in enumerate(batch.examples)
    ]
    size = len(batch.padded_ids)
    return texts.dispatch_answers(
      self._captioner, prefix, self._seed, asked, size
    )

  def _write_unseen(self, arrived: Sequence[bool]) -> list[texts.Chunk]:
    """Dispatches the texts of pictures that did not arrive."""
    if self._recorder.task is None:
      return self._recorder.grey_caption(self._seed)
    asked = [
      texts.AskedPicture(
        0, example.image_id, () if arrived[i] else example.questions
      )
      for i, example in enumerate(self.batch.examples)
    ]
    size = len(self.batch.padded_ids)
    return texts.dispatch_answers(
      self._captioner, self._recorder.grey_prefix(), self._seed, asked, size
    )

  def _fetch(self, captioned: _Captioned) -> list[list[str]]:
    """Waits for the texts of each picture."""
    examples = self.batch.examples
    asks = self._recorder.task is not None
    counts = [len(e.questions) if asks else 1 for e in examples]
    written = texts.fetch(self._captioner, captioned.written or (), counts)
    if captioned.lost is None:
      return written
    if asks:
      unseen = texts.fetch(self._captioner, captioned.lost, counts)
    else:
      unseen = texts.fetch(self._captioner, captioned.lost, [1]) * len(counts)
    return [
      written[i] if captioned.arrived[i] else unseen[i]
      for i in range(len(counts))
    ]

  def _distortions(
    self, sent: _Transmitted, captioned: _Captioned
  ) -> Sequence[float | None]:
    """Returns the distortions of the batch, and keeps its messages."""
    if self._known is not None:
      return self._known.distortions
    distortions: Sequence[float | None] = [None] * len(self.batch.images)
    if captioned.errors is not None:
      errors = sharding.fetch(captioned.errors).tolist()
      # Rounding noise follows.
      distortions = [float(f'{error:.6g}') for error in errors]
    if self._kept is not None:
      encoded = sent.encoded
      kept = message_cache.SentBatch(
        encoded.messages, sent.edge_seconds, encoded.unlike, distortions
      )
      self._kept.put(self._codec.name, self._seed, self.batch, kept)
    return distortions

  def _make_records(self, sent: _Transmitted, captioned: _Captioned):
    encoded, stats = sent.encoded, sent.stats
    seconds = encoded.seconds
    for stage, wait in captioned.seconds.items():
      seconds[stage] = seconds.get(stage, 0.0) + wait()
    with base.timed(seconds, 'detokenize'):
      written = self._fetch(captioned)
    detokenize = seconds.pop('detokenize')
    if captioned.written is not None:
      seconds['caption'] += detokenize
    distortions = self._distortions(sent, captioned)
    common = self._recorder.common(
      self._codec, self._seed, seconds, self.batch.size
    )
    records = []
    for i in np.flatnonzero(self.batch.owned).tolist():
      example = self.batch.examples[i]
      arrived = captioned.arrived[i]
      made = self._recorder.records(
        example,
        common,
        written[i],
        self._codec.sizes(encoded.messages[i]),
        distortions[i] if arrived else None,
        bool(encoded.unlike is not None and encoded.unlike[i]),
      )
      if (delivery := stats[i]) is not None:
        link = recorder.link(delivery, arrived, captioned.rows[i])
        made = [{**record, 'link': link} for record in made]
      records += made
    return records

  def records(self) -> list[dict[str, Any]]:
    """Returns a record per picture or question, without the padding.

    Of several processes the first returns them all, and the others none.
    """
    return distributed.collect(self._records.result())


def _errors(encoded: base.Encoded, decoded: base.Decoded) -> Array | None:
  """Returns the error of each image; None where the grid is not rebuilt."""
  features, tokens = encoded.features, decoded.tokens
  if features is None or tokens is None or tokens.x.shape != features.shape:
    return None
  return mean_squared_error(tokens.x, features)


class BlindPass:
  """Pass of a batch through the blind baselines, whose records come last.

  Attributes:
    batch: The pictures.
  """

  def __init__(
    self,
    baselines: blind.Blind,
    identity: codecs_lib.FeatureCodec,
    batch: batches.Batch,
    cache: base.FeatureCache,
  ):
    """Binds a pass; `identity` gives the features before the projection."""
    self._baselines = baselines
    self._identity = identity
    self.batch = batch
    self._cache = cache
    self._dispatched: blind.Dispatched

  def encode(self) -> None:
    """Dispatches the encoder, for features that no other pass took."""
    self._identity.prefetch(self.batch.images, self._cache)

  def decode(self) -> None:
    """Dispatches captions of all vectors."""
    (features, _), _ = self._identity.dispatch_observe(
      self.batch.images, self._cache
    )
    self._dispatched, _ = self._cache.clock.dispatch(
      lambda: self._baselines.dispatch(features, self.batch)
    )

  def records(self) -> list[dict[str, Any]]:
    """Adds the batch to the baselines; returns nothing."""
    self._baselines.add(self._dispatched, self.batch)
    return []
