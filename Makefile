# The README's two commands are `make demo` and `make test`.
#
#   PYTHON=python3.12   the interpreter, 3.11 or newer
#   VENV=.venv          the environment, made anew for another Python version
#   CONSTRAINTS=constraints/colab.txt  versions, by default of constraints/py*.txt
#   ARGS='--config.limit=50'   more flags for demo, rate, channel, train and bench
#   ARGS='-D nb_execution_mode=off'   docs without executing the notebooks

VENV ?= .venv
ARGS ?=
export VENV PYTHON CONSTRAINTS

PY := $(VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help demo rate finetune channel test install install-test install-bench install-docs format baselines tasks train bench docs clean

help:
	@echo 'make demo     the paper on the tiny model, into runs/demo'
	@echo 'make rate     captions against bytes, beside JPEG, WebP, AVIF, into runs/rate'
	@echo 'make finetune train through the bottleneck, into runs/finetune'
	@echo 'make test     format, lint, types, tests, notebooks'
	@echo 'make format   rewrite the sources in the house style'
	@echo 'make channel  captions over lossy packets and radio, into runs/channel'
	@echo 'make tasks    what each task keeps of its score, into runs/tasks'
	@echo 'make baselines  all ways to choose k vectors, into runs/baselines'
	@echo 'make train    train the tiny model, into runs/train_tiny and train_tiny_questions'
	@echo 'make bench    k-means beside its peers'
	@echo 'make docs     these pages as a site, into build/site'
	@echo 'make clean    remove caches and builds; not .venv, not runs'

install:
	@tools/install.sh

install-test install-bench install-docs: install-%:
	@tools/install.sh $*

demo: install
	$(PY) experiments/demo.py --workdir=runs/demo $(ARGS)

rate: install
	$(PY) experiments/rate.py --workdir=runs/rate $(ARGS)

finetune: install
	$(PY) experiments/finetune.py --workdir=runs/finetune $(ARGS)

test: install-test
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m basedpyright --pythonpath $(PY)
	$(PY) -m pytest

format: install-test
	$(PY) -m ruff check --fix --exit-zero --quiet .
	$(PY) -m ruff format .

channel: install
	$(PY) experiments/channel.py --workdir=runs/channel $(ARGS)

baselines: install
	$(PY) experiments/baselines.py --workdir=runs/baselines $(ARGS)

tasks: install
	$(PY) experiments/tasks.py --workdir=runs/tasks $(ARGS)

train: install
	$(PY) experiments/train.py --config=configs/train_tiny.py \
	  --workdir=runs/train_tiny $(ARGS)
	$(PY) experiments/train.py --config=configs/train_questions.py \
	  --workdir=runs/train_tiny_questions $(ARGS)

bench: install-bench
	$(PY) benchmarks/kmeans.py $(ARGS)

docs: install-docs
	@echo 'executes notebooks that changed, or all of them if the package did'
	$(PY) -m sphinx -W --keep-going -q -b html $(ARGS) docs build/site
	@echo 'build/site/index.html'

clean:
	rm -rf build dist *.egg-info .cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune \
	  -exec rm -rf {} +
