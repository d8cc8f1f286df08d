# Each target is one readable line or a script. Everything is built in the release profile: see Cargo.toml.
.PHONY: setup build demo test soak simulate fuzz bench bench-samples bench-metering bench-faults bench-fleet bench-gpu references check clean-demo

build: setup            ## Build the three programs into target/release
	cargo build --release --locked

setup:                  ## A compiler, Rust and libtorch; does nothing when they are there
	@deploy/setup.sh

demo: build             ## A small real campaign, and its report
	@deploy/demo.sh

test: build             ## All tests
	cargo test --release --locked --workspace

soak: build            ## 200 kills at random moments; prints what was lost, doubled, orphaned: about 10 minutes
	cargo run --release --locked --quiet -p fleet-tests --bin soak

simulate:               ## 10,000 simulated fleets under faults (SEEDS=N, or SEED=N for one with its log): a few seconds
	cargo run --release --locked --quiet -p fleet-sim --bin simulate -- $(if $(SEED),--seed=$(SEED) --log,--seeds=$(or $(SEEDS),10000))

fuzz:                   ## Every reader of foreign bytes, MINUTES=10 each, two at a time; needs nightly and cargo-fuzz (TARGETS=...)
	@tests/fuzz/run.sh $(TARGETS)

bench: build            ## A training step, and models that are not trained, beside Python's: 2.3 GB of downloads at first, then an hour
	@tests/bench/set-up.sh
	target/release/bench --write=$(or $(WRITE),tests/bench/RESULTS.md) $(OPTIONS)
	cargo bench --locked -p fleet-worker --bench scan
	cargo bench --locked -p fleet-worker --bench memory
	cargo bench --locked -p fleet-worker --bench frozen
	target/release/load
	target/release/metering

bench-samples: build    ## 500 trials' samples into one coordinator: what is lost, what it costs, how long answers take
	target/release/load $(OPTIONS)

bench-metering: build   ## What reading meters and sending samples costs an agent, in CPU time beside a trial
	target/release/metering $(OPTIONS)

bench-faults: build     ## Three machines as network namespaces: kills, cables, moves, a full disk, clocks; thirteen minutes, as root
	target/release/faults $(OPTIONS)

bench-fleet: build      ## 500 agents, with certificates and without; a million trials; restarting: eight minutes, on an idle machine
	target/release/scale --write=$(or $(WRITE),tests/bench/FLEET.md) $(OPTIONS)

bench-gpu: build        ## What only an NVIDIA GPU can show, in ten minutes: references, scan, steps beside Python's, budgets, energy
	@tests/bench/gpu.sh

references: build       ## 5 random configurations of each kind, made by the packages that they are from, through fleet-agent verify
	@tests/references/run.sh $(SEED) $(COUNT)

check: setup            ## Formatting and lints, warnings denied
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings

clean-demo:             ## Forget the demo's results
	rm -rf .demo
