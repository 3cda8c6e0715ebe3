#!/bin/sh
# Proves that .bitswap files of the context network are the same on another kind of processor: makes a Debian for it
# under DIR, runs it emulated by qemu, and compares what it encodes and decodes with what is encoded here
# (scripts/elsewhere.py). ARCH is one of
#
#   arm64   with NumPy, Numba and Pillow of the very versions that are here
#   s390x   big-endian, with Debian's Python, NumPy and Pillow. Nothing is compiled, so only small pictures are coded
#
#   sudo PYTHON=.venv/bin/python scripts/elsewhere.sh ARCH DIR
#
# Requires root, 1 GB, the packages qemu-user-static and debootstrap, a network, and some 10 minutes; what is under DIR
# already is used again. SUITE names the Debian. Exit status 0 if all is the same, 77 if this cannot be run here,
# another one otherwise.
set -eu

case $#$1 in
    2arm64) emulator=qemu-aarch64-static suite=bookworm packages=python3 limit= ;; # NumPy: see below
    2s390x) emulator=qemu-s390x-static suite=trixie packages=python3,python3-numpy,python3-pil limit='--most 200' ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
arch=$1
folder=$2
python=${PYTHON:-python3}
repository=$(cd "$(dirname "$0")/.." && pwd)
mirror=${MIRROR:-http://deb.debian.org/debian}

unable() { echo "$0: $1" >&2; exit 77; }
[ "$(id -u)" = 0 ] || unable "requires root, for chroot"
[ "$(uname -m)" = x86_64 ] || unable "is for x86-64, where $arch is another kind of processor"
qemu=$(command -v $emulator) || unable "requires the package qemu-user-static"
command -v debootstrap >/dev/null || unable "requires the package debootstrap"
[ $arch != arm64 ] || "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
    unable "requires Python 3.11, which is that of Debian bookworm"

root=$folder/root
if [ ! -e "$root/ready" ]; then
    mkdir -p "$folder"
    rm -rf "$root"
    # The second stage would run packages' scripts emulated; it is enough to unpack them.
    debootstrap --foreign --arch=$arch --variant=minbase --include=$packages "${SUITE:-$suite}" "$root" "$mirror" >&2
    for package in "$root"/var/cache/apt/archives/*.deb; do dpkg-deb -x "$package" "$root"; done
    cp "$qemu" "$root/usr/bin/"
    : > "$root/proc/cpuinfo" # LLVM looks for it
    mkdir -p "$root/packages"
    if [ $arch = arm64 ]; then
        set --
        for name in numpy numba llvmlite pillow; do
            set -- "$@" "$name==$("$python" -c "import importlib.metadata as m; print(m.version('$name'))")"
        done
        "$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.11 \
            --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
            --dest "$folder/wheels" "$@" >&2
        for wheel in "$folder"/wheels/*.whl; do "$python" -m zipfile -e "$wheel" "$root/packages"; done
    fi
    touch "$root/ready"
fi

rm -rf "$root/repository" "$root/files"
mkdir "$root/repository"
cd "$repository"
cp -r codec model utils scripts "$root/repository/"
find "$root/repository" -name __pycache__ -prune -exec rm -r {} +
"$python" scripts/elsewhere.py write "$root/files" $limit
echo "the same, emulated $arch:"
# qemu is named, so that it need not be registered with the kernel: Python starts no other programs. Packages' scripts
# would have linked NumPy's libraries blas and lapack.
libraries=/usr/lib/$arch-linux-gnu
chroot "$root" "/usr/bin/$emulator" -E PYTHONPATH=/packages -E NUMBA_CACHE_DIR=/tmp/numba \
    -E "LD_LIBRARY_PATH=$libraries/blas:$libraries/lapack" \
    /usr/bin/python3 /repository/scripts/elsewhere.py compare /files $limit
