"""Data never names code: every path from a file or a message to a class.

Texts name a module that would write a file if it were imported.
"""

import contextlib
import json
import sys

import pytest

import collab_jax as cj
from collab_jax import checkpoints, evaluation, registry, wire
from collab_jax.data import tfds_reader
from collab_jax.evaluation import record_store
from collab_jax.evaluation.report import channel, labels, rate, text
from collab_jax.exporters import run
from collab_jax.serving import protocol
from collab_jax.serving.client import rate_control
from collab_jax.serving.server import codecs as server_codecs
from tests.evaluation import synthetic

EVIL = 'evil_module:Class'
INNER = f'kmeans(k=8,centroids={EVIL}(bits=4))'


@pytest.fixture(autouse=True)
def never_imported(tmp_path, monkeypatch):
  """Puts the module where it would be found; fails if it was imported."""
  folder = tmp_path / 'modules'
  folder.mkdir()
  ran = folder / 'ran'
  code = f'open({str(ran)!r}, "w").write("yes")\n\n\nclass Class: pass\n'
  (folder / 'evil_module.py').write_text(code)
  monkeypatch.syspath_prepend(folder)
  yield
  assert not ran.exists()
  assert 'evil_module' not in sys.modules


def test_the_module_can_be_found(tmp_path, monkeypatch):
  """Without which the other tests would say nothing."""
  import importlib.util

  assert importlib.util.find_spec('evil_module')


def _records(name, codec, settings=None):
  """Records that somebody sent, with a codec's settings as they like."""
  records = synthetic.make(images=3, seeds=(0,))
  rows = {r['image_id']: r for r in reversed(records)}
  link = {'seconds': 0.1, 'airtime': 0.2, 'arrived': 1, 'rows': 1.0}
  return [
    *records,
    *(
      {**rows[i], 'name': name, 'codec': codec, 'link': link}
      | ({'settings': settings} if settings else {})
      for i in range(3)
    ),
  ]


@pytest.mark.parametrize(
  ('codec', 'settings'),
  [
    ({'codec': 'feature', 'quantizer': EVIL, 'split': 'encoder'}, None),
    ({'codec': 'feature', 'quantizer': 'kmeans', 'centroids': INNER}, None),
    ({'codec': 'feature', 'quantizer': 'kmeans', 'channel': EVIL}, None),
    (
      {'codec': 'feature', 'quantizer': 'kmeans', 'channel': f'{EVIL}(p=0.1)'},
      None,
    ),
    ({'codec': 'feature', 'quantizer': 'kmeans', 'transport': EVIL}, None),
    ({'codec': EVIL}, None),
    (
      {'codec': 'feature', 'quantizer': EVIL},
      {
        'codec': 'feature',
        'split': 'encoder',
        'coding': 'fixed',
        'quantizer': {'quantizer': EVIL, 'vectors': {'quantizer': EVIL}},
        'transport': {'transport': EVIL},
        'channel': {'channel': EVIL, 'p': 0.1},
      },
    ),
  ],
)
def test_records(tmp_path, codec, settings):
  """Their own text is shown, whatever module it names."""
  name = f'{EVIL} | {EVIL} | {EVIL}(p=0.1)'
  path = tmp_path / 'records.jsonl'
  lines = [json.dumps(r) + '\n' for r in _records(name, codec, settings)]
  path.write_text(''.join(lines))
  rows = evaluation.summarize(evaluation.read_records(path), resamples=2)
  for draw in (text.table, channel.link_table, rate.rate_table, labels.curves):
    # A table may need fields that these records lack.
    with contextlib.suppress(KeyError, ValueError):
      draw(rows)
  assert any('Class' in labels.label(row) for row in rows) or settings is None
  for row in rows:
    labels.text(row)


@pytest.mark.parametrize('codec', [EVIL, f'{EVIL}(k=8)', INNER])
def test_a_rate_curve(tmp_path, codec):
  """`--curve` of others; `--codec` may name a module, it is the user's."""
  point = {'codec': codec, 'bytes': 9.0, 'largest': 9, 'bleu4': 50.0}
  curve = {
    **{'format': 1, 'model': 'tiny', 'split': 'encoder', 'coding': 'best'},
    **{'data': 'scenes/val', 'full': 80.0, 'captions': 9, 'points': [point]},
  }
  path = tmp_path / 'curve.json'
  path.write_text(json.dumps(curve))
  with pytest.raises(ValueError, match="without ':', in data; name modules"):
    rate_control.read_curve(path)


@pytest.mark.parametrize('name', [EVIL, f'{EVIL}(k=8)', INNER])
@pytest.mark.parametrize('listed', ['any', 'kmeans(k=8)'])
def test_a_handshake(name, listed):
  """Edges name what the operator listed, or the package's own."""
  model = cj.load('tiny')
  codec = cj.FeatureCodec(model, 'kmeans(k=8)')
  description = json.loads(codec.to_json())
  description['spec']['quantizer'] = name
  allowed = server_codecs.CodecAllowlist(model, listed, 'any')
  with pytest.raises((server_codecs.RefusedError, wire.FormatError)):
    allowed.check(protocol.parse(json.dumps(description)))
  image = {
    **{'format': 'collab_jax image', 'version': 1},
    'spec': {'codec': 'image', 'name': name},
  }
  with pytest.raises((server_codecs.RefusedError, wire.FormatError)):
    allowed.check(protocol.parse(json.dumps(image)))


def test_a_file_of_messages(tmp_path):
  codec = cj.FeatureCodec(cj.load('tiny', part='edge'), 'kmeans(k=8)')
  text_ = codec.session.to_json(priors=True).replace('kmeans(k=8)', EVIL)
  with pytest.raises(ValueError):  # noqa: PT011
    wire.Session.from_json(text_)
  # With the digest that belongs to it, the text is text.
  plain = {k: v for k, v in json.loads(text_).items() if k != 'digest'}
  session = wire.Session.from_json(json.dumps(plain))
  assert EVIL in session.to_json()


def test_settings_beside_records_and_of_a_training_folder(tmp_path):
  path = tmp_path / 'records.jsonl'
  records = [json.dumps(r) + '\n' for r in synthetic.make(images=2, seeds=(0,))]
  path.write_text(''.join(records))
  sidecar = path.with_suffix('.settings.json')
  sidecar.write_text(json.dumps({'model': EVIL, 'decoding': EVIL}))
  with pytest.raises(record_store.SettingsError, match=EVIL):
    record_store.RecordStore(path, {'model': 'tiny'}, {})
  from ml_collections import ConfigDict

  from collab_jax.training import train_loop

  folder = tmp_path / 'run'
  folder.mkdir()
  (folder / 'config.json').write_text(json.dumps({'quantizer': EVIL}))
  with pytest.raises(ValueError, match=EVIL):
    train_loop.open_run(ConfigDict({'quantizer': 'kmeans(k=8)'}), folder)


def test_the_manifest_of_an_exported_folder(tmp_path):
  for format_ in (EVIL, 'evil_module'):
    manifest = {'format': format_, 'files': {}, 'session': 'session.json'}
    (tmp_path / 'session.json').write_text('{}')
    text_ = json.dumps({**manifest, 'artefact': EVIL, 'weights': EVIL})
    (tmp_path / 'manifest.json').write_text(text_)
    with pytest.raises(ValueError, match='manifest'):
      run.Edge(tmp_path)


def test_the_folder_of_a_model(tmp_path):
  """`auto_map`, `architectures` and the tokenizer's class are never code."""
  config = {
    'model_type': 'paligemma',
    'architectures': [EVIL],
    'auto_map': {'AutoConfig': 'evil_module.Class', 'AutoModel': EVIL},
    'text_config': {'model_type': 'evil_module'},
  }
  (tmp_path / 'config.json').write_text(json.dumps(config))
  tokenizer = {'tokenizer_class': 'evil_module.Class', 'auto_map': EVIL}
  (tmp_path / 'tokenizer_config.json').write_text(json.dumps(tokenizer))
  with pytest.raises((OSError, ValueError)):
    checkpoints.load('paligemma-3b-mix-224', tmp_path)
  with pytest.raises((OSError, ValueError)):
    checkpoints.load(str(tmp_path))


@pytest.mark.parametrize(
  'feature',
  [
    {'pythonClassName': 'evil_module.Class'},
    {'type': 'evil_module.Class', 'content': {}},
    {
      'pythonClassName': 'tensorflow_datasets.core.features.X',
      'featuresDict': {
        'features': {'a': {'pythonClassName': 'evil_module.Class'}}
      },
    },
    {
      'pythonClassName': 'tensorflow_datasets.core.features.X',
      'jsonFeature': {
        'json': json.dumps({'feature': [{'type': 'evil_module.Class'}]})
      },
    },
  ],
)
def test_the_features_of_a_prepared_dataset(tmp_path, feature):
  """TensorFlow Datasets imports what features.json names."""
  (tmp_path / 'dataset_info.json').write_text('{}')
  (tmp_path / 'features.json').write_text(json.dumps(feature))
  with pytest.raises(ValueError, match=r'class of a feature: got .evil_module'):
    tfds_reader.tfds(tmp_path)


def test_features_of_imported_modules_are_taken(tmp_path):
  names = 'tensorflow_datasets.core.features.X', 'collections.OrderedDict'
  for name in names:
    table = {'pythonClassName': name, 'featuresDict': {'features': {}}}
    (tmp_path / 'features.json').write_text(json.dumps(table))
    tfds_reader.check_classes(tmp_path)


def test_the_check_of_text_out_of_data():
  registry.check_data('codec', 'kmeans(k=8,centroids=pca(dims=4))')
  for name in (EVIL, INNER, 'x' * 10_000 + ':y'):
    with pytest.raises(ValueError, match='codec: got ') as error:
      registry.check_data('codec', name)
    assert len(str(error.value)) < 250


@pytest.mark.parametrize('protocol', [0, 2, 4])
def test_lists_of_refcoco(tmp_path, protocol):
  """Pickles that would import the module, and make what it names."""
  name, _, attribute = EVIL.partition(':')
  code = {
    0: f'(lp0\nc{name}\n{attribute}\np1\na.',
    2: f'\x80\x02]c{name}\n{attribute}\n)\x81a.',
    4: '\x80\x04]\x8c\x0b' + name + '\x8c\x05' + attribute + '\x93)\x81a.',
  }[protocol]
  folder = tmp_path / 'refcoco'
  folder.mkdir()
  (folder / 'refs(unc).p').write_bytes(code.encode('latin-1'))
  (folder / 'instances.json').write_text('{}')
  with pytest.raises(ValueError, match='it may run code, and is not read'):
    cj.tasks.RefCocoBox().load(tmp_path)


def test_answers_of_a_table(tmp_path):
  """A list in Python's form is a literal, nothing else."""
  answer = f"[__import__('{EVIL.partition(':')[0]}')]"
  image = 'A' * 80
  (tmp_path / 'x.tsv').write_text(
    f'index\tquestion\tanswer\timage\n1\twhat\t{answer}\t{image}\n'
  )
  reader = cj.tasks.make('tsv').load(tmp_path)
  assert reader.questions[0][0].references == (answer,)


@pytest.mark.parametrize(
  'task',
  [
    EVIL,
    f'{EVIL}(score=exact)',
    f' {EVIL}',
    f'tsv(score={EVIL})',
    'tsv(score="evil_module\\u003aClass")',
    f'jsonl(score=exact,prompt={EVIL})',
  ],
)
def test_tasks_of_records(task):
  records = [
    {
      **record,
      'task': task,
      'question': '0',
      'prompt': 'answer en why',
      'answer': record['caption'],
      'kind': '',
      'questions': 1,
      'question_bytes': 1.0,
      'scores': {EVIL: 1.0},
    }
    for record in synthetic.make(images=3, seeds=(0,))
  ]
  with contextlib.suppress(ValueError):
    evaluation.metrics_of(records)
  assert EVIL not in evaluation.metrics_of(records, strict=False)
  rows = evaluation.summarize(records, metrics=['exact'], resamples=5)
  assert evaluation.published(rows) == []
