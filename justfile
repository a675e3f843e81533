# One entry for every chore; each recipe is a plain command that also runs without `just`.

# The list of recipes.
default:
    @just --list

# What must hold before a change is shown: format, lints, the rules of the tree, licences, spelling.
check:
    cargo fmt --all --check
    cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
    cargo test --locked --test it tidy
    cargo deny --locked check advisories licenses bans sources
    if command -v typos >/dev/null; then typos; fi

# All tests.
test:
    cargo test --locked --workspace

# Fuzzes TARGET (the names are in fuzz/README.md) until stopped or for so many seconds.
fuzz TARGET SECONDS="0":
    cd fuzz && mkdir -p corpus/{{ TARGET }} && RUSTC_BOOTSTRAP=1 cargo fuzz run {{ TARGET }} corpus/{{ TARGET }} seeds/{{ TARGET }} -- -max_total_time={{ SECONDS }} -rss_limit_mb=1024

# The benchmarks. Compare only runs of one sitting.
bench *ARGS:
    cargo bench --locked --features internals {{ ARGS }}

# The documentation, with the private items, as HTML.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items

# Everything that CI runs.
ci:
    bash .ci/run
