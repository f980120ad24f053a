# On a machine with Python ≥ 3.11, make and git:
#   make demo   both papers at small size, with every table, figure and the report
#   make test   format, lint, dry runs, tests
#   make gpu    what an NVIDIA GPU does here: checks, speed, a slice of Table 1 (docs/restoration.md)
#   make regenerate-paper-figures   the papers' tables and figures at full size: downloads, days
# On a Debian or Ubuntu machine that has no SLURM of its own, as root:
#   make test-slurm   the SLURM profile on a real SLURM, with faults; writes docs/reliability.md
PYTHON ?= python3
CORES ?= 2
# `make demo TORCH=cpu`: PyTorch's CPU build, without 5 GB of CUDA's libraries (docs/release.md).
TORCH ?=
BIN := .venv/bin
# One thread per job: several jobs side by side use the cores better than one with many threads.
export OMP_NUM_THREADS ?= 1
export MPLBACKEND := agg
export PYTHONUNBUFFERED := 1

.PHONY: demo regenerate-paper-figures gpu test test-slurm check dry-runs lock clean

.venv/ready: requirements.lock requirements-uv.lock
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.lock
ifeq ($(TORCH),)
	$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock
else
	$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python --torch-backend $(TORCH) \
		--no-verify-hashes -c requirements.lock --extra pipeline --extra test -r pyproject.toml
endif
	touch $@

demo: .venv/ready
	$(BIN)/snakemake --directory demo --cores $(CORES) --report results/report.html --report-after-run
	@echo
	@echo "tables   demo/results/tables/   (table1 to 3, claims, checklist: Markdown, CSV, LaTeX)"
	@echo "figures  demo/results/figures/  (figure3, 6, 7, 8, 9, funn_figure2 as PNG and PDF)"
	@echo "gallery  demo/results/gallery.html"
	@echo "report   demo/results/report.html"

regenerate-paper-figures: .venv/ready
	$(BIN)/snakemake --cores $(CORES) regenerate_paper_figures

# In parts of ten minutes at most, and again where it was: `make gpu MINUTES=9 AGAIN="nan memory"`.
gpu:
	@nvidia-smi > /dev/null 2>&1 || { echo "make gpu needs an NVIDIA GPU, and nvidia-smi shows none;" \
		"for a CPU: $(BIN)/python performance/restoration.py" >&2; exit 1; }
	$(MAKE) .venv/ready
	$(BIN)/python performance/gpu.py $(if $(MINUTES),--minutes $(MINUTES)) $(if $(AGAIN),--again $(AGAIN))

test: check dry-runs
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations 40

test-slurm: .venv/ready
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge
	$(BIN)/python -m pytest -m slurm tests/test_slurm.py

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yaml
	$(BIN)/snakemake --lint --directory demo

dry-runs: .venv/ready
	$(BIN)/snakemake --dry-run --quiet all
	$(BIN)/snakemake --dry-run --quiet all --directory demo
	$(BIN)/snakemake --dry-run --quiet all $(if $(shell command -v conda),--use-conda) --cores 8 regenerate_paper_figures tables figures
	$(BIN)/snakemake --dry-run --quiet all --profile profiles/slurm
	$(BIN)/snakemake --dry-run --quiet all --profile profiles/slurm --directory demo
	$(BIN)/snakemake --dry-run --quiet all --profile profiles/kubernetes

# Renews both lock files from pyproject.toml.
lock:
	echo 'uv==0.13.8' | $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes -o requirements-uv.lock -
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --extra pipeline --extra test pyproject.toml -o requirements.lock

clean:
	rm -rf results logs benchmarks demo/results demo/logs demo/benchmarks .snakemake demo/.snakemake
