"""How Sphinx builds these documents; ``tox -e docs`` does, with warnings as errors.

Nothing is fetched, neither when they are built nor when they are read.
"""
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

with open(os.path.join(ROOT, "asgi_ipc", "__init__.py"), encoding="utf-8") as stream:
    found = re.search(r'^__version__ = "([^"]+)"$', stream.read(), re.MULTILINE)
release = version = found.group(1)

project = "asgi_ipc"
author = "the asgi_ipc developers"
copyright = author  # noqa: A001 (Sphinx's name)
language = "en"

extensions = ["sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["_build"]
nitpicky = True
# Types of other projects, to whose documents nothing links from here.
nitpick_ignore_regex = [
    ("py:class", r"(channels|re|typing|twisted|collections)\..*"),
    ("py:class", r"(optional|Message|Pattern|Capacities|BaseChannelLayer)"),
]

autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True

html_theme = "furo"
html_title = "asgi_ipc {0}".format(release)
html_static_path = []
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
highlight_language = "none"
pygments_style = "default"

# A prompt is not copied, and neither is what a command prints.
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True
