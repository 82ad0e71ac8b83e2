// CUDA's words, so that a host's compiler takes a kernel and runs it: block after block, each thread of a block a fiber,
// which gives way to the next at every __syncthreads(). In which order they go on changes from one to the next, so that
// a barrier that is missing shows.
#include <ucontext.h>
#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)
#define __restrict__ __restrict

struct dim3 {
    unsigned x, y, z;
};
static dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace on_cpu {
constexpr size_t STACK = 1 << 16;
static ucontext_t scheduler;
static std::vector<ucontext_t> fibers;
static std::vector<char> stacks, done;
static unsigned current;
static void (*body)(void **);
static void **arguments;

static void begin() {
    body(arguments);
    done[current] = 1;
}

static void run(void (*kernel)(void **), void **args, dim3 grid, dim3 block) {
    const unsigned threads = block.x * block.y * block.z;
    body = kernel, arguments = args, gridDim = grid, blockDim = block;
    fibers.resize(threads), stacks.resize(threads * STACK);
    for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
                done.assign(threads, 0);
                for (unsigned t = 0; t < threads; ++t) {
                    getcontext(&fibers[t]);
                    fibers[t].uc_stack.ss_sp = stacks.data() + t * STACK;
                    fibers[t].uc_stack.ss_size = STACK;
                    fibers[t].uc_link = &scheduler;
                    makecontext(&fibers[t], begin, 0);
                }
                for (unsigned round = 0, left = threads; left; ++round) {
                    unsigned ended = 0;
                    for (unsigned i = 0; i < threads; ++i) {
                        current = round % 2 ? threads - 1 - i : i;
                        threadIdx = {current % block.x, current / block.x % block.y, current / block.x / block.y};
                        swapcontext(&scheduler, &fibers[current]);
                        ended += done[current];
                    }
                    if (ended && ended != threads) {
                        fprintf(stderr, "some threads of a block ended while others wait for them\n");
                        abort();
                    }
                    left -= ended;
                }
            }
}

template <class... Parameters, size_t... Is>
static void call(void (*kernel)(Parameters...), void **args, std::index_sequence<Is...>) {
    kernel(*(Parameters *)args[Is]...);
}
template <class... Parameters>
static void spread(void (*kernel)(Parameters...), void **args) {
    call(kernel, args, std::index_sequence_for<Parameters...>{});
}
} // namespace on_cpu

static void __syncthreads() { swapcontext(&on_cpu::fibers[on_cpu::current], &on_cpu::scheduler); }
