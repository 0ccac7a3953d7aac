"""Takes paths of this machine out of records: files keep their names, folders go.

What a record says in the places that hold paths (photos, indexes, priors, inverters, units with a file) is known, so it is
found again in sentences and commands, also where it is relative or holds spaces. Any other absolute path is found by its form.
"""

from __future__ import annotations

import re
import shlex
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from entoptic.errors import UserError
from entoptic.units.grammar import Address, parse

SOURCES = ("file:", "photos:", "hf:")
"""Prefixes behind which a path may stand."""
_PART = r"[^\s/\\:'\"<>|()\[\],;#?*]"
_ABSOLUTE = re.compile(rf"(?<![\w/\\.~-])(?:~[\w.-]*|[A-Za-z]:)?[/\\](?![/\\\s]){_PART}*(?:[/\\]{_PART}+)*[/\\]?")
_SENTENCES = frozenset({"text", "reason", "notes", "note", "command", "failures"})
_LEAST = 4  # letters of a machine's name that is looked for in sentences


def name_of(path: str) -> str:
    """Returns the last part of a path of any system, "" where it has none.

    Args:
        path: absolute or relative, with slashes of either kind.
    """
    plain = path.rstrip("/\\")
    return PureWindowsPath(plain).name if "\\" in plain else PurePosixPath(plain).name


@dataclass
class Scrubber:
    """Replaces paths in texts and records.

    Attributes:
        known: what stands in place of texts that are known to be paths, or units with a path.
        folders: absolute paths of folders whose form alone does not say where they end, for they hold spaces, say.
    """

    known: dict[str, str] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    _pattern: re.Pattern[str] | None = field(default=None, repr=False)

    def learn(self, record: Mapping[str, Any]) -> None:
        """Takes note of the paths in a record, which are then found in any other.

        Args:
            record: a sidecar, a frontier's or a context's record, or `run.json`.
        """
        for path, name in _paths(record):
            if path and path != name and name:
                self.known.setdefault(path, name)
            self.learn_folder(path)
        self._pattern = None
        unit = record.get("unit")
        if isinstance(unit, str) and (plain := self.unit(unit)) != unit:
            self.known.setdefault(unit, plain)

    def learn_folder(self, path: str | Path) -> None:
        """Takes note of a folder and of those that it lies in.

        Args:
            path: of the folder; a relative one says nothing.
        """
        there = Path(path)
        for folder in (there, *there.parents) if there.is_absolute() else ():
            if not _ABSOLUTE.fullmatch(str(folder)) and folder.name:
                self.folders.add(str(folder))
        self._pattern = None

    def unit(self, text: str) -> str:
        """Returns a unit's string without the folders of its file.

        Args:
            text: in the unit grammar; anything else is a text.
        """
        try:
            address = parse(text)
        except UserError:
            return self.text(text)
        plain = self._plain(address)
        return text if plain == address else str(plain)

    def _plain(self, address: Address) -> Address:
        """An address without the folders of its file, or of its parts' files."""
        if address.terms:
            return replace(address, terms=tuple((weight, self._plain(part)) for weight, part in address.terms))
        return replace(address, path=self.known.get(address.path, name_of(address.path))) if address.path else address

    def text(self, text: str) -> str:
        """Returns a text without folders.

        Args:
            text: a sentence, a name or a path.
        """
        if text in self.known:
            return self.known[text]
        if self._pattern is None:
            longest = sorted({*self.known, *self.folders}, key=len, reverse=True)
            alternatives = "|".join(re.escape(one) for one in longest if len(one) > 2) or r"(?!)"
            self._pattern = re.compile(rf"(?<![\w/\\.-])(?:{alternatives})(?!\w)(?:[/\\]{_PART}+)*")
        found = self._pattern.sub(lambda match: self.known.get(match[0]) or name_of(match[0]), text)
        return _ABSOLUTE.sub(lambda match: name_of(match[0]) or match[0], found)

    def command(self, text: str) -> str:
        """Returns a command without folders; a word with spaces is taken as a whole.

        Args:
            text: as a shell reads it.
        """
        try:
            words = shlex.split(text)
        except ValueError:
            return self.text(text)
        return shlex.join(self._word(word) for word in words)

    def _word(self, word: str) -> str:
        if word in self.known:
            return self.known[word]
        prefix = next((one for one in SOURCES if word.startswith(one)), "")
        rest = word.removeprefix(prefix)
        if rest in self.known:
            return prefix + self.known[rest]
        if re.match(r"(?:~[\w.-]*|[A-Za-z]:)?[/\\]", rest) and (name := name_of(rest)):
            return prefix + name
        return self.unit(word)

    def record(self, value: Any, where: str = "") -> Any:
        """Returns a JSON value without folders, in its names too.

        Args:
            value: any JSON value.
            where: name of the entry that it stands under.
        """
        if isinstance(value, Mapping):
            return {self.text(str(name)): self.record(entry, str(name)) for name, entry in value.items()}
        if isinstance(value, list):
            return [self.record(entry, where) for entry in value]
        if not isinstance(value, str):
            return value
        if where in ("unit", "noise_of"):
            return self.unit(value)
        if where == "unread":  # names of photos that are not there
            return value.partition(":")[0]
        found = self.command(value) if where == "command" else self.text(value)
        host = socket.gethostname()
        if where in _SENTENCES and len(host) >= _LEAST and host != "localhost":
            found = re.sub(rf"(?<!\w){re.escape(host)}(?!\w)", "HOST", found)
        return found


def _paths(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The paths that a record names where paths belong, each with the name that takes its place."""
    config = _map(record.get("config"))
    photos = [
        (record.get("photo"), "path"),
        (record.get("photo"), "name"),
        (config, "mix"),
        (config, "paste"),
        (config, "photo"),
    ]
    for entry, name in photos:
        path = _map(entry).get(name)
        sha256 = _map(entry).get("sha256" if name in ("path", "name") else f"{name}_sha256")
        if isinstance(path, str):
            yield path, _photo_name(path, sha256)
    entries = [record, _map(record.get("photos")), _map(record.get("photo")), _map(record.get("dictionary"))]
    plain = [one.get(name) for one in entries for name in ("photos", "index", "source")]
    for path in plain:
        if isinstance(path, str):
            yield path, name_of(path)
    inverter, prior = _map(record.get("inverter")), record.get("prior")
    sources = [
        inverter.get("name"),
        inverter.get("source"),
        inverter.get("prior"),
        _map(record.get("model")).get("name"),
    ]
    sources += [prior if isinstance(prior, str) else _map(prior).get("name")]
    sources += list(_map(_map(record.get("measured_with")).get("verifiers"))) + list(_map(record.get("verifiers")))
    for source in sources:
        if isinstance(source, str):
            prefix = next((one for one in SOURCES if source.startswith(one)), None)
            path = source.removeprefix(prefix or "")
            if prefix is not None and (prefix != "hf:" or _is_there(path)):
                yield source, prefix + name_of(path)
                yield path, name_of(path)


def _photo_name(path: str, sha256: Any) -> str:
    """A photo's name with the first digits of its hash: photos of several folders may have one name."""
    name, dot, ending = name_of(path).rpartition(".")
    mark = f"-{sha256[:8]}" if isinstance(sha256, str) else ""
    return f"{name}{mark}{dot}{ending}" if name else f"{ending}{mark}"


def _is_there(path: str) -> bool:
    """Whether a name of the hub is a folder here."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # a name that no path can have
        return False


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
