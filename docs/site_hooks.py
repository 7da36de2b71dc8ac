"""A hook of MkDocs: links that leave the folder docs/ have no page on the site.

On the site such a link becomes the name of the file in the repository; in the repository it stays a
link.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

_LINK = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[^)#\s]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page's text with those links replaced."""
    folder = posixpath.dirname(page.file.src_uri)

    def replace(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", folder, link[2]))
        if target.startswith("docs/"):
            return link[0]
        return link[1] if f"`{target}`" in link[1] else f"{link[1]} (`{target}` in the repository)"

    return _LINK.sub(replace, markdown)
