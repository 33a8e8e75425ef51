"""Quantizers turn the vectors of one image into a message, and back."""

from collections.abc import Mapping
import dataclasses
from typing import TYPE_CHECKING, Any, cast

from collab_jax import _renamed, _validate, config, registry
from collab_jax.quantizers import pretrained
from collab_jax.quantizers.base import (
  Quantizer,
  QuantizerLike,
  as_quantizer,
  full_grid,
  straight_through,
)
from collab_jax.quantizers.clusters.adaptive import Adaptive, error_for
from collab_jax.quantizers.clusters.agglomerative import Agglomerative
from collab_jax.quantizers.clusters.avg_pool import AvgPool
from collab_jax.quantizers.clusters.base import Clustering
from collab_jax.quantizers.clusters.bisecting import Bisecting
from collab_jax.quantizers.clusters.dpc_knn import DpcKnn
from collab_jax.quantizers.clusters.kmeans import KMeans
from collab_jax.quantizers.clusters.low_rank import LowRank
from collab_jax.quantizers.clusters.low_resolution import LowResolution
from collab_jax.quantizers.clusters.medoids import Medoids
from collab_jax.quantizers.clusters.packed import Packed
from collab_jax.quantizers.clusters.spatial import Spatial
from collab_jax.quantizers.clusters.spherical import Spherical
from collab_jax.quantizers.clusters.tome import ToMe
from collab_jax.quantizers.clusters.visionzip import VisionZip
from collab_jax.quantizers.clusters.weighted_kmeans import WeightedKMeans
from collab_jax.quantizers.pretrained import QuantizerParamsError
from collab_jax.quantizers.selectors.base import Selection
from collab_jax.quantizers.selectors.max_min import DivPrune, FarthestPoint
from collab_jax.quantizers.selectors.simple import Random, TopNorm
from collab_jax.quantizers.transforms.base import TransformWrapper
from collab_jax.quantizers.transforms.pca import PCA
from collab_jax.quantizers.transforms.position_mean import PositionMean
from collab_jax.quantizers.vectors.ecsq import ECSQ
from collab_jax.quantizers.vectors.ecvq import ECVQ
from collab_jax.quantizers.vectors.fsq import FSQ
from collab_jax.quantizers.vectors.identity import Identity
from collab_jax.quantizers.vectors.scalar import Scalar
from collab_jax.quantizers.vectors.vq import ProductVQ, ResidualVQ, SharedVQ

__all__ = [
  'ALIASES',
  'ECSQ',
  'ECVQ',
  'FSQ',
  'NAMES',
  'PCA',
  'Adaptive',
  'Agglomerative',
  'AvgPool',
  'Bisecting',
  'Clustering',
  'DivPrune',
  'DpcKnn',
  'FarthestPoint',
  'Identity',
  'KMeans',
  'LowRank',
  'LowResolution',
  'Medoids',
  'Packed',
  'PositionMean',
  'ProductVQ',
  'Quantizer',
  'QuantizerLike',
  'QuantizerParamsError',
  'Random',
  'ResidualVQ',
  'Scalar',
  'Selection',
  'SharedVQ',
  'Spatial',
  'Spherical',
  'ToMe',
  'TopNorm',
  'TransformWrapper',
  'VisionZip',
  'WeightedKMeans',
  'as_quantizer',
  'describe',
  'error_for',
  'full_grid',
  'make',
  'name',
  'pretrained',
  'settings',
  'straight_through',
]
__dir__ = __all__.copy

if not TYPE_CHECKING:  # Unknown names are errors to type checkers.
  __getattr__ = _renamed.module_getattr(__name__)

NAMES: dict[str, type] = {
  'identity': Identity,
  'kmeans': KMeans,
  'merge': Agglomerative,
  'adaptive': Adaptive,
  'low_rank': LowRank,
  'packed': Packed,
  'centred': PositionMean,
  'random': Random,
  'pool': AvgPool,
  'resized': LowResolution,
  'top_norm': TopNorm,
  'farthest_point': FarthestPoint,
  'attended': VisionZip,
  'bisecting': Bisecting,
  'divprune': DivPrune,
  'dpc_knn': DpcKnn,
  'medoids': Medoids,
  'salient': WeightedKMeans,
  'spatial': Spatial,
  'spherical': Spherical,
  'tome': ToMe,
  'pca': PCA,
  'scalar': Scalar,
  'ecsq': ECSQ,
  'ecvq': ECVQ,
  'fsq': FSQ,
  'residual_vq': ResidualVQ,
  'product_vq': ProductVQ,
  'shared_vq': SharedVQ,
}

# The literature's words, accepted by `make`; records say the key of NAMES.
ALIASES: dict[str, str] = {
  'agglomerative': 'merge',
  'avg_pool': 'pool',
  'low_resolution': 'resized',
  'position_mean': 'centred',
  'visionzip': 'attended',
  'weighted_kmeans': 'salient',
}


def make(name: str, **kw: Any) -> Quantizer:
  """Makes a quantizer from plain values, as a config holds them.

  Args:
    name: A key of NAMES or ALIASES, or 'package.module:Class'; with fields in
      parentheses, too, as `quantizers.name` writes it:
      'kmeans(k=8,centroids=pca(dims=32,vectors=scalar(bits=4)))'.
    **kw: The fields of the class. An inner quantizer is itself, such a name,
      or a mapping with a 'name' and its fields.

  Returns:
    The quantizer.

  Raises:
    ValueError: If the name or a field is unknown, with the nearest known one,
      or if a value is out of range.
    ImportError: If the module cannot be imported.
  """
  if '(' in name:
    name, given = config.call(name, 'quantizer', 'kmeans(k=8)', kw)
    kw = {**given, **kw}
  name = ALIASES.get(name, name)
  cls: Any = registry.find(NAMES, 'quantizer', name)
  if hasattr(cls, 'unpack') and not hasattr(cls, 'quantize'):
    raise _validate.error(
      'quantizer', name, 'a quantizer', 'it is a codec, and stands alone'
    )
  inner = {
    field.name
    for field in dataclasses.fields(cls)
    if isinstance(field.default, QuantizerLike)
  }
  for field in inner & kw.keys():
    value = kw[field]
    if isinstance(value, str):
      kw[field] = make(value)
    elif isinstance(value, Mapping):
      kw[field] = make(**value)
  return as_quantizer(registry.make(NAMES, 'quantizer', name, **kw))


def name(quantizer: QuantizerLike) -> str:
  """Returns a short name that differs between settings, equal for equal ones.

  The fields at their defaults are left out: 'kmeans(k=8,init=++)'.

  Args:
    quantizer: Any quantizer.
  """
  return registry.name(NAMES, quantizer)


def settings(quantizer: Any) -> dict[str, Any]:
  """Returns all settings as nested plain values, which JSON can hold.

  {'quantizer': 'kmeans', 'k': 8, ..., 'centroids': {'quantizer': 'identity',
  'dtype': 'float16'}, 'rebuild': 'grid'}

  Args:
    quantizer: Any quantizer.

  Returns:
    The canonical name of its class under 'quantizer', then its fields in their
    order, defaults included; an inner quantizer is such a dict itself.
  """
  return registry.settings(NAMES, 'quantizer', quantizer)


def describe(quantizer: QuantizerLike) -> dict[str, Any]:
  """Returns the settings with inner quantizers by name, for flat records.

  Args:
    quantizer: Any quantizer.

  Returns:
    {'quantizer': its name in NAMES or 'package.module:Class', and its fields},
    inner quantizers as their `name`.
  """
  fields = {
    field.name: registry.plain(NAMES, getattr(quantizer, field.name))
    for field in dataclasses.fields(cast(Any, quantizer))
  }
  return {'quantizer': registry.title(NAMES, type(quantizer)), **fields}
