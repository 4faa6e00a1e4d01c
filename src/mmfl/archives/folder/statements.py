"""What the files of a modality say of themselves, counted: used, or contradicted aloud."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mmfl.archives.folder import files, naming
from mmfl.facts.description_parts import Images


class Statements:
    """Of one modality; `add` takes the headers of its files, location by location.

    Files that say the same are counted together, with one of them as the example.
    """

    def __init__(self, part: Images, name: str) -> None:
        self.part, self.name = part, name
        self.told: dict[tuple[str | None, files.Header], tuple[int, Path]] = {}

    def add(self, headers: Iterable[files.Header]) -> None:
        """Headers of one location, in the order of its files."""
        bands = [*self.part.bands] if self.part.apart else [None]
        for header, band in zip(headers, bands, strict=False):
            alike = (band, files.said(header))
            count, example = self.told.get(alike, (0, header.path))
            self.told[alike] = (count + 1, min(example, header.path))

    @property
    def wrong(self) -> list[str]:
        """Where files disagree, so that no reading of all of them is right."""
        found = []
        orders = self._by(self._order)
        if len(orders) > 1:
            found.append(
                f"the bands do not follow each other alike in all files: {_listed(orders)}; "
                "write them in one order, or give the place of each in all files, "
                f"e.g. bands: {{{next(iter(self.part.bands))}: 1}}"
            )
        stated = self._by(lambda band, h: ", ".join(dict.fromkeys(filter(None, h.units))) or None)
        if len(stated) > 1 and not self.part.scaled:
            found.append(f"the files state units that differ: {_listed(stated)}; bring them to "
                         f"one, or set modalities.{self.name}.scale")  # fmt: skip
        factors = self._by(_factor)
        if len(factors) > 1 and not self.part.scaled:
            found.append(f"the files state scales and offsets that differ: {_listed(factors)}; set "
                         f"modalities.{self.name}.scale: file and .offset: file, so that they are "
                         "applied")  # fmt: skip
        return [f"{self.name}: {text}" for text in found]

    @property
    def odd(self) -> list[str]:
        """What may be wrong: it is taken in one way, and the files say or suggest another."""
        found = [text.removeprefix("Warning: ") for text in self._remarks("Warning: ")]
        words = self._by(lambda band, h: _words(h.names))
        if len(words) > 1:
            found.append(f"the names of bands differ in what is measured: {_listed(words)}; are "
                         "they of one unit?")  # fmt: skip
        nodata = self._by(lambda band, h: "none" if h.nodata is None else f"{h.nodata:g}")
        given = self.part.nodata
        if len(nodata) > 1:
            found.append(f"the files state other values of no data: {_listed(nodata)}; each counts "
                         "in its own file, and that of the first in all")  # fmt: skip
        elif given is not None and not {"none", f"{given:g}"} & set(nodata):
            found.append(f"the files state the no data {next(iter(nodata))} and the description "
                         f"{given:g}; both are gaps")  # fmt: skip
        factors = self._by(_factor)
        if len(factors) == 1 and next(iter(factors)) != PLAIN:
            (stated,) = factors
            if not self.part.scaled:
                found.append(
                    f"the files state {stated}, which is not applied; set modalities."
                    f"{self.name}.scale: file and .offset: file if it shall be"
                )
            elif "file" not in (self.part.scale, self.part.offset):
                found.append(f"the files state {stated}; that of the description counts")
        return [f"{self.name}: {text}" for text in found]

    @property
    def notes(self) -> list[str]:
        """How bands and types are taken, where the files do not say it to the letter."""
        found = self._remarks("")
        types = self._by(lambda band, h: h.dtype)
        if len(types) > 1:
            found.append(f"the files are of several types: {_listed(types)}")
        return [f"{self.name}: {text}" for text in found]

    def _remarks(self, prefix: str) -> list[str]:
        """Remarks on the names of bands that begin so; none if "" and it is a warning."""
        found = self._by(self._remark)
        return [
            text if len(found) == 1 else f"{text} ({_files(*found[text])})"
            for text in found
            if text.startswith("Warning: ") == bool(prefix)
        ]

    def _remark(self, band: str | None, header: files.Header) -> str | None:
        wanted = files.wanted_bands(self.part, band)
        given = [self.part.bands[name] for name in wanted]
        return naming.remark(wanted, header.names, given, header.colours)

    def _order(self, band: str | None, header: files.Header) -> str | None:
        """The bands in the order in which they are in a file."""
        wanted = files.wanted_bands(self.part, band)
        places = files.places(self.part, header, band)
        if len(wanted) == 1 or None not in self.part.bands.values():
            return None
        named = naming.find(wanted, header.names) is not None
        listed = ", ".join(name for _, name in sorted(zip(places, wanted, strict=True)))
        return f"{listed} by their names" if named and places != sorted(places) else listed

    def _by(
        self, say: Callable[[str | None, files.Header], str | None]
    ) -> dict[str, tuple[int, Path]]:
        """What `say` makes of the files -> how many, and one of them."""
        found: dict[str, tuple[int, Path]] = {}
        for (band, header), (count, path) in self.told.items():
            text = say(band, header)
            if text is not None:
                before, example = found.get(text, (0, path))
                found[text] = (before + count, min(example, path))
        return dict(sorted(found.items(), key=lambda item: -item[1][0]))


PLAIN = "no scale"


def _factor(band: str | None, header: files.Header) -> str:
    if not header.factored:
        return PLAIN
    scales, offsets = (", ".join(f"{value + 0:g}" for value in dict.fromkeys(values))
                       for values in (header.scales, header.offsets))  # fmt: skip
    return f"the scale {scales} and the offset {offsets}"


def _words(names: Iterable[str]) -> str | None:
    """What is measured, by words in the names of bands such as dB."""
    found: dict[str, Any] = dict.fromkeys(w for name in names for w in naming.quantities(name))
    return ", ".join(found) or ("nothing said" if any(names) else None)


def _files(count: int, example: Path) -> str:
    return f"{count:,} {'file' if count == 1 else 'files'}, e.g. {example}"


def _listed(groups: dict[str, tuple[int, Path]]) -> str:
    return "; ".join(f"{text} in {_files(*found)}" for text, found in groups.items())
