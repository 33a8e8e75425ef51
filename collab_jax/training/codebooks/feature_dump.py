"""Collects the vectors that a quantizer sends, over a dataset."""

import functools
import os
import pathlib
from typing import Any, cast

import jax
from jax import numpy as jnp
from jaxtyping import Float
import numpy as np
import tqdm

from collab_jax import codecs, distributed, random_keys, sharding
from collab_jax import message as messages
from collab_jax.models import paligemma
from collab_jax.training import batches


class FeatureDump:
  """Encoder and a quantizer that sends floats, to collect vectors with.

  Attributes:
    quantizer: A quantizer that sends vectors in float32, such as
      'merge(k=6,centroids=identity(dtype=float32))', or 'identity(...)' for
      all of them.
    codec: Model, quantizer and split.
    field: Name of the field that holds the vectors.
    rows: Vectors per picture.
  """

  def __init__(self, model: paligemma.Model, quantizer: str, split: str):
    """Finds the field of the vectors.

    Raises:
      ValueError: The quantizer does not send vectors in float32, and nothing
        else in floats.
    """
    self.codec = codecs.FeatureCodec(model, quantizer, split)
    self.quantizer = self.codec.quantizer
    floats = [
      (name, field)
      for name, field in self.codec.fields.items()
      if isinstance(field, messages.Values)
    ]
    if len(floats) != 1 or floats[0][1].dtype != 'float32':
      raise ValueError(
        f'sent: got {quantizer!r}, expected a quantizer that sends vectors in'
        " float32, such as 'merge(k=6,centroids=identity(dtype=float32))'"
      )
    self.field, (self.rows, _) = floats[0][0], floats[0][1].shape

  def gradients(
    self, message: dict[str, np.ndarray], texts: dict[str, np.ndarray]
  ) -> np.ndarray:
    """Differentiates the captions' loss by the vectors, f32[B m d]."""
    model, split = self.codec.model, self.codec.split
    params = self.codec.params
    batch = sharding.rows((message, texts), model.params)
    gradients = _gradients(
      self.quantizer, split, self.field, params, model, *batch
    )
    return sharding.fetch(sharding.settle(gradients, model.params))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _gradients(quantizer, split, field, params, model, message, texts):
  def loss(values):
    dequantize = jax.vmap(quantizer.dequantize, in_axes=(None, 0))
    tokens = dequantize(params, {**message, field: values})
    x = tokens.x if split == 'head' else model.project(tokens.x)
    prefix = messages.Prefix(x, *tokens[1:])
    inputs = texts['tokens'][:, :-1], texts['mask_ar'][:, :-1]
    logits = model.logits(prefix, *inputs)
    scores = jax.nn.log_softmax(logits.astype(jnp.float32))
    targets = jnp.take_along_axis(scores, texts['tokens'][:, 1:, None], 2)
    return -jnp.sum(targets[..., 0] * texts['mask_loss'][:, 1:])

  return jax.grad(loss)(message[field])


def collect(
  model: paligemma.Model,
  reader: Any,
  config: Any,
  path: str | os.PathLike[str],
) -> tuple[Float[np.ndarray, 'count d'], Float[np.ndarray, 'd d'] | None]:
  """Writes the vectors of all pictures into a file, in the pictures' order.

  Of several processes each encodes the rows of its devices, and the first
  writes.

  Args:
    model: The model.
    reader: Pictures, with captions for the metric 'gradient'.
    config: From configs/codebook.py.
    path: An npy file, float32[count, d]; it is read back as it is needed, so
      that a million vectors take no memory.

  Returns:
    The file as an array, empty in other processes than the first; and the mean
    outer product of the captions' gradients by the vectors, None unless
    config.metric is 'gradient'.
  """
  sources = [FeatureDump(model, text, config.split) for text in config.sent]
  width = sources[0].codec.width
  per_picture = sum(source.rows for source in sources)
  count = per_picture * len(reader)
  vectors = _open_vectors(pathlib.Path(path), count, width)
  moments = np.zeros((width, width)) if config.metric == 'gradient' else None
  tokenizer = cast(Any, model.tokenizer)
  tokenize = functools.partial(
    batches.text, tokenizer, config.prompt, length=config.text_length
  )
  size = sharding.padded(config.batch_size, model.params)
  starts = range(0, len(reader), size)
  done, summed = 0, 0
  is_first = distributed.is_first()
  bar = tqdm.tqdm(starts, unit='batch', desc='vectors', disable=not is_first)
  for start in bar:
    stop = min(start + size, len(reader))
    indices = _process_indices(model, start, stop, size)
    examples = [reader[i] for i in indices]
    images = np.stack([e.image for e in examples])
    ids = [e.image_id for e in examples]
    features = sources[0].codec.features(images)
    for source in sources:
      message = source.codec.quantize(
        features, random_keys.make(config.seed), ids
      )
      rows = _of_all(model, message[source.field])[: stop - start]
      rows = rows.reshape(-1, width)
      if is_first:
        vectors[done : done + len(rows)] = rows
      done += len(rows)
      if moments is None:
        continue
      texts = [tokenize(e.captions[0]) for e in examples]
      stacked = {k: np.stack([t[k] for t in texts]) for k in texts[0]}
      gradients = _of_all(model, source.gradients(message, stacked))
      gradients = gradients[: stop - start].reshape(-1, width)
      gradients = gradients.astype(np.float64)
      moments += gradients.T @ gradients
      summed += len(gradients)
  if is_first:
    cast(np.memmap, vectors).flush()
  return vectors, None if moments is None else moments / max(summed, 1)


def _open_vectors(path: pathlib.Path, count: int, width: int) -> np.ndarray:
  """Makes the file of the vectors; nothing in processes that write none."""
  if not distributed.is_first():
    return np.empty((0, width), np.float32)
  path.parent.mkdir(parents=True, exist_ok=True)
  return np.lib.format.open_memmap(path, 'w+', np.float32, (count, width))


def _process_indices(
  model: paligemma.Model, start: int, stop: int, size: int
) -> list[int]:
  """Returns the pictures of a batch that this process reads."""
  mesh = sharding.mesh_of(model.params)
  if not sharding.spans_processes(mesh):
    return [*range(start, stop)]
  rows = sharding.process_rows(mesh, size)
  return np.minimum(start + rows, stop - 1).tolist()


def _of_all(model: paligemma.Model, rows: np.ndarray) -> np.ndarray:
  """Returns the rows of all processes, in the order of the pictures."""
  if not sharding.spans_processes(sharding.mesh_of(model.params)):
    return rows
  return sharding.gather(sharding.rows(rows, model.params))
