# `make` alone lists the targets. Each runs ordinary cargo commands, which you can also type yourself.

TARGET ?=
OPTIONS ?=
EMPTY ?=
ARGS ?=
BENCH ?= throughput
LESSON ?=

.PHONY: help run talk learn install test conversations bench lint fmt clean

help: ## list the targets (this is the default)
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## build with optimisation and serve on 127.0.0.1:11211; ARGS="-vv -m 256" passes flags
	@# Each client needs an open file. So as many are allowed as the system permits; macOS refuses `unlimited`.
	@{ ulimit -Sn "$$(ulimit -Hn)" || [ "$$(ulimit -Sn)" -ge 10240 ] || ulimit -Sn 10240; } 2>/dev/null; \
	exec cargo run --release -- $(ARGS)

talk: ## talk to the server on 127.0.0.1:11211: type the protocol; ARGS="-s host:port" names another server
	@cargo run --quiet --release --bin memc -- $(ARGS)

learn: ## list the lessons about the protocol; LESSON=01 begins the first one, with a server of its own
	@cargo run --quiet --release --bin memc -- learn $(LESSON) $(ARGS)

install: ## build, and copy the programs rustmemc and memc to where cargo keeps programs, usually ~/.cargo/bin
	cargo install --path . --locked

test: ## run every test, and print what was passed over, and why
	@export PASSED_OVER=$$(mktemp); \
	cargo test --quiet; status=$$?; \
	echo "passed over: $$(wc -l < "$$PASSED_OVER")"; \
	sort "$$PASSED_OVER" | sed 's/^/  /'; \
	rm -f "$$PASSED_OVER"; \
	exit $$status

conversations: ## play tests/conversations; TARGET=host:port: `memc check` of that server, whose items are DELETED; OPTIONS="-M": its flags
ifeq ($(TARGET),)
	cargo test --quiet --test conversations -- --nocapture
else
	@cargo run --quiet --bin memc -- check '$(TARGET)' --flags '$(OPTIONS)' $(if $(filter yes,$(EMPTY)),--empty)
endif

bench: ## BENCH=throughput, memory, hits or log; measures memcached or redis too, if installed; ARGS=--help lists options
	cargo bench --bench $(BENCH) -- $(ARGS)

lint: ## check formatting, clippy and documentation; a warning is an error
	cargo fmt --check
	cargo clippy --quiet --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --quiet --no-deps --document-private-items

fmt: ## format the code
	cargo fmt

clean: ## remove everything that was built
	cargo clean
