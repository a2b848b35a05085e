"""What a test does with mails: send those of the outbox into a folder, and read them."""

import email
import re
from email.policy import default

from app.mail.delivery import Folder
from app.mail.sender import Sender


class Mailbox:
    """A folder into which `flask mail send` writes, in place of a mail server."""

    def __init__(self, app, folder):
        self._app = app
        self._folder = folder
        app.extensions["mail"] = Sender(app, Folder(folder))

    def send(self):
        """Send what is due; return the new mails, in the order in which they were sent."""
        before = set(self._files())
        result = self._app.test_cli_runner().invoke(args=["mail", "send"])
        assert result.exit_code == 0, result.output
        new = [file for file in self._files() if file not in before]
        assert result.stdout == f"{len(new)} mail{'s' * (len(new) != 1)} sent\n"
        return [read(file.read_bytes()) for file in new]

    def _files(self):
        return sorted(self._folder.glob("*.eml"), key=lambda file: file.stat().st_mtime_ns)

    def token(self):
        """Send what is due; return the token of the one link."""
        (mail,) = self.send()
        return token_of(mail)


def read(data):
    return email.message_from_bytes(data, policy=default)


def text_of(mail, kind="plain"):
    return mail.get_body((kind,)).get_content().replace("\r\n", "\n")


def link_of(mail):
    (link,) = re.findall(r"^https?://\S+$", text_of(mail), re.MULTILINE)
    return link


def token_of(mail):
    return link_of(mail).partition("#token=")[2]
