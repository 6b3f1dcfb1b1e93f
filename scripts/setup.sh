#!/usr/bin/env bash
# Make .venv with the locked packages and this project in it, and see that the emoji font is there.
# Each step is done once for its input: this folder, requirements.lock, pyproject.toml.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf 'setup: %s\n' "$*" >&2; }

apt_install() {
    local as_root=()
    command -v apt-get >/dev/null || return 1
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || return 1
        as_root=(sudo)
    fi
    local get=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0)
    say "installing $* with apt-get"
    "${get[@]}" install -y --no-install-recommends "$@" >/dev/null 2>&1 ||
        { "${get[@]}" update >/dev/null && "${get[@]}" install -y --no-install-recommends "$@" >/dev/null; }
}

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

# The lock was made with 3.11, so that goes first. A name on PATH may be a shim for a version that is not there.
find_python() {
    local name
    for name in python3.11 python3.12 python3.13 python3.14 python3 python; do
        if is_new_enough "$name"; then
            command -v "$name"
            return
        fi
    done
    say "Python 3.11 or later was not found: install it (Debian, Ubuntu: apt-get install python3 python3-venv)."
    return 1
}

make_environment() {
    local python version
    python=$(find_python)
    if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
        apt_install "$version-venv" || apt_install python3-venv || {
            say "$python cannot make virtual environments: install the package $version-venv."
            return 1
        }
    fi
    "$python" -m venv --clear .venv
}

install_packages() {
    say "installing the packages of requirements.lock into .venv; the first time this takes some minutes"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
}

install_project() { # setuptools is in the lock, so nothing more is fetched
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
}

has_font() {
    local folder
    [ -f "${PALP_EMOJI_FONT:-}" ] && return
    for folder in /usr/share/fonts/truetype/noto /usr/share/fonts/noto /usr/share/fonts/google-noto-emoji \
        "${HOME:-}/.local/share/fonts"; do
        [ -f "$folder/NotoColorEmoji.ttf" ] && return
    done
    return 1
}

# Run step $1 unless it was done for this input, $2; making .venv anew removes the stamps.
once() {
    local stamp
    stamp=.venv/.$1-$(cksum <<<"$2" | tr ' ' -)
    [ -f "$stamp" ] && return
    rm -f .venv/."$1"-*
    "$1"
    touch "$stamp"
}

is_new_enough .venv/bin/python || rm -rf .venv
once make_environment "$PWD" # a virtual environment that was moved or copied runs the old place's files
once install_packages "$(<requirements.lock)"
once install_project "$(<pyproject.toml)"
has_font || apt_install fonts-noto-color-emoji ||
    say "no NotoColorEmoji.ttf was found: install Noto Color Emoji, or set PALP_EMOJI_FONT to the file's path."
