"""The exception for bad user input. Programs print it as one line."""


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
