"""Signals, one for each event of the audit log, for code of your own.

    from app import signals

    @signals.email_changed.connect
    def warn(app, *, user_id, **_):
        ...

app/http/audit.py sends them after the commit of what they report.
"""

from blinker import Namespace

_namespace = Namespace()
named = _namespace.signal  # the signal with the name of an event

log_in = named("log_in")
log_in_failed = named("log_in_failed")
log_in_throttled = named("log_in_throttled")
log_out = named("log_out")
username_changed = named("username_changed")
email_changed = named("email_changed")
email_verified = named("email_verified")
password_reset_requested = named("password_reset_requested")
password_reset = named("password_reset")
password_changed = named("password_changed")
deactivated = named("deactivated")
activated = named("activated")
role_granted = named("role_granted")
role_revoked = named("role_revoked")
token_created = named("token_created")
token_rotated = named("token_rotated")
token_revoked = named("token_revoked")
