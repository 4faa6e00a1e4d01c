"""The images of one simulated location: land cover, Sentinel-2 reflectance, Sentinel-1 backscatter.

The parts are used by simulation/tiles.py, too.

    s2 = block_mean(A_country (spectrum of the pixel's class) (1 + tau t)) + offset_country + noise
    s1 = 10 log10(backscatter of the pixel's class x texture x Gamma(L, 1/L)),  1/256 dB steps

with one random stream per location, so that neither order nor processes change a bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmfl.archives.bigearthnet_v2 import MODALITIES
from mmfl.archives.simulation import facts
from mmfl.archives.simulation.locations import COUNTRIES, PIXELS, Location, stream

SIZE = 120  # pixels of 10 m along a patch
STEP = 30  # pixels between the nodes from which a smooth field is interpolated: 300 m
# place of a band among the 12, pixels along one of its own
BANDS = tuple((n, SIZE // (band.size or SIZE)) for n, band in enumerate(MODALITIES["s2"].bands))

Veil = tuple[np.ndarray, tuple[float, ...]] | None
"""Cover of snow or cloud, 0 to 1 per pixel, and its spectrum; None where it is clear."""


@dataclass(frozen=True)
class Country:
    """What distinguishes a country's images from another's.

    `mixing` (12, 12) acts on the bands of a spectrum, gains included; `offset` (12,) reflectance;
    `decibel` (2,) added to VV and VH.
    """

    mixing: np.ndarray
    offset: np.ndarray
    decibel: np.ndarray


def country(name: str, seed: int) -> Country:
    """The country's parameters: drawn once for a seed, the same whatever else is simulated."""
    return heterogeneity(stream(seed, COUNTRIES, list(facts.TILES).index(name)))


def heterogeneity(rng: np.random.Generator) -> Country:
    """Gain, band mixing and offset, drawn."""
    common = 1 + facts.COUNTRY_GAIN * rng.standard_normal()
    gain = common + facts.COUNTRY_BAND_GAIN * rng.standard_normal(12)
    mixing = np.eye(12) + facts.COUNTRY_MIXING * rng.standard_normal((12, 12))
    return Country(
        mixing=gain[:, None] * mixing,
        offset=facts.COUNTRY_OFFSET * rng.standard_normal(12),
        decibel=facts.COUNTRY_DB * rng.standard_normal(2),
    )


def draw(location: Location, seed: int) -> tuple[dict[str, np.ndarray], list[int]]:
    """Band name -> (size, size) pixels as the archive stores them, and the labels' indices."""
    rng = stream(seed, PIXELS, location.index)
    land = country(location.country, seed)
    classes = _classes(rng, location.country)
    cover = cover_map(rng, len(classes), SIZE)
    shares = np.bincount(cover.ravel(), minlength=len(classes)) / cover.size
    kept = shares >= facts.MINIMUM_SHARE
    texture = rough(rng, SIZE)
    spectra = varied(rng, facts.spectra(location.season)[classes], land)
    ground = spectra, facts.TEXTURE[classes], texture
    optical = reflectance(rng, land, cover, ground, _veil(rng, location), BANDS)
    scattered = np.array(facts.BACKSCATTER)[classes]
    radar = backscatter(rng, land, cover, scattered, location.season, snow=location.snow)
    names = [band.name for band in (*MODALITIES["s2"].bands, *MODALITIES["s1"].bands)]
    return dict(zip(names, optical + radar, strict=True)), sorted(int(c) for c in classes[kept])


def cover_map(rng: np.random.Generator, classes: int, size: int) -> np.ndarray:
    """Land cover as indices below `classes`, (size, size): the highest of as many smooth fields.

    Fields are whole numbers until they are compared, so the map is the same on every processor.
    """
    fields = []
    for _ in range(classes):
        preference = round(400 * rng.standard_normal()) * 900
        fields.append(smooth_integers(rng, size) + preference)
    return np.argmax(np.stack(fields), axis=0)


def smooth_integers(rng: np.random.Generator, size: int) -> np.ndarray:
    """A smooth field, (size, size) int64: normal values at the nodes x 1000, bilinear x 30^2."""
    count = -(-size // STEP) + 1
    nodes = np.rint(1000 * rng.standard_normal((count, count))).astype(np.int64)
    at = np.arange(size)
    low, part = at // STEP, at % STEP
    rows = nodes[low] * (STEP - part)[:, None] + nodes[low + 1] * part[:, None]
    return rows[:, low] * (STEP - part) + rows[:, low + 1] * part


def smooth(rng: np.random.Generator, size: int) -> np.ndarray:
    """A smooth field of about unit variance, (size, size) float32."""
    # bilinear weights (1-a, a) of uniform a have a mean square sum of 2/3 per axis
    return (smooth_integers(rng, size) * (1.5 / (1000 * 900))).astype(np.float32)


def rough(rng: np.random.Generator, size: int) -> np.ndarray:
    """Half smooth, half white, of about unit variance, (size, size) float32."""
    return (smooth(rng, size) + rng.standard_normal((size, size), dtype=np.float32)) / 2**0.5


def _classes(rng: np.random.Generator, name: str) -> np.ndarray:
    """Different classes of one patch, by the country's shares; 1 to 5 of them."""
    return some_classes(rng, facts.CLASS_SHARES[name])


def some_classes(rng: np.random.Generator, percent: Sequence[float]) -> np.ndarray:
    """1 to 5 different classes, drawn without replacement by their shares."""
    shares = np.array(percent, dtype=float)
    most = min(5, int(np.count_nonzero(shares)))
    count = np.array(facts.COUNT_SHARES[:most])
    number = 1 + int(rng.choice(most, p=count / count.sum()))
    return rng.choice(len(shares), number, replace=False, p=shares / shares.sum())


def varied(rng: np.random.Generator, spectra: np.ndarray, land: Country) -> np.ndarray:
    """Spectra (classes, 12) of one patch, seen as the country's sensor and air show them."""
    brightness = 1 + facts.PATCH_BRIGHTNESS * rng.standard_normal((len(spectra), 1))
    spectra = spectra * (brightness + facts.PATCH_BAND * rng.standard_normal(spectra.shape))
    return (spectra @ land.mixing.T).astype(np.float32)


def reflectance(
    rng: np.random.Generator,
    land: Country,
    cover: np.ndarray,
    ground: tuple[np.ndarray, np.ndarray, np.ndarray],
    veil: Veil,
    bands: Sequence[tuple[int, int]],
) -> list[np.ndarray]:
    """Bands as uint16 reflectance x 10,000, each at its own size.

    Args:
        rng: of the sensor's noise.
        land: the country.
        cover: (size, size) land cover, indices of the patch's classes.
        ground: spectra (classes, 12), coefficients of variation (classes,), texture (size, size).
        veil: what lies above the ground.
        bands: place of each band among the 12, and pixels of 10 m along one of its pixels.
    """
    spectra, variation, texture = ground
    size = len(cover)
    shade = 1 + variation[cover] * texture
    found = []
    for index, factor in bands:
        seen = spectra[:, index][cover] * shade
        if veil is not None:
            seen += veil[0] * (veil[1][index] - seen)
        own = size // factor
        if factor > 1:
            seen = seen.reshape(own, factor, own, factor).mean(axis=(1, 3))
        seen += np.float32(land.offset[index])
        noise = rng.standard_normal((own, own), dtype=np.float32)
        seen += np.float32(facts.SENSOR_NOISE) * noise
        found.append(np.clip(np.rint(seen * 10_000), 1, 16_000).astype(np.uint16))
    return found


def _veil(rng: np.random.Generator, location: Location) -> Veil:
    if not (location.snow or location.cloud):
        return None
    name = "snow" if location.snow else "cloud"
    amount = np.clip(0.6 + 0.3 * smooth(rng, SIZE), 0, 1).astype(np.float32)
    return amount, facts.ENDMEMBERS[name]


def backscatter(
    rng: np.random.Generator,
    land: Country,
    cover: np.ndarray,
    scattered: np.ndarray,
    season: str,
    *,
    snow: bool = False,
) -> list[np.ndarray]:
    """VV and VH, float32 dB, (size, size).

    `scattered` (classes, 3): VV, VH and spatial variation in dB of the patch's classes.
    """
    both = facts.PATCH_DB * rng.standard_normal(len(scattered))
    field = smooth(rng, len(cover))
    bands = []
    for polarisation in range(2):
        means = scattered[:, polarisation]
        means = means + both + facts.PATCH_POLARISATION_DB * rng.standard_normal(len(scattered))
        means += land.decibel[polarisation] + facts.SEASON_DB[season][polarisation]
        means += facts.SNOW_DB if snow else 0.0
        spread = scattered[:, 2].astype(np.float32)
        level = means.astype(np.float32)[cover] + spread[cover] * field
        bands.append(quantise(level + speckle(rng, cover.shape)))
    return bands


def speckle(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Speckle in dB, float64: 10 log10 of a gamma variable of mean 1 and shape L = 4.4.

    Its mean is 10/ln 10 (psi(L) - ln L), its standard deviation 10/ln 10 sqrt(psi'(L)). The
    logarithm is float64: NumPy's float32 one has other last bits with AVX-512 than without, which
    `quantise` does not always hide.
    """
    intensity = rng.standard_gamma(facts.LOOKS, shape, dtype=np.float32) / np.float32(facts.LOOKS)
    return 10 * np.log10(np.maximum(intensity, np.float32(1e-6)), dtype=np.float64)


def quantise(decibel: np.ndarray) -> np.ndarray:
    """Steps of 1/256 dB, exact in float32: hides the last bits of a float64 logarithm."""
    return (np.rint(decibel * 256) / 256).astype(np.float32)
