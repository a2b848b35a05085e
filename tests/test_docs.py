"""The pages in docs/, taken at their word."""

import re

import pytest

from tests.helpers import ROOT, Server
from tests.sessions import assert_prints_what_it_says, blocks

DOCS = ROOT / "docs"
PAGES = ["logging-in.md", "access-tokens.md", "users.md", "posts.md", "errors.md"]


@pytest.mark.parametrize("page", PAGES)
def test_the_page_prints_what_a_new_server_answers(page, tmp_path):
    session = "".join(blocks((DOCS / page).read_text(), "sh"))
    assert session.count("\n# {") > 5
    with Server(
        DATABASE_URL=f"sqlite:///{tmp_path}/app.db",
        SECRET_KEY="the key of the tests, of no use anywhere else",
        ARGON2_MEMORY_KIB="8",
        ARGON2_TIME_COST="1",
    ) as server:
        assert_prints_what_it_says(session, server.url, tmp_path)


def test_no_link_between_the_pages_leads_nowhere():
    pages = [*ROOT.glob("*.md")] + [
        path for path in DOCS.rglob("*.md") if "node_modules" not in path.parts
    ]
    for page in pages:
        for target in re.findall(r"\]\((?!https?://)(.*?)\)", page.read_text()):
            name, _, heading = target.partition("#")
            file = page.parent / name if name else page
            assert file.exists(), f"{page.name}: {target}"
            if heading:
                slugs = {
                    re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
                    for line in file.read_text().splitlines()
                    if line.startswith("#")
                }
                assert heading in slugs, f"{page.name}: {target}"
