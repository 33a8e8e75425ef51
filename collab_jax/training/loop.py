"""The training run: vocabulary, steps, metrics, checkpoints, evaluation."""

import json
import os
import pathlib
from typing import Any

from absl import logging
import jax
from jax import numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tqdm

from collab_jax import captioner as captioner_lib
from collab_jax import checkpoints, data, metrics
from collab_jax.data import grammar, world
from collab_jax.models import paligemma
from collab_jax.models import tokenizer as tokenizer_lib
from collab_jax.training import batches, step, vocabulary


def make_tokenizer(config: Any) -> tokenizer_lib.Tokenizer:
  """Trains the vocabulary on the captions of the first training scenes."""
  texts = []
  for split in ('train', 'train_dense'):
    for index in range(config.vocabulary_scenes // 2):
      scene = world.sample(split, index)
      texts += grammar.captions(scene, world.generator(scene.seed, 2))
  # The prompt as often as a frequent caption, so that it is spelled in words.
  texts += [config.prompt] * config.vocabulary_scenes
  size = config.model.llm.vocab_size
  return tokenizer_lib.Tokenizer(vocabulary.train_tokenizer(texts, size))


def evaluate(
  model: paligemma.Model, config: Any, split: str
) -> dict[str, float]:
  """BLEU-4, CIDEr-D and slots on the first validation scenes."""
  caption = captioner_lib.Captioner(model, config.max_tokens, config.prompt)
  encode = jax.jit(lambda m, u8: m.project(m.encode_image(u8 / 127.5 - 1)))
  examples = data.scenes(split, config.eval_scenes)
  captions: list[str] = []
  infos, references = [], []
  for start in range(0, len(examples), config.batch_size):
    stop = min(start + config.batch_size, len(examples))
    batch = [examples[i] for i in range(start, stop)]
    images = np.stack([e.image for e in batch]).astype(np.float32)
    captions += caption(encode(model, images))
    references += [list(e.captions) for e in batch]
    infos += [e.info for e in batch]
  scores = {'bleu4': metrics.bleu(captions, references)['bleu4']}
  slots = [data.slots(c, info) for c, info in zip(captions, infos, strict=True)]
  for name in slots[0]:
    values = [v for v in (s[name] for s in slots) if v is not None]
    scores[name] = 100 * sum(values) / max(len(values), 1)
  return {f'{split}/{k}': round(v, 2) for k, v in scores.items()}


def train(config: Any, workdir: str | os.PathLike[str]) -> paligemma.Model:
  """Trains to the end, from the last checkpoint if there is one.

  Args:
    config: From configs/train_tiny.py.
    workdir: Gets tokenizer.model, checkpoints/, metrics.jsonl and, at the
      end, model/ in bfloat16, which `collab_jax.load` reads.

  Returns:
    The trained model, as it was written.

  Raises:
    ValueError: The folder belongs to a run with other settings, or they
      would lose metrics when the run is stopped.
  """
  _check_config(config)
  workdir = pathlib.Path(workdir).absolute()
  workdir.mkdir(parents=True, exist_ok=True)
  _check_settings(config, workdir / 'config.json')
  tokenizer = make_tokenizer(config)
  description = config.model.to_dict()
  dims = paligemma.Config.from_dict(description)
  tx = step.optimizer(config)
  state = step.init(config, dims, tx)
  options = ocp.CheckpointManagerOptions(
    max_to_keep=2, enable_async_checkpointing=False
  )
  with ocp.CheckpointManager(workdir / 'checkpoints', options=options) as saved:
    if saved.latest_step() is not None:
      state = saved.restore(
        saved.latest_step(), args=ocp.args.StandardRestore(state)
      )
      logging.info('goes on from step %d', int(state.step))
    state = _run(config, dims, tx, tokenizer, state, saved, workdir)
  params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), state.params['model'])
  checkpoints.save(workdir / 'model', params, description, tokenizer)
  return checkpoints.load(workdir / 'model', dtype='float32')


def _run(config, dims, tx, tokenizer, state, saved, workdir):
  """Takes the steps that are left."""
  first = int(state.step)
  log = _Log(workdir / 'metrics.jsonl', first)
  source = batches.Source(
    tokenizer,
    config.prompt,
    config.text_length,
    config.label_steps * config.batch_size,
    config.dense_share,
  )
  stream = batches.batches(source, config.batch_size, first)
  window = []
  bar = tqdm.tqdm(
    range(first, config.steps), initial=first, total=config.steps, unit='step'
  )
  for done in bar:
    captions = done >= config.label_steps
    state, losses = step.train_step(dims, tx, captions, state, next(stream))
    window.append(losses)
    now = done + 1
    if now % config.log_every == 0 or now == config.steps:
      window = jax.device_get(window)
      means = {
        k: round(float(np.mean([w[k] for w in window])), 4) for k in window[-1]
      }
      log.write({'step': now, **means})
      shown = ('caption', 'shape') if captions else ('shape', 'object')
      bar.set_postfix({k: means[k] for k in shown})
      window = []
    if (captions and now % config.eval_every == 0) or now == config.steps:
      model = paligemma.Model(state.params['model'], dims, tokenizer)
      for split in ('val', 'train_dense'):
        scores = evaluate(model, config, split)
        log.write({'step': now, **scores})
        tqdm.tqdm.write(f'step {now}: {scores}')
    if now % config.save_every == 0 or now == config.steps:
      saved.save(now, args=ocp.args.StandardSave(state))
  return state


class _Log:
  """A JSONL file that forgets what came after the step a run resumes at."""

  def __init__(self, path: pathlib.Path, first: int):
    kept = []
    if path.exists():
      for line in path.read_text().splitlines():
        try:
          entry = json.loads(line)
        except ValueError:  # a line that a kill cut short
          continue
        if entry['step'] <= first:
          kept.append(line + '\n')
    _write(path, ''.join(kept))
    self.path = path

  def write(self, entry: dict[str, Any]) -> None:
    with self.path.open('a') as f:
      f.write(json.dumps(entry) + '\n')


def _check_config(config) -> None:
  """Refuses what would make other metrics after a kill than without one."""
  for name in ('log_every', 'save_every', 'eval_every'):
    if config[name] < 1:
      raise ValueError(f'{name}: got {config[name]}, expected at least 1')
  # Each mean is over the steps since the last one, of the same losses.
  for name in ('save_every', 'label_steps'):
    if config[name] % config.log_every:
      raise ValueError(
        f'{name}: got {config[name]}, expected a multiple of log_every,'
        f' {config.log_every}'
      )


def _check_settings(config, path: pathlib.Path) -> None:
  """Writes the settings, or compares them with those of the first start."""
  settings = json.loads(json.dumps(config.to_dict()))
  if not path.exists():
    if (path.parent / 'checkpoints').exists():
      raise ValueError(
        f'{path.parent} holds checkpoints, but {path.name}, which tells how'
        ' they were made, is missing; take another --workdir'
      )
    _write(path, json.dumps(settings, indent=1) + '\n')
    return
  try:
    before = dict(json.loads(path.read_text()))
  except (TypeError, ValueError) as error:
    raise ValueError(
      f'{path} holds no settings ({error}); take another --workdir or remove'
      ' the old one'
    ) from error
  names = [*settings, *(n for n in before if n not in settings)]
  changed = [n for n in names if before.get(n) != settings.get(n)]
  if changed:
    raise ValueError(
      f'{path.parent} holds a run with other settings ({changed[0]}: got'
      f' {settings.get(changed[0])}, expected {before.get(changed[0])}); take'
      ' another --workdir or remove the old one'
    )


def _write(path: pathlib.Path, text: str) -> None:
  """Writes a file at once, never half of it."""
  draft = path.with_name(path.name + '.draft')
  draft.write_text(text)
  draft.replace(path)
