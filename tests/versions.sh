#!/usr/bin/env bash
# The kernels with other releases of Triton and NumPy than the environment's: their tests in that
# Triton's interpreter, and every one compiled. Usage: tests/versions.sh PYTHON, of that environment.
# Each pair is unpacked into a folder of its own, which Python finds first; nothing else is installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=$1 status=0
# Triton: the oldest that is accepted, that of torch 2.11. NumPy: before and since 2.4, which turns
# arrays of one element no longer into integers.
for pair in "3.4.0 2.4.6" "3.6.0 2.3.5" "3.6.0 2.4.6"; do
    read -r triton numpy <<< "$pair"
    folder=$PWD/build/versions/$triton-$numpy
    [ -e "$folder/.made" ] || {
        "$python" -m pip --disable-pip-version-check install --quiet --no-deps --upgrade \
            --target "$folder" "triton==$triton" "numpy==$numpy"
        touch "$folder/.made"
    }
    echo "==> Triton $triton, NumPy $numpy"
    export PYTHONPATH=$folder
    "$python" -m pytest -q -n auto --dist worksteal tests/kernels || status=1
    "$python" -m morse_engine.kernels.aot || status=1
done
exit $status
