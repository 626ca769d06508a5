"""The one exception for bad user input, which every program reports as one line."""


class UserError(Exception):
    """Input a user can correct: reported as one line, without a traceback, with exit code 2."""

    @classmethod
    def expected(cls, expected: str, received: object, do: str) -> "UserError":
        """Builds the house sentence "Expected X. Received: Y. Do Z."."""
        return cls(f"Expected {expected}. Received: {received}. {do}.")
