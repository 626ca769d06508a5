# shellcheck shell=bash
# Messages, errors and progress of setup.sh, which sources this file.

say() { printf '%s\n' "$*"; }

# Prints an error in the format that all programs of the project use, and exits.
refuse() { # EXPECTED RECEIVED DO
  printf 'Expected %s. Received: %s. %s.\n' "$1" "$2" "$3" >&2
  exit 2
}

on_terminal() { [[ -t 1 && ${CI:-} != true ]]; }

minutes() { printf '%d min %02d s' $(($1 / 60)) $(($1 % 60)); }

percent_done() { # LOG; reads the log of make or pip. Prints nothing if the progress is not known.
  local percent
  percent=$(grep -aoE '^ *\[ *[0-9]+%\]' "$1" | tail -n 1 | tr -dc '0-9') || true
  if [[ -z $percent ]] && grep -qs '^Collecting' "$1"; then
    percent=$((100 * $(grep -c '^Collecting' "$1") / $(grep -c '==' pyproject.toml)))
    if grep -q '^Installing collected' "$1"; then percent=90; fi
  fi
  printf '%s' "$percent"
}

bar() { # PERCENT
  local done=$((($1 > 100 ? 100 : $1) / 5))
  printf '[%.*s%.*s] %3d%%' $done '####################' $((20 - done)) '--------------------' "$1"
}

heartbeat() { # LABEL LOG
  local seconds=0 percent newest
  while sleep 1 >/dev/null 2>&1 && kill -0 $$ 2>/dev/null; do
    seconds=$((seconds + 1))
    on_terminal || ((seconds % 30 == 0)) || continue
    percent=$(percent_done "$2")
    newest=$(grep -aoE '^ *(\[ *[0-9]+%\]|(Collecting|Downloading|Installing) .{1,40})' "$2" |
      tail -n 1 | sed 's/^ *//; /^\[/d') || true
    if on_terminal; then
      printf '\r%s %s %s  %s\033[K' "$1" "${percent:+$(bar "$percent")}" "$(minutes $seconds)" "$newest"
    else
      say "$1: $(minutes $seconds) ${percent:+ $percent%} $newest"
    fi
  done
}

heartbeat_job=
stop_heartbeat() {
  [[ -n $heartbeat_job ]] || return 0
  kill "$heartbeat_job" 2>/dev/null || true
  wait "$heartbeat_job" 2>/dev/null || true
  heartbeat_job=
  ! on_terminal || printf '\r\033[K'
}

# Runs a command in the foreground, so that Ctrl-C stops it, and writes its output to a log.
long() { # LABEL LOG COMMAND...
  local label=$1 log=$2 status=0 started=$SECONDS
  shift 2
  : >"$log"
  heartbeat "$label" "$log" 9>&- &
  heartbeat_job=$!
  "$@" >"$log" 2>&1 </dev/null || status=$?
  stop_heartbeat
  if ((status != 0)); then
    tail -n 20 "$log" >&2
    printf '%s: failed after %s, exit code %d; complete log: %s\n' \
      "$label" "$(minutes $((SECONDS - started)))" "$status" "$log" >&2
    exit 1
  fi
  say "$label: done in $(minutes $((SECONDS - started)))"
}
