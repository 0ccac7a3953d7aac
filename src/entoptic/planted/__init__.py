"""Planted truth: networks whose units have causes that are known by construction, scenes that hold the causes, a meter
that reads them off a picture, and a test of which method's pictures tell them."""
