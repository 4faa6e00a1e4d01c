"""What a scene's numbers mean, by all that its item says, with the pixels as the last witness.

Since processing baseline 04.00 Sentinel-2's numbers are 1000 too high, unless the host took that
off, and what hosts say of it is at times wrong. Taken off twice, the dark pixels are below zero;
never, no pixel is dark.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfl.fetch.stac.catalogues import Item, Unusable

SCALE, SHIFT = 1e-4, 0.1  # of digital numbers, and what they are too high by, as reflectance
SINCE = 4.0  # processing baseline
UNKNOWN = (
    20.0  # from here on it is no baseline; 99.99 is that of whoever runs the processor himself
)
NOISE = 0.01  # reflectance below zero that dark water has, where the atmosphere is overcorrected
CLIPPED = 0.02  # share of a band's pixels that may be below that
DARK = 1e-3  # share of the darkest band's pixels below 0.1: fewer are a shift, or a bright desert
BRIGHT = 6.5535  # the highest reflectance that is kept
FAINT = 5e-4  # no scene is darker everywhere
DB = (-60.0, 10.0)  # between which the median of a scene lies
FILLS = -9999  # and below: no power and no decibel
UNITS = {"linear": "10 log10 of linear power", "dB": "dB: as it is"}
Pixels = np.ndarray[Any, Any]


class Doubtful(Unusable):
    """The pixels contradict what the item says of them."""


@dataclass(frozen=True)
class Meaning:
    """Scale and offset of a band by the catalogue's rule, in words, and what else the item says.

    `against`: other statements that say the contrary. `may`: the product was shifted once, or a
    statement says so; that nothing is taken off then needs the pixels' word.
    """

    scale: float
    offset: float
    rule: str
    against: tuple[str, ...] = ()
    may: bool = False

    @property
    def shifted(self) -> bool:
        """Whether something is taken off."""
        return self.offset < 0


@dataclass(frozen=True)
class Settled:
    """Reflectance x 10,000 of each band, by which rule, and what contradicted it."""

    pixels: Mapping[str, Pixels]
    rule: str
    note: str = ""


def meaning(item: Item, asset: str, rule: str) -> Meaning:
    """What an asset's numbers mean by a catalogue's rule (docs/imagery.md).

    Raises:
        Unusable: the item does not say what the rule needs.
    """
    if rule == "none":  # the user's word, which the item's do not contradict
        return Meaning(SCALE, 0.0, "none: reflectance x 10,000")
    told = _statements(item, asset)
    if rule == "earth-search" and _flag(item["properties"]) is True:
        # The product's baseline does not contradict: the host took off what it brought.
        words = "earthsearch:boa_offset_applied true: 0"
        against = tuple(one.text for one in told if one.shifted and one.kind != "baseline")
        return Meaning(SCALE, 0.0, words, against, any(one.shifted for one in told))
    if rule in ("earth-search", "baseline"):
        found = _baseline(item)
        if found is None:
            raise Unusable(f"{item['id']} has no s2:processing_baseline, which tells its offset")
        number, text, _ = found
        scale, offset, kind = SCALE, -SHIFT if number >= SINCE else 0.0, "baseline"
        words = f"{text}: {offset / scale:.0f}"
    else:
        stated = _stated(item["assets"][asset])
        if stated[0] is None or stated[1] is None:
            raise Unusable(f"{item['id']}: asset {asset} states no scale and offset")
        scale, offset, kind = stated[0], stated[1], "bands"
        words = f"{stated[2]}: scale {scale:g}, offset {offset:g}"
    others = [one for one in told if one.kind != kind and one.shifted != (offset < 0)]
    may = offset > 0 or any(one.shifted for one in others)  # nobody's numbers are too low
    return Meaning(scale, offset, words, tuple(one.text for one in others), may)


def settle(item: Item, numbers: Mapping[str, Pixels], meanings: Mapping[str, Meaning]) -> Settled:
    """Reflectance of all bands, if the pixels are what they are said to be.

    Where statements disagree the pixels decide, if they can: many far below the shift prove that
    it was taken off already, while their lack proves little, as deserts have none either.

    Args:
        numbers: band -> (height, width) as in the file, 0 where there is no data.
        meanings: band -> what they mean.

    Raises:
        Doubtful: they are not, and no statement agrees with them.
    """
    rule = "; ".join(dict.fromkeys(one.rule for one in meanings.values()))
    against = list(dict.fromkeys(text for one in meanings.values() for text in one.against))
    raw = {band: pixels[pixels != 0] * meanings[band].scale for band, pixels in numbers.items()}
    raw = {band: values for band, values in raw.items() if values.size}
    offsets = {band: one.offset for band, one in meanings.items()}
    band, share = _worst({b: values + offsets[b] < -NOISE for b, values in raw.items()})
    if share > CLIPPED:
        seen = f"{share:.1%} of {band} would be below zero"
        if not against:
            raise Doubtful(f"{item['id']}: {rule}, but {seen}: it may be taken off already")
        offsets = dict.fromkeys(offsets, 0.0)
        note = f"{against[0]}, and {seen} by {rule}: nothing is taken off"
    else:
        kept = {b: values + offsets[b] for b, values in raw.items() if not meanings[b].shifted}
        band, share = _worst({b: values < SHIFT for b, values in kept.items()})
        if any(meanings[b].may for b in kept) and share < DARK:
            raise Doubtful(
                f"{item['id']}: {rule}, but no more than {share:.2%} of a band are below 0.1: the "
                "offset of the baseline may not be taken off yet"
            )
        note = f"nothing falls below zero by {rule}"
        note = f"{share:.1%} of {band} are below 0.1" if kept else note
        note = f"{against[0]}, but {note}" if against else ""
    _check_scale(item, rule, {b: values + offsets[b] for b, values in raw.items()})
    pixels = {b: reflectance(numbers[b], meanings[b].scale, offsets[b]) for b in numbers}
    return Settled(pixels, rule, note)


def _worst(where: Mapping[str, Pixels]) -> tuple[str, float]:
    """The band with the greatest share of pixels."""
    shares = {band: float(pixels.mean()) for band, pixels in where.items()}
    band = max(shares, key=lambda one: shares[one], default="")
    return band, shares.get(band, 0.0)


def _check_scale(item: Item, rule: str, found: Mapping[str, Pixels]) -> None:
    band, share = _worst({b: values > BRIGHT for b, values in found.items()})
    if share > CLIPPED:
        raise Doubtful(f"{item['id']}: {rule}, but {share:.1%} of {band} are above {BRIGHT:g}")
    if found and all(np.quantile(values, 0.99) < FAINT for values in found.values()):
        raise Doubtful(f"{item['id']}: {rule}, but no band has reflectance above {FAINT:g}")


def reflectance(numbers: Pixels, scale: float, offset: float) -> Pixels:
    """Reflectance x 10,000 as uint16. 0 is no data before and after; a pixel with data is >= 1."""
    values = np.rint((numbers * np.float64(scale) + offset) * 10_000)
    return np.where(numbers == 0, 0, np.clip(values, 1, 65_535)).astype(np.uint16)


def decibels(power: Pixels, unit: str) -> Pixels:
    """float32 dB of linear power (or of dB); NaN where there is no data or no power."""
    values = power.astype(np.float64)
    if unit == "linear":
        values = 10 * np.log10(np.where(values > 0, values, np.nan))
    return np.where(np.isfinite(values), values, np.nan).astype(np.float32)


def no_power(values: Pixels, unit: str) -> Pixels:
    """Where a raster of radar backscatter holds none, whatever it says of its gaps.

    0 fills borders in either unit; power is never below it.
    """
    if unit == "linear":
        return ~(values > 0) | ~np.isfinite(values)
    return (values == 0) | ~(values > FILLS) | ~np.isfinite(values)


def check_unit(item: Item, asset: str, unit: str, values: Pixels) -> None:
    """Refuse a band of radar backscatter that is not in `unit`, linear or dB.

    Args:
        values: as in the file, without its gaps.

    Raises:
        Doubtful: the asset states the other unit, or the values can only be of another.
    """
    given = item["assets"][asset]
    bands = given.get("raster:bands") or given.get("bands") or [{}]
    stated = str(bands[0].get("unit") or "").lower()
    if stated and (stated in ("db", "decibel", "decibels")) != (unit == "dB"):
        raise Doubtful(f"{item['id']}: asset {asset} states unit {stated}, s1_unit is {unit}")
    values = values[np.isfinite(values) & (values > FILLS) & (values != 0)].astype(np.float64)
    if not values.size:
        return
    negative, middle = float(np.mean(values < 0)), float(np.median(values))
    if unit == "linear":
        middle = 10 * np.log10(middle) if middle > 0 else -np.inf
    few = negative > 0.5 if unit == "linear" else negative < 0.01
    if few or not DB[0] <= middle <= DB[1]:
        raise Doubtful(
            f"{item['id']}: {asset} has {negative:.1%} below zero and the median {middle:.1f} dB "
            f"if it is {unit}, expected {DB[0]:.0f} to {DB[1]:.0f} dB; correct s1_unit"
        )


def version(item: Item) -> tuple[float, str]:
    """Processing baseline and time of making, to be compared."""
    found = _baseline(item)
    return found[0] if found else 0.0, str(item["properties"].get("s2:generation_time", ""))


@dataclass(frozen=True)
class _Statement:
    """What one part of an item says, and whether the numbers are too high by it."""

    kind: str
    text: str
    shifted: bool


def _statements(item: Item, asset: str) -> list[_Statement]:
    found = []
    scale, offset, source = _stated(item["assets"][asset])
    if scale is not None and offset is not None:
        found.append(_Statement("bands", f"{source} states offset {offset:g}", offset < 0))
    known, flag = _baseline(item), _flag(item["properties"])
    if flag is not None and (flag or known is None or known[0] >= SINCE):
        text = f"boa_offset_applied is {str(flag).lower()}"
        found.append(_Statement("flag", text, not flag))
    if known is not None:
        number, text, names = known
        found += [
            _Statement("name", f"baseline of {name}", other >= SINCE) for name, other in names
        ]
        found.append(_Statement("baseline", text, number >= SINCE))
    return found


def _flag(properties: Mapping[str, Any]) -> bool | None:
    """Whether the host says that it took the offset off."""
    found = [value for key, value in properties.items() if key.endswith("boa_offset_applied")]
    return {"true": True, "false": False}.get(str(found[0]).lower()) if found else None


def _baseline(item: Item) -> tuple[float, str, list[tuple[str, float]]] | None:
    """The baseline, where it stands, and those of other sources; None if nothing tells it."""
    properties = item["properties"]
    found: list[tuple[float, str]] = []
    for key in ("s2:processing_baseline", "processing:version"):
        number = baseline(properties.get(key))
        if number is not None:
            found.append((number, f"{key} {properties[key]}"))
    for name in (properties.get("s2:product_uri"), item["id"], properties.get("s2:datatake_id")):
        part = re.search(r"_N(\d{4}|\d\d\.\d\d)(?:_|$|\.)", str(name or ""))
        number = baseline(part[1]) if part else None
        if number is not None:
            found.append((number, str(name)))
    if not found:
        return None
    number, text = found[0]
    return number, text, [(name, other) for other, name in found[1:]]


def baseline(value: Any) -> float | None:
    """Major and minor number of a processing baseline: "05.10", "5.1", "0510", "N0510", 5.1.

    None where it is none.
    """
    text = str(value).strip().upper().removeprefix("N")
    for pattern in (r"(\d{1,2})\.(\d{1,2})", r"(\d{1,2})(\d\d)", r"(\d{1,2})()"):
        if found := re.fullmatch(pattern, text):
            number = int(found[1]) + int(found[2].ljust(2, "0")) / 100
            return number if 0 < number < UNKNOWN else None
    return None


def _number(text: Any) -> float | None:
    """A finite number, or None."""
    try:
        number = float(text)
    except (OverflowError, TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def _stated(asset: dict[str, Any]) -> tuple[float | None, float | None, str]:
    """Scale, offset and where they stand: raster:bands, or STAC 1.1's bands or the asset."""
    old = (asset.get("raster:bands") or [{}])[0]
    if "scale" in old:
        return _number(old["scale"]), _number(old.get("offset", 0)), "raster:bands"
    band = {**asset, **(asset.get("bands") or [{}])[0]}
    if "raster:scale" in band:
        offset = _number(band.get("raster:offset", 0))
        return _number(band["raster:scale"]), offset, "raster:offset"
    return None, 0.0, ""
