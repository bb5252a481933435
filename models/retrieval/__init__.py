"""Deep Retrieval (Gao et al., arXiv 2007.07203): a learned K x D structure of paths that items are placed on.

`network` and `model` train (torch); `beam`, `structure` and `retriever` serve (numpy and numba, no torch).
Knows no stream, no parameter server and no files.
"""
