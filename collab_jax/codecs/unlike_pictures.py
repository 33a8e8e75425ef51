"""Warning of pictures unlike those that a model was trained on."""

import functools

from absl import logging

from collab_jax.codecs import fingerprint
from collab_jax.models import feature_statistics, paligemma


def statistics_of(
  model: paligemma.Model,
) -> feature_statistics.FeatureStatistics | None:
  """Returns the statistics of a model's features; None if there are none.

  Those of another image encoder, which training may have left, do not count.
  """
  statistics = model.statistics
  if statistics is None or not fingerprint.has_encoder(model):
    return None
  same = statistics.encoder == fingerprint.encoder_fingerprint(model)
  return statistics if same else None


def describe(model: paligemma.Model) -> str:
  """Returns the warning about a picture, for users; '' without statistics."""
  if model.statistics is None:
    return ''
  return (
    f'this picture is unlike {model.statistics.pictures} that the'
    f' {model.config.name} model knows: captions and answers about it mean'
    ' nothing'
  )


def warn(model: paligemma.Model) -> None:
  """Logs the warning, once in a process for each model."""
  _warn_once(describe(model))


@functools.cache
def _warn_once(text: str) -> None:
  logging.warning('%s', text)
