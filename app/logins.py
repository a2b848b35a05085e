"""What a user logs in with: their user name, or their e-mail address in its normal form."""

from contextlib import suppress

from email_validator import EmailNotValidError, validate_email


def normal_email(text: str) -> str:
    """The one form of an e-mail address that is stored and looked up.

    Raises:
        EmailNotValidError: of `email_validator`; `text` is no address, or one
            with other than ASCII characters before the @.
    """
    return validate_email(text, check_deliverability=False, allow_smtputf8=False).normalized


def normal_login(text: str) -> str:
    """The form of a login that is looked up: an address in its normal form, else as it is."""
    if "@" in text:
        with suppress(EmailNotValidError):  # an older database may hold others
            return normal_email(text)
    return text
