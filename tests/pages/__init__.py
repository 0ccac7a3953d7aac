"""Every block of code and every command of the documentation runs."""
