"""What the models raise where a rule is broken."""


class AlreadyTakenError(Exception):
    """The user name, e-mail address or token name is already in use, or reserved.

    Attributes:
        field: `"username"`, `"email"` or `"name"`.
    """

    def __init__(self, field: str) -> None:
        super().__init__(f"the {field} is already taken")
        self.field = field


class OutdatedError(Exception):
    """A user was deactivated, or given another password, since the object was read."""


class TooManyError(Exception):
    """A user has as many access tokens, or roles, as are allowed."""


class OverlapError(Exception):
    """The previous text of an access token still works: another overlap must wait.

    Attributes:
        seconds_left: until that text expires.
    """

    def __init__(self, seconds_left: int) -> None:
        super().__init__(f"the previous text still works for {seconds_left} s")
        self.seconds_left = seconds_left
