# Sourced by boot.sh and test.sh.

# use_requirements FILE
# Activates .venv, made if no virtual environment is active, and installs what
# FILE pins; does nothing where that has been done before. A container image
# has its own environment active, so that nothing is installed when it starts.
use_requirements() {
    local file=$1 python=${PYTHON:-python3}
    if [ -z "${VIRTUAL_ENV:-}" ]; then
        if [ ! -f .venv/bin/activate ]; then
            if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
                echo "Python 3.11 or later is needed; set PYTHON to where it is" >&2
                return 1
            fi
            "$python" -m venv .venv || return 1
        fi
        . .venv/bin/activate
    fi
    if ! cmp -s "$file" "$VIRTUAL_ENV/$file"; then
        [ -t 2 ] && echo "Installing $file, which takes a minute once ..." >&2
        python -m pip install -qq --disable-pip-version-check --require-hashes -r "$file" ||
            return 1
        cp "$file" "$VIRTUAL_ENV/$file"
    fi
}
