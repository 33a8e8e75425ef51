"""Released PaliGemmas on tasks: big_vision's protocol, then a sweep.

Arguments, as in `configs/paligemma_tasks.py:task=okvqa,protocol=sweep`:

  task      A name of docs/tasks.md. Settings of its own, such as the file of
            the mask decoder, go into the field:
            --config.task='refcoco(weights=/path/to/vae-oid.npz)'.
  protocol  `score`: all vectors, to compare with the published score before
            anything is left out. `sweep`: numbers of vectors and codecs.
            `smoke`: one codec at one k on ten pictures, to see that files fit.
  model     A released model's name, or without its size, which `res` adds; or a
            folder that says its dimensions, or 'tiny'. Default: the task's
            checkpoint, 'paligemma-3b-mix' where none was released.
  res       Side of the pictures in pixels, 224 or 448; 0 (the default) takes
            what the model says, 224 where it says nothing.
  split     Split of the dataset; '' (the default) for the protocol's.
  axes      File of the model's axes, which `configs/codebook.py:mode=axes`
            trains: the sweep then has `packed`. '' (the default) for none.

Where the files are, is said by fields: model_path, tokenizer, data_dir.
docs/tasks.md lists the files of each task, and its published scores.
"""

import ml_collections

from collab_jax import config as config_lib
from configs import common

PROTOCOLS = ('score', 'sweep', 'smoke')
# The checkpoint of each task, without the size.
CHECKPOINTS = {
  'okvqa': 'paligemma-3b-ft-okvqa',
  'vqav2': 'paligemma-3b-ft-vqav2',
  'textvqa': 'paligemma-3b-ft-textvqa',
  'gqa': 'paligemma-3b-ft-gqa',
  'tallyqa': 'paligemma-3b-ft-tallyqa',
  'science_qa': 'paligemma-3b-ft-science-qa',
  'ai2d': 'paligemma-3b-ft-ai2d',
  'chartqa': 'paligemma-3b-mix',
  'ocrvqa': 'paligemma-3b-ft-ocrvqa',
  'refcoco': 'paligemma-3b-ft-refcoco-seg',
  'refcoco_box': 'paligemma-3b-ft-refcoco-seg',
  'textcaps': 'paligemma-3b-ft-textcaps',
  'nocaps': 'paligemma-3b-ft-cococap',
  'coco': 'paligemma-3b-ft-cococap',
  'tsv': 'paligemma-3b-mix',
  'jsonl': 'paligemma-3b-mix',
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the settings of a task, of OK-VQA's score by default."""
  args = config_lib.parse(
    arg,
    task=tuple(CHECKPOINTS),
    protocol=PROTOCOLS,
    model='',
    res=0,
    split='',
    axes='',
  )
  protocol = args['protocol']
  config = common.evaluation()
  common.codecs(config)
  common.of_task(config, args['task'])

  # Of a model given by name: its npz or folder is `model_path`, and `tokenizer`
  # is paligemma_tokenizer.model where that is not in the folder.
  name = args['model'] or CHECKPOINTS[args['task']]
  config.model = common.with_size(name, args['res'])
  config.dtype = 'bfloat16'
  config.res = args['res']
  config.data_split = args['split']
  config.limit = 1_000_000  # All pictures of the split.
  config.seeds = (0,)
  config.batch_size = 16
  reduced = 32 if name == 'tiny' else 112  # Pixels, half of the least side.

  if protocol == 'score':
    config.methods, config.ks = (), ()
    config.blind = ()
  if protocol == 'sweep':
    config.coding = 'best'  # The smallest messages, see docs/wire.md.
    config.methods = (
      'kmeans(init=++)',
      'merge',
      *([f'packed(book={args["axes"]})'] if args['axes'] else []),
      'random(rebuild=nearest)',
    )
    config.ks = (1, 2, 4, 8, 16, 32, 64, 128)
    config.codecs = (
      'avif(quality=8,strip=true)',
      'avif(quality=25,strip=true)',
      'avif(quality=50,strip=true)',
      f'avif(quality=50,size={reduced},strip=true)',
      'webp(quality=5,strip=true)',
      'webp(quality=50,strip=true)',
      'jpeg(quality=10,strip=true)',
      'jpeg(quality=50,strip=true)',
      'jpeg(quality=90,strip=true)',
    )
    config.blind = ('mean', 'shuffled')
  if protocol == 'smoke':
    config.limit = 10
    config.methods, config.ks = ('kmeans(init=++)',), (8,)
    config.blind = ()
    config.batch_size = 5
  return config
