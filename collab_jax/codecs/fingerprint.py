"""Fingerprints of image encoders, which tell both ends their weights agree."""

import dataclasses
import functools
import hashlib
import json
import math
from pathlib import Path

import jax
from jax import numpy as jnp
import numpy as np

from collab_jax import quantizers, sharding
from collab_jax.models import paligemma, siglip, zoo

# Numbers of each weight that are hashed.
_SAMPLES = 64

# Dimensions that decide which pictures and features a model takes.
_DIMENSIONS = (
  *('image_size', 'patch_size', 'width', 'depth', 'num_heads', 'mlp_dim'),
  'out_dim',
)
_TINY = Path(__file__).parents[1] / 'assets' / 'tiny' / 'config.json'


def has_encoder(model: paligemma.Model) -> bool:
  """Returns whether a model has an image encoder; a server's half has none."""
  return bool(model.params.get('img', {}).keys() - {'head'})


def architecture(vision: siglip.VisionConfig) -> str:
  """Returns the name of an image encoder's dimensions, for descriptions.

  It says the same of equal models in folders of any names: that of the first
  known model with such dimensions, else the dimensions themselves. Fingerprints
  tell the weights apart.

  Args:
    vision: The image encoder's dimensions.
  """
  dimensions = tuple(getattr(vision, name) for name in _DIMENSIONS)
  known = _known_architectures().get(dimensions)
  return known or f'siglip-{"-".join(map(str, dimensions))}'


@functools.cache
def _known_architectures() -> dict[tuple[int, ...], str]:
  """Returns the names of known models by their encoder's dimensions."""
  configs = [zoo.card(name).config for name in zoo.NAMES]
  if _TINY.exists():
    configs.append(paligemma.Config.from_dict(json.loads(_TINY.read_text())))
  by_dimensions: dict[tuple[int, ...], str] = {}
  for config in configs:
    values = dataclasses.asdict(config.vision)
    dimensions = tuple(values[name] for name in _DIMENSIONS)
    by_dimensions.setdefault(dimensions, config.name)
  return by_dimensions


def encoder_fingerprint(model: paligemma.Model) -> str:
  """Returns a fingerprint of the image encoder and the projection.

  Args:
    model: The model, or its part for the edge.

  Returns:
    The first 16 hexadecimal digits of SHA-256; '' if there is no encoder.
  """
  if not has_encoder(model):
    return ''
  digest = hashlib.sha256()
  leaves = jax.tree_util.tree_leaves_with_path(
    siglip.with_stacked_names(model.params['img']),
    is_leaf=lambda x: isinstance(x, tuple),
  )
  for path, leaf in leaves:
    # Equal for stacked and separate layers, in bfloat16 and in float32.
    separate = isinstance(leaf, tuple)
    shape = (len(leaf), *leaf[0].shape) if separate else leaf.shape
    step = max(1, math.prod(shape) // _SAMPLES)
    values = [
      sharding.sample(layer, step, -i * layer.size % step)
      for i, layer in enumerate(leaf if separate else (leaf,))
    ]
    digest.update(f'{jax.tree_util.keystr(path)}{shape}'.encode())
    digest.update(np.concatenate(values).astype(jnp.bfloat16).tobytes())
  return digest.hexdigest()[:16]


def features_of(
  model: paligemma.Model, split: str
) -> quantizers.pretrained.FeatureSource:
  """Returns the features that pretrained parameters of a model are for.

  Args:
    model: The model, with its image encoder.
    split: 'encoder' or 'head'.
  """
  return quantizers.pretrained.FeatureSource(encoder_fingerprint(model), split)
