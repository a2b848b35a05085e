"""What the models raise where a rule is broken."""


class AlreadyTakenError(Exception):
    """The user name, e-mail address or token name is already in use.

    Attributes:
        field: `"username"`, `"email"` or `"name"`.
    """

    def __init__(self, field: str) -> None:
        super().__init__(f"the {field} is already taken")
        self.field = field


class OutdatedError(Exception):
    """A user was deactivated, or given another password, since the object was read."""


class TooManyError(Exception):
    """A user has reached the limit of access tokens."""
