#!/usr/bin/env bash
# Build Horovod from PyPI's source against the PyTorch that is installed, and install it beside it.
#
#   scripts/install_horovod.sh           with NCCL where PyTorch sees a GPU, otherwise for CPUs
#   scripts/install_horovod.sh --gpu     with NCCL, also where there is no GPU (the login node of a cluster)
#   scripts/install_horovod.sh --cpu     without CUDA
#
# Needs a C++ compiler, cmake and MPI (on Debian and Ubuntu: apt-get install g++ cmake openmpi-bin libopenmpi-dev), and
# with --gpu a CUDA toolkit of the version that PyTorch was built with. From the environment:
#   PYTHON   the Python to install into; or VENV, the folder of its environment (default: .venv, or else python3)
#   HOROVOD_CUDA_HOME    the CUDA toolkit (default: $CUDA_HOME, or /usr/local/cuda)
#   HOROVOD_NCCL_HOME    NCCL with its headers (default: the one that PyTorch came with)
#   HOROVOD_CACHE        where built wheels are kept, one for each PyTorch (default: ~/.cache/bitswap-horovod)
#   JOBS                 how many files to compile at once (default: one a processor)
# Does nothing where Horovod is there and works; a wheel that was built before is installed again without building.

set -euo pipefail

VERSION=0.28.1  # the last release
ROOT=$(cd "$(dirname "$0")/.." && pwd)

fail() {
    echo "install_horovod.sh: error: $*" >&2
    exit 1
}

device=auto
case ${1-} in
    --cpu) device=cpu ;;
    --gpu) device=gpu ;;
    "") ;;
    -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; exit ;;
    *) fail "$1 is no flag of this script; there are --cpu, --gpu and --help" ;;
esac

if [ -z "${PYTHON-}" ]; then
    if [ -n "${VENV-}" ]; then
        PYTHON=$VENV/bin/python
    elif [ -x "$ROOT/.venv/bin/python" ]; then
        PYTHON=$ROOT/.venv/bin/python
    else
        PYTHON=python3
    fi
fi
python=$(command -v "$PYTHON") || fail "there is no Python at $PYTHON; name one with PYTHON= or VENV="
case $python in /*) PYTHON=$python ;; *) PYTHON=$PWD/$python ;; esac  # not resolved: an environment's python is a link
torch=$("$PYTHON" -c 'import torch; print(torch.__version__)' 2>/dev/null) ||
    fail "$PYTHON has no PyTorch; first: $PYTHON -m pip install -r requirements.txt"

if [ $device = auto ]; then
    device=$("$PYTHON" -c 'import torch; print("gpu" if torch.cuda.is_available() else "cpu")')
fi

# Horovod records the PyTorch it was built with; with any other it crashes rather than failing to import.
works() {
    "$PYTHON" - "$VERSION" $device <<'PYTHON' 2>/dev/null
import json, pathlib, sys
import torch
import horovod, horovod.torch as hvd
built_with = json.loads((pathlib.Path(horovod.__file__).parent / "metadata.json").read_text())["pytorch"]
assert horovod.__version__ == sys.argv[1] and built_with == torch.__version__ and hvd.mpi_built()
assert sys.argv[2] == "cpu" or hvd.nccl_built()
PYTHON
}

if works; then
    echo "Horovod $VERSION is installed for PyTorch $torch already"
    exit
fi

mpicxx=$(command -v mpicxx) || fail "there is no mpicxx; install MPI: apt-get install openmpi-bin libopenmpi-dev"
command -v mpiexec >/dev/null || fail "there is no mpiexec; install MPI: apt-get install openmpi-bin libopenmpi-dev"
command -v cmake >/dev/null || fail "there is no cmake; apt-get install cmake, or $PYTHON -m pip install cmake"
command -v make >/dev/null || fail "there is no make; apt-get install make"
command -v "${CXX:-g++}" >/dev/null || fail "there is no C++ compiler ${CXX:-g++}; apt-get install g++, or set CXX"
"$PYTHON" -c 'import sysconfig, pathlib; exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())' ||
    fail "$PYTHON has no Python.h; apt-get install python3-dev"

# C++ standard: that of PyTorch's own extensions (17, or 20 from PyTorch 2.14 on); its headers refuse an older one.
standard=$("$PYTHON" - <<'PYTHON'
import pathlib, re, torch
source = (pathlib.Path(torch.__file__).parent / "utils" / "cpp_extension.py").read_text()
print(max(map(int, re.findall(r"std=c\+\+(\d\d)", source)), default=17))
PYTHON
)
echo 'int main() { return 0; }' | "${CXX:-g++}" -std=c++"$standard" -x c++ -fsyntax-only - 2>/dev/null ||
    fail "${CXX:-g++} does not know C++$standard, which PyTorch $torch needs; install g++ 11 or later"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

export HOROVOD_WITH_MPI=1 HOROVOD_WITHOUT_GLOO=1  # mpiexec starts the processes
export HOROVOD_WITH_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1
export CMAKE_POLICY_VERSION_MINIMUM=3.5  # CMake 4 refuses the versions that Horovod's files ask for
export MAKEFLAGS=-j${JOBS:-$(nproc)}
if [ $device = gpu ]; then
    cuda=$("$PYTHON" -c 'import torch; print(torch.version.cuda or "")')
    [ -n "$cuda" ] || fail "PyTorch $torch is built without CUDA; install one with CUDA, or use --cpu"
    home=${HOROVOD_CUDA_HOME:-${CUDA_HOME:-/usr/local/cuda}}
    [ -x "$home/bin/nvcc" ] ||
        fail "there is no $home/bin/nvcc; install CUDA toolkit $cuda and set HOROVOD_CUDA_HOME, or train with torchrun"
    toolkit=$("$home/bin/nvcc" --version | sed -n 's/.*release \([0-9.]*\),.*/\1/p')
    [ "${toolkit%%.*}" = "${cuda%%.*}" ] ||
        fail "$home is CUDA $toolkit and PyTorch $torch wants $cuda; set HOROVOD_CUDA_HOME to a CUDA toolkit $cuda"
    export HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_CUDA_HOME=$home CUDA_HOME=$home CUDAToolkit_ROOT=$home
    export HOROVOD_NCCL_LINK=SHARED  # so that PyTorch and Horovod share one NCCL
    if [ -z "${HOROVOD_NCCL_HOME-}${HOROVOD_NCCL_INCLUDE-}" ]; then
        # PyTorch's wheels bring NCCL as libnccl.so.2 alone; the linker asks for the name without the number.
        nccl=$("$PYTHON" -c 'import nvidia.nccl; print(list(nvidia.nccl.__path__)[0])' 2>/dev/null) ||
            fail "PyTorch $torch came without NCCL; install it (libnccl-dev) and set HOROVOD_NCCL_HOME to its folder"
        mkdir "$work/nccl"
        ln -s "$nccl/lib/libnccl.so.2" "$work/nccl/libnccl.so"
        export HOROVOD_NCCL_INCLUDE=$nccl/include HOROVOD_NCCL_LIB=$work/nccl
    fi
else
    unset HOROVOD_GPU_OPERATIONS HOROVOD_GPU_ALLREDUCE HOROVOD_GPU_ALLGATHER HOROVOD_GPU_BROADCAST
fi

# One wheel for each combination of what it is linked against.
tag=$("$PYTHON" -c 'import sys; print(sys.implementation.cache_tag)')
key=$(cat "$0" <("$mpicxx" -show 2>/dev/null) <(echo "${toolkit-}") | cksum | cut -d' ' -f1)
wheels=${HOROVOD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/bitswap-horovod}/$VERSION-$tag-torch$torch-$device-$key

echo "Horovod $VERSION for PyTorch $torch ($device, C++$standard) into $PYTHON"
pip() {
    "$PYTHON" -m pip --disable-pip-version-check --quiet "$@"
}
# What Horovod asks for at run time, and what its setup.py needs; Python 3.12 and later come without setuptools.
pip install cloudpickle psutil pyyaml packaging cffi 'setuptools>=70.1' ||
    fail "pip cannot install what Horovod needs (see above); it takes PyPI, or a mirror in PIP_INDEX_URL"

if ! ls "$wheels"/horovod-*.whl >/dev/null 2>&1; then
    pip download --no-deps --no-build-isolation --no-binary=horovod --dest "$work" "horovod==$VERSION" ||
        fail "pip cannot download horovod==$VERSION (see above); it takes PyPI, or a mirror in PIP_INDEX_URL"
    tar -xzf "$work/horovod-$VERSION.tar.gz" -C "$work"
    source=$work/horovod-$VERSION
    sed -i "s/CMAKE_CXX_STANDARD 14/CMAKE_CXX_STANDARD $standard/" \
        "$source/CMakeLists.txt" "$source/horovod/torch/CMakeLists.txt"
    # Python 3.12 has no distutils.
    sed -i "s/from distutils.sysconfig import get_python_inc; print(get_python_inc())/import sysconfig; print(sysconfig.get_path('include'))/" \
        "$source/horovod/torch/CMakeLists.txt"
    sed -i 's/from distutils.spawn import find_executable/from shutil import which as find_executable/' \
        "$source/horovod/runner/js_run.py"
    sed -i "s/'RelWithDebInfo'/'Release'/" "$source/setup.py"  # debug symbols take most of the time to compile
    if [ $device = cpu ]; then
        # PyPI's PyTorch is built for CUDA, and so would Horovod be, which fails without a CUDA toolkit.
        sed -i 's/(torch.version.cuda is not None) and (CUDA_HOME is not None)/False/' \
            "$source/cmake/Modules/FindPytorch.cmake"
    fi
    echo "building, which takes some minutes"
    log=$work/build.log
    if ! "$PYTHON" -m pip wheel --verbose --no-deps --no-build-isolation --wheel-dir "$work/wheel" "$source" >"$log" 2>&1; then
        kept=${TMPDIR:-/tmp}/horovod-build.$$.log
        cp "$log" "$kept"
        grep -E 'error|Error' "$log" | head -n 5 >&2
        fail "the build failed, see $kept; torchrun trains without Horovod"
    fi
    mkdir -p "$wheels"
    for wheel in "$work"/wheel/horovod-*.whl; do # under its name only when it is whole
        cp "$wheel" "$wheels/.$$.tmp" && mv "$wheels/.$$.tmp" "$wheels/$(basename "$wheel")"
    done
fi
pip install --no-deps --force-reinstall "$wheels"/horovod-*.whl
works || fail "Horovod is installed and does not import with PyTorch $torch: $PYTHON -c 'import horovod.torch' says why"
echo "Horovod $VERSION is installed"
