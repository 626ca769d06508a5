"""Strict YAML configuration and command lines of programs."""
