"""HTML pages: the report, answers and a preview of training rows; each one self-contained file."""
