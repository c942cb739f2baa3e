"""Parts of reports: HTML, thumbnails, plots, digits of numbers."""
