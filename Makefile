# Two commands matter: `make demo` and `make test`. Both set up what they need.
PYTHON ?= python3
PIP_FLAGS ?=
LAB_FLAGS ?=
STUDIO_FLAGS ?=
SITE_PAGES ?=
VENV := .venv
BIN := $(VENV)/bin
export TORCH_CUDA_ARCH_LIST ?= 8.0;9.0
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: setup demo test lab studio bench site export clean-notebooks

setup: $(VENV)/.ready  ## .venv with the pinned set, inplace-abn where it can be built

$(VENV)/.ready: constraints.txt settings.ini setup.py .ci/inplace_abn.sh
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"The versions in constraints.txt need Python 3.11 or newer; $(PYTHON) is {v[0]}.{v[1]}. Choose another one: make setup PYTHON=python3.11 (the package itself runs on 3.10: pip install .)")'
	@test -x $(BIN)/pip || { rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); } || \
	  { rm -rf $(VENV); echo "no virtual environment could be made; on Debian: apt-get install python3-venv"; exit 1; }
	@echo "installing the pinned set into $(VENV) (about 5.5 GB, minutes) …"
	@$(BIN)/pip install -q $(PIP_FLAGS) -c constraints.txt pip setuptools wheel setuptools-scm ninja
	@$(BIN)/pip install -q $(PIP_FLAGS) -c constraints.txt --no-build-isolation -e '.[notebook,coco,sbd,dev]'
	@bash .ci/inplace_abn.sh $(BIN)/python $(PIP_FLAGS)
	@printf '#!%s\nimport sys\nfrom wilson.experiments.papermill import run_papermill\nsys.exit(run_papermill())\n' \
	  '$(CURDIR)/$(BIN)/python' > $(BIN)/papermill
	@chmod 755 $(BIN)/papermill
	@touch $@

demo: setup  ## trains base and incremental step on the demo data, and says how to look at it
	$(BIN)/wilson train --dataset shapes --task 15-5
	@echo "Now look at the pseudo-labels: \`make lab\` opens nbs/explore.ipynb in JupyterLab, \`make studio\` serves it as a page."

test: setup  ## exports, tests every page and everything else
	bash tests/run.sh

lab: setup  ## JupyterLab at the explorer and TensorBoard beside it, on localhost unless LAB_FLAGS=--ip=… says otherwise
	@$(BIN)/python .ci/lab.py $(LAB_FLAGS)

studio: setup  ## the explorer by voila, as a page for readers without Jupyter, on localhost unless STUDIO_FLAGS=--ip=… says otherwise
	@$(BIN)/python .ci/studio.py $(STUDIO_FLAGS)

bench: setup  ## what each stage of a training step costs
	$(BIN)/papermill nbs/guide/bench.ipynb

site: setup  ## the documentation from the notebooks, run; SITE_PAGES="index bench" runs these alone
	$(BIN)/python .ci/site/pages.py _docs/source $(SITE_PAGES)
	TQDM_DISABLE=1 OMP_NUM_THREADS=1 $(BIN)/sphinx-build -W -n -q -j 2 -c .ci/site _docs/source _docs/html
	@echo "Open _docs/html/index.html; nothing in it needs the network."

export: setup  ## wilson/ from nbs/, stale modules removed
	bash .ci/export.sh

clean-notebooks: setup
	$(BIN)/nbdev_clean
