"""Heads on the states of a backbone: of the language model, of residues, of proteins, of pairs of residues."""

from proteinlm.models.heads.base import Head as Head
from proteinlm.models.heads.language_model import LanguageModelHead as LanguageModelHead
from proteinlm.models.heads.language_model import NextResidueHead as NextResidueHead
from proteinlm.models.heads.language_model import UntiedLanguageModelHead as UntiedLanguageModelHead
from proteinlm.models.heads.pair import PairHead as PairHead
from proteinlm.models.heads.pair import PairLinear as PairLinear
from proteinlm.models.heads.pair import PairMLP as PairMLP
from proteinlm.models.heads.pair import PairResidualNetwork as PairResidualNetwork
from proteinlm.models.heads.protein import ProteinLightAttention as ProteinLightAttention
from proteinlm.models.heads.protein import ProteinLinear as ProteinLinear
from proteinlm.models.heads.protein import ProteinMean as ProteinMean
from proteinlm.models.heads.protein import ProteinMLP as ProteinMLP
from proteinlm.models.heads.protein import ProteinPositions as ProteinPositions
from proteinlm.models.heads.protein import ProteinWeightNorm as ProteinWeightNorm
from proteinlm.models.heads.residue import ResidueConvolution as ResidueConvolution
from proteinlm.models.heads.residue import ResidueLinear as ResidueLinear
from proteinlm.models.heads.residue import ResidueMLP as ResidueMLP
