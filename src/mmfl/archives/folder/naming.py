"""Which band of a file is which: by places given, by the names in the file, else in order.

Names are compared without case and blanks, and through a table of the usual names of Sentinel-1 and
Sentinel-2 bands (docs/your-own-archive.md). A file that names other bands is damaged; names that
nobody knows are told by `remark`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

KNOWN = {
    "b01": ("coastal", "coastal aerosol", "aerosol"),
    "b02": ("blue", "b", "bleu", "bleue", "blau", "blaue", "azul", "blu", "blauw", "niebieski",
            "niebieska", "синий", "синяя", "синій", "синя", "син", "blå", "sininen", "modrá",
            "modrý", "plava", "kék", "albastru", "mavi", "μπλε", "أزرق", "כחול", "नीला",
            "biru", "xanh lam", "xanh dương", "蓝", "蓝色", "藍", "藍色", "青", "파랑", "파란색",
            "청색"),
    "b03": ("green", "g", "vert", "verte", "grün", "grüne", "gruen", "verde", "groen", "zielony",
            "zielona", "зелёный", "зелёная", "зелений", "зелена", "зелен", "grön", "grøn", "grønn",
            "vihreä", "zelená", "zelený", "zelena", "zöld", "yeşil", "πράσινο", "أخضر", "ירוק",
            "हरा", "hijau", "xanh lục", "xanh lá", "绿", "绿色", "綠", "綠色", "緑", "초록",
            "초록색", "녹색"),
    "b04": ("red", "r", "rouge", "rot", "rote", "rojo", "roja", "rosso", "rossa", "vermelho",
            "vermelha", "rood", "czerwony", "czerwona", "красный", "красная", "червоний",
            "червона", "червен", "röd", "rød", "punainen", "červená", "červený", "crvena", "piros",
            "vörös", "roșu", "kırmızı", "kirmizi", "κόκκινο", "أحمر", "אדום", "लाल", "merah", "đỏ",
            "红", "红色", "紅", "紅色", "赤", "빨강", "빨간색", "적색"),
    "b05": ("rededge1", "red edge 1", "re1", "vre1"),
    "b06": ("rededge2", "red edge 2", "re2", "vre2"),
    "b07": ("rededge3", "red edge 3", "re3", "vre3"),
    "b08": ("nir", "near infrared", "nir broad", "pir", "proche infrarouge", "nahes infrarot",
            "infrarrojo cercano", "infravermelho próximo", "infrarosso vicino",
            "ближний инфракрасный", "近红外", "近紅外", "近赤外"),
    "b8a": ("nir08", "nir narrow", "narrow nir", "rededge4", "red edge 4", "re4"),
    "b09": ("nir09", "water vapour", "water vapor", "wv"),
    "b10": ("cirrus",),
    "b11": ("swir1", "swir16", "swir 1"),
    "b12": ("swir2", "swir22", "swir 2"),
    "vv": (), "vh": (), "hh": (), "hv": (),
}  # fmt: skip
RADAR = ("vv", "vh", "hh", "hv")
# words that say nothing of which band it is
BESIDE = {
    "sentinel", "sentinel1", "sentinel2", "sentinel1a", "sentinel1b", "sentinel2a", "sentinel2b",
    "s1", "s2", "s1a", "s1b", "s1c", "s2a", "s2b", "s2c", "msi", "l1c", "l2a", "sr", "boa", "toa",
    "band", "bande", "banda", "kanal", "canal", "channel", "surface", "reflectance", "reflektanz",
    "gamma0", "sigma0", "beta0", "gamma", "sigma", "beta", "nought", "naught", "db", "linear",
    "intensity", "amplitude", "power", "backscatter", "polarisation", "polarization", "pol", "iw",
    "grd", "rtc", "sar", "radar", "pasmo", "kaista", "полоса", "канал", "colour", "color",
    "couleur", "farbe",
}  # fmt: skip
# sensors whose numbers mean other bands: of these only colours are compared
OTHERS = {"landsat", "oli", "tm", "etm", "l5", "l7", "l8", "l9", "lc08", "lc09", "le07", "lt05",
          "modis", "viirs", "planet", "planetscope", "aster", "worldview", "rapideye"}  # fmt: skip
PLACEHOLDER = re.compile(r"(?:band|bande|banda|layer|channel|kanal|canal)?[ _-]*0*(\d+)")
QUANTITIES = {"db", "linear", "amplitude", "intensity", "power", "gamma0", "sigma0", "beta0"}


def plain(name: str) -> str:
    """A name without case, accents, blanks and signs: `Red-Edge 1` and `rededge1` are one."""
    return re.sub(r"[\W_]+", "", _folded(name))


def _folded(name: str) -> str:
    """In lower case and without accents, which some programs drop and some write apart."""
    text = unicodedata.normalize("NFKD", name).casefold()
    return "".join(sign for sign in text if unicodedata.category(sign) != "Mn")


UNSPACED = re.compile(  # the word band where no blank stands before it
    "|".join(map(_folded, ("波段", "バンド", "밴드")))
)
_ALIASES = {plain(word): band for band, words in KNOWN.items() for word in (band, *words)}
_ALIASES |= {f"b{int(band[1:])}": band for band in KNOWN if band[1:].isdigit()}
_ALIASES |= {f"band{int(band[1:])}": band for band in KNOWN if band[1:].isdigit()}
_ALIASES |= {"band8a": "b8a", "b08a": "b8a"}
_NUMBERED = re.compile(r"(?:band)?b?\d+a?")


def known(name: str) -> str | None:
    """The band that a name stands for, e.g. b04 for `Sentinel-2 B4`; None: nobody knows."""
    whole = plain(name)
    if whole in _ALIASES:
        return _ALIASES[whole]
    words = _words(name)
    other = bool(OTHERS & set(words))
    found: set[str] = set()
    start = 0
    while start < len(words):
        for end in (min(start + 3, len(words)), start + 2, start + 1):
            joined = "".join(words[start:end])
            if joined in _ALIASES and not (
                joined.isdigit() or (other and _NUMBERED.fullmatch(joined))
            ):
                found.add(_ALIASES[joined])
                break
            if joined in BESIDE or (end == start + 1 and joined in OTHERS):
                break
            if end == start + 1:
                if joined.isdigit() and start and words[start - 1] in (*BESIDE, *OTHERS):
                    break  # the 2 of Sentinel-2
                return None
        start = end
    return found.pop() if len(found) == 1 else None


def _words(name: str) -> list[str]:
    """Of a name in lower case, without wavelengths such as 490 nm."""
    text = UNSPACED.sub(" ", _folded(name))
    text = re.sub(r"\d+(\.\d+)?[\s_]*nm\b|central wavelength", " ", text)
    return [word for word in re.split(r"[\W_]+", text) if word]


def quantities(name: str) -> list[str]:
    """What a name says is measured: `db`, `gamma0`, …"""
    return [word for word in _words(name) if word in QUANTITIES]


def key(name: str) -> str:
    """What names are compared by."""
    return known(name) or plain(name)


def named(names: Sequence[str]) -> bool:
    """Whether the names of a file's bands say anything: not blank, all the same, or 1, 2, 3, …"""
    told = [name for name in names if name.strip()]
    if not told or (len(told) > 1 and len(set(told)) == 1 and known(told[0]) is None):
        return False
    numbers = [PLACEHOLDER.fullmatch(name.strip().casefold()) for name in names]
    return [int(found[1]) if found else 0 for found in numbers] != [*range(1, len(names) + 1)]


def find(wanted: Sequence[str], names: Sequence[str]) -> list[int] | None:
    """Where the wanted bands are by a file's names, counted from 1; None: names do not tell.

    Raises:
        ValueError: the file names other bands, so that its order cannot be taken either.
    """
    if not named(names):
        return None
    told = [name.strip() for name in names]
    exact = [told.index(name) + 1 for name in wanted if told.count(name) == 1]
    if len(exact) == len(wanted):
        return exact
    has, wants = [key(name) if name else "" for name in told], [key(name) for name in wanted]
    if len(set(wants)) == len(wants) and all(has.count(want) == 1 for want in wants):
        return [has.index(want) + 1 for want in wants]
    if len(has) != len(wants):
        return None
    agree = [one == other or not one for one, other in zip(has, wants, strict=True)]
    if all(agree):
        return None
    expected = [known(name) for name in wanted]
    clear = any(one in wants or (known(name) and any(expected))
                for name, one in zip(told, has, strict=True) if one)  # fmt: skip
    if clear:
        raise ValueError(f"names its bands {', '.join(name or '(none)' for name in told)}")
    return None


def remark(
    wanted: Sequence[str],
    names: Sequence[str],
    given: Sequence[int | None],
    colours: Sequence[str] = (),
) -> str | None:
    """What to say aloud of how a file's bands were found; None: they are named to the letter.

    `given` are places of the description, `colours` those of the file's format.
    """
    listed = ", ".join(name or "(none)" for name in names)
    if None not in given:
        told = [(name, place, names[place - 1]) for name, place in zip(wanted, given, strict=True)
                if place is not None and place <= len(names)]  # fmt: skip
        for name, place, other in told if named(names) else ():
            if known(other) and key(other) != key(name):
                return (f"Warning: {name} is band {place} by the description, and the files call "
                        f"that {other}; the description counts")  # fmt: skip
        return None
    order = f"the order of the description is taken: {', '.join(wanted)}"
    if not named(names):
        pairs = zip(wanted, colours, strict=False)
        if any(known(name) and key(name) != key(colour) for name, colour in pairs):
            return f"Warning: the files' colours are {', '.join(colours)}, and {order}"
        return f"the files do not name their bands; {order}" if len(wanted) > 1 else None
    found = find(wanted, names)
    if found is None:
        if [key(name) for name in names] == [key(name) for name in wanted]:
            return None
        warning = "Warning: " if len(wanted) > 1 else ""
        return f"{warning}the files call their bands {listed}, of which nothing is known; {order}"
    if all(names[place - 1] == name for place, name in zip(found, wanted, strict=True)):
        return None
    taken = [f"{name} is {names[place - 1]}" for place, name in zip(found, wanted, strict=True)]
    return f"by the names in the files, {', '.join(taken)}"
