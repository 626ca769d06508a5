"""Finds the largest frame budget with which wav2vec 2.0 trains in the memory of a device."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tools.config.command_line import run
from tools.recognition.budget_program import BudgetProgram
from wav2vec2.task import make_objective
from wav2vec2.train import PROGRAM as TRAINING

PROGRAM = BudgetProgram("wav2vec2.find_budget", TRAINING, make_objective)
main = PROGRAM.main

if __name__ == "__main__":
    run(main)
