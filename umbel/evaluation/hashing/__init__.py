"""Hash codes: CroVCA and the baselines that keep it honest, packed codes, exact search, retrieval measures.

from umbel.evaluation.hashing import fit_crovca, hamming_search, pack
coder = fit_crovca(views, bits=32)        # (R, N, C) embeddings of augmented views
distances, rows = hamming_search(pack(coder.encode(queries)), pack(coder.encode(database)), k=10)
"""

from umbel.evaluation.hashing.baselines import ITQ, LSH, PCARotation, PCASign
from umbel.evaluation.hashing.coder import HashCoder
from umbel.evaluation.hashing.codes import Codes, pack, unpack
from umbel.evaluation.hashing.evaluate import (
    CodeHealth,
    Convention,
    Score,
    code_health,
    make_task,
    score_codes,
    score_features,
    score_hasher,
)
from umbel.evaluation.hashing.fit import fit_crovca
from umbel.evaluation.hashing.loss import crovca_loss
from umbel.evaluation.hashing.photograph_views import PhotographViewsConfig, view_embeddings
from umbel.evaluation.hashing.search import asymmetric_search, cosine_search, hamming_search
from umbel.evaluation.hashing.stored import BASELINES, Hasher, load_hasher, save_hasher
from umbel.evaluation.hashing.train_coders import CrovcaConfig, FitLog

__all__ = [
    "BASELINES",
    "ITQ",
    "LSH",
    "CodeHealth",
    "Codes",
    "Convention",
    "CrovcaConfig",
    "FitLog",
    "HashCoder",
    "Hasher",
    "PCARotation",
    "PCASign",
    "PhotographViewsConfig",
    "Score",
    "asymmetric_search",
    "code_health",
    "cosine_search",
    "crovca_loss",
    "fit_crovca",
    "hamming_search",
    "load_hasher",
    "make_task",
    "pack",
    "save_hasher",
    "score_codes",
    "score_features",
    "score_hasher",
    "unpack",
    "view_embeddings",
]
