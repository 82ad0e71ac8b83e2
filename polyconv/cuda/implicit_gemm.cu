// Implicit GEMM: convolution as the matrix product of im2col, whose columns are never stored.
//
// The product's rows are the outputs of all images, its columns filters, and it sums over taps and channels. A block of
// threads makes ROWS by COLUMNS of it, slab after slab of DEPTH products: what the next slab needs is fetched from the
// image, through a table of taps, while this one is multiplied in shared memory, TALL by WIDE in each thread's
// registers (Chetlur et al., "cuDNN: efficient primitives for deep learning", arXiv:1410.0759).
//
// Constants that come before this text:
//
// X, Y             the types of elements of the image and of the result
// T                that of the kernel, and of sums
// AXES             spatial axes
// ROWS, COLUMNS    of the result, made by one block of threads
// TALL, WIDE       of these, made by one thread
// DEPTH            products between two synchronisations
// VECTOR           channels fetched at once; more than one where they are neighbours in memory
// STORE            filters stored at once, likewise
// STORE_ROWS       outputs stored at once, where they are such neighbours instead
// ALONG_ROWS       whether neighbouring threads make neighbouring rows, for neighbours in memory, rather than columns
// BLOCKS           blocks that a multiprocessor shall hold at once

struct Geometry { // lengths, and steps in elements
    long long rows, filters, depth;
    long long x_image, x_group, x_channel, x_space[AXES];
    long long y_image, y_group, y_filter, y_space[AXES];
    long long size[AXES], outputs[AXES], stride[AXES], low[AXES];
};

constexpr int DOWN = ROWS / TALL, ACROSS = COLUMNS / WIDE, THREADS = DOWN * ACROSS;
constexpr int PIECE = 16 / sizeof(T) < TALL ? 16 / sizeof(T) : TALL; // neighbouring rows of a thread, and columns
constexpr int PIECE_W = 16 / sizeof(T) < WIDE ? 16 / sizeof(T) : WIDE;
constexpr int EACH = ROWS * DEPTH / THREADS; // fetched of the image by each thread, all of one row
constexpr int EACH_W = COLUMNS * DEPTH / THREADS;
constexpr int FETCH_W = EACH_W < PIECE_W ? EACH_W : PIECE_W;
constexpr int LINES = THREADS * FETCH_W / COLUMNS; // of a slab of the kernel, fetched by all threads at once
constexpr int PAD = 16 / sizeof(T); // keeps threads that store a column of the slab out of one another's banks
static_assert(THREADS * EACH == ROWS * DEPTH && DEPTH % EACH == 0 && EACH % VECTOR == 0, "rows are shared out evenly");
static_assert(THREADS * EACH_W == COLUMNS * DEPTH && EACH_W % FETCH_W == 0 && LINES * COLUMNS == THREADS * FETCH_W, "columns are shared out evenly");
static_assert(TALL % PIECE == 0 && WIDE % PIECE_W == 0, "a thread's part falls into pieces");
static_assert(PIECE_W % STORE == 0 && PIECE % STORE_ROWS == 0 && (STORE == 1 || STORE_ROWS == 1), "pieces are stored whole");

struct Place {
    unsigned image;
    int at[AXES];
};

// Which image an output is of, and where in it.
__device__ __forceinline__ Place place(const Geometry &g, unsigned row) {
    Place p;
#pragma unroll
    for (int axis = AXES - 1; axis >= 0; --axis) {
        const unsigned length = g.outputs[axis], rest = row / length;
        p.at[axis] = row - rest * length;
        row = rest;
    }
    p.image = row;
    return p;
}

// x   the images, (N, G, C, *size) by the steps of `g`
// w   the kernel, (G, depth, columns), filled up with zeros to whole slabs and blocks
// taps   (depth, AXES + 1): where along each axis a product's pixel lies from its window's corner, and its channel;
//     what fills up the last slab lies outside of every image
// y   the result, (N, G, K, *outputs) by the steps of `g`
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
implicit_gemm(const X *__restrict__ x, const T *__restrict__ w, const int *__restrict__ taps, Y *__restrict__ y,
              const Geometry g) {
    alignas(16) __shared__ T image[2][DEPTH][ROWS + PAD];
    alignas(16) __shared__ T kernel[2][DEPTH][COLUMNS];

    const int thread = threadIdx.x;
    const unsigned panels = (g.filters + COLUMNS - 1) / COLUMNS, columns = panels * COLUMNS;
    const unsigned first_row = blockIdx.x / panels * ROWS, first_column = blockIdx.x % panels * COLUMNS;
    const unsigned group = blockIdx.y;

    // The row whose pixels this thread fetches, and which of a slab's.
    const int row = VECTOR > 1 ? thread / (DEPTH / EACH) : thread % ROWS;
    const int start = (VECTOR > 1 ? thread % (DEPTH / EACH) : thread / ROWS) * EACH;
    int corner[AXES];
    const X *window = x + group * g.x_group;
    int base = 0;
    {
        const bool there = first_row + row < g.rows;
        const Place p = place(g, there ? first_row + row : 0);
        window += p.image * g.x_image;
#pragma unroll
        for (int axis = 0; axis < AXES; ++axis) {
            corner[axis] = p.at[axis] * (int)g.stride[axis] - (int)g.low[axis];
            base += corner[axis] * (int)g.x_space[axis];
        }
        if (!there) corner[0] = 1 << 30; // outside
    }
    const int *tap = taps + start * (AXES + 1);
    const int line = thread * FETCH_W / COLUMNS, column = thread * FETCH_W % COLUMNS;
    const T *panel = w + ((unsigned long long)group * g.depth + line) * columns + first_column + column;

    Pack<X, VECTOR> pixels[EACH / VECTOR];
    Pack<T, FETCH_W> weights[EACH_W / FETCH_W];

    auto fetch = [&]() {
#pragma unroll
        for (int i = 0; i < EACH / VECTOR; ++i) {
            const int *const at = tap + i * VECTOR * (AXES + 1);
            int offset = base + at[AXES] * (int)g.x_channel;
            bool inside = true;
#pragma unroll
            for (int axis = 0; axis < AXES; ++axis) {
                inside &= (unsigned)(corner[axis] + at[axis]) < (unsigned)g.size[axis];
                offset += at[axis] * (int)g.x_space[axis];
            }
            pixels[i] = inside ? *(const Pack<X, VECTOR> *)(window + offset) : Pack<X, VECTOR>{};
        }
#pragma unroll
        for (int i = 0; i < EACH_W / FETCH_W; ++i) weights[i] = *(const Pack<T, FETCH_W> *)(panel + i * LINES * columns);
        tap += DEPTH * (AXES + 1);
        panel += DEPTH * columns;
    };
    auto keep = [&](int half) {
#pragma unroll
        for (int i = 0; i < EACH; ++i) image[half][start + i][row] = T(pixels[i / VECTOR].value[i % VECTOR]);
#pragma unroll
        for (int i = 0; i < EACH_W / FETCH_W; ++i) *(Pack<T, FETCH_W> *)&kernel[half][line + i * LINES][column] = weights[i];
    };

    // A thread's rows are pieces that lie a stretch apart, so that neighbouring threads read neighbouring pieces.
    const int down = (ALONG_ROWS ? thread % DOWN : thread / ACROSS) * PIECE;
    const int across = (ALONG_ROWS ? thread / DOWN : thread % ACROSS) * PIECE_W;
    constexpr int STRETCH = DOWN * PIECE, STRETCH_W = ACROSS * PIECE_W;
    T sums[TALL][WIDE] = {};

    fetch();
    keep(0);
    __syncthreads();
    int half = 0;
    for (int slab = DEPTH; slab <= g.depth; slab += DEPTH) {
        if (slab < g.depth) fetch();
#pragma unroll
        for (int k = 0; k < DEPTH; ++k) {
            alignas(16) T tall[TALL];
            alignas(16) T wide[WIDE];
#pragma unroll
            for (int i = 0; i < TALL; i += PIECE)
                *(Pack<T, PIECE> *)&tall[i] = *(const Pack<T, PIECE> *)&image[half][k][i / PIECE * STRETCH + down];
#pragma unroll
            for (int j = 0; j < WIDE; j += PIECE_W)
                *(Pack<T, PIECE_W> *)&wide[j] = *(const Pack<T, PIECE_W> *)&kernel[half][k][j / PIECE_W * STRETCH_W + across];
#pragma unroll
            for (int i = 0; i < TALL; ++i)
#pragma unroll
                for (int j = 0; j < WIDE; ++j) sums[i][j] += tall[i] * wide[j];
        }
        if (slab < g.depth) {
            half ^= 1; // the half that nobody has read since the last synchronisation
            keep(half);
            __syncthreads();
        }
    }

#pragma unroll
    for (int i = 0; i < TALL; i += STORE_ROWS) { // outputs that are stored at once are of one image
        const unsigned here = first_row + i / PIECE * STRETCH + down + i % PIECE;
        if (here >= g.rows) continue;
        const Place p = place(g, here);
        Y *to = y + p.image * g.y_image + group * g.y_group;
#pragma unroll
        for (int axis = 0; axis < AXES; ++axis) to += p.at[axis] * g.y_space[axis];
#pragma unroll
        for (int j = 0; j < WIDE; j += STORE) {
            const unsigned filter = first_column + j / PIECE_W * STRETCH_W + across + j % PIECE_W;
            Pack<Y, STORE * STORE_ROWS> made;
#pragma unroll
            for (int k = 0; k < STORE * STORE_ROWS; ++k)
                made.value[k] = Y(STORE > 1 ? sums[i][j + k] : sums[i + k][j]);
            if (filter < g.filters) *(Pack<Y, STORE * STORE_ROWS> *)(to + filter * g.y_filter) = made;
        }
    }
}
