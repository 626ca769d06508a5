#!/usr/bin/env bash
# Prints the comment at the top of a script and ends the script, if an argument is --help or -h.
# The other scripts of this folder source this file first.
for _argument in "$@"; do
  case $_argument in
    -h | --help)
      sed -n '1d; /^#/!q; s/^# \{0,1\}//p' -- "${BASH_SOURCE[-1]}"
      exit 0
      ;;
  esac
done
unset _argument
