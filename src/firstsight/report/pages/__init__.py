"""The HTML pages: report.html, answers.html and preview.html. Import the module of the page that you need."""
