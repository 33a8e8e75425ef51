"""config.json: defaults, what is refused, and the way back."""

import json

import pytest

from collab_jax import checkpoints
from collab_jax.checkpoints import huggingface, huggingface_config, trees
from collab_jax.models import paligemma, zoo
from tests.checkpoints.released import config_of, edit_config


def released(text, vision, **top):
  return {'text_config': text, 'vision_config': vision, **top}


@pytest.mark.parametrize(
  ('fields', 'decoder', 'size'),
  [
    (released({}, {}, vocab_size=257152), 'paligemma-3b', 224),
    (
      released(
        {
          'model_type': 'gemma',
          'hidden_size': 2048,
          'intermediate_size': 16384,
          'num_hidden_layers': 18,
          'num_attention_heads': 8,
          'num_key_value_heads': 1,
          'num_image_tokens': 1024,
          'vocab_size': 257216,
          'hidden_act': 'gelu',
          'head_dim': None,
        },
        {'hidden_size': 1152, 'num_image_tokens': 1024, 'hidden_act': 'gelu'},
        model_type='paligemma',
        _vocab_size=257152,
      ),
      'paligemma-3b',
      448,
    ),
    (
      released(
        {'model_type': 'gemma2', 'eos_token_id': [1, 107]},
        {'image_size': 896},
        image_token_index=257152,
      ),
      'paligemma2-3b',
      896,
    ),
    (
      released(
        {
          'model_type': 'gemma2',
          'hidden_size': 4608,
          'intermediate_size': 36864,
          'num_hidden_layers': 46,
          'num_attention_heads': 32,
          'num_key_value_heads': 16,
          'head_dim': 128,
          'query_pre_attn_scalar': 144,
          'rope_parameters': {'rope_theta': 10000.0, 'rope_type': 'default'},
        },
        {'image_size': 224},
        image_token_id=257152,
      ),
      'paligemma2-28b',
      224,
    ),
  ],
  ids=['bare', '3b', '2-3b', '2-28b'],
)
def test_missing_fields_take_their_defaults(fields, decoder, size):
  got = huggingface_config.read(fields, 'x')
  want = zoo.config(decoder, size)
  window = 4096 if decoder.startswith('paligemma2') else None
  assert vars(got.text) == vars(want.text) | {'window': window}
  assert got.vision == want.vision


@pytest.mark.parametrize('name', zoo.NAMES)
def test_configs_round_trip(name):
  config = zoo.card(name).config
  fields = json.loads(json.dumps(huggingface_config.write(config, 'bfloat16')))
  assert huggingface_config.read(fields, name) == config
  assert fields['text_config']['vocab_size'] == 257216
  assert fields['image_token_index'] == 257152


@pytest.mark.parametrize(
  ('where', 'field', 'value'),
  [
    (None, 'model_type', 'llava'),
    ('text_config', 'model_type', 'gemma3_text'),
    ('text_config', 'rope_theta', 1e6),
    ('text_config', 'hidden_act', 'silu'),
    ('text_config', 'attention_bias', True),
    ('text_config', 'num_hidden_layers', 'three'),
    ('text_config', 'hidden_size', -1),
    ('vision_config', 'layer_norm_eps', 1e-5),
    ('vision_config', 'hidden_act', 'quick_gelu'),
    ('vision_config', 'image_size', 224.0),
    (None, 'text_config', None),
    (None, 'text_config', 'x'),
    (None, 'vision_config', None),
    (None, 'vision_config', [1]),
    (None, 'vocab_size', 'big'),
    ('text_config', 'rope_parameters', [1]),
    ('text_config', 'rope_parameters', {'rope_theta': 1e6}),
    ('text_config', 'rope_parameters', {'full_attention': {}}),
    ('text_config', 'rope_scaling', {'type': 'linear', 'factor': 2}),
    ('text_config', 'rms_norm_eps', 'x'),
    ('text_config', 'rms_norm_eps', -1),
    ('text_config', 'rms_norm_eps', float('nan')),
    ('text_config', 'head_dim', 7),
    ('text_config', 'num_hidden_layers', True),
    ('text_config', 'num_hidden_layers', 10**8),
    ('text_config', 'use_bidirectional_attention', False),
    ('vision_config', 'num_hidden_layers', 10**8),
    ('vision_config', 'num_channels', 1),
    ('vision_config', 'num_image_tokens', 'x'),
  ],
)
def test_what_our_models_cannot_do_is_refused(copy, where, field, value):
  folder = copy()
  edit_config(
    folder, lambda d: (d[where] if where else d).update({field: value})
  )
  with pytest.raises(trees.CheckpointError, match=rf'config\.json: .*{field}'):
    checkpoints.load(folder)


@pytest.mark.parametrize('value', ['x', -3, 0, float('inf'), True])
def test_caps_that_are_none(copy, value):
  folder = copy('hf_new', 'pg2_56')
  name = 'attn_logit_softcapping'
  edit_config(folder, lambda d: d['text_config'].update({name: value}))
  with pytest.raises(trees.CheckpointError, match=f'{name}: got'):
    checkpoints.load(folder)


@pytest.mark.parametrize(
  ('kinds', 'window'),
  [
    (huggingface_config.layer_types(4, sliding=True), 4096),
    (huggingface_config.layer_types(4, sliding=False), None),
  ],
)
def test_layer_types(copy, kinds, window):
  folder = copy('hf_new', 'pg2_56')
  edit_config(folder, lambda d: d['text_config'].update(layer_types=kinds))
  assert huggingface.read_config(folder).text.window == window


def test_odd_layers_that_slide_are_refused(copy):
  folder = copy('hf_new', 'pg2_56')
  kinds = huggingface_config.layer_types(4, sliding=True)[::-1]
  edit_config(folder, lambda d: d['text_config'].update(layer_types=kinds))
  with pytest.raises(trees.CheckpointError, match='layer_types'):
    checkpoints.load(folder)


def test_config_without_a_class_of_theirs():
  config = config_of('pg1_56').to_dict()
  config['llm']['attn_logits_softcap'] = 5.0
  with pytest.raises(ValueError, match='no post norms'):
    huggingface_config.write(paligemma.Config.from_dict(config), 'float32')
