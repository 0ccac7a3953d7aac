"""Shows the notebooks on the site: each .ipynb becomes a page, its pictures files beside it. Nothing is run."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

FOLDER = "notebooks"


def on_files(files: Files, config: Any) -> Files:
    """Replaces each notebook by its page; the notebook stays beside it, to be downloaded."""
    for path in sorted((Path(config.docs_dir) / FOLDER).glob("*.ipynb")):
        text, pictures = page_of(path)
        files.append(File.generated(config, f"{FOLDER}/{path.stem}.md", content=text))
        for name, data in pictures.items():
            files.append(File.generated(config, f"{FOLDER}/{name}", content=data))
    return files


def page_of(path: Path) -> tuple[str, dict[str, bytes]]:
    """Returns a notebook as Markdown, and its pictures by file name.

    Args:
        path: of the notebook.
    """
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(re.sub(r"\]\((\w[\w-]*)\.ipynb\)", r"](\1.md)", source))
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            parts += _shown(output, path.stem, pictures)
    parts.insert(1, f"[The notebook]({path.name}) itself has these cells and outputs.")
    return "\n\n".join(parts) + "\n", pictures


def _shown(output: dict[str, Any], stem: str, pictures: dict[str, bytes]) -> list[str]:
    """One output: a picture where there is one, else its text."""
    data = output.get("data", {})
    html = "".join(data.get("text/html", ""))
    if figure := re.match(r'<img [^>]*?src="data:image/(png|jpeg);base64,([^"]+)" alt="([^"]*)"', html):
        name = f"{stem}-{len(pictures)}.{figure[1]}"
        pictures[name] = base64.b64decode(figure[2])
        return [f"![{figure[3] or 'What the cell above shows'}]({name})"]
    text = "".join(output.get("text", "") or data.get("text/plain", "")).rstrip()
    return [f"```text\n{text}\n```"] if text else []
