"""The program of `tests.smtp.SMTPServer`: aiosmtpd, by the files in the current folder.

`settings.json` says how it listens; it reads `behaviour.json` before each answer, and appends
each accepted mail to `mails.jsonl` before it says so.
"""

import asyncio
import json
import logging
import ssl
import time
from pathlib import Path

from aiosmtpd.smtp import SMTP, AuthResult

SETTINGS = json.loads(Path("settings.json").read_text())


def behaviour():
    return json.loads(Path("behaviour.json").read_text())


class Session(SMTP):
    """A connection. Each answer is late; some points of it end the connection instead."""

    async def push(self, status):
        drop = {"220": "connect", "354": "data"}.get(status[:3])
        await self.drop_at(drop)
        await asyncio.sleep(behaviour()["delay"])
        await super().push(status)

    async def drop_at(self, point):
        """End the connection if it is to end here."""
        if point and behaviour()["drop"] == point:
            self.transport.abort()
            await asyncio.Event().wait()  # until connection_lost() cancels it


class Handler:
    """What is accepted."""

    def __init__(self, mails):
        self.mails = mails

    async def handle_MAIL(self, server, _session, envelope, address, options):  # noqa: N802  names of aiosmtpd
        await server.drop_at("mail")
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(self, server, _session, envelope, address, options):  # noqa: N802  names of aiosmtpd
        await server.drop_at("rcpt")
        now = behaviour()
        if code := now["refuse"].get(address.lower()) or now["refuse_all"]:
            return f"{code} this recipient is refused"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):  # noqa: N802  names of aiosmtpd
        await server.drop_at("content")
        if code := behaviour()["refuse_content"]:
            return f"{code} this mail is refused"
        mail = {
            "sender": envelope.mail_from,
            "recipients": envelope.rcpt_tos,
            "content": envelope.content.decode("utf-8", "surrogateescape"),
            "time": time.time(),
            "username": session.auth_data.login.decode() if session.auth_data else None,
            "port": session.peer[1],
        }
        self.mails.write(json.dumps(mail).encode() + b"\n")
        await server.drop_at("accepted")
        return "250 OK"


def authenticate(server, session, envelope, mechanism, login):
    known = (SETTINGS["username"].encode(), SETTINGS["password"].encode())
    if mechanism in {"PLAIN", "LOGIN"} and (login.login, login.password) == known:
        return AuthResult(success=True, auth_data=login)
    return AuthResult(success=False, handled=False)


async def main(mails):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain("certificate.pem", "key.pem")
    options = {"hostname": "localhost", "enable_SMTPUTF8": SETTINGS["smtputf8"]}
    if SETTINGS["tls"] == "starttls":
        options |= {"tls_context": tls, "require_starttls": True}
    if SETTINGS["username"]:
        options |= {
            "auth_required": True,
            "auth_require_tls": SETTINGS["tls"] == "starttls",  # it knows of no other TLS
            "authenticator": authenticate,
        }
    server = await asyncio.get_running_loop().create_server(
        lambda: Session(Handler(mails), **options),
        "127.0.0.1",
        SETTINGS["port"],
        ssl=tls if SETTINGS["tls"] == "implicit" else None,
    )
    await server.serve_forever()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    with Path("mails.jsonl").open("ab", buffering=0) as mails:  # a line is one write
        asyncio.run(main(mails))
