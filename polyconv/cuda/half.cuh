// Half precision as it is stored; sums are made in single precision.
struct Half {
    unsigned short bits;
#ifdef __CUDACC__
    __device__ operator float() const {
        float value;
        asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
        return value;
    }
    Half() = default;
    __device__ explicit Half(float value) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value)); }
#else // a host's compiler, which knows the type by another name
    operator float() const { return (float)*(const _Float16 *)&bits; }
    Half() = default;
    explicit Half(float value) { *(_Float16 *)&bits = (_Float16)value; }
#endif
};
