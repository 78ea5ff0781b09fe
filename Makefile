# Persona's commands. Everything that installs, makes namespaces or attaches programs needs root.
#
#   make demo    unmodified programs over Persona against the host's kernel, in two namespaces
#   make test    all tests, with what each stage took
#   make bench   criterion's benches, the end-to-end measurements, instruction counts; QUICK=1 for a short look
#   make bench-tcp  TCP over emulated paths beside the host kernel, 30 minutes; QUICK=1 for two, POINT="dsl" for one path
#   make apps    end-to-end tests with real programs alone
#   make soak    the long versions: SEEDS=n seeds of the simulation, the full matrix
#   make fuzz    fuzzes the stack for TIME seconds per target
#   make fmt     formats
#   make lint    what the CI refuses to take

SEEDS ?= 100000
FROM ?= 1000
MIB ?= 1024
TIME ?= 60
stage := deploy/stage
quick := $(if $(QUICK),--quick)
cargo := cargo

# Always the whole workspace, with targets by name: a subset of packages has other features of the dependencies, and
# would build them all again.
tests := $(cargo) test --workspace --no-fail-fast
sources = $(wildcard $(patsubst %,%/tests/*.rs,$(1)) $(patsubst %,%/tests/*/main.rs,$(1)))
of = $(addprefix --test ,$(sort $(notdir $(basename $(patsubst %/main.rs,%,$(call sources,$(1)))))))

.PHONY: all demo test bench bench-tcp apps soak fuzz fmt lint install build release lint-stages test-stages clean

all: build

install:
	@deploy/install

build:
	$(cargo) build --workspace --all-targets

release:
	$(cargo) build --release -p persona-engine -p persona-hijack

demo: install release
	deploy/demo

test:
	@$(stage) --begin
	@$(MAKE) --no-print-directory test-stages
	@$(stage) --summary

# Name, budget in seconds, command. CONTRIBUTING.md says what each stage is for.
test-stages:
	@$(stage) install 120 deploy/install
	@$(stage) build 420 $(cargo) build --workspace --all-targets
	@$(stage) unit 420 $(tests) --lib --bins $(call of,stack channel ebpf engine)
	@$(stage) library 120 $(tests) $(call of,hijack)
	@$(stage) end-to-end 480 $(tests) $(call of,tests)
	@$(stage) xsk-rs 180 $(tests) --features persona-engine/xsk-rs --test port_xdp
	@$(stage) loom 240 env RUSTFLAGS="--cfg loom" $(cargo) test -p persona-channel --release --target-dir target/loom loom

lint-stages:
	@$(stage) fmt 20 $(cargo) fmt --all --check
	@$(stage) clippy 240 $(cargo) clippy --workspace --all-targets -- -D warnings

# The library under small programs of its own, and real programs end to end.
apps: install build
	$(tests) $(call of,hijack tests)

# Two short rounds with QUICK=1, to see that everything can be measured. The counts come last: when they fail the
# run, everything else has been measured.
bench: install release
	$(cargo) bench -p persona-benches --features xsk-rs --bench '*' $(quick:%=-- %)
	target/release/endtoend $(quick) target/bench
	target/release/scale $(if $(QUICK),100 10000)
	target/release/counts

bench-tcp: install
	$(cargo) build --release --workspace
	target/release/bench-tcp $(quick) $(if $(POINT),--point "$(POINT)") target/bench

# SEEDS simulated connections of each family from seed FROM on, then everything that is ignored for its length.
soak: install
	$(cargo) build --release --workspace
	FROM=$(FROM) SEEDS=$(SEEDS) $(tests) --release --lib soak -- --ignored --nocapture
	PERSONA_TRANSFER_MIB=$(MIB) $(tests) --release $(call of,tests) -- --ignored --nocapture
	fuzz/run 60

# Each target for TIME seconds: what fails is left in target/fuzz.
fuzz: install
	fuzz/run $(TIME)

fmt:
	$(cargo) fmt --all

lint:
	$(cargo) fmt --all --check
	$(cargo) clippy --workspace --all-targets -- -D warnings

clean:
	$(cargo) clean
