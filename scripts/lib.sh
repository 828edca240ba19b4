# Shared by the scripts; sourced, not run. Everything they fetch goes below .cache and nowhere else.
# shellcheck shell=bash

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=$ROOT/.cache
CODEX_VERSION=0.169.0
RUST_VERSION=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml")
# shellcheck disable=SC2034  # used by scripts/check
CARGO_DENY_VERSION=0.20.2
# Put into the cache where the machine's Node is older than the Node SDK wants.
NODE_PACKAGE=node@22.21.1

say() { printf '== %s\n' "$*" >&2; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# at_least 1.92 1.95.0: whether the second version is the first or newer.
at_least() {
    [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]
}

# The first version number in what a command prints; empty if it prints none.
version_of() {
    { "$@" 2>/dev/null || true; } | grep -oE '[0-9]+\.[0-9]+\.[0-9]+' | head -n 1 || true
}

need_rust() {
    if ! have cargo && [ -x "$HOME/.cargo/bin/cargo" ]; then
        PATH=$HOME/.cargo/bin:$PATH
    fi
    have cargo || die "cargo is missing: install Rust $RUST_VERSION or newer (https://rustup.rs)"
    local version
    version=$(version_of rustc --version)
    at_least "$RUST_VERSION" "$version" ||
        die "Rust $RUST_VERSION or newer is needed, found ${version:-none}: rustup update"
    have cc || die "a C compiler is missing: install gcc or clang (Debian: apt install build-essential; macOS: xcode-select --install)"
}

need_node() {
    have node && have npm || die "$1 needs Node and npm: install Node 20 or newer (https://nodejs.org)"
}

need_python() {
    have python3 || die "python3 is missing: install Python 3.9 or newer"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' ||
        die "Python 3.9 or newer is needed, found $(python3 --version)"
}

# The native binary of an npm install below $1; the package's own `codex` command is a Node wrapper around it.
native_codex() {
    find "$1/node_modules/@openai" -type f -name codex -path '*/vendor/*' -perm -u+x 2>/dev/null | head -n 1 || true
}

# Makes sure that there is a codex that the bridge will find, and sets CODEX_BIN where it is the cache's own.
need_codex() {
    local version
    if [ -n "${CODEX_BIN:-}" ]; then
        version=$(version_of "$CODEX_BIN" --version)
        at_least "$CODEX_VERSION" "${version:-0}" ||
            die "CODEX_BIN=$CODEX_BIN is ${version:-no codex}; $CODEX_VERSION or newer is needed"
        say "codex $version (CODEX_BIN)"
        return
    fi
    if have codex; then
        version=$(version_of codex --version)
        if at_least "$CODEX_VERSION" "${version:-0}"; then
            say "codex $version ($(command -v codex))"
            return
        fi
        say "codex ${version:-of no version} on PATH is too old"
    fi
    cached_codex
}

# The pinned codex in the cache, whatever the machine has.
cached_codex() {
    local bin
    bin=$(native_codex "$CACHE/codex")
    if [ -z "$bin" ] || [ "$(version_of "$bin" --version)" != "$CODEX_VERSION" ]; then
        need_node "the codex CLI"
        say "installing codex $CODEX_VERSION into .cache/codex"
        npm install --prefix "$CACHE/codex" --no-save --no-fund --no-audit --loglevel=error \
            "@openai/codex@$CODEX_VERSION" >&2 ||
            die "codex could not be installed; by hand: npm install -g @openai/codex@$CODEX_VERSION"
        bin=$(native_codex "$CACHE/codex")
        [ -n "$bin" ] || die "the codex package has no binary for this machine ($(uname -sm))"
    fi
    export CODEX_BIN=$bin
    say "codex $CODEX_VERSION (.cache/codex)"
}

# Makes sure that there is a Redis or Valkey server for the tests to start; they never skip.
need_redis() {
    have redis-server || have valkey-server && return
    if have apt-get && [ "$(id -u)" -eq 0 ]; then
        say "installing redis-server"
        # Installed, not started: the tests start their own.
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends redis-server >&2 ||
            { apt-get update >&2 && DEBIAN_FRONTEND=noninteractive \
                apt-get install -y --no-install-recommends redis-server >&2; } || true
    fi
    have redis-server || have valkey-server ||
        die "redis-server is missing: install Redis or Valkey (Debian: apt install redis-server; macOS: brew install redis)"
}

# Whether $1/.stamp says what the files that follow say; `stamp` writes it.
stamped() {
    local folder=$1
    shift
    cat "$@" 2>/dev/null | cmp -s - "$folder/.stamp"
}

stamp() {
    local folder=$1
    shift
    cat "$@" >"$folder/.stamp"
}

# python_env FOLDER PINS: an environment of its own in .cache/FOLDER with what PINS names; prints the interpreter.
python_env() {
    local venv=$CACHE/$1 pins=$ROOT/$2
    if ! stamped "$venv" "$pins"; then
        say "installing $2 into .cache/$1"
        rm -rf "$venv"
        python3 -m venv "$venv" >&2 || die "python3 -m venv failed (Debian: apt install python3-venv)"
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$pins" >&2 ||
            die "pip could not install what $2 names"
        stamp "$venv" "$pins"
    fi
    printf '%s\n' "$venv/bin/python"
}

# The Python SDK as tests/sdk/python pins it; prints the interpreter.
sdk_python() { python_env venv tests/sdk/python/requirements.txt; }

# The Python frameworks; prints the interpreter.
frameworks_python() {
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "the frameworks' tests need Python 3.11 or newer, found $(python3 --version)"
    python_env frameworks-venv tests/sdk/python/frameworks/requirements.txt
}

# schemathesis and what validates an OpenAPI document; prints the interpreter.
openapi_python() { python_env openapi-venv tests/openapi/requirements.txt; }

# node_env FOLDER PINS: in .cache/FOLDER what the package.json and lock of PINS name, the `openai` package among
# it, and a Node new enough for that; prints the interpreter.
node_env() {
    local folder=$CACHE/$1 pins=("$ROOT/$2/package.json" "$ROOT/$2/package-lock.json")
    local newer=$CACHE/newer-node wanted found
    need_node "the Node SDK"
    if ! stamped "$folder" "${pins[@]}"; then
        say "installing $2/package.json into .cache/$1"
        rm -rf "$folder"
        mkdir -p "$folder"
        cp "${pins[@]}" "$folder"
        npm ci --prefix "$folder" --no-fund --no-audit --loglevel=error >&2 ||
            die "npm could not install what $2/package.json names"
        stamp "$folder" "${pins[@]}"
    fi
    # Its own floor, `>=22.0.0` say; and the tests' own, 20.11.
    wanted=$(node -p "(require('$folder/node_modules/openai/package.json').engines || {}).node || ''" |
        grep -oE '[0-9]+(\.[0-9]+)*' | head -n 1 || true)
    at_least "${wanted:-0}" 20.11 && wanted=20.11
    found=$(version_of node --version)
    if at_least "$wanted" "$found"; then
        command -v node
        return
    fi
    if [ ! -x "$newer/node_modules/node/bin/node" ]; then
        say "the Node SDK wants Node $wanted, found $found: installing $NODE_PACKAGE into .cache/newer-node"
        npm install --prefix "$newer" --no-save --no-fund --no-audit --loglevel=error "$NODE_PACKAGE" >&2 ||
            die "npm could not install $NODE_PACKAGE; install Node $wanted or newer (https://nodejs.org)"
    fi
    printf '%s\n' "$newer/node_modules/node/bin/node"
}

# The Node SDK as tests/sdk/node pins it; prints the interpreter.
sdk_node() { node_env node tests/sdk/node; }

# The Node frameworks; prints the interpreter.
frameworks_node() { node_env frameworks-node tests/sdk/node/frameworks; }
