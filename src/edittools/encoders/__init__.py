"""Frozen networks that look at images: embedders, aesthetic predictor, classifier, segmenter, optical flow."""
