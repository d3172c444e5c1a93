"""A finished answer as HTML: made by one library and cleaned by another, as its words are a stranger's."""

import nh3
from markdown_it import MarkdownIt

from app.errors import InvalidRequestError

# `html` is off in this preset: tags in the text show as text.
_markdown = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
#: No images: loading one would tell its server who reads the answer.
_TAGS = {"p", "br", "hr", "strong", "em", "s", "code", "pre", "blockquote", "ul", "ol", "li", "a"} | {
    *(f"h{level}" for level in range(1, 7)),
    *("table", "thead", "tbody", "tr", "th", "td"),
}


#: Characters: a full answer of 8,000 tokens. The worst ones of so many (nothing but "![") take half a second.
MAX_TEXT = 40_000


def render(text: str) -> str:
    """Markdown to HTML that can run nothing and load nothing. Raises InvalidRequestError."""
    if len(text) > MAX_TEXT:
        raise InvalidRequestError(
            f"Answers up to {MAX_TEXT} characters are shown as HTML, and this one is longer. Read its `text`.",
            param="format",
        )
    return nh3.clean(
        _markdown.render(text),
        tags=_TAGS,
        attributes={"a": {"href"}, "ol": {"start"}},
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
    )
