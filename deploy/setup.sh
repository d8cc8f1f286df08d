#!/usr/bin/env bash
# Prepares this checkout for building: a C++ compiler, Rust, and libtorch 2.11.0 for tch 0.24.0.
#
# Everything it makes is in .libtorch/ of this checkout:
#   include, lib/      links to the real headers and libraries, and an empty libtorch.so for torch-sys to link
#   rpath              the real library folders, which built binaries carry (agent/worker/build.rs)
#   build-version      what torch-sys checks
#   site/              our own download, when nothing usable was there
# It is built beside its final place and renamed at the end, so it is there whole or not at all; a second
# run finds it and does nothing.
#
# Where libtorch comes from, first match wins:
#   LIBTORCH=DIR               an unpacked libtorch (or torch/ of a wheel)
#   LIBTORCH_USE_PYTORCH=1     the torch of `python3`
#   `python3` has torch 2.11.0 used as it is
#   otherwise                  PyPI's wheel: only what the CPU half needs, or all of it beside an NVIDIA GPU that
#                              fits it. FLEET_TORCH=cpu or FLEET_TORCH=cuda overrides that choice.
set -euo pipefail

TORCH=2.11.0
# The two CUDA libraries that libtorch_cpu.so itself needs; the versions torch 2.11.0's metadata names.
CUDART=13.0.96
CUPTI=13.0.85
# The wheel is built for CUDA 13: it needs this driver, and has no kernels for boards before Turing.
MIN_DRIVER=580
MIN_CAPABILITY=75

cd "$(dirname "$0")/.."
root=$PWD
out=$root/.libtorch
stage=$root/.libtorch.partial

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# ---- tools ---------------------------------------------------------------------------------------------

need_packages() { # need_packages WHY PACKAGE... : install with apt-get as root, else name what is missing
  local why=$1; shift
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing $* ($why)"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null \
      || die "apt-get could not install $*; install them and run this again"
  else
    die "missing: $why. Install it (Debian and Ubuntu: sudo apt-get install $*) and run this again"
  fi
}

command -v c++ >/dev/null && command -v cc >/dev/null || need_packages "a C and C++ compiler" build-essential
command -v cargo >/dev/null || die "missing: Rust. Install rustup (https://rustup.rs), which then follows rust-toolchain.toml, and run this again"
cargo --version >/dev/null 2>&1 || die "the Rust of rust-toolchain.toml is not installed: run 'rustup toolchain install' in $root and then this again"

# ---- is it there already? ------------------------------------------------------------------------------

# A finished set-up names what it was made from, so that another LIBTORCH or FLEET_TORCH makes it anew. Without any of
# them, what was chosen once stays.
request="torch=$TORCH LIBTORCH=${LIBTORCH:-} LIBTORCH_USE_PYTORCH=${LIBTORCH_USE_PYTORCH:-} FLEET_TORCH=${FLEET_TORCH:-}"
made_from=$(cat "$out/request" 2>/dev/null || true)
if [ -e "$out/lib/libtorch_cpu.so" ] && [ "${made_from%% *}" = "torch=$TORCH" ]; then
  chosen=${LIBTORCH:-}${LIBTORCH_USE_PYTORCH:-}${FLEET_TORCH:-}
  if [ -z "$chosen" ] || [ "$made_from" = "$request" ]; then exit 0; fi
fi

# ---- what the machine has ------------------------------------------------------------------------------

gpu_fits() { # does the NVIDIA driver, if any, fit the CUDA 13 wheel? Says why not.
  command -v nvidia-smi >/dev/null || return 1
  local line driver capability name
  # The most capable board decides; the agent leaves out those that cannot be used.
  line=$(nvidia-smi --query-gpu=driver_version,compute_cap,name --format=csv,noheader 2>/dev/null | sort -t, -k2,2 -V | tail -n 1) \
    || return 1
  [ -n "$line" ] || { say "nvidia-smi is here but shows no GPU: setting up for the CPU"; return 1; }
  IFS=, read -r driver capability name <<<"$line"
  capability=${capability//[ .]/}; name=${name# }
  if [ "$capability" -lt "$MIN_CAPABILITY" ]; then
    say "the$name GPU has compute capability ${capability:0:1}.${capability:1}; PyPI's torch $TORCH (CUDA 13) needs 7.5 or newer."
    say "for this GPU unpack the official libtorch $TORCH for CUDA 12.6 (cu126: libtorch-shared-with-deps-$TORCH%2Bcu126.zip from pytorch.org),"
    say "then run: LIBTORCH=/path/to/libtorch make setup. Setting up for the CPU now."
    return 1
  fi
  if [ "${driver%%.*}" -lt "$MIN_DRIVER" ]; then
    say "the NVIDIA driver is $driver; PyPI's torch $TORCH (CUDA 13) needs $MIN_DRIVER or newer."
    say "update the driver, or unpack the official libtorch $TORCH for CUDA 12.8 (cu128: libtorch-shared-with-deps-$TORCH%2Bcu128.zip from pytorch.org;"
    say "driver 525 or newer), then run: LIBTORCH=/path/to/libtorch make setup. Setting up for the CPU now."
    return 1
  fi
  say "found $name, driver $driver, compute capability ${capability:0:1}.${capability:1}: setting up with CUDA"
}

torch_version() { # torch_version DIR : the version of an unpacked libtorch, without its +cu130
  local dir=$1
  if [ -f "$dir/build-version" ]; then cut -d+ -f1 "$dir/build-version" | tr -d '[:space:]'
  elif [ -f "$dir/include/torch/version.h" ] || [ -f "$dir/include/torch/headeronly/version.h" ]; then
    cat "$dir"/include/torch/version.h "$dir"/include/torch/headeronly/version.h 2>/dev/null \
      | awk '/define TORCH_VERSION_(MAJOR|MINOR|PATCH)/ && !seen[$2]++ {v = v (v == "" ? "" : ".") $3} END {print v}'
  fi
}

python_torch() { # the folder of python3's torch, if it has one
  command -v python3 >/dev/null || return 1
  python3 -c 'import importlib.util as u, os; s = u.find_spec("torch"); print(os.path.dirname(s.origin))' 2>/dev/null
}

python_torch_version() { sed -n "s/^__version__ = '\([^+']*\).*/\1/p" "$1/version.py" 2>/dev/null; }

# ---- our own download ----------------------------------------------------------------------------------

# pip shows no progress when its output is not a terminal, and half a gigabyte without a word looks like a hang.
with_progress() { # with_progress LABEL FOLDER COMMAND...
  local label=$1 folder=$2; shift 2
  "$@" &
  local pid=$! seconds=0
  while kill -0 "$pid" 2>/dev/null; do
    sleep 1; seconds=$((seconds + 1))
    if [ $((seconds % 10)) = 0 ]; then
      say "$label: $(du -sm "$folder" 2>/dev/null | cut -f1) MiB on disk after $seconds s"
    fi
  done
  wait "$pid"
}

download() { # download cpu|cuda : torch from PyPI into $stage/site
  [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] \
    || die "no ready-made libtorch $TORCH for $(uname -s) $(uname -m) here: unpack one and run LIBTORCH=/path/to/libtorch make setup"
  command -v python3 >/dev/null || need_packages "python3" python3 python3-venv
  local have_mib; have_mib=$(df -Pm "$root" | awk 'NR==2 {print $4}')
  local want_mib=2500; [ "$1" = cuda ] && want_mib=12000
  [ "$have_mib" -ge "$want_mib" ] || die "setting up libtorch needs $want_mib MiB free in $root; $have_mib MiB are free"
  if ! python3 -m venv "$stage/venv" >/dev/null 2>&1; then
    need_packages "python3's venv module" python3-venv
    python3 -m venv "$stage/venv" || die "python3 -m venv failed"
  fi
  mkdir -p "$stage/tmp"
  local wanted=("torch==$TORCH")
  [ "$1" = cpu ] && wanted=(--no-deps "${wanted[@]}" "nvidia-cuda-runtime==$CUDART" "nvidia-cuda-cupti==$CUPTI")
  say "downloading libtorch $TORCH ($1) from PyPI, about $([ "$1" = cpu ] && echo 550 MB || echo 2.5 GB)"
  with_progress "libtorch" "$stage" env TMPDIR="$stage/tmp" "$stage/venv/bin/python" -m pip --disable-pip-version-check \
    install --no-cache-dir --no-compile --quiet --target "$stage/site" "${wanted[@]}" \
    || die "pip could not install torch==$TORCH (see above); nothing was changed. Check the network and run this again"
  rm -rf "$stage/venv" "$stage/tmp"
  if [ "$1" = cpu ]; then # the CUDA half cannot load without its libraries: 300 MB that nothing could use
    find "$stage/site/torch/lib" -mindepth 1 -maxdepth 1 -name 'lib*' \
      ! -name libc10.so ! -name libtorch_cpu.so ! -name libgomp.so.1 -exec rm -rf {} +
    find "$stage/site/torch" -mindepth 1 -maxdepth 1 ! -name lib ! -name include ! -name version.py -exec rm -rf {} +
  fi
}

# ---- the link directory --------------------------------------------------------------------------------

link_directory() { # link_directory TORCH_DIR RPATH : fill $stage from a folder with include/ and lib/
  local dir=$1
  for f in "$dir/include/torch/csrc/api/include/torch/torch.h" "$dir/lib/libtorch_cpu.so" "$dir/lib/libc10.so"; do
    [ -e "$f" ] || die "$dir is not a libtorch: $f is missing"
  done
  mkdir -p "$stage/lib"
  ln -s "$2/include" "$stage/include"
  ln -s "$2/lib/libc10.so" "$2/lib/libtorch_cpu.so" "$stage/lib/"
  [ -e "$dir/lib/libgomp.so.1" ] && ln -s "$2/lib/libgomp.so.1" "$stage/lib/"
  # torch-sys links -ltorch, whose real form drags in libtorch_cuda. An empty one satisfies it; the worker
  # loads the CUDA half itself at run time where there is one.
  echo 'static int empty; void *fleet_libtorch_is_empty(void) { return &empty; }' \
    | cc -shared -fPIC -x c - -o "$stage/lib/libtorch.so" -Wl,-soname,libtorch.so
  echo "$TORCH" >"$stage/build-version"
}

rm -rf "$stage"; mkdir -p "$stage"
trap 'rm -rf "$stage"' EXIT
trap 'say "interrupted; nothing was changed"; exit 130' INT TERM

if [ -n "${LIBTORCH:-}" ]; then
  dir=$(cd "$LIBTORCH" 2>/dev/null && pwd -P) || die "LIBTORCH=$LIBTORCH is not a folder"
  have=$(torch_version "$dir")
  [ "$have" = "$TORCH" ] || die "LIBTORCH=$LIBTORCH holds libtorch ${have:-of unknown version}; tch 0.24.0 needs $TORCH. Unset LIBTORCH to download the right one"
  say "using libtorch $have of LIBTORCH=$dir"
  link_directory "$dir" "$dir"
  libs=$dir/lib
elif dir=$(python_torch) && have=$(python_torch_version "$dir") && [ "$have" = "$TORCH" ]; then
  say "using torch $have of $(command -v python3)"
  link_directory "$dir" "$dir"
  libs=$dir/lib
else
  if [ -n "${LIBTORCH_USE_PYTORCH:-}" ]; then
    die "LIBTORCH_USE_PYTORCH is set, but python3 has ${have:+torch $have}${have:-no torch}; tch 0.24.0 needs torch $TORCH"
  fi
  [ -n "${have:-}" ] && say "python3 has torch $have; tch 0.24.0 needs $TORCH, so that one is left alone"
  case "${FLEET_TORCH:-auto}" in
    cpu | cuda) kind=$FLEET_TORCH ;;
    auto) if gpu_fits; then kind=cuda; else kind=cpu; fi ;;
    *) die "FLEET_TORCH=$FLEET_TORCH: expected cpu or cuda" ;;
  esac
  download "$kind"
  link_directory "$stage/site/torch" "$out/site/torch"
  # In the CPU-only form nothing but these two folders is needed; the rest find each other through $ORIGIN.
  libs=$out/site/torch/lib:$out/site/nvidia/cu13/lib
fi
echo "$libs" >"$stage/rpath"
echo "$request" >"$stage/request"
rm -rf "$out"
mv "$stage" "$out"
trap - EXIT
say "libtorch $TORCH is ready in .libtorch"
