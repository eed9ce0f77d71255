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

.PHONY: setup demo test lab studio bench site export clean-notebooks dist dist-check

setup: $(VENV)/.ready  ## .venv with the pinned set, inplace-abn where it can be built

$(VENV)/.ready: constraints.txt settings.ini setup.py .ci/inplace_abn.sh
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"The versions in constraints.txt need Python 3.11 or newer; $(PYTHON) is {v[0]}.{v[1]}. Choose another one: make setup PYTHON=python3.11 (the package itself runs on 3.10: pip install .)")'
	@test -x $(BIN)/pip || { rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); } || \
	  { rm -rf $(VENV); echo "no virtual environment could be made; on Debian: apt-get install python3-venv"; exit 1; }
	@echo "installing the pinned set into $(VENV) (about 5.5 GB, minutes) …"
	@$(BIN)/pip install -q $(PIP_FLAGS) -c constraints.txt pip setuptools wheel setuptools-scm ninja
	@$(BIN)/pip install -q $(PIP_FLAGS) -c constraints.txt --no-build-isolation -e '.[notebook,coco,sbd,dev]'
	@bash .ci/inplace_abn.sh $(BIN)/python $(PIP_FLAGS)
	@$(BIN)/python -m wilson.workbench.papermill_front
	@touch $@

demo: setup  ## trains base and incremental step on the demo data, and says how to look at it
	$(BIN)/wilson demo

test: setup  ## exports, tests every page and everything else
	bash tests/run.sh

lab: setup  ## JupyterLab at the explorer and TensorBoard beside it, on localhost unless LAB_FLAGS=--ip=… says otherwise
	@$(BIN)/wilson lab $(LAB_FLAGS)

studio: setup  ## the explorer by voila, as a page for readers without Jupyter, on localhost unless STUDIO_FLAGS=--ip=… says otherwise
	@$(BIN)/wilson studio $(STUDIO_FLAGS)

bench: setup  ## what each stage of a training step costs
	$(BIN)/wilson bench

site: setup  ## the documentation from the notebooks, run; SITE_PAGES="index bench" runs these alone
	$(BIN)/python .ci/site/pages.py _docs/source $(SITE_PAGES)
	TQDM_DISABLE=1 OMP_NUM_THREADS=1 $(BIN)/sphinx-build -W -n -q -j 2 -c .ci/site _docs/source _docs/html
	@echo "Open _docs/html/index.html; nothing in it needs the network."

export: setup  ## wilson/ from nbs/, stale modules removed
	bash .ci/export.sh

clean-notebooks: setup
	$(BIN)/nbdev_clean

dist: setup  ## dist/: the source distribution and, built from it, the wheel
	rm -rf build dist
	$(BIN)/python -m build --no-isolation --skip-dependency-check

dist-check: dist  ## installs the wheel with the oldest and the newest torch that the index gives, and trains from it
	bash .ci/dist_check.sh
