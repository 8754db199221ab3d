"""Embed six proteins and look for each one's nearest neighbour.

An embedding is a vector for each protein: the mean of the model's hidden states over the residues. Proteins that do
the same work in the cell should lie close together. Two of the three pairs here do; lysozyme and lactalbumin parted so long
ago that the small model that comes with the suite does not see it.
"""

import numpy as np

from proteinlm import load

FASTA = """
>haemoglobin alpha
MVLSPADKTNVKAAWGKVGAHAGEYGAEALERMFLSFPTTKTYFPHFDLSHGSAQVKGHGKKVADALTNAVAHVDDMPNALSALSDLHAHKLRVDPVNFK
LLSHCLLVTLAAHLPAEFTPAVHASLDKFLASVSTVLTSKYR
>haemoglobin beta
MVHLTPEEKSAVTALWGKVNVDEVGGEALGRLLVVYPWTQRFFESFGDLSTPDAVMGNPKVKAHGKKVLGAFSDGLAHLDNLKGTFATLSELHCDKLHVD
PENFRLLGNVLVCVLAHHFGKEFTPPVQAAYQKVVAGVANALAHKYH
>lysozyme
KVFGRCELAAAMKRHGLDNYRGYSLGNWVCAAKFESNFNTQATNRNTDGSTDYGILQINSRWWCNDGRTPGSRNLCNIPCSALLSSDITASVNCAKKIVS
DGNGMNAWVAWRNRCKGTDVQAWIRGCRL
>lactalbumin
KQFTKCELSQLLKDIDGYGGIALPELICTMFHTSGYDTQAIVENNESTEYGLFQISNKLWCKSSQVPQSRNICDISCDKFLDDDITDDIMCAKKILDIKG
IDYWLAHKALCTEKLEQWLCEKL
>ubiquitin
MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG
>NEDD8
MLIKVKTLTGKEIEIDIEPTDKVERIKERVEEKEGIPPQQQRLIYSGKQMNDEKTAADYKILGGSVLHLVLALRGG
"""

proteins = dict(part.split("\n", 1) for part in FASTA.strip().lstrip(">").split("\n>"))
names = list(proteins)
vectors = load().embed([letters.replace("\n", "") for letters in proteins.values()])  # (6, 256)
print(f"{len(names)} proteins, each a vector of {vectors.shape[1]} numbers")

centred = vectors - vectors.mean(axis=0)
unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
similarity = unit @ unit.T - 2 * np.eye(len(names))  # a protein is not its own neighbour
for name, row in zip(names, similarity, strict=True):
    print(f"{name:18} is nearest to {names[row.argmax()]:18} (cosine {row.max():+.2f})")
