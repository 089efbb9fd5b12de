# Graft.  Found by glob: adding a file never edits this one.
#
#   make            the programs, build/bin/graft-*
#   make check      everything: packages, build, lint, all tests, unit tests again under sanitizers
#   make test       build and tests only; KINDS="unit mpi" and T="name ..." choose
#   make lint       the house rules (tests/lint)
#   make soak       faults with random seeds, SOAK_MINUTES long (tests/soak.sh)
#   make demo       a whole pipeline on a small model; TEACHER=smollm2: on a real one (scripts/demo.sh)
#   make bench      the benchmark (docs/bench.md); BENCH="C4 C8" chooses rows; make peers: what it compares with
#   make setup | format | clean
#
#   src/**.c kernels/**.c data_pipeline/**.c   -> build/libgraft.a
#   jobs/NAME.c                                -> build/bin/graft-NAME          (_ becomes -)
#   tests/KIND/test_NAME.c                     -> build/tests/KIND/test_NAME    (run by tests/run.sh)
#
# Options: BUILD=dir  ARCH=x86-64-v3  SAN=address,undefined  WERROR=  OPT=-O0  CC=mpicc

VERSION := 0.1.0

BUILD  ?= build
PEERS  ?= $(BUILD)/peers
BENCH  ?=
ARCH   ?= native
SAN    ?=
WERROR ?= -Werror
KINDS  ?= unit mpi jobs slurm golden faults gpu
T      ?=

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: all check test lint soak demo bench peers setup format clean build-tests build-unit build-bench deps flags FORCE
all:

ifeq ($(MAKELEVEL),0) # a -j on the command line still wins
MAKEFLAGS += -j$(shell nproc)
endif
MAKEFLAGS += --no-print-directory

# ---- tools and libraries ---------------------------------------------------------------------

ifeq ($(origin CC),default)
CC := mpicc
endif

HDF5 := $(shell pkg-config --exists hdf5-openmpi 2>/dev/null && echo hdf5-openmpi || echo hdf5)
PKGS := $(HDF5) jansson yaml-0.1 libpcre2-8 libutf8proc libxxhash

# Headers of others are system headers: our warnings are not for them.
PKG_CFLAGS := $(patsubst -I%,-isystem %,$(shell pkg-config --cflags $(PKGS) 2>/dev/null))
PKG_LIBS   := $(shell pkg-config --libs $(PKGS) 2>/dev/null)

# OpenBLAS in its OpenMP flavour (another one would fight our threads), where Debian keeps it.
, := ,
BLAS_DIR    := $(firstword $(wildcard /usr/lib/*/openblas-openmp))
BLAS_CFLAGS := $(addprefix -isystem ,$(wildcard /usr/include/*/openblas-openmp))
BLAS_LIBS   := $(if $(BLAS_DIR),-L$(BLAS_DIR) -Wl$(,)-rpath$(,)$(BLAS_DIR)) -lopenblas

takes = $(shell $(CC) $(1) -E -x c /dev/null >/dev/null 2>&1 && echo $(1))

OPT    ?= $(if $(SAN),-O1 -fno-omit-frame-pointer,-O3)
CFLAGS ?=
CSTD   := -std=c11 -D_GNU_SOURCE -Isrc -I.
CWARN  := -Wall -Wextra -Wpedantic -Wshadow -Wjump-misses-init -Wstrict-prototypes \
          -Wmissing-prototypes -Wvla $(WERROR)
CMACH  := -march=$(ARCH) $(call takes,-mprefer-vector-width=512) -fopenmp -fno-math-errno \
          -fno-trapping-math
# gcc guesses more about uninitialised values, and wrongly, in instrumented code.
CSAN   := $(if $(SAN),-fsanitize=$(SAN) -fno-sanitize-recover=all -Wno-maybe-uninitialized)

ALL_CFLAGS = $(CSTD) $(OPT) -g $(CMACH) $(CWARN) $(CSAN) $(PKG_CFLAGS) $(BLAS_CFLAGS) $(CFLAGS)
ALL_LIBS   = $(PKG_LIBS) $(BLAS_LIBS) -lm -ldl -lpthread

# ---- what there is ----------------------------------------------------------------------------

find = $(sort $(shell find $(1) -name '$(2)' -not -path 'kernels/cuda/*' 2>/dev/null))

LIB_SRC := $(call find,src kernels data_pipeline,*.c)
JOB_SRC := $(wildcard jobs/*.c)
TST_SRC := $(wildcard tests/*/test_*.c)
DRV_SRC := $(wildcard tests/*/drive_*.c)# programs that shell tests run
BEN_SRC := $(wildcard tests/bench/*.c)

LIB   := $(BUILD)/libgraft.a
OBJ   := $(LIB_SRC:%.c=$(BUILD)/obj/%.o)
BIN   := $(foreach j,$(JOB_SRC:jobs/%.c=%),$(BUILD)/bin/graft-$(subst _,-,$(j)))
TESTS := $(TST_SRC:%.c=$(BUILD)/%)
DRIVE := $(DRV_SRC:%.c=$(BUILD)/%)
BENCHES := $(BEN_SRC:%.c=$(BUILD)/%)

all: $(BIN) $(LIB)
build-tests: $(TESTS) $(DRIVE) $(BENCHES)
build-bench: all $(BENCHES)
build-unit: $(filter $(BUILD)/tests/unit/%,$(TESTS))

# ---- how it is made ---------------------------------------------------------------------------

# $(call keep,text): the recipe of a file that changes, and so rebuilds what hangs on it, only when
# its text does.
keep = @mkdir -p $(@D); printf '%s\n' '$(1)' | cmp -s - $@ || printf '%s\n' '$(1)' >$@

$(BUILD)/flags: FORCE
	$(call keep,$(CC) $(ALL_CFLAGS) $(ALL_LIBS) $(LDFLAGS))
$(BUILD)/sources: FORCE
	$(call keep,$(LIB_SRC))
$(BUILD)/commit: FORCE
	$(call keep,$(or $(shell git --no-optional-locks describe --always --dirty 2>/dev/null),unknown))

$(BUILD)/obj/%.o: %.c $(BUILD)/flags | deps
	@mkdir -p $(@D); echo "cc      $<"
	@$(CC) $(CPPFLAGS) $(ALL_CFLAGS) -MMD -MP -c $< -o $@

# The one file that knows which commit this is; the rest need not be rebuilt for it.
$(BUILD)/obj/src/run/version.o: $(BUILD)/commit
$(BUILD)/obj/src/run/version.o: CPPFLAGS += -DGR_VERSION='"$(VERSION)"' \
    -DGR_VERSION_COMMIT="\"$$(cat $(BUILD)/commit)\""

$(LIB): $(OBJ) $(BUILD)/sources
	@echo "ar      $@"; rm -f $@
	@$(AR) rcs $@ $(OBJ)

define link
@mkdir -p $(@D); echo "ld      $@"
@$(CC) $(ALL_CFLAGS) $(LDFLAGS) $(filter %.o,$^) $(LIB) $(ALL_LIBS) -o $@
endef

define job
$(BUILD)/bin/graft-$(subst _,-,$(1)): $(BUILD)/obj/jobs/$(1).o $(LIB)
	$$(link)
endef
$(foreach j,$(JOB_SRC:jobs/%.c=%),$(eval $(call job,$(j))))

$(BUILD)/tests/%: $(BUILD)/obj/tests/%.o $(LIB)
	$(link)

.SECONDARY:
-include $(OBJ:.o=.d) $(patsubst %.c,$(BUILD)/obj/%.d,$(JOB_SRC) $(TST_SRC) $(DRV_SRC) $(BEN_SRC))

deps:
	@command -v $(CC) >/dev/null || { echo "no $(CC): run 'make setup'" >&2; exit 1; }
	@pkg-config --exists --print-errors $(PKGS) || { echo "run 'make setup'" >&2; exit 1; }

# ---- what is done with it ---------------------------------------------------------------------

# The last line printed is the count of all tests; a build that fails is one failure.
check:
	@{ scripts/setup.sh && $(MAKE) all build-tests && \
	   $(MAKE) BUILD=$(BUILD)-asan SAN=address,undefined build-unit; } || \
	   { echo "0 passed, 1 failed"; exit 1; }
	@tests/run.sh --kinds "lint $(KINDS)" --build $(BUILD) --asan $(BUILD)-asan $(T)

test: all build-tests
	@tests/run.sh --kinds "$(KINDS)" --build $(BUILD) $(T)

lint:
	@bad=0; for l in tests/lint/*.sh; do $$l || bad=1; done; exit $$bad

soak: all build-tests
	@BUILD=$(BUILD) tests/soak.sh

demo:
	@GR_BUILD=$(BUILD) scripts/demo.sh

bench: build-bench
	@tests/bench/bench.py --build $(BUILD) --peers $(PEERS) --dir $(BUILD) $(BENCH)

peers:
	@tests/bench/peers.sh $(PEERS)

setup:
	@scripts/setup.sh

# For tests/lint/headers.sh.
flags:
	@echo '$(CC) $(CSTD) -Wall -Wextra -Werror -fopenmp $(PKG_CFLAGS) $(BLAS_CFLAGS)'

format:
	@command -v clang-format-14 >/dev/null || { echo "needs clang-format-14" >&2; exit 1; }
	@find src kernels data_pipeline jobs tests \( -name '*.[ch]' -o -name '*.cu' \) ! -name unicode_table.h | xargs -r clang-format-14 -i

clean:
	rm -rf $(BUILD) $(BUILD)-asan
