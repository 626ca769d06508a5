#!/usr/bin/env bash
# Unpacks the official archives of ILSVRC2012 into an ImageFolder, train/WNID and val/WNID:
#   bash prepare_imagenet.sh ARCHIVES [TARGET]
#   ARCHIVES  folder that contains ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and
#             ILSVRC2012_devkit_t12.tar.gz, which lists the classes of the validation images
#   TARGET    new folder to write (default: IMAGENET_DIR)
# Environment variables, for parts of the data set: NUM_CLASSES (default 1000) and
# IMAGES_PER_VAL_CLASS (default 50; 0: do not check).
# If the script fails, TARGET is not created.
set -euo pipefail
# shellcheck source=help.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/help.sh"
project=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=../env.sh
source "$project/env.sh"

fail() {
  echo "Error: $*" >&2
  exit 2
}
(($# == 1 || $# == 2)) || fail "Expected ARCHIVES [TARGET]. Received: $*."
archives=$1 target=${2:-$IMAGENET_DIR}
num_classes=${NUM_CLASSES:-1000} per_class=${IMAGES_PER_VAL_CLASS:-50}
for number in "$num_classes" "$per_class"; do
  [[ $number =~ ^(0|[1-9][0-9]*)$ ]] ||
    fail "Expected whole numbers as NUM_CLASSES and IMAGES_PER_VAL_CLASS. Received: $number. Correct the number."
done
train=$archives/ILSVRC2012_img_train.tar
val=$archives/ILSVRC2012_img_val.tar
devkit=$archives/ILSVRC2012_devkit_t12.tar.gz
for archive in "$train" "$val" "$devkit"; do
  [[ -r $archive ]] || fail "Expected the archive $archive. Received: no such file. Download it from image-net.org."
done
if [[ -e $target ]] && { [[ ! -d $target ]] || [[ -n $(ls -A -- "$target") ]]; }; then
  fail "Expected a new folder. Received: $target, which is not empty. Give another folder."
fi

parent=$(dirname -- "$target")
mkdir -p -- "$parent"
for left in "$parent"/.imagenet.*.unfinished; do # of killed runs: no process holds the lock
  [[ -d $left && -n $(find "$left" -maxdepth 0 -mmin +60) ]] || continue
  if flock --nonblock -- "$left" true 2> /dev/null; then rm -rf -- "$left"; fi
done
beside=$(mktemp -d -- "$parent/.imagenet.XXXXXX.unfinished")
trap 'rm -rf -- "$beside"' EXIT
exec {lock}< "$beside"
flock --nonblock "$lock" 2> /dev/null || true # some file systems do not support locks
mkdir "$beside/train" "$beside/val" "$beside/work"
count() { find "$1" -mindepth 1 -maxdepth 1 "${@:2}" | wc -l; }

echo "training images: $train" >&2
tar -xf "$train" -C "$beside/work" || fail "Expected a complete archive. Received: $train. Download it again."
for archive in "$beside"/work/*.tar; do
  [[ -e $archive ]] || fail "Expected an archive for each class in $train. Received: none."
  class=$(basename -- "$archive" .tar)
  mkdir "$beside/train/$class"
  tar -xf "$archive" -C "$beside/train/$class" || fail "Expected a complete archive of $class in $train."
  rm -- "$archive" # to free the space
done
found=$(count "$beside/train" -type d)
((found == num_classes)) || fail "Expected $num_classes classes in $train. Received: $found."

echo "validation images: $val" >&2
tar -xf "$val" -C "$beside/work" || fail "Expected a complete archive. Received: $val. Download it again."
tar -xzf "$devkit" -C "$beside" || fail "Expected a complete archive. Received: $devkit. Download it again."
python - "$beside" << 'EOF' || exit 2
# A MATLAB file contains the names of the classes, a text file the class numbers of the validation
# images.
import sys
from pathlib import Path

from scipy.io import loadmat

root = Path(sys.argv[1])
kit = next(root.glob("ILSVRC2012_devkit_t12/data"), None)
if kit is None:
    sys.exit("Error: Expected ILSVRC2012_devkit_t12/data in the devkit. Received: other files.")
synsets = loadmat(kit / "meta.mat", squeeze_me=True)["synsets"]
wnids = {int(x["ILSVRC2012_ID"]): str(x["WNID"]) for x in synsets}
numbers = (kit / "ILSVRC2012_validation_ground_truth.txt").read_text().split()
images = sorted((root / "work").glob("ILSVRC2012_val_*.JPEG"))
if len(images) != len(numbers):
    sys.exit(f"Error: Expected {len(numbers)} validation images. Received: {len(images)}.")
for image, number in zip(images, numbers, strict=True):
    folder = root / "val" / wnids[int(number)]
    folder.mkdir(exist_ok=True)
    image.rename(folder / image.name)
EOF
diff <(ls "$beside/train") <(ls "$beside/val") > /dev/null ||
  fail "Expected the same classes in train and val. Received: different classes."
if ((per_class)); then
  for class in "$beside"/val/*; do
    found=$(count "$class" -type f)
    ((found == per_class)) || fail "Expected $per_class images in val/$(basename -- "$class"). Received: $found."
  done
fi
rm -rf -- "$beside/work" "$beside/ILSVRC2012_devkit_t12"
chmod 755 "$beside"
if [[ -d $target ]]; then rmdir -- "$target"; fi
mv -T -- "$beside" "$target"
trap - EXIT
echo "$target: $num_classes classes" >&2
