"""The config of every method, and of what else takes one: options with their defaults, for editors to complete.

    from entoptic.configs import Maco, Vital
    entoptic.see(model, "logits:207", method=[Vital(steps=500), Maco(crops=8)])

Importing this module costs nothing: it loads no torch.
"""

from entoptic.dictionaries.recipe import DictionaryRecipe
from entoptic.inversion.configs import EntopticRecipe, PaperRecipe, Sampling, Steer
from entoptic.methods.accentuate import Accentuate
from entoptic.methods.best_of import BestOf
from entoptic.methods.caricature import Caricature
from entoptic.methods.deep_inversion import DeepInversion, DeepInversionAdaptive
from entoptic.methods.diverse import Diverse
from entoptic.methods.energydps import EnergyDps
from entoptic.methods.fourier import Fourier
from entoptic.methods.invert import Invert
from entoptic.methods.klsc import Klsc
from entoptic.methods.klsc_twisted import KlscTwisted
from entoptic.methods.maco import Maco
from entoptic.methods.pixels import PixelAscent
from entoptic.methods.prompt import Prompt
from entoptic.methods.prompt_class import PromptClass
from entoptic.methods.prompt_words import PromptWords
from entoptic.methods.retrieval import Retrieval, RetrievalBottom, RetrievalTilted
from entoptic.methods.steer import SteerConcepts
from entoptic.methods.vital import Vital
from entoptic.methods.vital_paper import VitalPaper
from entoptic.priors.recipe import Recipe

__all__ = [
    "Accentuate",
    "BestOf",
    "Caricature",
    "DeepInversion",
    "DeepInversionAdaptive",
    "DictionaryRecipe",
    "Diverse",
    "EnergyDps",
    "EntopticRecipe",
    "Fourier",
    "Invert",
    "Klsc",
    "KlscTwisted",
    "Maco",
    "PaperRecipe",
    "PixelAscent",
    "Prompt",
    "PromptClass",
    "PromptWords",
    "Recipe",
    "Retrieval",
    "RetrievalBottom",
    "RetrievalTilted",
    "Sampling",
    "Steer",
    "SteerConcepts",
    "Vital",
    "VitalPaper",
]
