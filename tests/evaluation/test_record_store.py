"""Files of records: what is refused, and what a kill may leave."""

import json

import pytest

from collab_jax import evaluation
from collab_jax.evaluation import record_store
from tests.evaluation import synthetic

RECORDS = synthetic.make(images=2, ks=(2,), seeds=(0,))
SETTINGS = {'data': 'scenes/test'}


def write(path, records, end='\n'):
  path.write_text('\n'.join(map(json.dumps, records)) + end)
  return path


@pytest.fixture
def path(tmp_path):
  (tmp_path / 'records.settings.json').write_text(json.dumps(SETTINGS))
  return tmp_path / 'records.jsonl'


def test_whole_records_are_read(path):
  assert evaluation.read_records(write(path, RECORDS)) == RECORDS
  bare = [{n: v for n, v in r.items() if n != 'slots'} for r in RECORDS]
  assert evaluation.read_records(write(path, bare)) == bare


@pytest.mark.parametrize(
  'field',
  [
    *('image_id', 'name', 'seed', 'codec', 'caption', 'references', 'sent'),
    *('vectors', 'ratio', 'bytes', 'total_bytes', 'distortion', 'seconds'),
  ],
)
def test_missing_fields_are_named(path, field):
  damaged = [dict(r) for r in RECORDS]
  del damaged[1][field]
  with pytest.raises(
    ValueError, match=f"records.jsonl:2 is no record .* field '{field}'"
  ):
    evaluation.read_records(write(path, damaged))


@pytest.mark.parametrize(
  ('field', 'value', 'said'),
  [
    ('image_id', '3', 'image_id: got "3", expected an integer'),
    ('seed', True, 'seed: got true, expected an integer'),
    ('name', None, 'name: got null, expected a text'),
    ('codec', 'kmeans', 'codec: got "kmeans", expected an object'),
    ('codec', {'k': 2}, 'codec: got {"k": 2}, expected an object with'),
    ('caption', 3, 'caption: got 3, expected a text'),
    ('references', 'a star', 'references: got "a star", expected a list'),
    ('references', [3], 'references: got \\[3\\], expected a list of texts'),
    ('sent', -1, 'sent: got -1, expected an integer of at least 0'),
    ('sent', 300, 'ratio: got .*, expected sent / vectors = 300 / 256'),
    ('vectors', 0, 'vectors: got 0, expected an integer of at least 1'),
    ('ratio', float('nan'), 'ratio: got NaN, expected a number'),
    ('ratio', 0.5, 'ratio: got 0.5, expected sent / vectors = 2 / 256'),
    ('bytes', 512, 'bytes: got 512, expected an object of numbers'),
    ('bytes', {'x': 'many'}, 'bytes: got {"x": "many"}, expected'),
    ('total_bytes', 1.5, 'total_bytes: got 1.5, expected an integer'),
    ('total_bytes', 10**400, 'total_bytes: got 10000.*, expected an integer'),
    ('seconds', {'x': -(10**400)}, 'seconds: got .*, expected an object'),
    ('distortion', 'low', 'distortion: got "low", expected a number or null'),
    ('seconds', [1], 'seconds: got \\[1\\], expected an object of numbers'),
    ('slots', 1, 'slots: got 1, expected an object of numbers or null'),
    ('model', 7, 'model: got 7, expected a text or null'),
  ],
)
def test_wrong_values_are_told(path, field, value, said):
  damaged = [RECORDS[0], RECORDS[1] | {field: value}]
  with pytest.raises(ValueError, match=f'records.jsonl:2 is no .*: {said}'):
    evaluation.read_records(write(path, damaged))


@pytest.mark.parametrize(
  'line', ['', '12', '[]', 'null', '{"image_id": 1', '"a"']
)
def test_lines_that_are_no_objects_are_refused(path, line):
  path.write_text(f'{line}\n{json.dumps(RECORDS[0])}\n')
  with pytest.raises(ValueError, match=r'records.jsonl:1 is no record'):
    evaluation.read_records(path)


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    ({'codec': {'codec': 'feature', 'k': 3}}, 'codec of .*"k": 3.*"k": 2'),
    ({'sent': 4, 'ratio': 4 / 256}, 'sent of .*: got 4, expected 2'),
    ({'vectors': 64, 'ratio': 2 / 64}, 'vectors of .*: got 64, expected 256'),
  ],
)
def test_one_name_is_one_codec(path, tmp_path, change, said):
  other = RECORDS[1] | change
  with pytest.raises(ValueError, match=f'records.jsonl:2: {said}'):
    evaluation.read_records(write(path, [RECORDS[0], other]))
  first = write(tmp_path / 'first.jsonl', RECORDS[:1])
  with pytest.raises(ValueError, match=f'{said}.*first.jsonl:1'):
    evaluation.read_records(first, write(path, [other]))


def test_a_last_line_is_kept_if_it_is_whole(path):
  write(path, RECORDS[:3], end='')
  assert evaluation.read_records(path) == RECORDS[:3]
  before = path.read_bytes()
  with record_store.RecordStore(path, SETTINGS, {}) as store:
    assert len(store.records) == 3
    store.append([])
    assert path.read_bytes() == before
    store.append(RECORDS[3:4])
    store.append(RECORDS[4:5])
  assert evaluation.read_records(path) == RECORDS[:5]
  assert path.read_bytes().startswith(before + b'\n')


PRODUCTS = {
  'model': {'dtype': 'float32', 'compute_dtype': 'float32'},
  'precision': 'default',
  'platform': 'cpu',
}


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    ({}, ''),
    ({'platform': 'gpu'}, ''),  # It is not known what the file was made on.
    (
      {'precision': 'highest'},
      "precision: the file has 'default', this run 'highest",
    ),
    (
      {'model': {'dtype': 'bfloat16', 'compute_dtype': 'bfloat16'}},
      "model.compute_dtype: the file has 'float32', this run 'bfloat16'",
    ),
    (
      {'model': {'dtype': 'bfloat16', 'compute_dtype': 'float32'}},
      '',
    ),
  ],
)
def test_files_of_earlier_versions_say_no_products(path, change, said):
  path.with_suffix('.settings.json').write_text(json.dumps(SETTINGS))
  write(path, RECORDS[:2])
  settings = SETTINGS | PRODUCTS | change
  if said:
    with pytest.raises(evaluation.SettingsError, match=said):
      record_store.RecordStore(path, settings, {})
    return
  with record_store.RecordStore(path, settings, {}) as store:
    assert len(store.records) == 2


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    ({}, ''),
    ({'platform': 'gpu'}, "platform: the file has 'cpu', this run 'gpu'"),
    ({'precision': 'highest'}, "precision: the file has 'default', this run"),
  ],
)
def test_files_say_what_products_are_of(path, change, said):
  path.with_suffix('.settings.json').write_text(json.dumps(PRODUCTS))
  write(path, RECORDS[:2])
  if said:
    with pytest.raises(evaluation.SettingsError, match=said):
      record_store.RecordStore(path, PRODUCTS | change, {})
    return
  record_store.RecordStore(path, PRODUCTS, {}).__exit__()


def test_a_run_of_no_platform_differs_in_its_products_alone(path):
  path.with_suffix('.settings.json').write_text(json.dumps(PRODUCTS))
  write(path, RECORDS[:2])
  new = {**PRODUCTS, 'precision': 'highest'}
  del new['platform']
  with pytest.raises(evaluation.SettingsError) as error:
    record_store.RecordStore(path, new, {})
  assert str(error.value).splitlines()[1:] == [
    "  precision: the file has 'default', this run 'highest'"
  ]


@pytest.mark.parametrize('cut', [1, 40, -1])
def test_a_last_line_is_dropped_if_it_is_not(path, cut):
  whole = write(path, RECORDS[:2]).read_bytes()
  path.write_bytes(whole + json.dumps(RECORDS[2]).encode()[:cut])
  assert evaluation.read_records(path) == RECORDS[:2]
  with record_store.RecordStore(path, SETTINGS, {}) as store:
    assert len(store.records) == 2
    assert path.read_bytes() == whole
    store.append(RECORDS[2:3])
  assert evaluation.read_records(path) == RECORDS[:3]


def test_a_whole_last_line_is_checked_as_any_other(path):
  write(path, [RECORDS[0], {'image_id': 1}], end='')
  with pytest.raises(ValueError, match=r'records.jsonl:2 is no record'):
    evaluation.read_records(path)


@pytest.mark.parametrize('data', [b'', b'{"mod', b'3', b'[]', b'\x00\xff'])
def test_a_damaged_file_of_settings_is_named(tmp_path, data):
  path = tmp_path / 'records.jsonl'
  path.write_text('{}\n')
  path.with_suffix('.settings.json').write_bytes(data)
  with pytest.raises(ValueError, match=r'\.json: got .*a JSON obj') as raised:
    record_store.read_settings(path)
  assert isinstance(raised.value, record_store.SettingsError)
  assert '\n' not in str(raised.value)


def test_the_folder_of_a_run_stands_for_its_files(tmp_path):
  records = synthetic.make(images=2, ks=(1,), seeds=(0,))
  lines = [json.dumps(record) + '\n' for record in records]
  (tmp_path / 'units').mkdir()
  with pytest.raises(ValueError, match='expected a folder with'):
    evaluation.read_records(tmp_path)
  for n in range(2):
    (tmp_path / 'units' / f'00{n}.jsonl').write_text(''.join(lines[n::2]))
  assert len(evaluation.read_records(tmp_path)) == len(lines)
  assert len(evaluation.read_records(tmp_path / 'units')) == len(lines)
  (tmp_path / 'records.jsonl').write_text(lines[0])
  assert len(evaluation.read_records(tmp_path)) == 1
