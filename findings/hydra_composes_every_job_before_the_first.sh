#!/usr/bin/env bash
# hydra-core 1.3.8: a multirun composes the config of every job before it starts the first, and then once more.
#
# Expected was that the first job of a sweep starts at once, however many there are.
# Seen: for a config of two lines each job takes about 0.05 s before the first one starts: 1 s with 20 jobs, 10 s with 200, and so
# eight minutes with 10,000, and as much again while they run. A job that cannot be composed stops the sweep before any has
# run: of the words db=a,a2 where a2 does not exist, db=a is not run either.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check hydra-core==1.3.8 omegaconf==2.3.1 2> /dev/null
mkdir -p conf/db
echo 'defaults: [{db: a}, _self_]' > conf/main.yaml
echo 'n: 0' >> conf/main.yaml
echo 'name: a' > conf/db/a.yaml
cat > app.py << 'PYTHON'
import time

import hydra


@hydra.main(version_base=None, config_path="conf", config_name="main")
def main(config):
    print("job", config.n, config.db.name, round(time.process_time(), 2), flush=True)


main()
PYTHON
venv/bin/python -c 'import hydra; print("hydra-core", hydra.__version__)'
few=$(venv/bin/python app.py -m "n=range(1,5)" | awk '/^job 1 /{print $4}')
many=$(venv/bin/python app.py -m "n=range(1,41)" | awk '/^job 1 /{print $4}')
echo "seconds of the processor before the first of 4 jobs: $few; of 40: $many"
awk -v few="$few" -v many="$many" 'BEGIN { exit !(many > 2 * few) }'
if venv/bin/python app.py -m db=a,a2 > said 2>&1; then echo "the sweep succeeds"; exit 1; fi
if grep "^job" said; then echo "a job ran first"; exit 1; fi
echo "as stated: $(basename "$0")"
