"""Online training: sample blocks in, row gradients and dense versions out, exactly once, evaluated en route.

Knows no HTTP and no Faust. `loop` is the centre; all that touches Kafka is in `source`.
"""
