#!/bin/sh
# Everything from FER2013 to the second edition that ships with the package: sh benchmarks/ship.sh fer2013/
# fer2013/ holds train/<emotion>/*.png, test/<emotion>/*.png (the official PublicTest) and labels.csv with FER+ votes.
# Teachers, students, the graph, turned faces, its folder. Needs Torch beside ferkit[train]'s onnx; about fifteen minutes with one
# large GPU, days without. Stop it at any time: the same command goes on. The first edition is made by ship_first.sh.
set -e
data=${1:?say where FER2013 is: sh benchmarks/ship.sh fer2013/}
state=${2:-models/edition-two}
here=$(dirname "$0")/edition_two
python "$here/train.py" "$data" "$state"
[ -f "$state/network.onnx" ] || python "$here/export.py" "$data" "$state"
python "$here/tune.py" "$data" "$state"
python "$here/package.py" "$data" "$state/network.onnx" --card "$(dirname "$0")/../docs/model-card-2.md"
