"""Training on captioned pictures: examples, a run, and the same on a mesh."""

import json

import jax
import numpy as np
import pytest

from collab_jax import captioner, checkpoints, codecs, data, studies
from collab_jax.models import zoo
from collab_jax.training import batches, captioned, finetune, validate
from configs import finetune as finetune_config
from configs import rate as rate_config
from tests import launching, sharded, standin
from tests.checkpoints import released
from tests.data import photos


class Words:
  """Reader of pictures that show their number, each with two captions."""

  name = 'words'

  def __init__(self, count):
    self.count = count

  def __len__(self):
    return self.count

  def __getitem__(self, i):
    image = np.full((8, 8, 3), i, np.uint8)
    return data.Example(image, i, (f'{i} a', f'{i} b'))


def source(count=7, length=40, seed=0):
  tokenizer = standin.small().tokenizer
  return captioned.CaptionedExamples(
    Words(count), tokenizer, 'caption en', length, seed
  )


def numbers(examples, indices):
  return [int(examples[i]['image'][0, 0, 0]) for i in indices]


def caption(examples, index):
  row = examples[index]
  ids = row['tokens'][row['mask_loss'] > 0]
  return examples.tokenizer.decode(ids)


def test_each_epoch_has_every_picture_in_its_own_order():
  examples = source()
  epochs = [numbers(examples, range(7 * e, 7 * e + 7)) for e in range(4)]
  assert all(sorted(epoch) == [*range(7)] for epoch in epochs)
  assert len(set(map(tuple, epochs))) == 4
  assert numbers(source(), range(7)) == epochs[0]
  assert numbers(source(seed=1), range(7)) != epochs[0]


def test_captions_are_drawn_among_those_of_the_picture():
  examples = source()
  written = {caption(examples, i) for i in range(70)}
  assert written == {f'{i} {letter}' for i in range(7) for letter in 'ab'}
  assert [caption(examples, i) for i in range(9)] == [
    caption(source(), i) for i in range(9)
  ]


def test_long_captions_are_cut_off_and_counted():
  examples = source()
  assert examples.describe() == 'words: 7 pictures'
  prompt = len(examples.tokenizer.prompt('caption en'))
  short = source(length=prompt + 2)
  row = short[0]
  assert row['tokens'].shape == (prompt + 2,)
  assert row['mask_loss'].tolist() == [0] * prompt + [1, 1]
  assert '14 of the first 14 captions are cut off' in short.describe()
  with pytest.raises(ValueError, match=r'text_length: got .*of the prompt'):
    source(length=prompt)


def test_a_batch_depends_on_its_number_alone():
  examples = source()
  stream = batches.batches(examples, 4, 0)
  third = [next(stream) for _ in range(3)][2]
  again = next(batches.batches(examples, 4, 2))
  for name, rows in third.items():
    np.testing.assert_array_equal(rows, again[name], err_msg=name)


def settings(folder, dataset, **changes):
  config = finetune_config.get_config('mode=smoke')
  return sharded.on_pictures(config, folder, dataset, **changes)


@pytest.fixture(scope='module')
def coco(tmp_path_factory):
  """A folder of ten pictures to train on, and two to score by."""
  folder = tmp_path_factory.mktemp('coco')
  photos.coco(folder, range(1, 11), 'train2014')
  photos.coco(folder, range(11, 13), 'val2014')
  return folder


@pytest.fixture(scope='module', params=['huggingface', 'npz'])
def start(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp('models') / request.param
  return released.at_224(request.param, folder)


def test_a_released_layout_trains_on_coco_and_loads(start, coco, tmp_path):
  config = settings(start, coco, train='lora', saved='float32')
  model = checkpoints.load(start, layout='stacked')
  tuned = finetune.finetune(config, model, tmp_path)
  lines = [
    json.loads(line)
    for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()
  ]
  assert [line['step'] for line in lines if 'distill' in line] == [2, 4]
  assert 'identity' in lines[-1]
  before, after = (m.params['llm']['layers'] for m in (model, tuned))
  assert before['mlp']['linear'].shape == after['mlp']['linear'].shape
  assert not np.array_equal(before['mlp']['linear'], after['mlp']['linear'])
  loaded = checkpoints.load(tmp_path / 'model')
  reader = data.coco(coco, 'val2014', size=224)
  codec = codecs.FeatureCodec(loaded, 'merge(k=4)')
  write = captioner.Captioner(loaded, 4)
  image = reader[0].image[None]
  message = codec.encode(image, jax.random.key(0))
  assert len(write(codec.decode(message))) == 1


def test_a_mesh_takes_the_same_steps(coco, tmp_path):
  start = released.at_224('huggingface', tmp_path / 'start')
  arguments = start, coco, tmp_path / 'runs'
  # XLA runs collectives of eight devices on a pool of as many threads, which
  # may all wait for one that finds none free: a pool of 64 leaves some.
  pool = {'NPROC': '64'}
  done = launching.run(
    '-m', 'tests.sharded', 'tune', *arguments, **launching.EIGHT, **pool
  )
  assert done.returncode == 0, done.stderr
  for train, (alone, *meshes) in json.loads(
    done.stdout.splitlines()[-1]
  ).items():
    assert len(alone) == 4, train
    for losses in meshes:
      # Sums in other orders; the lines have four digits.
      np.testing.assert_allclose(losses, alone, rtol=1e-3, atol=2e-4)


def test_pictures_of_any_size_are_allowed_and_labels_are_not():
  config = finetune_config.get_config('mode=released')
  for name in ('paligemma-3b-pt-224', 'paligemma2-10b-pt-448'):
    validate.check(config, zoo.card(name).config)
  config.weights.label = 1.0
  with pytest.raises(ValueError, match=r'weights\.label: got 1, expected 0'):
    validate.check(config)


def test_a_released_model_by_name_and_path_is_compared_on_the_pictures(coco):
  config = finetune_config.get_config('mode=released')
  rate = rate_config.get_config('')
  changes = {'data': 'coco', 'data_dir': str(coco), 'data_split': 'val2014'}
  rate.update({**changes, **config.compare.rate})
  said = 'model_path: is empty'
  with pytest.raises(ValueError, match=said):
    studies.FinetuneStudy(config, rate, {}).validate()
  config.model_path = '/path/to/folder'  # Which is not read yet.
  studies.FinetuneStudy(config, rate, {}).validate()


def test_other_pictures_are_another_run(coco, tmp_path):
  start = released.at_224('npz', tmp_path / 'start')
  model = checkpoints.load(start, layout='stacked')
  config = settings(start, coco)
  first = finetune.depends_on(config, model)['data']
  assert first == finetune.depends_on(config, model)['data']
  config.limit = 9
  assert first != finetune.depends_on(config, model)['data']


def test_damaged_pictures_are_left_out(tmp_path, caplog):
  for ids, split in ((range(1, 11), 'train2014'), (range(11, 13), 'val2014')):
    photos.coco(tmp_path / 'coco', ids, split)
  start = released.at_224('npz', tmp_path / 'start')
  model = checkpoints.load(start, layout='stacked')
  config = settings(start, tmp_path / 'coco')
  whole = finetune.depends_on(config, model)['data']
  for split in ('train2014', 'val2014'):
    path = min((tmp_path / 'coco' / split).iterdir())
    path.write_bytes(b'none')
  assert len(finetune.make_source(config, model).reader) == 9
  assert len(finetune.validation_reader(config, model.config)) == 1
  assert caplog.text.count('left out: ') == 2
  damaged = finetune.depends_on(config, model)['data']
  assert all(a != b for a, b in zip(damaged, whole, strict=True))
