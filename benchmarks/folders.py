r"""Compares folders that Hugging Face's libraries write with what they load.

  python benchmarks/folders.py --out=folders.json

Makes folders with the installed transformers and peft, from the two recorded
models: shards, single files, variants, adapters, added tokens and resized
tables. Each is loaded by them and here; weights, ids of texts, greedy tokens
and their logits must be equal, or the folder refused. Needs torch, transformers
and peft; prints a row for each folder and ends with 1 if one differs.
PYTHONPATH with another transformers in front compares with that.
"""

import argparse
from collections.abc import Callable, Iterator
import importlib
import json
import pathlib
import shutil
import sys
import tempfile
from typing import Any

import numpy as np
from safetensors import numpy as safetensors

import collab_jax as cj
from collab_jax import checkpoints
from collab_jax.checkpoints import huggingface, shards
from collab_jax.models import tokenizer
from collab_jax.training import vocabulary

GOLDEN = pathlib.Path(__file__).parents[1] / 'tests/golden'
MODELS = ('pg1_56', 'pg2_56')
IMAGE = 512  # id of the placeholder, the first behind the vocabulary
STEPS = 8
TEXTS = (
  'caption en',
  'a red star left of cat_a',
  'a catalog, a cat and concat',
  'one  <c>  two <c>three',
  'a red cat <d> on  red cat',
)
# The added tokens, each a kind.
KINDS: dict[str, dict[str, Any]] = {
  'plain': {'content': '<cat_a>'},
  'with a space': {'content': 'red cat'},
  'single_word': {'content': 'cat', 'single_word': True},
  'lstrip': {'content': '<c>', 'lstrip': True},
  'rstrip': {'content': '<c>', 'rstrip': True},
  'special': {'content': '<d>', 'special': True},
}


def torch_model(folder: pathlib.Path, **options: Any) -> Any:
  """Loads a folder with transformers, in float32."""
  transformers: Any = importlib.import_module('transformers')

  return transformers.PaliGemmaForConditionalGeneration.from_pretrained(
    folder, attn_implementation='eager', **options
  ).eval()


def tokenizer_with(folder: pathlib.Path, tokens: list[dict[str, Any]]) -> None:
  """Writes a tokenizer of 512 pieces, the placeholder and added tokens."""
  transformers: Any = importlib.import_module('transformers')

  texts = [t for i in range(300) for t in cj.data.scenes('train')[i].captions]
  data = vocabulary.train_tokenizer([*texts, 'caption en'], 400)
  words = tokenizer.Tokenizer(data)
  missing = IMAGE - words.vocab_size
  words = words.extended(f'<loc{i:04d}>' for i in range(missing))
  with tempfile.TemporaryDirectory() as scratch:
    path = pathlib.Path(scratch)
    (path / 'tokenizer.model').write_bytes(words.model_bytes)
    made = transformers.GemmaTokenizerFast.from_pretrained(path)
    made.add_tokens([f'<loc{i:04d}>' for i in range(missing)])
    image = transformers.AddedToken('<image>', special=True, normalized=False)
    made.add_tokens([image], special_tokens=True)
    for fields in tokens:
      special = fields.get('special', False)
      made.add_tokens(
        [transformers.AddedToken(**fields)], special_tokens=special
      )
    made.save_pretrained(folder)


def base(name: str) -> Any:
  """Loads a recorded model with transformers."""
  return torch_model(GOLDEN / name / 'hf_old_sharded')


def whole_after_shards(name: str, folder: pathlib.Path) -> dict[str, Any]:
  """Saves in shards, changes a weight, saves in one file."""
  model = base(name)
  model.save_pretrained(folder, max_shard_size='100KB')
  changed(model).save_pretrained(folder)
  return {}


def shards_after_whole(name: str, folder: pathlib.Path) -> dict[str, Any]:
  """Saves in one file, changes a weight, saves in shards."""
  model = base(name)
  model.save_pretrained(folder)
  changed(model).save_pretrained(folder, max_shard_size='100KB')
  return {}


def changed(model: Any) -> Any:
  """Changes one of a model's weights."""
  state = model.state_dict()
  key = next(k for k in state if k.endswith('linear.bias'))
  state[key] += 1
  return model


def variant(name: str, folder: pathlib.Path) -> dict[str, Any]:
  """Saves a variant in one file."""
  base(name).save_pretrained(folder, variant='fp16')
  return {'variant': 'fp16'}


def variant_in_shards(name: str, folder: pathlib.Path) -> dict[str, Any]:
  """Saves a variant in shards."""
  base(name).save_pretrained(folder, variant='fp16', max_shard_size='100KB')
  return {'variant': 'fp16'}


def adapter(**settings: Any) -> Callable[..., dict[str, Any]]:
  """Returns a maker of a folder with an adapter beside its base."""

  def make(name: str, folder: pathlib.Path) -> dict[str, Any]:
    peft: Any = importlib.import_module('peft')
    torch: Any = importlib.import_module('torch')

    model = base(name)
    model.save_pretrained(folder)
    torch.manual_seed(0)
    config = peft.LoraConfig(
      **{
        'r': 4,
        'lora_alpha': 6,
        'target_modules': ['q_proj', 'down_proj'],
        'init_lora_weights': False,
        **settings,
      }
    )
    peft.get_peft_model(model, config).save_pretrained(folder)
    return {'adapter': True}

  return make


def added(*kinds: str) -> Callable[..., dict[str, Any]]:
  """Returns a maker of a folder with tokens in the rows of the padding."""

  def make(name: str, folder: pathlib.Path) -> dict[str, Any]:
    base(name).save_pretrained(folder)
    tokenizer_with(folder, [KINDS[kind] for kind in kinds])
    return {}

  return make


def resized(rows: int) -> Callable[..., dict[str, Any]]:
  """Returns a maker of a folder with a table of more or fewer rows."""

  def make(name: str, folder: pathlib.Path) -> dict[str, Any]:
    model = base(name)
    model.resize_token_embeddings(rows)
    model.save_pretrained(folder)
    tokenizer_with(folder, [KINDS['plain']])
    return {}

  return make


CASES: dict[str, Callable[[str, pathlib.Path], dict[str, Any]]] = {
  'shards, then whole': whole_after_shards,
  'whole, then shards': shards_after_whole,
  'variant': variant,
  'variant in shards': variant_in_shards,
  'adapter': adapter(),
  'adapter: rslora': adapter(use_rslora=True, lora_alpha=0.5),
  'adapter: rank and alpha patterns': adapter(
    rank_pattern={'down_proj': 2}, alpha_pattern={'q_proj': 16}
  ),
  'adapter: all layers, bias': adapter(
    target_modules=r'.*(fc1|fc2|k_proj|v_proj|gate_proj|linear)', bias='all'
  ),
  'adapter: whole modules': adapter(modules_to_save=['linear']),
  'adapter: embeddings': adapter(
    target_modules=['embed_tokens', 'v_proj'],
    lora_alpha=0.02,  # More saturates Gemma 2's soft-cap: all logits tie.
  ),
  'adapter: dora': adapter(use_dora=True),
  **{f'token: {kind}': added(kind) for kind in KINDS},
  'tokens: five kinds': added(*list(KINDS)[:4], 'special'),
  'table of 640 rows': resized(640),
  'table of 514 rows': resized(514),
}


def merged(folder: pathlib.Path, options: dict[str, Any]) -> Any:
  """Loads a folder with transformers; an adapter is merged by peft."""
  if 'adapter' not in options:
    return torch_model(folder, **options)
  peft: Any = importlib.import_module('peft')

  with tempfile.TemporaryDirectory() as scratch:
    alone = pathlib.Path(scratch) / 'base'
    shutil.copytree(
      folder, alone, ignore=shutil.ignore_patterns('adapter_*', 'README.md')
    )
    model = torch_model(alone)
  return peft.PeftModel.from_pretrained(model, folder).merge_and_unload()


def compare(name: str, folder: pathlib.Path, options: dict[str, Any]) -> str:
  """Compares what a folder is there and here; 'same', or what is not."""
  theirs = merged(folder, options)
  try:
    ours = checkpoints.load(
      folder, dtype='float32', layout='stacked', **options
    )
  except (ValueError, FileNotFoundError) as error:
    text = str(error).splitlines()[0]
    refusal = 'refused' if str(folder) in text else 'FAILED'
    return f'{refusal}: {text}'.replace(str(folder), 'DIR')
  worst = max(differences(theirs, ours))
  if worst > 1e-5:
    return f'WEIGHTS differ by {worst:.2g}'
  if ours.tokenizer is not None and (text := other_ids(folder, ours)):
    return f'IDS of {text!r} differ'
  got = tokens(ours)
  if old():
    # Its cached steps give other tokens than those of later releases.
    got = got[:1]
  want, logits = their_tokens(theirs, ours.config.text.vocab_size)
  return same_tokens(ours, got, want, logits)


def same_tokens(
  ours: Any, got: np.ndarray, want: np.ndarray, theirs: np.ndarray
) -> str:
  """Compares greedy tokens, and the logits by which they were chosen.

  Args:
    ours: The model here.
    got: Its tokens.
    want: Those of transformers.
    theirs: The logits of transformers, f32[tokens, ids].

  Returns:
    'same', or how tokens and logits differ.
  """
  theirs = theirs[:, : ours.config.text.vocab_size]
  # Some releases of transformers leave PaliGemma 2's final soft-cap out.
  capped, plain = (logits_before(ours, want, cap) for cap in (True, False))
  gaps = [float(np.abs(x - theirs).max()) for x in (capped, plain)]
  here = capped if gaps[0] <= gaps[1] else plain
  if np.array_equal(got, want) and min(gaps) < 1e-3:
    return 'same' if here is capped else 'same (logits without the soft-cap)'
  first = int(np.flatnonzero(got != want)[0]) if (got != want).any() else 0
  a, b = got[first], want[first]
  apart = [x[first, a] - x[first, b] for x in (here, theirs)]
  return (
    f'TOKENS differ: {got.tolist()} and {want.tolist()}; logits differ by'
    f' {min(gaps):.2g} of {np.abs(theirs).max():.2g}; at {first} those of {a}'
    f' and {b} are {apart[0]:.2g} apart here, {apart[1]:.2g} there'
  )


def logits_before(ours: Any, written: np.ndarray, cap: bool) -> np.ndarray:
  """Returns the logits f32[T, V] before each of T written tokens."""
  image, prompt = _inputs()
  text = np.concatenate([prompt, written[None]], 1).astype(np.int32)
  behind = (np.arange(text.shape[1]) >= prompt.shape[1]).astype(np.int32)
  features = ours.project(ours.encode_image(image))
  logits = ours.logits(features, text, behind[None], softcap=cap)
  return np.asarray(logits)[0, prompt.shape[1] - 1 : -1]


def differences(theirs: Any, ours: Any) -> Iterator[float]:
  """Yields the largest difference of each tensor."""
  with tempfile.TemporaryDirectory() as scratch:
    huggingface.save(scratch, ours.params, ours.config)
    stored = safetensors.load_file(pathlib.Path(scratch) / 'model.safetensors')
  written = {shards.canonical(k): v for k, v in stored.items()}
  state = {shards.canonical(k): v for k, v in theirs.state_dict().items()}
  rows = ours.config.text.vocab_size
  for key, array in written.items():
    other = state[key].detach().float().numpy()
    if key.endswith('embed_tokens.weight'):
      array, other = array[:rows], other[:rows]
    yield float(np.abs(array - other).max())


def other_ids(folder: pathlib.Path, ours: Any) -> str | None:
  """Returns a text whose ids differ, or that is decoded otherwise."""
  transformers: Any = importlib.import_module('transformers')

  theirs = transformers.AutoTokenizer.from_pretrained(folder)
  for text in TEXTS:
    want = theirs(text, add_special_tokens=False)['input_ids']
    if ours.tokenizer.encode(text) != want:
      return text
    if ours.tokenizer.decode(want) != theirs.decode(
      want, skip_special_tokens=True
    ):
      return f'decoded {text}'
  return None


def old() -> bool:
  """Whether transformers is the first release with PaliGemma, 4.41."""
  transformers: Any = importlib.import_module('transformers')
  return transformers.__version__.startswith('4.41.')


def _inputs() -> tuple[np.ndarray, np.ndarray]:
  """Returns a picture, and the ids of a prompt."""
  rng = np.random.default_rng(0)
  image = rng.uniform(-1, 1, (1, 56, 56, 3)).astype(np.float32)
  return image, np.asarray([[2, 40, 77, 140, 9]], np.int32)


def tokens(model: Any) -> np.ndarray:
  """Returns the greedy tokens of a model here."""
  image, ids = _inputs()
  features = model.project(model.encode_image(image))
  return np.asarray(model.generate(features, ids, ids > 0, STEPS, eos=-1))[0]


def their_tokens(model: Any, ids_here: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns the greedy tokens of a model of transformers, and their logits.

  Its rows of padding, which are no ids here, are never chosen.
  """
  torch: Any = importlib.import_module('torch')

  image, ids = _inputs()
  count = (56 // 14) ** 2
  text = np.concatenate([np.full((1, count), IMAGE), ids], 1)
  inputs = {
    'input_ids': torch.tensor(text),
    'attention_mask': torch.ones(text.shape, dtype=torch.long),
    'token_type_ids': torch.zeros(text.shape, dtype=torch.long),
    'pixel_values': torch.tensor(image.transpose(0, 3, 1, 2).copy()),
  }
  steps = 1 if old() else STEPS
  # The caches of 4.45 to 4.49 lose the first position in the last step.
  more = steps + 1
  rows = model.get_input_embeddings().weight.shape[0]
  with torch.no_grad():
    output = model.generate(
      **inputs,
      max_new_tokens=more,
      min_new_tokens=more,
      do_sample=False,
      eos_token_id=None,
      suppress_tokens=[*range(ids_here, rows)] or None,
      output_logits=True,
      return_dict_in_generate=True,
    )
  chosen = output.sequences[0, text.shape[1] :][:steps].numpy()
  logits = [step[0].float().numpy() for step in output.logits[:steps]]
  return chosen, np.stack(logits)


def main() -> int:
  """Prints the table."""
  peft: Any = importlib.import_module('peft')
  transformers: Any = importlib.import_module('transformers')

  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--out', type=pathlib.Path)
  parser.add_argument('--only', default='')
  arguments = parser.parse_args()
  results: dict[str, Any] = {}
  for case, make in CASES.items():
    if arguments.only not in case:
      continue
    results[case] = {}
    for name in MODELS:
      with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch) / 'model'
        try:
          options = make(name, folder)
          result = compare(name, folder, options)
        except Exception as error:
          result = f'NOT MADE: {type(error).__name__}: {error!s:.200}'
      results[case][name] = result
      print(f'| {case} | {name} | {result} |', flush=True)
  record = {
    'versions': {
      'transformers': transformers.__version__,
      'peft': peft.__version__,
    },
    'results': results,
  }
  if arguments.out:
    arguments.out.write_text(json.dumps(record, indent=1) + '\n')
  texts = [text for row in results.values() for text in row.values()]
  return int(any(not t.startswith(('same', 'refused')) for t in texts))


if __name__ == '__main__':
  sys.exit(main())
