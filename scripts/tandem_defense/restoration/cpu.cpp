// One image's deep image prior on the CPU: forward, backward and Adam, step after step.
//
// Maps are (H, W, C), C padded to whole vectors. Padded channels are zero, get zero gradients and
// stay zero. A map holds values before their ReLU; whoever reads it applies the ReLU.
//
// Every layer is a matrix product. On large maps it goes through Winograd's method on tiles of 6 x 6,
// with a quarter to two fifths of the multiplications; on small ones layers gather their inputs
// (im2col), and deconvolutions scatter their outputs.
// Weights live in panels, as the product reads them, and are updated as soon as their gradient is
// there, while it is still in the cache.
//
// Threads share a layer, and the result is the same to the last bit for any number of them:
// - work in which every sum is one thread's may be divided in any way: forward by pixels and output
//   channels, backward in wide layers by input channels;
// - where several threads add to a sum (gradients of narrow layers' weights, statistics), it is cut
//   into parts, which depend on the sizes alone and are added in order;
// - where windows overlap, strips of rows take turns: the even ones, then the odd ones.

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <numeric>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#if defined(__AVX512F__) && !defined(NARROW)
constexpr int BYTES = 64, ROWS = 14;  // 28 of 32 registers accumulate
#elif defined(__AVX512VL__)  // for networks that twice as wide vectors would pad (native.py)
constexpr int BYTES = 32, ROWS = 14;
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

// -------------------------------------------------------------------------------------- threads

// Late in an optimization Adam's second moments fall below 1e-38, where x86 is slow: they are zero
// in this thread while one of these is there.
struct Flush {
#if defined(__SSE2__)
    unsigned before = __builtin_ia32_stmxcsr();
    Flush() { __builtin_ia32_ldmxcsr(before | 0x8040); }
    ~Flush() { __builtin_ia32_ldmxcsr(before); }
#endif
};

// The caller's thread and others, which wait for work: shortly awake, as the next layer comes in
// microseconds, then asleep.
class Threads {
    using Call = void (*)(void*, long, int);
    static constexpr int SPINS = 2000;  // some 50 microseconds

    std::vector<std::thread> others;
    // The number of the call, and in the lower half how many of its items nobody has taken yet. Who
    // takes one has read the rest as it is in this call: the call is not over without the item.
    std::atomic<uint64_t> left{0};
    std::atomic<Call> call{nullptr};
    std::atomic<void*> work{nullptr};
    std::atomic<long> count{0}, done{0};
    std::atomic<bool> failed{false}, over{false}, waiting{false};
    std::atomic<int> sleeping{0};
    std::mutex mutex;
    std::condition_variable wake, finished;

    template <class F> static bool spin(F until) {
        for (int i = 0; i < SPINS; i++) {
            if (until()) return true;
#if defined(__SSE2__)
            __builtin_ia32_pause();
#elif defined(__aarch64__)
            asm volatile("yield");
#endif
        }
        return false;
    }

    // Take items until there are none; returns the last look at `left`.
    uint64_t take(int thread) {
        for (;;) {
            uint64_t now = left;
            if (uint32_t(now) == 0) return now;
            Call f = call;
            void* what = work;
            long all = count;
            if (!left.compare_exchange_weak(now, now - 1)) continue;
            try {
                f(what, all - long(uint32_t(now)), thread);
            } catch (const std::bad_alloc&) {
                failed = true;
            }
            if (++done == all && waiting) {
                std::lock_guard<std::mutex> lock(mutex);
                finished.notify_one();
            }
        }
    }

    void serve(int thread) {
        Flush flush;
        while (!over) {
            uint64_t now = take(thread);
            auto more = [&] { return over || left != now; };
            if (spin(more)) continue;
            std::unique_lock<std::mutex> lock(mutex);
            sleeping++;
            wake.wait(lock, more);
            sleeping--;
        }
    }

  public:
    ~Threads() {
        over = true;
        {
            std::lock_guard<std::mutex> lock(mutex);
            wake.notify_all();
        }
        for (auto& thread : others) thread.join();
    }

    int size() const { return int(others.size()) + 1; }

    // From now on at least `n` threads, or as many as the system grants.
    void grow(int n) try {
        while (size() < n) {
            others.reserve(n);
            others.emplace_back(&Threads::serve, this, size());
        }
    } catch (const std::system_error&) {
    }

    // f(item, thread) for all items < n, in any order and several at a time.
    template <class F> void each(long n, F f) {
        if (size() == 1 || n < 2) {
            for (long i = 0; i < n; i++) f(i, 0);
            return;
        }
        work = &f;
        call = [](void* what, long item, int thread) { (*static_cast<F*>(what))(item, thread); };
        count = n;
        done = 0;
        left = ((left >> 32) + 1) << 32 | uint64_t(n);
        if (sleeping) {
            std::lock_guard<std::mutex> lock(mutex);
            wake.notify_all();
        }
        take(0);
        auto all = [&] { return done == n; };
        if (!spin(all)) {
            std::unique_lock<std::mutex> lock(mutex);
            waiting = true;
            finished.wait(lock, all);
            waiting = false;
        }
        if (failed.exchange(false)) throw std::bad_alloc();
    }
};

// Buffers that the layers of one network share.
template <class T> struct Scratch {
    Array<T> columns, block, weights, turned, gradients;
};

// A network's threads: each has buffers of its own, and `shared` is for all.
template <class T> struct Team {
    Threads threads;
    std::vector<Scratch<T>> own{1};
    Scratch<T> shared;
    Array<T> zero;

    int size() const { return threads.size(); }
    void grow(int n) {
        own.resize(std::max<size_t>(own.size(), n));
        threads.grow(n);
    }
    // f(item, buffers) for all items < n, in any order and several at a time.
    template <class F> void each(long n, F f) {
        threads.each(n, [&](long item, int thread) { f(item, own[thread]); });
    }
    // f(start, stop, part) for [0, n) in parts: as many for any number of threads.
    template <class F> void parts(long n, long least, F f) {
        long count = parts(n, least);
        threads.each(count, [&](long i, int) { f(n * i / count, n * (i + 1) / count, i); });
    }
    static long parts(long n, long least) { return std::clamp(n / least, 1L, 32L); }
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

// Values of a map in one part of the work.
constexpr long PART = 1 << 14;

// sum over the pixels of f(pixel offset, vector offset) -> two vectors, in double, per channel.
template <class T, class F>
void sums(Team<T>& team, const Map<T>& map, double* first, double* second, F f) {
    constexpr long CHUNK = 64;
    long least = PART / map.c + 1, count = team.parts(map.pixels(), least);
    std::vector<double> partial(2 * count * map.c);
    team.parts(map.pixels(), least, [&](long start, long end, long part) {
        double *one = partial.data() + 2 * part * map.c, *two = one + map.c;
        for (; start < end; start += CHUNK) {
            long stop = std::min(start + CHUNK, end);
            for (int c = 0; c < map.c; c += V<T>) {
                Vec<T> a{}, b{};
                for (long p = start; p < stop; p++) f(p * map.c + c, c, a, b);
                for (int l = 0; l < V<T>; l++) one[c + l] += a[l], two[c + l] += b[l];
            }
        }
    });
    std::fill(first, first + map.c, 0.0);
    std::fill(second, second + map.c, 0.0);
    for (long part = 0; part < count; part++)
        for (int c = 0; c < map.c; c++) {
            first[c] += partial[2 * part * map.c + c];
            second[c] += partial[(2 * part + 1) * map.c + c];
        }
}

template <class T, class F> void each(Team<T>& team, const Map<T>& map, F f) {
    team.parts(map.pixels(), PART / map.c + 1, [&](long start, long stop, long) {
        for (long p = start; p < stop; p++)
            for (int c = 0; c < map.c; c += V<T>) f(p * map.c + c, c);
    });
}

// Weights and an index into them.
template <class T> using Visit = std::function<void(Weights<T>&, long)>;

template <class T> struct Layer {
    virtual ~Layer() = default;
    virtual void forward(Team<T>&) = 0;
    virtual void backward(Team<T>&, const Hyper&) = 0;
    virtual void reset() {}
    virtual void visit(const Visit<T>&) {}  // every parameter, in PyTorch's order
    virtual long bytes() const { return 0; }
};

// 2 x 2 maximum pooling.
template <class T> struct Pool : Layer<T> {
    Map<T>&from, &to;
    Pool(Map<T>& from, Map<T>& to) : from(from), to(to) {}
    template <class F> void windows(Team<T>& team, F f) {
        long row = long(from.w) * from.c;
        team.parts(to.h, PART / (long(to.w) * to.c) + 1, [&](long start, long stop, long) {
            for (long y = start; y < stop; y++)
                for (int x = 0; x < to.w; x++)
                    for (int c = 0; c < to.c; c += V<T>)
                        f((2 * y * from.w + 2 * x) * from.c + c, row, (y * to.w + x) * to.c + c);
        });
    }
    void forward(Team<T>& team) override {
        windows(team, [&](long i, long row, long o) {
            const T* v = from.value;
            Vec<T> a = load(v + i), b = load(v + i + from.c);
            Vec<T> c = load(v + i + row), d = load(v + i + row + from.c);
            a = b > a ? b : a;
            c = d > c ? d : c;
            store(to.value + o, c > a ? c : a);
        });
    }
    // The gradient goes to the first largest value.
    void backward(Team<T>& team, const Hyper&) override {
        windows(team, [&](long i, long row, long o) {
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

    // Channels [c0, c1) of the values under the windows [start, stop) and taps [t0, t1): rows of
    // distance `ld`, taps at distance `step`. Writes whole vectors, in ascending order.
    void gather(const Map<T>& map, const T* values, bool relu, long start, long stop, int t0,
                int t1, T* rows, long ld, long step, long c0, long c1) const {
        bool dense = step == map.c && c1 - c0 == map.c;  // a run of taps is one piece
        visit(map, start, stop, t0, t1, [&](long p, int t, int count, long pixel) {
            T* row = rows + p * ld + t * step;
            const T* v = values + pixel * map.c + c0;
            long size = dense ? long(count) * map.c : c1 - c0;
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
                 const T* rows, long ld, long step, long c0, long c1) const {
        visit(map, start, stop, t0, t1, [&](long p, int t, int count, long pixel) {
            if (pixel < 0) return;
            const T* row = rows + p * ld + t * step;
            T* v = values + pixel * map.c + c0;
            for (int i = 0; i < count; i++, row += step, v += map.c)
                for (long c = 0; c < c1 - c0; c += V<T>) store(v + c, load(v + c) + load(row + c));
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
    static constexpr long PARTIAL = 4 << 20;  // bytes of all partial sums
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

    static long panels(long channels) { return (channels + PANEL<T> - 1) / PANEL<T>; }
    // Where piece i of n begins, in whole panels.
    static long piece(long channels, long i, long n) {
        return std::min(panels(channels) * i / n * PANEL<T>, channels);
    }

    // Into how many strips to cut rows: at least `high` rows and `fewest` of all `pixels` in each,
    // and `partial` numbers to sum up. 1: into none, threads share the channels.
    static int cut(long rows, long high, long pixels, long fewest, long partial) {
        int n = 16;
        while (n > 2 && (rows / n < high || pixels / n < fewest ||
                         n * partial * long(sizeof(T)) > PARTIAL))
            n /= 2;
        return n > 2 ? n : 1;
    }
    static bool is_wide(long channels) { return channels >= 4 * PANEL<T>; }

    // f(first row, last row, first channel, last channel, strip, buffers) for all strips of rows,
    // neighbors one after the other where they overlap; or for pieces of the channels.
    template <class F>
    static void share(Team<T>& team, int strips, bool overlap, long rows, long channels,
                      bool divisible, F f) {
        if (strips == 1) {
            long n = divisible ? std::min<long>(team.size(), panels(channels)) : 1;
            team.each(n, [&](long i, Scratch<T>& s) {
                f(0L, rows, piece(channels, i, n), piece(channels, i + 1, n), 0L, s);
            });
            return;
        }
        int turns = overlap ? 2 : 1;
        for (int turn = 0; turn < turns; turn++)
            team.each(strips / turns, [&](long i, Scratch<T>& s) {
                long strip = i * turns + turn;
                f(rows * strip / strips, rows * (strip + 1) / strips, 0L, channels, strip, s);
            });
    }

    // Rows and columns of the weights, transposed for all threads.
    static void turn(Team<T>& team, Matrix<T> w, long r0, long rows, long c0, long columns,
                     T* turned) {
        team.parts(panels(rows), 4, [&](long start, long stop, long) {
            start *= PANEL<T>, stop = std::min(stop * PANEL<T>, rows);
            transpose(w, r0 + start, stop - start, c0, columns, turned + start * columns);
        });
    }

    // Adam with the sum of the strips' gradients.
    void learn(Team<T>& team, int strips, const Hyper& hyper) {
        const T* gradients = team.shared.gradients;
        team.parts(weights.size / V<T>, 256, [&](long start, long stop, long) {
            constexpr long CHUNK = 64;
            T sum[CHUNK * V<T>];
            for (; start < stop; start += CHUNK) {
                long first = start * V<T>, n = std::min(CHUNK, stop - start) * V<T>;
                for (long i = 0; i < n; i += V<T>) {
                    Vec<T> g{};
                    for (int strip = 0; strip < strips; strip++)
                        g += load(gradients + strip * weights.size + first + i);
                    store(sum + i, g);
                }
                weights.update(sum, first, n, hyper);
            }
        });
    }
};

// Winograd's convolutions with tiles of 6 x 6 inputs: F(4 x 4, 3 x 3) and F(2 x 2, 5 x 5), by OUT.
// In one dimension Y = A^T [(G w) . (B^T x)], in two on columns and then on rows.
// Interpolation points 0, ±1/√2, ±√2, ∞: seven times more exact in float32 than 0, ±1, ±2, ∞.
template <class T, int OUT> struct Points {
    static constexpr T R = T(0.70710678118654752440), S = T(1.41421356237309504880);

    // B^T x, and B t.
    static void input(const Vec<T>* d, int s, Vec<T>* t, int ts) {
        Vec<T> a = d[4 * s] - T(2) * d[2 * s], b = R * d[3 * s] - S * d[s];
        Vec<T> c = d[4 * s] - T(0.5) * d[2 * s], e = S * d[3 * s] - R * d[s];
        t[0] = d[0] - T(2.5) * d[2 * s] + d[4 * s];
        t[ts] = a + b;
        t[2 * ts] = a - b;
        t[3 * ts] = c + e;
        t[4 * ts] = c - e;
        t[5 * ts] = d[s] - T(2.5) * d[3 * s] + d[5 * s];
    }
    static void input_adjoint(const Vec<T>* t, int s, Vec<T>* d, int ds) {
        Vec<T> plus = t[s] + t[2 * s], minus = t[s] - t[2 * s];
        Vec<T> plus2 = t[3 * s] + t[4 * s], minus2 = t[3 * s] - t[4 * s];
        d[0] = t[0];
        d[ds] = t[5 * s] - S * minus - R * minus2;
        d[2 * ds] = T(-2.5) * t[0] - T(2) * plus - T(0.5) * plus2;
        d[3 * ds] = R * minus + S * minus2 - T(2.5) * t[5 * s];
        d[4 * ds] = t[0] + plus + plus2;
        d[5 * ds] = t[5 * s];
    }
    // A^T m, and A y.
    static void output(const Vec<T>* m, int s, Vec<T>* y, int ys) {
        Vec<T> plus = m[s] + m[2 * s], minus = m[s] - m[2 * s];
        Vec<T> plus2 = m[3 * s] + m[4 * s], minus2 = m[3 * s] - m[4 * s];
        y[0] = m[0] + plus + plus2;
        if constexpr (OUT == 4) {
            y[ys] = R * minus + S * minus2;
            y[2 * ys] = T(0.5) * plus + T(2) * plus2;
            y[3 * ys] = T(0.5) * R * minus + T(2) * S * minus2 + m[5 * s];
        } else
            y[ys] = R * minus + S * minus2 + m[5 * s];
    }
    static void output_adjoint(const Vec<T>* y, int s, Vec<T>* m, int ms) {
        Vec<T> even = y[0], odd = R * y[s], even2 = y[0], odd2 = S * y[s];
        if constexpr (OUT == 4) {
            even += T(0.5) * y[2 * s], odd += T(0.5) * R * y[3 * s];
            even2 += T(2) * y[2 * s], odd2 += T(2) * S * y[3 * s];
        }
        m[0] = y[0];
        m[ms] = even + odd;
        m[2 * ms] = even - odd;
        m[3 * ms] = even2 + odd2;
        m[4 * ms] = even2 - odd2;
        m[5 * ms] = y[(OUT - 1) * s];
    }
    // G w, and G^T u.
    static void weight(const Vec<T>* w, int s, Vec<T>* u, int us) {
        Vec<T> a = T(-2.0 / 3) * w[0] - T(1.0 / 3) * w[2 * s], b = (T(-1.0 / 3) * S) * w[s];
        Vec<T> c = T(1.0 / 6) * w[0] + T(1.0 / 3) * w[2 * s], d = (T(1.0 / 6) * S) * w[s];
        if constexpr (OUT == 2) {
            a -= T(1.0 / 6) * w[4 * s], b -= (T(1.0 / 6) * S) * w[3 * s];
            c += T(2.0 / 3) * w[4 * s], d += (T(1.0 / 3) * S) * w[3 * s];
        }
        u[0] = w[0];
        u[us] = a + b;
        u[2 * us] = a - b;
        u[3 * us] = c + d;
        u[4 * us] = c - d;
        u[5 * us] = w[(6 - OUT) * s];
    }
    static void weight_adjoint(const Vec<T>* u, int s, Vec<T>* w, int ws) {
        Vec<T> plus = u[s] + u[2 * s], minus = u[s] - u[2 * s];
        Vec<T> plus2 = u[3 * s] + u[4 * s], minus2 = u[3 * s] - u[4 * s];
        w[0] = u[0] - T(2.0 / 3) * plus + T(1.0 / 6) * plus2;
        w[ws] = (T(1.0 / 6) * S) * minus2 - (T(1.0 / 3) * S) * minus;
        w[2 * ws] = T(1.0 / 3) * (plus2 - plus);
        if constexpr (OUT == 2) {
            w[3 * ws] = (T(1.0 / 3) * S) * minus2 - (T(1.0 / 6) * S) * minus;
            w[4 * ws] = T(2.0 / 3) * plus2 - T(1.0 / 6) * plus;
        }
        w[(6 - OUT) * ws] += u[5 * s];
    }
};

// What both kinds of convolution share where their maps are large: Winograd's products.
//
// A layer with stride 2 is a sum of convolutions without stride between phases of a map, its even
// and odd rows and columns: a 5 x 5 one reads four phases with 3 x 3, 3 x 2, 2 x 3 and 2 x 2 taps, a
// 4 x 4 deconvolution writes four with 2 x 2 each. Taken as 3 x 3, a phase without its first or last
// tap has nothing at point 0 or ∞.
template <class T> struct Winograd : Filter<T> {
    using Filter<T>::to, Filter<T>::window, Filter<T>::weights, Filter<T>::bias, Filter<T>::taps;
    std::vector<Map<T>*> from;
    int ci, co;                        // channels, of all maps
    int in_step, out_step;             // 2: the four phases of a map
    int out = 0, tiles_y, tiles_x;     // outputs of a tile in each dimension, 0: not by Winograd
    int strips = 1;                    // of the backward pass

    Winograd(std::vector<Map<T>*> from, Map<T>& to, Window<T> window, int in_step, int out_step)
        : Filter<T>(to, window, channels(from) * to.c), from(from), ci(int(channels(from))),
          co(to.c), in_step(in_step), out_step(out_step) {
        int most = window.kernel == 5 && in_step == 1 ? 2 : 4;
        auto count = [&](int n) { return ((n + out_step - 1) / out_step + most - 1) / most; };
        tiles_y = count(to.h), tiles_x = count(to.w);
        if (ci % V<T> == 0 && tiles_y * tiles_x >= 64) out = most;
    }
    static long channels(const std::vector<Map<T>*>& from) {
        long n = 0;
        for (auto* map : from) n += map->c;
        return n;
    }
    bool differentiable() const {
        for (auto* map : from)
            if (map->gradient) return true;
        return false;
    }
    // f(map, first and last channel in it, first channel's place behind c0) for channels [c0, c1).
    template <class F> void each_map(long c0, long c1, F f) const {
        long offset = 0;
        for (auto* map : from) {
            long lo = std::max(c0 - offset, 0L), hi = std::min<long>(c1 - offset, map->c);
            if (lo < hi) f(*map, lo, hi, offset + lo - c0);
            offset += map->c;
        }
    }

    // Where a tap's weights lie, of input channel 0 and the panel of output channels from `column`;
    // `row` numbers behind are those of the next input channel.
    struct Place {
        T* first;
        long row;
    };
    virtual Place place(int tap, long column) = 0;

    // In how many strips tiles take turns where a map has few channels.
    int cut_tiles() const {
        return this->cut(tiles_y, out == 2 ? 2 : 1, long(tiles_y) * tiles_x, 24,
                         36L * pairs() * ci * co);
    }

    int ins() const { return in_step * in_step; }
    int outs() const { return out_step * out_step; }
    int pairs() const { return ins() * outs(); }  // of a phase that is read and one that is written

    // In one dimension: which tap of the layer is tap `j` between phases `in` and `out`, -1: none.
    int tap(int in, int out, int j) const {
        int k = out_step == 2 ? 3 + out - 2 * j : in_step * j + in;
        return k < window.kernel ? k : -1;
    }
    bool used(int in, int out, int point) const {
        int last = out_step * in_step == 1 ? window.kernel - 1 : 2;
        return !(point == 0 && tap(in, out, 0) < 0) && !(point == 5 && tap(in, out, last) < 0);
    }
    // Whether point `e` of 6 x 6 has a product between two phases.
    bool used_2d(int in, int out, int e) const {
        return used(in / in_step, out / out_step, e / 6) && used(in % in_step, out % out_step, e % 6);
    }
    // The layer's tap for tap (y, x) between two phases, -1: none.
    int tap_2d(int in, int out, int y, int x) const {
        int a = tap(in / in_step, out / out_step, y), b = tap(in % in_step, out % out_step, x);
        return a < 0 || b < 0 ? -1 : a * window.kernel + b;
    }

    long tiles_at_once(long channels) const {
        long fit = (768L << 10) / (36 * channels * long(sizeof(T)));
        return std::max(5L, fit / ROWS) * ROWS;
    }

    // G w G^T as 36 matrices (ci x co) in panels for each pair of phases, and, if asked for, their
    // transposes.
    template <int OUT> void transform_weights(Team<T>& team, T* u, T* turned) {
        constexpr int N = 7 - OUT;
        long plane = spread<T>(long(ci) * co), each = long(ci) * co / V<T>;
        team.parts(pairs() * each, 64, [&](long start, long stop, long) {
            for (long n = start; n < stop; n++) {
                long pair = n / each, o = n % each / ci * V<T>, i = n % ci;
                long column = o / PANEL<T> * PANEL<T>, width = std::min<long>(PANEL<T>, co - column);
                Vec<T> k[N * N], half[6 * N], full[36];
                for (int t = 0; t < N * N; t++) {
                    int real = tap_2d(pair / outs(), pair % outs(), t / N, t % N);
                    k[t] = Vec<T>{};
                    if (real < 0) continue;
                    Place at = place(real, column);
                    k[t] = load(at.first + i * at.row + o - column);
                }
                for (int x = 0; x < N; x++) Points<T, OUT>::weight(k + x, N, half + x, N);
                for (int y = 0; y < 6; y++) Points<T, OUT>::weight(half + N * y, 1, full + 6 * y, 1);
                if (u)
                    for (int e = 0; e < 36; e++)
                        store(u + (36 * pair + e) * plane + column * ci + i * width + o - column,
                              full[e]);
                if (!turned) continue;
                long c2 = i / PANEL<T> * PANEL<T>, w2 = std::min<long>(PANEL<T>, ci - c2);
                for (int e = 0; e < 36; e++) {
                    T* target = turned + (36 * pair + e) * plane + c2 * co + o * w2 + i - c2;
                    for (int l = 0; l < V<T>; l++) target[l * w2] = full[e][l];
                }
            }
        });
    }

    // B^T x B of a phase's tiles [start, stop), channels [c0, c1): 36 matrices (tiles x channels).
    template <int OUT>
    void transform_input(int phase, long start, long stop, long c0, long c1, T* v, const T* zero) {
        constexpr int PAD = (6 - OUT) / 2;
        long wide = c1 - c0, plane = spread<T>((stop - start) * wide);
        each_map(c0, c1, [&](const Map<T>& map, long lo, long hi, long place) {
            for (long n = start; n < stop; n++) {
                int y0 = int(n / tiles_x) * OUT - PAD, x0 = int(n % tiles_x) * OUT - PAD;
                const T* at[36];
                for (int y = 0; y < 6; y++)
                    for (int x = 0; x < 6; x++) {
                        int yy = in_step * (y0 + y) + phase / in_step;
                        int xx = in_step * (x0 + x) + phase % in_step;
                        bool inside = yy >= 0 && yy < map.h && xx >= 0 && xx < map.w;
                        at[6 * y + x] =
                            inside ? map.value + (long(yy) * map.w + xx) * map.c : zero;
                    }
                T* target = v + (n - start) * wide + place - lo;
                for (long c = lo; c < hi; c += V<T>) {
                    Vec<T> half[36];
                    for (int x = 0; x < 6; x++) {
                        Vec<T> d[6];
                        for (int y = 0; y < 6; y++) {
                            d[y] = load(at[6 * y + x] + c);
                            if (map.relu) d[y] = positive<T>(d[y]);
                        }
                        Points<T, OUT>::input(d, 1, half + x, 6);
                    }
                    for (int y = 0; y < 6; y++) {
                        Vec<T> t[6];
                        Points<T, OUT>::input(half + 6 * y, 1, t, 1);
                        for (int x = 0; x < 6; x++) store(target + (6 * y + x) * plane + c, t[x]);
                    }
                }
            }
        });
    }

    // f(y, x, pixel of the map) for a tile's outputs of a phase that lie inside the map.
    template <int OUT, class F> void each_output(int phase, long tile, F f) const {
        int y0 = int(tile / tiles_x) * OUT, x0 = int(tile % tiles_x) * OUT;
        for (int y = 0; y < OUT; y++)
            for (int x = 0; x < OUT; x++) {
                int yy = out_step * (y0 + y) + phase / out_step;
                int xx = out_step * (x0 + x) + phase % out_step;
                if (yy < to.h && xx < to.w) f(y, x, long(yy) * to.w + xx);
            }
    }

    template <int OUT> void forward_tiles(Team<T>& team) {
        long all = long(tiles_y) * tiles_x, step = tiles_at_once(ins() * ci + outs() * co);
        if (team.size() > 1) step = std::min(step, up(all / (4 * team.size()) + 1, ROWS));
        long plane = spread<T>(long(ci) * co);
        team.shared.weights.grow(36 * pairs() * plane);
        T* u = team.shared.weights;
        team.zero.grow(ci);
        transform_weights<OUT>(team, u, nullptr);
        team.each((all + step - 1) / step, [&](long block, Scratch<T>& s) {
            s.columns.grow(36 * ins() * spread<T>(step * ci));
            s.block.grow(36 * outs() * spread<T>(step * co));
            long start = block * step, stop = std::min(start + step, all), n = stop - start;
            long pi = spread<T>(n * ci), po = spread<T>(n * co);
            for (int in = 0; in < ins(); in++)
                transform_input<OUT>(in, start, stop, 0, ci, s.columns + 36 * in * pi, team.zero);
            for (int out = 0; out < outs(); out++)
                for (int e = 0; e < 36; e++) {
                    T* m = s.block + (36 * out + e) * po;
                    bool add = false;
                    for (int in = 0; in < ins(); in++) {
                        if (!used_2d(in, out, e)) continue;
                        const T* w = u + (36 * (in * outs() + out) + e) * plane;
                        product<T>(n, co, ci, s.columns + (36 * in + e) * pi, ci, 1,
                                   {const_cast<T*>(w), 0, ci}, 0, {m, co, 0}, 0, add);
                        add = true;
                    }
                    if (!add) std::memset(m, 0, n * co * sizeof(T));
                }
            for (int out = 0; out < outs(); out++)
                for (long i = start; i < stop; i++) {
                    T* target[OUT * OUT] = {};
                    each_output<OUT>(out, i, [&](int y, int x, long pixel) {
                        target[OUT * y + x] = to.value + pixel * co;
                    });
                    const T* m = s.block + 36 * out * po + (i - start) * co;
                    for (int c = 0; c < co; c += V<T>) {
                        Vec<T> half[6 * OUT], b = load(bias.value + c);
                        for (int x = 0; x < 6; x++) {
                            Vec<T> d[6];
                            for (int y = 0; y < 6; y++) d[y] = load(m + (6 * y + x) * po + c);
                            Points<T, OUT>::output(d, 1, half + x, 6);
                        }
                        for (int y = 0; y < OUT; y++) {
                            Vec<T> row[OUT];
                            Points<T, OUT>::output(half + 6 * y, 1, row, 1);
                            for (int x = 0; x < OUT; x++)
                                if (T* p = target[OUT * y + x]) store(p + c, row[x] + b);
                        }
                    }
                }
        });
    }

    template <int OUT> void backward_tiles(Team<T>& team, const Hyper& hyper) {
        bool pass = differentiable(), shared = strips > 1;
        long plane = spread<T>(long(ci) * co);
        T *all = nullptr, *turned = nullptr;
        if (shared) {
            team.shared.gradients.grow(36 * strips * pairs() * plane);
            all = team.shared.gradients;
        }
        if (pass) {
            team.shared.turned.grow(36 * pairs() * plane);
            turned = team.shared.turned;
            transform_weights<OUT>(team, nullptr, turned);
        }
        team.zero.grow(ci);
        auto work = [&](long y0, long y1, long c0, long c1, long strip, Scratch<T>& s) {
            long wide = c1 - c0, begin = y0 * tiles_x, over = y1 * tiles_x;
            long own = spread<T>(wide * co), step = tiles_at_once(ins() * wide + outs() * co);
            long blocks = (over - begin + step - 1) / step;  // of equal sizes
            step = up((over - begin + blocks - 1) / blocks, ROWS);
            s.columns.grow(36 * ins() * spread<T>(step * wide));
            s.block.grow(36 * outs() * spread<T>(step * co));
            if (!shared) s.gradients.grow(36 * pairs() * own);
            T* u = shared ? all + 36 * strip * pairs() * plane : s.gradients + 0;
            for (long start = begin; start < over; start += step) {
                long stop = std::min(start + step, over), n = stop - start;
                long pi = spread<T>(n * wide), po = spread<T>(n * co);
                for (int out = 0; out < outs(); out++)
                    transform_gradient<OUT>(out, start, stop, s.block + 36 * out * po);
                for (int in = 0; in < ins(); in++) {
                    T* v = s.columns + 36 * in * pi;
                    transform_input<OUT>(in, start, stop, c0, c1, v, team.zero);
                    for (int e = 0; e < 36; e++) {
                        auto each_used = [&](auto f) {
                            for (int out = 0; out < outs(); out++)
                                if (used_2d(in, out, e))
                                    f(s.block + (36 * out + e) * po, 36 * (in * outs() + out) + e);
                        };
                        T* x = v + e * pi;
                        each_used([&](T* m, long matrix) {
                            product<T>(wide, co, n, x, 1, wide, {m, co, 0}, 0,
                                       {u + matrix * own, 0, wide}, 0, start > begin);
                        });
                        if (!pass) continue;
                        bool add = false;  // the inputs are not needed any more
                        each_used([&](T* m, long matrix) {
                            product<T>(n, wide, co, m, co, 1, {turned + matrix * plane + c0 * co, 0, co},
                                       0, {x, wide, 0}, 0, add);
                            add = true;
                        });
                        if (!add) std::memset(x, 0, n * wide * sizeof(T));
                    }
                    if (pass) add_input_gradients<OUT>(in, start, stop, c0, c1, v);
                }
            }
            for (long column = 0; column < co && !shared; column += PANEL<T>)
                learn_tiles<OUT>(u, 1, own, c0, c1, column, c0, c1, s.weights, hyper);
        };
        this->share(team, strips, pass, tiles_y, ci, true, work);
        if (!shared) return;
        constexpr long SOME = 8;
        long pieces = (ci + SOME - 1) / SOME;
        team.each(this->panels(co) * pieces, [&](long n, Scratch<T>& s) {
            long c = n % pieces * SOME;
            learn_tiles<OUT>(all, strips, plane, 0, ci, n / pieces * PANEL<T>, c,
                             std::min<long>(c + SOME, ci), s.weights, hyper);
        });
    }

    // A g A^T of a phase's tiles [start, stop): 36 matrices (tiles x channels).
    template <int OUT>
    void transform_gradient(int phase, long start, long stop, T* v) {
        long plane = spread<T>((stop - start) * co);
        for (long n = start; n < stop; n++) {
            const T* at[OUT * OUT];
            std::fill(at, at + OUT * OUT, nullptr);
            each_output<OUT>(phase, n, [&](int y, int x, long pixel) {
                at[OUT * y + x] = to.gradient + pixel * co;
            });
            T* m = v + (n - start) * co;
            for (int c = 0; c < co; c += V<T>) {
                Vec<T> half[6 * OUT];
                for (int x = 0; x < OUT; x++) {
                    Vec<T> d[OUT];
                    for (int y = 0; y < OUT; y++)
                        d[y] = at[OUT * y + x] ? load(at[OUT * y + x] + c) : Vec<T>{};
                    Points<T, OUT>::output_adjoint(d, 1, half + x, OUT);
                }
                for (int y = 0; y < 6; y++) {
                    Vec<T> t[6];
                    Points<T, OUT>::output_adjoint(half + OUT * y, 1, t, 1);
                    for (int x = 0; x < 6; x++) store(m + (6 * y + x) * plane + c, t[x]);
                }
            }
        }
    }

    // Adam on channels [c0, c1) of a panel of the weights. Their gradient is G^T dU G; dU is in
    // `parts` parts, each of 36 matrices of channels [u0, u1) for each pair of phases.
    template <int OUT>
    void learn_tiles(const T* u, int parts, long plane, long u0, long u1, long column, long c0,
                     long c1, Array<T>& gradient, const Hyper& hyper) {
        constexpr int N = 7 - OUT;
        long width = std::min<long>(PANEL<T>, co - column), size = (c1 - c0) * width;
        gradient.grow(N * N * size);
        for (int pair = 0; pair < pairs(); pair++) {
            for (long n = 0; n < size; n += V<T>) {
                const T* at = u + 36 * pair * plane + column * (u1 - u0) + (c0 - u0) * width + n;
                Vec<T> full[36], half[6 * N], k[N * N];
                for (int e = 0; e < 36; e++) full[e] = load(at + e * plane);
                for (int part = 1; part < parts; part++)
                    for (int e = 0; e < 36; e++)
                        full[e] += load(at + (part * 36L * pairs() + e) * plane);
                for (int x = 0; x < 6; x++) Points<T, OUT>::weight_adjoint(full + x, 6, half + x, 6);
                for (int y = 0; y < N; y++)
                    Points<T, OUT>::weight_adjoint(half + 6 * y, 1, k + N * y, 1);
                for (int t = 0; t < N * N; t++) store(gradient + t * size + n, k[t]);
            }
            for (int t = 0; t < N * N; t++) {
                int real = tap_2d(pair / outs(), pair % outs(), t / N, t % N);
                if (real < 0) continue;
                Place to = place(real, column);
                const T* g = gradient + t * size;
                long first = to.first + c0 * to.row - weights.value;
                if (to.row == width) weights.update(g, first, size, hyper);
                else
                    for (long i = 0; i < c1 - c0; i++)
                        weights.update(g + i * width, first + i * to.row, width, hyper);
            }
        }
    }

    // A phase's gradient: B dV B^T, tiles overlapping.
    template <int OUT>
    void add_input_gradients(int phase, long start, long stop, long c0, long c1, const T* v) {
        constexpr int PAD = (6 - OUT) / 2;
        long wide = c1 - c0, plane = spread<T>((stop - start) * wide);
        each_map(c0, c1, [&](Map<T>& map, long lo, long hi, long place) {
            for (long n = start; n < stop && map.gradient; n++) {
                int y0 = int(n / tiles_x) * OUT - PAD, x0 = int(n % tiles_x) * OUT - PAD;
                const T* source = v + (n - start) * wide + place - lo;
                for (long c = lo; c < hi; c += V<T>) {
                    Vec<T> half[36];
                    for (int x = 0; x < 6; x++) {
                        Vec<T> d[6];
                        for (int y = 0; y < 6; y++) d[y] = load(source + (6 * y + x) * plane + c);
                        Points<T, OUT>::input_adjoint(d, 1, half + x, 6);
                    }
                    for (int y = 0; y < 6; y++) {
                        int yy = in_step * (y0 + y) + phase / in_step;
                        if (yy < 0 || yy >= map.h) continue;
                        Vec<T> t[6];
                        Points<T, OUT>::input_adjoint(half + 6 * y, 1, t, 1);
                        for (int x = 0; x < 6; x++) {
                            int xx = in_step * (x0 + x) + phase % in_step;
                            if (xx < 0 || xx >= map.w) continue;
                            T* g = map.gradient + (long(yy) * map.w + xx) * map.c + c;
                            store(g, load(g) + t[x]);
                        }
                    }
                }
            }
        });
    }

    void forward_winograd(Team<T>& team) {
        out == 4 ? forward_tiles<4>(team) : forward_tiles<2>(team);
    }
    void backward_winograd(Team<T>& team, const Hyper& hyper) {
        out == 4 ? backward_tiles<4>(team, hyper) : backward_tiles<2>(team, hyper);
    }
};

enum Norm { NONE, INSTANCE, AFFINE };  // affine: with a learned scale and shift per channel

// A convolution of one map or two side by side, with bias or normalization.
template <class T> struct Conv : Winograd<T> {
    using Filter<T>::to, Filter<T>::window, Filter<T>::weights, Filter<T>::bias;
    using Filter<T>::taps, Filter<T>::at_once;
    using Winograd<T>::from, Winograd<T>::ci, Winograd<T>::co, Winograd<T>::strips;
    using typename Winograd<T>::Place;
    Norm norm;
    int real_in, real_out;
    std::vector<T> inverse;  // 1 / standard deviation, where normalized
    Weights<T> scale, shift;
    Array<T> standard;  // the normalized values before scale and shift, which may be 0

    Conv(std::vector<Map<T>*> from, Map<T>& to, int in, int out, int kernel, int stride, Norm norm)
        : Winograd<T>(from, to, {kernel, stride, to.w}, stride, 1), norm(norm), real_in(in),
          real_out(out), inverse(to.c), scale(norm == AFFINE ? co : 0),
          shift(norm == AFFINE ? co : 0) {
        if (norm == AFFINE) standard = Array<T>(to.value.size);
        if (this->is_wide(ci)) return;
        strips = this->out ? this->cut_tiles()
                           : this->cut(to.h, (kernel - 1) / stride, to.pixels(), 64, weights.size);
    }

    // PyTorch's (out, in, k, k) and (out,).
    void visit(const Visit<T>& f) override {
        for (int o = 0; o < real_out; o++)
            for (int i = 0; i < real_in; i++)
                for (int t = 0; t < taps; t++) {
                    long column = o / PANEL<T> * PANEL<T>;
                    long width = std::min<long>(PANEL<T>, co - column);
                    T* row = matrix().at(long(t) * ci + input(i), column, width);
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

    Place place(int tap, long column) override {
        long width = std::min<long>(PANEL<T>, co - column);
        return {matrix().at(long(tap) * ci, column, width), width};
    }

    // Where input channel i lies when both maps are padded.
    long input(int i) const {
        int half = real_in / int(from.size());
        return i < half ? i : from[0]->c + i - half;
    }

    void gather(long start, long stop, int t0, int t1, T* rows, long ld, long c0, long c1) {
        this->each_map(c0, c1, [&](const Map<T>& map, long lo, long hi, long place) {
            window.gather(map, map.value, map.relu, start, stop, t0, t1, rows + place, ld, c1 - c0,
                          lo, hi);
        });
    }

    void forward_gathered(Team<T>& team) {
        long step = this->pixels_at_once(long(at_once) * ci), ld = spread<T>(long(at_once) * ci);
        long blocks = (to.pixels() + step - 1) / step;
        long pieces = blocks >= 4 * team.size() ? 1 : std::min<long>(team.size(), this->panels(co));
        team.each(blocks * pieces, [&](long n, Scratch<T>& s) {
            long p = n / pieces * step, stop = std::min(p + step, to.pixels());
            long first = this->piece(co, n % pieces, pieces);
            long last = this->piece(co, n % pieces + 1, pieces);
            Matrix<T> w = matrix();
            w.data += first * w.rows;
            s.columns.grow(step * ld);
            for (int t = 0; t < taps; t += at_once) {
                int end = std::min(t + at_once, taps);
                gather(p, stop, t, end, s.columns, ld, 0, ci);
                product<T>(stop - p, last - first, long(end - t) * ci, s.columns, ld, 1, w,
                           long(t) * ci, {to.value + first, co, 0}, p, t > 0);
            }
            for (long q = p; q < stop; q++)
                for (long c = first; c < last; c += V<T>)
                    store(to.value + q * co + c,
                          load(to.value + q * co + c) + load(bias.value + c));
        });
    }

    void backward_gathered(Team<T>& team, const Hyper& hyper) {
        bool pass = this->differentiable(), shared = strips > 1;
        bool few = !shared && to.pixels() <= this->FEW;
        if (shared) {
            team.shared.gradients.grow(strips * weights.size);
            team.shared.turned.grow(weights.size);
            for (int t = 0; t < taps && pass; t += at_once)
                this->turn(team, matrix(), long(t) * ci, long(std::min(at_once, taps - t)) * ci, 0,
                           co, team.shared.turned + long(t) * ci * co);
        }
        auto work = [&](long y0, long y1, long c0, long c1, long strip, Scratch<T>& s) {
            long wide = c1 - c0, step = this->pixels_at_once(at_once * wide);
            long ld = spread<T>(at_once * wide), begin = y0 * to.w, over = y1 * to.w;
            s.columns.grow(step * ld);
            if (!shared) {
                s.weights.grow(at_once * wide * co);
                s.turned.grow(at_once * wide * co);
            }
            for (int t = 0; t < taps; t += at_once) {
                int end = std::min(t + at_once, taps);
                // Rows of the weights: of all taps together, or of some channels, tap by tap.
                long rows = (end - t) * wide, pieces = wide == ci ? 1 : end - t;
                long high = rows / pieces;
                auto row = [&](long i) { return (t + i) * ci + c0; };
                T* turned = shared ? team.shared.turned + long(t) * ci * co : s.turned + 0;
                if (pass && !few && !shared)
                    for (long i = 0; i < pieces; i++)
                        transpose(matrix(), row(i), high, 0, co, turned + i * high * co);
                Matrix<T> gradient{s.weights, 0, rows};
                if (shared)
                    gradient = {team.shared.gradients + strip * weights.size, 0, long(taps) * ci};
                for (long p = begin; p < over; p += step) {
                    long stop = std::min(p + step, over);
                    T* g = to.gradient + p * co;
                    gather(p, stop, t, end, s.columns, ld, c0, c1);
                    product<T>(rows, co, stop - p, s.columns, 1, ld, {g, co, 0}, 0, gradient,
                               shared ? long(t) * ci : 0, p > begin);
                    if (!pass) continue;
                    for (long i = 0; i < pieces; i++)
                        if (few)
                            few_rows<T>(stop - p, g, co, matrix(), row(i), high, 0, co,
                                        s.columns + i * high, ld, false, s.block);
                        else
                            product<T>(stop - p, high, co, g, co, 1,
                                       {turned + i * high * co, 0, co}, 0,
                                       {s.columns + i * high, ld, 0}, 0, false);
                    this->each_map(c0, c1, [&](Map<T>& map, long lo, long hi, long place) {
                        if (map.gradient)
                            window.scatter(map, map.gradient, p, stop, t, end, s.columns + place,
                                           ld, wide, lo, hi);
                    });
                }
                if (shared) continue;
                for (long c = 0; c < co; c += PANEL<T>)
                    for (long i = 0; i < pieces; i++) {
                        long width = std::min<long>(PANEL<T>, co - c);
                        weights.update(gradient.at(i * high, c, width),
                                       matrix().at(row(i), c, width) - weights.value,
                                       high * width, hyper);
                    }
            }
        };
        this->share(team, strips, pass, to.h, ci, true, work);
        if (shared) this->learn(team, strips, hyper);
    }

    // ---- the layer

    void forward(Team<T>& team) override {
        this->out ? this->forward_winograd(team) : forward_gathered(team);
        if (norm == NONE) return;
        // Per channel: (y - mean) / standard deviation, in place.
        std::vector<double> mean(co), square(co), unused(co);
        T* v = to.value;
        sums(team, to, mean.data(), unused.data(), [&](long i, int, Vec<T>& a, Vec<T>&) { a += load(v + i); });
        std::vector<T> center(co);
        for (int c = 0; c < co; c++) center[c] = T(mean[c] / to.pixels());
        sums(team, to, square.data(), unused.data(), [&](long i, int c, Vec<T>& a, Vec<T>&) {
            Vec<T> d = load(v + i) - load(center.data() + c);
            a += d * d;
        });
        for (int c = 0; c < co; c++) inverse[c] = T(1 / std::sqrt(square[c] / to.pixels() + 1e-5));
        if (norm == INSTANCE)
            each(team, to, [&](long i, int c) {
                store(v + i, (load(v + i) - load(center.data() + c)) * load(inverse.data() + c));
            });
        else
            each(team, to, [&](long i, int c) {
                Vec<T> x = (load(v + i) - load(center.data() + c)) * load(inverse.data() + c);
                store(standard + i, x);
                store(v + i, x * load(scale.value + c) + load(shift.value + c));
            });
    }

    void backward(Team<T>& team, const Hyper& hyper) override {
        T *v = to.value, *g = to.gradient, *normal = norm == AFFINE ? standard + 0 : v;
        std::vector<double> first(co), second(co);
        sums(team, to, first.data(), second.data(), [&](long i, int, Vec<T>& a, Vec<T>& b) {
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
            each(team, to, [&](long i, int c) {
                Vec<T> d = load(g + i) - load(a.data() + c) - load(normal + i) * load(b.data() + c);
                store(g + i, d * load(factor.data() + c));
            });
        }
        this->out ? this->backward_winograd(team, hyper) : backward_gathered(team, hyper);
        // A normalized map does not change with its bias.
        if (norm == NONE) bias.update(shifts.data(), 0, co, hyper);
        if (norm != AFFINE) return;
        scale.update(scales.data(), 0, co, hyper);
        shift.update(shifts.data(), 0, co, hyper);
    }
};

// A 4 x 4 deconvolution with stride 2: every input pixel adds a window to the output.
template <class T> struct Deconv : Winograd<T> {
    using Filter<T>::to, Filter<T>::window, Filter<T>::weights, Filter<T>::bias;
    using Filter<T>::taps, Filter<T>::at_once;
    using Winograd<T>::ci, Winograd<T>::co, Winograd<T>::strips;
    using typename Winograd<T>::Place;
    Map<T>& from;
    int real_in, real_out;
    bool divisible;  // into output channels: no panel of the weights has two taps' channels
    int forward_strips = 1;

    Deconv(Map<T>& from, Map<T>& to, int in, int out)
        : Winograd<T>({&from}, to, {4, 2, from.w}, 1, 2), from(from), real_in(in), real_out(out),
          divisible(co % PANEL<T> == 0) {
        if (!divisible || !this->is_wide(co)) forward_strips = this->cut(from.h, 1, from.pixels(), 16, 0);
        if (this->is_wide(ci)) return;
        strips = this->out ? this->cut_tiles() : this->cut(from.h, 1, from.pixels(), 64, weights.size);
    }

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

    Place place(int tap, long column) override {
        long n = long(tap) * co + column, panel = n / PANEL<T> * PANEL<T>;
        return {matrix().at(0, panel, PANEL<T>) + n - panel, PANEL<T>};
    }

    // Input pixels [start, stop) after their ReLU.
    void inputs(long start, long stop, T* rows) {
        for (long i = start * ci; i < stop * ci; i += V<T>)
            store(rows + i - start * ci,
                  from.relu ? positive<T>(load(from.value + i)) : load(from.value + i));
    }

    void forward(Team<T>& team) override {
        if (this->out) return this->forward_winograd(team);
        each(team, to, [&](long i, int c) { store(to.value + i, load(bias.value + c)); });
        auto work = [&](long y0, long y1, long o0, long o1, long, Scratch<T>& s) {
            long wide = o1 - o0, begin = y0 * from.w, over = y1 * from.w;
            long ld = spread<T>(at_once * wide), step = this->pixels_at_once(at_once * wide);
            s.columns.grow(step * ld);
            s.block.grow(step * ci);
            for (int t = 0; t < taps; t += at_once) {
                int end = std::min(t + at_once, taps);
                long pieces = wide == co ? 1 : end - t, columns = (end - t) * wide / pieces;
                for (long p = begin; p < over; p += step) {
                    long stop = std::min(p + step, over);
                    inputs(p, stop, s.block);
                    for (long i = 0; i < pieces; i++)
                        product<T>(stop - p, columns, ci, s.block, ci, 1,
                                   {weights.value + ((t + i) * co + o0) * ci, 0, ci}, 0,
                                   {s.columns + i * columns, ld, 0}, 0, false);
                    window.scatter(to, to.value, p, stop, t, end, s.columns, ld, wide, o0, o1);
                }
            }
        };
        this->share(team, forward_strips, true, from.h, co, divisible, work);
    }

    void backward(Team<T>& team, const Hyper& hyper) override {
        std::vector<double> first(co), unused(co);
        T *v = to.value, *g = to.gradient;
        sums(team, to, first.data(), unused.data(), [&](long i, int, Vec<T>& a, Vec<T>&) {
            Vec<T> d = load(g + i);
            if (to.relu) {
                d = load(v + i) > Vec<T>{} ? d : Vec<T>{};
                store(g + i, d);
            }
            a += d;
        });
        std::vector<T> gradient(first.begin(), first.end());
        bias.update(gradient.data(), 0, co, hyper);
        if (this->out) return this->backward_winograd(team, hyper);

        bool shared = strips > 1, few = !shared && from.pixels() <= this->FEW;
        if (shared) {
            team.shared.gradients.grow(strips * weights.size);
            team.shared.turned.grow(weights.size);
            for (int t = 0; t < taps; t += at_once)
                this->turn(team, matrix(), 0, ci, long(t) * co,
                           long(std::min(at_once, taps - t)) * co,
                           team.shared.turned + long(t) * co * ci);
        }
        auto work = [&](long y0, long y1, long c0, long c1, long strip, Scratch<T>& s) {
            long wide = c1 - c0, begin = y0 * from.w, over = y1 * from.w;
            long row = long(at_once) * co, ld = spread<T>(row), step = this->pixels_at_once(row);
            s.columns.grow(step * ld);
            s.block.grow(step * ci);
            if (!shared) {
                s.weights.grow(row * wide);
                s.turned.grow(row * wide);
            }
            for (int t = 0; t < taps; t += at_once) {
                int end = std::min(t + at_once, taps);
                long columns = long(end - t) * co, place = long(t) * co;
                T* turned = shared ? team.shared.turned + place * ci : s.turned + 0;
                if (!few && !shared) transpose(matrix(), c0, wide, place, columns, turned);
                Matrix<T> gradient{s.weights, 0, wide};
                if (shared)
                    gradient.data = team.shared.gradients + strip * weights.size + place * ci;
                for (long p = begin; p < over; p += step) {
                    long stop = std::min(p + step, over);
                    window.gather(to, g, false, p, stop, t, end, s.columns, ld, co, 0, co);
                    inputs(p, stop, s.block);
                    product<T>(wide, columns, stop - p, s.block + c0, 1, ci, {s.columns, ld, 0}, 0,
                               gradient, 0, p > begin);
                    T* input = from.gradient + p * ci + c0;
                    if (few)
                        few_rows<T>(stop - p, s.columns, ld, matrix(), c0, wide, place, columns,
                                    input, ci, true, s.gradients);
                    else
                        product<T>(stop - p, wide, columns, s.columns, ld, 1,
                                   {turned, 0, columns}, 0, {input, ci, 0}, 0, true);
                }
                for (long c = 0; c < columns && !shared; c += PANEL<T>) {
                    long width = std::min<long>(PANEL<T>, columns - c);
                    weights.update(gradient.at(0, c, width),
                                   matrix().at(c0, place + c, width) - weights.value,
                                   wide * width, hyper);
                }
            }
        };
        this->share(team, strips, false, from.h, ci, true, work);
        if (shared) this->learn(team, strips, hyper);
    }
};

// 1 x 1 convolution to three channels, sigmoid and squared error.
template <class T> struct Head : Layer<T> {
    static constexpr long SOME = 16;  // blocks in one part of the work
    static constexpr long WIDE = V<T> < 3 ? PANEL<T> : V<T>;  // holds the three channels
    Map<T>& from;
    int real_in;
    Weights<T> weights;  // three rows of from.c; three biases
    Array<T> target, image;
    std::vector<T> weight;  // what each pixel's squared error counts; empty: 1
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

    void forward(Team<T>& team) override {
        constexpr long CHUNK = 4 * ROWS;
        long n = from.pixels(), c = from.c;
        team.shared.weights.grow(c * WIDE);
        T* matrix = team.shared.weights;  // (channels, o)
        for (long i = 0; i < c; i++)
            for (int o = 0; o < 3; o++) matrix[i * WIDE + o] = weights.value[o * c + i];
        long blocks = (n + CHUNK - 1) / CHUNK, count = team.parts(blocks, SOME);
        std::vector<double> losses(count);
        team.each(count, [&](long part, Scratch<T>& s) {
            s.columns.grow(CHUNK * c);
            s.block.grow(CHUNK * WIDE);
            T* logits = s.block;  // (pixels, o)
            double sum = 0;
            long stop = std::min(blocks * (part + 1) / count * CHUNK, n);
            for (long start = blocks * part / count * CHUNK; start < stop; start += CHUNK) {
                long size = std::min(CHUNK, stop - start);
                for (long i = 0; i < size * c; i += V<T>)
                    store(s.columns + i, positive<T>(load(from.value + start * c + i)));
                product<T>(size, WIDE, c, s.columns, c, 1, {matrix, WIDE, 0}, 0,
                           {logits, WIDE, 0}, 0, false);
                for (int o = 0; o < 3; o++)
                    for (long p = 0; p < size; p++) {
                        T x = logits[p * WIDE + o] + weights.value[3 * c + o];
                        T y = 1 / (1 + std::exp(-x)), d = y - target[o * n + start + p];
                        image[o * n + start + p] = y;
                        sum += double(d) * d * (weight.empty() ? 1 : weight[start + p]);
                    }
            }
            losses[part] = sum;
        });
        loss = std::accumulate(losses.begin(), losses.end(), 0.0) / (3 * n);
    }

    void backward(Team<T>& team, const Hyper& hyper) override {
        constexpr long CHUNK = 256;
        long n = from.pixels(), count = team.parts(n, SOME * CHUNK);
        std::vector<double> totals(count * weights.size);
        team.each(count, [&](long part, Scratch<T>& s) {
            s.weights.grow(weights.size);
            T* sum = s.weights;
            double* total = totals.data() + part * weights.size;
            long end = n * (part + 1) / count;
            for (long start = n * part / count; start < end; start += CHUNK) {
                std::memset(sum, 0, weights.size * sizeof(T));
                for (long p = start; p < std::min(start + CHUNK, end); p++) {
                    T d[3];
                    for (int o = 0; o < 3; o++) {
                        T y = image[o * n + p];
                        d[o] = (y - target[o * n + p]) * (2 / T(3 * n)) * y * (1 - y);
                        if (!weight.empty()) d[o] *= weight[p];
                        sum[3 * from.c + o] += d[o];
                    }
                    for (int c = 0; c < from.c; c += V<T>) {
                        Vec<T> x = positive<T>(load(from.value + p * from.c + c)), g{};
                        for (int o = 0; o < 3; o++) {
                            T* w = sum + o * from.c + c;
                            store(w, load(w) + d[o] * x);
                            g += d[o] * load(weights.value + o * from.c + c);
                        }
                        store(from.gradient + p * from.c + c, g);
                    }
                }
                for (long i = 0; i < weights.size; i++) total[i] += sum[i];
            }
        });
        std::vector<T> gradient(weights.size);
        for (long i = 0; i < weights.size; i++) {
            double sum = 0;
            for (long part = 0; part < count; part++) sum += totals[part * weights.size + i];
            gradient[i] = T(sum);
        }
        weights.update(gradient.data(), 0, weights.size, hyper);
    }
};

// -------------------------------------------------------------------------------------- networks

template <class T> struct Network {
    int inputs;
    std::vector<std::unique_ptr<Map<T>>> maps;
    std::vector<std::unique_ptr<Layer<T>>> layers;  // in the order of the forward pass
    std::vector<Layer<T>*> declared;                // in the order of the parameters
    Head<T>* head = nullptr;
    Team<T> team;
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

    void start(const T* parameters, const T* input, const T* image, const T* weight) {
        for (auto* layer : declared) {
            layer->reset();
            layer->visit([&](Weights<T>& w, long i) { w.value[i] = *parameters++; });
        }
        Map<T>& z = *maps[0];
        for (int c = 0; c < inputs; c++)
            for (long p = 0; p < z.pixels(); p++) z.value[p * z.c + c] = input[c * z.pixels() + p];
        std::copy(image, image + head->target.size, head->target + 0);
        head->weight.assign(weight, weight ? weight + z.pixels() : weight);
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
            if (T* gradient = m->gradient)
                team.parts(m->gradient.size, PART, [&](long start, long stop, long) {
                    std::memset(gradient + start, 0, (stop - start) * sizeof(T));
                });
        for (auto& layer : layers) layer->forward(team);
        // The first average is the image itself, whatever an earlier one left.
        bool first = steps++ == 0;
        T *mean = average, *image = head->image;
        team.parts(average.size, PART, [&](long start, long stop, long) {
            if (first) std::copy(image + start, image + stop, mean + start);
            else
                for (long i = start; i < stop; i++)
                    mean[i] += T(1 - smoothing) * (image[i] - mean[i]);
        });
        Hyper hyper{rate, 1 - std::pow(0.9, steps), 1 - std::pow(0.999, steps)};
        for (size_t i = layers.size(); i--;) layers[i]->backward(team, hyper);
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
double fit(Network<T>* net, int threads, int steps, double rate, double smoothing, T* output,
           T* average) try {
    Flush flush;
    net->team.grow(threads);
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
    void prior_start_##NAME(void* net, const T* parameters, const T* input, const T* image,       \
                            const T* weight) {                                                    \
        static_cast<Network<T>*>(net)->start(parameters, input, image, weight);                   \
    }                                                                                             \
    void prior_save_##NAME(void* net, T* value, T* mean, T* square) {                             \
        static_cast<Network<T>*>(net)->save(value, mean, square);                                 \
    }                                                                                             \
    void prior_resume_##NAME(void* net, const T* value, const T* mean, const T* square,           \
                             const T* average, int steps) {                                       \
        static_cast<Network<T>*>(net)->resume(value, mean, square, average, steps);               \
    }                                                                                             \
    double prior_fit_##NAME(void* net, int threads, int steps, double rate, double smoothing,     \
                            T* output, T* average) {                                              \
        return fit(static_cast<Network<T>*>(net), threads, steps, rate, smoothing, output,        \
                   average);                                                                      \
    }                                                                                             \
    void prior_free_##NAME(void* net) { delete static_cast<Network<T>*>(net); }

extern "C" {
INTERFACE(float, float32)
INTERFACE(double, float64)
}
