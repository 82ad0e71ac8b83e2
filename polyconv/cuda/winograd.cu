// Winograd's transforms: blocks of the image to points, which matrix products over channels take from here, and products
// back to blocks of the result, each in one pass (Lavin & Gray, arXiv:1509.09308). A thread has one block of one channel
// in its registers, gathered from the image, or put into the result, with no copy between.
//
// Constants that come before this text:
//
// X, Y               the types of elements of the image and of the result
// T                  that of points
// AXES               spatial axes
// INPUTS(axis), OUTPUTS(axis)    of a block
// BT(axis, j, k), AT(axis, j, k)    what transforms a line of a block of the image, and of products
// CHANNELS_LAST      whether channels are innermost, in the image and among the points

struct Geometry { // lengths, and steps in elements
    long long threads, groups, channels; // channels of the image, or filters, of a group
    long long image_step, group_step, channel_step, space[AXES];
    long long length[AXES], dilation[AXES], low[AXES]; // of the image, or of the result, whose `low` is zero
    long long blocks[AXES], every;                     // blocks of one phase of an axis, and of all images
};

__host__ __device__ constexpr int inputs(int first, int last) {
    return first < last ? INPUTS(first) * inputs(first + 1, last) : 1;
}
__host__ __device__ constexpr int outputs(int first, int last) {
    return first < last ? OUTPUTS(first) * outputs(first + 1, last) : 1;
}

// Which block of which channel a thread has: where it begins along each axis, and where its points lie.
struct Block {
    unsigned image, group, channel;
    int at[AXES];
    long long place, apart;
};

__device__ __forceinline__ Block block_of(const Geometry &g, unsigned thread) {
    const unsigned lines = g.channels, every = g.every;
    Block b;
    unsigned rest = (CHANNELS_LAST ? thread / lines : thread) % every;
    b.channel = CHANNELS_LAST ? thread % lines : thread / every % lines;
    b.group = thread / every / lines;
    b.place = thread; // (points, G, blocks, C), or (points, G, C, blocks)
    b.apart = g.threads;
#pragma unroll
    for (int axis = AXES - 1; axis >= 0; --axis) {
        const unsigned blocks = g.blocks[axis], phases = g.dilation[axis], here = rest % (blocks * phases);
        rest /= blocks * phases;
        b.at[axis] = here / blocks + here % blocks * OUTPUTS(axis) * phases - (int)g.low[axis];
    }
    b.image = rest;
    return b;
}

// An axis of a block, from FROM to TO elements, in place: each line of it times a matrix.
template <int OUTER, int FROM, int TO, int INNER, class Matrix>
__device__ __forceinline__ void transform(T *data, Matrix matrix) {
#pragma unroll
    for (int outer = 0; outer < OUTER; ++outer)
#pragma unroll
        for (int inner = 0; inner < INNER; ++inner) {
            T line[FROM];
#pragma unroll
            for (int k = 0; k < FROM; ++k) line[k] = data[(outer * FROM + k) * INNER + inner];
#pragma unroll
            for (int j = 0; j < TO; ++j) {
                T sum = 0;
#pragma unroll
                for (int k = 0; k < FROM; ++k)
                    if (matrix(j, k) != 0) sum += T(matrix(j, k)) * line[k];
                data[(outer * TO + j) * INNER + inner] = sum;
            }
        }
}

template <int AXIS>
__device__ __forceinline__ void to_points(T *data) {
    if constexpr (AXIS < AXES) {
        transform<inputs(0, AXIS), INPUTS(AXIS), INPUTS(AXIS), inputs(AXIS + 1, AXES)>(
            data, [](int j, int k) { return BT(AXIS, j, k); });
        to_points<AXIS + 1>(data);
    }
}

template <int AXIS>
__device__ __forceinline__ void from_points(T *data) {
    if constexpr (AXIS < AXES) {
        transform<outputs(0, AXIS), INPUTS(AXIS), OUTPUTS(AXIS), inputs(AXIS + 1, AXES)>(
            data, [](int j, int k) { return AT(AXIS, j, k); });
        from_points<AXIS + 1>(data);
    }
}

// Where element `index` of a block lies, whose axes are so long, and whether it is in the image at all.
template <class Lengths>
__device__ __forceinline__ bool find(const Geometry &g, const Block &b, int index, Lengths lengths, long long &offset) {
    bool inside = true;
    offset = b.image * g.image_step + b.group * g.group_step + b.channel * g.channel_step;
#pragma unroll
    for (int axis = AXES - 1; axis >= 0; --axis) {
        const int here = b.at[axis] + index % lengths(axis) * (int)g.dilation[axis];
        index /= lengths(axis);
        inside &= (unsigned)here < (unsigned)g.length[axis];
        offset += here * g.space[axis];
    }
    return inside;
}

// x   the images, (N, G, C, *size) by the steps of `g`, without the zeros around them
// points   (points, G, blocks, C), or (points, G, C, blocks)
extern "C" __global__ void image_to_points(const X *__restrict__ x, T *__restrict__ points, const Geometry g) {
    const long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (thread >= g.threads) return;
    const Block b = block_of(g, thread);
    T data[inputs(0, AXES)];
#pragma unroll
    for (int i = 0; i < inputs(0, AXES); ++i) {
        long long offset;
        const bool inside = find(g, b, i, [](int axis) { return INPUTS(axis); }, offset);
        data[i] = inside ? T(x[offset]) : T(0);
    }
    to_points<0>(data);
#pragma unroll
    for (int i = 0; i < inputs(0, AXES); ++i) points[b.place + i * b.apart] = data[i];
}

// products   (points, G, blocks, K), or (points, G, K, blocks)
// y   the result, (N, G, K, *outputs) by the steps of `g`
extern "C" __global__ void products_to_result(const T *__restrict__ products, Y *__restrict__ y, const Geometry g) {
    const long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (thread >= g.threads) return;
    const Block b = block_of(g, thread);
    T data[inputs(0, AXES)];
#pragma unroll
    for (int i = 0; i < inputs(0, AXES); ++i) data[i] = products[b.place + i * b.apart];
    from_points<0>(data);
#pragma unroll
    for (int i = 0; i < outputs(0, AXES); ++i) {
        long long offset;
        if (find(g, b, i, [](int axis) { return OUTPUTS(axis); }, offset)) y[offset] = Y(data[i]);
    }
}
