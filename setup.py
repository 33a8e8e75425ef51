"""All packaging facts; pyproject.toml configures the tools only."""

import pathlib
import re

import setuptools

_ROOT = pathlib.Path(__file__).parent
_README = _ROOT / 'README.md'
_INIT = (_ROOT / 'collab_jax' / '__init__.py').read_text('utf-8')
_VERSION = re.findall(r"^__version__ = '(.+)'$", _INIT, re.MULTILINE)

# The lowest versions are those of Colab's list, in constraints/colab.txt, where
# it has the package: an install there must replace nothing.
_REQUIRES = [
  'absl-py>=1.4',
  'constriction>=0.5,<0.6',
  'flax>=0.11,<0.13',
  'google-crc32c>=1.7',
  'grain>=0.2.18',
  'jax>=0.7.2,<0.13',
  'jaxtyping>=0.3',
  'matplotlib>=3.10',
  'ml_collections>=1.1',
  'ml_dtypes>=0.5',
  'numpy>=2',
  'optax>=0.2.8',
  'orbax-checkpoint>=0.11.36',
  'pillow>=11.3',
  'sacrebleu>=2.6',
  'safetensors>=0.6',
  'sentencepiece>=0.2.1',
  'tqdm>=4.66',
]

# Datasets prepared by TensorFlow Datasets; TensorFlow is not needed to read
# them. The last one is imported by the first, which does not ask for it.
_TFDS = [
  'tensorflow-datasets>=4.9.10',
  'array-record>=0.8.6',
  'importlib_resources>=6',
]

# The edge and the server over a network. The generated code asks for packages
# at least as new as those that it was made with, so that it is made with old
# ones (docs/serving.md); the last one is for the edge's page.
_SERVING = [
  'grpcio>=1.71.2,<2',
  'grpcio-health-checking>=1.71.2,<2',
  'grpcio-reflection>=1.71.2,<2',
  'protobuf>=5.29,<8',
  'prometheus_client>=0.22',
  'aiohttp>=3.12',
]

_STABLEHLO = ['flatbuffers>=25.2.10']

# The site executes the notebooks, with all that they import.
_DOCS = [
  *_SERVING,
  *_STABLEHLO,
  'furo>=2025.9',
  'ipykernel>=6.17',
  'myst-nb>=1.4',
  'myst-parser>=5',
  'sphinx>=8.2',
  'sphinx-copybutton>=0.5.2',
]

_LOGGING = ['tensorboardX>=2.6.2.2', 'wandb>=0.19.11']

_EXTRAS = {
  'serving': _SERVING,
  # The documentation's site.
  'docs': _DOCS,
  'test': [
    *_DOCS,
    'basedpyright>=1.30',
    'beartype>=0.22',
    'bjontegaard>=1.3',
    'cryptography>=45',
    'grpcio-tools>=1.71.2,<2',
    'huggingface_hub>=0.34',
    'hypothesis>=6.100',
    'komm>=0.37',
    'nbclient>=0.10',
    'nbformat>=5.10',
    'pytest>=8.4',
    'pytest-xdist>=3.8',
    'pyyaml>=6',
    'ruff>=0.15',
    'scikit-learn>=1.6',
    'submitit>=1.5',
    'tensorboardX>=2.6.2.2',
  ],
  # benchmarks/kmeans.py beside its peers.
  'bench': ['faiss-cpu>=1.11', 'ott-jax>=0.5', 'scikit-learn>=1.7'],
  # The COCO caption evaluation itself; its tokenizer and METEOR need Java.
  'coco': ['pycocoevalcap>=1.2'],
  'tfds': _TFDS,
  # To prepare coco_captions, whose builder needs it.
  'tensorflow': [*_TFDS, 'tensorflow>=2.20'],
  # Fetching released models by name.
  'hub': ['huggingface_hub>=0.34'],
  # Edges' programs: the runtime's file format, and the converters.
  'stablehlo': _STABLEHLO,
  'onnx': ['jax2onnx>=0.17', 'onnxruntime>=1.20'],
  'litert': ['tensorflow-cpu>=2.20', 'ai-edge-litert>=2'],
  # `--log`: event files without TensorFlow, and the service's own library.
  'logging': _LOGGING,
  # `--engine=slurm`; `--engine=ray`, and replicas of a server.
  'slurm': ['submitit>=1.5'],
  'ray': ['ray[serve-grpc]>=2.60'],
  'cuda': ['jax[cuda12]'],
  'tpu': ['jax[tpu]'],
}

setuptools.setup(
  name='collab_jax',
  version=_VERSION[0],
  description='Collaborative inference of vision-language models, in JAX.',
  long_description=_README.read_text('utf-8') if _README.exists() else '',
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  license_files=['LICENSE'],
  python_requires='>=3.11',
  # configs, experiments and benchmarks are run from a clone.
  packages=setuptools.find_namespace_packages(
    include=['collab_jax', 'collab_jax.*'],
    exclude=['*.assets*', '*__pycache__'],
  ),
  package_data={
    'collab_jax': [
      'py.typed',
      'assets/**/*',
      'serving/*.proto',
      'serving/web/*.html',
      'studies/html_report/*.css',
      '**/*.pyi',
    ]
  },
  install_requires=_REQUIRES,
  extras_require=_EXTRAS,
  entry_points={
    'console_scripts': [
      f'{name} = collab_jax.__main__:run'
      for name in ('collab-jax', 'collab_jax')
    ]
  },
  classifiers=[
    'Intended Audience :: Science/Research',
    'Programming Language :: Python :: 3 :: Only',
    'Programming Language :: Python :: 3.11',
    'Programming Language :: Python :: 3.12',
    'Programming Language :: Python :: 3.13',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
  ],
)
