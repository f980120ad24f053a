// One image's deep image prior on one CPU thread: forward, backward and Adam, step after step.
//
// Maps are (H, W, C), C padded to whole vectors. Padded channels are zero, get zero gradients and
// stay zero. A map holds values before their ReLU; whoever reads it applies the ReLU.
//
// Every layer is a matrix product. 3 x 3 convolutions on large maps go through Winograd's
// F(4 x 4, 3 x 3), which needs a quarter of the multiplications; all others gather their inputs
// (im2col). Deconvolutions are four 2 x 2 convolutions, one for each parity of the output pixel.
// Weights live in panels, as the product reads them, and are updated as soon as their gradient is
// there, while it is still in the cache.

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#if defined(__AVX512F__)
constexpr int BYTES = 64, ROWS = 14;  // 28 of 32 registers accumulate
#elif defined(__AVX__)
constexpr int BYTES = 32, ROWS = 6;  // 12 of 16
#elif defined(__aarch64__)
constexpr int BYTES = 16, ROWS = 12;
#else
constexpr int BYTES = 16, ROWS = 6;
#endif

namespace {

template <class T> struct Vector;
template <> struct Vector<float> {
    typedef float type __attribute__((vector_size(BYTES), aligned(4), may_alias));
    typedef int mask __attribute__((vector_size(BYTES)));
};
template <> struct Vector<double> {
    typedef double type __attribute__((vector_size(BYTES), aligned(8), may_alias));
    typedef long long mask __attribute__((vector_size(BYTES)));
};

template <class T> constexpr int V = BYTES / int(sizeof(T));
template <class T> constexpr int PANEL = 2 * V<T>;
template <class T> using Vec = typename Vector<T>::type;

template <class T> inline Vec<T> load(const T* p) { return *reinterpret_cast<const Vec<T>*>(p); }
template <class T> inline void store(T* p, Vec<T> v) { *reinterpret_cast<Vec<T>*>(p) = v; }
template <class T> inline Vec<T> splat(T x) { return x - Vec<T>{}; }
template <class T> inline Vec<T> positive(Vec<T> v) { return v > Vec<T>{} ? v : Vec<T>{}; }
inline long up(long n, long unit) { return (n + unit - 1) / unit * unit; }

// Zeroed memory on the boundary of a cache line.
template <class T> struct Array {
    std::unique_ptr<T, void (*)(void*)> memory{nullptr, std::free};
    long size = 0;
    Array() = default;
    explicit Array(long n) : size(n) {
        constexpr long HUGE_PAGE = 1 << 21;
        long bytes = up(n * sizeof(T), 64) + 64;  // whole vectors may be read and written at the end
        bool huge = bytes >= HUGE_PAGE;
        void* p = nullptr;
        if (posix_memalign(&p, huge ? HUGE_PAGE : 64, bytes)) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
        if (huge) madvise(p, bytes, MADV_HUGEPAGE);  // fewer page table walks; may be refused
#endif
        std::memset(p, 0, bytes);
        memory.reset(static_cast<T*>(p));
    }
    operator T*() const { return memory.get(); }
    void grow(long n) {
        if (n > size) *this = Array(n);
    }
};

// ------------------------------------------------------------------------------ matrix products

// A matrix whose columns come in panels of PANEL (the last may be one vector wide): either stored
// panel by panel (`rows` of them), or row by row with distance `ld`.
template <class T> struct Matrix {
    T* data;
    long ld;    // 0: in panels
    long rows;  // in panels: how many
    T* at(long row, long column, long width) const {
        return ld ? data + row * ld + column : data + column * rows + row * width;
    }
    long step(long width) const { return ld ? ld : width; }
};

// C[m, n] (+)= sum over k of A[m * am + k * ak] * B[k, n], for M rows and N vectors.
template <class T, int M, int N>
void tile(long K, const T* A, long am, long ak, const T* B, long bk, T* C, long cm, bool add) {
    Vec<T> c[M][N];
#pragma GCC unroll 16
    for (int m = 0; m < M; m++)
#pragma GCC unroll 2
        for (int n = 0; n < N; n++) c[m][n] = add ? load(C + m * cm + n * V<T>) : Vec<T>{};
    for (long k = 0; k < K; k++, A += ak, B += bk) {
        Vec<T> b[N];
#pragma GCC unroll 2
        for (int n = 0; n < N; n++) b[n] = load(B + n * V<T>);
#pragma GCC unroll 16
        for (int m = 0; m < M; m++) {
            Vec<T> a = splat<T>(A[m * am]);
#pragma GCC unroll 2
            for (int n = 0; n < N; n++) c[m][n] += a * b[n];
        }
    }
#pragma GCC unroll 16
    for (int m = 0; m < M; m++)
#pragma GCC unroll 2
        for (int n = 0; n < N; n++) store(C + m * cm + n * V<T>, c[m][n]);
}

template <class T> using Tile = void (*)(long, const T*, long, long, const T*, long, T*, long, bool);
template <class T, int N, int... M> Tile<T> pick(int m, std::integer_sequence<int, M...>) {
    static constexpr Tile<T> all[] = {tile<T, M + 1, N>...};
    return all[m - 1];
}

// C[c0 + m, n] (+)= sum over k of A[m, k] * B[b0 + k, n] for m < M, n < N, k < K.
template <class T>
void product(long M, long N, long K, const T* A, long am, long ak, Matrix<T> B, long b0,
             Matrix<T> C, long c0, bool add) {
    using Heights = std::make_integer_sequence<int, ROWS>;
    for (long n = 0; n < N; n += PANEL<T>) {
        long width = std::min<long>(PANEL<T>, N - n);
        const T* b = B.at(b0, n, width);
        for (long m = 0; m < M; m += ROWS) {
            int height = int(std::min<long>(ROWS, M - m));
            Tile<T> f = width > V<T> ? pick<T, 2>(height, Heights{}) : pick<T, 1>(height, Heights{});
            f(K, A + m * am, am, ak, b, B.step(width), C.at(c0 + m, n, width), C.step(width), add);
        }
    }
}

// ---------------------------------------------------------------------------------------- parts

template <class T> struct Map {
    enum Kind { INPUT, LINEAR, RELU };  // an input has no gradient, and no padding
    int h, w, c;
    bool relu;
    Array<T> value, gradient;
    Map(int h, int w, int channels, Kind kind)
        : h(h), w(w), c(kind == INPUT ? channels : int(up(channels, V<T>))), relu(kind == RELU),
          value(long(h) * w * c) {
        if (kind != INPUT) gradient = Array<T>(value.size);
    }
    long pixels() const { return long(h) * w; }
};

struct Hyper {
    double rate, correction1, correction2;  // learning rate; 1 - beta^t
};

// Scratch that the layers of one network share.
template <class T> struct Scratch {
    Array<T> columns, block, gradients, weights, weights2, weights3, zero;
};

template <class T> struct Weights {
    long size;
    Array<T> value, mean, square;
    explicit Weights(long n) : size(n), value(n), mean(n), square(n) {}
    void reset() {
        std::memset(mean, 0, size * sizeof(T));
        std::memset(square, 0, size * sizeof(T));
        std::memset(value, 0, size * sizeof(T));
    }
    // Adam on [start, start + n).
    void update(const T* gradient, long start, long n, const Hyper& hyper) {
        const Vec<T> rate = splat<T>(T(hyper.rate / hyper.correction1));
        const Vec<T> root = splat<T>(T(1 / std::sqrt(hyper.correction2)));
        T *p = value + start, *m = mean + start, *v = square + start;
        for (long i = 0; i < n; i += V<T>) {
            Vec<T> g = load(gradient + i), a = load(m + i), b = load(v + i);
            a += T(1 - 0.9) * (g - a);
            b = T(0.999) * b + T(1 - 0.999) * g * g;
            Vec<T> d{};
            for (int l = 0; l < V<T>; l++) d[l] = std::sqrt(b[l]);
            store(m + i, a);
            store(v + i, b);
            store(p + i, load(p + i) - rate * a / (d * root + T(1e-8)));
        }
    }
};

// sum over the pixels of f(pixel offset, vector offset) -> two vectors, in double, per channel.
template <class T, class F> void sums(const Map<T>& map, double* first, double* second, F f) {
    constexpr long CHUNK = 64;
    std::fill(first, first + map.c, 0.0);
    std::fill(second, second + map.c, 0.0);
    for (long start = 0; start < map.pixels(); start += CHUNK) {
        long stop = std::min(start + CHUNK, map.pixels());
        for (int c = 0; c < map.c; c += V<T>) {
            Vec<T> a{}, b{};
            for (long p = start; p < stop; p++) f(p * map.c + c, c, a, b);
            for (int l = 0; l < V<T>; l++) first[c + l] += a[l], second[c + l] += b[l];
        }
    }
}

template <class T, class F> void each(const Map<T>& map, F f) {
    for (long p = 0; p < map.pixels(); p++)
        for (int c = 0; c < map.c; c += V<T>) f(p * map.c + c, c);
}

// Weights and an index into them.
template <class T> using Visit = std::function<void(Weights<T>&, long)>;

template <class T> struct Layer {
    virtual ~Layer() = default;
    virtual void forward(Scratch<T>&) = 0;
    virtual void backward(Scratch<T>&, const Hyper&) = 0;
    virtual void reset() {}
    virtual void visit(const Visit<T>&) {}  // every parameter, in PyTorch's order
    virtual long bytes() const { return 0; }
};

// 2 x 2 maximum pooling.
template <class T> struct Pool : Layer<T> {
    Map<T>&from, &to;
    Pool(Map<T>& from, Map<T>& to) : from(from), to(to) {}
    template <class F> void windows(F f) {
        long row = long(from.w) * from.c;
        for (int y = 0; y < to.h; y++)
            for (int x = 0; x < to.w; x++)
                for (int c = 0; c < to.c; c += V<T>)
                    f((2 * y * long(from.w) + 2 * x) * from.c + c, row,
                      (y * long(to.w) + x) * to.c + c);
    }
    void forward(Scratch<T>&) override {
        windows([&](long i, long row, long o) {
            const T* v = from.value;
            Vec<T> a = load(v + i), b = load(v + i + from.c);
            Vec<T> c = load(v + i + row), d = load(v + i + row + from.c);
            a = b > a ? b : a;
            c = d > c ? d : c;
            store(to.value + o, c > a ? c : a);
        });
    }
    // The gradient goes to the first largest value.
    void backward(Scratch<T>&, const Hyper&) override {
        windows([&](long i, long row, long o) {
            Vec<T> top = load(to.value + o), g = load(to.gradient + o);
            for (long at : {i, i + from.c, i + row, i + row + from.c}) {
                auto hit = load(from.value + at) == top;
                T* to_add = from.gradient + at;
                store(to_add, load(to_add) + (hit ? g : Vec<T>{}));
                g = hit ? Vec<T>{} : g;
            }
        });
    }
};

// Square windows on a map, one for each pixel of a grid: (kernel, kernel) values at `stride`.
template <class T> struct Window {
    int kernel, stride, columns;  // columns of the grid

    // f(pixel of the grid - start, tap - t0, number of taps, pixel of the map or -1) for runs of
    // neighboring taps in a row that lie inside the map, or outside.
    template <class F>
    void visit(const Map<T>& map, long start, long stop, int t0, int t1, F f) const {
        int pad = (kernel - 1) / 2, row = int(start / columns), column = int(start % columns);
        for (long p = start; p < stop; p++) {
            int y = row * stride - pad, x = column * stride - pad;
            int left = std::min(kernel, std::max(0, -x)), right = std::min(kernel, map.w - x);
            for (int t = t0, yy = y + t0 / kernel, k = t0 % kernel; t < t1; yy++, k = 0)
                for (int end = std::min(kernel, k + t1 - t); k < end;) {
                    bool there = yy >= 0 && yy < map.h, inside = there && k >= left && k < right;
                    int run = inside ? std::min(end, right) : there && k < left ? left : end;
                    run = std::min(run, end) - k;
                    f(p - start, t - t0, run, inside ? long(yy) * map.w + x + k : -1L);
                    t += run, k += run;
                }
            if (++column == columns) column = 0, row++;
        }
    }

    // Values under the windows [start, stop) and taps [t0, t1): rows of distance `ld`, taps at
    // distance `step`. Writes whole vectors, in ascending order.
    void gather(const Map<T>& map, const T* values, bool relu, long start, long stop, int t0,
                int t1, T* rows, long ld, long step) const {
        bool dense = step == map.c;  // a run of taps is one piece
        visit(map, start, stop, t0, t1, [&](long p, int t, int count, long pixel) {
            T* row = rows + p * ld + t * step;
            const T* v = values + pixel * map.c;
            long size = dense ? long(count) * map.c : map.c;
            for (int i = 0; i < (dense ? 1 : count); i++, row += step, v += map.c)
                if (pixel < 0)
                    for (long c = 0; c < size; c += V<T>) store(row + c, Vec<T>{});
                else if (relu)
                    for (long c = 0; c < size; c += V<T>) store(row + c, positive<T>(load(v + c)));
                else
                    for (long c = 0; c < size; c += V<T>) store(row + c, load(v + c));
        });
    }

    // The transpose of gather: adds the rows to the values.
    void scatter(const Map<T>& map, T* values, long start, long stop, int t0, int t1,
                 const T* rows, long ld, long step) const {
        visit(map, start, stop, t0, t1, [&](long p, int t, int count, long pixel) {
            if (pixel < 0) return;
            const T* row = rows + p * ld + t * step;
            T* v = values + pixel * map.c;
            for (int i = 0; i < count; i++, row += step, v += map.c)
                for (int c = 0; c < map.c; c += V<T>) store(v + c, load(v + c) + load(row + c));
        });
    }
};

// Distance between rows of `n` numbers that do not all fall into the same cache sets.
template <class T> long spread(long n) { return up(n, V<T>) + V<T>; }

// Rows [r0, r0 + rows) and `columns` columns from c0 of W, transposed, in panels.
template <class T>
void transpose(Matrix<T> w, long r0, long rows, long c0, long columns, T* turned) {
    for (long c = 0; c < columns; c += PANEL<T>) {
        long width = std::min<long>(PANEL<T>, columns - c);
        for (long r = 0; r < rows; r += PANEL<T>) {
            long high = std::min<long>(PANEL<T>, rows - r);
            const T* source = w.at(r0 + r, c0 + c, width);
            T* target = turned + r * columns + c * high;
            for (long j = 0; j < width; j++)
                for (long i = 0; i < high; i++) target[j * high + i] = source[i * width + j];
        }
    }
}

// C[p, r] (+)= sum over columns of G[p, c] * W[r0 + r, c0 + c] for so few p that transposing W
// would take longer: the p become the columns of C^T = W G^T.
template <class T>
void few_rows(long few, const T* g, long ld, Matrix<T> w, long r0, long rows, long c0,
              long columns, T* result, long ldr, bool add, Array<T>& scratch) {
    long wide = up(few, V<T>);
    scratch.grow((columns + rows) * wide);
    T *gt = scratch, *ct = scratch + columns * wide;
    for (long c = 0; c < columns; c++)
        for (long p = 0; p < wide; p++) gt[c * wide + p] = p < few ? g[p * ld + c] : T(0);
    for (long c = 0; c < columns; c += PANEL<T>) {
        long width = std::min<long>(PANEL<T>, columns - c);
        product<T>(rows, wide, width, w.at(r0, c0 + c, width), width, 1, {gt + c * wide, wide, 0},
                   0, {ct, wide, 0}, 0, c > 0);
    }
    for (long p = 0; p < few; p++)
        for (long r = 0; r < rows; r++) {
            T& to = result[p * ldr + r];
            to = add ? to + ct[r * wide + p] : ct[r * wide + p];
        }
}

// What both kinds of convolution share: weights in panels, worked on in chunks of taps that fit
// the second-level cache, and updated chunk by chunk.
template <class T> struct Filter : Layer<T> {
    static constexpr long WEIGHTS = 512 << 10, ROWS_OF_PIXELS = 384 << 10, FEW = 128;
    Map<T>& to;
    Window<T> window;
    Weights<T> weights, bias;
    int taps, at_once;

    Filter(Map<T>& to, Window<T> window, long per_tap)
        : to(to), window(window), weights(per_tap * window.kernel * window.kernel), bias(to.c),
          taps(window.kernel * window.kernel) {
        long fit = WEIGHTS / (per_tap * long(sizeof(T)));
        at_once = fit >= taps ? taps : int(std::max(2L, fit / 2 * 2));
    }
    static long pixels_at_once(long row) {
        return std::max(1L, ROWS_OF_PIXELS / (row * long(sizeof(T))) / ROWS) * ROWS;
    }
    long bytes() const override { return 3 * weights.size * sizeof(T); }
    void reset() override {
        weights.reset();
        bias.reset();
    }
};

enum Norm { NONE, INSTANCE, AFFINE };  // affine: with a learned scale and shift per channel

// A convolution of one map or two side by side, with bias or normalization.
template <class T> struct Conv : Filter<T> {
    using Filter<T>::to, Filter<T>::window, Filter<T>::weights, Filter<T>::bias;
    using Filter<T>::taps, Filter<T>::at_once;
    std::vector<Map<T>*> from;
    Norm norm;
    bool winograd;
    int real_in, real_out, ci, co;
    std::vector<T> inverse;  // 1 / standard deviation, where normalized
    Weights<T> scale, shift;
    Array<T> standard;  // the normalized values before scale and shift, which may be 0

    Conv(std::vector<Map<T>*> from, Map<T>& to, int in, int out, int kernel, int stride, Norm norm)
        : Filter<T>(to, {kernel, stride, to.w}, channels(from) * to.c), from(from), norm(norm),
          real_in(in), real_out(out), ci(int(channels(from))), co(to.c), inverse(to.c),
          scale(norm == AFFINE ? co : 0), shift(norm == AFFINE ? co : 0) {
        if (norm == AFFINE) standard = Array<T>(to.value.size);
        tiles_y = (to.h + 3) / 4, tiles_x = (to.w + 3) / 4;
        winograd = kernel == 3 && stride == 1 && ci % V<T> == 0 && tiles_y * tiles_x >= 64;
    }
    static long channels(const std::vector<Map<T>*>& from) {
        long n = 0;
        for (auto* map : from) n += map->c;
        return n;
    }

    // PyTorch's (out, in, k, k) and (out,).
    void visit(const Visit<T>& f) override {
        for (int o = 0; o < real_out; o++)
            for (int i = 0; i < real_in; i++)
                for (int t = 0; t < taps; t++) {
                    long column = o / PANEL<T> * PANEL<T>;
                    long width = std::min<long>(PANEL<T>, co - column);
                    T* row = matrix().at(long(t) * ci + place(i), column, width);
                    f(weights, row - weights.value + o - column);
                }
        for (int o = 0; o < real_out; o++) f(bias, o);
        if (norm != AFFINE) return;
        for (int o = 0; o < real_out; o++) f(scale, o);
        for (int o = 0; o < real_out; o++) f(shift, o);
    }
    void reset() override {
        Filter<T>::reset();
        scale.reset();
        shift.reset();
    }
    Matrix<T> matrix() { return {weights.value, 0, long(taps) * ci}; }

    // Where input channel i lies when both maps are padded.
    long place(int i) const {
        int half = real_in / int(from.size());
        return i < half ? i : from[0]->c + i - half;
    }

    bool differentiable() const {
        for (auto* map : from)
            if (map->gradient) return true;
        return false;
    }

    void gather(long start, long stop, int t0, int t1, T* rows, long ld) {
        for (auto* map : from) {
            window.gather(*map, map->value, map->relu, start, stop, t0, t1, rows, ld, ci);
            rows += map->c;
        }
    }

    void forward_gathered(Scratch<T>& s) {
        long step = this->pixels_at_once(long(at_once) * ci), ld = spread<T>(long(at_once) * ci);
        s.columns.grow(step * ld);
        for (int t = 0; t < taps; t += at_once)
            for (long p = 0; p < to.pixels(); p += step) {
                long stop = std::min(p + step, to.pixels());
                int end = std::min(t + at_once, taps);
                gather(p, stop, t, end, s.columns, ld);
                product<T>(stop - p, co, long(end - t) * ci, s.columns, ld, 1, matrix(),
                           long(t) * ci, {to.value, co, 0}, p, t > 0);
                if (end < taps) continue;
                for (long q = p; q < stop; q++)
                    for (int c = 0; c < co; c += V<T>)
                        store(to.value + q * co + c,
                              load(to.value + q * co + c) + load(bias.value + c));
            }
    }

    void backward_gathered(Scratch<T>& s, const Hyper& hyper) {
        bool pass = differentiable(), few = to.pixels() <= this->FEW;
        long step = this->pixels_at_once(long(at_once) * ci), ld = spread<T>(long(at_once) * ci);
        s.columns.grow(std::max(step, this->FEW) * ld);
        s.weights.grow(long(at_once) * ci * co);
        s.weights2.grow(long(at_once) * ci * co);
        for (int t = 0; t < taps; t += at_once) {
            int end = std::min(t + at_once, taps);
            long rows = long(end - t) * ci;
            Matrix<T> gradient{s.weights, 0, rows};
            if (pass && !few) transpose(matrix(), long(t) * ci, rows, 0, co, s.weights2 + 0);
            for (long p = 0; p < to.pixels(); p += step) {
                long stop = std::min(p + step, to.pixels());
                T* g = to.gradient + p * co;
                gather(p, stop, t, end, s.columns, ld);
                product<T>(rows, co, stop - p, s.columns, 1, ld, {g, co, 0}, 0, gradient, 0, p > 0);
                if (!pass) continue;
                if (few)
                    few_rows<T>(stop - p, g, co, matrix(), long(t) * ci, rows, 0, co, s.columns,
                                ld, false, s.block);
                else
                    product<T>(stop - p, rows, co, g, co, 1, {s.weights2, 0, co}, 0,
                               {s.columns, ld, 0}, 0, false);
                T* columns = s.columns;
                for (auto* map : from) {
                    if (map->gradient)
                        window.scatter(*map, map->gradient, p, stop, t, end, columns, ld, ci);
                    columns += map->c;
                }
            }
            for (long c = 0; c < co; c += PANEL<T>) {
                long width = std::min<long>(PANEL<T>, co - c);
                weights.update(gradient.at(0, c, width),
                               matrix().at(long(t) * ci, c, width) - weights.value, rows * width,
                               hyper);
            }
        }
    }

    // ---- Winograd F(4 x 4, 3 x 3): Y = A^T [(G w G^T) . (B^T x B)] A, tile by tile

    int tiles_y, tiles_x;

    // Interpolation points 0, ±1/√2, ±√2, ∞: seven times more exact in float32 than 0, ±1, ±2, ∞.
    static constexpr T R = T(0.70710678118654752440), S = T(1.41421356237309504880);

    static void input_1d(const Vec<T>* d, int s, Vec<T>* t, int ts) {
        Vec<T> a = d[4 * s] - T(2) * d[2 * s], b = R * d[3 * s] - S * d[s];
        Vec<T> c = d[4 * s] - T(0.5) * d[2 * s], e = S * d[3 * s] - R * d[s];
        t[0] = d[0] - T(2.5) * d[2 * s] + d[4 * s];
        t[ts] = a + b;
        t[2 * ts] = a - b;
        t[3 * ts] = c + e;
        t[4 * ts] = c - e;
        t[5 * ts] = d[s] - T(2.5) * d[3 * s] + d[5 * s];
    }
    static void input_adjoint_1d(const Vec<T>* t, int s, Vec<T>* d, int ds) {
        Vec<T> plus = t[s] + t[2 * s], minus = t[s] - t[2 * s];
        Vec<T> plus2 = t[3 * s] + t[4 * s], minus2 = t[3 * s] - t[4 * s];
        d[0] = t[0];
        d[ds] = t[5 * s] - S * minus - R * minus2;
        d[2 * ds] = T(-2.5) * t[0] - T(2) * plus - T(0.5) * plus2;
        d[3 * ds] = R * minus + S * minus2 - T(2.5) * t[5 * s];
        d[4 * ds] = t[0] + plus + plus2;
        d[5 * ds] = t[5 * s];
    }
    static void output_1d(const Vec<T>* m, int s, Vec<T>* y, int ys) {
        Vec<T> plus = m[s] + m[2 * s], minus = m[s] - m[2 * s];
        Vec<T> plus2 = m[3 * s] + m[4 * s], minus2 = m[3 * s] - m[4 * s];
        y[0] = m[0] + plus + plus2;
        y[ys] = R * minus + S * minus2;
        y[2 * ys] = T(0.5) * plus + T(2) * plus2;
        y[3 * ys] = T(0.5) * R * minus + T(2) * S * minus2 + m[5 * s];
    }
    static void output_adjoint_1d(const Vec<T>* y, int s, Vec<T>* m, int ms) {
        Vec<T> even = y[0] + T(0.5) * y[2 * s], odd = R * (y[s] + T(0.5) * y[3 * s]);
        Vec<T> even2 = y[0] + T(2) * y[2 * s], odd2 = S * (y[s] + T(2) * y[3 * s]);
        m[0] = y[0];
        m[ms] = even + odd;
        m[2 * ms] = even - odd;
        m[3 * ms] = even2 + odd2;
        m[4 * ms] = even2 - odd2;
        m[5 * ms] = y[3 * s];
    }
    static void weight_1d(const Vec<T>* w, int s, Vec<T>* u, int us) {
        Vec<T> a = T(-2.0 / 3) * w[0] - T(1.0 / 3) * w[2 * s], b = (T(-1.0 / 3) * S) * w[s];
        Vec<T> c = T(1.0 / 6) * w[0] + T(1.0 / 3) * w[2 * s], d = (T(1.0 / 6) * S) * w[s];
        u[0] = w[0];
        u[us] = a + b;
        u[2 * us] = a - b;
        u[3 * us] = c + d;
        u[4 * us] = c - d;
        u[5 * us] = w[2 * s];
    }
    static void weight_adjoint_1d(const Vec<T>* u, int s, Vec<T>* w, int ws) {
        Vec<T> plus = u[s] + u[2 * s], minus = u[s] - u[2 * s];
        Vec<T> plus2 = u[3 * s] + u[4 * s], minus2 = u[3 * s] - u[4 * s];
        w[0] = u[0] - T(2.0 / 3) * plus + T(1.0 / 6) * plus2;
        w[ws] = (T(1.0 / 6) * S) * minus2 - (T(1.0 / 3) * S) * minus;
        w[2 * ws] = T(1.0 / 3) * (plus2 - plus) + u[5 * s];
    }

    long tiles_at_once() const {
        long fit = (768L << 10) / (36 * (ci + co) * long(sizeof(T)));
        return std::max(5L, fit / ROWS) * ROWS;
    }

    // G w G^T as 36 matrices (ci x co) in panels, and, if asked for, their transposes.
    void transform_weights(T* u, T* turned) {
        const T* w = weights.value;
        long plane = spread<T>(long(ci) * co);
        for (long o = 0; o < co; o += V<T>) {
            long column = o / PANEL<T> * PANEL<T>, width = std::min<long>(PANEL<T>, co - column);
            for (long i = 0; i < ci; i++) {
                Vec<T> k[9], half[18], full[36];
                for (int t = 0; t < 9; t++)
                    k[t] = load(w + column * 9 * ci + (t * ci + i) * width + o - column);
                for (int x = 0; x < 3; x++) weight_1d(k + x, 3, half + x, 3);
                for (int y = 0; y < 6; y++) weight_1d(half + 3 * y, 1, full + 6 * y, 1);
                for (int e = 0; e < 36; e++)
                    store(u + e * plane + column * ci + i * width + o - column, full[e]);
                if (!turned) continue;
                long c2 = i / PANEL<T> * PANEL<T>, w2 = std::min<long>(PANEL<T>, ci - c2);
                for (int e = 0; e < 36; e++) {
                    T* target = turned + e * plane + c2 * co + o * w2 + i - c2;
                    for (int l = 0; l < V<T>; l++) target[l * w2] = full[e][l];
                }
            }
        }
    }

    // B^T x B of tiles [start, stop): 36 matrices (tiles x ci).
    void transform_input(long start, long stop, T* v, const T* zero) {
        long plane = spread<T>((stop - start) * ci), offset = 0;
        for (auto* map : from) {
            for (long n = start; n < stop; n++) {
                int y0 = int(n / tiles_x) * 4 - 1, x0 = int(n % tiles_x) * 4 - 1;
                const T* at[36];
                for (int y = 0; y < 6; y++)
                    for (int x = 0; x < 6; x++) {
                        int yy = y0 + y, xx = x0 + x;
                        bool inside = yy >= 0 && yy < map->h && xx >= 0 && xx < map->w;
                        at[6 * y + x] =
                            inside ? map->value + (long(yy) * map->w + xx) * map->c : zero;
                    }
                T* target = v + (n - start) * ci + offset;
                for (int c = 0; c < map->c; c += V<T>) {
                    Vec<T> half[36];
                    for (int x = 0; x < 6; x++) {
                        Vec<T> d[6];
                        for (int y = 0; y < 6; y++) {
                            d[y] = load(at[6 * y + x] + c);
                            if (map->relu) d[y] = positive<T>(d[y]);
                        }
                        input_1d(d, 1, half + x, 6);
                    }
                    for (int y = 0; y < 6; y++) {
                        Vec<T> t[6];
                        input_1d(half + 6 * y, 1, t, 1);
                        for (int x = 0; x < 6; x++) store(target + (6 * y + x) * plane + c, t[x]);
                    }
                }
            }
            offset += map->c;
        }
    }

    void forward_winograd(Scratch<T>& s) {
        long all = long(tiles_y) * tiles_x, step = tiles_at_once();
        long plane = spread<T>(long(ci) * co);
        s.weights.grow(36 * plane);
        s.columns.grow(36 * spread<T>(step * ci));
        s.block.grow(36 * spread<T>(step * co));
        s.zero.grow(std::max(ci, co));
        transform_weights(s.weights, nullptr);
        for (long start = 0; start < all; start += step) {
            long stop = std::min(start + step, all), n = stop - start;
            long pi = spread<T>(n * ci), po = spread<T>(n * co);
            transform_input(start, stop, s.columns, s.zero);
            for (int e = 0; e < 36; e++)
                product<T>(n, co, ci, s.columns + e * pi, ci, 1, {s.weights + e * plane, 0, ci}, 0,
                           {s.block + e * po, co, 0}, 0, false);
            for (long i = start; i < stop; i++) {
                int y0 = int(i / tiles_x) * 4, x0 = int(i % tiles_x) * 4;
                int h = std::min(4, to.h - y0), w = std::min(4, to.w - x0);
                const T* m = s.block + (i - start) * co;
                for (int c = 0; c < co; c += V<T>) {
                    Vec<T> half[24], b = load(bias.value + c);
                    for (int x = 0; x < 6; x++) {
                        Vec<T> d[6];
                        for (int y = 0; y < 6; y++) d[y] = load(m + (6 * y + x) * po + c);
                        output_1d(d, 1, half + x, 6);
                    }
                    for (int y = 0; y < h; y++) {
                        Vec<T> row[4];
                        output_1d(half + 6 * y, 1, row, 1);
                        T* target = to.value + (long(y0 + y) * to.w + x0) * co + c;
                        for (int x = 0; x < w; x++) store(target + x * co, row[x] + b);
                    }
                }
            }
        }
    }

    void backward_winograd(Scratch<T>& s, const Hyper& hyper) {
        bool pass = differentiable();
        long all = long(tiles_y) * tiles_x, step = tiles_at_once();
        long plane = spread<T>(long(ci) * co);
        s.weights.grow(36 * plane);
        s.weights2.grow(36 * plane);
        s.weights3.grow(36 * plane);
        s.columns.grow(36 * spread<T>(step * ci));
        s.block.grow(36 * spread<T>(step * co));
        s.zero.grow(std::max(ci, co));
        if (pass) transform_weights(s.weights, s.weights2);
        for (long start = 0; start < all; start += step) {
            long stop = std::min(start + step, all), n = stop - start;
            long pi = spread<T>(n * ci), po = spread<T>(n * co);
            for (long i = start; i < stop; i++) {  // dM = A g A^T
                int y0 = int(i / tiles_x) * 4, x0 = int(i % tiles_x) * 4;
                int h = std::min(4, to.h - y0), w = std::min(4, to.w - x0);
                T* m = s.block + (i - start) * co;
                for (int c = 0; c < co; c += V<T>) {
                    Vec<T> half[24];
                    for (int x = 0; x < 4; x++) {
                        Vec<T> d[4];
                        for (int y = 0; y < 4; y++)
                            d[y] = y < h && x < w ? load(to.gradient +
                                                         (long(y0 + y) * to.w + x0 + x) * co + c)
                                                  : Vec<T>{};
                        output_adjoint_1d(d, 1, half + x, 4);
                    }
                    for (int y = 0; y < 6; y++) {
                        Vec<T> t[6];
                        output_adjoint_1d(half + 4 * y, 1, t, 1);
                        for (int x = 0; x < 6; x++) store(m + (6 * y + x) * po + c, t[x]);
                    }
                }
            }
            transform_input(start, stop, s.columns, s.zero);
            for (int e = 0; e < 36; e++) {
                T *v = s.columns + e * pi, *m = s.block + e * po;
                product<T>(ci, co, n, v, 1, ci, {m, co, 0}, 0, {s.weights3 + e * plane, 0, ci}, 0,
                           start > 0);
                if (pass)
                    product<T>(n, ci, co, m, co, 1, {s.weights2 + e * plane, 0, co}, 0,
                               {v, ci, 0}, 0, false);
            }
            if (pass) add_input_gradients(start, stop, s.columns);
        }
        T *u = s.weights3, *gradient = s.weights2;  // Gt dU G
        for (long o = 0; o < co; o += V<T>) {
            long column = o / PANEL<T> * PANEL<T>, width = std::min<long>(PANEL<T>, co - column);
            for (long i = 0; i < ci; i++) {
                Vec<T> full[36], half[18], k[9];
                for (int e = 0; e < 36; e++)
                    full[e] = load(u + e * plane + column * ci + i * width + o - column);
                for (int x = 0; x < 6; x++) weight_adjoint_1d(full + x, 6, half + x, 6);
                for (int y = 0; y < 3; y++) weight_adjoint_1d(half + 6 * y, 1, k + 3 * y, 1);
                for (int t = 0; t < 9; t++)
                    store(gradient + column * 9 * ci + (t * ci + i) * width + o - column, k[t]);
            }
        }
        weights.update(gradient, 0, 9L * ci * co, hyper);
    }

    // x's gradient: B dV B^T, tiles overlapping.
    void add_input_gradients(long start, long stop, const T* v) {
        long plane = spread<T>((stop - start) * ci), offset = 0;
        for (auto* map : from) {
            for (long n = start; n < stop && map->gradient; n++) {
                int y0 = int(n / tiles_x) * 4 - 1, x0 = int(n % tiles_x) * 4 - 1;
                const T* source = v + (n - start) * ci + offset;
                for (int c = 0; c < map->c; c += V<T>) {
                    Vec<T> half[36];
                    for (int x = 0; x < 6; x++) {
                        Vec<T> d[6];
                        for (int y = 0; y < 6; y++) d[y] = load(source + (6 * y + x) * plane + c);
                        input_adjoint_1d(d, 1, half + x, 6);
                    }
                    for (int y = 0; y < 6; y++) {
                        if (y0 + y < 0 || y0 + y >= map->h) continue;
                        Vec<T> t[6];
                        input_adjoint_1d(half + 6 * y, 1, t, 1);
                        T* g = map->gradient + (long(y0 + y) * map->w + x0) * map->c + c;
                        for (int x = 0; x < 6; x++)
                            if (x0 + x >= 0 && x0 + x < map->w)
                                store(g + x * map->c, load(g + x * map->c) + t[x]);
                    }
                }
            }
            offset += map->c;
        }
    }

    // ---- the layer

    void forward(Scratch<T>& s) override {
        winograd ? forward_winograd(s) : forward_gathered(s);
        if (norm == NONE) return;
        // Per channel: (y - mean) / standard deviation, in place.
        std::vector<double> mean(co), square(co), unused(co);
        T* v = to.value;
        sums(to, mean.data(), unused.data(), [&](long i, int, Vec<T>& a, Vec<T>&) { a += load(v + i); });
        std::vector<T> center(co);
        for (int c = 0; c < co; c++) center[c] = T(mean[c] / to.pixels());
        sums(to, square.data(), unused.data(), [&](long i, int c, Vec<T>& a, Vec<T>&) {
            Vec<T> d = load(v + i) - load(center.data() + c);
            a += d * d;
        });
        for (int c = 0; c < co; c++) inverse[c] = T(1 / std::sqrt(square[c] / to.pixels() + 1e-5));
        if (norm == INSTANCE)
            each(to, [&](long i, int c) {
                store(v + i, (load(v + i) - load(center.data() + c)) * load(inverse.data() + c));
            });
        else
            each(to, [&](long i, int c) {
                Vec<T> x = (load(v + i) - load(center.data() + c)) * load(inverse.data() + c);
                store(standard + i, x);
                store(v + i, x * load(scale.value + c) + load(shift.value + c));
            });
    }

    void backward(Scratch<T>& s, const Hyper& hyper) override {
        T *v = to.value, *g = to.gradient, *normal = norm == AFFINE ? standard + 0 : v;
        std::vector<double> first(co), second(co);
        sums(to, first.data(), second.data(), [&](long i, int, Vec<T>& a, Vec<T>& b) {
            Vec<T> d = load(g + i);
            if (to.relu) {
                d = load(v + i) > Vec<T>{} ? d : Vec<T>{};
                store(g + i, d);
            }
            a += d;
            b += d * load(normal + i);
        });
        std::vector<T> shifts(first.begin(), first.end()), scales(second.begin(), second.end());
        if (norm != NONE) {
            std::vector<T> a(co), b(co), factor(inverse);
            for (int c = 0; c < co; c++) {
                a[c] = T(first[c] / to.pixels());
                b[c] = T(second[c] / to.pixels());
                if (norm == AFFINE) factor[c] *= scale.value[c];
            }
            each(to, [&](long i, int c) {
                Vec<T> d = load(g + i) - load(a.data() + c) - load(normal + i) * load(b.data() + c);
                store(g + i, d * load(factor.data() + c));
            });
        }
        winograd ? backward_winograd(s, hyper) : backward_gathered(s, hyper);
        // A normalized map does not change with its bias.
        if (norm == NONE) bias.update(shifts.data(), 0, co, hyper);
        if (norm != AFFINE) return;
        scale.update(scales.data(), 0, co, hyper);
        shift.update(shifts.data(), 0, co, hyper);
    }
};

// A 4 x 4 deconvolution with stride 2: every input pixel adds a window to the output.
template <class T> struct Deconv : Filter<T> {
    using Filter<T>::to, Filter<T>::window, Filter<T>::weights, Filter<T>::bias;
    using Filter<T>::taps, Filter<T>::at_once;
    Map<T>& from;
    int real_in, real_out, ci, co;

    Deconv(Map<T>& from, Map<T>& to, int in, int out)
        : Filter<T>(to, {4, 2, from.w}, long(from.c) * to.c), from(from), real_in(in),
          real_out(out), ci(from.c), co(to.c) {}

    Matrix<T> matrix() { return {weights.value, 0, ci}; }  // ci x (tap, co)

    // PyTorch's (in, out, 4, 4) and (out,).
    void visit(const Visit<T>& f) override {
        for (int i = 0; i < real_in; i++)
            for (int o = 0; o < real_out; o++)
                for (int t = 0; t < taps; t++) {
                    long n = long(t) * co + o, column = n / PANEL<T> * PANEL<T>;
                    f(weights, matrix().at(i, column, PANEL<T>) - weights.value + n - column);
                }
        for (int o = 0; o < real_out; o++) f(bias, o);
    }

    // Input pixels [start, stop) after their ReLU.
    void inputs(long start, long stop, T* rows) {
        for (long i = start * ci; i < stop * ci; i += V<T>)
            store(rows + i - start * ci,
                  from.relu ? positive<T>(load(from.value + i)) : load(from.value + i));
    }

    void forward(Scratch<T>& s) override {
        long ld = spread<T>(long(at_once) * co), step = this->pixels_at_once(long(at_once) * co);
        s.columns.grow(step * ld);
        s.block.grow(step * ci);
        each(to, [&](long i, int c) { store(to.value + i, load(bias.value + c)); });
        for (int t = 0; t < taps; t += at_once)
            for (long p = 0; p < from.pixels(); p += step) {
                long stop = std::min(p + step, from.pixels());
                int end = std::min(t + at_once, taps);
                inputs(p, stop, s.block);
                product<T>(stop - p, long(end - t) * co, ci, s.block, ci, 1,
                           {weights.value + long(t) * co * ci, 0, ci}, 0, {s.columns, ld, 0}, 0,
                           false);
                window.scatter(to, to.value, p, stop, t, end, s.columns, ld, co);
            }
    }

    void backward(Scratch<T>& s, const Hyper& hyper) override {
        std::vector<double> first(co), unused(co);
        T *v = to.value, *g = to.gradient;
        sums(to, first.data(), unused.data(), [&](long i, int, Vec<T>& a, Vec<T>&) {
            Vec<T> d = load(g + i);
            if (to.relu) {
                d = load(v + i) > Vec<T>{} ? d : Vec<T>{};
                store(g + i, d);
            }
            a += d;
        });
        std::vector<T> gradient(first.begin(), first.end());
        bias.update(gradient.data(), 0, co, hyper);

        bool few = from.pixels() <= this->FEW;
        long ld = spread<T>(long(at_once) * co), step = this->pixels_at_once(long(at_once) * co);
        s.columns.grow(step * ld);
        s.block.grow(step * ci);
        s.weights.grow(long(at_once) * ci * co);
        s.weights2.grow(long(at_once) * ci * co);
        for (int t = 0; t < taps; t += at_once) {
            int end = std::min(t + at_once, taps);
            long columns = long(end - t) * co;
            if (!few) transpose(matrix(), 0, ci, long(t) * co, columns, s.weights2 + 0);
            for (long p = 0; p < from.pixels(); p += step) {
                long stop = std::min(p + step, from.pixels());
                window.gather(to, g, false, p, stop, t, end, s.columns, ld, co);
                inputs(p, stop, s.block);
                product<T>(ci, columns, stop - p, s.block, 1, ci, {s.columns, ld, 0}, 0,
                           {s.weights, 0, ci}, 0, p > 0);
                T* input = from.gradient + p * ci;
                if (few)
                    few_rows<T>(stop - p, s.columns, ld, matrix(), 0, ci, long(t) * co, columns,
                                input, ci, true, s.gradients);
                else
                    product<T>(stop - p, ci, columns, s.columns, ld, 1, {s.weights2, 0, columns},
                               0, {input, ci, 0}, 0, true);
            }
            weights.update(s.weights, long(t) * ci * co, columns * ci, hyper);
        }
    }
};

// 1 x 1 convolution to three channels, sigmoid and squared error.
template <class T> struct Head : Layer<T> {
    Map<T>& from;
    int real_in;
    Weights<T> weights;  // three rows of from.c; three biases
    Array<T> target, image;
    double loss = 0;

    Head(Map<T>& from, int in)
        : from(from), real_in(in), weights(up(3 * from.c + 3, V<T>)), target(3 * from.pixels()),
          image(3 * from.pixels()) {}

    void reset() override { weights.reset(); }
    void visit(const Visit<T>& f) override {
        for (int o = 0; o < 3; o++)
            for (int i = 0; i < real_in; i++) f(weights, o * from.c + i);
        for (int o = 0; o < 3; o++) f(weights, 3 * from.c + o);
    }
    long bytes() const override { return 3 * weights.size * sizeof(T); }

    void forward(Scratch<T>& s) override {
        constexpr long CHUNK = 4 * ROWS;
        long n = from.pixels(), c = from.c;
        s.columns.grow(CHUNK * c);
        s.block.grow((CHUNK + c) * V<T>);
        T *logits = s.block, *matrix = s.block + CHUNK * V<T>;  // (pixels, o), (channels, o)
        for (long i = 0; i < c; i++)
            for (int o = 0; o < 3; o++) matrix[i * V<T> + o] = weights.value[o * c + i];
        loss = 0;
        for (long start = 0; start < n; start += CHUNK) {
            long size = std::min(CHUNK, n - start);
            for (long i = 0; i < size * c; i += V<T>)
                store(s.columns + i, positive<T>(load(from.value + start * c + i)));
            product<T>(size, V<T>, c, s.columns, c, 1, {matrix, V<T>, 0}, 0, {logits, V<T>, 0}, 0,
                       false);
            for (int o = 0; o < 3; o++)
                for (long p = 0; p < size; p++) {
                    T x = logits[p * V<T> + o] + weights.value[3 * c + o];
                    T y = 1 / (1 + std::exp(-x)), d = y - target[o * n + start + p];
                    image[o * n + start + p] = y;
                    loss += double(d) * d;
                }
        }
        loss /= 3 * n;
    }

    void backward(Scratch<T>& s, const Hyper& hyper) override {
        long n = from.pixels();
        s.weights.grow(weights.size);
        std::vector<double> total(weights.size);
        constexpr long CHUNK = 256;
        for (long start = 0; start < n; start += CHUNK) {
            std::memset(s.weights, 0, weights.size * sizeof(T));
            for (long p = start; p < std::min(start + CHUNK, n); p++) {
                T d[3];
                for (int o = 0; o < 3; o++) {
                    T y = image[o * n + p];
                    d[o] = (y - target[o * n + p]) * (2 / T(3 * n)) * y * (1 - y);
                    s.weights[3 * from.c + o] += d[o];
                }
                for (int c = 0; c < from.c; c += V<T>) {
                    Vec<T> x = positive<T>(load(from.value + p * from.c + c)), g{};
                    for (int o = 0; o < 3; o++) {
                        T* w = s.weights + o * from.c + c;
                        store(w, load(w) + d[o] * x);
                        g += d[o] * load(weights.value + o * from.c + c);
                    }
                    store(from.gradient + p * from.c + c, g);
                }
            }
            for (long i = 0; i < weights.size; i++) total[i] += s.weights[i];
        }
        std::copy(total.begin(), total.end(), s.weights + 0);
        weights.update(s.weights, 0, weights.size, hyper);
    }
};

// -------------------------------------------------------------------------------------- networks

template <class T> struct Network {
    int inputs;
    std::vector<std::unique_ptr<Map<T>>> maps;
    std::vector<std::unique_ptr<Layer<T>>> layers;  // in the order of the forward pass
    std::vector<Layer<T>*> declared;                // in the order of the parameters
    Head<T>* head = nullptr;
    Scratch<T> scratch;
    Array<T> average;
    long steps = 0;

    Network(int h, int w, int inputs) : inputs(inputs), average(3L * h * w) {
        maps.emplace_back(new Map<T>(h, w, inputs, Map<T>::INPUT));
    }

    Map<T>* add(Map<T>* map, Layer<T>* layer) {
        maps.emplace_back(map);
        layers.emplace_back(layer);
        return map;
    }
    Map<T>* conv(std::vector<Map<T>*> from, int in, int out, int k, int stride, Norm norm) {
        auto half = [&](int n) { return (n + stride - 1) / stride; };
        auto* to = new Map<T>(half(from[0]->h), half(from[0]->w), out, Map<T>::RELU);
        return add(to, new Conv<T>(from, *to, in, out, k, stride, norm));
    }
    Map<T>* deconv(Map<T>* from, int in, int out, Map<T>* like, bool relu) {
        auto* to = new Map<T>(like->h, like->w, out, relu ? Map<T>::RELU : Map<T>::LINEAR);
        return add(to, new Deconv<T>(*from, *to, in, out));
    }
    Map<T>* pool(Map<T>* from, int channels) {
        auto* to = new Map<T>(from->h / 2, from->w / 2, channels, Map<T>::RELU);
        return add(to, new Pool<T>(*from, *to));
    }
    void finish(Map<T>* from, int in) {
        layers.emplace_back(head = new Head<T>(*from, in));
        declared.push_back(head);
    }

    // DIP2: widths of six levels.
    void dip2(const int* n, Norm norm) {
        std::vector<Map<T>*> shortcuts;
        std::vector<Layer<T>*> ups, merges;
        auto latest = [&] { return layers.back().get(); };
        Map<T>* x = maps[0].get();
        for (int i = 0; i < 6; i++) {
            if (i) {
                shortcuts.push_back(x);
                x = pool(x, n[i - 1]);
            }
            for (int in : {i ? n[i - 1] : inputs, n[i]}) {
                x = conv({x}, in, n[i], 3, 1, norm);
                declared.push_back(latest());
            }
        }
        for (int i = 4; i >= 0; i--) {
            x = deconv(x, n[i + 1], n[i], shortcuts[i], false);
            ups.push_back(latest());
            x = conv({shortcuts[i], x}, 2 * n[i], n[i], 3, 1, NONE);
            merges.push_back(latest());
            x = conv({x}, n[i], n[i], 3, 1, NONE);
            merges.push_back(latest());
        }
        declared.insert(declared.end(), ups.begin(), ups.end());
        declared.insert(declared.end(), merges.begin(), merges.end());
        finish(x, n[0]);
    }

    // DIP1: widths of its eight inner layers.
    void dip1(const int* n, Norm norm) {
        Map<T>*z = maps[0].get(), *x = conv({z}, inputs, n[0], 5, 2, norm);
        Map<T>* half = x = conv({x}, n[0], n[1], 5, 1, norm);
        x = conv({x}, n[1], n[2], 5, 2, norm);
        x = conv({x}, n[2], n[3], 5, 1, norm);
        x = deconv(x, n[3], n[4], half, true);
        x = conv({x}, n[4], n[5], 3, 1, norm);
        x = deconv(x, n[5], n[6], z, true);
        x = conv({x}, n[6], n[7], 3, 1, norm);
        for (auto& layer : layers) declared.push_back(layer.get());
        finish(x, n[7]);
    }

    void start(const T* parameters, const T* input, const T* image) {
        for (auto* layer : declared) {
            layer->reset();
            layer->visit([&](Weights<T>& w, long i) { w.value[i] = *parameters++; });
        }
        Map<T>& z = *maps[0];
        for (int c = 0; c < inputs; c++)
            for (long p = 0; p < z.pixels(); p++) z.value[p * z.c + c] = input[c * z.pixels() + p];
        std::copy(image, image + head->target.size, head->target + 0);
        steps = 0;
    }

    // The state between two steps, as PyTorch would have it: parameters, Adam's two averages.
    void save(T* value, T* mean, T* square) {
        for (auto* layer : declared)
            layer->visit([&](Weights<T>& w, long i) {
                *value++ = w.value[i], *mean++ = w.mean[i], *square++ = w.square[i];
            });
    }
    // After start: go on from a state, the average of the images and the number of steps.
    void resume(const T* value, const T* mean, const T* square, const T* image, long taken) {
        for (auto* layer : declared)
            layer->visit([&](Weights<T>& w, long i) {
                w.value[i] = *value++, w.mean[i] = *mean++, w.square[i] = *square++;
            });
        std::copy(image, image + average.size, average + 0);
        steps = taken;
    }

    // One step; image, average and error are those before the update.
    void step(double rate, double smoothing) {
        for (auto& m : maps)
            if (m->gradient) std::memset(m->gradient, 0, m->gradient.size * sizeof(T));
        for (auto& layer : layers) layer->forward(scratch);
        // The first average is the image itself, whatever an earlier one left.
        if (steps++ == 0) std::copy(head->image + 0, head->image + average.size, average + 0);
        else
            for (long i = 0; i < average.size; i++)
                average[i] += T(1 - smoothing) * (head->image[i] - average[i]);
        Hyper hyper{rate, 1 - std::pow(0.9, steps), 1 - std::pow(0.999, steps)};
        for (size_t i = layers.size(); i--;) layers[i]->backward(scratch, hyper);
    }
};

template <class T> Network<T>* build(int h, int w, int inputs, const int* widths, int kind, int norm) try {
    auto net = std::make_unique<Network<T>>(h, w, inputs);
    if (kind == 0) net->dip1(widths, Norm(norm));
    else net->dip2(widths, Norm(norm));
    return net.release();
} catch (const std::bad_alloc&) {
    return nullptr;
}

template <class T>
double fit(Network<T>* net, int steps, double rate, double smoothing, T* output, T* average) try {
#if defined(__SSE2__)
    // Late in an optimization Adam's second moments fall below 1e-38, where x86 is slow.
    struct Flush {
        unsigned before = __builtin_ia32_stmxcsr();
        Flush() { __builtin_ia32_ldmxcsr(before | 0x8040); }
        ~Flush() { __builtin_ia32_ldmxcsr(before); }
    } flush;
#endif
    for (int i = 0; i < steps; i++) net->step(rate, smoothing);
    std::copy(net->head->image + 0, net->head->image + net->head->image.size, output);
    std::copy(net->average + 0, net->average + net->average.size, average);
    return net->head->loss;
} catch (const std::bad_alloc&) {
    return -1;
}

}  // namespace

#define INTERFACE(T, NAME)                                                                        \
    void* prior_new_##NAME(int h, int w, int inputs, const int* widths, int kind, int norm) {     \
        return build<T>(h, w, inputs, widths, kind, norm);                                        \
    }                                                                                             \
    void prior_start_##NAME(void* net, const T* parameters, const T* input, const T* image) {     \
        static_cast<Network<T>*>(net)->start(parameters, input, image);                           \
    }                                                                                             \
    void prior_save_##NAME(void* net, T* value, T* mean, T* square) {                             \
        static_cast<Network<T>*>(net)->save(value, mean, square);                                 \
    }                                                                                             \
    void prior_resume_##NAME(void* net, const T* value, const T* mean, const T* square,           \
                             const T* average, int steps) {                                       \
        static_cast<Network<T>*>(net)->resume(value, mean, square, average, steps);               \
    }                                                                                             \
    double prior_fit_##NAME(void* net, int steps, double rate, double smoothing, T* output,       \
                            T* average) {                                                         \
        return fit(static_cast<Network<T>*>(net), steps, rate, smoothing, output, average);       \
    }                                                                                             \
    void prior_free_##NAME(void* net) { delete static_cast<Network<T>*>(net); }

extern "C" {
INTERFACE(float, float32)
INTERFACE(double, float64)
}
