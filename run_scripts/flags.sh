# shellcheck shell=bash
# Sourced by the other scripts: programs refuse a flag that is given twice, so a script passes its
# own value only if the caller gives none.

is_given() { # NAME ARGUMENT...; whether the flag --NAME is among the arguments
  local name=$1 word
  for word in "${@:2}"; do
    [[ $word != "--$name" && $word != "--$name="* && $word != "--no$name" ]] || return 0
  done
  return 1
}
