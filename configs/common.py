"""Fields that the configs of evaluations share: model, data, captions."""

import re

import ml_collections

from collab_jax import config as config_lib

# Clusters by merging with coded centroids; of the tiny model's books, trained
# on no test scene, docs/quantizers.md has the commands.
MERGED_ECSQ = 'merge(k={},smooth={},centroids=pca(dims=128,vectors=ecsq({})))'
MERGED_ECVQ = (
  'merge(k={},smooth={},centroids=pca(dims=128,vectors=ecvq(weight={})))'
)


def model_and_data() -> ml_collections.ConfigDict:
  """Returns the fields of the tiny model and of 500 test scenes."""
  config = ml_collections.ConfigDict()

  # A name out of collab_jax.checkpoints.NAMES; a folder that says its
  # dimensions and has a tokenizer; or a released model's name, with its path.
  config.model = 'tiny'
  config.model_path = ''  # Folder or npz of a released model.
  config.tokenizer = ''  # File of the tokenizer, if not beside the weights.
  config.dtype = ''  # Dtype to hold the weights in; '' for the stored one.
  # Dtype of products, which are summed in float32; '' for that of the weights.
  config.compute_dtype = ''
  # Precision of float32 products: 'default', on a GPU tf32 and on a TPU
  # bfloat16, or 'highest', float32.
  config.precision = 'default'
  config.res = 0  # Side of the pictures in pixels, 0 for the model's.
  # Devices over which the pictures of a batch (data) and the parameters (model)
  # are spread; -1 for all that `model` leaves.
  config.mesh = ml_collections.ConfigDict({'data': -1, 'model': 1})
  # Other processes that run the same model: '' for none, 'auto' on SLURM, Cloud
  # TPU and GKE, else 'host:port,i/n', an address of process 0 and which process
  # of how many this is; docs/cluster.md.
  config.distributed = ''

  # 'scenes' or 'photos', which ship; a dataset on disk: 'coco', 'flickr30k',
  # 'jsonl' or 'tfds'; or the path of a folder, a list (.jsonl), a .zip or a
  # picture.
  config.data = 'scenes'
  config.data_dir = ''  # Folder of a dataset given by name.
  config.data_split = 'test'  # Split of the dataset, or name of its list.
  # How pictures come to the model's size, see collab_jax/data/pictures.py.
  config.preprocess = 'hf_bicubic'
  config.limit = 500  # Number of pictures, the first ones.

  # 'encoder' cuts before the projection to the decoder's width, 'head' after.
  config.split = 'encoder'
  return config


def evaluation() -> ml_collections.ConfigDict:
  """Returns the fields of every evaluation: model, data, captions, scores."""
  config = model_and_data()
  config.full = True  # All vectors, as they are: what 100% means.
  # Captions that have seen nothing: of zeros, mean features, another picture.
  config.blind = ('zeroed', 'mean', 'shuffled')
  config.seeds = (0, 1, 2)  # Of codecs that draw; the others take the first.

  # 'captions' of `data`; or a task, by name or as 'package.module:Class', whose
  # dataset `data_dir` holds: docs/tasks.md.
  config.task = 'captions'
  config.prompt = 'caption en'  # Text for the model.
  config.max_tokens = 34  # Longest caption.
  config.decoding = 'greedy'  # Or 'beam2', 'sample(temperature=0.7)'.
  config.batch_size = 64  # Pictures at a time.
  config.workers = 1  # Accepted and ignored: the host's work overlaps anyway.

  # Metrics that are computed and shown, by name or 'package.module:Class';
  # tables and curves are of the first.
  config.metrics = ('bleu4', 'bleu1', 'bleu2', 'bleu3', 'cider', 'rouge_l')
  config.resamples = 1000  # Draws of the bootstrap.
  config.level = 0.95  # Level of the confidence intervals.
  config.seed = 0  # Seed of the bootstrap.

  # Units of --engine=local, slurm or ray: docs/cluster.md.
  config.engine = engine()
  return config


def of_task(config: ml_collections.ConfigDict, task: str) -> None:
  """Leaves what captions are written with to a task, unless it is 'captions'.

  '', 0 and () stand for the task's own settings. Its questions hold their
  prompts, and it reads its own dataset.
  """
  if task == 'captions':
    return
  config.task = task
  config.data, config.data_split = '', ''
  config.preprocess = ''
  config.prompt, config.max_tokens, config.decoding = '', 0, ''
  config.metrics = ()


def engine() -> ml_collections.ConfigDict:
  """Returns what a unit of a sweep needs, and where it may be found."""
  return ml_collections.ConfigDict(
    {
      'cpus': 0,  # CPU cores of a unit; 0 leaves them to the cluster.
      # GPUs of a unit; 0 for none, and on this machine for one if it has any.
      'gpus': 0,
      'tpus': 0,  # TPU chips of a unit, on Ray.
      'memory_gb': 0.0,  # Host memory of a unit; 0 leaves it to the cluster.
      # Minutes of a SLURM job; a unit that takes longer goes on in another one.
      'minutes': 60,
      'requeues': 20,  # Such time limits that a unit may reach.
      # Starts of a unit that fails and makes no record, after the first one.
      'retries': 2,
      'partition': '',  # SLURM's partition; '' for the default one.
      'account': '',  # SLURM's account.
      'sbatch': (),  # Further options of sbatch: ('constraint=a100', 'nice').
      # Lines of shell before each unit, such as a copy of data to a local disk.
      'setup': (),
      'python': '',  # Interpreter of units elsewhere; '' for this one.
      'address': 'auto',  # Of the Ray cluster, 'host:6379'.
    }
  )


def codecs(config: ml_collections.ConfigDict) -> None:
  """Adds the fields that name codecs; the values are the paper's."""
  # 'fixed': messages of one length, packed many at a time, as the paper counts
  # them. 'best': the smallest ones, in about two milliseconds each.
  config.coding = 'fixed'
  # Quantizers without their k, which comes from `ks`. The paper starts k-means
  # at random vectors and does not say how a server treats the vectors that a
  # random subset left out: all four ways.
  config.methods = (
    'kmeans(init=++)',
    'kmeans(init=random)',
    'random(rebuild=nearest)',
    'random(rebuild=keep)',
    'random(rebuild=close)',
    'random(rebuild=zero)',
  )
  config.ks = (1, 2, 4, 8, 16, 32, 64, 128)  # Numbers of vectors sent.
  # Codecs with all their settings, beside them: 'jpeg(quality=20)',
  # 'webp(quality=5,size=112,strip=true)', 'kmeans(k=3,iters=9)'.
  config.codecs = ()


def budget() -> ml_collections.ConfigDict:
  """Returns powers and speeds behind latency and energy; docs/channels.md.

  All assumed: seconds are those of this machine, a small edge computer takes
  about 5 W at work and 1 W idle, and a radio amplifier 1 W.
  """
  return ml_collections.ConfigDict(
    {
      'edge': 1.0,  # Seconds of the edge, of those of this machine.
      'server': 1.0,  # Seconds of the server, likewise.
      'edge_watts': 5.0,  # Power of the edge at work.
      'radio_watts': 1.0,  # Power of its radio while it sends.
      'idle_watts': 1.0,  # Power of the edge while it waits.
    }
  )


def smoke(config: ml_collections.ConfigDict) -> None:
  """Reduces an evaluation to seconds, for tests."""
  config.limit = 6
  if config.max_tokens:  # A task's answers are whole: half a box is none.
    config.max_tokens = 4
  config.batch_size = 4
  config.resamples = 20


def with_size(model: str, res: int) -> str:
  """Completes 'paligemma-3b-mix' with its size; other names stay."""
  match = re.fullmatch(r'paligemma2?-\d+b-[a-z][a-z0-9-]*?(?:-(\d+))?', model)
  if not match:
    return model
  if match[1] is None:
    return f'{model}-{res or 224}'
  if res not in (0, int(match[1])):
    raise config_lib.ConfigError(
      f'got res={res} and model={model}, which has {match[1]} px; leave one out'
    )
  return model
