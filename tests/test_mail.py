"""Mail: what is sent, to whom, how it is written, and the outbox."""

import os
import re
import shutil
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path

import pytest
import sqlalchemy as sa
from jinja2 import FileSystemLoader

from app import create_app, db
from app.mail import messages
from app.mail.delivery import MOST_FILES, Folder, RefusedError, UnavailableError
from app.mail.outbox import put_mail, put_notice, put_verification
from app.mail.sender import Sender
from app.models import OutgoingMail, User
from app.models.outgoing_mail import CLAIM_SECONDS
from app.security import passwords
from tests.helpers import PASSWORD, at_once, basic, bearer, json_of, later, until
from tests.mails import link_of, text_of

NEW = "battery staple"
PASSWORD_TOLD = "Your password for Microblog API was changed"
LOG_IN_TOLD = "A log in to Microblog API from a new address"
TOKEN_TOLD = "A new access token for Microblog API"


@pytest.fixture
def flask(app):
    """Return a function that runs a command and returns its standard output."""

    def flask(*arguments, status=0):
        result = app.test_cli_runner().invoke(args=["mail", *arguments])
        assert result.exit_code == status, result.output
        return result.stdout if status == 0 else result.stderr

    return flask


@pytest.fixture
def outbox(app):
    """Return a function that reads the mails that are not sent."""

    def outbox():
        with app.app_context():
            return OutgoingMail.all()

    return outbox


class Failing:
    """A delivery that fails.

    Attributes:
        errors: the errors to come; then it takes the mails.
        taken: the mails.
    """

    def __init__(self, *errors):
        self.errors = list(errors)
        self.taken = []

    def send(self, message):
        if self.errors:
            raise self.errors.pop(0)
        self.taken.append(message)

    def close(self):
        pass


@pytest.fixture
def failing(app):
    """Return a function that has the mails fail with these errors, and then sent."""
    former = app.extensions["mail"]

    def failing(*errors):
        delivery = Failing(*errors)
        app.extensions["mail"] = Sender(app, delivery)
        return delivery

    yield failing
    app.extensions["mail"] = former


# -- A word when something happens -----------------------------------------------------


def subjects(mails):
    return [mail["Subject"] for mail in mails]


@pytest.fixture
def change_password(client, alice):
    def change_password(old=PASSWORD, new=NEW):
        body = {"current_password": old, "new_password": new}
        path = f"/api/users/{alice}/password"
        assert client.put(path, json=body, headers=basic("alice", old)).status_code == 204

    return change_password


def test_a_changed_password_is_told_with_time_source_and_what_to_do(mailbox, change_password):
    mailbox.send()
    change_password()
    (mail,) = mailbox.send()
    assert (mail["To"], mail["Subject"]) == ("alice@example.com", PASSWORD_TOLD)
    text = text_of(mail).replace("\n", " ")
    assert "from the address 127.0.0.1" in text
    (told,) = re.findall(r"on (\d{4}-\d\d-\d\d \d\d:\d\d) UTC", text)
    time = datetime.strptime(told, "%Y-%m-%d %H:%M").replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - time) < timedelta(minutes=2)
    assert link_of(mail) == "http://127.0.0.1:5000/reset"


def test_a_password_that_the_operator_has_set_is_told(app, alice, mailbox):
    mailbox.send()
    command = ["users", "password", "alice"]
    app.test_cli_runner().invoke(args=command, input=f"{NEW}\n", catch_exceptions=False)
    (mail,) = mailbox.send()
    assert mail["Subject"] == PASSWORD_TOLD
    assert "from the address" not in text_of(mail)


def test_a_user_whom_the_operator_has_made_gets_a_link(app, mailbox):
    command = ["users", "create", "alice", "alice@example.com"]
    app.test_cli_runner().invoke(args=command, input=f"{NEW}\n", catch_exceptions=False)
    assert mailbox.token()


def test_a_new_access_token_is_told_with_its_name_and_scope(client, verified, mailbox):
    body = {"name": "backup <b>", "scope": "read"}
    assert client.post("/api/access-tokens", json=body, headers=basic("alice")).status_code == 201
    (mail,) = mailbox.send()
    assert mail["Subject"] == TOKEN_TOLD
    assert "“backup <b>”" in text_of(mail)
    assert "scope is read," in text_of(mail)
    assert "from the address 127.0.0.1" in text_of(mail).replace("\n", " ")
    assert "backup &lt;b&gt;" in text_of(mail, "html")


def test_a_token_that_the_operator_has_made_is_told(app, alice, mailbox):
    mailbox.send()
    command = ["tokens", "create", "alice", "backup", "--scope", "read"]
    app.test_cli_runner().invoke(args=command, catch_exceptions=False)
    assert subjects(mailbox.send()) == [TOKEN_TOLD]


def test_the_first_log_in_from_an_unknown_source_is_told_and_no_other(client, alice, bob, mailbox):
    client.post("/api/tokens", headers=basic("bob"))  # whose sources are not Alice's
    mailbox.send()

    def log_in(address):
        origin = {"REMOTE_ADDR": address}
        answer = client.post("/api/tokens", headers=basic("alice"), environ_base=origin)
        assert answer.status_code == 200

    log_in("192.0.2.1")
    assert mailbox.send() == []  # the first log in at all
    log_in("192.0.2.1")
    assert mailbox.send() == []
    log_in("198.51.100.2")
    (mail,) = mailbox.send()
    assert mail["Subject"] == LOG_IN_TOLD
    assert "from the address 198.51.100.2" in text_of(mail).replace("\n", " ")
    log_in("198.51.100.2")
    assert mailbox.send() == []
    with later(days=32):
        log_in("198.51.100.2")
        assert subjects(mailbox.send()) == [LOG_IN_TOLD]


def test_a_log_in_of_somebody_else_does_not_make_a_new_source_the_first(
    client, alice, bob, mailbox
):
    client.post("/api/tokens", headers=basic("alice"))
    mailbox.send()
    with later(days=40):  # Alice's source has expired
        client.post("/api/tokens", headers=basic("bob"))
        origin = {"REMOTE_ADDR": "198.51.100.2"}
        client.post("/api/tokens", headers=basic("alice"), environ_base=origin)
        assert subjects(mailbox.send()) == [LOG_IN_TOLD]


def test_log_ins_at_once_from_one_new_source_are_told_once(app, client, alice, mailbox):
    client.post("/api/tokens", headers=basic("alice"))
    mailbox.send()

    def log_in(_):
        origin = {"REMOTE_ADDR": "198.51.100.2"}
        answer = app.test_client().post("/api/tokens", headers=basic("alice"), environ_base=origin)
        return answer.status_code

    assert at_once(4, log_in) == [200] * 4
    assert subjects(mailbox.send()) == [LOG_IN_TOLD]


def test_nobody_else_is_told_the_words_of_a_user_whose_present_address_is_verified(
    app, client, register, mailbox
):
    id = register("mallory", email="stranger@example.net")
    body = {"name": "You have won", "scope": "read"}
    client.post("/api/access-tokens", json=body, headers=basic("mallory"))
    # Before the mail is sent, the address is another one, and verified.
    body = {"email": "mallory@example.com"}
    assert client.put(f"/api/users/{id}", json=body, headers=basic("mallory")).status_code == 200
    app.test_cli_runner().invoke(args=["users", "verify", "mallory"], catch_exceptions=False)
    (told,) = (mail for mail in mailbox.send() if mail["Subject"] == TOKEN_TOLD)
    assert told["To"] == "stranger@example.net"
    assert "You have won" not in text_of(told)


def test_a_setting_switches_the_notices(app, client, alice, mailbox, change_password):
    app.config["NOTICES"] = ("token_created",)
    mailbox.send()
    body = {"name": "script", "scope": "read"}
    client.post("/api/access-tokens", json=body, headers=basic("alice"))
    change_password()
    assert subjects(mailbox.send()) == [TOKEN_TOLD]
    app.config["NOTICES"] = ()
    client.post("/api/access-tokens", json=body, headers=basic("alice", NEW))
    assert mailbox.send() == []


def test_nobody_fills_a_mailbox_with_notices(app, client, alice, mailbox):
    app.config["MAIL_LIMIT_PER_RECIPIENT"] = "3 per hour"
    mailbox.send()
    for number in range(5):
        body = {"name": f"script {number}", "scope": "read"}
        response = client.post("/api/access-tokens", json=body, headers=basic("alice"))
        assert response.status_code == 201
    assert len(mailbox.send()) == 3


# -- How a mail is written -------------------------------------------------------------


def test_a_mail_has_text_and_html_with_the_same_words(alice, mailbox):
    (mail,) = mailbox.send()
    assert mail.get_content_type() == "multipart/alternative"
    html = text_of(mail, "html")
    assert f'href="{link_of(mail)}"' in html
    words = " ".join(re.sub(r"<[^>]+>", " ", html.partition("<body")[2].partition(">")[2]).split())
    assert words == " ".join(["Microblog API", *text_of(mail).split()])
    assert all(len(line) <= 72 or line.startswith("http") for line in text_of(mail).splitlines())


def test_the_headers_are_those_of_a_machine_that_needs_no_answer(alice, mailbox):
    (mail,) = mailbox.send()
    assert mail["From"] == "Microblog API <no-reply@localhost>"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert re.fullmatch(r"<[0-9a-f]{32}@localhost>", mail["Message-ID"])
    assert abs(datetime.now(UTC) - mail["Date"].datetime) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("sender", "site", "shown"),
    [
        (None, "https://api.example.com/v1", "Microblog API <no-reply@api.example.com>"),
        (None, "http://10.0.0.1", "Microblog API <no-reply@localhost>"),
        ("mail@example.com", "https://x.example", "Microblog API <mail@example.com>"),
        (
            "Wonderland <a@bücher.example>",
            "https://x.example",
            "Wonderland <a@xn--bcher-kva.example>",
        ),
    ],
)
def test_settings_name_the_sender_and_the_site(app, alice, mailbox, sender, site, shown):
    app.config |= {"MAIL_SENDER": sender, "SITE_URL": site}
    (mail,) = mailbox.send()
    assert mail["From"] == shown
    assert link_of(mail).startswith(f"{site}/verify#token=")


def test_a_setting_sends_people_to_a_page_of_your_own(app, client, alice, mailbox):
    app.config |= {"RESET_URL": "https://app.example/new-password", "VERIFY_URL": "https://a.b/c"}
    client.post("/api/tokens/reset", json={"login": "alice"})
    links = [link_of(mail).partition("#token=")[0] for mail in mailbox.send()]
    assert links == ["https://a.b/c", "https://app.example/new-password"]


def test_the_site_is_never_that_of_the_host_header(client, alice, mailbox):
    mailbox.send()
    hostile = {"Host": "evil.example", "X-Forwarded-Host": "evil.example"}
    client.post("/api/tokens/reset", json={"login": "alice"}, headers=hostile)
    (mail,) = mailbox.send()
    assert "evil" not in str(mail)


def test_an_address_with_other_letters_is_sent_as_the_dns_has_it(register, mailbox):
    register("alice", email="alice@bücher.example")
    (mail,) = mailbox.send()
    assert mail["To"] == "alice@xn--bcher-kva.example"


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("email", "a@example.com\r\nBcc: victim@example.com"),
        ("email", "a@example.com, victim@example.com"),
        ("email", "not an address"),
        ("username", "Alice\r\nBcc: victim@example.com\r\n\r\nPay me"),
    ],
)
def test_names_and_addresses_of_an_imported_database_cannot_inject_headers(
    app, client, verified, mailbox, column, text
):
    with app.app_context():
        both = {"email": text, "verified_email": text} if column == "email" else {column: text}
        db.session.execute(sa.update(User).values(both))
        db.session.commit()
    login = "alice@example.com" if column == "username" else "alice"
    response = client.post("/api/tokens/reset", json={"login": login})
    assert response.status_code == 202
    mails = mailbox.send()
    assert len(mails) == (column == "username")
    for mail in mails:
        assert (mail["Bcc"], mail["To"]) == (None, "alice@example.com")
        assert "account Alice Bcc: victim@example.com Pay me." in " ".join(text_of(mail).split())


def test_a_template_that_is_wrong_loses_no_mail(alice, mailbox, outbox, monkeypatch, caplog):
    sent = mailbox.send
    monkeypatch.setattr("app.mail.messages._TEMPLATES.get_template", lambda _: 1 / 0)
    assert sent() == []
    (mail,) = outbox()
    assert mail.error == "division by zero"
    assert "cannot be written" in caplog.text
    monkeypatch.undo()
    with later(seconds=11):
        assert len(sent()) == 1


def test_a_mail_of_your_own_is_a_template_and_a_call(app, alice, mailbox, monkeypatch, tmp_path):
    mailbox.send()
    (tmp_path / "invited.txt").write_text(
        "{{ inviter }} has invited you\n\nCome, {{ username }}!\n"
    )
    layout = Path(messages.__file__).with_name("templates") / "layout.html"
    shutil.copy(layout, tmp_path)
    monkeypatch.setattr(messages._TEMPLATES, "loader", FileSystemLoader(tmp_path))  # noqa: SLF001  no other way in
    with app.app_context():
        put_mail("invited", db.session.get(User, alice), inviter="Bob")
        db.session.commit()
    (mail,) = mailbox.send()
    assert (mail["To"], mail["Subject"]) == ("alice@example.com", "Bob has invited you")
    assert text_of(mail) == "Come, alice!\n"


# -- The outbox ------------------------------------------------------------------------


def test_a_mail_that_was_sent_is_gone(alice, mailbox, outbox):
    assert len(outbox()) == 1
    assert len(mailbox.send()) == 1
    assert outbox() == []
    assert mailbox.send() == []


def test_a_refused_mail_is_tried_again_with_growing_pauses_and_the_same_id(
    alice, failing, flask, outbox
):
    (mail,) = outbox()
    delivery = failing(*[RefusedError("450 try again later")] * 4)
    after = 0
    for pause in (10, 20, 40, 80):
        with later(seconds=after):
            assert flask("send") == "0 mails sent\n"
            assert flask("send") == "0 mails sent\n"  # it is not due
            (waiting,) = outbox()
            assert waiting.error == "450 try again later"
            assert abs((waiting.due - datetime.now(UTC)).total_seconds() - pause) < 2
        after += pause + 1
    with later(seconds=after):
        assert flask("send") == "1 mail sent\n"
    (message,) = delivery.taken
    assert message["Message-ID"] == f"<{mail.message_id}@localhost>"
    assert outbox() == []


def test_a_mail_is_given_up_after_a_day_and_can_be_tried_again(
    alice, failing, flask, outbox, caplog
):
    delivery = failing(RefusedError("550 no such user alice@example.com"))
    with later(hours=24, seconds=1):
        flask("send")
        assert outbox()[0].due is None
        (line,) = [r.getMessage() for r in caplog.records if r.name == "microblog_api.mail"]
        assert re.fullmatch(r"mail \d+ \(verification\) is given up; attempts: 1", line)
        listed = flask("list").rstrip("\n").split("\t")
        assert listed[1:4] == ["verification", str(alice), "alice@example.com"]
        assert listed[5:] == ["1", "given up", "550 no such user alice@example.com"]
        assert flask("send") == "0 mails sent\n"
        assert flask("retry") == "1 mail will be tried again\n"
        assert flask("send") == "1 mail sent\n"
    assert len(delivery.taken) == 1


def test_a_mail_that_was_given_up_is_deleted_a_month_later(alice, register, failing, flask, outbox):
    failing(*[RefusedError("550 no")] * 2)
    with later(days=1, seconds=1):
        flask("send")
    with later(days=40):
        register("bob")
    with later(days=41, seconds=1):
        flask("send")
    assert [mail.details for mail in outbox()] == [{}]
    assert len(outbox()) == 1


def test_one_refused_mail_does_not_hold_up_the_others(alice, register, failing, flask):
    register("bob")
    delivery = failing(RefusedError("550 no"))
    assert flask("send") == "1 mail sent\n"
    assert delivery.taken[0]["To"] == "bob@example.com"


def test_where_the_mail_server_is_away_all_mails_stay_due(alice, register, failing, flask, outbox):
    register("bob")
    delivery = failing(UnavailableError("ConnectionRefusedError: [Errno 111] refused"))
    error = flask("send", status=1)
    assert error == (
        "Error: the mail server cannot be used: ConnectionRefusedError: [Errno 111] refused\n"
    )
    assert [mail.attempts for mail in outbox()] == [0, 0]  # it does not count
    assert flask("send") == "2 mails sent\n"
    assert len(delivery.taken) == 2


def test_a_mail_that_a_dead_sender_has_claimed_is_due_again(app, alice, mailbox):
    with app.app_context():
        assert OutgoingMail.claim() is not None
    assert mailbox.send() == []
    with later(seconds=CLAIM_SECONDS + 1):
        assert len(mailbox.send()) == 1


def test_a_sender_that_takes_long_keeps_its_claim(app, alice):
    with app.app_context():
        mail = OutgoingMail.claim()
        with later(seconds=CLAIM_SECONDS - 1):
            mail.extend_claim()
        with later(seconds=CLAIM_SECONDS + 1):
            assert OutgoingMail.claim() is None


def test_a_sender_that_has_lost_its_claim_changes_nothing(app, alice, outbox):
    with app.app_context():
        slow = OutgoingMail.claim()
        with later(seconds=CLAIM_SECONDS + 1):
            assert OutgoingMail.claim() is not None
            (claimed,) = outbox()
            assert slow.put_back("too late", is_refused=False) is False
            assert slow.extend_claim() is False
    assert outbox()[0].due == claimed.due


def test_the_list_says_whom_a_mail_waits_for(client, alice, flask, mailbox):
    mailbox.send()
    client.post("/api/tokens/reset", json={"login": "nobody\t\n"})
    kind, who, address = flask("list").split("\t")[1:4]
    assert (kind, address) == ("reset", "")
    assert "\\t" in who


def test_nothing_is_sent_to_a_user_who_has_left(alice, leave, mailbox, outbox):
    leave(alice, basic("alice"))
    assert mailbox.send() == []
    assert outbox() == []


def test_no_link_is_sent_for_an_address_that_is_verified_by_now(app, alice, mailbox, outbox):
    app.test_cli_runner().invoke(args=["users", "verify", "alice"])
    assert mailbox.send() == []
    assert outbox() == []


# -- The folder ------------------------------------------------------------------------


def test_a_file_is_for_its_owner_only_and_the_log_says_where_it_is(
    alice, mailbox, tmp_path, caplog
):
    mailbox.send()
    (file,) = (tmp_path / "mail").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert f"MAIL_SERVER is not set: a mail is in {file}" in caplog.text


def test_a_file_is_not_written_through_a_link_in_its_place(tmp_path):
    other = tmp_path / "other"
    other.write_text("not a mail")
    (tmp_path / "20261121T093000-1.part").symlink_to(other)
    message = EmailMessage()
    message["Date"], message["Message-ID"] = datetime(2026, 11, 21, 9, 30, tzinfo=UTC), "<1@x>"
    Folder(tmp_path).send(message)
    assert other.read_text() == "not a mail"
    file = tmp_path / "20261121T093000-1.eml"
    assert not file.is_symlink()
    assert "Message-ID: <1@x>" in file.read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_that_root_writes_belongs_to_the_owner_of_the_folder(alice, mailbox, tmp_path):
    (tmp_path / "mail").mkdir()
    os.chown(tmp_path / "mail", 10001, 10002)
    mailbox.send()
    (file,) = (tmp_path / "mail").iterdir()
    assert (file.stat().st_uid, file.stat().st_gid) == (10001, 10002)


def test_the_oldest_files_are_deleted(alice, mailbox, tmp_path):
    folder = tmp_path / "mail"
    folder.mkdir()
    for number in range(MOST_FILES):
        (folder / f"19990101T000000-{number:04}.eml").touch()
    mailbox.send()
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == MOST_FILES
    assert names[0] == "19990101T000000-0001.eml"


def test_a_folder_that_cannot_be_written_loses_no_mail(
    app, alice, tmp_path, flask, outbox, failing
):
    blocked = tmp_path / "blocked"
    blocked.touch()
    app.extensions["mail"] = Sender(app, Folder(blocked / "mail"))
    assert "Not a directory" in flask("send", status=1)
    assert len(outbox()) == 1


def test_no_token_of_a_link_is_in_a_response(client, alice, mailbox, token):
    for response in (
        client.post("/api/tokens/reset", json={"login": "alice"}),
        client.post(f"/api/users/{alice}/email-verification", headers=bearer(token)),
    ):
        assert response.json == {}


# -- What strangers cannot do ----------------------------------------------------------


def test_what_a_user_has_chosen_stands_only_in_mails_to_a_verified_address(
    client, mailbox, register
):
    id = register("www.evil.example", email="victim@example.com")
    headers = basic("www.evil.example")
    body = {"name": "YOU WON, see https://evil.example/x", "scope": "read"}
    client.post("/api/access-tokens", json=body, headers=headers)
    client.put(f"/api/users/{id}", json={"email": "evil@evil.example"}, headers=headers)
    mails = mailbox.send()
    assert len(mails) == 4 - 1  # the link for an address that is not wanted any more
    for mail in mails:
        assert "evil.example" not in str(mail).replace("To: evil@evil.example", "")


def test_a_value_makes_neither_a_paragraph_nor_a_link(app, alice, mailbox, monkeypatch):
    mailbox.send()
    with app.app_context():
        details = {"time": "now", "source": "x\n\nhttps://evil.example/x\n\n"}
        db.session.add(
            OutgoingMail(
                kind="password_changed",
                user_id=alice,
                recipient="alice@example.com",
                details=details,
            )
        )
        db.session.commit()
    (mail,) = mailbox.send()
    assert 'href="https://evil.example' not in text_of(mail, "html")
    assert "from the address x https://evil.example/x." in text_of(mail).replace("\n", " ")


@pytest.mark.parametrize("empty_line", ["", "  ", "\t", "\r"])
def test_an_empty_line_of_a_template_may_have_blanks(
    alice, mailbox, monkeypatch, tmp_path, empty_line
):
    folder = copied_templates(tmp_path, monkeypatch)
    text = (folder / "verification.txt").read_text()
    changed = "\ufeff\n" + text.replace("\n\n", f"\n{empty_line}\n")
    (folder / "verification.txt").write_text(changed, newline="")
    (mail,) = mailbox.send()
    assert mail["Subject"] == "Confirm your e-mail address for Microblog API"
    assert link_of(mail)


def test_a_template_without_a_subject_is_not_sent(alice, outbox, mailbox, monkeypatch, tmp_path):
    folder = copied_templates(tmp_path, monkeypatch)
    (folder / "verification.txt").write_text("Open {{ link }}\n")
    assert mailbox.send() == []
    assert outbox()[0].error == (
        "verification.txt has no empty line between the subject and the text"
    )


def copied_templates(tmp_path, monkeypatch):
    folder = tmp_path / "templates"
    shutil.copytree(Path(messages.__file__).with_name("templates"), folder)
    monkeypatch.setattr(messages._TEMPLATES, "loader", FileSystemLoader(folder))  # noqa: SLF001  no other way in
    monkeypatch.setattr(messages._TEMPLATES, "cache", None)  # noqa: SLF001  no other way in
    return folder


# -- A sender that lives on ------------------------------------------------------------


def test_a_refusal_after_an_outage_waits_for_10_seconds(alice, failing, flask, outbox):
    failing(*[UnavailableError("away")] * 8, RefusedError("450 later"))
    for _ in range(8):
        flask("send", status=1)
    flask("send")
    (mail,) = outbox()
    assert mail.attempts == 1
    assert abs((mail.due - datetime.now(UTC)).total_seconds() - 10) < 2


def test_an_error_text_that_cannot_be_stored_whole_is_cut(alice, failing, flask, outbox):
    failing(RefusedError("550 no \0 way " + "x" * 1000))
    flask("send")
    assert outbox()[0].error == "550 no  way " + "x" * 488


def test_the_mail_that_has_been_due_for_longest_is_sent_first(alice, register, failing, flask):
    delivery = failing(RefusedError("450 later"))
    flask("send")
    with later(seconds=30):
        register("bob")
        flask("send")
    assert [mail["To"] for mail in delivery.taken] == ["alice@example.com", "bob@example.com"]


def test_only_what_was_given_up_is_tried_again(app, alice, register, failing, flask, outbox):
    failing(*[RefusedError("450 later")] * 3)
    with later(hours=25):
        flask("send")
    register("bob")
    flask("send")
    before = outbox()[1].due
    assert flask("retry") == "1 mail will be tried again\n"
    given_up, waiting = outbox()
    assert (given_up.attempts, waiting.attempts) == (0, 1)
    assert waiting.due == before


def test_the_log_says_once_that_the_mail_server_is_away_and_once_that_it_is_back(
    app, alice, register, failing, caplog
):
    failing(*[UnavailableError("away")] * 3)
    sender = app.extensions["mail"]
    for _ in range(3):
        with pytest.raises(UnavailableError):
            sender.send_due()
    register("bob")
    assert sender.send_due() == 2
    said = [record.getMessage() for record in caplog.records if record.name.endswith(".mail")]
    assert said == ["mail waits in the outbox: away", "mail is sent again"]


def test_the_log_has_no_statement_where_the_database_is_away(app, monkeypatch, caplog):
    def claim():
        gone = ConnectionError("gone")
        raise sa.exc.OperationalError("SELECT due", {}, gone) from gone

    monkeypatch.setattr(OutgoingMail, "claim", claim)
    with pytest.raises(sa.exc.OperationalError):
        app.extensions["mail"].send_due()
    assert [record.getMessage() for record in caplog.records] == ["mail waits in the outbox: gone"]


def test_a_sender_that_finds_no_mail_that_is_due_does_not_say_that_it_is_sent_again(
    app, alice, failing, caplog
):
    failing(UnavailableError("away"))
    sender = app.extensions["mail"]
    with pytest.raises(UnavailableError):
        sender.send_due()
    with app.app_context():  # as if another process had claimed it
        db.session.execute(sa.update(OutgoingMail).values(due=datetime.now(UTC) + timedelta(1)))
        db.session.commit()
    assert sender.send_due() == 0
    assert "mail is sent again" not in caplog.text


def test_a_notice_without_an_address_of_the_client_can_be_read(app, alice, mailbox):
    mailbox.send()
    with app.app_context():
        put_notice(messages.LOG_IN, db.session.get(User, alice), None)
        db.session.commit()
    (mail,) = mailbox.send()
    assert "None" not in text_of(mail)


def test_a_changed_password_is_told_at_the_address_of_that_moment(
    app, client, alice, mailbox, monkeypatch, change_password
):
    mailbox.send()
    hash_password = passwords.hash_password

    def change_first(password):
        with app.app_context():
            update = sa.update(User).where(User.id == alice)
            db.session.execute(update.values(email="new@example.com"))
            db.session.commit()
        return hash_password(password)

    monkeypatch.setattr(passwords, "hash_password", change_first)
    change_password()
    assert [mail["To"] for mail in mailbox.send()] == ["new@example.com"]


def test_a_sender_whose_claim_was_lost_while_the_server_was_slow_leaves_the_mail_alone(
    app, alice, failing, outbox, caplog, monkeypatch
):
    delivery = failing()
    sender = app.extensions["mail"]

    def send(_message):
        with later(seconds=CLAIM_SECONDS + 1), app.app_context():
            assert OutgoingMail.claim() is not None  # by another sender
        monkeypatch.setattr("app.mail.sender.monotonic_now", lambda: float("inf"))
        sender._hold_claim()  # noqa: SLF001  as `smtplib` has it called

    monkeypatch.setattr(delivery, "send", send)
    assert sender.send_due() == 0
    (mail,) = outbox()
    assert mail.error is None
    assert "another sender has taken it over" in caplog.text


def test_a_row_that_cannot_be_read_holds_up_no_other(app, alice, register, mailbox, outbox):
    with app.app_context():
        broken = "'{oops'" if db.engine.dialect.name == "sqlite" else "'[]'"
        db.session.execute(sa.text(f"UPDATE outgoing_mail SET details = {broken}"))
        db.session.commit()
    register("bob")
    sender = app.extensions["mail"]
    with suppress(Exception):
        sender.send_due()
    sender.send_due()
    with app.app_context():
        assert db.session.scalar(sa.select(sa.func.count(OutgoingMail.id))) == 1


@pytest.fixture
def in_thread(app):
    """Return a function that has a sender run in a thread until the end of the test."""
    senders = []

    def in_thread(delivery):
        senders.append(Sender(app, delivery))
        senders[-1].start()
        return senders[-1]

    yield in_thread
    for sender in senders:
        sender.stop()
        sender._thread.join()  # noqa: SLF001  no other way in


def test_a_thread_lives_on_whatever_goes_wrong_and_sends_at_once_when_it_is_woken(
    app, alice, register, failing, in_thread, monkeypatch
):
    claim = OutgoingMail.claim
    errors = [RuntimeError("unexpected"), OverflowError("likewise")]

    def fail():
        if errors:
            raise errors.pop()
        return claim()

    monkeypatch.setattr(OutgoingMail, "claim", staticmethod(fail))
    delivery = Failing()
    sender = in_thread(delivery)
    until(lambda: len(delivery.taken) == 1)
    threads = threading.active_count()
    register("bob")
    monkeypatch.setitem(app.config, "MAIL_SENT_BY", "server")
    monkeypatch.setitem(app.config, "TESTING", False)
    before = time.monotonic()
    with app.app_context():
        sender.wake()
    until(lambda: len(delivery.taken) == 2)
    assert time.monotonic() - before < 3  # and not after POLL_SECONDS
    assert threading.active_count() == threads


@pytest.mark.parametrize("setting", [{"TESTING": True}, {"MAIL_SENT_BY": "command"}])
def test_no_thread_is_started_in_a_test_or_where_a_command_sends(app, client_of, setting):
    before = {thread.name for thread in threading.enumerate()}
    client = client_of(**{"TESTING": False, "MAIL_SENT_BY": "server"} | setting)
    assert client.post("/api/users", json=json_of("bob")).status_code == 201
    assert {thread.name for thread in threading.enumerate()} <= before | {"passwords_0"}


def test_no_thread_shares_the_connection_of_a_database_in_memory(config_class):
    settings = {"SQLALCHEMY_DATABASE_URI": "sqlite://", "TESTING": False}
    settings["MAIL_SENT_BY"] = "server"
    app = create_app(type("InMemory", (config_class,), settings))
    with app.app_context():
        db.create_all()
    for number in range(20):
        response = app.test_client().post("/api/users", json=json_of(f"user{number}"))
        assert response.status_code == 201
    assert not any(thread.name == "mail" for thread in threading.enumerate())


def test_the_attempts_of_a_mail_do_not_use_up_the_limit_of_its_mailbox(
    app, alice, failing, flask, caplog
):
    app.config["MAIL_LIMIT_PER_RECIPIENT"] = "1 per hour"
    errors = [UnavailableError("away")] * 3 + [RefusedError("450 later")] * 3
    delivery = failing(*errors)
    for number in range(len(errors)):
        with later(minutes=number):
            flask("send", status=int(number < 3))
    assert delivery.taken == []
    with later(minutes=10):
        assert flask("send") == "1 mail sent\n"
    with app.app_context():
        put_verification(db.session.get(User, alice))
        db.session.commit()
    with later(minutes=11):
        assert flask("send") == "0 mails sent\n"
    assert "its recipient has had too many" in caplog.text


def test_mails_of_your_own_are_not_limited(app, alice, mailbox, monkeypatch, tmp_path):
    app.config["MAIL_LIMIT_PER_RECIPIENT"] = "1 per hour"
    mailbox.send()
    (copied_templates(tmp_path, monkeypatch) / "hello.txt").write_text("Hello\n\nHello again\n")
    with app.app_context():
        for _ in range(3):
            put_mail("hello", db.session.get(User, alice))
        db.session.commit()
    assert len(mailbox.send()) == 3
