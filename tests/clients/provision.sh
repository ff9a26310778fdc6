# shellcheck shell=bash
# Puts venvs and npm trees under the cache folder, each keyed by the hash of its pin files. Sourced by the `run`
# scripts here and in ../conformance; changes nothing outside the cache.

cache=${OUTRIGGER_CACHE:-$HOME/.cache/outrigger}

need() {
    command -v "$1" >/dev/null || {
        echo "$1 is needed and not installed (Debian: apt-get install $2)" >&2
        exit 1
    }
}

# key FILE...: a short hash of the files' contents and of the machine's Python and architecture.
key() {
    { cat "$@" && uname -m && python3 -c 'import sys; print(sys.version_info[:3])'; } | sha256sum | cut -c1-16
}

# once FOLDER COMMAND...: runs COMMAND once for FOLDER, also when several start together; a broken try starts over.
once() {
    local folder=$1
    shift
    mkdir -p "$(dirname "$folder")"
    (
        flock 9
        [[ -e $folder/.complete ]] && exit 0
        rm -rf "$folder"
        "$@" >&2 && touch "$folder/.complete"
    ) 9>"$folder.lock"
}

make_venv() {
    python3 -m venv "$1" && "$1/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$2"
}

# venv REQUIREMENTS: prints the folder of a venv with exactly these packages.
venv() {
    need python3 python3-venv
    local folder
    folder=$cache/venvs/$(key "$1")
    once "$folder" make_venv "$folder" "$1"
    echo "$folder"
}

make_tree() {
    mkdir -p "$1" && cp "$2/package.json" "$2/package-lock.json" "$1/"
    (cd "$1" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
}

# node_tree FOLDER: prints a folder with the node_modules that FOLDER's lock file names.
node_tree() {
    need npm npm
    local folder
    folder=$cache/node/$(key "$1/package.json" "$1/package-lock.json")
    once "$folder" make_tree "$folder" "$1"
    echo "$folder"
}

# node_binary RUNTIME_FOLDER: prints a Node of version 22 or newer: the pinned one, or the machine's own where npm
# has none for this architecture.
node_binary() {
    local pinned own
    pinned=$(node_tree "$1")/node_modules/.bin/node
    if [[ -x $pinned ]]; then
        echo "$pinned"
    elif own=$(command -v node) && "$own" -e 'process.exit(parseInt(process.versions.node) < 22)'; then
        echo "$own"
    else
        echo "no Node 22 or newer for $(uname -m)" >&2
        return 1
    fi
}
