"""Conversion between Hugging Face's config.json and `paligemma.Config`.

Released files leave out fields with defaults in transformers, so its defaults
are repeated here; settings that the models do not have are refused.

Source: the configs and the configuration classes of transformers 5.23.
"""

import dataclasses
import math
import sys
from typing import Any

from collab_jax import _validate
from collab_jax.models import gemma, paligemma, siglip

# The table's rows are a multiple of this, with room for <image> and one more.
_MULTIPLE, _EXTRA = 64, 2

# Hundreds of times the dimensions of the largest release.
_DEEPEST, _WIDEST = 1000, 2**24

# Released configs say 'gelu' where the tanh approximation is meant.
_GELU = ('gelu', 'gelu_fast', 'gelu_new', 'gelu_pytorch_tanh')

_CLASSES = ['PaliGemmaForConditionalGeneration', 'PaliGemmaModel']
_KNOWN_CLASSES = tuple([name] for name in reversed(_CLASSES))

_DEFAULTS = {
  'gemma': {
    'hidden_size': 2048,
    'intermediate_size': 16384,
    'num_hidden_layers': 18,
    'num_attention_heads': 8,
    'num_key_value_heads': 1,
    'head_dim': 256,
    'vocab_size': 257216,
  },
  'gemma2': {
    'hidden_size': 2304,
    'intermediate_size': 9216,
    'num_hidden_layers': 26,
    'num_attention_heads': 8,
    'num_key_value_heads': 4,
    'head_dim': 256,
    'vocab_size': 257216,
    'attn_logit_softcapping': 50.0,
    'final_logit_softcapping': 30.0,
    'query_pre_attn_scalar': 256,
    'sliding_window': 4096,
  },
  'vision': {
    'hidden_size': 1152,
    'intermediate_size': 4304,
    'num_hidden_layers': 27,
    'num_attention_heads': 16,
    'patch_size': 14,
  },
}


def padded(vocab_size: int) -> int:
  """Returns the rows of Hugging Face's table for a vocabulary."""
  return math.ceil((vocab_size + _EXTRA) / _MULTIPLE) * _MULTIPLE


def table_rows(text: dict[str, Any]) -> int:
  """Returns the rows of the embedding table, 0 if they are no number."""
  rows = text.get('vocab_size', _DEFAULTS['gemma']['vocab_size'])
  return rows if _validate.is_integer(rows) else 0


def read(d: dict[str, Any], name: str) -> paligemma.Config:
  """Reads a config.json.

  Args:
    d: Its contents.
    name: Name for the model.

  Returns:
    The configuration. The vocabulary is without the rows that pad the table.

  Raises:
    ValueError: The config is no PaliGemma's, or has settings that PaliGemma 1
      and 2 do not have.
  """
  if d.get('model_type', 'paligemma') != 'paligemma' or 'text_config' not in d:
    raise ValueError(
      f'model_type: got {d.get("model_type")!r} with the fields {sorted(d)}, '
      "expected 'paligemma' with text_config and vision_config"
    )
  _refuse_more(d)
  given = {'vision_config': {}, **d}
  text = _text(_object(given, 'text_config'), d)
  v = _object(given, 'vision_config')
  v = _filled(
    {**_DEFAULTS['vision'], 'num_image_tokens': 256}, v, 'vision_config'
  )
  _expect(v, 'vision_config', 'layer_norm_eps', (1e-6,))
  _expect(v, 'vision_config', 'hidden_act', _GELU)
  _expect(v, 'vision_config', 'num_channels', (3,))
  size = v.get('image_size')
  if size is None:
    size = v['patch_size'] * math.isqrt(v['num_image_tokens'])
  vision = siglip.VisionConfig(
    image_size=size,
    patch_size=v['patch_size'],
    width=v['hidden_size'],
    depth=v['num_hidden_layers'],
    num_heads=v['num_attention_heads'],
    mlp_dim=v['intermediate_size'],
    out_dim=text.width,
  )
  return paligemma.Config(vision, text, name)


def _refuse_more(d: dict[str, Any]) -> None:
  """Refuses what says that a model is more than its weights."""
  inner = [d.get(name) for name in ('text_config', 'vision_config')]
  for fields in (d, *(f for f in inner if isinstance(f, dict))):
    for name in ('quantization_config', 'compression_config'):
      if fields.get(name):
        raise ValueError(
          f'{name}: got {fields[name]!r:.60}, expected weights in floating'
          ' point; load the folder with transformers, dequantize() and'
          ' save_pretrained()'
        )
    if fields.get('auto_map'):
      raise ValueError(
        f'auto_map: got {fields["auto_map"]!r:.60}, expected none: code of a'
        ' folder is never run'
      )
  classes = d.get('architectures') or _CLASSES[:1]
  _expect({'architectures': classes}, 'config', 'architectures', _KNOWN_CLASSES)
  for name, value in (
    ('pad_token_id', 0),
    ('eos_token_id', 1),
    ('bos_token_id', 2),
  ):
    _expect(d, 'config', name, (None, [value], value))


def _text(given: dict[str, Any], top: dict[str, Any]) -> gemma.TextConfig:
  """Reads the decoder's dimensions."""
  kind = given.get('model_type', 'gemma')
  if kind not in ('gemma', 'gemma2'):
    raise _validate.error(
      'text_config: model_type',
      kind,
      "'gemma' (PaliGemma 1) or 'gemma2' (PaliGemma 2)",
    )
  t = _filled(_DEFAULTS[kind], given, 'text_config')
  _expect_rope(t)
  _expect(t, 'text_config', 'attention_bias', (False,))
  # Picture and prompt attend to each other in full.
  _expect(t, 'text_config', 'use_bidirectional_attention', (True,))
  act = t.get('hidden_activation') or t.get('hidden_act')
  _expect({'hidden_act': act}, 'text_config', 'hidden_act', (None, *_GELU))
  shared = gemma.TextConfig(
    width=t['hidden_size'],
    depth=t['num_hidden_layers'],
    mlp_dim=t['intermediate_size'],
    num_heads=t['num_attention_heads'],
    num_kv_heads=t['num_key_value_heads'],
    head_dim=t['head_dim'],
    vocab_size=_vocabulary(t['vocab_size'], top),
    norm_eps=_number(t, 'rms_norm_eps', 1e-6),
  )
  if kind == 'gemma':
    return shared
  scalar = t['query_pre_attn_scalar']
  return dataclasses.replace(
    shared,
    attn_softcap=_number(t, 'attn_logit_softcapping'),
    final_softcap=_number(t, 'final_logit_softcapping'),
    post_norms=True,
    query_scale=None if scalar == t['head_dim'] else scalar**-0.5,
    window=_window(t),
  )


def _object(
  fields: dict[str, Any], name: str, where: str = ''
) -> dict[str, Any]:
  """Returns a field that must be an object."""
  if not isinstance(fields[name], dict):
    raise ValueError(
      f'{where}{name}: got {fields[name]!r:.60}, expected an object'
    )
  return fields[name]


def _number(t: Any, name: str, default: Any = None) -> Any:
  """Returns a number that must be above 0; a cap may be null."""
  value = t.get(name, default)
  if value is None and 'softcap' in name:
    return None
  if _validate.is_number(value) and 0 < value <= sys.float_info.max:
    return value
  raise ValueError(
    f'text_config: {name}: got {value!r:.60}, expected a number above 0'
  )


def _expect_rope(t: dict[str, Any]) -> None:
  """Refuses other rotary positions in any of the fields of releases."""
  _expect(t, 'text_config', 'rope_theta', (10_000.0,))
  _expect(t, 'text_config', 'rope_scaling', (None,))
  inner = _object(
    {'rope_parameters': {}, **t}, 'rope_parameters', 'text_config: '
  )
  known = {'rope_theta': 10_000.0, 'rope_type': 'default'}
  for name in inner:
    where = 'text_config: rope_parameters'
    _expect(inner, where, name, (known.get(name),))


def _filled(
  defaults: dict[str, Any], given: dict[str, Any], where: str
) -> dict[str, Any]:
  """Adds fields that are missing or null, and checks the integers."""
  known = {**defaults, 'image_size': 224}
  filled = defaults | {
    k: v for k, v in given.items() if v is not None or 'softcap' in k
  }
  for name, default in known.items():
    if isinstance(default, int):
      _whole(filled.get(name, default), f'{where}: {name}')
  return filled


def _whole(value: Any, name: str) -> None:
  """Refuses values that are no dimensions, or would fill the memory."""
  most = _DEEPEST if name.endswith('layers') else _WIDEST
  if not _validate.is_integer(value) or not 0 < value <= most:
    raise ValueError(
      f'{name}: got {value!r:.60}, expected an integer from 1 to {most}'
    )


def _vocabulary(rows: int, top: dict[str, Any]) -> int:
  """Returns the vocabulary's size, without the rows that pad the table."""
  fields = ('vocab_size', '_vocab_size', 'image_token_index', 'image_token_id')
  for name in fields:
    size = top.get(name)
    if size is None:
      continue
    _whole(size, name)
    if size < rows == padded(size):
      return size
  return rows


def _window(t: dict[str, Any]) -> int | None:
  """Returns the sliding window, which even layers must have."""
  kinds = t.get('layer_types')
  usual = layer_types(t['num_hidden_layers'], sliding=True)
  if kinds is None or kinds == usual:
    return t['sliding_window']
  if kinds == layer_types(t['num_hidden_layers'], sliding=False):
    return None
  raise ValueError(
    f'text_config: layer_types: got {kinds}, expected {usual[:2]} in turns or '
    "'full_attention' only"
  )


def layer_types(depth: int, sliding: bool) -> list[str]:
  """Returns the kinds of attention by layer, in transformers' terms."""
  even = 'sliding_attention' if sliding else 'full_attention'
  return ['full_attention' if i % 2 else even for i in range(depth)]


def _expect(fields, where: str, name: str, known: tuple[Any, ...]) -> None:
  """Refuses settings that the models do not compute."""
  if name in fields and fields[name] not in known:
    raise ValueError(
      f'{where}: {name}: got {fields[name]!r}, expected {known[-1]!r}'
    )


def write(config: paligemma.Config, dtype: str) -> dict[str, Any]:
  """Makes the contents of a config.json.

  Args:
    config: The dimensions.
    dtype: The parameters' dtype, for instance 'bfloat16'.

  Returns:
    Fields that `read` and every release of transformers since 4.41 read.

  Raises:
    ValueError: The decoder is neither Gemma 1 nor Gemma 2.
  """
  t, v = config.text, config.vision
  return {
    'model_type': 'paligemma',
    'architectures': ['PaliGemmaForConditionalGeneration'],
    'text_config': _text_fields(config),
    'vision_config': {
      'model_type': 'siglip_vision_model',
      'hidden_size': v.width,
      'intermediate_size': v.mlp_dim,
      'num_hidden_layers': v.depth,
      'num_attention_heads': v.num_heads,
      'num_image_tokens': v.num_tokens,
      'image_size': v.image_size,
      'patch_size': v.patch_size,
      'projection_dim': v.out_dim,
      'hidden_act': 'gelu_pytorch_tanh',
      'layer_norm_eps': 1e-6,
      'vision_use_head': False,
    },
    'image_token_index': t.vocab_size,
    'hidden_size': t.width,
    'projection_dim': v.out_dim,
    'vocab_size': t.vocab_size,
    'pad_token_id': 0,
    'bos_token_id': 2,
    'eos_token_id': 1,
    'tie_word_embeddings': True,
    'torch_dtype': dtype,
  }


def _text_fields(config: paligemma.Config) -> dict[str, Any]:
  """Makes the contents of `text_config`."""
  t = config.text
  text = {
    'model_type': 'gemma2' if t.post_norms else 'gemma',
    'hidden_size': t.width,
    'intermediate_size': t.mlp_dim,
    'num_hidden_layers': t.depth,
    'num_attention_heads': t.num_heads,
    'num_key_value_heads': t.num_kv_heads,
    'num_image_tokens': config.vision.num_tokens,
    'head_dim': t.head_dim,
    'vocab_size': padded(t.vocab_size),
    'rms_norm_eps': t.norm_eps,
    'hidden_act': 'gelu_pytorch_tanh',
    'hidden_activation': 'gelu_pytorch_tanh',
  }
  if t.post_norms:
    scalar = t.query_scale**-2 if t.query_scale else t.head_dim
    text |= {
      'attn_logit_softcapping': t.attn_softcap,
      'final_logit_softcapping': t.final_softcap,
      'query_pre_attn_scalar': round(scalar),
      'sliding_window': t.window or 4096,
      'layer_types': layer_types(t.depth, sliding=t.window is not None),
    }
  elif t.attn_softcap or t.final_softcap or t.query_scale or t.window:
    raise ValueError(
      f'{config.name} has soft-caps, a query scale or a window but no post '
      'norms, for which Hugging Face has no class'
    )
  return text


def preprocessor(config: paligemma.Config) -> dict[str, Any]:
  """Makes the contents of a preprocessor_config.json."""
  size = config.vision.image_size
  return {
    'image_processor_type': 'SiglipImageProcessor',
    'processor_class': 'PaliGemmaProcessor',
    'image_seq_length': config.vision.num_tokens,
    'do_resize': True,
    'size': {'height': size, 'width': size},
    'resample': 3,
    'do_rescale': True,
    'rescale_factor': 1 / 255,
    'do_normalize': True,
    'image_mean': [0.5, 0.5, 0.5],
    'image_std': [0.5, 0.5, 0.5],
    'do_convert_rgb': True,
  }
