#!/usr/bin/env bash
# Python 3.11 to 3.13 on Linux: getrusage says of a small program that it held as much memory as the program that started it.
#
# Expected was that ru_maxrss of RUSAGE_SELF is the most that the program itself has held: it is what benchmarks and tests print
# from a process of its own, to know what a piece of code takes.
# Seen: a process of 10 MB that a process of 500 MB starts by subprocess.run reports 500 MB and more, since the child is the
# parent's memory until exec, and exec keeps the highest value. An increase below that is not seen at all. VmHWM in
# /proc/self/status is of the program alone.
set -euo pipefail
python3 - << 'PYTHON'
import platform, subprocess, sys

SMALL = (
    "import resource; "
    "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,"
    " int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) // 1024)"
)
held = bytearray(500 << 20)
held[::4096] = b"x" * len(held[::4096])
said, own = map(int, subprocess.run([sys.executable, "-c", SMALL], capture_output=True, text=True).stdout.split())
print("Python", platform.python_version(), platform.release(), "| ru_maxrss", said, "MB, VmHWM", own, "MB")
assert said >= 500, "ru_maxrss is the program's own"
assert own < 100
PYTHON
echo "as stated: $(basename "$0")"
