"""Number of programs of an evaluation, known before they are compiled."""

from collections.abc import Sequence
from typing import Any

import jax

from collab_jax import captioner, codecs, wire
from collab_jax import message as messages


def count(bound: Sequence[codecs.Codec], vectors: int, blind: bool) -> int:
  """Counts the programs that an evaluation compiles; small ones are left out.

  The encoder for each split, and for each set of outputs that quantizers take;
  the two ends of quantizers, which those of one bucket of k share; captions,
  for each length of a padded prefix.

  Args:
    bound: Codecs and links.
    vectors: Number of vectors of a picture.
    blind: Whether there are blind baselines, which caption all vectors.
  """
  inner = [c.codec if isinstance(c, codecs.Link) else c for c in bound]
  features = [c for c in inner if isinstance(c, codecs.FeatureCodec)]
  lengths: set[int] = set()
  encoders: set[Any] = set()
  if blind or len(features) < len(inner):
    lengths.add(vectors)
    encoders.add('encoder')
  ends: set[Any] = set()
  for codec in features:
    sender, receiver, split = codec.programs
    aux_inputs = codec.quantizer.aux_inputs
    encoders |= {split, (split, aux_inputs)} if aux_inputs else {split}
    ends.add(('quantize', sender, split, aux_inputs))
    end = 'rebuild', receiver, split, aux_inputs
    if end not in ends:
      ends.add(end)
      lengths.add(_rebuilt_vectors(receiver, codec))
  padded = {length + captioner.padding(length) for length in lengths}
  return len(encoders) + len(ends) + len(padded)


def _rebuilt_vectors(quantizer: Any, codec: codecs.FeatureCodec) -> int:
  """Returns the number of vectors that a quantizer rebuilds."""
  fields = quantizer.fields(codec.vectors, codec.width)
  message = {
    name: jax.ShapeDtypeStruct(
      field.shape,
      'int32'
      if isinstance(field, messages.Symbols)
      else wire.DTYPES[field.dtype],
    )
    for name, field in fields.items()
  }
  tokens = jax.eval_shape(quantizer.dequantize, codec.params, message)
  return tokens.x.shape[0]
