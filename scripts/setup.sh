#!/usr/bin/env bash
# Install what Graft is built from. Quick, silent and offline when nothing is missing.
#
#   scripts/setup.sh [PACKAGE ...]   as root, or with sudo; PACKAGE: also these
#
# Elsewhere than on Debian and its children it only looks whether the libraries can be found.
set -eu

packages=(
    build-essential pkg-config      # gcc, make; where the libraries are
    libopenmpi-dev openmpi-bin      # ranks
    libhdf5-openmpi-dev             # every file we write
    libopenblas-openmp-dev          # matrix products, threads shared with our OpenMP
    libyaml-dev                     # configuration
    libjansson-dev                  # JSON: safetensors headers, HF configs, metrics
    libpcre2-dev                    # pre-tokenizer patterns
    libutf8proc-dev                 # Unicode normalisation
    libxxhash-dev                   # hashes of documents
    gnuplot-nox                     # plots of a report
    strace                          # tests: faults at every system call of a commit
    slurm-wlm munge                 # tests: a throw-away cluster
)
packages+=("$@")

die() { echo "setup: $*" >&2; exit 1; }

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    lost=()
    for tool in gcc mpicc mpirun pkg-config; do
        command -v "$tool" >/dev/null || lost+=("$tool")
    done
    for lib in jansson yaml-0.1 libpcre2-8 libutf8proc libxxhash; do
        pkg-config --exists "$lib" 2>/dev/null || lost+=("$lib")
    done
    pkg-config --exists hdf5-openmpi 2>/dev/null || pkg-config --exists hdf5 2>/dev/null || lost+=(hdf5)
    [ ${#lost[@]} -eq 0 ] || die "not a Debian system, and these are missing: ${lost[*]}
       install the like of: ${packages[*]}"
    exit 0
fi

missing=()
for p in "${packages[@]}"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
done
[ ${#missing[@]} -eq 0 ] && exit 0

root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || die "packages are missing; as root: apt-get install ${missing[*]}"
    root=(sudo)
fi

# A package may bring daemons (Slurm, munge): tests start their own, and this machine is not to become a cluster. Debian asks
# policy-rc.d before it starts one. Where there is one already, it decides, as in most container images.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap '"${root[@]}" rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' | "${root[@]}" tee $policy >/dev/null
    "${root[@]}" chmod 755 $policy
fi

echo "setup: installing ${missing[*]}"
"${root[@]}" apt-get update -q || die "apt-get update failed; needed: ${missing[*]}"
"${root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -q --no-install-recommends "${missing[@]}" ||
    die "apt-get install failed; needed: ${missing[*]}"
