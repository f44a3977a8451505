# Dunnage. `make` alone lists what can be done.
#
# PYTHON     Python 3.9 or newer that builds and, installed, runs dunnage
# CC         compiler; default musl-gcc if installed, else gcc
# PREFIX, DESTDIR   where `make install` puts things, as usual
# TESTS      what `make test` runs: paths and options of pytest
# KERNELS    options of tests/kernels/run.py, which `make kernels` runs
# FAULTS     which targets `make faults` takes, as pytest's -k wants it; bubblewrap is one of them
# ATTACKS    options of tests/attacks/compare.py, which `make attacks` runs: --document, --record FILE, --from FILE
# FUZZ_SECONDS      how long `make fuzz` goes on with parser and resolver, with each reader of tar, and half of it with
#            the whole launcher

PYTHON ?= $(firstword $(wildcard /usr/bin/python3) python3)
PREFIX ?= /usr/local
TESTS ?=
KERNELS ?=
ATTACKS ?=
FAULTS ?= not bubblewrap
FUZZ_SECONDS ?= 60
export PYTHON

INTO := $(DESTDIR)$(PREFIX)
MAN := $(wildcard docs/man/*.1)
RUN_TESTS := packaging/test.sh -n 2 --dist loadgroup

.PHONY: help build demo test test-all lint requirements bench faults attacks fuzz kernels install uninstall clean setup launcher

help:
	@echo 'make build      compile the launcher, byte-compile the package; launcher/build/dunnage then works in place'
	@echo 'make demo       install what is missing, make an OS image and run the ATLAS and CMS cases in it'
	@echo 'make test       install what is missing and run the tests, as an unprivileged user; TESTS=PATH for some of them'
	@echo 'make test-all   the same with the tests that take minutes'
	@echo 'make lint       ruff, mypy --strict and the static analyser of gcc'
	@echo 'make requirements  write build/requirements.md (which test holds what) from the marks in the tests'
	@echo 'make bench      compare speed and memory with the runtimes installed here'
	@echo 'make faults     let each system call of a start fail, lie, hang or die, in turn; FAULTS=bubblewrap for a peer'
	@echo 'make attacks    attack payloads in every runtime installed here: the table of the security model'
	@echo 'make fuzz       feed what nobody would write to parsers, path resolver and launcher, FUZZ_SECONDS=$(FUZZ_SECONDS) each'
	@echo 'make kernels    run tests on Debian kernels 5.10, 6.1 and 6.12, emulated; KERNELS="--only 5.10" for one of them'
	@echo 'make install    into PREFIX=$(PREFIX) (DESTDIR for packagers); make uninstall removes it again'
	@echo 'make setup      install the Debian packages for all of this; without root, list them'
	@echo 'make clean      remove what was built; what was downloaded (.venv) stays'

launcher:
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 9))' || \
		{ echo 'build: $(PYTHON) is not Python 3.9 or newer; fix: make PYTHON=/usr/bin/python3.9'; exit 1; }
	@[ -w launcher ] || [ -x launcher/build/dunnage-launch ] || \
		{ echo 'build: this tree belongs to somebody else; fix: build in a copy of it'; exit 1; }
	@$(MAKE) -s --no-print-directory -C launcher $(if $(filter default undefined,$(origin CC)),,CC='$(CC)')

build: launcher
	@'$(PYTHON)' -m compileall -q src
	@[ ! -w src/dunnage ] || '$(PYTHON)' -I -X no_debug_ranges packaging/bundle.py src
	@echo 'build: launcher/build/dunnage is ready'

setup:
	@packaging/setup.sh build test demo bench

demo:
	@demo/run.sh

test:
	@packaging/setup.sh build test
	@$(RUN_TESTS) -m 'not long' $(TESTS)

test-all:
	@packaging/setup.sh build test bench
	@$(RUN_TESTS) --hypothesis-profile=anew $(TESTS)

lint:
	@packaging/setup.sh build test
	@venv=$$(packaging/venv.sh) && "$$venv/bin/ruff" check --cache-dir "$$venv/ruff" . && "$$venv/bin/mypy" --cache-dir "$$venv/mypy"
	@$(MAKE) --no-print-directory -C launcher analyze

requirements:
	@'$(PYTHON)' tests/requirements.py
	@echo 'requirements: build/requirements.md is made'

bench: build
	@packaging/setup.sh build bench
	@'$(PYTHON)' tests/bench/run.py
	@'$(PYTHON)' tests/bench/pulls.py --quick

faults:
	@packaging/setup.sh build test
	@packaging/test.sh -q -p no:cacheprovider -k 'whole_sweep and ($(FAULTS))' tests/faults

attacks: build
	@packaging/setup.sh build test
	@'$(PYTHON)' -B tests/attacks/compare.py $(ATTACKS)

# First parser and resolver alone, millions of times; then the whole launcher, which takes a millisecond each; and
# the reader of layers beside those of others.
fuzz:
	@packaging/setup.sh build test fuzz
	@$(MAKE) -s --no-print-directory build
	@'$(PYTHON)' tests/fuzz/run.py --seconds $(FUZZ_SECONDS)
	@DUNNAGE_FUZZ_SECONDS=$$(($(FUZZ_SECONDS) / 6)) $(RUN_TESTS) --timeout=0 -k random tests/launcher
	@DUNNAGE_FUZZ_SECONDS=$(FUZZ_SECONDS) $(RUN_TESTS) --timeout=0 tests/images/test_tar_readers.py

kernels:
	@packaging/setup.sh build test kernels
	@$(MAKE) -s --no-print-directory build
	@'$(PYTHON)' tests/kernels/run.py $(KERNELS)

# Nothing of an older version, or of pip's in the same place, may stay behind, hence the rm. The
# sidecar tells the front which Python to use where that is not the system's.
install: build
	@case '$(PREFIX)' in /*) ;; *) echo 'install: PREFIX must be an absolute path'; exit 1 ;; esac
	@rm -rf '$(INTO)/lib/dunnage' '$(INTO)/bin/dunnage-python' '$(INTO)/bin/dunnage-launch'
	@install -D -m 0755 launcher/build/dunnage-launch '$(INTO)/lib/dunnage/dunnage-launch'
	@cd src && find dunnage -type f ! -path '*/__pycache__/*' -exec install -D -m 0644 '{}' '$(INTO)/lib/dunnage/python/{}' ';'
	@umask 022; '$(PYTHON)' -m compileall -q $(if $(DESTDIR),-s '$(DESTDIR)') '$(INTO)/lib/dunnage/python'
	@umask 022; '$(PYTHON)' -I -X no_debug_ranges packaging/bundle.py '$(INTO)/lib/dunnage/python' $(if $(DESTDIR),'$(DESTDIR)')
	@for page in $(MAN); do install -D -m 0644 "$$page" '$(INTO)/share/man/man1/'"$${page##*/}"; done
ifneq ($(PYTHON),/usr/bin/python3)
	@install -D -m 0755 packaging/dunnage-python '$(INTO)/bin/dunnage-python'
	@sed -i "1s|.*|#!$$(command -v '$(PYTHON)')|" '$(INTO)/bin/dunnage-python'
endif
	@install -D -m 0755 launcher/build/dunnage '$(INTO)/bin/dunnage'
	@echo 'install: $(INTO)/bin/dunnage'

uninstall:
	@rm -rf '$(INTO)/lib/dunnage'
	@rm -f '$(INTO)/bin/dunnage' '$(INTO)/bin/dunnage-python' $(patsubst docs/man/%,'$(INTO)/share/man/man1/%',$(MAN))
	@echo 'uninstall: dunnage is gone from $(INTO)'

clean:
	@$(MAKE) -s --no-print-directory -C launcher clean
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find src tests launcher docs -name __pycache__ -prune -exec rm -rf '{}' + 2> /dev/null || true
	@echo 'clean: done'
