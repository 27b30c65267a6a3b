# make demo, make test: each sets itself up on a machine that has only Python >= 3.11 with pip, and make.
PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin
GET_UV = test -d .tools/uv || \
	$(PYTHON) -m pip install --quiet --target .tools --require-hashes --requirement infra/image/uv.txt
UV = PYTHONPATH=$(CURDIR)/.tools $(PYTHON) -m uv

PARTS = postprocess preprocess megapixels forward memory job listing corrupt
LONG_PARTS = families scale kills pool gcs idle_head s3_requests train growing
BENCHES = $(PARTS:%=bench-%)
LONG_BENCHES = $(LONG_PARTS:%=bench-%)
PICTURES = scenes staircase traps queries life speed kill
TOOLS = airflow argo cron dagster tables
TEST_TOOLS = $(TOOLS:%=test-tool-%)

.PHONY: demo test test-fast test-slow test-units test-chaos test-behavior test-commands test-runs test-cluster check audit lock clean chaos bench bench-gpu $(BENCHES) $(LONG_BENCHES)
.PHONY: test-tools $(TEST_TOOLS) lock-tools docs reference pictures

# Let processes keep bytecode, whatever the shell says, because each would else compile thousands of modules anew.
unexport PYTHONDONTWRITEBYTECODE

demo: $(VENV)/ready
	$(BIN)/m2f-batch demo demo-run

# Let threads that wait for each other sleep, as in a job's own workers. Spinning ones make a busy machine crawl.
test test-fast test-slow test-units test-chaos test-behavior test-commands test-runs chaos $(BENCHES) $(LONG_BENCHES) \
	bench-gpu: export OMP_WAIT_POLICY ?= PASSIVE

# Run two suites at once, and the next as soon as one ends. The last takes all cores, so a long one goes right before it:
# neither core waits while the other ends.
test: $(VENV)/ready
	$(MAKE) -j2 --output-sync=target test-runs test-commands check test-chaos test-units
	PYTHON=$(PYTHON) sh infra/audit.sh

# A process for each core. The files of long tests come first in the order of names, and doctests last.
FEW = $(BIN)/python -m pytest -q --durations=10 --ignore=tests/behavior --ignore=tests/chaos --ignore=tests/tools \
	-n auto --dist loadfile --no-loadscope-reorder
# The inner loop: no servers but moto, no training, no other processes.
test-fast: $(VENV)/ready
	$(FEW) -m "not slow"

test-slow: $(VENV)/ready
	$(FEW) -m slow

# Both at once, because to import torch and to collect the tests takes each process some fifteen seconds.
test-units: $(VENV)/ready
	$(FEW)

test-chaos: $(VENV)/ready
	$(BIN)/python -m pytest -q --durations=10 tests/chaos

# Whole commands in processes of their own, and the other promises of runs.
COMMANDS = $(addprefix tests/behavior/test_,$(addsuffix .py,allow_finetune backbones command_line finetune \
	finetune_stop finetune_two poison s3_access_runs))
test-commands: $(VENV)/ready
	$(BIN)/python -m pytest -q --durations=20 $(COMMANDS)

test-runs: $(VENV)/ready
	$(BIN)/python -m pytest -q --durations=20 tests/behavior $(COMMANDS:%=--ignore=%)

test-behavior: test-commands test-runs

# Kills and S3 faults by seeded schedules on a three-node Ray cluster, driver kills, and the tests that take minutes.
SCHEDULES ?= 20
SEED ?= 1
chaos: export PYTHONPATH = tests
chaos: $(VENV)/ready
	$(BIN)/python tests/chaos/run_chaos.py --schedules $(SCHEDULES) --seed $(SEED) $(CHAOS_OPTIONS)
	$(BIN)/python tests/chaos/driver_kills.py --seed $(SEED)
	CHAOS=all $(BIN)/python -m pytest -q tests/chaos/test_chaos.py tests/chaos/test_two_runs.py tests/chaos/test_seven_nights.py \
		tests/chaos/test_nodes.py tests/chaos/test_growing.py tests/chaos/test_kills.py tests/behavior/test_poison.py \
		tests/behavior/test_command_line.py \
		tests/behavior/test_finetune_two.py \
		tests/behavior/test_finetune_stop.py tests/behavior/test_backbones.py \
		tests/chaos/test_submit_cluster.py tests/behavior/test_benchmark_job.py tests/behavior/test_published.py \
		tests/behavior/test_python_on_ray.py \
		tests/integration/test_every_family.py tests/integration/test_wheel.py \
		tests/unit/vision/test_window_memory.py

# The promises of runs, on a three-node Ray on this machine.
test-cluster: export M2F_BATCH_TEST_NODES = 3
test-cluster: $(VENV)/ready
	$(BIN)/python -m pytest -q tests/behavior/test_runs.py tests/behavior/test_resume.py tests/behavior/test_command_line.py

# the recipes of infra/schedulers and docs/guides/tables.md in the packages that they are for, each locked in an environment
# of its own (700 MB), with this checkout's own command
test-tools: $(TEST_TOOLS)

$(TEST_TOOLS): test-tool-%: .venv-tools/%/ready $(VENV)/ready
	.venv-tools/$*/bin/python -m pytest -q --confcutdir=tests/tools tests/tools/test_$*.py

.venv-tools/%/ready: tests/tools/%.txt
	$(GET_UV)
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv-tools/$*
	$(UV) pip sync --quiet --python .venv-tools/$* --require-hashes $<
	touch $@

# Run it after a change in tests/tools/*.in or infra/docs/requirements.in.
lock-tools:
	$(GET_UV)
	for tool in $(TOOLS:%=tests/tools/%) infra/docs/requirements; do \
		$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
			$$tool.in -o $$tool.txt || exit 1; \
	done

# The site of the documents, into site/. Its packages are locked in an environment of its own (80 MB). A link or an anchor that
# is not there ends it, and so does anything that a page would load from elsewhere.
docs: .venv-docs/ready
	rm -rf site
	.venv-docs/bin/python -m sphinx --quiet --fresh-env --write-all --fail-on-warning --conf-dir infra/docs \
		--doctree-dir .venv-docs/doctrees . site
	.venv-docs/bin/python infra/docs/check_site.py site

.venv-docs/ready: infra/docs/requirements.txt
	$(GET_UV)
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv-docs
	$(UV) pip sync --quiet --python .venv-docs --require-hashes $<
	touch $@

# Run it after a change of what docs/reference/ is made of: arguments, config keys, tables, public names.
reference: $(VENV)/ready
	$(BIN)/python infra/docs/write_reference.py

# Ours and the peers side by side: all parts but the long ones, or one. BENCH="--quick" is a try that writes no result.
# Its chart is drawn anew from the newest results.
bench: $(BENCHES)
	$(BIN)/python -m benchmarks.pictures.speed

$(BENCHES) $(LONG_BENCHES) bench-gpu: bench-%: $(VENV)/ready
	$(BIN)/python -m benchmarks.$(notdir $(patsubst %/,%,$(dir $(wildcard benchmarks/*/$*.py)))).$* $(BENCH)

# Pictures of the documents, but those that a training or a live cluster draws.
pictures: $(VENV)/ready
	for picture in $(PICTURES); do $(BIN)/python -m benchmarks.pictures.$$picture || exit 1; done

# Lint, format and types.
check: $(VENV)/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# Known vulnerabilities of the locked packages. Skipped, with the reason, where the index names none at all.
audit: $(VENV)/ready
	PYTHON=$(PYTHON) sh infra/audit.sh

# Locked packages with hashes, and this checkout itself. Nothing is installed outside .venv and .tools.
$(VENV)/ready: requirements.lock pyproject.toml m2f_batch/version.py
	$(GET_UV)
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	$(UV) pip sync --quiet --python $(VENV) --require-hashes requirements.lock
	$(UV) pip install --quiet --python $(VENV) --no-deps --no-build-isolation --editable .
	touch $@

# Run it after a change of dependencies in pyproject.toml.
lock:
	$(GET_UV)
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate --all-extras --group dev \
		pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) .venv-tools .venv-docs .tools demo-run site
