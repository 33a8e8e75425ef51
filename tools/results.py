"""Runs the commands behind every number of the documentation, and writes them.

python tools/results.py [kmeans pipeline ...]

About an hour on two cores. Writes docs/results.md, each command with what it
printed; the blocks and tables of other pages; and the figures into docs/images.
With words, only blocks of commands that contain one of them are made anew.
"""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import codec_tables

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIGURES = {
  'runs/demo/fig2.png': 'fig2.png',
  'runs/demo/fig2_photos.png': 'fig2_photos.png',
  'runs/demo/fig3.png': 'fig3.png',
  'runs/demo/fig3_bytes.png': 'fig3_bytes.png',
  'runs/dense/fig3.png': 'fig3_dense.png',
  'runs/panels/fig3_panels.png': 'fig3_panels.png',
  'runs/channel/channel.png': 'channel.png',
  'runs/rate/rate.png': 'rate.png',
  'runs/rate/rate_cider.png': 'rate_cider.png',
  'runs/rate/rate_fields.png': 'rate_fields.png',
  'runs/latency/rate_latency.png': 'rate_latency.png',
  'runs/baselines/selectors.png': 'selectors.png',
  'runs/compare/compare.png': 'compare.png',
  'runs/tasks/tasks.png': 'tasks.png',
  'runs/tasks/tasks_rate.png': 'tasks_rate.png',
  'runs/tasks/tasks_control.png': 'tasks_control.png',
}
# A command, perhaps over several lines, and what it printed.
BLOCK = re.compile(
  r'```\n\$ python (?P<command>(?:[^\n]*\\\n)*[^\n]*)\n\n(?P<text>.*?)\n```',
  re.DOTALL,
)
# Pages with text of their own around such blocks.
REFILLED = 'selectors.md', 'kept.md', 'channels.md', 'edge.md', 'finetune.md'
# Pages with tables of codecs.
TABLED = 'quantizers.md', 'selectors.md'
_COMPARED = (
  'experiments/evaluate.py --config=configs/tradeoff.py:mode=tiny'
  " --config.limit=300 --config.ks='(2, 4, 8, 16)'"
)
_SHORT, _FULL = (
  f'experiments/finetune.py --config=configs/finetune.py:mode={mode}'
  ' --only_train'
  for mode in ('short', 'full')
)
_TRAINED = (
  'experiments/evaluate.py --config=configs/tradeoff.py --config.limit=500'
  " --config.methods='(\"merge\",)' --config.ks='(2,3,4,6,8)'"
  " --config.blind='()' --config.dtype=float32"
)
# Commands that make what another one reads.
BEFORE = {
  'experiments/compare.py runs/before': (
    f'{_TRAINED} --workdir=runs/before',
    f'{_SHORT} --workdir=runs/short',
    f'{_TRAINED} --config.model=runs/short/trained_through/model'
    ' --workdir=runs/short_scores',
    f'{_FULL} --config.steps=200 --config.eval_every=200'
    ' --workdir=runs/cut_short',
    f'{_TRAINED} --config.model=runs/cut_short/trained_through/model'
    ' --workdir=runs/cut_short_scores',
  ),
  'experiments/compare.py runs/greedy': (
    f'{_COMPARED} --config.methods=\'("kmeans(init=++)",)\''
    ' --workdir=runs/greedy',
    f'{_COMPARED} --config.methods=\'("kmeans(init=++)",)\''
    ' --config.decoding=beam2 --workdir=runs/beam',
    f'{_COMPARED} --config.methods=\'("merge",)\' --workdir=runs/merge',
  ),
}
REPORTS = """
Every launcher of an experiment also writes `report.html` into its workdir:
settings, findings, figures, scores, and a gallery of twelve pictures with the
vectors that arrive of each and the captions at every k, in which the words
that the references do not have are marked. Of several tasks (`make tasks`) it
has a gallery for each, of questions, what was expected and the answers. It is
one file, which opens without a network. Of a run that was stopped, of an older
one, or with more pictures, it is made by

```
python experiments/report.py runs/demo --pictures=20
```

![A picture in the gallery of a report](images/report.png)

It reads the pictures again from the run's data, and loads the edge half of
its model to draw what arrives (`--noclusters` does not); where one of them
has gone or has changed, it says so in their place. From Python it is
`cj.studies.write_html('runs/demo')`.
"""
# Title, what the reader should know, command.
SECTIONS = (
  (
    "The paper's experiment on the tiny model",
    'Test split, 1 to 4 objects a scene. Figures: `images/fig2.png`,'
    ' `images/fig3.png`.',
    'experiments/demo.py --workdir=runs/demo',
  ),
  (
    'The same on dense scenes',
    'Dense split, 6 to 10 objects a scene. Figure: `images/fig3_dense.png`.',
    'experiments/evaluate.py --config=configs/tradeoff.py:mode=dense'
    ' --workdir=runs/dense',
  ),
  (
    'Captions against bytes',
    'Features beside JPEG, WebP and AVIF; `docs/rate.md` says what is measured.'
    ' Figures: `images/rate.png`, `images/rate_cider.png`,'
    ' `images/rate_fields.png`.',
    'experiments/rate.py --workdir=runs/rate',
  ),
  (
    'What the tiny model gets right',
    'All vectors, whole splits; slots in percent, with the blind baselines.',
    'benchmarks/slots.py',
  ),
  (
    'Runs that differ, side by side',
    'k-means++ with greedy decoding, with a beam of two, and merging; 300'
    ' scenes of the test split, three seeds. Figure: `images/compare.png`. The'
    ' runs are made before by `experiments/evaluate.py`, see'
    ' `tools/results.py`.',
    'experiments/compare.py runs/greedy runs/beam runs/merge --x=vectors'
    ' --out=runs/compare',
  ),
  (
    'A planted difference, and none',
    'How often an interval excludes 0: of pairs of runs that differ in the'
    ' random start of k-means alone, and with a share of the second'
    " run's captions replaced by those of other pictures.",
    '-m benchmarks.compare_runs',
  ),
  (
    'Speed of the whole road',
    'Median of nine rounds, compilation excluded.',
    '-m benchmarks.pipeline',
  ),
  (
    'Parity with big_vision',
    'Largest absolute difference to the numbers recorded in tests/golden.',
    'benchmarks/parity.py',
  ),
  (
    'Every format of checkpoints',
    'Largest absolute difference in each group of recorded arrays, by what the'
    ' model was loaded from; and conversion there and back.',
    '-m benchmarks.formats',
  ),
  (
    'The generated scenes',
    'How well they can be captioned blind, and by their own references.',
    'benchmarks/scenes.py --limit=500',
  ),
  (
    'k-means beside its peers',
    "Needs the extra 'bench'.",
    'benchmarks/kmeans.py',
  ),
  (
    'PaliGemma 3B beside Hugging Face',
    'Full size, random weights, one picture, five prompt tokens, twenty new'
    ' ones; the edge loads the encoder only, the server the decoder. Needs'
    ' torch and transformers.',
    '-m benchmarks.paligemma',
  ),
)


def section(title: str, note: str, command: str) -> str:
  """Runs a command; returns its section of the page."""
  return (
    f'## {title}\n\n{note}\n\n```\n$ python {command}\n{run(command)}\n```\n'
  )


def run(command: str) -> str:
  """Runs a command after what makes its runs; returns what it printed."""
  for start, commands in BEFORE.items():
    if command.startswith(start):
      for other in commands:
        run(other)
  print(f'python {command}', flush=True)
  done = subprocess.run(
    [sys.executable, *shlex.split(command.replace('\\\n', ' '))],
    cwd=ROOT,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  return done.stdout.strip('\n')


def refilled(page: str, words: list[str]) -> str:
  """Returns a page with the tables of its commands made anew.

  A block keeps its number of paragraphs. They begin with the same line as
  before, or follow the first one printed, which says what was run.
  """

  def again(block):
    command, text = block['command'], block['text']
    if words and not any(word in command for word in words):
      return block[0]
    count = text.count('\n\n') + 1
    printed = run(command)
    _, begins, rest = f'\n{printed}'.partition(f'\n{text.split(chr(10))[0]}\n')
    printed = begins + rest if begins else printed.partition('\n\n')[2]
    text = '\n\n'.join(printed.strip('\n').split('\n\n')[:count])
    return f'```\n$ python {command}\n\n{text.rstrip()}\n```'

  return BLOCK.sub(again, page)


def main():
  """Runs everything that was asked for, and writes the page."""
  page = ROOT / 'docs/results.md'
  sections = {}
  if sys.argv[1:] and page.exists():
    for part in page.read_text().split('\n## ')[1:]:
      sections[part.partition('\n')[0]] = f'## {part.rstrip()}\n'
  for title, note, command in SECTIONS:
    if not sys.argv[1:] or any(word in command for word in sys.argv[1:]):
      sections[title] = section(title, note, command)
  intro = (
    '# Results\n\nEvery block is what its command printed;'
    ' `python tools/results.py` makes this page.\nNumbers of accuracy are those'
    ' of the tiny model that ships with the package, on generated scenes, not'
    ' of PaliGemma 3B.\n' + REPORTS
  )
  known = [sections[title] for title, _, _ in SECTIONS if title in sections]
  page.write_text('\n'.join([intro, *known]))
  for name in REFILLED:
    other = ROOT / 'docs' / name
    other.write_text(refilled(other.read_text(), sys.argv[1:]))
  for name in TABLED:
    other = ROOT / 'docs' / name
    other.write_text(codec_tables.fill(other.read_text()))
  for source, name in FIGURES.items():
    if (ROOT / source).exists():
      shutil.copy(ROOT / source, ROOT / 'docs/images' / name)


if __name__ == '__main__':
  main()
