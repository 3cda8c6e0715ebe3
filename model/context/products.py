"""Products of vectors and matrices, with vector instructions.

Half of the context network's time goes into these products. From loops in Python, Numba makes narrower instructions,
and loads and stores the sums more often. So the innermost loop is built here from instructions of LLVM, the compiler
behind Numba, which translates vectors of any length for every processor. The sums stay in registers.

Float32: the rows of the matrix are added one after the other. The order must stay: the same numbers added in another
order round to other bits, and the decoder fails. Integers: exact in any order, if no sum exceeds 31 bits.
"""

import functools
from collections.abc import Callable

import numpy as np

from utils.compiled import compiled, numba

_LANES = 8  # numbers of 32 bits in a vector; the number of columns must be a multiple


def pair_inputs(rows: np.ndarray) -> np.ndarray:
    """Arrange the weights of integer layers for make_product(): [..., outputs, 2 R] becomes [..., R, outputs, 2]."""
    *layers, outputs, inputs = rows.shape
    return np.ascontiguousarray(np.swapaxes(rows.reshape(*layers, outputs, inputs // 2, 2), -3, -2))


def make_product(width: int) -> Callable[[np.ndarray, np.ndarray, np.ndarray], None]:
    """A function add_product(sums, x, matrix), compiled for matrices with `width` columns.

    It adds x [P, R] @ matrix [R, width] to sums [P, width], all float32; or x int16 [P, 2 R] times matrix int16
    [R, width, 2], as pair_inputs() arranges it, to sums int32 [P, width]. x may have more rows.
    """

    def add_rows(sums, x, matrix):
        x = x[: len(sums)]
        if matrix.dtype == np.int16:
            sums += x.astype(np.int32) @ np.swapaxes(matrix, 1, 2).reshape(-1, width)
        else:
            for j, row in enumerate(matrix):
                sums += x[:, j, None] * row

    @functools.partial(compiled, plain=add_rows)
    def add_product(sums, x, matrix):
        for p in range(len(sums)):
            _add_row(sums[p], x[p], matrix, width)  # type: ignore[call-arg]  # Numba passes the first one

    return add_product


if numba is not None:
    from llvmlite import ir
    from numba.core import cgutils
    from numba.extending import intrinsic

    _INT16, _INT32, _INT64 = (ir.IntType(bits) for bits in (16, 32, 64))

    @intrinsic(prefer_literal=True)
    def _add_row(_, sums, x, matrix, width):
        """Add x @ matrix to sums [width]. Numba calls this for the types, and then generate() for the code."""
        integers = isinstance(matrix.dtype, numba.types.Integer)
        number, size = (_INT32, 2) if integers else (ir.FloatType(), 1)  # size: inputs to a row of the matrix
        vector, wide = (ir.VectorType(number, n * _LANES) for n in (1, size))
        stored = ir.VectorType(_INT16, size * _LANES) if integers else vector

        def vectors(builder, start, kind):
            first = builder.bitcast(start, kind.as_pointer())
            return [builder.gep(first, [_INT64(i)]) for i in range(width.literal_value // _LANES)]

        def load(builder, pointer):
            value = builder.load(pointer)
            value.align = 2 if integers else 4
            return value

        def choose(builder, values, lanes):
            return builder.shuffle_vector(values, values.type(ir.Undefined), ir.VectorType(_INT32, _LANES)(lanes))

        def multiply(builder, a, b):
            """The products of floats, or the sums of two neighbouring products of integers: one instruction of x86."""
            if not integers:
                return builder.fmul(a, b)
            products = builder.mul(builder.sext(a, wide), builder.sext(b, wide))
            return builder.add(*(choose(builder, products, [*range(odd, 2 * _LANES, 2)]) for odd in range(2)))

        def generate(context, builder, signature, arguments):
            to, inputs, rows = (
                cgutils.create_struct_proxy(kind)(context, builder, value)
                for kind, value in zip(signature.args[:3], arguments[:3], strict=True)
            )
            ends = vectors(builder, to.data, vector)
            steps = builder.bitcast(inputs.data, number.as_pointer())  # of one float or two integers
            add = builder.add if integers else builder.fadd
            totals = [cgutils.alloca_once_value(builder, load(builder, end)) for end in ends]  # LLVM keeps registers
            with cgutils.for_range(builder, builder.extract_value(rows.shape, 0)) as loop:
                step = load(builder, builder.gep(steps, [loop.index]))
                step = builder.insert_element(vector(ir.Undefined), step, _INT32(0))
                step = builder.bitcast(choose(builder, step, [0] * _LANES), stored)
                row = builder.gep(rows.data, [builder.mul(loop.index, _INT64(size * width.literal_value))])
                for total, pointer in zip(totals, vectors(builder, row, stored), strict=True):
                    product = multiply(builder, step, load(builder, pointer))
                    builder.store(add(builder.load(total), product), total)
            for total, end in zip(totals, ends, strict=True):
                builder.store(builder.load(total), end).align = 4
            return context.get_dummy_value()

        return numba.types.void(sums, x, matrix, width), generate
