"""The static gallery of a run: plain files that open from a folder, a web server or a memory stick."""
