"""What a rule of the models says no to."""


class AlreadyTakenError(Exception):
    """Somebody else has this user name or e-mail address.

    Attributes:
        field: `"username"` or `"email"`.
    """

    def __init__(self, field: str) -> None:
        super().__init__(f"the {field} is already taken")
        self.field = field


class OutdatedError(Exception):
    """Since it was read, a user was deactivated, or was given another password."""


class FollowsOneselfError(Exception):
    """Nobody may follow themselves: one's own posts are in one's feed anyway."""
