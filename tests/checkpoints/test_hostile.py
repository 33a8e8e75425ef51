"""Checkpoint files that are made to hurt: each is a CheckpointError."""

import io
import json
import zipfile

import numpy as np
import pytest

from collab_jax import checkpoints
from tests.checkpoints.released import config_of, edit_config

START = "{'descr': '<f4', 'fortran_order': False, 'shape': "
HEADERS = (
  "{'descr': '<f4', 'fortran_order': False, 'shape': (",
  START + f'({10**40},)}}',
  "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
  "{'descr': '<f4', 'fortran_order': False, 'shape': (2**99,)}",
  "{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}",
  START + f'(0, {10**40})}}',
  "{'descr': '<f99999999999999999999', 'fortran_order': 0, 'shape': ()}",
  "{'descr': ('<f4', (99999999999,)), 'fortran_order': False, 'shape': ()}",
  "{'descr': [], 'fortran_order': False, 'shape': ()}",
  "'" * 9,
  '(' * 5000,
  '-' * 9000 + '1',
  '\x00\x01\x02',
  "{'a': '''",
  '0' * 9000,
  '{{}: 1}',
  '\\N{',
  "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
)


def npz(path, header, data=b'', version=(1, 0)):
  """Writes an npz whose single array has this header."""
  text = header.encode('latin1') + b'\n'
  length = len(text).to_bytes(2 if version == (1, 0) else 4, 'little')
  file = io.BytesIO()
  file.write(b'\x93NUMPY' + bytes(version) + length + text + data)
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('params/img/head/bias.npy', file.getvalue())
  return path


@pytest.mark.parametrize('version', [(1, 0), (2, 0), (3, 0), (9, 9)])
@pytest.mark.parametrize('header', HEADERS)
def test_headers_of_arrays(tmp_path, header, version):
  path = npz(tmp_path / 'a.npz', header, version=version)
  with pytest.raises(checkpoints.CheckpointError, match=r'a\.npz'):
    checkpoints.load_npz(path)


def test_more_bytes_than_the_file_can_hold(tmp_path):
  """A directory entry claims what no compressed member can become."""
  path = tmp_path / 'a.npz'
  count = 2**27
  header = START + f'({count},)}}'
  npz(path, header)
  data = bytearray(path.read_bytes())
  entry = data.rfind(b'PK\x01\x02')
  size = int.from_bytes(data[entry + 24 : entry + 28], 'little')
  data[entry + 24 : entry + 28] = (size + 4 * count).to_bytes(4, 'little')
  path.write_bytes(bytes(data))
  with pytest.raises(checkpoints.CheckpointError, match=r'a\.npz'):
    checkpoints.load_npz(path)


@pytest.mark.parametrize('value', [10**400, 1e308, -(10**30), 'x' * 99, [[]]])
@pytest.mark.parametrize('field', ['vocab_size', 'num_hidden_layers'])
def test_dimensions_beyond_any_integer(copy, field, value):
  folder = copy()
  edit_config(folder, lambda c: c['text_config'].update({field: value}))
  with pytest.raises(checkpoints.CheckpointError, match=r'config\.json'):
    checkpoints.load(folder)
  assert checkpoints.describe(folder).refusals


@pytest.mark.parametrize('value', [10**400, -(10**30), 2**63, 2**24])
@pytest.mark.parametrize('field', ['image_size', 'width', 'depth'])
def test_own_dimensions_beyond_any_integer(tmp_path, field, value):
  fields = config_of('pg1_56').to_dict()
  (name,) = [k for k in fields if isinstance(fields[k], dict)][:1] or [None]
  (fields[name] if name and field in fields[name] else fields)[field] = value
  (tmp_path / 'config.json').write_text(json.dumps(fields))
  np.savez(tmp_path / 'model.npz', a=np.zeros(3))
  with pytest.raises(ValueError, match='got'):
    checkpoints.load(tmp_path)


def test_a_json_file_that_fills_the_memory(copy):
  folder = copy()
  with open(folder / 'config.json', 'r+b') as file:
    file.truncate(1 << 30)
  with pytest.raises(checkpoints.CheckpointError, match='expected at most'):
    checkpoints.load(folder)
