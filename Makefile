# `make` alone lists the targets. Each runs ordinary cargo commands, which you can also type yourself.

TARGET ?=
OPTIONS ?=
EMPTY ?=
ARGS ?=
BENCH ?= throughput

.PHONY: help run install test conversations bench lint fmt clean

help: ## list the targets (this is the default)
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## build with optimisation and serve on 127.0.0.1:11211; ARGS="-vv -m 256" passes flags
	@# Each client needs an open file. So as many are allowed as the system permits; macOS refuses `unlimited`.
	@{ ulimit -Sn "$$(ulimit -Hn)" || [ "$$(ulimit -Sn)" -ge 10240 ] || ulimit -Sn 10240; } 2>/dev/null; \
	exec cargo run --release -- $(ARGS)

install: ## build, and copy the program to where cargo keeps programs, usually ~/.cargo/bin
	cargo install --path . --locked

test: ## run every test, and print what was passed over, and why
	@export PASSED_OVER=$$(mktemp); \
	cargo test --quiet; status=$$?; \
	echo "passed over: $$(wc -l < "$$PASSED_OVER")"; \
	sort "$$PASSED_OVER" | sed 's/^/  /'; \
	rm -f "$$PASSED_OVER"; \
	exit $$status

conversations: ## play tests/conversations; TARGET=host:port: against that server, whose items are DELETED; OPTIONS="-M": its flags
	TARGET='$(TARGET)' OPTIONS='$(OPTIONS)' EMPTY='$(EMPTY)' cargo test --quiet --test conversations -- --nocapture

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
