"""edittools: from a crawl of images to a trained image-editing model and its benchmark report."""

__version__ = "0.1.0"
