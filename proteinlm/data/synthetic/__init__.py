"""The embedded universe: made-up proteins with folds, families, and labels that follow from both."""

from proteinlm.data.synthetic.records import SIZES as SIZES
from proteinlm.data.synthetic.records import corpus as corpus
from proteinlm.data.synthetic.records import labelled as labelled
