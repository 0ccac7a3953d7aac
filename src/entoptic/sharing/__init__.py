"""Sharing runs: to the Hugging Face hub or a folder, and back."""
