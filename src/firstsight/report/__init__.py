"""Tables, claims, figures and HTML pages of a study."""
