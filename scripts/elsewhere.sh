#!/bin/sh
# Proves that .bitswap files of the context network are the same on another kind of processor: makes an arm64 Debian
# under DIR, with NumPy, Numba and Pillow of the very versions that are here, runs it emulated by qemu, and compares
# what it encodes and decodes with what is encoded here (scripts/elsewhere.py).
#
#   sudo PYTHON=.venv/bin/python scripts/arm64.sh DIR
#
# Takes root, 1 GB, the packages qemu-user-static and debootstrap, a network, and some 10 minutes; what is under DIR
# already is used again. Exit status 0 if all is the same, 77 if this cannot be run here, another one otherwise.
set -eu

[ $# = 1 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2; }
folder=$1
python=${PYTHON:-python3}
repository=$(cd "$(dirname "$0")/.." && pwd)
mirror=${MIRROR:-http://deb.debian.org/debian}

unable() { echo "$0: $1" >&2; exit 77; }
[ "$(id -u)" = 0 ] || unable "takes root, for chroot"
[ "$(uname -m)" = x86_64 ] || unable "is for x86-64, where arm64 is another kind of processor"
qemu=$(command -v qemu-aarch64-static) || unable "takes the package qemu-user-static"
command -v debootstrap >/dev/null || unable "takes the package debootstrap"
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
    unable "takes Python 3.11, which is that of Debian bookworm"

root=$folder/root
if [ ! -e "$root/ready" ]; then
    mkdir -p "$folder"
    rm -rf "$root"
    # The second stage would run packages' scripts emulated; it is enough to unpack them.
    debootstrap --foreign --arch=arm64 --variant=minbase --include=python3 bookworm "$root" "$mirror" >&2
    for package in "$root"/var/cache/apt/archives/*.deb; do dpkg-deb -x "$package" "$root"; done
    cp "$qemu" "$root/usr/bin/"
    : > "$root/proc/cpuinfo" # LLVM looks for it
    set --
    for name in numpy numba llvmlite pillow; do
        set -- "$@" "$name==$("$python" -c "import importlib.metadata as m; print(m.version('$name'))")"
    done
    "$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.11 \
        --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
        --dest "$folder/wheels" "$@" >&2
    mkdir -p "$root/packages"
    for wheel in "$folder"/wheels/*.whl; do "$python" -m zipfile -e "$wheel" "$root/packages"; done
    touch "$root/ready"
fi

rm -rf "$root/repository" "$root/files"
mkdir "$root/repository"
cd "$repository"
cp -r codec model utils scripts "$root/repository/"
find "$root/repository" -name __pycache__ -prune -exec rm -r {} +
"$python" scripts/elsewhere.py write "$root/files"
echo "the same, emulated arm64:"
# qemu is named, so that it need not be registered with the kernel: Python starts no other programs.
chroot "$root" /usr/bin/qemu-aarch64-static -E PYTHONPATH=/packages -E NUMBA_CACHE_DIR=/tmp/numba \
    /usr/bin/python3.11 /repository/scripts/elsewhere.py compare /files
