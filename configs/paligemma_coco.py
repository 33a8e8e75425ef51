"""Released PaliGemmas on COCO captions: big_vision's protocol, and Fig. 3.

Arguments, as in `configs/paligemma_coco.py:protocol=cococap,split=test`:

  protocol  `fig3`: the paper's sweep, the number of vectors sent against the
            captions. `cococap`: all vectors and big_vision's own decoding, to
            compare with published scores before anything is left out.
            `smoke`: a few codecs on the seven photographs that ship, to see
            that a model runs; no score of theirs means anything.
  model     A released model's name, 'paligemma-3b-ft-cococap-224', or without
            its size, which `res` adds; or a folder that says its dimensions.
            Default: 'paligemma-3b-mix' for fig3, which the paper does not
            name closer, and smoke, 'paligemma-3b-ft-cococap' for cococap.
  res       Side of the pictures in pixels, 224 or 448; 0 (the default) takes
            what the model says, 224 where it says nothing.
  split     Karpathy's 'val' (the default) or 'test', 5,000 pictures each; or
            another list of the dataset.
  decode    'greedy', 'beam2', 'sample(temperature=0.7)'. Default: greedy for
            fig3 and smoke, beam2 for cococap.

Where the files are, is said by fields: model_path, tokenizer, data_dir.
docs/reproduce.md has the commands, and what they take.
"""

import ml_collections

from collab_jax import config as config_lib
from configs import common

PROTOCOLS = ('fig3', 'cococap', 'smoke')
_MODELS = {
  'fig3': 'paligemma-3b-mix',
  'cococap': 'paligemma-3b-ft-cococap',
  'smoke': 'paligemma-3b-mix',
}
_DECODINGS = {'fig3': 'greedy', 'cococap': 'beam2', 'smoke': 'greedy'}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the settings of a protocol, `fig3` by default."""
  args = config_lib.parse(
    arg, protocol=PROTOCOLS, model='', res=0, split='val', decode=''
  )
  protocol = args['protocol']
  config = common.evaluation()
  common.codecs(config)

  # Of a model given by name: its npz or folder is `model_path`, and `tokenizer`
  # is paligemma_tokenizer.model where that is not in the folder.
  config.model = common.with_size(
    args['model'] or _MODELS[protocol], args['res']
  )
  config.dtype = 'bfloat16'
  config.res = args['res']
  config.data = 'coco'  # `data_dir` holds val2014 and dataset_coco.json.
  # As in big_vision's COCO configs: bilinear, not antialiased. What the model
  # was fine-tuned on; both protocols show it the same pictures.
  config.preprocess = 'bv_bilinear'
  config.data_split = args['split']
  config.limit = 5000  # Karpathy's splits have no more.

  # Prompt and length of big_vision's COCO transfer, in both protocols.
  config.prompt = 'caption en'
  config.max_tokens = 32
  config.decoding = args['decode'] or _DECODINGS[protocol]

  if protocol == 'cococap':
    config.methods, config.ks = (), ()
    config.seeds = (0,)
    config.blind = ()
  if protocol == 'smoke':
    config.data, config.data_split = 'photos', 'test'
    config.methods, config.ks = ('kmeans(init=++)',), (8,)
    config.seeds = (0,)
    config.blind = ()
    config.batch_size = 7
  return config
