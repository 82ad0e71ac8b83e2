// Direct convolution: each thread sums a strip of outputs of some filters in its registers.
//
// A pixel, once loaded, meets every tap along the strip's axis that sees it, and every filter, so that a kernel of k taps
// costs each thread (STRIP - 1) * STRIDE + (k - 1) * DILATION + 1 loads for STRIP * k * FILTERS products, or STRIP * k
// where strides or dilations are so long that outputs share next to no pixels. For one filter per channel, or a few, where
// a matrix product would have next to no columns.
//
// What a thread does beside products is to find and load their factors, and that costs as much as the products unless
// each load serves many: hence several groups or filters at once where they are neighbours in memory, lengths of the
// kernel that are known when this is compiled, and positions that are multiplied out once.
//
// Constants that come before this text:
//
// X, Y               the types of elements of the image and of the result
// T                  that of the kernel, and of sums
// AXES, ALONG        spatial axes, and along which of them strips lie
// KERNEL(axis)       taps along each axis
// STRIDE, DILATION   along that of strips
// STRIP, FILTERS     outputs along it, and filters, of one thread
// GROUPS_FASTEST     whether neighbouring threads have neighbouring groups rather than outputs, for neighbours in memory
// VECTOR             groups of one thread, moved at once; more than one where they are neighbours in both arrays
// WEIGHTS            weights of one tap that lie together: of FILTERS, filled up, or of VECTOR
// STORE              filters stored at once; more than one where they are neighbours in memory

struct Geometry { // lengths, and steps in elements
    long long threads, groups, filters, channels;
    long long x_image, x_group, x_channel, x_space[AXES];
    long long y_image, y_group, y_filter, y_space[AXES];
    long long size[AXES], outputs[AXES], stride[AXES], dilation[AXES], low[AXES];
};

__host__ __device__ constexpr int other_taps(int axis) {
    return axis < AXES ? (axis == ALONG ? 1 : KERNEL(axis)) * other_taps(axis + 1) : 1;
}

constexpr int TAPS = KERNEL(ALONG), OTHERS = other_taps(0);
constexpr long long FAR = (STRIP - 1ll) * STRIDE + (TAPS - 1ll) * DILATION + 1;
constexpr bool SHARED = FAR <= STRIP * TAPS;
constexpr int SPAN = SHARED ? FAR : 1;
constexpr int PIECE = WEIGHTS * sizeof(T) <= 16 ? WEIGHTS : 16 / sizeof(T); // weights loaded at once
constexpr int UNROLLED = OTHERS * TAPS * STRIP * FILTERS * VECTOR <= 640 ? OTHERS : 1;
static_assert(VECTOR == 1 || (FILTERS == 1 && WEIGHTS == VECTOR && GROUPS_FASTEST), "several groups have a filter each");
static_assert(WEIGHTS >= FILTERS && WEIGHTS % PIECE == 0 && FILTERS % STORE == 0, "filters fall into pieces");

// x   the images, (N, G, C, *size) by the steps of `g`
// w   the kernel, (G, sets, C, other taps, TAPS, WEIGHTS), or (sets, C, other taps, TAPS, G, WEIGHTS) where groups are
//     fastest, G without the groups that are among the WEIGHTS
// y   the result, (N, G, K, *outputs) by the steps of `g`
extern "C" __global__ void direct(const X *__restrict__ x, const T *__restrict__ w, Y *__restrict__ y, const Geometry g) {
    const long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (thread >= g.threads) return;

    // Which outputs these are.
    unsigned rest = (unsigned)thread;
    auto next = [&](unsigned length) {
        const unsigned left = rest / length, here = rest - left * length;
        rest = left;
        return here;
    };
    const unsigned groups = (unsigned)g.groups / VECTOR, sets = ((unsigned)g.filters + FILTERS - 1) / FILTERS;
    unsigned group = 0;
    if (GROUPS_FASTEST) group = next(groups);
    int at[AXES];
#pragma unroll
    for (int axis = AXES - 1; axis >= 0; --axis)
        at[axis] = axis == ALONG ? next((g.outputs[axis] + STRIP - 1) / STRIP) * STRIP : next(g.outputs[axis]);
    const unsigned set = next(sets);
    if (!GROUPS_FASTEST) group = next(groups);
    const unsigned image = rest;

    const X *pixels = x + image * g.x_image + group * VECTOR * g.x_group;
    int corner[AXES], apart[SHARED ? SPAN : 1];
#pragma unroll
    for (int axis = 0; axis < AXES; ++axis) corner[axis] = at[axis] * (int)g.stride[axis] - (int)g.low[axis];
    // Where pixels lie along an axis of an image fits in 32 bits; where what is outside would lie may run over, and may.
    const unsigned step = g.x_space[ALONG], length = g.size[ALONG];
#pragma unroll
    for (int i = 0; i < SPAN; ++i) apart[i] = (corner[ALONG] + i) * step;

    const int next_tap = (GROUPS_FASTEST ? groups : 1) * WEIGHTS;
    const long long panel = g.channels * OTHERS * TAPS * WEIGHTS;
    const T *tap = w + (GROUPS_FASTEST ? set * panel * groups + group * WEIGHTS : (group * (long long)sets + set) * panel);

    T sums[FILTERS][STRIP][VECTOR] = {};
    for (int channel = 0; channel < g.channels; ++channel, pixels += g.x_channel)
#pragma unroll UNROLLED
        for (int other = 0; other < OTHERS; ++other, tap += TAPS * next_tap) {
            unsigned offset = 0;
            int left = other;
            bool inside = true;
#pragma unroll
            for (int axis = AXES - 1; axis >= 0; --axis)
                if (axis != ALONG) {
                    const unsigned here = corner[axis] + left % KERNEL(axis) * (unsigned)g.dilation[axis];
                    left /= KERNEL(axis);
                    inside &= here < (unsigned)g.size[axis];
                    offset += here * (unsigned)g.x_space[axis];
                }
            if (!inside) continue;
            const X *const row = pixels + (int)offset;
            auto load = [&](long long i, int far, T *to) {
                const bool there = corner[ALONG] + i >= 0 && corner[ALONG] + i < length;
                const auto found = there ? *(const Pack<X, VECTOR> *)(row + far) : Pack<X, VECTOR>{};
#pragma unroll
                for (int v = 0; v < VECTOR; ++v) to[v] = T(found.value[v]);
            };
            T strip[SPAN][VECTOR];
            if constexpr (SHARED) {
#pragma unroll
                for (int i = 0; i < SPAN; ++i) load(i, apart[i], strip[i]);
            }
#pragma unroll
            for (int t = 0; t < TAPS; ++t) {
                T seen[STRIP][VECTOR];
#pragma unroll
                for (int o = 0; o < STRIP; ++o)
                    if constexpr (SHARED) {
#pragma unroll
                        for (int v = 0; v < VECTOR; ++v) seen[o][v] = strip[o * STRIDE + t * DILATION][v];
                    } else {
                        const long long i = o * (long long)STRIDE + t * (long long)DILATION;
                        load(i, (corner[ALONG] + (unsigned)i) * step, seen[o]);
                    }
                alignas(16) T weights[WEIGHTS];
#pragma unroll
                for (int i = 0; i < WEIGHTS; i += PIECE)
                    *(Pack<T, PIECE> *)&weights[i] = *(const Pack<T, PIECE> *)(tap + t * next_tap + i);
#pragma unroll
                for (int filter = 0; filter < FILTERS; ++filter)
#pragma unroll
                    for (int o = 0; o < STRIP; ++o)
#pragma unroll
                        for (int v = 0; v < VECTOR; ++v) sums[filter][o][v] += seen[o][v] * weights[filter + v];
            }
        }

    Y *to = y + image * g.y_image + group * VECTOR * g.y_group + set * FILTERS * g.y_filter;
#pragma unroll
    for (int axis = 0; axis < AXES; ++axis) to += at[axis] * g.y_space[axis];
#pragma unroll
    for (int o = 0; o < STRIP; ++o, to += g.y_space[ALONG])
#pragma unroll
        for (int filter = 0; filter < FILTERS; filter += STORE) {
            Pack<Y, STORE * VECTOR> made;
#pragma unroll
            for (int k = 0; k < STORE * VECTOR; ++k) made.value[k] = Y(sums[filter + k / VECTOR][o][k % VECTOR]);
            if (set * FILTERS + filter < g.filters && at[ALONG] + o < g.outputs[ALONG])
                *(Pack<Y, STORE * VECTOR> *)(to + filter * g.y_filter) = made;
        }
}
