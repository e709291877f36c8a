# Every target does its own set-up and leaves no server running.

CARGO := cargo
SOAK_MINUTES := 10

# The servers that `make servers` fetches; continuous integration uses the last one.
SERVERS := 14.23.0-beta.17 16.14.0-beta.17 17.10.0-beta.17 18.4.0-beta.17
# Where they are stored, and the `bin` folders that `make matrix` uses.
FETCHED := target/servers
PG_BINDIRS = $(wildcard /usr/lib/postgresql/*/bin $(FETCHED)/*/bin)

.PHONY: help demo test matrix servers newest models soak lint api package ci bench setup
# The targets share one build folder; in parallel they would only wait for its lock.
.NOTPARALLEL:

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

demo: setup ## Run the command in two shells, then workers that share jobs while faults occur
	$(CARGO) build --release --locked --features cli --bin distlock
	$(CARGO) run --release --locked --features cli --example two_shells
	$(CARGO) run --release --locked --features cli --example batch_workers

# The second run tests what differs without the feature `tls`; then the examples run.
test: setup ## Run all tests against a real server
	$(CARGO) test --workspace --locked --all-features
	$(CARGO) test -p distlock --locked --test it bad_input::
	$(CARGO) run --locked --example quickstart
	$(CARGO) run --locked --example fenced_store
	$(CARGO) run --locked --example fenced_transaction
	$(CARGO) run --locked --example metrics --features metrics
	$(CARGO) run --locked --example leader
	$(CARGO) run --locked --example rotating_password
	$(CARGO) run --locked --example in_async

matrix: setup ## Run the integration suite on every server of PG_BINDIRS
	@CARGO=$(CARGO) scripts/matrix $(PG_BINDIRS)

servers: ## Fetch PostgreSQL 14, 16, 17 and 18 for the matrix
	@for version in $(SERVERS); do scripts/fetch-postgres $$version $(FETCHED)/$$version || exit 1; done

# Skipped if it cannot be fetched, for example without npm.
newest: setup ## Run the integration suite on a fetched PostgreSQL 18
	@if folder=$$(scripts/fetch-postgres $(lastword $(SERVERS)) $(FETCHED)/$(lastword $(SERVERS))); \
	then CARGO=$(CARGO) scripts/matrix "$$folder"; \
	else echo "skipped: the integration suite on PostgreSQL $(lastword $(SERVERS))" >&2; fi

# In a separate build folder: the cfg rebuilds all dependencies.
MODEL := RUSTFLAGS="--cfg distlock_model" CARGO_TARGET_DIR=$${CARGO_TARGET_DIR:-target}/models

models: setup ## Check the hand-offs between threads in many interleavings
	$(MODEL) $(CARGO) test --locked -p distlock --lib -- lease::model reply::model parking::model worker::model

soak: setup ## Run workers under random faults for SOAK_MINUTES (10), check the history
	$(CARGO) run --release --locked -p soak -- --minutes $(SOAK_MINUTES)

lint: setup ## Check format, clippy, docs and the public API; warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --all-features --locked -- -D warnings
	$(CARGO) clippy -p distlock --locked -- -D warnings
	$(MODEL) $(CARGO) clippy -p distlock --lib --tests --locked -- -D warnings
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --workspace --no-deps --all-features --locked
	$(CARGO) run --quiet --locked -p public-api-list

api: setup ## Rewrite docs/public-api.txt, the list that lint compares the API with
	$(CARGO) run --quiet --locked -p public-api-list -- --write

package: setup ## Build the package as it would be published
	$(CARGO) package --locked -p distlock

ci: lint test newest models package demo ## Run everything that continuous integration runs

bench: setup ## Measure, with the bare client and other lock crates, into benches/results
	$(CARGO) bench --locked -p distlock
	$(CARGO) build --locked --profile bench --features cli --bin distlock
	$(CARGO) run --locked --profile bench -p report --bin heap
	$(CARGO) run --locked --profile bench -p report --bin report

setup:
	@command -v $(CARGO) >/dev/null || { echo "cargo not found: install Rust first" >&2; exit 1; }
	@scripts/install-postgres
