"""Dimensions of a model, as a config.json holds them."""

from collections.abc import Mapping
import sys
from typing import Any

from collab_jax import _validate

# Fields of a config.json: their kind and default.
_NEEDED = object()
_SIZE = ('an integer of at least 1', _NEEDED)
_DEPTH = ('an integer from 1 to 1000', _NEEDED)
_CAP = ('a number or null', None)
_TOP = {
  'name': ('a text', 'paligemma'),
  'image_size': _SIZE,
  'patch_size': _SIZE,
  'unroll': ('true or false', False),
}
_VIT = {'width': _SIZE, 'depth': _DEPTH, 'num_heads': _SIZE, 'mlp_dim': _SIZE}
_LLM = {
  **_VIT,
  'num_kv_heads': _SIZE,
  'head_dim': _SIZE,
  'vocab_size': _SIZE,
  'norm_eps': ('a number', 1e-6),
  'attn_logits_softcap': _CAP,
  'final_logits_softcap': _CAP,
  'post_norms': ('true or false', False),
  'query_scale': _CAP,
  'sliding_window': ('an integer or null', None),
}
_MOST = {_DEPTH[0]: 1000}
# Hundreds of times the largest release; products stay within 64 bits.
_WIDEST = 2**24
# The decoder's name in big_vision, which adds nothing to the dimensions.
_UNREAD = {'llm.variant'}


def read(
  d: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
  """Reads the nested fields of a config.json.

  Args:
    d: See `paligemma.Config.from_dict`.

  Returns:
    The fields of the model, of the encoder and of the decoder, all of them.

  Raises:
    ValueError: A field is missing, unknown, or of the wrong type.
  """
  _check_names(d)
  return (
    {n: _read(d, '', n, *kind) for n, kind in _TOP.items()},
    {n: _read(d['vit'], 'vit.', n, *kind) for n, kind in _VIT.items()},
    {n: _read(d['llm'], 'llm.', n, *kind) for n, kind in _LLM.items()},
  )


def _fits(value: Any, kind: str) -> bool:
  if isinstance(value, bool):
    return kind == 'true or false'
  if value is None:
    return kind.endswith('or null')
  if kind.startswith('an integer'):
    return isinstance(value, int) and 1 <= value <= _MOST.get(kind, value)
  if kind.startswith('a number'):
    # An integer may be beyond any float.
    limit = sys.float_info.max
    return isinstance(value, int | float) and -limit <= value <= limit
  return kind == 'a text' and isinstance(value, str)


def _read(d: Mapping[str, Any], part: str, name: str, kind: str, default: Any):
  value = d.get(name, default)
  if value is _NEEDED:
    raise ValueError(
      f'model config: field {part + name!r} is missing; expected image_size,'
      ' patch_size, vit{width depth num_heads mlp_dim} and llm{width depth'
      ' mlp_dim num_heads num_kv_heads head_dim vocab_size}'
    )
  if not _fits(value, kind):
    raise _validate.error(f'model config: {part}{name}', value, kind)
  if kind.startswith('an integer') and value is not None and value > _WIDEST:
    raise _validate.error(
      f'model config: {part}{name}',
      f'{value:.3g}' if value < 1e300 else 'more than 1e300',
      f'at most {_WIDEST}',
    )
  return value


def _check_names(d: Mapping[str, Any]) -> None:
  """Refuses fields that nothing reads, except foreign ones at the top.

  A recorded model has notes of its recording there; a tower's field there, or
  a misspelled one, is a mistake.
  """
  known = {*_TOP} | {f'vit.{n}' for n in _VIT} | {f'llm.{n}' for n in _LLM}
  last = {n.rpartition('.')[2] for n in known}
  foreign = d.keys() - {*_TOP, 'vit', 'llm'}
  got = {n for n in foreign if _validate.nearest(n, last)}
  for part, tower in (('vit', 'encoder'), ('llm', 'decoder')):
    inner = d.get(part)
    if not isinstance(inner, Mapping):
      kind = f'an object with the dimensions of the {tower}'
      raise _validate.error(f'model config: {part}', inner, kind)
    got |= {f'{part}.{n}' for n in inner} - known - _UNREAD
  if got:
    raise _validate.unknown('field of the model config', min(got), known)
