#!/bin/sh
# Everything from FER2013 to the first edition, in one command: sh benchmarks/ship_first.sh fer2013/
# fer2013/ holds train/<emotion>/*.png, test/<emotion>/*.png (the official PublicTest) and labels.csv with FER+ votes.
# About an hour on two processor cores; stop it at any time, and the same command goes on.
set -e
data=${1:?say where FER2013 is: sh benchmarks/ship_first.sh fer2013/}
[ -d models/edition-one ] || fer finetune "$data" --recipe ferkit --name edition-one \
    --labels fer2013 --validate-on test --votes "$data/labels.csv" --detector none
python "$(dirname "$0")/ship.py" models/edition-one "$data"
