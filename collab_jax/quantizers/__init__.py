"""Quantizers: the vectors of one image to a message, and back."""

from collections.abc import Mapping
import dataclasses
from typing import Any, cast

from collab_jax import config, named
from collab_jax.quantizers import books, codebook
from collab_jax.quantizers.adaptive import Adaptive, error_for
from collab_jax.quantizers.attended import Attended
from collab_jax.quantizers.base import (
  Quantizer,
  needs,
  priors,
  straight_through,
)
from collab_jax.quantizers.bisecting import Bisecting
from collab_jax.quantizers.books import BookError
from collab_jax.quantizers.centred import Centred
from collab_jax.quantizers.concealment import conceal, layered, row_fields
from collab_jax.quantizers.divprune import DivPrune
from collab_jax.quantizers.dpc_knn import DpcKnn
from collab_jax.quantizers.ecsq import ECSQ
from collab_jax.quantizers.ecvq import ECVQ
from collab_jax.quantizers.farthest_point import FarthestPoint
from collab_jax.quantizers.fsq import FSQ
from collab_jax.quantizers.identity import Identity
from collab_jax.quantizers.kmeans import KMeans
from collab_jax.quantizers.low_rank import LowRank
from collab_jax.quantizers.medoids import Medoids
from collab_jax.quantizers.merge import Merge
from collab_jax.quantizers.packed import Packed
from collab_jax.quantizers.pca import PCA
from collab_jax.quantizers.pool import Pool
from collab_jax.quantizers.product_vq import ProductVQ
from collab_jax.quantizers.random import Random
from collab_jax.quantizers.residual_vq import ResidualVQ
from collab_jax.quantizers.resized import Resized
from collab_jax.quantizers.salient import Salient
from collab_jax.quantizers.scalar import Scalar
from collab_jax.quantizers.shared_vq import SharedVQ
from collab_jax.quantizers.spatial import Spatial
from collab_jax.quantizers.spherical import Spherical
from collab_jax.quantizers.tome import ToMe
from collab_jax.quantizers.top_norm import TopNorm

__all__ = [
  'ECSQ',
  'ECVQ',
  'FSQ',
  'NAMES',
  'PCA',
  'Adaptive',
  'Attended',
  'Bisecting',
  'BookError',
  'Centred',
  'DivPrune',
  'DpcKnn',
  'FarthestPoint',
  'Identity',
  'KMeans',
  'LowRank',
  'Medoids',
  'Merge',
  'Packed',
  'Pool',
  'ProductVQ',
  'Quantizer',
  'Random',
  'ResidualVQ',
  'Resized',
  'Salient',
  'Scalar',
  'SharedVQ',
  'Spatial',
  'Spherical',
  'ToMe',
  'TopNorm',
  'books',
  'codebook',
  'conceal',
  'describe',
  'error_for',
  'layered',
  'make',
  'name',
  'needs',
  'priors',
  'row_fields',
  'straight_through',
]

NAMES: dict[str, type] = {
  'identity': Identity,
  'kmeans': KMeans,
  'merge': Merge,
  'adaptive': Adaptive,
  'low_rank': LowRank,
  'packed': Packed,
  'centred': Centred,
  'random': Random,
  'pool': Pool,
  'resized': Resized,
  'top_norm': TopNorm,
  'farthest_point': FarthestPoint,
  'attended': Attended,
  'bisecting': Bisecting,
  'divprune': DivPrune,
  'dpc_knn': DpcKnn,
  'medoids': Medoids,
  'salient': Salient,
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


def make(name: str, **kw: Any) -> Quantizer:
  """Makes a quantizer from plain values, as a config holds them.

  Args:
    name: A key of NAMES, or 'package.module:Class'; with fields in
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
    name, settings = config.call(name, 'quantizer', 'kmeans(k=8)', kw)
    kw = {**settings, **kw}
  cls = named.find(NAMES, 'quantizer', name)
  inner = {
    field.name
    for field in dataclasses.fields(cls)
    if isinstance(field.default, Quantizer)
  }
  for field in inner & kw.keys():
    value = kw[field]
    if isinstance(value, str):
      kw[field] = make(value)
    elif isinstance(value, Mapping):
      kw[field] = make(**value)
  return named.make(NAMES, 'quantizer', name, **kw)


def name(quantizer: Quantizer) -> str:
  """Returns a short name that differs between settings, equal for equal ones.

  The fields at their defaults are left out: 'kmeans(k=8,init=++)'.

  Args:
    quantizer: Any quantizer.
  """
  return named.name(NAMES, quantizer)


def describe(quantizer: Quantizer) -> dict[str, Any]:
  """Returns all settings as plain values, for records.

  Args:
    quantizer: Any quantizer.

  Returns:
    {'quantizer': its name in NAMES or 'package.module:Class', and its fields},
    inner quantizers as their `name`.
  """
  fields = {
    field.name: named.plain(NAMES, getattr(quantizer, field.name))
    for field in dataclasses.fields(cast(Any, quantizer))
  }
  return {'quantizer': named.title(NAMES, type(quantizer)), **fields}
