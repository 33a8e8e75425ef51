"""Records scores of answers by others' evaluation code in answers.json, ....

Runs the code itself, of which nothing is kept here: VQA's evaluation and
big_vision's evaluators from clones, and pycocotools. Needs `pip install
editdistance pycocotools` beside the packages of this repository:

  git clone https://github.com/GT-Vision-Lab/VQA /tmp/VQA
  git clone https://github.com/google-research/big_vision /tmp/big_vision
  python tests/golden/make_answer_metrics.py --vqa=/tmp/VQA \
      --big_vision=/tmp/big_vision

It writes vqa.json, answers.json, regions.json and mask_decoder.npz.
"""

import argparse
import ast
import functools
import importlib.metadata
import json
import pathlib
import random
import re
import subprocess
import types
from typing import Any

import editdistance
import flax.linen as nn
import jax
from jax import numpy as jnp
import numpy as np
import PIL.Image
from pycocotools import mask as coco_masks

FOLDER = pathlib.Path(__file__).parent
EVALUATORS = 'big_vision/evaluators/proj/paligemma/transfers'
CASES = 320
SHIFT = 0.3217  # Of a mask's logits.

# What the normalization treats in its own way, among plain answers.
WORDS = r"""
red blue yes no two 2 ten 10 none zero 1,000 1000 2.5 .5 3. a the an dog dogs
can't cant dont don't it's its o'clock oclock couldnt've couldntve somebody'd
youre Im I'm ive Two NO the-red red/blue (red) [x] {y} a_b x=y "quoted" what?
wow! a,b a, ,b @home `x` 5% $5 u.s.a u.s. .. ... e.g. <b> > été 草 -5 1,2,3
12:30 t-shirt t-shirts and; \ + y'all yall
""".split()  # noqa: SIM905
BY_HAND = (
  ('', ['', '', '']),
  (' red\n', ['red', ' red', 'red\t']),
  ('red', ['red'] * 10),
  ('Red', ['red'] * 10),
  ('the red', ['red'] * 9 + ['blue']),
  ('1,000 (men)', ['1000 men'] * 5 + ['men'] * 5),
  ('a.b.' * 20, ['ab' * 20, 'a.b', 'x']),
  ('two', ['2', '2', 'two', 'Two', '3', '3', '3', '3', '3', '3']),
)


def words(rng: random.Random, most: int = 3) -> str:
  """Returns some words, with spaces of all kinds between them."""
  count = rng.randint(1, most)
  return rng.choice([' ', ' ', ' ', '  ', '\n', '\t']).join(
    rng.choices(WORDS, k=count)
  )


def vqa_cases() -> list[tuple[str, list[str]]]:
  """Returns answers with the answers of ten people, mostly."""
  rng = random.Random(0)
  cases = [*BY_HAND]
  while len(cases) < CASES:
    pool = [words(rng) for _ in range(rng.randint(1, 4))]
    people = 10 if rng.random() < 0.9 else rng.randint(1, 9)
    refs = rng.choices(pool, k=people)
    answer = rng.choice([*pool, words(rng)])
    if rng.random() < 0.3:
      answer = rng.choice([answer.lower(), f'the {answer}', f'{answer}.'])
    cases.append((answer, refs))
  return cases


def official_vqa(clone: pathlib.Path) -> Any:
  """Returns the class of VQA's evaluation, which is Python 2, to be run."""
  path = clone / 'PythonEvaluationTools/vqaEvaluation/vqaEval.py'
  source = re.sub(r'^(\s*)print ".*"$', r'\1pass', path.read_text(), flags=re.M)
  space: dict[str, Any] = {}
  exec(compile(source, str(path), 'exec'), space)
  space['VQAEval'].updateProgress = lambda self, progress: None
  return space['VQAEval']


def vqa_score(evaluation: Any, answer: str, refs: list[str]) -> float:
  """Returns the accuracy of an answer, 0 to 100."""
  answers = [{'answer': r, 'answer_id': i} for i, r in enumerate(refs, 1)]
  asked = {'answers': answers, 'question_type': '', 'answer_type': ''}
  truth = types.SimpleNamespace(getQuesIds=lambda: [0], qa={0: asked})
  given = types.SimpleNamespace(qa={0: {'answer': answer}})
  run = evaluation(truth, given, n=12)
  run.evaluate()
  return run.evalQA[0]


class Evaluators:
  """big_vision's evaluators, run on one example at a time."""

  def __init__(self, clone: pathlib.Path):
    """Reads nothing yet."""
    self.folder = clone / EVALUATORS
    self.batch: dict[str, Any] = {}

  def load(self, name: str, **names: Any) -> dict[str, Any]:
    """Runs a module without its imports of TensorFlow and big_vision."""
    tree = ast.parse((self.folder / f'{name}.py').read_text())
    tree.body = [
      node
      for node in tree.body
      if not isinstance(node, ast.Import | ast.ImportFrom)
    ]

    def pipeline(**kw):
      del kw
      return lambda: [self.batch], 1

    def nothing(*args, **kw):
      del args, kw

    common = types.SimpleNamespace(
      eval_input_pipeline=pipeline,
      resolve_outfile=nothing,
      multiprocess_write_json=nothing,
      process_sum=lambda x: x,
    )
    tokenizer = types.SimpleNamespace(
      eos_token=1,
      to_str=lambda text, stop_at_eos: text,
      to_int=lambda piece: [10_000 if 'loc' in piece else 20_000],
    )
    tokenizers = types.SimpleNamespace(get_tokenizer=lambda name: tokenizer)
    space = {
      'big_vision': types.SimpleNamespace(
        pp=types.SimpleNamespace(tokenizer=tokenizers)
      ),
      'c': common,
      'u': types.SimpleNamespace(get_local_slice_from_fsarray=lambda x: x),
      **{'functools': functools, 're': re, 'np': np, 'jax': jax, 'jnp': jnp},
      **{'nn': nn, 'PIL': PIL, 'editdistance': editdistance},
      **names,
    }
    exec(compile(tree, name, 'exec'), space)
    return space

  def run(self, evaluator: Any, decoded: Any, **batch: Any) -> dict[str, float]:
    """Returns what an evaluator says of one example."""
    self.batch = {
      'decoded': decoded,
      '_mask': np.array([True]),
      'question_id': np.array([0]),
      **batch,
    }
    return dict(evaluator.run(None))


def predict(state: Any, batch: Any, **kw: Any) -> Any:
  """Stands for the model, which said what the batch holds."""
  del state, kw
  return batch['decoded']


def evaluator(space: dict[str, Any], **settings: Any) -> Any:
  """Makes a module's evaluator."""
  return space['Evaluator'](predict, '', devices=None, **settings)


def answer_cases() -> dict[str, list[tuple[str, str]]]:
  """Returns answers and references of each kind."""
  rng = random.Random(1)

  def texts() -> str:
    return rng.choice([words(rng, 2), words(rng, 1), 'collab jax'])

  def number() -> str:
    return rng.choice(
      [
        f'{rng.uniform(-20, 20):.{rng.randint(0, 3)}f}',
        f'{rng.randint(0, 30)}',
        f'{rng.randint(0, 100)}%',
        f'{rng.randint(0, 3000):,}',
        rng.choice(['0', '0.0', '', 'inf', 'nan', '1e3', '%', 'Norway', ' 7']),
      ]
    )

  def near(text: str) -> str:
    try:
      value = float(text.rstrip('%'))
    except ValueError:
      return rng.choice([text, text.upper(), number()])
    changed = value * rng.choice([1, 1.04, 1.05, 0.95, 1.051, 0.94, 1.3])
    sign = '%' if text.endswith('%') else ''
    return rng.choice([f'{changed:.4f}{sign}', f'{changed:g}', text])

  def damaged(text: str) -> str:
    letters = [*text]
    for _ in range(rng.randint(0, 4)):
      place = rng.randint(0, len(letters))
      letters[place : place + rng.randint(0, 1)] = rng.choice(
        ['', 'x', 'A', '\u00e9']
      )
    return ''.join(letters)

  said = """
    none zero one two three seven eleven twenty Two TWO twenty-one 0 1 2 3 11
  """.split()  # noqa: SIM905
  tell = ('The answer is {}.', 'the answer is {}.', '{}', 'The answer is {}')
  tell += ('The answer is {}. BECAUSE: x', 'So the answer is {}.', '({})')
  return {
    'exact': [
      (rng.choice([a, a, a.upper(), texts()]), a)
      for a in (texts() for _ in range(CASES))
    ],
    'anls': [(damaged(a), a) for a in (texts() for _ in range(CASES))],
    'relaxed': [(near(a), a) for a in (number() for _ in range(CASES))],
    'count': [
      (rng.choice([*said, f'{rng.randint(0, 15)}']), f'{rng.randint(0, 3)}')
      for _ in range(CASES)
    ],
    'science_qa': [
      (rng.choice(tell).format(rng.choice('ABCb1')), rng.choice('ABC'))
      for _ in range(CASES)
    ],
  }


def answer_scores(evaluators: Evaluators) -> dict[str, Any]:
  """Returns cases and scores of every metric of one answer."""
  vqa, chartqa = evaluators.load('vqa'), evaluators.load('chartqa')
  cases = answer_cases()
  data = {'data': {}}
  runs = {
    'exact': (evaluator(vqa, **data), 'acc', str),
    'exact_lower': (evaluator(vqa, to_lower=True, **data), 'acc', str),
    'anls': (evaluator(vqa, **data), 'anls', str),
    'anls_lower': (evaluator(vqa, to_lower=True, **data), 'anls', str),
    'relaxed': (evaluator(chartqa, to_lower=True, **data), 'relaxed_acc', str),
    'count': (evaluator(evaluators.load('tallyqa')), 'acc', str),
    'science_qa': (
      evaluator(evaluators.load('science_qa'), **data),
      'acc',
      'The answer is {}.'.format,
    ),
  }
  return {
    name: [
      [
        answer,
        ref,
        float(evaluators.run(run, [answer], answer=[form(ref)])[of]),
      ]
      for answer, ref in cases[name.removesuffix('_lower')]
    ]
    for name, (run, of, form) in runs.items()
  }


def smooth(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """Returns a smooth picture around 0, f32[H W]."""
  small = rng.normal(size=(5, 5)).astype(np.float32)
  picture = PIL.Image.fromarray(small)
  return np.asarray(picture.resize((width, height), PIL.Image.BICUBIC))


def polygons(rng: np.random.Generator, height: int, width: int) -> list:
  """Returns up to three polygons, some beyond the picture."""
  count = rng.integers(1, 4)
  corners = rng.random((count, rng.integers(3, 9), 2)) * 1.3 - 0.15
  corners = np.round(corners * (width, height), rng.integers(0, 3))
  return corners.reshape(count, -1).tolist()


def region_cases(evaluators: Evaluators) -> dict[str, Any]:
  """Returns answers in tokens with overlaps by big_vision and pycocotools."""
  rng = np.random.default_rng(2)
  space = evaluators.load('segmentation')
  logits: list[np.ndarray] = []
  space['get_reconstruct_masks'] = lambda model: lambda codes: logits[-1]
  run = evaluator(space)
  cases, shapes, boxes = [], [], []
  for case in range(CASES):
    height, width = (int(n) for n in rng.integers(20, 90, 2))
    shape = polygons(rng, height, width)
    runs = coco_masks.merge(coco_masks.frPyObjects(shape, height, width))
    mask = coco_masks.decode(runs).astype(bool)
    shapes.append([height, width, shape, runs['counts'].decode()])
    low, high = np.sort(rng.random((2, 2)), 0)
    box = [float(edge) for edge in (*low, *high)]
    tokens = np.clip(np.array(box) + rng.normal(size=4) * 0.08, 0, 1)
    tokens = np.round(tokens * 1023).astype(int)
    if case % 10 == 0:  # No box, or one of places that do not exist.
      tokens = rng.integers(0, 1200, 4)
    codes = rng.integers(0, 131 if case % 7 == 0 else 128, 16)
    if case % 11 == 0:
      codes = codes[:12]
    # Whole numbers, so that the record has them all; shifted, so that none of
    # the interpolated ones is zero, whose sign would be that of a rounding.
    coarse = rng.integers(-9, 10, (8, 8))
    fine = np.kron(coarse + SHIFT, np.ones((8, 8))).astype(np.float32)
    logits.append(fine[None, :, :, None])
    decoded = [np.concatenate([tokens + 10_000, codes + 20_000])]
    if len(codes) < 16:
      decoded = [np.concatenate([*decoded, [1] * 4])]
    said = evaluators.run(
      run,
      np.array(decoded),
      **{
        'objects/mask': np.array([mask[..., None]]),
        'objects/bbox': np.array([box]),
      },
    )
    cases.append(
      {
        'box_tokens': tokens.tolist(),
        'codes': codes.tolist(),
        'logits': coarse.tolist(),
        'reference': [box, height, width, runs['counts'].decode()],
        'scores': [said['miou'], said['boxacc/0.5'], said['boxacc/0.75']],
      }
    )
    a, b = np.sort(rng.random((2, 2, 2)), 1)
    pair = [[*p[0], *(p[1] - p[0])] for p in (a, b)]
    overlap = coco_masks.iou(np.array([pair[0]]), np.array([pair[1]]), [0])
    boxes.append([*(p.reshape(-1).tolist() for p in (a, b)), overlap.item()])
  return {
    'cases': cases,
    'logits_shift': SHIFT,
    'polygons': shapes,
    'boxes': boxes,
    'masks': mask_pairs(rng),
  }


def mask_pairs(rng: np.random.Generator) -> list[list[Any]]:
  """Returns sizes, pairs of run lengths and their overlap by pycocotools."""
  pairs = []
  for _ in range(CASES):
    height, width = (int(n) for n in rng.integers(1, 60, 2))
    first = smooth(rng, height, width) > 0
    second = (first * 2 - 1 + 2 * smooth(rng, height, width)) > 0
    runs = [
      coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
      for mask in (first, second)
    ]
    overlap = coco_masks.iou(runs[:1], runs[1:], [0]).item()
    texts = [run['counts'].decode() for run in runs]
    pairs.append([height, width, *texts, overlap])
  return pairs


def decoder_weights(seed: int) -> dict[str, np.ndarray]:
  """Returns random weights in the layout of vae-oid.npz, a narrow codebook."""
  rng = np.random.default_rng(seed)
  shapes: dict[str, tuple[int, ...]] = {'decoder.0': (128, 32, 1, 1)}
  for block in (2, 3):
    for layer, side in ((0, 3), (2, 3), (4, 1)):
      shapes[f'decoder.{block}.net.{layer}'] = (128, 128, side, side)
  for layer, (wide, narrow) in {
    4: (128, 128),
    6: (128, 64),
    8: (64, 32),
    10: (32, 16),
  }.items():
    shapes[f'decoder.{layer}'] = (wide, narrow, 4, 4)
  shapes['decoder.12'] = (1, 16, 1, 1)
  weights = {'_vq_vae._embedding': rng.standard_normal((128, 32))}
  for name, shape in shapes.items():
    transposed = shape[2] == 4
    fan_in = shape[0] * 4 if transposed else np.prod(shape[1:])
    outputs = shape[1] if transposed else shape[0]
    weights[f'{name}.weight'] = rng.standard_normal(shape) * fan_in**-0.5
    weights[f'{name}.bias'] = rng.standard_normal(outputs) * 0.1
  return {name: value.astype(np.float32) for name, value in weights.items()}


def decoded_masks(evaluators: Evaluators, seed: int) -> dict[str, np.ndarray]:
  """Returns codes and their masks by big_vision's decoder."""
  space = evaluators.load('segmentation')
  weights = decoder_weights(seed)
  params = space['_get_params'](weights)
  codes = np.random.default_rng(seed).integers(0, 128, (6, 16)).astype(np.int32)
  quantized = space['_quantized_values_from_codebook_indices'](
    jnp.asarray(codes), params.pop('_embeddings')
  )
  with jax.default_matmul_precision('highest'):
    masks = space['Decoder']().apply({'params': params}, quantized)
  return {'seed': np.array(seed), 'codes': codes, 'masks': masks[..., 0]}


def commit(clone: pathlib.Path) -> str:
  """Returns the commit of a clone."""
  command = ['git', '-C', str(clone), 'rev-parse', 'HEAD']
  return subprocess.run(
    command, check=True, capture_output=True, text=True
  ).stdout.strip()


def main() -> None:
  """Writes the records beside this file."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--vqa', type=pathlib.Path, required=True)
  parser.add_argument('--big_vision', type=pathlib.Path, required=True)
  flags = parser.parse_args()
  evaluation = official_vqa(flags.vqa)
  evaluators = Evaluators(flags.big_vision)
  matches = evaluator(evaluators.load('vqa'), data={})
  by_big_vision = f'google-research/big_vision {commit(flags.big_vision)}'
  coco = f'pycocotools {importlib.metadata.version("pycocotools")}'
  vqa = []
  for answer, refs in vqa_cases():
    people = [np.array(refs, object)]
    said = evaluators.run(matches, [answer], answers=people)
    vqa.append([answer, refs, vqa_score(evaluation, answer, refs), said['acc']])
  regions = region_cases(evaluators)
  for name, record in {
    'vqa': {
      'vqa': f'GT-Vision-Lab/VQA {commit(flags.vqa)}',
      'vqa_matches': by_big_vision,
      'cases': vqa,
    },
    'answers': {'source': by_big_vision, **answer_scores(evaluators)},
    'regions': {'cases_by': by_big_vision, 'others_by': coco, **regions},
  }.items():
    path = FOLDER / f'{name}.json'
    path.write_text(json.dumps(record, separators=(',', ':')) + '\n')
  arrays = decoded_masks(evaluators, seed=0)
  np.savez_compressed(
    FOLDER / 'mask_decoder.npz',
    source=np.array(by_big_vision),
    **arrays,
  )


if __name__ == '__main__':
  main()
