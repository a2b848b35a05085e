# Sourced by boot.sh and test.sh.

# use_requirements FILE
# Activates .venv, made if no virtual environment is active, and installs what
# FILE pins; does nothing where that has been done before. A container image
# has its own environment active, so that nothing is installed when it starts.
use_requirements() {
    local file=$1 python=${PYTHON:-python3}
    if [ -z "${VIRTUAL_ENV:-}" ]; then
        if [ ! -f .venv/bin/activate ]; then  # the last thing that venv writes
            if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
                echo "Python 3.11 or later is needed; set PYTHON to where it is" >&2
                return 1
            fi
            "$python" -m venv .venv || return 1
        fi
        # Not by `activate`, which knows the folder it was made in, not where it is now.
        export VIRTUAL_ENV=$PWD/.venv PATH=$PWD/.venv/bin:$PATH
    fi
    # What is installed: FILE, or the development requirements, which hold all of the others.
    local installed=$VIRTUAL_ENV/installed-requirements.txt
    if cmp -s "$file" "$installed" || cmp -s requirements-dev.txt "$installed"; then
        return
    fi
    [ -t 2 ] && echo "Installing $file, which takes a minute once ..." >&2
    python -m pip install -qq --disable-pip-version-check --require-hashes -r "$file" || return 1
    cp "$file" "$installed"
}
