#!/bin/sh
# Tests on a real Slurm that lives as long as they do: run.sh PYTHON [PYTEST ARGUMENT...]. Skips, and says so, where none may be installed.
set -eu
cd "$(dirname "$0")/../.."
python=$1
shift

skip() {
    echo "SKIPPED tests/cluster: $1"
    exit 0
}

[ "$(id -u)" = 0 ] || skip "starting slurmctld and munged needs root"
missing=
for program in slurmctld slurmd munged srun; do
    command -v $program > /dev/null || missing=$program
done
if [ "$missing" ]; then
    command -v apt-get > /dev/null || skip "no Slurm, and no apt-get to install Debian's"
    apt-get update -q > /dev/null || skip "no Slurm, and apt-get update fails"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends slurmctld slurmd slurm-client munge \
        > /dev/null || skip "no Slurm, and apt-get cannot install it"
fi
home=$(mktemp -d)
trap 'tests/cluster/cluster.sh stop "$home"; sleep 2; rm -rf "$home"' EXIT
tests/cluster/cluster.sh start "$home" || skip "Slurm does not start here"
SLURM_CONF=$home/slurm.conf PROTEINLM_TEST_CLUSTER=1 "$python" -m pytest -v tests/cluster "$@"
