"""Compares every recorded array of big_vision with ours and prints a table.

  python benchmarks/parity.py
  python benchmarks/parity.py --due

The tolerances hold for the float32 weights, and for the bfloat16 weights in the
rows bf16w/, where big_vision was run with them. The other columns show what
rounding the weights alone does to a model; no tolerance is due there, and --due
leaves them out.
"""

import argparse
from collections.abc import Callable, Sequence
import dataclasses
import functools
import json
import pathlib
import sys

import jax
from jax import numpy as jnp
import numpy as np

from collab_jax import checkpoints
from collab_jax.models import (
  attention,
  common,
  decoding,
  gemma,
  paligemma,
  siglip,
)

GOLDEN = pathlib.Path(__file__).parents[1] / 'tests/golden'
MODELS = ('pg1_56', 'pg2_56')
WEIGHTS = ('model.npz', 'model.f16.npz', 'model.bf16.npz')
STEPS = 24

# Image features, what the decoder computes from them, and what it computes from
# a bfloat16 cache. There a difference of 1e-6 may round a key to a neighbour:
# changing our own input by 1e-6 moves our own logits by up to 1.04e-2.
FEATURES, DECODER, ROUNDED = 2e-5, 3e-4, 2e-2

# An array of our own making: the bfloat16 cache without that chance. Each row
# is decoded from big_vision's features and from 20 that differ by 1e-6; the
# nearest to the recorded logits counts. They were recorded with JAX 0.10; sums
# of 0.7 and 0.12 differ by more than 1e-6, and a small number of one cache is
# rounded the other way in all of them (4.3e-4).
NEAREST = 'dec_bf16cache/step_logits_capped, nearest of 21'
NEAREST_TOLERANCE = DECODER if jax.__version_info__[:2] == (0, 10) else 5e-4

# Given, not computed: inputs, replaced features, and where big_vision's
# right-aligned cache begins and ends.
GIVEN = ('rep/encoded', 'repz/zimg', 'prefill_cache_begin', 'prefill_cache_end')

Arrays = dict[str, np.ndarray]


def tolerance(name: str) -> float:
  """The absolute tolerance of an array; 0 for integers and masks."""
  if name.endswith(('tokens', 'attn_mask', 'prefill_seq_len')):
    return 0.0
  if name == NEAREST:
    return NEAREST_TOLERANCE
  if name.startswith('dec_bf16cache/'):
    return ROUNDED
  group, _, array = name.partition('/')
  image = group == 'enc' or array in ('encoded', 'zimg', 'embedded_seq')
  return FEATURES if image else DECODER


def load_golden(name: str) -> Arrays:
  """The recorded arrays, with the padding of the caches set to zero."""
  with np.load(GOLDEN / name / 'golden.npz', allow_pickle=False) as file:
    golden = dict(file)
  begin, end = (golden[f'dec/prefill_cache_{k}'] for k in ('begin', 'end'))
  for cache in ('dec/prefill_k_cache', 'dec/prefill_v_cache'):
    slot = np.arange(golden[cache].shape[2])
    valid = (slot >= begin[:, None]) & (slot < end[:, None])
    golden[cache] *= valid[:, None, :, None, None]
  golden[NEAREST] = golden['dec_bf16cache/step_logits_capped']
  return golden


def load_model(name: str, weights: str, unroll: bool) -> paligemma.Model:
  """Loads a recorded model."""
  folder = GOLDEN / name
  config = json.loads((folder / 'config_bv.json').read_text())
  return checkpoints.load(
    folder / weights,
    config=config | {'unroll': unroll},
    compute_dtype='float32',
  )


def computed(golden: Arrays) -> list[str]:
  """Names of the arrays that a model computes."""
  return [
    name
    for name in golden
    if not name.startswith('inputs/') and not name.endswith(GIVEN)
  ]


def image_tower(model: paligemma.Model, golden: Arrays) -> Arrays:
  """Everything before the decoder: enc/, rep/zimg, and bf16w/'s features."""
  params = model.params['img']
  config = common.resolved(model.config.vision, params)
  encoded, zimg, rep = _features(model, golden)
  out = {'bf16w/encoded': encoded, 'bf16w/zimg': zimg, 'rep/zimg': rep}
  out |= {'enc/encoded': encoded, 'enc/zimg': zimg}
  with jax.default_matmul_precision('highest'):
    x = siglip.stem(config, params, jnp.asarray(golden['inputs/images']))
    out['enc/stem'] = x.reshape(golden['enc/stem'].shape)
    x = out['enc/with_posemb'] = x + params['pos_embedding']
    for i, layer in enumerate(siglip.unstack(config, params)):
      x = out[f'enc/block{i:02d}'] = _block(config, layer, x)
  return jax.tree.map(np.asarray, out)


def whole_sequences(model: paligemma.Model, golden: Arrays) -> Arrays:
  """The decoder on image, prompt and suffix at once: full/, rep/, repz/."""
  config, llm = model.config.text, model.params['llm']
  text, mask_ar = (
    jnp.asarray(golden[f'inputs/full_{k}']) for k in ('text', 'mask_ar')
  )

  @jax.jit
  def run(model, zimg):
    x, positions, valid = paligemma.sequence(
      llm, paligemma.as_prefix(zimg), text, jnp.ones(text.shape, bool)
    )
    image_ar = jnp.zeros(zimg.shape[:2], jnp.int32)
    block = jnp.cumsum(jnp.concatenate([image_ar, mask_ar], 1), axis=1)
    mask = attention.PrefixLMMask(valid, block, positions)
    encoded = gemma.forward(config, llm, x, positions, mask)
    norm = common.RMSNorm(config.norm_eps)
    capped = gemma.unembed(config, llm, encoded)
    return {
      'embedded_seq': x,
      'attn_mask': mask.rows(block, positions),
      'llm_encoded': encoded,
      'llm_pre_logits': norm.apply({'params': llm['final_norm']}, encoded),
      'seq_logits': capped,
      'text_logits': model.logits(zimg, text, mask_ar, softcap=False),
      'text_logits_capped': capped[:, zimg.shape[1] :],
    }

  out = {}
  for group, zimg in _prefixes(model, golden).items():
    with jax.default_matmul_precision('highest'):
      results = run(model, zimg)
    if group == 'dec/':
      out |= {f'full/{name}': value for name, value in results.items()}
      out['bf16w/text_logits'] = results['text_logits']
    else:
      for name in ('text_logits', 'text_logits_capped', 'llm_encoded'):
        out[group + name] = results[name]
  logp = jax.nn.log_softmax(out['full/text_logits'][:, :-1])
  labels = np.asarray(text)[:, 1:, None]
  logp = np.take_along_axis(np.asarray(logp), labels, 2)[..., 0]
  weight = golden['inputs/full_mask_loss'][:, 1:]
  out['full/example_nll'] = -(logp * weight).sum(1) / weight.sum(1)
  return jax.tree.map(np.asarray, out)


def greedy(model: paligemma.Model, golden: Arrays) -> Arrays:
  """Decoding with a float32 cache: dec/, rep/, repz/."""
  features = _prefixes(model, golden)
  # Rows do not know each other: the three kinds of features in one batch.
  zimg = jnp.concatenate(list(features.values()))
  tokens, capped = decode(model, golden, zimg, 'float32')
  first, out = _prefill(model, golden, zimg)
  for i, group in enumerate(features):
    rows = slice(3 * i, 3 * i + 3)
    out |= _steps(group, first[rows], tokens[rows], capped[rows])
  return out


def greedy_bfloat16(model: paligemma.Model, golden: Arrays) -> Arrays:
  """Decoding with a bfloat16 cache: dec_bf16cache/ and `NEAREST`."""
  given = golden['enc/zimg']
  noise = np.random.default_rng(0).standard_normal((21, *given.shape))
  noise[0] = 0
  near = given * (1 + 1e-6 * noise)
  zimg = np.stack([_prefixes(model, golden)['dec/'], *near])
  zimg = jnp.asarray(zimg.reshape(-1, *given.shape[1:]), jnp.float32)
  tokens, capped = decode(model, golden, zimg, 'bfloat16')
  first, _ = _prefill(model, golden, zimg[:3], 'bfloat16')
  out = _steps('dec_bf16cache/', first, tokens[:3], capped[:3])
  near = capped[3:].reshape(21, *golden[NEAREST].shape)
  best = np.abs(near - golden[NEAREST]).max((2, 3)).argmin(0)
  return out | {NEAREST: near[best, np.arange(3)]}


# Those that compute the arrays bf16w/.
BFLOAT16_PARTS = image_tower, whole_sequences
PARTS = *BFLOAT16_PARTS, greedy, greedy_bfloat16


def measure(
  model: paligemma.Model,
  golden: Arrays,
  parts: Sequence[Callable[..., Arrays]] = PARTS,
) -> Arrays:
  """Computes recorded arrays from the recorded inputs.

  Args:
    model: The model.
    golden: What `load_golden` returns; of the outputs, only those that
      `NEAREST` needs are read.
    parts: Functions that compute the arrays.

  Returns:
    Arrays by their recorded names and in their recorded layout.
  """
  return {k: v for part in parts for k, v in part(model, golden).items()}


def difference(ours: np.ndarray, golden: np.ndarray) -> float:
  """The largest absolute difference; infinite if shapes differ."""
  if ours.shape != golden.shape:
    return float('inf')
  return float(np.abs(ours.astype(np.float64) - golden).max())


@functools.partial(jax.jit, static_argnums=0)
def _block(config: siglip.VisionConfig, layer: siglip.Params, x: jax.Array):
  return siglip.EncoderBlock(config).apply({'params': layer}, x)


@jax.jit
def _image(model: paligemma.Model, images, rep):
  encoded = model.encode_image(images)
  return encoded, model.project(encoded), model.project(rep)


def _features(model: paligemma.Model, golden: Arrays) -> list[jax.Array]:
  """Features at both cut points, and the replaced ones projected."""
  with jax.default_matmul_precision('highest'):
    return _image(model, golden['inputs/images'], golden['rep/encoded'])


def _prefixes(model: paligemma.Model, golden: Arrays) -> dict[str, jax.Array]:
  """Returns the decoder's inputs: features and both replacements."""
  _, own, rep = _features(model, golden)
  return {'dec/': own, 'rep/': rep, 'repz/': jnp.asarray(golden['repz/zimg'])}


@dataclasses.dataclass(frozen=True)
class Recorder(decoding.Greedy):
  """Greedy search that keeps the logits it chose from, on the host."""

  logits: list[np.ndarray]

  def choose(self, logits, score, done, keys) -> decoding.Choice:
    """Keeps the logits of every row, then takes the best token."""
    jax.debug.callback(
      lambda x: self.logits.append(np.asarray(x)), logits, ordered=True
    )
    return super().choose(logits, score, done, keys)


def decode(model, golden, zimg, cache_dtype) -> tuple[np.ndarray, ...]:
  """Tokens and capped logits; no row stops, as when it was recorded."""
  recorder = Recorder([])

  @jax.jit
  def run(model, zimg):
    return model.generate(
      zimg,
      *_prompts(golden, zimg),
      STEPS,
      eos=-1,
      method=recorder,
      cache_dtype=cache_dtype,
    )

  with jax.default_matmul_precision('highest'):
    tokens = np.asarray(run(model, zimg))
  jax.effects_barrier()
  return tokens, np.stack(recorder.logits, axis=1)


def _prefill(model, golden, zimg, cache_dtype='float32'):
  """The first token's logits without the cap, and the cache."""
  config = model.config.text
  prompt, mask = _prompts(golden, zimg)

  @jax.jit
  def run(model, zimg):
    llm = model.params['llm']
    x = paligemma.sequence(llm, paligemma.as_prefix(zimg), prompt, mask)
    last = zimg.shape[1] + mask.sum(1) - 1
    x, cache = gemma.prefill(config, llm, *x, last, cache_dtype)
    return gemma.unembed(config, llm, x, cap=False), cache

  with jax.default_matmul_precision('highest'):
    first, cache = run(model, zimg)
  shape = golden['dec/prefill_k_cache'].shape
  return first, _align(cache, np.asarray(mask[: shape[0]]), shape)


def _prompts(golden: Arrays, zimg) -> tuple[jax.Array, jax.Array]:
  """The recorded prompts and their masks, once for each three rows."""
  times = len(zimg) // len(golden['inputs/dec_text'])
  return (
    jnp.tile(golden['inputs/dec_text'], (times, 1)),
    jnp.tile(golden['inputs/dec_mask_input'], (times, 1)),
  )


def _steps(group: str, first, tokens, capped) -> Arrays:
  """big_vision's view: the first step uncapped, the later ones capped."""
  mixed = np.concatenate([np.asarray(first)[:, None], capped[:, 1:]], axis=1)
  best = np.sort(mixed)[..., -2:]
  return {
    f'{group}tokens': tokens,
    f'{group}step_logits': mixed,
    f'{group}step_logits_capped': capped,
    f'{group}margin': best[..., 1] - best[..., 0],
  }


def _align(cache: gemma.Cache, mask, shape) -> Arrays:
  """Our left-aligned cache in big_vision's right-aligned layout."""
  if isinstance(cache, gemma.StackedCache):
    keys, values = (np.moveaxis(np.asarray(t), 1, 0) for t in cache)
  else:
    keys, values = (np.stack(layers) for layers in zip(*cache, strict=True))
  end = values.shape[3]
  image = np.ones((len(mask), end - mask.shape[1]), bool)
  valid = np.concatenate([image, mask], axis=1)
  out = {'dec/prefill_seq_len': valid.sum(1)}
  for name, ours in (
    ('k', keys.transpose(1, 0, 4, 2, 3)),  # [L B K E S] to [B L S K E]
    ('v', values.transpose(1, 0, 3, 2, 4)),  # [L B K S E]
  ):
    aligned = np.zeros(shape, np.float32)
    for row, keep in enumerate(valid):
      aligned[row, :, end - keep.sum() : end] = ours[row][:, keep]
    out[f'dec/prefill_{name}_cache'] = aligned
  return out


def _failed(name: str, weights: str, ours: Arrays, golden: Arrays) -> bool:
  """Returns whether an array misses a tolerance that holds for the weights."""
  return _is_due(name, weights) and (
    difference(ours[name], golden[name]) > tolerance(name)
  )


def _is_due(name: str, weights: str) -> bool:
  """Returns whether an array's tolerance holds for these weights."""
  rounded = name.startswith('bf16w/')
  return weights == ('model.bf16.npz' if rounded else 'model.npz')


def _cell(name: str, weights: str, ours: Arrays, golden: Arrays) -> str:
  """Returns the difference of an array as the table shows it."""
  if name not in ours or (
    name.startswith('bf16w/') and not _is_due(name, weights)
  ):
    return '-'
  diff = difference(ours[name], golden[name])
  shown = f'{diff:.1e}'
  if not tolerance(name):
    shown = 'differs' if diff else 'identical'
  return shown + ' FAILS' * _failed(name, weights, ours, golden)


def main() -> int:
  """Prints the table; returns 1 if an array is out of tolerance."""
  parser = argparse.ArgumentParser()
  parser.add_argument(
    '--due', action='store_true', help='only arrays with a tolerance'
  )
  due = parser.parse_args().due
  print(f'{jax.default_backend()}, jax {jax.__version__}, highest precision\n')
  cells: dict[str, list[str]] = {}
  heads, failed = [], []
  for name in MODELS:
    golden = load_golden(name)
    for weights in WEIGHTS[::2] if due else WEIGHTS:
      kind = weights.removeprefix('model').removesuffix('npz').strip('.')
      heads.append(f'{name} {kind or "f32"}')
      model = load_model(name, weights, unroll=False)
      parts = BFLOAT16_PARTS if due and kind else PARTS
      ours = measure(model, golden, parts)
      for array in computed(golden):
        if _failed(array, weights, ours, golden):
          failed.append(f'{heads[-1]} {array}')
        cell = _cell(array, weights, ours, golden)
        cells.setdefault(array, []).append(cell)
  print('| array | tolerance | ' + ' | '.join(heads) + ' |')
  print('|---' * (2 + len(heads)) + '|')
  for array, row in cells.items():
    limit = f'{tolerance(array):.0e}' if tolerance(array) else 'identical'
    print(f'| {array} | {limit} | ' + ' | '.join(row) + ' |')
  print(f'\n{len(failed)} arrays out of tolerance', *failed, sep='\n')
  return int(bool(failed))


if __name__ == '__main__':
  sys.exit(main())
