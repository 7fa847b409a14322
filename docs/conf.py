"""How the pages are built: `make docs`, warnings as errors."""

from firstsight import __version__

project = "firstsight"
author = "the firstsight authors"
copyright = "2026, the firstsight authors"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build", "gallery.md"]  # the landing page includes gallery.md
html_theme = "furo"
html_title = "firstsight"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_copy_source = False
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "undoc-members": False, "exclude-members": "__init__, __new__"}
python_use_unqualified_type_names = True
pygments_style = "default"
# `make linkcheck`: anchors that scripts make are not looked for.
linkcheck_anchors = False
linkcheck_timeout = 30
linkcheck_retries = 2
