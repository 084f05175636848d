"""Secure aggregation: the server learns the sum of the cohort's vectors and nothing else about them.

Papers: Bonawitz et al. 2017 (SecAgg, CCS 2017, ePrint 2017/281); Bell et al. 2020 (SecAgg+, CCS 2020, ePrint 2020/704).
`quantisation` turns updates into integers and sums into means, `protocol` holds the two sides of the masked
protocol, `per_element_protocol` those of one that tells a sum only where enough clients contributed, and `ideal`
computes what they tell. Nothing here depends on Flower.

The guarantee holds against an honest-but-curious server: public keys are not signed, and clients do not compare what
the server sends them. It fails where clients collude: all other vectors of a sum give away the last one.
"""
