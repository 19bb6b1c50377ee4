"""The memory that a run takes, by what it allocates.

A process that takes sums holds, for each of its threads, a block of rows as stored and decoded, the
thread's labels, a leaf in float64 and some vectors; besides, sums that wait for each other, the
slabs that are resident, and in the client the run the sample of rows and what its solve needs. The
page cache belongs to the system and does not count. Tests and scripts/memory_contract.py hold the
projection against what fresh processes come to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from streamlr.data.footprint import Footprint
from streamlr.data.partition import Partition, partition_rows
from streamlr.data.source import rows_of_memory_chunk
from streamlr.kernels.hessian import hessian_leaf_rows
from streamlr.kernels.residuals import MOST_FEATURES_OF_PRODUCTS, residual_leaf_rows
from streamlr.kernels.scans.fold_scores import LEAST_BINS, MOST_CELLS
from streamlr.pilot.size import MOST_ANCHORS, NEWTON_PARAMETERS, is_dense

FIRST_USE_BYTES = 12 * 2**20
"""What libraries set up on their first use: BLAS its buffers, codecs theirs, Zarr its event loop.
"""
FIRST_USE_OF_THREAD_BYTES = 7 * 2**20
"""The same for each thread, with its stack and what its arena keeps of freed blocks."""
WAITING_THREAD_BYTES = 14 * 2**20
"""What the arena of a worker's thread keeps though others have their turn: each of them has its
turns too."""
WORKER_BYTES = 82 * 2**20
"""A Dask worker before it has read anything, where none can be asked."""
CLUSTER_BYTES = 22 * 2**20
"""What a scheduler and a client add to the client, where they are not there yet."""
LEAF_VECTORS = 7
"""Vectors of a leaf's length and (K c) rows in the loss and its derivative."""
COUPLED_VECTORS = (1.1, 2.4, 3.0)
"""Of coupled outputs, vectors of a leaf's length: for each output of each candidate, for each
output, and for each candidate."""
SURVEY_VECTORS = 3
"""Of several outputs: Y, what is left of its mean, and one product."""
MOST_PACKED_BYTES = 8 * 2**20
"""Of a leaf that BLAS copies into an order of its own for a product, at most."""
PART_NUMBERS = 8
"""For each output of each part of the rows whose moments are told apart, about."""
DRAW_BYTES = 17
"""Of each row of a block, while the hash of its number decides whether it belongs to the sample."""
SPLIT_BYTES = 40
"""Of each row of a leaf, while it is found out whether it is held out: its number or group, their
hash and what it is held against."""
HESSIANS_OF_THREAD = 3
"""The sum so far, that of a leaf and the product it is made of; or two and their sum."""
HESSIANS_OF_INVERSE = 5
"""A Hessian, its Cholesky factor, the factor's inverse, and two copies that LAPACK works on."""
PRODUCTS_KEPT = 2
"""Of least squares: the features' products and the inverse of their factor."""
ROWS_KEPT = 2
"""Of least squares with few rows: what spans them, and the steps."""
COPIES_OF_ROWS = 6
"""While these are made."""
COPIES_OF_RESIDUALS = 12
"""Of a leaf whose residuals are had in twice the working precision: it as a pair and in five
slices, and what these are made with."""
COPIES_OF_PAIRS = 12
"""Of products as pairs: their sum so far, those of a leaf and what is added up between."""
METRICS_OF_MODEL = 2
"""Of the proximal solver, beside its metric: the part of it that is corrected and solved, and the
copy that LAPACK works on."""
ADDED_UP_HESSIANS = 1.5
"""Of the two terms that a worker has added up, those that it still has when the next slab begins:
the scheduler's word to let go comes a moment later."""
WHOLE_LEAVES = 3
"""Leaves with a row of ones, as they are, weighted and scaled, beside the columns that a coupled
Hessian is the product of."""
SAMPLES_SENT = 1
"""Times that the sample lies in the one worker that joins the rows of all, where it goes straight
to the client."""
SAMPLES_FORWARDED = 3
"""The same where it leaves through the scheduler."""
TAKEN_OVER_SLABS = 2
"""Held slabs that an idle worker may take over from another."""
MARGIN = 1.05
"""What is projected over what adds up: allocators round up, and which threads meet at their peaks
is chance."""
STATE_VECTORS = 110
"""Vectors of a solver's state: 20 pairs of moves and changes and the copies made when one is added,
candidates, and their gradients."""
CONJUGATE_VECTORS = 20
"""Vectors of conjugate gradients, which solve for a step where it is none."""
MOST_CURVATURE_BYTES = 256 * 2**20
"""Of the Hessians that the models of a path keep as their metrics."""
SUMS_OF_THREAD = 4
"""Sums of many models: so far, of a leaf, and as they are turned and added."""


@dataclass(frozen=True, slots=True)
class RunShape:
    """What a run asks for, as far as memory goes."""

    partition: Partition
    """Blocks, leaves, slabs."""
    n_features: int
    itemsize: int
    """Bytes of a stored value."""
    outputs: int
    """c, 1 for two classes."""
    candidates: int
    """K, points evaluated in one pass."""
    newton: bool
    """Whether every pass sums a Hessian."""
    sample_rows: int
    """Rows drawn into the sample; 0 where there is none."""
    reading: Footprint
    """Of a block of features."""
    labels: Footprint
    """Of the labels and weights of a block."""
    proximal: bool = False
    """Whether the metric is corrected and solved anew in every pass."""
    holdout: bool = False
    """Whether some rows are held out."""
    models: int = 1
    """Models that are fitted together; 1 where there is no path."""
    strengths: int = 1
    """Penalties that they have between them: models that differ in their fold alone share their
    metric."""
    parts: int = 0
    """Parts of the rows whose moments the first pass tells apart; 0 for none."""
    feature_parts: bool = False
    """Whether that goes for the features too."""
    products: bool = False
    """Whether the statistics pass sums the products of the features with one another."""
    squares: bool = False
    """Whether they are the Hessian, which is factored, and residuals are had in twice the working
    precision."""
    look_rows: int = 0
    """Rows drawn where there is no sample."""

    @property
    def row_bytes(self) -> int:
        return self.n_features * self.itemsize

    @property
    def sample_bytes(self) -> int:
        return self.sample_rows * self.row_bytes

    @property
    def drawn_bytes(self) -> int:
        """Of the rows that the statistics pass draws."""
        return max(self.sample_rows, self.look_rows) * self.row_bytes

    @property
    def hessian_bytes(self) -> int:
        """(n + 1)² c² numbers."""
        return ((self.n_features + 1) * self.outputs) ** 2 * 8

    @property
    def products_bytes(self) -> int:
        """Of the products of the features with one another, where they are summed."""
        return self.products * 8 * self.n_features**2

    @property
    def rows_bytes(self) -> int:
        """Of all rows of least squares, where they take the place of these products."""
        return self.squares * 8 * self.sample_rows * self.n_features

    @property
    def dense_metric(self) -> bool:
        """Whether the sample's curvature is written down as a matrix."""
        parameters = (self.n_features + 1) * self.outputs
        return is_dense(self.sample_rows, parameters, coupled=self.outputs > 1)

    @property
    def metric_bytes(self) -> int:
        """Of the sample's curvature: its Hessian, or of many outputs the two factors of a Kronecker
        product and vectors for conjugate gradients."""
        return (
            self.hessian_bytes
            if self.dense_metric
            else self.factor_bytes + CONJUGATE_VECTORS * self.vector_bytes
        )

    @property
    def factor_bytes(self) -> int:
        """Of the two factors of a Kronecker product."""
        return 8 * ((self.n_features + 1) ** 2 + self.outputs**2)

    @property
    def vector_bytes(self) -> int:
        """Of one vector of parameters."""
        return 8 * (self.n_features + 1) * self.outputs

    @property
    def kept_sample_bytes(self) -> int:
        """Of the sample, where it is the metric of all passes."""
        return 0 if self.dense_metric else self.sample_bytes

    @property
    def state_bytes(self) -> int:
        metric = self.metric_bytes if self.sample_rows else 0
        if self.squares:
            metric = PRODUCTS_KEPT * self.products_bytes + ROWS_KEPT * self.rows_bytes
        return self.curvatures * metric + self.models * STATE_VECTORS * self.vector_bytes

    @property
    def curvatures(self) -> int:
        """Metrics that are kept: one, or of a path as many as have room."""
        return max(1, min(self.strengths, MOST_CURVATURE_BYTES // self.metric_bytes))

    @property
    def sums_bytes(self) -> int:
        """Of the sums of all candidates of a path, or of the bins of their scores; those of a few
        candidates are nothing beside a block."""
        bins = 2 * 8 * max(MOST_CELLS, self.models * LEAST_BINS)
        return 0 if self.models == 1 else max(bins, self.candidates * self.vector_bytes)

    @property
    def part_bytes(self) -> int:
        """Of the moments of all parts."""
        by_feature = 2 * self.n_features * self.feature_parts
        return 8 * self.parts * (by_feature + PART_NUMBERS * self.outputs)

    @property
    def model_bytes(self) -> int:
        """Of what is computed between two passes."""
        newton = HESSIANS_OF_INVERSE * self.hessian_bytes * self.newton
        if self.squares:
            newton = (HESSIANS_OF_INVERSE - PRODUCTS_KEPT) * self.products_bytes
        return newton + METRICS_OF_MODEL * self.metric_bytes * (
            self.proximal and self.sample_rows > 0
        )

    @property
    def resident_bytes(self) -> int:
        return self.partition.resident_rows * self.row_bytes


def local_peak(shape: RunShape, threads: int, base: int, cores: int = 1) -> int:
    """Bytes of a process that takes the sums itself, on so many threads, and held ``base`` before;
    some samples are solved on all cores nevertheless."""
    kept = base + FIRST_USE_BYTES + shape.labels.shared_bytes + threads * _thread_bytes(shape)
    first_pass = (
        threads * (_moment_bytes(shape) + _moment_vectors(shape))
        + shape.drawn_bytes
        + _levels(shape.partition.n_slabs) * shape.products_bytes
    )
    first_pass += _parts_waiting(shape)
    solvers = max(threads, cores) if shape.proximal or not shape.dense_metric else threads
    solve = shape.drawn_bytes + _sample_solve(shape, threads, solvers - threads)
    if shape.sample_rows:
        kept += (solvers - threads) * (FIRST_USE_OF_THREAD_BYTES + _sample_leaf(shape))
    passes = max(threads * _pass_bytes(shape) + _waiting(shape, threads), shape.model_bytes)
    return shape.resident_bytes + round(
        MARGIN
        * (kept + max(first_pass, solve, shape.kept_sample_bytes + shape.state_bytes + passes))
    )


def worker_peak(
    shape: RunShape,
    threads: int,
    processes: int,
    base: int,
    samples: int = SAMPLES_FORWARDED,
    waiting: int = 0,
) -> int:
    """Bytes of one of several worker processes, on so many threads each, beside which others wait;
    one process has the sample so many times."""
    share = -(-shape.partition.resident_slabs // processes) + TAKEN_OVER_SLABS * (
        processes > 1 and shape.partition.resident_slabs > 0
    )
    held = share * shape.partition.slab_blocks * shape.partition.block_rows * shape.row_bytes
    kept = (
        base
        + FIRST_USE_BYTES
        + shape.labels.shared_bytes
        + threads * _thread_bytes(shape)
        + waiting * WAITING_THREAD_BYTES
    )
    first_pass = threads * (_moment_bytes(shape) + _moment_vectors(shape)) + _parts_waiting(shape)
    passes = threads * _pass_bytes(shape) + _waiting(shape, threads)
    if shape.newton and shape.partition.n_slabs > 1:
        passes += round(ADDED_UP_HESSIANS * shape.hessian_bytes)
    if shape.partition.n_slabs > 1:
        first_pass += round(
            (_levels(shape.partition.n_slabs) + ADDED_UP_HESSIANS) * shape.products_bytes
        )
    return min(held, shape.resident_bytes) + round(
        MARGIN * (kept + max(first_pass, samples * shape.drawn_bytes, passes))
    )


def client_peak(shape: RunShape, threads: int, base: int) -> int:
    """Bytes of the client of a run whose sums are taken elsewhere; it solves the sample on so many
    threads."""
    kept = base + FIRST_USE_BYTES
    if shape.sample_rows:
        kept += threads * (FIRST_USE_OF_THREAD_BYTES + _sample_leaf(shape) + _sample_vectors(shape))
    solve = shape.drawn_bytes + _sample_solve(shape, threads)
    summed = shape.hessian_bytes * shape.newton + shape.products_bytes
    return round(
        MARGIN
        * (
            kept
            + max(solve, shape.kept_sample_bytes + shape.state_bytes + shape.model_bytes + summed)
        )
    )


def _leaf_bytes(shape: RunShape) -> int:
    """A leaf in float64; one of a Hessian has at least as many rows as there are features."""
    rows = shape.partition.leaf_rows
    if shape.newton or shape.products:
        rows = min(max(rows, shape.n_features), shape.partition.block_rows)
    return rows * shape.n_features * 8


def _thread_bytes(shape: RunShape) -> int:
    """What stays with a thread from block to block. A block that is held is decoded to pages of its
    own."""
    all_resident = shape.partition.resident_slabs == shape.partition.n_slabs
    reading = shape.reading.stored_bytes + (0 if all_resident else shape.reading.decoded_bytes)
    leaf = shape.partition.leaf_rows * shape.n_features * 8
    workspace = max(_leaf_bytes(shape), _sample_leaf(shape), leaf)
    vectors = (
        LEAF_VECTORS * shape.candidates * shape.partition.leaf_rows * 8 if shape.outputs == 1 else 0
    )
    if shape.holdout:
        vectors += (2 * 8 * shape.candidates + SPLIT_BYTES) * shape.partition.leaf_rows
    packed = min(_leaf_bytes(shape), MOST_PACKED_BYTES)
    return (
        FIRST_USE_OF_THREAD_BYTES + reading + shape.labels.kept_bytes + workspace + vectors + packed
    )


def _coupled_vectors(shape: RunShape, leaf_rows: int, candidates: int) -> int:
    """Of several outputs, vectors that go with every leaf, since they are large enough to be blocks
    of their own; those of one output stay with the thread."""
    if shape.outputs == 1:
        return 0
    each, by_output, by_candidate = COUPLED_VECTORS
    return round(
        (each * candidates * shape.outputs + by_output * shape.outputs + by_candidate * candidates)
        * leaf_rows
        * 8
    )


def _coupled_columns(shape: RunShape, partition: Partition) -> int:
    """What the Hessian of coupled outputs is the product of, with the rows that it is made of."""
    if shape.outputs == 1:
        return 0
    rows = min(
        hessian_leaf_rows(partition.leaf_rows, shape.n_features, shape.outputs),
        partition.block_rows,
    )
    return (shape.outputs + WHOLE_LEAVES) * (shape.n_features + 1) * rows * 8


def _moment_vectors(shape: RunShape) -> int:
    several = (
        SURVEY_VECTORS * shape.outputs * shape.partition.leaf_rows * 8 if shape.outputs > 1 else 0
    )
    if not shape.parts:
        return several
    of_row = (
        SPLIT_BYTES + 8 * shape.outputs + shape.row_bytes * shape.feature_parts
    )  # sorted by parts
    before = math.ceil(math.log2(shape.partition.slab_blocks)) + SUMS_OF_THREAD
    return several + of_row * shape.partition.leaf_rows + before * shape.part_bytes


def _parts_waiting(shape: RunShape) -> int:
    """Moments of parts that wait for others to be added to."""
    return _levels(shape.partition.n_slabs) * shape.part_bytes


def _moment_bytes(shape: RunShape) -> int:
    """What comes and goes with a block of the first pass."""
    draw = (
        DRAW_BYTES * shape.partition.block_rows if shape.sample_rows < shape.partition.n_rows else 0
    )
    before = math.ceil(math.log2(shape.partition.slab_blocks)) + HESSIANS_OF_THREAD
    return (
        max(shape.reading.passing_bytes, shape.labels.passing_bytes, draw)
        + before * shape.products_bytes
    )


def _pass_bytes(shape: RunShape) -> int:
    """What comes and goes with a block of a later pass, with the sums of the blocks of its slab
    before it."""
    vectors = _coupled_vectors(shape, shape.partition.leaf_rows, shape.candidates)
    if shape.squares:
        return max(shape.reading.passing_bytes, _residual_bytes(shape.n_features))
    if not shape.newton:
        before = math.ceil(math.log2(shape.partition.slab_blocks)) + SUMS_OF_THREAD
        return max(shape.reading.passing_bytes, vectors) + before * shape.sums_bytes
    before = math.ceil(math.log2(shape.partition.slab_blocks)) * shape.hessian_bytes
    return before + max(
        shape.reading.passing_bytes,
        HESSIANS_OF_THREAD * shape.hessian_bytes + _coupled_columns(shape, shape.partition),
        vectors,
    )


def _residual_bytes(n: int) -> int:
    """A leaf in twice the working precision, and of few features also their products."""
    alone = COPIES_OF_RESIDUALS * 8 * n * residual_leaf_rows(n, products=False)
    if n > MOST_FEATURES_OF_PRODUCTS:
        return alone
    return max(
        alone,
        COPIES_OF_RESIDUALS * 8 * n * residual_leaf_rows(n, products=True)
        + COPIES_OF_PAIRS * 8 * n**2,
    )


def _waiting(shape: RunShape, threads: int) -> int:
    """Sums that wait for others to be added to."""
    return _levels(shape.partition.n_slabs) * (
        shape.hessian_bytes if shape.newton else shape.sums_bytes
    )


def _levels(n_slabs: int) -> int:
    return max(0, math.ceil(math.log2(max(1, n_slabs))) - 1)


def _sample_partition(shape: RunShape) -> Partition:
    return partition_rows(
        shape.sample_rows,
        shape.n_features,
        rows_of_memory_chunk(shape.row_bytes),
        shape.itemsize,
        shape.outputs,
    )


def _sample_leaf(shape: RunShape) -> int:
    """A leaf of the sample in float64, of a pass that sums a Hessian."""
    if not shape.sample_rows or shape.squares:
        return 0
    partition = _sample_partition(shape)
    return (
        min(max(partition.leaf_rows, shape.n_features), partition.block_rows, shape.sample_rows)
        * shape.n_features
        * 8
    )


def _sample_vectors(shape: RunShape) -> int:
    """Vectors of a leaf of the sample, which the models of a path are evaluated on together; those
    of a few candidates are nothing beside it."""
    if shape.models == 1 or shape.outputs > 1:
        return 0
    leaf_rows = partition_rows(
        shape.sample_rows,
        shape.n_features,
        rows_of_memory_chunk(shape.row_bytes),
        shape.itemsize,
        shape.candidates,
    ).leaf_rows
    return LEAF_VECTORS * shape.candidates * leaf_rows * 8


def _sample_solve(shape: RunShape, threads: int, others: int = 0) -> int:
    """Hessians while the sample is solved, or of many outputs the sums of its factors, L-BFGS with
    them, and leaves in half the digits.

    Other threads than those of the engine are reckoned to have one candidate each, since in a
    sample more are an exception.
    """
    if not shape.sample_rows:
        return 0
    if shape.squares:
        return COPIES_OF_ROWS * shape.rows_bytes
    partition = _sample_partition(shape)
    busy = min(threads + others, partition.n_blocks)
    tree = HESSIANS_OF_THREAD * busy + _levels(partition.n_blocks)
    matrices = max(tree, HESSIANS_OF_INVERSE) + (
        shape.n_features * shape.outputs > NEWTON_PARAMETERS
    )
    vectors, fewer = (
        _coupled_vectors(shape, partition.leaf_rows, candidates)
        for candidates in (shape.candidates, 1)
    )
    if shape.models > 1:
        return (
            (matrices + min(MOST_ANCHORS, shape.strengths)) * shape.metric_bytes
            + shape.state_bytes
            + busy * vectors
        )
    if shape.dense_metric:
        return matrices * shape.hessian_bytes + busy * max(
            vectors, _coupled_columns(shape, partition)
        )
    ours = min(threads, busy)
    solver = (STATE_VECTORS + CONJUGATE_VECTORS) * shape.vector_bytes
    return (
        matrices * shape.factor_bytes
        + solver
        + ours * vectors
        + (busy - ours) * fewer
        + busy * partition.leaf_rows * shape.n_features * 4
    )
