"""What a client of the tutorial's API relies on."""

from conformance.checks import SkippedError, check, require
from conformance.client import Answer
from conformance.run import Person, Run

MOST_PER_PAGE = 100
NO_ID = 999_999_999


def id_of(person: Person) -> int:
    if person.id is None:
        raise SkippedError("the id of the user is unknown")
    return person.id


def refused(answer: Answer, status: int) -> str:
    """Require an error in JSON with this status; return what was seen."""
    require(answer.status == status, f"{answer}, not {status}")
    require(answer.is_json_error, f'{answer}: no JSON with "error": {answer.text[:60]!r}')
    return str(answer)


@check("registering gets 201, a Location, and the user without the password")
def registering(run: Run) -> str:
    run.require_registration()
    person = run.made_up()
    answer = run.register(person)
    require(answer.status == 201, answer)
    require(answer.field("username") == person.name, f"{answer}: {answer.text[:80]}")
    shown = person.password in answer.text or "password_hash" in answer.text
    require(not shown, f"{answer}: it shows the password, or its hash")
    location = answer.headers.get("Location")
    require(location, f"{answer}, without a Location")
    token = run.log_in(person)
    user = run.connection.ask("GET", run.api.path_of_link(str(location)), token=token)
    require(user.field("username") == person.name, f"{user}, which the Location is")
    return f"{answer}, Location: {location}"


@check("registering without one of the fields gets 400, which names it")
def missing_field(run: Run) -> str:
    run.require_registration()
    for name in ("username", "email", "password"):
        body = run.made_up().json
        del body[name]
        answer = run.connection.ask("POST", "/users", json_body=body)
        refused(answer, 400)
        require(name in answer.text, f"{answer}: {name!r} is not in {answer.text[:80]!r}")
    return "400 for each of three fields"


@check("a user name that is taken gets 400")
def taken_name(run: Run) -> str:
    run.require_registration()
    other = run.made_up()
    other.name = run.alice.name
    return refused(run.register(other), 400)


@check("an e-mail address that is taken gets 400")
def taken_address(run: Run) -> str:
    run.require_registration()
    other = run.made_up()
    other.email = run.alice.email
    return refused(run.register(other), 400)


@check('a log in with HTTP Basic returns {"token": ...}, which opens the API')
def log_in(run: Run) -> str:
    answer = run.ask_for_token(run.alice)
    token = answer.field("token")
    require(answer.status == 200 and isinstance(token, str), f"{answer}, without a token")
    require(run.opens(token), "the token gets 401")
    return str(answer)


@check("a second log in returns the same token while it is live")
def same_token(run: Run) -> str:
    first, second = run.log_in(run.alice), run.log_in(run.alice)
    require(first == second, "it returns another token")
    require(run.opens(first), "the token gets 401")
    return "the same token"


@check("a wrong password and an unknown user get 401, with a challenge")
def wrong_password(run: Run) -> str:
    wrong = Person(run.alice.name, "wrong " + run.alice.password)
    for person in (wrong, run.made_up()):
        answer = run.ask_for_token(person)
        refused(answer, 401)
        require("WWW-Authenticate" in answer.headers, f"{answer}, without WWW-Authenticate")
    return f"{answer}, twice"


@check("a log out gets 204, and the token 401 from then on")
def log_out(run: Run) -> str:
    token = run.log_in(run.alice)
    answer = run.revoke(token)
    require(answer.status == 204 and not answer.body, f"{answer}, not 204 without a body")
    refused(run.connection.ask("GET", "/users", token=token), 401)
    refused(run.revoke(token), 401)
    return str(answer)


@check("GET /users/<id> returns id, username and _links")
def read_user(run: Run) -> str:
    number = id_of(run.bob)
    answer = run.connection.ask("GET", f"/users/{number}", token=run.log_in(run.alice))
    require(answer.status == 200, answer)
    seen = (answer.field("id"), answer.field("username"))
    require(seen == (number, run.bob.name), f"{answer}: id and username are {seen}")
    require(isinstance(answer.field("_links", "self"), str), f"{answer}, without _links.self")
    return str(answer)


@check("GET /users returns a page: items, _meta and _links")
def read_users(run: Run) -> str:
    token = run.log_in(run.alice)
    first = run.connection.ask("GET", "/users?page=1&per_page=1", token=token)
    total = _page(first, page=1, per_page=1)
    require(total > 1, f"{first}: total_items is {total}, and there are two users")
    require(first.field("_links", "prev") is None, f"{first}: page 1 has a link to a former page")
    next_page = first.field("_links", "next")
    require(isinstance(next_page, str), f"{first}, without _links.next")
    second = run.connection.ask("GET", run.api.path_of_link(next_page), token=token)
    _page(second, page=2, per_page=1)
    require(isinstance(second.field("_links", "prev"), str), f"{second}, without _links.prev")
    require(first.field("items") != second.field("items"), "two pages have the same items")
    return f"{total} users"


def _page(answer: Answer, page: int, per_page: int) -> int:
    """Require a page with these numbers; return how many items there are on all pages."""
    require(answer.status == 200, answer)
    items, meta = answer.field("items"), answer.field("_meta")
    require(isinstance(items, list), f"{answer}, without items")
    names = ("page", "per_page", "total_pages", "total_items")
    numbers = [meta.get(name) if isinstance(meta, dict) else None for name in names]
    require(all(isinstance(number, int) for number in numbers), f"{answer}: _meta is {meta}")
    require(numbers[:2] == [page, per_page], f"{answer}: _meta is {meta}")
    require(len(items) <= per_page, f"{answer}: {len(items)} items")
    links = answer.field("_links")
    require(
        isinstance(links, dict) and {"self", "next", "prev"} <= set(links),
        f"{answer}: _links is {links}",
    )
    return int(numbers[3] or 0)


@check("per_page above 100 gives pages of 100, and is no error")
def per_page_is_clamped(run: Run) -> str:
    token = run.log_in(run.alice)
    answer = run.connection.ask("GET", "/users?per_page=1000", token=token)
    _page(answer, page=1, per_page=MOST_PER_PAGE)
    return str(answer)


@check("a page number that is none is no error")
def invalid_page(run: Run) -> str:
    token = run.log_in(run.alice)
    for query in ("page=abc", "page=0", "page=", "per_page=abc", "per_page="):
        answer = run.connection.ask("GET", f"/users?{query}", token=token)
        require(answer.status == 200, answer)
        require(isinstance(answer.field("items"), list), f"{answer}, without items")
    return "200 for each of five"


@check("PUT /users/<id> changes your own user")
def change_own(run: Run) -> str:
    token, text = run.log_in(run.alice), f"checked by {run.id}"
    path = f"/users/{id_of(run.alice)}"
    answer = run.connection.ask("PUT", path, token=token, json_body={"about_me": text})
    require(answer.status == 200, answer)
    now = run.connection.ask("GET", path, token=token)
    require(now.field("about_me") == text, f"about_me is {now.field('about_me')!r} after it")
    require(now.field("username") == run.alice.name, "another field was changed, too")
    return str(answer)


@check("PUT /users/<id> of another user gets 403, and changes nothing")
def change_other(run: Run) -> str:
    token, path = run.log_in(run.alice), f"/users/{id_of(run.bob)}"
    before = run.connection.ask("GET", path, token=token)
    answer = run.connection.ask("PUT", path, token=token, json_body={"about_me": "not I"})
    after = run.connection.ask("GET", path, token=token)
    require(after.field("about_me") == before.field("about_me"), f"{answer}, and it is changed")
    return refused(answer, 403)


@check("the followers of a user are a page, and those whom a user follows")
def followers(run: Run) -> str:
    token, number = run.log_in(run.alice), id_of(run.alice)
    found = []
    for name in ("followers", "following", "followed"):
        answer = run.connection.ask("GET", f"/users/{number}/{name}", token=token)
        if answer.status != 404:
            _page(answer, page=1, per_page=10)
            found.append(name)
    if not found:
        raise SkippedError("there are no such lists")
    return " and ".join(found)


@check("400, 401, 403 and 404 are JSON")
def errors_are_json(run: Run) -> str:
    ask, token = run.connection.ask, run.log_in(run.alice)
    refused(ask("GET", "/users"), 401)
    refused(ask("PUT", f"/users/{id_of(run.bob)}", token=token, json_body={}), 403)
    refused(ask("GET", f"/users/{NO_ID}", token=token), 404)
    refused(ask("GET", "/there-is-nothing-here", token=token), 404)
    headers: dict[str, str | bytes] = {"Content-Type": "application/json"}
    path = f"/users/{id_of(run.alice)}"
    refused(ask("PUT", path, token=token, headers=headers, body=b"{"), 400)
    return "each of five"


@check("a method that an address does not have gets 405, in JSON")
def method_not_allowed(run: Run) -> str:
    token = run.log_in(run.alice)
    for method, path in (("PATCH", "/users"), ("DELETE", "/users"), ("PATCH", "/tokens")):
        answer = run.connection.ask(method, path, token=token)
        refused(answer, 405)
        require("Allow" in answer.headers, f"{answer}, without Allow")
    return "405 for each of three"


@check("an e-mail address is shown to its owner alone")
def address_is_private(run: Run) -> str:
    token, number = run.log_in(run.alice), id_of(run.bob)
    address = run.bob.email or "@"
    pages = [f"/users?page={page}&per_page=100" for page in (1, 2, 3)]
    for path in (f"/users/{number}", *pages):
        answer = run.connection.ask("GET", path, token=token)
        require(address not in answer.text, f"{answer}: it has the address of another user")
        for item in [answer.json, *(answer.field("items") or [])]:
            if isinstance(item, dict) and item.get("username") != run.alice.name:
                require("email" not in item, f"{answer}: it has an email of another user")
    return "not in /users/<id>, not in /users"


@check("a password with an umlaut works as UTF-8")
def utf_8(run: Run) -> str:
    person = run.new_person(f"Grün-{run.made_up().password}")
    answer = run.ask_for_token(person)
    require(answer.status == 200, answer)
    return str(answer)


@check("a password with an umlaut works as Latin-1, which some clients send")
def latin_1(run: Run) -> str:
    person = run.new_person(f"Grün-{run.made_up().password}")
    answer = run.ask_for_token(person, encoding="latin-1")
    require(answer.status == 200, answer)
    return str(answer)
