"""Finds the largest frame budget with which a speech Conformer trains in the memory of a device."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from conformer.task import make_objective
from conformer.train import PROGRAM as TRAINING
from tools.config.command_line import run
from tools.recognition.budget_program import BudgetProgram

PROGRAM = BudgetProgram("conformer.find_budget", TRAINING, make_objective)
main = PROGRAM.main

if __name__ == "__main__":
    run(main)
