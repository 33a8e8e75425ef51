"""Files of a folder that count, and those that are refused by name."""

import dataclasses
import json
import math

from absl import flags
import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as safetensors

from collab_jax import checkpoints
from collab_jax.checkpoints import huggingface, trees
from collab_jax.commands import edge_model
from collab_jax.commands import inspect as inspect_command
from tests.checkpoints.released import (
  GOLDEN,
  MODELS,
  SHARD,
  assert_same,
  config_of,
  edit_config,
  npz_of,
)

QUERY = 'language_model.layers.0.self_attn.q_proj'


def test_single_file_counts_before_an_index(copy):
  folder = copy('hf_old_sharded')
  params = npz_of('pg1_56')
  params['img']['head']['bias'] = params['img']['head']['bias'] + 1
  huggingface.save(folder, params, config_of('pg1_56'))
  assert_same(checkpoints.load(folder).params, params)
  for i in (1, 2, 3):  # As transformers leaves the folder.
    (folder / SHARD.format(i)).unlink()
  assert_same(checkpoints.load(folder).params, params)
  roles = {f.name: f for f in checkpoints.describe(folder).files}
  assert roles['model.safetensors'].role == 'read'
  assert roles['model.safetensors.index.json'].role == 'passed over'


def test_variants(copy):
  folder = copy()
  (folder / 'model.safetensors').rename(folder / 'model.fp16.safetensors')
  with pytest.raises(FileNotFoundError, match=r"variant='fp16'"):
    checkpoints.load(folder)
  assert_same(checkpoints.load(folder, variant='fp16').params, npz_of('pg1_56'))
  with pytest.raises(FileNotFoundError, match=r'model\.bf16\.safetensors'):
    checkpoints.load(folder, variant='bf16')


def test_variant_with_an_index(copy):
  folder = copy('hf_old_sharded')
  index = folder / 'model.safetensors.index.json'
  index.rename(folder / 'model.safetensors.index.fp16.json')
  assert_same(checkpoints.load(folder, variant='fp16').params, npz_of('pg1_56'))


def test_pickles_are_never_read(copy):
  folder = copy()
  (folder / 'model.safetensors').rename(folder / 'pytorch_model.bin')
  with pytest.raises(FileNotFoundError, match='save_pretrained'):
    checkpoints.load(folder)


def adapter(folder, factors, **fields):
  folder.mkdir(exist_ok=True)
  tensors = {
    f'base_model.model.model.{name}': array for name, array in factors.items()
  }
  safetensors.save_file(tensors, folder / 'adapter_model.safetensors')
  config = {'peft_type': 'LORA', 'r': 2, 'lora_alpha': 8, **fields}
  (folder / 'adapter_config.json').write_text(json.dumps(config))
  return folder


def query_factors(config, rank=2):
  rng = np.random.default_rng(0)
  text = config.text
  rows = text.num_heads * text.head_dim
  a = rng.standard_normal((rank, text.width)).astype('f')
  b = rng.standard_normal((rows, rank)).astype('f')
  return {f'{QUERY}.lora_A.weight': a, f'{QUERY}.lora_B.weight': b}


@pytest.mark.parametrize('model', MODELS)
@pytest.mark.parametrize(
  ('fields', 'scale'),
  [
    ({}, 4),
    ({'use_rslora': True}, 8 / math.sqrt(2)),
    ({'lora_alpha': 1, 'alpha_pattern': {'q_proj': 6}}, 3),
    ({'r': 4, 'rank_pattern': {r'layers\.0.self_attn.q_proj': 2}}, 4),
  ],
)
def test_adapter_is_merged(copy, model, fields, scale):
  folder, config = copy(model=model), config_of(model)
  factors = query_factors(config)
  adapter(folder, factors, **fields)
  with pytest.raises(checkpoints.CheckpointError, match='collab-jax convert'):
    checkpoints.load(folder)
  base = checkpoints.load(folder, adapter=False)
  assert_same(base.params, npz_of(model))
  got = trees.flatten(checkpoints.load(folder, adapter=True).params)
  want = trees.flatten(npz_of(model))
  a, b = factors.values()
  text = config.text
  delta = (scale * (b @ a)).reshape(text.num_heads, text.head_dim, -1)
  name = 'llm/layers/attn/q_einsum/w'
  want[name][0] += delta.transpose(0, 2, 1)
  for path, array in want.items():
    np.testing.assert_allclose(got[path], array, atol=1e-5, err_msg=path)


def test_an_edge_merges_its_half(copy):
  folder = copy()
  vision, rng = config_of('pg1_56').vision, np.random.default_rng(0)
  shapes = {'A': (2, vision.width), 'B': (vision.out_dim, 2)}
  projector = 'multi_modal_projector.linear'
  adapter(
    folder,
    {
      f'{projector}.lora_{name}.weight': rng.standard_normal(shape, np.float32)
      for name, shape in shapes.items()
    },
  )
  edge = edge_model.EdgeModel(str(folder), adapter=str(folder))
  assert_same(
    edge.bind('kmeans(k=2)').model.params,
    checkpoints.load(folder, part='edge', adapter=True).params,
  )
  with pytest.raises(checkpoints.CheckpointError, match='adapter beside'):
    edge_model.EdgeModel(str(folder)).bind('kmeans(k=2)')


def test_adapter_is_rounded_once(copy):
  """Products are in float32, whatever the weights are stored in."""
  folder = copy()
  path = folder / 'model.safetensors'
  tensors = safetensors.load_file(path)
  half = {k: v.astype(ml_dtypes.bfloat16) for k, v in tensors.items()}
  safetensors.save_file(half, path)
  factors = query_factors(config_of('pg1_56'))
  adapter(folder, factors)
  got = checkpoints.load(folder, adapter=True, layout='stacked').params
  (name,) = (
    k
    for k in tensors
    if k.endswith('layers.0.self_attn.q_proj.weight') and 'language' in k
  )
  a, b = factors.values()
  want = half[name].astype('f') + np.float32(4) * (b @ a)
  want = want.astype(ml_dtypes.bfloat16).reshape(4, 16, -1).transpose(0, 2, 1)
  np.testing.assert_array_equal(
    got['llm']['layers']['attn']['q_einsum']['w'][0], want
  )


def test_whole_modules_of_an_adapter(copy, tmp_path):
  new = np.arange(48, dtype='f')
  other = adapter(
    tmp_path / 'other', {'multi_modal_projector.linear.bias': new}
  )
  got = checkpoints.load(copy(), adapter=other).params
  np.testing.assert_array_equal(got['img']['head']['bias'], new)


@pytest.mark.parametrize(
  ('fields', 'fault'),
  [
    ({'use_dora': True}, 'use_dora: got True'),
    ({'peft_type': 'IA3'}, "peft_type: got 'IA3'"),
    ({'init_lora_weights': 'pissa'}, 'init_lora_weights'),
    ({'r': 3}, 'of rank 3'),
    ({'r': 'x'}, 'r: got'),
    ({'alpha_pattern': {'(a+)+': 1}}, 'alpha_pattern'),
  ],
)
def test_adapters_that_cannot_be_merged(copy, fields, fault):
  folder = copy()
  adapter(folder, query_factors(config_of('pg1_56')), **fields)
  with pytest.raises(checkpoints.CheckpointError, match=fault):
    checkpoints.load(folder, adapter=True)


def test_adapter_alone(tmp_path):
  folder = adapter(tmp_path / 'a', query_factors(config_of('pg1_56')))
  with pytest.raises(FileNotFoundError, match='load its base with'):
    checkpoints.load(folder)


@pytest.mark.parametrize(
  ('name', 'fields', 'fault'),
  [
    (
      'preprocessor_config.json',
      {'image_mean': [0.48, 0.46, 0.41]},
      'image_mean',
    ),
    ('preprocessor_config.json', {'image_std': [1, 1, 1]}, 'image_std'),
    ('preprocessor_config.json', {'resample': 2}, 'resample'),
    ('preprocessor_config.json', {'rescale_factor': 1}, 'rescale_factor'),
    ('preprocessor_config.json', {'do_normalize': False}, 'do_normalize'),
    (
      'preprocessor_config.json',
      {'size': {'height': 224, 'width': 224}},
      'size',
    ),
    (
      'processor_config.json',
      {'image_processor': {'do_resize': False}},
      'do_resize',
    ),
    ('generation_config.json', {'eos_token_id': [1, 107]}, 'eos_token_id'),
    (
      'config.json',
      {'quantization_config': {'bits': 4}},
      'quantization_config',
    ),
    ('config.json', {'auto_map': {'AutoModel': 'x.Y'}}, 'auto_map'),
    ('config.json', {'architectures': ['ColPali']}, 'architectures'),
    ('config.json', {'eos_token_id': 2}, 'eos_token_id'),
  ],
)
def test_settings_of_another_model(copy, name, fields, fault):
  folder = copy()
  path = folder / name
  known = json.loads(path.read_text()) if path.exists() else {}
  path.write_text(json.dumps(known | fields))
  with pytest.raises(ValueError, match=rf'{name}: (config: )?{fault}: got'):
    checkpoints.load(folder)
  assert any(fault in text for text in checkpoints.describe(folder).refusals)


def test_a_server_makes_no_pictures(copy):
  folder = copy()
  (folder / 'preprocessor_config.json').write_text('{"resample": 2}')
  checkpoints.load(folder, part='server')
  with pytest.raises(checkpoints.CheckpointError, match='resample'):
    checkpoints.load(folder, part='edge')


def test_decoding_is_an_argument(copy):
  folder = copy()
  (folder / 'generation_config.json').write_text('{"num_beams": 4}')
  (remark,) = checkpoints.describe(folder).remarks
  assert 'num_beams=4' in remark
  checkpoints.load(folder)


@pytest.mark.parametrize('to', checkpoints.FORMATS)
def test_tokens_in_the_padding(tmp_path, to):
  """Fine-tuned with two tokens, for which no row had to be added."""
  folder = tmp_path / 'model'
  model = checkpoints.load('tiny', layout='stacked')
  size = model.config.text.vocab_size
  huggingface.save(folder, model.params, model.config)
  (folder / 'tokenizer.model').write_bytes(model.tokenizer.model_bytes)
  ids = {'<image>': size, '<cat_a>': size + 1, '<cat_b>': size + 2}
  (folder / 'added_tokens.json').write_text(json.dumps(ids))
  loaded = checkpoints.load(folder)
  assert (
    loaded.config.text.vocab_size == loaded.tokenizer.vocab_size == size + 3
  )
  assert loaded.tokenizer.encode('<cat_b>') == [size + 2]
  assert loaded.tokenizer.decode([size + 2]) == '<cat_b>'
  other = tmp_path / to
  checkpoints.convert(folder, other, to)
  again = checkpoints.load(other)
  assert again.config.text == loaded.config.text
  assert again.tokenizer == loaded.tokenizer
  assert_same(again.params, loaded.params)
  if to == 'huggingface':
    fields = json.loads((other / 'config.json').read_text())
    assert fields['image_token_index'] == size


def test_more_ids_than_rows_are_refused(copy):
  folder = copy()
  edit_config(folder, lambda c: c['text_config'].update(vocab_size=576))
  (folder / 'tokenizer.model').write_bytes(
    (GOLDEN / 'tokenizer.model').read_bytes()
  )
  ids = {f'<t{i}>': i for i in range(423, 577)}
  (folder / 'added_tokens.json').write_text(json.dumps(ids))
  with pytest.raises(ValueError, match='do not belong together'):
    checkpoints.load(folder)


def test_description(copy, capsys):
  folder = copy()
  (folder / 'pytorch_model.bin').touch()
  (folder / 'notes\x1b[31m.txt').touch()
  description = checkpoints.describe(folder)
  assert description.format == 'huggingface'
  assert description.config == checkpoints.config_of(folder)
  assert not description.refusals
  assert dataclasses.is_dataclass(description)
  assert str(description).endswith('loads')
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  assert inspect_command.main(['inspect', str(folder)]) == 0
  text = capsys.readouterr().out
  assert 'pytorch_model.bin' in text
  assert '\x1b' not in text


def test_inspection_of_a_shipped_model(capsys):
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  assert inspect_command.main(['inspect', 'tiny']) == 0
  assert capsys.readouterr().out.rstrip().endswith('loads')


def test_a_shipped_name_is_described():
  described = checkpoints.describe('tiny')
  assert described.path == checkpoints.folder('tiny')
  assert not described.refusals
  with pytest.raises(ValueError, match="did you mean 'tiny'"):
    checkpoints.describe('tinny')


def test_an_adapter_is_described(copy, tmp_path):
  folder, config = copy(), config_of('pg1_56')
  beside = adapter(tmp_path / 'lora', query_factors(config))
  described = checkpoints.describe(folder, adapter=beside)
  assert not described.refusals
  assert described.adapter == beside
  roles = {f.name: f for f in described.files}
  for name in ('adapter_config.json', 'adapter_model.safetensors'):
    assert roles[str(beside / name)].role == 'read'
    assert 'merged into the weights' in roles[str(beside / name)].reason
  assert str(described).endswith(f'loads, with the adapter {beside} merged')
  adapter(folder, query_factors(config))
  described = checkpoints.describe(folder, adapter=True)
  roles = {f.name: f for f in described.files}
  assert roles['adapter_config.json'].role == 'read'
  assert str(described).endswith('merged')
  described = checkpoints.describe(folder, adapter=False)
  assert str(described).endswith('loads')
  # Beside the folder's own, another one counts.
  described = checkpoints.describe(folder, adapter=beside)
  roles = {f.name: f for f in described.files}
  assert roles['adapter_config.json'].role == 'passed over'


@pytest.mark.parametrize('part', ['edge', 'server'])
def test_description_of_a_part(tmp_path, part, capsys):
  folder = tmp_path / part
  tiny = checkpoints.folder('tiny')
  checkpoints.convert(tiny, folder, 'orbax', part=part)
  assert checkpoints.describe(folder).refusals
  described = checkpoints.describe(folder, part=part)
  assert not described.refusals
  assert (described.vocabulary is None) == (part == 'edge')
  with pytest.raises(ValueError, match=r"part: got 'half', expected one of"):
    checkpoints.describe(folder, part='half')


def test_settings_of_pictures_concern_the_edge(copy):
  folder = copy()
  (folder / 'preprocessor_config.json').write_text('{"resample": 2}')
  assert checkpoints.describe(folder, part='edge').refusals
  assert not checkpoints.describe(folder, part='server').refusals


def _with(folder, name, number):
  """Puts a number into a file's tensor."""
  path = folder / 'model.safetensors'
  if not path.exists():
    path = folder / 'adapter_model.safetensors'
  tensors = safetensors.load_file(path)
  found = next(key for key in tensors if key.endswith(name))
  tensors[found] = tensors[found].copy()
  tensors[found].flat[-1] = number
  safetensors.save_file(tensors, path)


@pytest.mark.parametrize('number', [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize('dtype', [None, 'bfloat16', 'float16'])
def test_weights_that_are_not_finite_are_refused(copy, number, dtype):
  folder = copy()
  _with(folder, 'layers.1.mlp.fc1.bias', number)
  said = rf'Dense_0/bias: got {number}, expected finite numbers'
  with pytest.raises(checkpoints.CheckpointError, match=said):
    checkpoints.load(folder, dtype=dtype)
  checkpoints.load(folder, part='server')


@pytest.mark.parametrize('number', [math.nan, math.inf])
def test_adapters_that_are_not_finite_are_refused(copy, tmp_path, number):
  folder = copy()
  other = adapter(tmp_path / 'lora', query_factors(config_of('pg1_56')))
  _with(other, 'q_proj.lora_B.weight', number)
  said = rf'adapter_model.safetensors: .*q_proj.lora_B.weight: got {number},'
  with pytest.raises(checkpoints.CheckpointError, match=said):
    checkpoints.load(folder, adapter=other)


@pytest.mark.parametrize('index', [0, 1, trees._CHECKED, trees._CHECKED + 9])
def test_every_block_is_checked(index):
  array = np.ones((2, trees._CHECKED), ml_dtypes.bfloat16)
  array[-1, -1] = ml_dtypes.finfo(array.dtype).max
  trees.check_finite(array, 'x')
  array.flat[index] = np.nan
  with pytest.raises(checkpoints.CheckpointError, match='x: got nan'):
    trees.check_finite(array.T, 'x')


@pytest.mark.parametrize(
  'name', ['tokenizer.json', 'tokenizer_config.json', 'added_tokens.json']
)
def test_a_folder_in_the_place_of_a_tokenizer_is_named(copy, name):
  folder = copy()
  (folder / 'tokenizer.model').write_bytes(
    (GOLDEN / 'tokenizer.model').read_bytes()
  )
  (folder / name).unlink(missing_ok=True)
  (folder / name).mkdir()
  with pytest.raises(ValueError, match=rf'{name}: got a folder, expected a fi'):
    checkpoints.load(folder)
  assert name in checkpoints.describe(folder).refusals[0]


@pytest.mark.parametrize(
  ('name', 'fields'),
  [
    ('preprocessor_config.json', {'do_sharpen': True, 'gamma': 2.2}),
    ('processor_config.json', {'image_processor': {'do_sharpen': True}}),
  ],
)
def test_unknown_settings_of_pictures_are_named(copy, caplog, name, fields):
  folder = copy()
  path = folder / name
  known = json.loads(path.read_text()) if path.exists() else {}
  path.write_text(json.dumps(known | fields))
  (remark,) = checkpoints.describe(folder).remarks
  assert 'do_sharpen=True' in remark
  assert not checkpoints.describe(folder, part='server').remarks
  checkpoints.load(folder)
  assert caplog.text.count('do_sharpen=True') == 1
