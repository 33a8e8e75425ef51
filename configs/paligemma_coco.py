"""Released PaliGemmas on COCO captions: big_vision's protocol, and Fig. 3.

Arguments, as in `configs/paligemma_coco.py:protocol=cococap,split=test`:

  protocol  `fig3`: the paper's sweep, the number of vectors sent against the
            captions. `cococap`: all vectors and big_vision's own decoding, to
            compare with published scores before anything is left out.
  model     A released model's name, 'paligemma-3b-ft-cococap-224', or without
            its size, which `res` adds; or a folder that says its dimensions.
            Default: 'paligemma-3b-mix' for fig3, which the paper does not
            name closer, and 'paligemma-3b-ft-cococap' for cococap.
  res       Side of the pictures in pixels, 224 or 448; 0 (the default) takes
            what the model says, 224 where it says nothing.
  split     Karpathy's 'val' (the default) or 'test', 5,000 pictures each; or
            another list of the dataset.
  decode    'greedy', 'beam2', 'sample(temperature=0.7)'. Default: greedy for
            fig3, beam2 for cococap.

Where the files are, is said by fields: model_path, tokenizer, data_dir.
docs/reproduce.md has the commands, and what they take.
"""

import re

import ml_collections

from collab_jax import config as config_lib

PROTOCOLS = ('fig3', 'cococap')
_MODELS = {'fig3': 'paligemma-3b-mix', 'cococap': 'paligemma-3b-ft-cococap'}
_DECODINGS = {'fig3': 'greedy', 'cococap': 'beam2'}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the settings of a protocol, `fig3` by default."""
  args = config_lib.parse(
    arg, protocol=PROTOCOLS, model='', res=0, split='val', decode=''
  )
  protocol = args['protocol']
  config = ml_collections.ConfigDict()

  config.model = _named(args['model'] or _MODELS[protocol], args['res'])
  # Of a model given by name: its npz or folder, and paligemma_tokenizer.model
  # where that is not in the folder.
  config.model_path = ''
  config.tokenizer = ''
  config.dtype = 'bfloat16'  # To hold the weights in; '' for the stored one.
  config.res = args['res']

  config.data = 'coco'
  config.data_dir = ''  # Holds val2014 and dataset_coco.json.
  # As in big_vision's COCO configs: bilinear, not antialiased. What the model
  # was fine-tuned on; both protocols show it the same pictures.
  config.preprocess = 'bv_bilinear'
  config.data_split = args['split']
  config.limit = 5000  # The first so many pictures; Karpathy's have no more.

  # 'encoder' cuts before the projection to the decoder's width, 'head' after.
  config.split = 'encoder'
  # 'fixed': messages of one length, packed many at a time, as the paper counts
  # them. 'best': the smallest ones, in about two milliseconds each.
  config.coding = 'fixed'
  # The paper starts k-means at random vectors and does not say how a server
  # treats the vectors that a random subset left out: all four ways.
  config.methods = (
    'kmeans(init=++)',
    'kmeans(init=random)',
    'random(rebuild=nearest)',
    'random(rebuild=keep)',
    'random(rebuild=close)',
    'random(rebuild=zero)',
  )
  config.ks = (1, 2, 4, 8, 16, 32, 64, 128)
  # Codecs with nothing left open, beside them: 'jpeg(quality=20)',
  # 'webp(quality=5,size=112,strip=true)', 'kmeans(k=3,iters=9)'.
  config.codecs = ()
  config.seeds = (0, 1, 2)
  config.full = True  # All vectors, as they are: what 100% means.
  config.blind = ('zeroed', 'mean', 'shuffled')

  # Prompt and length of big_vision's COCO transfer, in both protocols.
  config.prompt = 'caption en'
  config.max_tokens = 32
  config.decoding = args['decode'] or _DECODINGS[protocol]
  config.batch_size = 64
  config.workers = 1  # Passes at a time; each takes memory.
  # Devices along each axis: batches are spread over 'data', the model's
  # parameters over 'model' (docs/sharding.md).
  config.mesh = ml_collections.ConfigDict({'data': 1, 'model': 1})

  config.resamples = 1000
  config.level = 0.95  # Of the confidence intervals.
  config.seed = 0  # Of the resampling.

  if protocol == 'cococap':
    config.methods, config.ks = (), ()
    config.seeds = (0,)
    config.blind = ()
  return config


def sweep(add, config):
  """One work unit per method and k, and one for the lines that need no k."""
  add(methods=())
  for method in config.methods:
    for k in config.ks:
      add(methods=(method,), ks=(k,), codecs=(), full=False, blind=())


def _named(model: str, res: int) -> str:
  """Completes 'paligemma-3b-mix' with its size; other names stay."""
  named = re.fullmatch(r'paligemma2?-\d+b-[a-z-]*[a-z](?:-(\d+))?', model)
  if not named:
    return model
  if named[1] is None:
    return f'{model}-{res or 224}'
  if res not in (0, int(named[1])):
    raise config_lib.ConfigError(
      f'got res={res} and model={model}, which has {named[1]} px; leave one out'
    )
  return model
