# Everything a person runs in this checkout. `make help` lists it.
#
#   PYTHON=python3.12   the interpreter to build the environment with (3.11 or newer)
#   UV=                 set up with venv and pip although uv is on the PATH
#   TESTS=tests/agent   which tests;  ARGS='-k guard'  more arguments for pytest or the demo
#   JOBS=0              how many files are tested side by side; 0: one after the other, in one process
#   CUTS=5000 SEED=1    how many times `make powercuts` cuts the power, and at which moments
#   SEEDS=100000        how many runs `make simulate` makes, from seed FROM on
#   N=1000000 FROM=0    how many cases `make fuzz` tries, and which is the first
#   KILLS=9999          at how many of its system calls `make crash` kills the courier; by default at each

PYTHON ?= python3
UV ?= $(shell command -v uv 2>/dev/null)
TESTS ?=
ARGS ?=
TRUST ?=
JOBS ?= $(shell nproc)
CUTS ?= 5000
SEED ?= 1
N ?= 1000000
SEEDS ?= 100000
FROM ?= 0
KILLS ?= 9999

VENV := .venv
STAMP := $(VENV)/.set-up
RUN := $(VENV)/bin/
EXTRAS := .[dev]

# An interpreter that was asked for by name replaces an environment that was built with another.
WHICH := import sys; print(sys.version_info[:3], sys.base_prefix)
ifneq ($(origin PYTHON),file)
ifneq ($(shell '$(PYTHON)' -c '$(WHICH)' 2>&1),$(shell $(RUN)python -c '$(WHICH)' 2>&1))
ANOTHER := yes
.PHONY: $(STAMP)
endif
endif

.DEFAULT_GOAL := help
.PHONY: bench soak help demo picture test fallback powercuts cutpoints deb check fuzz simulate mutate crash format docs security pins venv clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo    a broker, a manager and thirty devices on loopback, upgraded before your eyes (ARGS=...)'
	@echo 'make test    run the tests (TESTS=tests/agent, ARGS="-k guard")'
	@echo 'make fallback  the tests of trust with Ed25519 in plain Python, as on 32-bit ARM'
	@echo 'make powercuts  cut the power of hosts with real systemd; as root (CUTS=5000, SEED=1)'
	@echo 'make cutpoints  replay every block that an upgrade writes, cut at each; as root'
	@echo 'make fuzz    mutate documents and see that none is accepted (N=1000000 cases, FROM=0)'
	@echo 'make simulate  play manager, devices, broker and people in virtual time (SEEDS=100000, FROM=0)'
	@echo 'make mutate  plant mistakes into the cores and see which no quick test notices (ARGS="resolve")'
	@echo 'make crash   kill and fail every step of an upgrade; takes long (ARGS="--sample 10 --times 5")'
	@echo 'make soak    rollouts over 1000 simulated devices with faults for 30 minutes (ARGS="MINUTES DEVICES")'
	@echo 'make bench   run the benchmarks and write docs/benchmarks.md (BENCH="ingest wave", BENCH=--resume)'
	@echo 'make check   ruff, mypy --strict, import contracts'
	@echo 'make picture draw docs/images/demo.svg anew, by running the demo'
	@echo 'make console-pictures  draw docs/images/console-*.svg anew, in the console of a running demo'
	@echo 'make golden  draw every screen of the console anew, as the tests compare it: then look at them'
	@echo 'make console-bench     how the console bears 1 000, 10 000 and 50 000 devices'
	@echo 'make format  let ruff put the sources in order'
	@echo 'make deb     the agent as a Debian package that embeds the root of its fleet (TRUST=root.json)'
	@echo 'make docs    write docs/schemas, topics.md, codes.md, states.md, troubleshooting.md from the code'
	@echo 'make security carry out every attack of the catalogue and write the tables of docs/security.md'
	@echo 'make venv    set up .venv only; PYTHON=... and UV= choose with what'
	@echo 'make pins    resolve pyproject.toml anew and write constraints.txt'
	@echo 'make clean   remove .venv and everything that was generated'

demo: $(STAMP)
	@$(RUN)fleetfoot demo $(ARGS)

picture: $(STAMP)
	@$(RUN)fleetfoot demo --headless --picture docs/images/demo.svg

.PHONY: console-pictures golden console-bench
console-pictures: $(STAMP)
	@$(RUN)fleetfoot demo --console-pictures docs/images

# tests/tui/pictures/ as text, and as SVG in .console-pictures for whoever changed a screen.
golden: $(STAMP)
	@FLEETFOOT_DRAW=.console-pictures $(RUN)pytest tests/tui/test_pictures.py -q

console-bench: $(STAMP)
	@$(RUN)python -m bench.console

test: $(STAMP)
	@$(RUN)pytest $(TESTS) --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder --cov $(ARGS)

# Left out: the comparison with libsodium, which takes both.
FALLBACK := tests/protocol --ignore tests/protocol/test_ed25519.py \
	$(foreach name,rooting intake worker_run worker_worlds lost_journal owner_policy driver device_path preflight by_hand,\
	tests/agent/test_$(name).py) $(foreach name,root_rows trust_orders freshness_rows,tests/attack/test_$(name).py)
fallback: $(STAMP)
	@FLEETFOOT_WITHOUT_PYNACL=1 $(RUN)pytest $(FALLBACK) \
		--numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

powercuts: $(STAMP)
	@FLEETFOOT_REQUIRE=lab FLEETFOOT_CUTS=$(CUTS) FLEETFOOT_SEED=$(SEED) \
		$(RUN)pytest tests/lab/test_powercuts.py -rP $(ARGS)

cutpoints: $(STAMP)
	@FLEETFOOT_REQUIRE=lab,block-log FLEETFOOT_CUT_POINTS=all $(RUN)pytest tests/lab/test_cut_points.py -rP $(ARGS)

fuzz: $(STAMP)
	@$(RUN)python -m tests.fuzz $(N) $(FROM)

simulate: $(STAMP)
	@$(RUN)python -m fleetfoot_sim.world $(SEEDS) $(FROM)

mutate: $(STAMP)
	@$(RUN)python -m tests.mutation $(ARGS)

crash: $(STAMP)
	@$(RUN)python -m tests.crash $(ARGS)
	@FLEETFOOT_COURIER_KILLS=$(KILLS) $(RUN)pytest tests/crash/test_courier_killed.py --timeout 7200

soak: $(STAMP)
	@$(RUN)python -m tests.soak $(ARGS)

bench: $(STAMP)
	@$(RUN)python -m bench --write $(BENCH)

check: $(STAMP)
	$(RUN)ruff check .
	$(RUN)ruff format --check .
	$(RUN)mypy
	$(RUN)lint-imports

format: $(STAMP)
	$(RUN)ruff check --fix .
	$(RUN)ruff format .

deb: $(STAMP)
	@test -n '$(TRUST)' || { echo "Which fleet? make deb TRUST=root.json" >&2; exit 2; }
	@$(RUN)python -m deb.build --trust '$(TRUST)' $(ARGS)

docs: $(STAMP)
	$(RUN)python -m docs.generate

# Written even if an attack got through: then the page says so, and the target fails.
security: $(STAMP)
	-$(RUN)pytest -m row --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder --junitxml=.security.xml $(TESTS) $(ARGS)
	$(RUN)python -m docs.security_table .security.xml

venv: $(STAMP)
	@echo '$(VENV) is ready'

# Set up again only when what is installed may have changed. An environment whose interpreter is
# gone (moved checkout, upgraded system) is built anew.
$(STAMP): pyproject.toml constraints.txt
	@command -v '$(PYTHON)' >/dev/null || { \
		echo "No '$(PYTHON)' here. On Debian, as root: apt-get install python3 python3-venv" >&2; exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Fleetfoot needs Python 3.11 or newer; '$(PYTHON)' is older. Name another: make venv PYTHON=python3.12" >&2; exit 1; }
	@test -z '$(UV)' || test -x '$(UV)' || command -v '$(UV)' >/dev/null || { \
		echo "UV names no program: '$(UV)'. To set up with pip: make venv UV=" >&2; exit 1; }
	@test -n '$(UV)' || '$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "'$(PYTHON)' comes without venv. On Debian, as root: apt-get install python3-venv" >&2; exit 1; }
	@test -z '$(ANOTHER)' && $(RUN)python -c '' 2>/dev/null || rm -rf $(VENV)
	@if test -n '$(UV)'; then \
		echo 'Setting up $(VENV) with uv'; \
		{ test -x $(RUN)python || '$(UV)' venv --quiet --python '$(PYTHON)' $(VENV); } && \
		'$(UV)' pip install --quiet --python $(RUN)python --constraint constraints.txt \
			--build-constraint constraints.txt --editable '$(EXTRAS)' || { \
		echo 'uv could not set up $(VENV). An index that only pip knows? make venv UV=' >&2; exit 1; }; \
	else \
		echo 'Setting up $(VENV) with venv and pip'; \
		{ $(RUN)python -m pip --version >/dev/null 2>&1 || '$(PYTHON)' -m venv $(VENV); } && \
		PIP_CONSTRAINT=constraints.txt $(RUN)python -m pip install --quiet --disable-pip-version-check \
			--editable '$(EXTRAS)'; \
	fi
	@touch $@

# Resolved without the old pins, in an environment of its own: what it holds then is what is written.
pins:
	'$(PYTHON)' -m venv --clear $(VENV)-pins
	$(VENV)-pins/bin/python -m pip install --quiet --disable-pip-version-check --editable '$(EXTRAS)'
	{ sed -n '/^#/p' constraints.txt; $(VENV)-pins/bin/python -c "$$PINS"; } > $(VENV)-pins/constraints.txt
	mv $(VENV)-pins/constraints.txt constraints.txt
	rm -rf $(VENV)-pins

define PINS
import re
from importlib.metadata import distributions
found = {re.sub('[-_.]+', '-', d.metadata['Name']).lower(): d.version for d in distributions()}
for name in sorted(found.keys() - {'fleetfoot', 'pip', 'setuptools', 'wheel'}):
    print(f'{name}=={found[name]}')
endef
export PINS

clean:
	rm -rf $(VENV) $(VENV)-pins .console-pictures dist build htmlcov .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
