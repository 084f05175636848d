"""Secure aggregation: the server learns the sum of the cohort's vectors and nothing else about them.

Papers: Bonawitz et al. 2017 (SecAgg, CCS 2017, ePrint 2017/281); Bell et al. 2020 (SecAgg+, CCS 2020, ePrint 2020/704).
`quantisation` turns updates into integers and sums into means. `protocol` implements client and server of the masked
protocol. `per_element_protocol` discloses a sum only at elements with enough contributing clients. `ideal` computes the
same results without cryptography. This package does not depend on Flower.

The guarantee holds against an honest-but-curious server: public keys are not signed, and clients do not compare the
server's messages. It fails if clients collude: the sum minus all other vectors is the remaining vector.
"""
