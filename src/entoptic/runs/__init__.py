"""Runs: folders of pictures that are resumable, content-addressed and valid Hugging Face imagefolders."""
