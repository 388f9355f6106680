# `make` alone lists the targets. They run in .venv, which the first target that needs it creates. Choices: SHARD=07
# MANIFEST=manifests/open.toml OUT=data/open DEVICE=cpu|cuda|cuda:1 SHARDS=0-3,7 WORKERS=8 PORT=4200 PYTHON=python3.12
# TORCH=torch==2.13.0+cu130 TORCH_INDEX=... EXTRAS=dask (set-up only) ARGS='...' (passed on as they are)

PYTHON ?= $(if $(shell .venv/bin/python --version 2>/dev/null),.venv/bin/python,python3)
BIN := .venv/bin
HMR_SKEL := $(BIN)/hmr-skel
CHOICES = $(if $(MANIFEST),--manifest "$(MANIFEST)") $(if $(OUT),--out "$(OUT)") $(if $(DEVICE),--device "$(DEVICE)")

export DO_NOT_TRACK = 1
# uv leaves it to Python to compile modules at their first import. If Python may not keep the result, every process
# compiles torch and all other packages again.
unexport PYTHONDONTWRITEBYTECODE

# How glibc uses memory (LOG.md). In builds, threads share two heaps, since each heap keeps its largest size. In training on
# a CPU, freed memory stays in the process; otherwise page faults on returned memory take a tenth of each step.
dataset serve: export MALLOC_ARENA_MAX = 2
train ablate bench: export MALLOC_TRIM_THRESHOLD_ = 2147483647
train ablate bench: export MALLOC_MMAP_THRESHOLD_ = 2147483647
train ablate bench: export MALLOC_TOP_PAD_ = 134217728

.PHONY: help setup fit which-shard dataset serve images train evaluate ablate predict bench report notebooks docs test test-all check format doctor audit drill fuzz rehearsal again
.DEFAULT_GOAL := help

help:
	@echo 'hmr-skel converts SMPL annotations of people in images to SKEL, at dataset scale'
	@echo
	@echo '  make fit SHARD=07    fit one shard and print its errors; this works in a fresh clone'
	@echo '  make dataset         fit all shards that are not complete, and show progress; SHARDS=0-3,7 fits some,'
	@echo '                       WORKERS=8 uses eight processes, a GPU each'
	@echo '  make serve           start Prefect with its pages; to start a build there, run in another terminal'
	@echo '                       prefect deployment run build-hmr-skel'
	@echo '  make bench           measure the fit, and compare it with the published protocol and the lowest possible error;'
	@echo '                       BENCH=train|predict measures the network (recipe vit_h by default)'
	@echo '  make train           train the network on the dataset, which it builds if there is none; RECIPE=tiny|vit_b|vit_h'
	@echo '  make evaluate        print the errors of the network on the held-out shards'
	@echo '  make ablate          train the variants in Tables 4 and 5 of the paper, and print both; takes an hour on two cores'
	@echo '  make predict         estimate SKEL in held-out images with the network that was trained last, and draw it;'
	@echo '                       IMAGES=... ARGS=... takes your own images'
	@echo '  make images          render the images of the default dataset, which training needs and fitting does not'
	@echo '  make report          write a web page about the dataset: errors, joint angles, rejects, pictures, a 3D viewer'
	@echo '  make doctor          say what is installed, which body models and label files are there, and what is missing'
	@echo '  make audit           list known vulnerabilities of the pinned packages (asks the package index)'
	@echo '  make notebooks       open the notebooks in JupyterLab; they read what `make dataset images` writes'
	@echo '  make docs            make a site of the pages in docs/: build/site/index.html'
	@echo '  make test            run the tests in random order; ARGS='"'-p no:randomly'"' keeps the usual order'
	@echo '  make test-all        run also the tests that need more (Chromium, Dask) or take long, and check array shapes'
	@echo '  make check           check style and types, and run the fast tests; takes two minutes on two cores'
	@echo '  make drill           break builds on purpose and count the cost'
	@echo '  make fuzz            give mutated files to everything that reads files'
	@echo '  make rehearsal       build, check, report and train at the size of the paper; 15 GB in FOLDER=data/rehearsal'
	@echo '  make format          rewrite the sources in the style of the project'
	@echo '  make setup           make .venv with the packages for running; other targets install what they need besides.'
	@echo '                       TORCH=torch==2.13.0+cu130 takes another build of torch, PYTHON=python3.12 another Python,'
	@echo '                       EXTRAS=dask more packages (pyproject.toml names the extras), CUDA=1 all that fits on an'
	@echo '                       NVIDIA GPU need, for its driver'
	@echo
	@echo '  Choices: MANIFEST=manifests/open.toml  OUT=data/open  DEVICE=cpu|cuda|cuda:1  PORT=4200'
	@echo '  All commands without make: $(HMR_SKEL) --help'

setup: .venv/has-run $(addprefix .venv/has-,$(EXTRAS))

# .venv/has-run: the packages for running are installed. .venv/has-test: those of the extra `test` are, too.
.venv/has-run: pyproject.toml constraints.txt $(if $(filter command,$(origin PYTHON) $(origin CUDA))$(filter command environment,$(origin TORCH)),again)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is `$(PYTHON) --version 2>&1`, hmr-skel needs 3.11 or newer; name one: make setup PYTHON=python3.12"; exit 2; }
	@$(PYTHON) tools/set_up.py $(if $(filter command,$(origin CUDA)),--cuda) $(if $(filter command environment,$(origin TORCH)),--torch "$(TORCH)") $(if $(TORCH_INDEX),--torch-index "$(TORCH_INDEX)")
	@touch $@

.venv/has-%: .venv/has-run
	@$(BIN)/python tools/set_up.py $* $(if $(TORCH_INDEX),--torch-index "$(TORCH_INDEX)")
	@touch $@

fit: $(if $(SHARD),.venv/has-run,which-shard)
	@$(HMR_SKEL) fit --shard "$(SHARD)" $(CHOICES) $(ARGS)

which-shard:
	@echo "error: make fit fits one shard. Name it: make fit SHARD=07" >&2; exit 2

# Several processes or machines need Dask, an extra.
dataset: .venv/has-run $(if $(filter-out 1,$(WORKERS))$(findstring --dask-address,$(ARGS)),.venv/has-dask)
	@$(HMR_SKEL) dataset $(CHOICES) $(if $(SHARDS),--shards "$(SHARDS)") $(if $(WORKERS),--workers "$(WORKERS)") $(ARGS)

serve: .venv/has-run
	@$(HMR_SKEL) serve $(if $(PORT),--port "$(PORT)") $(ARGS)

# train and predict are also commands of hmr-skel. The others need the checkout: fit, quality, loader, conversion.
bench: .venv/has-train
	@$(if $(filter train predict,$(BENCH)),$(HMR_SKEL) bench,$(BIN)/python -m bench) $(or $(BENCH),fit) --json $(if $(filter fit,$(or $(BENCH),fit)),--plot "$(DATA)/bench-fit.png") $(if $(MANIFEST),--manifest "$(MANIFEST)") $(if $(DEVICE),--device "$(DEVICE)") $(ARGS)

# OUT= is the dataset here too; RUN= is the network's folder (default: data/runs/<recipe>).
train: .venv/has-train
	@$(HMR_SKEL) train --build --recipe "$(or $(RECIPE),tiny)" $(if $(RUN),--out "$(RUN)") $(if $(MANIFEST),--manifest "$(MANIFEST)") $(if $(OUT),--data "$(OUT)") $(if $(DEVICE),--device "$(DEVICE)") $(ARGS)

evaluate: .venv/has-run
	@$(HMR_SKEL) evaluate --build $(if $(RUN),"$(RUN)") $(if $(MANIFEST),--manifest "$(MANIFEST)") $(if $(OUT),--data "$(OUT)") $(if $(DEVICE),--device "$(DEVICE)") $(ARGS)

# RUN= is the folder of all runs here (default: data/runs/ablation-<recipe>).
ablate: .venv/has-train
	@$(BIN)/python -m bench ablate --build --recipe "$(or $(RECIPE),tiny)" $(if $(RUN),--out "$(RUN)") $(if $(MANIFEST),--manifest "$(MANIFEST)") $(if $(OUT),--data "$(OUT)") $(if $(DEVICE),--device "$(DEVICE)") $(ARGS)
# Without IMAGES: twenty held-out images of the default dataset, whose rows give boxes and cameras.
DATA := $(or $(HMR_SKEL_DATA),data)
HELD_OUT := $(addprefix $(DATA)/open/images/,001531 001532 001533 001534 001535) --boxes $(DATA)/open

predict: .venv/has-run
	@$(HMR_SKEL) predict $(or $(IMAGES),$(HELD_OUT)) $(if $(RUN),--network "$(RUN)") $(if $(OUT),--out "$(OUT)") $(if $(MANIFEST),--manifest "$(MANIFEST)") $(if $(DEVICE),--device "$(DEVICE)") $(ARGS)

# The dataset is built first if there is none.
report: .venv/has-run
	@$(HMR_SKEL) report --build $(if $(OUT),"$(OUT)") $(if $(MANIFEST),--manifest "$(MANIFEST)") $(ARGS)

images: .venv/has-run
	@$(HMR_SKEL) images $(if $(MANIFEST),--manifest "$(MANIFEST)") $(ARGS)

doctor: .venv/has-run
	@$(HMR_SKEL) doctor $(if $(MANIFEST),--manifest "$(MANIFEST)") $(ARGS)

# The auditor has an environment of its own. It fails if a pin has a known vulnerability, or if the index has no data on
# any pin. It names pins without data (for instance a build of torch with its own name) as not audited.
audit:
	@test -x .venv/audit/bin/pip-audit || { $(PYTHON) -m venv .venv/audit && .venv/audit/bin/pip install --quiet --disable-pip-version-check 'pip-audit>=2.10'; }
	@sed 's/+cpu//' constraints.txt > .venv/audit/pins.txt
	@.venv/audit/bin/pip-audit --no-deps --disable-pip --progress-spinner off -r .venv/audit/pins.txt $(ARGS) \
	  > .venv/audit/found.txt 2> .venv/audit/said.txt; status=$$?; cat .venv/audit/found.txt; \
	  test -s .venv/audit/found.txt || cat .venv/audit/said.txt; \
	  unknown=$$(grep -c 'could not be audited' .venv/audit/found.txt); \
	  pins=$$(grep -c '^[A-Za-z0-9]' .venv/audit/pins.txt); \
	  echo "$$unknown of $$pins pins not audited: the index has no data on them"; \
	  test $$unknown -lt $$pins || exit 1; exit $$status

drill: .venv/has-dask
	@$(BIN)/python -m tools.drill faults $(ARGS)

# Bytes that are changed, for every reader; and for the converter, keys, axes, units and rows.
fuzz: .venv/has-test
	@$(BIN)/pytest -q -m extra tests/convert/test_structure.py
	@$(BIN)/python -m tools.drill fuzz $(ARGS)

rehearsal: .venv/has-train
	@$(BIN)/python -m tools.rehearsal --folder "$(or $(FOLDER),data/rehearsal)" $(ARGS)

# One process more than cores: some tests wait for servers and stores.
TESTERS = $$(($$(getconf _NPROCESSORS_ONLN) + 1))

# A file's tests share what they make, so they run in one process; tests/conftest.py says which files come first.
PYTEST = $(BIN)/pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder

# Tests with the mark `extra` need more than this installs, or take long. Only `test-all` checks the shapes of arrays, which
# takes an eighth more time.
test: .venv/has-test
	@$(PYTEST) --jaxtyping-packages= -m 'not extra' $(ARGS)

# ARGS='-m extra' runs those alone. A test that skips fails here.
test-all: .venv/has-test-all
	@$(PYTEST) --skips-fail $(ARGS)

docs: .venv/has-docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs --quiet build && echo 'build/site/index.html'

notebooks: .venv/has-notebooks
	@$(BIN)/jupyter lab notebooks $(ARGS)

check: .venv/has-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/ty check --quiet
	@$(BIN)/pytest -q -n 2 --dist loadfile -m 'not slow and not gpu and not extra' $(ARGS)

format: .venv/has-dev
	@$(BIN)/ruff check --quiet --fix . || true
	@$(BIN)/ruff format .
