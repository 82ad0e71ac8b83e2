// Direct convolution: each thread sums a strip of outputs of some filters in its registers.
//
// A pixel, once loaded, meets every tap along the strip's axis that sees it, and every filter, so that a kernel of k taps
// costs each thread (STRIP - 1) * STRIDE + (k - 1) * DILATION + 1 loads for STRIP * k * FILTERS products, or STRIP * k
// where strides or dilations are so long that outputs share next to no pixels. For one filter per channel, or a few, where
// a matrix product would have next to no columns.
//
// Constants that come before this text:
//
// X, Y               the types of elements of the image and of the result
// T                  that of the kernel, and of sums
// AXES, ALONG        spatial axes, and along which of them strips lie
// TAPS, STRIDE, DILATION    of the kernel along that axis
// STRIP, FILTERS     outputs along it, and filters, of one thread
// GROUPS_FASTEST     whether neighbouring threads have neighbouring groups rather than outputs, for neighbours in memory

struct Geometry { // lengths, and steps in elements
    long long threads, groups, filters, channels;
    long long x_image, x_group, x_channel, x_space[AXES];
    long long y_image, y_group, y_filter, y_space[AXES];
    long long size[AXES], outputs[AXES], kernel[AXES], stride[AXES], dilation[AXES], low[AXES];
};

constexpr long long FAR = (STRIP - 1ll) * STRIDE + (TAPS - 1ll) * DILATION + 1;
constexpr bool SHARED = FAR <= STRIP * TAPS;
constexpr int SPAN = SHARED ? FAR : 1;

// x   the images, (N, G, C, *size) by the steps of `g`
// w   the kernel, (G, sets, C, taps of other axes, TAPS, FILTERS); where groups are fastest, they come last
// y   the result, (N, G, K, *outputs) by the steps of `g`
extern "C" __global__ void direct(const X *__restrict__ x, const T *__restrict__ w, Y *__restrict__ y, const Geometry g) {
    const long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (thread >= g.threads) return;

    // Which outputs these are.
    unsigned rest = (unsigned)thread;
    unsigned group = 0;
    auto next = [&](unsigned length) {
        const unsigned left = rest / length, here = rest - left * length;
        rest = left;
        return here;
    };
    if (GROUPS_FASTEST) group = next(g.groups);
    int at[AXES];
#pragma unroll
    for (int axis = AXES - 1; axis >= 0; --axis)
        at[axis] = axis == ALONG ? next((g.outputs[axis] + STRIP - 1) / STRIP) * STRIP : next(g.outputs[axis]);
    const unsigned sets = (g.filters + FILTERS - 1) / FILTERS, set = next(sets);
    if (!GROUPS_FASTEST) group = next(g.groups);
    const unsigned image = rest;

    int corner[AXES], others = 1;
#pragma unroll
    for (int axis = 0; axis < AXES; ++axis) {
        corner[axis] = at[axis] * (int)g.stride[axis] - (int)g.low[axis];
        if (axis != ALONG) others *= g.kernel[axis];
    }
    const int apart = GROUPS_FASTEST ? g.groups : 1; // elements between taps of the kernel
    const long long panel = g.channels * others * TAPS * FILTERS;
    const T *tap = w + (GROUPS_FASTEST ? set * panel * apart + group : (group * (long long)sets + set) * panel);
    const X *const pixels = x + image * g.x_image + group * g.x_group + corner[ALONG] * g.x_space[ALONG];
    const int step = g.x_space[ALONG];

    T sums[FILTERS][STRIP] = {};
    for (int channel = 0; channel < g.channels; ++channel)
        for (int other = 0; other < others; ++other, tap += TAPS * FILTERS * apart) {
            int offset = channel * (int)g.x_channel;
            bool inside = true;
            int left = other;
#pragma unroll
            for (int axis = AXES - 1; axis >= 0; --axis)
                if (axis != ALONG) {
                    const int length = g.kernel[axis], here = corner[axis] + left % length * (int)g.dilation[axis];
                    left /= length;
                    inside &= (unsigned)here < (unsigned)g.size[axis];
                    offset += here * (int)g.x_space[axis];
                }
            if (!inside) continue;
            const int length = g.size[ALONG];
            T strip[SPAN];
            if constexpr (SHARED) {
#pragma unroll
                for (int i = 0; i < SPAN; ++i)
                    strip[i] = (unsigned)(corner[ALONG] + i) < (unsigned)length ? T(pixels[offset + i * step]) : T(0);
            }
#pragma unroll
            for (int t = 0; t < TAPS; ++t) {
                T seen[STRIP];
#pragma unroll
                for (int o = 0; o < STRIP; ++o)
                    if constexpr (SHARED) seen[o] = strip[o * STRIDE + t * DILATION];
                    else {
                        const long long i = o * (long long)STRIDE + t * (long long)DILATION, here = corner[ALONG] + i;
                        seen[o] = here >= 0 && here < length ? T(pixels[offset + i * step]) : T(0);
                    }
#pragma unroll
                for (int filter = 0; filter < FILTERS; ++filter) {
                    const T weight = tap[(t * FILTERS + filter) * apart];
#pragma unroll
                    for (int o = 0; o < STRIP; ++o) sums[filter][o] += seen[o] * weight;
                }
            }
        }

    Y *to = y + image * g.y_image + group * g.y_group + set * FILTERS * g.y_filter;
#pragma unroll
    for (int axis = 0; axis < AXES; ++axis) to += at[axis] * g.y_space[axis];
#pragma unroll
    for (int filter = 0; filter < FILTERS; ++filter)
#pragma unroll
        for (int o = 0; o < STRIP; ++o)
            if (set * FILTERS + filter < g.filters && at[ALONG] + o < g.outputs[ALONG])
                to[filter * g.y_filter + o * g.y_space[ALONG]] = Y(sums[filter][o]);
}
