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

// Which block of which channel a thread has, and where it begins along each axis.
struct Block {
    unsigned image, group, channel;
    int at[AXES];
};

__device__ __forceinline__ Block block_of(const Geometry &g, unsigned thread) {
    const unsigned lines = g.channels, every = g.every;
    Block b;
    unsigned rest = (CHANNELS_LAST ? thread / lines : thread) % every;
    b.channel = CHANNELS_LAST ? thread % lines : thread / every % lines;
    b.group = thread / every / lines;
#pragma unroll
    for (int axis = AXES - 1; axis >= 0; --axis) {
        const unsigned blocks = g.blocks[axis], phases = g.dilation[axis], here = rest % (blocks * phases);
        rest /= blocks * phases;
        b.at[axis] = here / blocks + here % blocks * OUTPUTS(axis) * phases - (int)g.low[axis];
    }
    b.image = rest;
    return b;
}

// Whether one of two lists of numbers is the other with every second sign turned: 1, or -1 where it is with the others
// turned, and 0 where it is neither. Points a and -a have such lists, whose products are made but once.
template <int LENGTH, class List>
__device__ __forceinline__ int mirrored(List one, List other) {
    bool second = true, first = true;
#pragma unroll
    for (int k = 0; k < LENGTH; ++k) {
        const double image = k % 2 ? -one(k) : one(k);
        second &= other(k) == image;
        first &= other(k) == -image;
    }
    return second - first;
}

// An axis of a block, from FROM to TO elements, in place: each line of it times a matrix. Its points are in order, the
// last at infinity, so that a and -a are equally far from the ends of the others.
template <int OUTER, int FROM, int TO, int INNER, class Matrix>
__device__ __forceinline__ void transform(T *data, Matrix matrix) {
    const auto row = [=](int j) { return [=](int k) { return matrix(j, k); }; };
    const auto column = [=](int k) { return [=](int j) { return matrix(j, k); }; };
#pragma unroll
    for (int outer = 0; outer < OUTER; ++outer)
#pragma unroll
        for (int inner = 0; inner < INNER; ++inner) {
            T line[2][FROM]; // what even rows of the matrix are multiplied by, and odd ones
            bool met[FROM] = {}, made[TO] = {};
#pragma unroll
            for (int k = 0; k < FROM; ++k) line[0][k] = line[1][k] = data[(outer * FROM + k) * INNER + inner];
#pragma unroll
            for (int k = 0; k < (FROM - 1) / 2; ++k) {
                const int other = FROM - 2 - k, sign = mirrored<TO>(column(k), column(other));
                if (sign) {
                    const T image = T(sign) * line[0][other];
                    line[1][k] = line[0][k] - image;
                    line[0][k] += image;
                    met[other] = true;
                }
            }
#pragma unroll
            for (int j = 0; j < TO; ++j) {
                if (made[j]) continue;
                T sums[2] = {}; // of even and of odd elements
                bool begun[2] = {};
#pragma unroll
                for (int k = 0; k < FROM; ++k)
                    if (!met[k] && matrix(j, k) != 0) {
                        const T term = line[j % 2][k] * T(matrix(j, k));
                        sums[k % 2] = begun[k % 2] ? sums[k % 2] + term : term; // to add to zero is work as well
                        begun[k % 2] = true;
                    }
                const bool both = begun[0] && begun[1];
                data[(outer * TO + j) * INNER + inner] = both ? sums[0] + sums[1] : sums[begun[1]];
                const int other = TO - 2 - j, sign = other > j && both ? mirrored<FROM>(row(j), row(other)) : 0;
                if (sign) {
                    data[(outer * TO + other) * INNER + inner] = sign > 0 ? sums[0] - sums[1] : sums[1] - sums[0];
                    made[other] = true;
                }
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

// Goes through a block, whose axes are so long: where each of its elements lies, and whether it is in the image at all.
// No position is multiplied: from one element to the next it is a step along the axis that goes on.
template <int NUMBER, class Element, class Lengths, class Visit>
__device__ __forceinline__ void visit(const Geometry &g, const Block &b, Element *first, Lengths lengths, Visit see) {
    Element *line[AXES]; // where the line along each axis has come to
    long long step[AXES];
    first += b.image * g.image_step + b.group * g.group_step + b.channel * g.channel_step;
#pragma unroll
    for (int axis = 0; axis < AXES; ++axis) {
        first += b.at[axis] * g.space[axis];
        step[axis] = g.dilation[axis] * g.space[axis];
    }
#pragma unroll
    for (int axis = 0; axis < AXES; ++axis) line[axis] = first;
#pragma unroll
    for (int i = 0; i < NUMBER; ++i) {
        bool inside = true, moved = i == 0;
        int rest = i;
#pragma unroll
        for (int axis = AXES - 1; axis >= 0; --axis) {
            const int index = rest % lengths(axis);
            rest /= lengths(axis);
            inside &= (unsigned)(b.at[axis] + index * (int)g.dilation[axis]) < (unsigned)g.length[axis];
            if (!moved && index) { // the axes within begin anew
                line[axis] += step[axis];
#pragma unroll
                for (int within = axis + 1; within < AXES; ++within) line[within] = line[axis];
                moved = true;
            }
        }
        see(i, line[AXES - 1], inside);
    }
}

// x   the images, (N, G, C, *size) by the steps of `g`, without the zeros around them
// points   (points, G, blocks, C), or (points, G, C, blocks)
extern "C" __global__ void image_to_points(const X *__restrict__ x, T *__restrict__ points, const Geometry g) {
    const long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (thread >= g.threads) return;
    const Block b = block_of(g, thread);
    T data[inputs(0, AXES)];
    visit<inputs(0, AXES)>(g, b, x, [](int axis) { return INPUTS(axis); },
        [&](int i, const X *pixel, bool inside) { data[i] = inside ? T(*pixel) : T(0); });
    to_points<0>(data);
    points += thread;
#pragma unroll
    for (int i = 0; i < inputs(0, AXES); ++i, points += g.threads) *points = data[i];
}

// products   (points, G, blocks, K), or (points, G, K, blocks)
// y   the result, (N, G, K, *outputs) by the steps of `g`
extern "C" __global__ void products_to_result(const T *__restrict__ products, Y *__restrict__ y, const Geometry g) {
    const long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (thread >= g.threads) return;
    const Block b = block_of(g, thread);
    T data[inputs(0, AXES)];
    products += thread;
#pragma unroll
    for (int i = 0; i < inputs(0, AXES); ++i, products += g.threads) data[i] = *products;
    from_points<0>(data);
    visit<outputs(0, AXES)>(g, b, y, [](int axis) { return OUTPUTS(axis); },
        [&](int i, Y *output, bool inside) { if (inside) *output = Y(data[i]); });
}
