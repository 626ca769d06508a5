"""The exception for bad user input. Programs print it as one line."""

_MOST = 300  # characters of an error of a runtime


class UserError(Exception):
    """Bad input that the user can correct.

    Programs print its message as one line without a traceback, and end with exit code 2.
    """

    @classmethod
    def expected(cls, expected: str, received: object, do: str) -> "UserError":
        """Builds an error with the message "Expected X. Received: Y. Do Z.".

        Args:
            expected: what the program needs, such as "a folder as --output_dir".
            received: what the user gave; formatted with `str`.
            do: what the user can do, with a capital letter and without a period.
        """
        return cls(f"Expected {expected}. Received: {received}. {do}.")

    @classmethod
    def at_run(cls, reason: object) -> "UserError":
        """Builds an error for inputs that fit a model and on which its runtime fails.

        Args:
            reason: error of the runtime.
        """
        text = " ".join(str(reason).split())
        return cls.expected("inputs on which the model can run", text[:_MOST], "Correct them")
