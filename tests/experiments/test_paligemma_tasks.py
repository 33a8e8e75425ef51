"""Config of tasks: protocols, checkpoints, and settings left to the task."""

import pytest

from collab_jax import checkpoints, codecs, tasks
from collab_jax import config as config_lib
from collab_jax.models import zoo
from collab_jax.studies import build
from configs import baselines, channel, paligemma_tasks, rate, tradeoff
from configs import tasks as tasks_config


@pytest.mark.parametrize('name', paligemma_tasks.CHECKPOINTS)
def test_each_task_has_its_checkpoint(name):
  config = paligemma_tasks.get_config(f'task={name}')
  task = tasks.make(name)
  checkpoint = paligemma_tasks.CHECKPOINTS[name]
  assert checkpoint in (*task.checkpoints, 'paligemma-3b-mix')
  assert (checkpoint == 'paligemma-3b-mix') == (not task.checkpoints)
  assert config.model == f'{checkpoint}-224'
  assert config.model in zoo.NAMES
  settings = build.text_settings(config)
  assert settings.task == task
  assert settings.metrics == task.metrics
  assert settings.max_tokens == task.max_tokens
  assert settings.decoding == task.decoding
  assert settings.preprocess == task.preprocess
  assert settings.prompt == ''


def test_protocols():
  score = paligemma_tasks.get_config()
  assert (score.methods, score.ks, score.full) == ((), (), True)
  sweep = paligemma_tasks.get_config('task=gqa,protocol=sweep,res=448')
  assert sweep.model == 'paligemma-3b-ft-gqa-448'
  assert 8 in sweep.ks
  assert 'avif(quality=50,size=112,strip=true)' in sweep.codecs
  small = paligemma_tasks.get_config('model=tiny,protocol=sweep')
  side = checkpoints.load('tiny').config.vision.image_size
  for name in small.codecs:
    spec = codecs.parse(name)
    assert spec.at(side) == spec
  assert not any('packed' in method for method in sweep.methods)
  packed = paligemma_tasks.get_config('protocol=sweep,axes=a/b.safetensors')
  assert {*packed.methods} - {*sweep.methods} == {
    'packed(book=a/b.safetensors)'
  }
  with pytest.raises(config_lib.ConfigError, match='leave one out'):
    paligemma_tasks.get_config('model=paligemma-3b-mix-448,res=224')
  with pytest.raises(config_lib.ConfigError, match="task: got 'okvq'"):
    paligemma_tasks.get_config('task=okvq')


def test_settings_of_a_config_go_before_the_task():
  config = paligemma_tasks.get_config('task=okvqa')
  config.max_tokens, config.metrics = 5, ('vqa',)
  config.decoding, config.preprocess = 'beam2', 'bv_bilinear'
  settings = build.text_settings(config)
  assert settings[2:] == (5, 'beam2', ('vqa',), 'bv_bilinear')


@pytest.mark.parametrize(
  ('field', 'value', 'said'),
  [
    ('prompt', 'caption en', "prompt: got 'caption en', expected '' with task"),
    ('data', 'coco', "data: got 'coco', expected '' with task=okvqa"),
  ],
)
def test_conflicts_are_refused(field, value, said):
  config = paligemma_tasks.get_config('task=okvqa')
  config[field] = value
  with pytest.raises(ValueError, match=said):
    build.text_settings(config)


@pytest.mark.parametrize('configs', [baselines, channel, rate, tradeoff])
def test_configs_of_captions_leave_all_to_a_task(configs):
  config = configs.get_config('mode=smoke,task=scenes_box')
  task = tasks.make('scenes_box')
  assert build.text_settings(config) == (
    *(task, '', task.max_tokens, task.decoding, task.metrics),
    task.preprocess,
  )
  assert config.data_split == ''


def test_all_settings_that_are_not_left_are_said():
  config = tradeoff.get_config()
  config.task = 'scenes_box'
  with pytest.raises(ValueError, match='prompt: got') as raised:
    build.text_settings(config)
  said = str(raised.value)
  assert '--config=FILE:task=scenes_box' in said
  for name in ('prompt', 'data', 'max_tokens', 'metrics', 'preprocess'):
    assert f'--config.{name}=' in said


def test_captions_are_the_default():
  config = tradeoff.get_config()
  settings = build.text_settings(config)
  assert settings.task is None
  assert settings.prompt == 'caption en'
  assert settings.metrics[0] == 'bleu4'
  del config.task  # As of an older version.
  assert build.text_settings(config) == settings


def test_lines_are_of_tasks_that_scenes_have():
  config = tasks_config.get_config()
  titles = [title for title, *_ in config.lines]
  assert titles[0] == 'captions'
  assert len({*titles}) == len(titles)
  for _, name, kinds in config.lines:
    task = tasks.make(name)
    reader = task.load(limit=20)
    asked = {q.kind for i in range(20) for q in reader[i].questions}
    assert {*kinds} <= asked or not kinds
