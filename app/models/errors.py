"""What a rule of the models says no to."""


class AlreadyTakenError(Exception):
    """Another user has this user name or e-mail address, or another token this name.

    Attributes:
        field: `"username"`, `"email"` or `"name"`.
    """

    def __init__(self, field: str) -> None:
        super().__init__(f"the {field} is already taken")
        self.field = field


class OutdatedError(Exception):
    """Since it was read, a user was deactivated, or was given another password."""


class TooManyError(Exception):
    """A user has as many access tokens as they may."""


class FollowsOneselfError(Exception):
    """Nobody may follow themselves: one's own posts are in one's feed anyway."""
