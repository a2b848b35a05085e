# Sourced by boot.sh and test.sh.

# use_requirements FILE
# Installs what FILE pins into the active virtual environment or, without one, into
# .venv, which is created if needed. Does nothing if FILE is installed already, as in a
# container image.
use_requirements() {
    local file=$1 python=${PYTHON:-python3}
    if [ -z "${VIRTUAL_ENV:-}" ]; then
        if [ ! -f .venv/bin/activate ]; then  # written last by venv
            if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
                echo "Python 3.11 or later is needed; set PYTHON to where it is" >&2
                return 1
            fi
            "$python" -m venv .venv || return 1
        fi
        # Without `activate`, which contains the path of the folder it was created in.
        export VIRTUAL_ENV=$PWD/.venv PATH=$PWD/.venv/bin:$PATH
    fi
    # The requirements that are installed; the development ones include all others.
    local installed=$VIRTUAL_ENV/installed-requirements.txt
    if cmp -s "$file" "$installed" || cmp -s requirements-dev.txt "$installed"; then
        return
    fi
    [ -t 2 ] && echo "Installing $file, which takes a minute once ..." >&2
    # As constraints, too: before 23.3, pip did not apply the pin of a package to the same
    # package with an extra, and took its newest release.
    python -m pip install -qq --disable-pip-version-check --require-hashes \
        -r "$file" -c "$file" || return 1
    cp "$file" "$installed"
}
