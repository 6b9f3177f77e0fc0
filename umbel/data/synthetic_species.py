"""Twenty-four fictional plant species, told apart by botany rather than by color.

Leaf outlines are superformula curves (J. Gielis, "A generic geometric transformation that
unifies a wide range of natural and abstract shapes", American Journal of Botany 90, 2003).
Hues are few and shared across genera, so that color alone says little about the species.
"""

from dataclasses import dataclass, replace
from typing import Literal

Margin = Literal["entire", "serrate", "crenate", "lobed"]
Venation = Literal["pinnate", "parallel", "palmate"]
Division = Literal["simple", "trifoliate", "pinnate"]
Arrangement = Literal["alternate", "opposite", "whorled"]
Marking = Literal["none", "pale-edged", "spotted", "banded"]
PetalHue = Literal["white", "yellow", "pink", "violet"]
LeafHue = Literal["grass-green", "yellow-green", "blue-green"]


@dataclass(frozen=True, kw_only=True)
class Outline:
    """A leaf outline: a superformula curve, scaled to length one and swept backwards."""

    name: str
    """The botanical word for the outline."""
    m: float
    """Rotational symmetry of the superformula: the number of corners or lobes."""
    n1: float
    """Outer exponent: the smaller, the deeper the curve is drawn in between its corners."""
    n2: float
    """Inner exponent of cosine and sine: near one for sharp corners, near two for round ones."""
    width: float
    """Greatest width as a share of the length."""
    sweep: float = 0.0
    """Backward shift of the sides: above zero heart and arrow shapes, below zero a cleft tip."""


LINEAR = Outline(name="linear", m=2, n1=1.0, n2=1.4, width=0.15)
LANCEOLATE = Outline(name="lanceolate", m=2, n1=0.8, n2=1.0, width=0.34)
ELLIPTIC = Outline(name="elliptic", m=2, n1=1.0, n2=1.4, width=0.56)
OVATE = Outline(name="ovate", m=1, n1=0.22, n2=1.0, width=0.66)
ROUND = Outline(name="round", m=2, n1=2.0, n2=2.0, width=0.98)
HEART = Outline(name="heart-shaped", m=2, n1=2.0, n2=2.0, width=0.95, sweep=0.55)
ARROW = Outline(name="arrow-shaped", m=2, n1=1.0, n2=1.2, width=0.72, sweep=1.3)
CLEFT = Outline(name="obcordate", m=2, n1=2.0, n2=2.0, width=0.9, sweep=-0.5)
MAPLE = Outline(name="five-lobed", m=5, n1=0.5, n2=1.0, width=1.1)
STAR = Outline(name="seven-fingered", m=7, n1=0.2, n2=1.1, width=1.15)


@dataclass(frozen=True, kw_only=True)
class Species:
    """The botanical parameters that every individual of a species shares."""

    name: str
    """Latin binomial, invented."""
    genus: str
    """First word of the binomial; species of a genus share their flower plan."""
    family: str
    """Invented family, of two genera."""
    common_name: str
    """Invented English name."""
    outline: Outline
    """Outline of the leaf, or of one leaflet when the leaf is divided."""
    margin: Margin
    """Kind of leaf margin."""
    teeth: int
    """Teeth or lobes on each side of the margin; zero when it is entire."""
    tooth_depth: float
    """Depth of the teeth as a share of half the leaf width; zero when the margin is entire."""
    venation: Venation
    """Course of the veins."""
    veins: int
    """Pairs of side veins (pinnate) or number of main veins (parallel, palmate)."""
    vein_contrast: float
    """Lightness of the veins against the blade: above zero pale, below zero dark."""
    division: Division
    """Simple leaves, or leaves of several leaflets."""
    leaflets: int
    """Leaflets of one leaf; one when it is simple."""
    arrangement: Arrangement
    """Leaves at a node: one (alternate), two (opposite) or three (whorled)."""
    marking: Marking
    """Pale pattern on the blade."""
    petals: int
    """Number of petals."""
    petal_width: float
    """Greatest width of a petal as a share of its length; wide petals overlap."""
    petal_point: float
    """Tip of a petal from zero (round) to one (sharp)."""
    petal_notch: float
    """Depth of the notch in the tip as a share of the petal length."""
    disc: float
    """Radius of the central disc as a share of the flower radius."""
    disc_tone: Literal["yellow", "dark"]
    """Tone of the central disc."""
    petal_hue: PetalHue
    """Petal hue, shared by six species of different genera; individuals vary around it."""
    leaf_hue: LeafHue
    """Leaf hue, shared by eight species; individuals vary around it."""


# The first species of a genus spells out every trait; its sisters state what sets them apart.
_VERONA = Species(
    name="Verona dentata", genus="Verona", family="Veronellaceae", common_name="toothed verona",
    outline=ELLIPTIC, margin="serrate", teeth=6, tooth_depth=0.42, venation="pinnate", veins=5,
    vein_contrast=-0.35, division="simple", leaflets=1, arrangement="opposite", marking="none",
    petals=5, petal_width=0.68, petal_point=0.0, petal_notch=0.18, disc=0.16, disc_tone="yellow",
    petal_hue="violet", leaf_hue="grass-green",
)  # fmt: skip
_CALDORIA = Species(
    name="Caldoria palmata", genus="Caldoria", family="Veronellaceae", common_name="hand caldoria",
    outline=MAPLE, margin="entire", teeth=0, tooth_depth=0.0, venation="palmate", veins=5,
    vein_contrast=0.5, division="simple", leaflets=1, arrangement="opposite", marking="none",
    petals=4, petal_width=1.05, petal_point=0.0, petal_notch=0.0, disc=0.14, disc_tone="dark",
    petal_hue="pink", leaf_hue="blue-green",
)  # fmt: skip
_LUMISELLA = Species(
    name="Lumisella runcinata", genus="Lumisella", family="Lumisellaceae",
    common_name="saw-leaved lumisel", outline=LANCEOLATE, margin="serrate", teeth=5,
    tooth_depth=0.8, venation="pinnate", veins=4, vein_contrast=0.5, division="simple", leaflets=1,
    arrangement="alternate", marking="none", petals=13, petal_width=0.26, petal_point=0.2,
    petal_notch=0.0, disc=0.42, disc_tone="yellow", petal_hue="white", leaf_hue="yellow-green",
)  # fmt: skip
_OSTRAVIA = Species(
    name="Ostravia marginata", genus="Ostravia", family="Lumisellaceae",
    common_name="hemmed ostravia", outline=OVATE, margin="entire", teeth=0, tooth_depth=0.0,
    venation="pinnate", veins=3, vein_contrast=-0.25, division="simple", leaflets=1,
    arrangement="opposite", marking="pale-edged", petals=8, petal_width=0.46, petal_point=1.0,
    petal_notch=0.0, disc=0.36, disc_tone="dark", petal_hue="yellow", leaf_hue="grass-green",
)  # fmt: skip
_QUILLARIS = Species(
    name="Quillaris striata", genus="Quillaris", family="Quillariaceae",
    common_name="striped quill", outline=LANCEOLATE, margin="entire", teeth=0, tooth_depth=0.0,
    venation="parallel", veins=5, vein_contrast=0.6, division="simple", leaflets=1,
    arrangement="alternate", marking="none", petals=3, petal_width=0.98, petal_point=1.0,
    petal_notch=0.0, disc=0.18, disc_tone="yellow", petal_hue="violet", leaf_hue="blue-green",
)  # fmt: skip
_THALESSA = Species(
    name="Thalessa graminea", genus="Thalessa", family="Quillariaceae",
    common_name="grass thaless", outline=LINEAR, margin="entire", teeth=0, tooth_depth=0.0,
    venation="parallel", veins=3, vein_contrast=-0.3, division="simple", leaflets=1,
    arrangement="whorled", marking="none", petals=6, petal_width=0.4, petal_point=1.0,
    petal_notch=0.0, disc=0.12, disc_tone="dark", petal_hue="white", leaf_hue="yellow-green",
)  # fmt: skip
_BRISANTHE = Species(
    name="Brisanthe digitata", genus="Brisanthe", family="Brisanthaceae",
    common_name="fingered brisanth", outline=STAR, margin="entire", teeth=0, tooth_depth=0.0,
    venation="palmate", veins=7, vein_contrast=-0.35, division="simple", leaflets=1,
    arrangement="alternate", marking="none", petals=5, petal_width=0.78, petal_point=0.15,
    petal_notch=0.0, disc=0.34, disc_tone="dark", petal_hue="yellow", leaf_hue="grass-green",
)  # fmt: skip
_FENNORA = Species(
    name="Fennora pinnata", genus="Fennora", family="Brisanthaceae",
    common_name="feathered fennor", outline=ROUND, margin="entire", teeth=0, tooth_depth=0.0,
    venation="pinnate", veins=2, vein_contrast=-0.25, division="pinnate", leaflets=7,
    arrangement="alternate", marking="none", petals=8, petal_width=0.46, petal_point=0.0,
    petal_notch=0.14, disc=0.2, disc_tone="yellow", petal_hue="pink", leaf_hue="blue-green",
)  # fmt: skip

SPECIES: tuple[Species, ...] = (
    _VERONA,
    replace(
        _VERONA, name="Verona cordifolia", common_name="heart-leaved verona", outline=HEART,
        margin="crenate", teeth=6, tooth_depth=0.22, venation="palmate", veins=7,
        vein_contrast=0.5, petal_hue="yellow", leaf_hue="blue-green",
    ),
    replace(
        _VERONA, name="Verona tenuis", common_name="slender verona", outline=LINEAR,
        margin="entire", teeth=0, tooth_depth=0.0, venation="parallel", veins=1,
        arrangement="whorled", petal_width=0.44, petal_hue="pink", leaf_hue="yellow-green",
    ),
    _CALDORIA,
    replace(
        _CALDORIA, name="Caldoria guttata", common_name="speckled caldoria", outline=ROUND,
        venation="pinnate", veins=3, vein_contrast=-0.25, marking="spotted", petal_hue="white",
        leaf_hue="grass-green",
    ),
    replace(
        _CALDORIA, name="Caldoria alata", common_name="winged caldoria", outline=ELLIPTIC,
        venation="pinnate", veins=3, vein_contrast=-0.25, division="pinnate", leaflets=7,
        petal_width=0.7, petal_point=1.0, petal_hue="violet", leaf_hue="yellow-green",
    ),
    _LUMISELLA,
    replace(
        _LUMISELLA, name="Lumisella rotunda", common_name="coin lumisel", outline=ROUND,
        margin="crenate", teeth=6, tooth_depth=0.26, venation="palmate", veins=6,
        vein_contrast=-0.35, petal_hue="pink", leaf_hue="grass-green",
    ),
    replace(
        _LUMISELLA, name="Lumisella quercina", common_name="oak lumisel", outline=ELLIPTIC,
        margin="lobed", teeth=3, tooth_depth=0.75, veins=3, vein_contrast=-0.3, petals=20,
        petal_width=0.16, disc=0.3, disc_tone="dark", petal_hue="yellow", leaf_hue="blue-green",
    ),
    _OSTRAVIA,
    replace(
        _OSTRAVIA, name="Ostravia sagittata", common_name="arrow ostravia", outline=ARROW,
        venation="palmate", veins=5, vein_contrast=0.6, marking="none", arrangement="alternate",
        petal_hue="white", leaf_hue="yellow-green",
    ),
    replace(
        _OSTRAVIA, name="Ostravia trifolia", common_name="clover ostravia", outline=CLEFT,
        marking="banded", division="trifoliate", leaflets=3, arrangement="alternate", disc=0.22,
        disc_tone="yellow", petal_hue="violet", leaf_hue="blue-green",
    ),
    _QUILLARIS,
    replace(
        _QUILLARIS, name="Quillaris latifolia", common_name="broad quill", outline=HEART,
        veins=7, vein_contrast=-0.35, petal_hue="pink", leaf_hue="grass-green",
    ),
    replace(
        _QUILLARIS, name="Quillaris maculata", common_name="spotted quill", outline=ELLIPTIC,
        veins=1, vein_contrast=-0.3, marking="spotted", petal_width=0.6, petal_point=1.0,
        petal_hue="yellow", leaf_hue="yellow-green",
    ),
    _THALESSA,
    replace(
        _THALESSA, name="Thalessa serrulata", common_name="saw thaless", outline=OVATE,
        margin="serrate", teeth=5, tooth_depth=0.4, veins=5, arrangement="opposite",
        petal_hue="pink", leaf_hue="blue-green",
    ),
    replace(
        _THALESSA, name="Thalessa zonata", common_name="banded thaless", outline=ELLIPTIC,
        veins=1, arrangement="opposite", marking="banded", petal_width=0.62, petal_point=0.2,
        disc=0.24, petal_hue="violet", leaf_hue="grass-green",
    ),
    _BRISANTHE,
    replace(
        _BRISANTHE, name="Brisanthe ternata", common_name="three-leaved brisanth",
        outline=ELLIPTIC, margin="serrate", teeth=4, tooth_depth=0.45, venation="pinnate",
        veins=4, vein_contrast=0.5, division="trifoliate", leaflets=3, petal_hue="white",
        leaf_hue="yellow-green",
    ),
    replace(
        _BRISANTHE, name="Brisanthe sinuata", common_name="waved brisanth", outline=OVATE,
        margin="lobed", teeth=3, tooth_depth=0.7, venation="pinnate", veins=3, vein_contrast=0.5,
        arrangement="opposite", petal_hue="violet", leaf_hue="blue-green",
    ),
    _FENNORA,
    replace(
        _FENNORA, name="Fennora crenata", common_name="scalloped fennor", outline=OVATE,
        margin="crenate", teeth=5, tooth_depth=0.34, veins=5, vein_contrast=-0.35,
        division="simple", leaflets=1, petal_hue="white", leaf_hue="grass-green",
    ),
    replace(
        _FENNORA, name="Fennora limbata", common_name="laced fennor", outline=LANCEOLATE,
        division="simple", leaflets=1, arrangement="whorled", marking="pale-edged", disc=0.34,
        disc_tone="dark", petal_hue="yellow", leaf_hue="yellow-green",
    ),
)  # fmt: skip

_NUMBERS = {
    3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 13: "thirteen",
    20: "twenty",
}  # fmt: skip


def _petal_shape(species: Species) -> str:
    tip = "rounded"
    if species.petal_notch > 0:
        tip = "notched"
    elif species.petal_point >= 0.5:
        tip = "pointed"
    girth = "narrow " if species.petal_width < 0.5 else "broad " if species.petal_width > 0.8 else ""
    return girth + tip


def describe(species: Species) -> str:
    """One exact sentence on the traits of a species, used as the caption of its pictures."""
    tone = "pale" if species.vein_contrast > 0 else "dark"
    marking = "" if species.marking == "none" else f" {species.marking}"
    form = f"{species.outline.name} {species.margin}{marking}"
    leaf = f"{species.arrangement} {form} leaves"
    if species.division != "simple":
        leaf = f"{species.arrangement} {species.division} leaves of {_NUMBERS[species.leaflets]} {form} leaflets"
    return (
        f"{species.name}, {species.common_name}: {leaf} with {tone} {species.venation} veins; "
        f"{_NUMBERS[species.petals]} {_petal_shape(species)} {species.petal_hue} petals "
        f"around a {species.disc_tone} disc."
    )
