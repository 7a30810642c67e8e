/*
 * Times threads that only read the weights of a model file, and prints what it found as one line of JSON:
 * decoding a token reads each of these bytes once, so no library can decode faster. side_by_side.mjs compiles
 * this and runs it beside two libraries.
 *
 *     side_by_side_memory MODEL THREADS PASSES FROM TO
 *
 * What is read is the file without its bytes FROM to TO, the embedding, of which a token needs one row. It is
 * loaded into memory of huge pages (they read faster than the mapped file), and each thread goes through an
 * equal stretch of it in order, PASSES times, with all threads waiting for each other after each pass; that
 * is done again until half a second has passed.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* One register: the compiler knows from -march=native how wide that may be. */
#ifdef __AVX512F__
typedef uint64_t vector __attribute__((vector_size(64), may_alias));
#else
typedef uint64_t vector __attribute__((vector_size(32), may_alias));
#endif

/* Sums side by side, so that no addition waits for the one before it. */
#define SUMS 8
#define STEP (SUMS * sizeof(vector))
#define HUGE_PAGE ((size_t) 2 << 20)

/* What all threads share. */
static const char * model;
static int file;
static long threads, passes;
static size_t from, to;      /* the bytes of the file that are left out */
static size_t len, stretch;  /* bytes of all and of one thread; the last stretch ends with zeros */
static unsigned char * memory;
static double seconds;
static long rounds_done;
static atomic_long arrived;     /* at the barrier, in all */
static atomic_long rounds = 1;  /* that are to be done: grows while there is time */

static void fail(const char * what, const char * why) {
    fprintf(stderr, "side_by_side_memory: %s: %s\n", what, why);
    exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double) time.tv_sec + (double) time.tv_nsec * 1e-9;
}

static size_t number(const char * name, const char * text) {
    char * end;
    const long long value = strtoll(text, &end, 10);
    if (*end || value < 0) fail(name, "must be a number from 0 up");
    return (size_t) value;
}

/* Waits until all threads have come here `turn` times. With more threads than cores, those that wait make room. */
static void meet(long turn) {
    atomic_fetch_add(&arrived, 1);
    for (long spins = 0; atomic_load(&arrived) < turn * threads; spins++) {
        if (spins > 20000) sched_yield();
#if defined(__x86_64__) || defined(__i386__)
        else __builtin_ia32_pause();
#endif
    }
}

/* Fills the bytes from `begin` to `end` of `memory` with the file's. The thread that will read them does it, so that they
 * lie in its own part of a machine that has several. */
static void load(size_t begin, size_t end) {
    while (begin < end) {
        const size_t stop = begin < from && from < end ? from : end;
        const size_t at = begin < from ? begin : begin + (to - from);
        const ssize_t got = pread(file, memory + begin, stop - begin, (off_t) at);
        if (got <= 0) fail(model, "cannot be read to its end");
        begin += (size_t) got;
    }
}

/* The sum of all words of a stretch: reads each once, and does as little else as can be. */
static uint64_t sum_words(const unsigned char * begin) {
    vector sums[SUMS] = {{0}};
    for (size_t at = 0; at < stretch; at += STEP) {
        const vector * words = (const vector *) (begin + at);
        for (int i = 0; i < SUMS; i++) sums[i] += words[i];
    }
    vector all = sums[0];
    for (int i = 1; i < SUMS; i++) all += sums[i];
    uint64_t sum = 0;
    for (size_t i = 0; i < sizeof(vector) / sizeof(uint64_t); i++) sum += all[i];
    return sum;
}

static void * run(void * argument) {
    const size_t thread = (size_t) (uintptr_t) argument;
    const size_t begin = thread * stretch;
    load(begin, begin + stretch < len ? begin + stretch : len);
    const uint64_t once = sum_words(memory + begin);
    long turn = 1;
    meet(turn++);
    const double start = now();
    uint64_t sum = 0;
    long round = 0;
    for (; round < atomic_load(&rounds); round++) {
        for (long pass = 0; pass < passes; pass++) {
            sum += sum_words(memory + begin);
            /* Before the others go on: they have to see whether there is another round. */
            if (thread == 0 && pass == passes - 1 && now() - start < 0.5) atomic_fetch_add(&rounds, 1);
            meet(turn++);
        }
    }
    if (thread == 0) {
        seconds = now() - start;
        rounds_done = round;
    }
    /* Uses the sums, so that no pass can be left out. */
    if (sum != once * (uint64_t) round * (uint64_t) passes) fail(model, "two passes over it found different bytes");
    return NULL;
}

int main(int argc, char ** argv) {
    if (argc != 6) fail("usage", "side_by_side_memory MODEL THREADS PASSES FROM TO");
    model = argv[1];
    threads = (long) number("THREADS", argv[2]);
    passes = (long) number("PASSES", argv[3]);
    from = number("FROM", argv[4]);
    to = number("TO", argv[5]);
    if (threads < 1 || passes < 1) fail("THREADS, PASSES", "must be numbers from 1 up");

    struct stat info;
    file = open(model, O_RDONLY);
    if (file < 0 || fstat(file, &info)) fail(model, "cannot be opened");
    if (from > to || to > (size_t) info.st_size) fail("FROM, TO", "must be in order, and within the file");
    len = (size_t) info.st_size - (to - from);
    const size_t steps = (len + STEP - 1) / STEP;
    stretch = (steps + (size_t) threads - 1) / (size_t) threads * STEP;

    const size_t room = stretch * (size_t) threads + HUGE_PAGE;
    void * mapped = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) fail(model, "there is not enough memory for it");
#ifdef MADV_HUGEPAGE
    madvise(mapped, room, MADV_HUGEPAGE); /* a wish: without huge pages it still reads */
#endif
    memory = (unsigned char *) (((uintptr_t) mapped + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);

    pthread_t * others = calloc((size_t) threads, sizeof(pthread_t));
    if (!others) fail("memory", "there is not enough");
    for (long i = 1; i < threads; i++) {
        if (pthread_create(&others[i], NULL, run, (void *) (uintptr_t) i)) fail("THREADS", "the system gives no more threads");
    }
    run(NULL);
    for (long i = 1; i < threads; i++) pthread_join(others[i], NULL);

    const double bytes = (double) len * (double) rounds_done * (double) passes;
    printf("{\"bytesPerSecond\":%.6g}\n", bytes / seconds);
    free(others);
    munmap(mapped, room);
    close(file);
    return 0;
}
