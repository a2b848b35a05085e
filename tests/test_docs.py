"""The pages in docs/, taken at their word."""

import re

import pytest

from tests.helpers import ROOT
from tests.sessions import assert_prints_what_it_says, blocks

DOCS = ROOT / "docs"
PAGES = ["logging-in.md", "access-tokens.md", "users.md", "posts.md", "errors.md"]


@pytest.mark.parametrize("page", PAGES)
def test_the_page_prints_what_a_new_server_answers(page, new_server, tmp_path):
    session = "".join(blocks((DOCS / page).read_text(), "sh"))
    assert session.count("\n# {") > 5
    assert_prints_what_it_says(session, new_server.url, tmp_path)


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
