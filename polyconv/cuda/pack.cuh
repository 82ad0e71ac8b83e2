// Neighbours in memory that are moved at once, and lie at a multiple of so many.
template <class Element, int N>
struct alignas(N * sizeof(Element)) Pack {
    Element value[N];
};
