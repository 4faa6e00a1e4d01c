"""The images of one simulated location: land cover, Sentinel-2 reflectance, Sentinel-1 backscatter.

    s2 = block_mean(A_country (spectrum of the pixel's class) (1 + tau t)) + offset_country + noise
    s1 = 10 log10(backscatter of the pixel's class x texture x Gamma(L, 1/L)),  1/256 dB steps

with one random stream per location, so that neither order nor processes change a bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmfl.archives.bigearthnet_v2 import MODALITIES
from mmfl.archives.simulation import facts
from mmfl.archives.simulation.locations import COUNTRIES, PIXELS, Location, stream

SIZE = 120  # pixels of 10 m along a patch
GRID = 5  # nodes along a patch from which a smooth field is interpolated: every 300 m


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
    rng = stream(seed, COUNTRIES, list(facts.TILES).index(name))
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
    cover = cover_map(rng, len(classes))
    shares = np.bincount(cover.ravel(), minlength=len(classes)) / cover.size
    kept = shares >= facts.MINIMUM_SHARE
    texture = (smooth(rng) + rng.standard_normal((SIZE, SIZE), dtype=np.float32)) / 2**0.5
    optical = _s2(rng, location, land, classes, cover, texture)
    radar = _s1(rng, location, land, classes, cover)
    names = [band.name for band in (*MODALITIES["s2"].bands, *MODALITIES["s1"].bands)]
    return dict(zip(names, optical + radar, strict=True)), sorted(int(c) for c in classes[kept])


def cover_map(rng: np.random.Generator, classes: int) -> np.ndarray:
    """Land cover as indices below `classes`, (120, 120): the highest of as many smooth fields.

    Fields are whole numbers until they are compared, so the map is the same on every processor.
    """
    fields = []
    for _ in range(classes):
        preference = round(400 * rng.standard_normal()) * 900
        fields.append(smooth_integers(rng) + preference)
    return np.argmax(np.stack(fields), axis=0)


def smooth_integers(rng: np.random.Generator) -> np.ndarray:
    """A smooth field, (120, 120) int64: normal values at the nodes x 1000, bilinear x 30^2."""
    nodes = np.rint(1000 * rng.standard_normal((GRID, GRID))).astype(np.int64)
    step = SIZE // (GRID - 1)
    at = np.arange(SIZE)
    low, part = at // step, at % step
    rows = nodes[low] * (step - part)[:, None] + nodes[low + 1] * part[:, None]
    return rows[:, low] * (step - part) + rows[:, low + 1] * part


def smooth(rng: np.random.Generator) -> np.ndarray:
    """A smooth field of about unit variance, (120, 120) float32."""
    # bilinear weights (1-a, a) of uniform a have a mean square sum of 2/3 per axis
    return (smooth_integers(rng) * (1.5 / (1000 * 900))).astype(np.float32)


def _classes(rng: np.random.Generator, name: str) -> np.ndarray:
    """Different classes of one patch, by the country's shares; 1 to 5 of them."""
    shares = np.array(facts.CLASS_SHARES[name], dtype=float)
    most = min(5, int(np.count_nonzero(shares)))
    count = np.array(facts.COUNT_SHARES[:most])
    number = 1 + int(rng.choice(most, p=count / count.sum()))
    return rng.choice(len(shares), number, replace=False, p=shares / shares.sum())


def _s2(
    rng: np.random.Generator,
    location: Location,
    land: Country,
    classes: np.ndarray,
    cover: np.ndarray,
    texture: np.ndarray,
) -> list[np.ndarray]:
    """The 12 bands, uint16 reflectance x 10,000, each at its own size."""
    spectra = facts.spectra(location.season)[classes]
    brightness = 1 + facts.PATCH_BRIGHTNESS * rng.standard_normal((len(classes), 1))
    spectra = spectra * (brightness + facts.PATCH_BAND * rng.standard_normal(spectra.shape))
    spectra = (spectra @ land.mixing.T).astype(np.float32)
    variation = 1 + facts.TEXTURE[classes][cover] * texture
    veil, colour = _veil(rng, location)
    bands = []
    for index, band in enumerate(MODALITIES["s2"].bands):
        ground = spectra[:, index][cover] * variation
        if veil is not None:
            ground += veil * (colour[index] - ground)
        factor = SIZE // band.size
        if factor > 1:
            ground = ground.reshape(band.size, factor, band.size, factor).mean(axis=(1, 3))
        ground += np.float32(land.offset[index])
        noise = rng.standard_normal((band.size, band.size), dtype=np.float32)
        ground += np.float32(facts.SENSOR_NOISE) * noise
        bands.append(np.clip(np.rint(ground * 10_000), 1, 16_000).astype(np.uint16))
    return bands


def _veil(
    rng: np.random.Generator, location: Location
) -> tuple[np.ndarray | None, tuple[float, ...]]:
    """Cover of snow or cloud, 0 to 1 per pixel, and its spectrum; None where it is clear."""
    if not (location.snow or location.cloud):
        return None, ()
    name = "snow" if location.snow else "cloud"
    amount = np.clip(0.6 + 0.3 * smooth(rng), 0, 1).astype(np.float32)
    return amount, facts.ENDMEMBERS[name]


def _s1(
    rng: np.random.Generator,
    location: Location,
    land: Country,
    classes: np.ndarray,
    cover: np.ndarray,
) -> list[np.ndarray]:
    """VV and VH, float32 dB, (120, 120)."""
    both = facts.PATCH_DB * rng.standard_normal(len(classes))
    field = smooth(rng)
    bands = []
    for polarisation in range(2):
        means = np.array([facts.BACKSCATTER[c][polarisation] for c in classes])
        means = means + both + facts.PATCH_POLARISATION_DB * rng.standard_normal(len(classes))
        means += land.decibel[polarisation] + facts.SEASON_DB[location.season][polarisation]
        means += facts.SNOW_DB if location.snow else 0.0
        spread = np.array([facts.BACKSCATTER[c][2] for c in classes], dtype=np.float32)
        level = means.astype(np.float32)[cover] + spread[cover] * field
        bands.append(quantise(level + speckle(rng, (SIZE, SIZE))))
    return bands


def speckle(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Speckle in dB, float32: 10 log10 of a gamma variable of mean 1 and shape L = 4.4.

    Its mean is 10/ln 10 (psi(L) - ln L), its standard deviation 10/ln 10 sqrt(psi'(L)).
    """
    intensity = rng.standard_gamma(facts.LOOKS, shape, dtype=np.float32) / np.float32(facts.LOOKS)
    return 10 * np.log10(np.maximum(intensity, np.float32(1e-6)))


def quantise(decibel: np.ndarray) -> np.ndarray:
    """Steps of 1/256 dB, exact in float32: hides the last bits of the logarithm."""
    return (np.rint(decibel * 256) / 256).astype(np.float32)
