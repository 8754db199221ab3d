#!/usr/bin/env bash
# ziglang 0.17.1: `zig cc`, which stands in for Clang, refuses the names of processors that Clang and GCC take.
#
# Expected was that -march=x86-64-v3 means what it means to both of them. Seen: the name is taken apart at its hyphens, and the
# error says that there is no processor x86. With underscores the same name works, which Clang and GCC refuse in turn.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check ziglang==0.17.1 2> /dev/null
echo 'int twice(int x) { return 2 * x; }' > twice.c
export ZIG_GLOBAL_CACHE_DIR="$work/cache" ZIG_LOCAL_CACHE_DIR="$work/cache"
if venv/bin/python -m ziglang cc -march=x86-64-v3 -c twice.c -o twice.o > said 2>&1; then
  echo "x86-64-v3 is taken now"
  exit 1
fi
grep "unknown CPU: 'x86'" said
venv/bin/python -m ziglang cc -march=x86_64_v3 -c twice.c -o twice.o
test -s twice.o
echo "as stated: $(basename "$0")"
