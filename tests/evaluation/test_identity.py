"""Settings and pictures of a run are compared, by content, when it goes on."""

import contextlib
import dataclasses
import json
import os
import shutil

import jax
import numpy as np
from PIL import Image
import pytest

from collab_jax import captioner as captioning
from collab_jax import (
  checkpoints,
  codecs,
  data,
  evaluation,
  random_keys,
  studies,
)
from collab_jax.evaluation import identity
from collab_jax.models import tokenizer
from collab_jax.training import vocabulary
from configs import baselines, channel, rate, tradeoff
from tests import standin

COLOURS = {'red': (255, 0, 0), 'blue': (0, 0, 255), 'green': (0, 255, 0)}
CAPTIONS = {name: f'a {name} square' for name in COLOURS}


def make_folder(folder, names=('red', 'blue'), captions=None):
  folder.mkdir(exist_ok=True)
  for name in names:
    picture = np.full((40, 40, 3), COLOURS[name], np.uint8)
    picture[:20, :20] = 90
    Image.fromarray(picture).save(folder / f'{name}.png')
  lines = [
    json.dumps({'image': f'{n}.png', 'captions': [(captions or CAPTIONS)[n]]})
    for n in names
  ]
  (folder / 'test.jsonl').write_text('\n'.join(lines))
  return folder


def run(folder, path, model=None, method='hf_bicubic', **captioner):
  model = standin.small() if model is None else model
  return evaluation.evaluate(
    [codecs.FeatureCodec(model, 'kmeans(k=2)')],
    captioner=captioning.Captioner(model, **{'max_tokens': 3} | captioner),
    data=data.jsonl(
      folder, 'test', size=model.config.vision.image_size, method=method
    ),
    path=path,
    progress=False,
  )


@pytest.fixture(scope='module')
def begun(tmp_path_factory):
  root = tmp_path_factory.mktemp('begun')
  run(make_folder(root / 'pets'), root / 'records.jsonl')
  return root


@pytest.fixture
def root(begun, tmp_path):
  """A copy of a run, whose last record is missing: it would go on."""
  shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
  path = tmp_path / 'records.jsonl'
  path.write_text(path.read_text().splitlines(keepends=True)[0])
  return tmp_path


@contextlib.contextmanager
def flag(name, value):
  before = getattr(jax.config, name)
  jax.config.update(name, value)
  try:
    yield
  finally:
    jax.config.update(name, before)


def other_tokenizer():
  texts = [*CAPTIONS.values(), 'caption en', *'abcdefghijklmnopqrstuvwxyz']
  texts += [t for s in data.scenes('train', limit=100) for t in s.captions]
  size = standin.small().config.text.vocab_size
  words = tokenizer.Tokenizer(vocabulary.train_tokenizer(texts, size))
  return dataclasses.replace(standin.small(), tokenizer=words)


def other_weights():
  model = standin.small()
  return model.replace(params=jax.tree.map(lambda p: p * 1.01, model.params))


def other_dtype():
  return checkpoints.load(standin.folder(), dtype='bfloat16')


def other_products():
  model = standin.small()
  return model.replace(config=model.config.with_compute_dtype('bfloat16'))


def other_computation():
  model = standin.small()
  text = dataclasses.replace(model.config.text, final_softcap=9.0)
  return model.replace(config=dataclasses.replace(model.config, text=text))


# Changes of one setting each, by the name that the error has to say.
CHANGES = {
  'model.tokenizer': lambda root, go: go(model=other_tokenizer()),
  'model.checksum': lambda root, go: go(model=other_weights()),
  'model.dtype': lambda root, go: go(model=other_dtype()),
  'model.compute_dtype': lambda root, go: go(model=other_products()),
  'model.config': lambda root, go: go(model=other_computation()),
  'captioner.prompt': lambda root, go: go(prompt='describe'),
  'captioner.max_tokens': lambda root, go: go(max_tokens=4),
  'captioner.decoding': lambda root, go: go(decoding='beam2'),
  'preprocess': lambda root, go: go(method='bv_bilinear'),
}
FLAGS = {
  'random.jax_threefry_partitionable': ('jax_threefry_partitionable', False),
  'random.jax_random_seed_offset': ('jax_random_seed_offset', 1),
  'random.jax_enable_x64': ('jax_enable_x64', True),
  'precision': ('jax_default_matmul_precision', 'highest'),
}


def refused(root, said, go):
  before = (root / 'records.jsonl').read_bytes()
  with pytest.raises(evaluation.SettingsError) as error:
    go()
  assert said in str(error.value)
  assert (root / 'records.jsonl').read_bytes() == before


@pytest.mark.parametrize('name', CHANGES)
def test_another_setting_is_refused_by_its_name(root, name):
  def go(**change):
    run(root / 'pets', root / 'records.jsonl', **change)

  refused(root, f'{name}: the file has', lambda: CHANGES[name](root, go))


@pytest.mark.parametrize('name', FLAGS)
def test_another_flag_of_jax_is_refused_by_its_name(root, name):
  with flag(*FLAGS[name]):
    refused(
      root,
      f'{name}: the file has',
      lambda: run(root / 'pets', root / 'records.jsonl'),
    )


def _replaced(folder):
  picture = np.full((40, 40, 3), (9, 9, 9), np.uint8)
  Image.fromarray(picture).save(folder / 'red.png')


def _corrected(folder):
  make_folder(folder, captions={'red': 'a ruby tile', 'blue': 'a blue square'})


def _prepended(folder):
  make_folder(folder, ('green', 'red', 'blue'))


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    (_replaced, 'picture 0: other pixels'),
    (_corrected, 'picture 0: other captions'),
    (_prepended, 'picture 0: other captions'),
  ],
)
def test_other_pictures_and_captions_are_refused(root, change, said):
  change(root / 'pets')
  refused(root, said, lambda: run(root / 'pets', root / 'records.jsonl'))


def test_other_data_without_a_picture_in_common_are_refused(root):
  path = root / 'records.jsonl'
  record = json.loads(path.read_text())
  path.write_text(json.dumps({**record, 'image_id': 77}) + '\n')
  (root / 'pets').rename(root / 'dogs')
  refused(
    root,
    "data: the file has 'pets/test', this run 'dogs/test'",
    lambda: run(root / 'dogs', path),
  )


def test_names_and_places_decide_nothing(root, begun, tmp_path_factory):
  path = root / 'records.jsonl'
  (root / 'pets').rename(root / 'dogs')
  for picture in (root / 'dogs').iterdir():
    os.utime(picture, (1, 1))
  moved = tmp_path_factory.mktemp('moved') / '0123abcd'
  shutil.copytree(standin.folder(), moved)
  model = checkpoints.load(moved)
  model = model.replace(config=dataclasses.replace(model.config, name='other'))
  records = run(root / 'dogs', path, model)
  expected = evaluation.read_records(begun / 'records.jsonl')
  for record in (*records, *expected):
    del record['seconds']
  assert records == expected  # The names as well: those of the beginning.
  assert len(evaluation.read_records(path)) == 2


def test_a_list_may_grow_at_its_end(root):
  make_folder(root / 'pets', ('red', 'blue', 'green'))
  records = run(root / 'pets', root / 'records.jsonl')
  assert [r['references'][0] for r in records] == [*CAPTIONS.values()]


def test_a_run_of_other_versions_goes_on_with_a_warning(root, caplog):
  sidecar = root / 'records.settings.json'
  settings = json.loads(sidecar.read_text())
  settings['versions']['jax'] = '0.1.0'
  sidecar.write_text(json.dumps(settings))
  assert len(run(root / 'pets', root / 'records.jsonl')) == 2
  assert 'was begun with jax 0.1.0, and goes on with jax' in caplog.text


@pytest.mark.parametrize(
  'content',
  [b'', b'{"format": 1, "mod', b'[1]', b'3', b'\xff\xfe\x00', b'[' * 9999],
)
def test_damaged_settings_are_one_line(root, content):
  (root / 'records.settings.json').write_bytes(content)
  refused(
    root,
    'records.settings.json',
    lambda: run(root / 'pets', root / 'records.jsonl'),
  )


def test_settings_of_another_run_beside_records_are_refused(root, tmp_path):
  other = tmp_path / 'other.jsonl'
  run(root / 'pets', other, prompt='describe')
  other.with_suffix('.settings.json').replace(root / 'records.settings.json')
  before = (root / 'records.jsonl').read_bytes()
  with pytest.raises(
    evaluation.SettingsError, match=r'run: got \w+ in its rec'
  ):
    run(root / 'pets', root / 'records.jsonl', prompt='describe')
  assert (root / 'records.jsonl').read_bytes() == before


@pytest.mark.parametrize('name', [None, 7, 'another'])
def test_records_keep_their_names_whatever_the_settings_say(root, name):
  path = root / 'records.settings.json'
  settings = json.loads(path.read_text())
  settings['data'] = settings['model']['name'] = name
  path.write_text(json.dumps(settings))
  records = run(root / 'pets', root / 'records.jsonl')
  assert evaluation.read_records(root / 'records.jsonl') == records
  assert len({(r['model'], r['data']) for r in records}) == 1


def test_settings_that_lack_a_part_are_refused(root):
  sidecar = root / 'records.settings.json'
  settings = json.loads(sidecar.read_text())
  settings['model'] = 'paligemma'
  sidecar.write_text(json.dumps(settings))
  refused(
    root,
    'model.checksum: the file has None',
    lambda: run(root / 'pets', root / 'records.jsonl'),
  )


def smoke(config):
  with config.unlocked():
    config.model = str(standin.folder())
  return config


STUDIES = {
  'tradeoff': lambda: studies.TradeoffStudy(
    smoke(tradeoff.get_config('mode=smoke'))
  ),
  'rate': lambda: studies.RateStudy(smoke(rate.get_config('mode=smoke'))),
  'channel': lambda: studies.ChannelStudy(
    smoke(channel.get_config('mode=smoke'))
  ),
  'baselines': lambda: studies.BaselineStudy(
    smoke(baselines.get_config('mode=smoke'))
  ),
}


@pytest.mark.parametrize('kind', STUDIES)
def test_every_study_goes_on_with_its_own_settings_only(
  kind, tmp_path, monkeypatch
):
  # All studies make their records by this call, whose refusals are above.
  asked = []
  monkeypatch.setattr(
    evaluation, 'evaluate', lambda bound, **how: asked.append(how) or []
  )
  monkeypatch.setattr(codecs.CodecSpec, 'bind', lambda spec, model: spec)
  study = STUDIES[kind]()
  monkeypatch.setattr(type(study), 'specs', [])
  study.run(tmp_path / 'records.jsonl', progress=False)
  (how,) = asked
  assert how['path'] == tmp_path / 'records.jsonl'
  captioner = how['captioner'].describe()
  assert captioner['prompt'] == study.config.prompt
  assert captioner['max_tokens'] == study.config.max_tokens


def test_runs_of_other_settings_are_not_read_together(begun, tmp_path):
  other = tmp_path / 'other.jsonl'
  run(begun / 'pets', other, max_tokens=2, prompt='describe')
  with pytest.raises(ValueError, match=r'captioner\.max_tokens 2 instead of 3'):
    evaluation.read_records(begun / 'records.jsonl', other)
  # Where nobody knows their settings, they are refused all the same.
  other.with_suffix('.settings.json').unlink()
  with pytest.raises(ValueError, match='made with other settings: read the'):
    evaluation.read_records(begun / 'records.jsonl', other)


def test_shards_of_one_run_are_read_together(begun, tmp_path):
  shard = tmp_path / 'shard.jsonl'
  lines = (begun / 'records.jsonl').read_text().splitlines(keepends=True)
  shard.write_text(lines[1])
  (begun / 'first.jsonl').write_text(lines[0])
  assert len(evaluation.read_records(begun / 'first.jsonl', shard)) == 2


@pytest.mark.parametrize('field', ['pixels', 'references'])
def test_records_of_other_pictures_are_not_read_together(
  begun, tmp_path, field
):
  other = tmp_path / 'other.jsonl'
  record = json.loads((begun / 'records.jsonl').read_text().splitlines()[0])
  record[field] = 'f' * 16 if field == 'pixels' else ['a dog']
  other.write_text(json.dumps(record | {'seed': 1}) + '\n')
  with pytest.raises(ValueError, match=f'picture 0: got other {field} than in'):
    evaluation.read_records(begun / 'records.jsonl', other)


def test_names_are_no_part_of_the_fingerprint():
  model = standin.small()
  captioner = captioning.Captioner(model)
  settings = identity.settings(captioner, 'a/test', None)
  renamed = json.loads(json.dumps(settings))
  renamed['model']['name'], renamed['data'] = 'b', 'b/test'
  renamed['versions'] = {}
  assert identity.of_run(renamed) == identity.of_run(settings)
  renamed['precision'] = 'highest'
  assert identity.of_run(renamed) != identity.of_run(settings)


@pytest.mark.parametrize('impl', ['rbg', 'unsafe_rbg', 'threefry2x32'])
def test_keys_of_any_kind_give_the_same_messages(impl):
  model = standin.small()
  codec = codecs.FeatureCodec(model, 'random(k=4)')
  size = model.config.vision.image_size
  images = np.zeros((3, size, size, 3), np.uint8)
  expected = codec.encode(images, random_keys.make(7))
  for key in (
    jax.random.key(7, impl=impl),
    jax.random.PRNGKey(7, impl=impl),
  ):
    assert codec.encode(images, key) == expected
    one = [codec.encode(images[i : i + 1], key, [i])[0] for i in range(3)]
    assert one == expected
  with flag('jax_default_prng_impl', impl):
    assert codec.encode(images, jax.random.key(7)) == expected


@pytest.mark.parametrize('impl', ['rbg', 'unsafe_rbg', 'threefry2x32'])
def test_captions_are_drawn_alike_with_keys_of_any_kind(impl):
  model = standin.small()
  captioner = captioning.Captioner(model, 4, decoding='sample(temperature=2)')
  prefix = np.random.default_rng(0).normal(size=(2, 4, model.config.text.width))
  prefix = prefix.astype(np.float32)
  expected = captioner(prefix, key=jax.random.split(random_keys.make(3), 2))
  keys = jax.random.split(random_keys.make(3), 2)
  raw = jax.random.key_data(keys)
  assert captioner(prefix, key=raw) == expected
  one = captioner(prefix, key=random_keys.make(3))
  assert captioner(prefix, key=jax.random.key(3, impl=impl)) == one
  assert captioner(prefix, key=jax.random.PRNGKey(3, impl=impl)) == one


@pytest.mark.parametrize(
  'wrong', [3, np.zeros(2), np.zeros(3, np.uint32), 'key', None]
)
def test_what_is_no_key_is_refused(wrong):
  with pytest.raises(ValueError, match=r'key: got .* expected jax\.random'):
    random_keys.convert('key', wrong)
