"""Weights in few bits: codebooks, blockwise quantisation, and layers that compute with it."""

from course_utils.quantization.awq import awq, output_error
from course_utils.quantization.blockwise import (
    QuantizedScales,
    QuantizedTensor,
    dequantize_blockwise,
    quantization_error,
    quantize_blockwise,
    quantize_scales,
    relative_error,
)
from course_utils.quantization.codebooks import (
    dynamic_codebook,
    fp4_codebook,
    integer_codebook,
    nf4_codebook,
)
from course_utils.quantization.gptq import gptq
from course_utils.quantization.linear import NF4Linear, quantize_model

__all__ = [
    "NF4Linear",
    "QuantizedScales",
    "QuantizedTensor",
    "awq",
    "dequantize_blockwise",
    "dynamic_codebook",
    "fp4_codebook",
    "gptq",
    "integer_codebook",
    "nf4_codebook",
    "output_error",
    "quantization_error",
    "quantize_blockwise",
    "quantize_model",
    "quantize_scales",
    "relative_error",
]
