# shellcheck shell=bash
# Sourced by the other scripts.

# Programs refuse a flag that is given twice, so a script passes its own value only if the caller
# gives none.
is_given() { # NAME ARGUMENT...; whether the flag --NAME is among the arguments
  local name=$1 word
  for word in "${@:2}"; do
    [[ $word != "--$name" && $word != "--$name="* && $word != "--no$name" ]] || return 0
  done
  return 1
}

# A new checkout lacks the folders that env.sh names by default. `project` is the checkout.
require_data() { # VARIABLE
  # shellcheck disable=SC2154
  [[ ${!1} != "$project"/data/* || -e ${!1} ]] || {
    echo "Error: Expected a data set in $1. Received: ${!1}, the default, which does not exist. Set the variable $1, or change its default in env.sh." >&2
    exit 2
  }
}
