# Persona's commands. Everything that installs, makes namespaces or attaches programs needs root.
#
#   make demo    unmodified programs over Persona against the host's kernel, in two namespaces
#   make test    all tests, with what each stage took
#   make bench   criterion's benches, then the end-to-end measurements
#   make apps    end-to-end tests with real programs alone
#   make soak    the long versions: SEEDS=n seeds of the simulation, the full matrix
#   make fmt     formats
#   make lint    what the CI refuses to take

SEEDS ?= 100000
stage := deploy/stage
cargo := cargo

.PHONY: all demo test bench apps soak fmt lint install build release lint-stages test-stages clean

all: build

install:
	@deploy/install

build:
	$(cargo) build --workspace --bins --lib

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
	@$(stage) install 300 deploy/install
	@$(stage) build 600 $(cargo) build --workspace --all-targets
	@$(stage) unit 600 $(cargo) test --workspace --no-fail-fast
	@$(stage) loom 300 env RUSTFLAGS="--cfg loom" $(cargo) test -p persona-channel --release --target-dir target/loom loom

lint-stages:
	@$(stage) fmt 60 $(cargo) fmt --all --check
	@$(stage) clippy 600 $(cargo) clippy --workspace --all-targets -- -D warnings

apps: install build
	$(cargo) test -p persona-tests -- applications

bench: install
	$(cargo) bench --workspace

soak: install build
	SEEDS=$(SEEDS) $(cargo) test --workspace --release soak -- --ignored

fmt:
	$(cargo) fmt --all

lint:
	$(cargo) fmt --all --check
	$(cargo) clippy --workspace --all-targets -- -D warnings

clean:
	$(cargo) clean
