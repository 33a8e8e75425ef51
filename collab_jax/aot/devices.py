"""Devices that programs are compiled for: those here, or a TPU topology.

The TPU's compiler, libtpu, runs without a TPU: JAX then has devices that
programs can be compiled for, and nothing can be put on.
"""

from collections.abc import Sequence
import dataclasses
import os
import re
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import (
  Mesh,
  NamedSharding,
  PartitionSpec,
  SingleDeviceSharding,
)

from collab_jax import _validate, provenance, sharding

_GIB = 2**30
# Memory that programs may use, by kind of device. Each is what the compiler of
# libtpu 0.0.42 says it has when a program needs more; a v4 has two devices.
_TPU_MEMORY = {
  'TPU v2': 7.48,
  'TPU v3': 15.48,
  'TPU v4': 15.25,
  'TPU v5 lite': 15.75,
  'TPU v5': 95.74,
  'TPU v6 lite': 31.25,
  'TPU7x': 94.75,
}
_EXAMPLES = "'v5e:2x4', 'v6e:2x2' or 'v5p:2x2x1'"
_NAME = re.compile(r'\w+:\d+(x\d+){1,2}')
# Libtpu looks for the machine that it is on, and locks the TPU that is there.
_LIBTPU = {
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_WORKER_HOSTNAMES': 'localhost',
}


@dataclasses.dataclass(frozen=True)
class Placement:
  """Devices of a mesh, or one of them, and the places of arrays on them.

  ::

    placement = Placement.of_topology('v5e:2x4')
    images = placement.rows(jax.ShapeDtypeStruct((64, 224, 224, 3), 'uint8'))

  Attributes:
    devices: The devices, data x model of them.
    mesh: Their mesh; None for one device.
    name: Topology, or kind of the present devices.
    memory: Bytes of each that programs may use; None if unknown.
  """

  devices: tuple[Any, ...]
  mesh: Mesh | None
  name: str
  memory: int | None

  @classmethod
  def of_topology(
    cls, topology: str, data: int = -1, model: int = 1
  ) -> 'Placement':
    """Returns devices of a TPU topology.

    Args:
      topology: Generation and arrangement of the chips, 'v5e:2x4'.
      data: See `sharding.make_mesh`.
      model: See `sharding.make_mesh`.

    Raises:
      ValueError: There is no such topology, or the mesh is larger.
      ImportError: libtpu is not installed.
    """
    devices = _topology_devices(topology)
    memory = _tpu_memory(devices[0].device_kind)
    return cls._arrange(devices, topology, data, model, memory)

  @classmethod
  def of_present(cls, data: int = -1, model: int = 1) -> 'Placement':
    """Returns devices of this machine.

    Args:
      data: See `sharding.make_mesh`.
      model: See `sharding.make_mesh`.

    Raises:
      ValueError: The mesh is larger than their number.
    """
    devices = jax.devices()
    return cls._arrange(
      devices, devices[0].device_kind, data, model, _present_memory(devices)
    )

  @classmethod
  def _arrange(
    cls,
    devices: Sequence[Any],
    name: str,
    data: int,
    model: int,
    memory: int | None,
  ) -> 'Placement':
    _validate.integer('mesh.model', model)
    if data == -1:
      data = max(1, len(devices) // model)
    _validate.integer('mesh.data', data, do='-1 takes all devices')
    count = data * model
    if count > len(devices):
      raise ValueError(
        f'mesh: got data={data}, model={model}, expected a product of at most'
        f' {len(devices)}, the number of devices of {name}'
      )
    used = tuple(devices[:count])
    mesh = sharding.arrange(devices, data, model) if count > 1 else None
    return cls(used, mesh, name, memory)

  @property
  def sizes(self) -> dict[str, int]:
    """The size of each axis of the mesh."""
    return sharding.sizes(self.mesh)

  @property
  def platform(self) -> str:
    """Platform of the devices: 'cpu', 'gpu' or 'tpu'."""
    # A GPU's devices say 'gpu', its platform for the compiler is 'cuda'.
    return self.devices[0].platform

  @property
  def is_present(self) -> bool:
    """Whether the devices are this machine's."""
    return self.devices[0] in jax.devices()

  def params(self, tree: Any, dtype: Any = None) -> Any:
    """Returns shapes of parameters, placed by `sharding.RULES`.

    Args:
      tree: Objects with `.shape` and `.dtype`, such as `paligemma.shapes`.
      dtype: Dtype in the place of the tree's; None keeps it.
    """
    if self.mesh is not None:
      return sharding.abstract(tree, self.mesh, dtype)
    return jax.tree.map(lambda x: self._shape(x, dtype or x.dtype), tree)

  def rows(self, tree: Any) -> Any:
    """Returns shapes of a batch, placed as `sharding.rows` places it."""
    return jax.tree.map(self._row, tree)

  def whole(self, tree: Any) -> Any:
    """Returns shapes of arrays that every device has."""
    return jax.tree.map(lambda x: self._shape(x, x.dtype), tree)

  def _row(self, x: Any) -> jax.ShapeDtypeStruct:
    even = self.mesh is not None and sharding.divides(self.mesh, x.shape[0])
    axes = PartitionSpec('data') if even else PartitionSpec()
    return self._shape(x, x.dtype, axes)

  def _shape(
    self, x: Any, dtype: Any, axes: PartitionSpec | None = None
  ) -> jax.ShapeDtypeStruct:
    where: Any = SingleDeviceSharding(self.devices[0])
    if self.mesh is not None:
      where = NamedSharding(self.mesh, axes or PartitionSpec())
    return jax.ShapeDtypeStruct(x.shape, dtype, sharding=where)


def _topology_devices(topology: str) -> Sequence[Any]:
  if not _NAME.fullmatch(topology):
    raise _validate.error('topology', topology, f'a name such as {_EXAMPLES}')
  for name, value in _LIBTPU.items():
    os.environ.setdefault(name, value)
  try:
    return topologies.get_topology_desc(topology, 'tpu').devices
  except jax.errors.JaxRuntimeError as error:
    reason = str(error).partition(': ')[2] or str(error)
    raise ValueError(
      f'topology: got {topology!r}, expected one that libtpu knows, such as'
      f' {_EXAMPLES}; it says: {reason}'
    ) from error
  except RuntimeError as error:
    raise ImportError(
      "topology: the TPU's compiler, libtpu, is not installed; pip install"
      " 'collab_jax[tpu]'"
    ) from error


def _tpu_memory(kind: str) -> int | None:
  return int(_TPU_MEMORY[kind] * _GIB) if kind in _TPU_MEMORY else None


def _present_memory(devices: Sequence[Any]) -> int | None:
  """Returns the bytes of each device; those of a CPU share the machine's."""
  limit = provenance.memory_limit(devices[0])
  if limit is None:  # Of a TPU: the table's; other kinds are not in it.
    return _tpu_memory(devices[0].device_kind)
  return limit // len(devices) if devices[0].platform == 'cpu' else limit
