/*
 * Times one library with the functions of rwkv.h on one model file, and prints what it found as one line of
 * JSON. side_by_side.mjs compiles this and runs it for two libraries in turn.
 *
 *     side_by_side LIBRARY MODEL THREADS DECODE PREFILL CHUNK LOGITS
 *
 * DECODE tokens are read one by one, PREFILL tokens in chunks of CHUNK; each is done again until half a
 * second has passed. The logits after the PREFILL tokens go to the file LOGITS.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

struct rwkv_context;

static void fail(const char * what, const char * why) {
    fprintf(stderr, "side_by_side: %s: %s\n", what, why);
    exit(1);
}

static void * function(void * library, const char * name) {
    void * found = dlsym(library, name);
    if (!found) fail(name, "the library has no such function");
    return found;
}

/* A function of the library by its own name, with the type that rwkv.h gives it. */
#define FUNCTION(result, name, ...)     \
    result (*name)(__VA_ARGS__);        \
    *(void **) &name = function(library, #name)

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double) time.tv_sec + (double) time.tv_nsec * 1e-9;
}

static long number(const char * name, const char * text) {
    char * end;
    const long value = strtol(text, &end, 10);
    if (*end || value < 1) fail(name, "must be a number from 1 up");
    return value;
}

static void * array(size_t count, size_t size) {
    void * memory = calloc(count, size);
    if (!memory) fail("memory", "there is not enough");
    return memory;
}

int main(int argc, char ** argv) {
    if (argc != 8) fail("usage", "side_by_side LIBRARY MODEL THREADS DECODE PREFILL CHUNK LOGITS");
    const long threads = number("THREADS", argv[3]);
    const long decode = number("DECODE", argv[4]);
    const long prefill = number("PREFILL", argv[5]);
    const long chunk = number("CHUNK", argv[6]);

    void * library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (!library) fail("dlopen", dlerror());
    FUNCTION(struct rwkv_context *, rwkv_init_from_file, const char *, uint32_t, uint32_t);
    FUNCTION(bool, rwkv_eval, struct rwkv_context *, uint32_t, const float *, float *, float *);
    FUNCTION(bool, rwkv_eval_sequence_in_chunks, struct rwkv_context *, const uint32_t *, size_t, size_t, const float *,
             float *, float *);
    FUNCTION(size_t, rwkv_get_state_len, const struct rwkv_context *);
    FUNCTION(size_t, rwkv_get_logits_len, const struct rwkv_context *);
    FUNCTION(void, rwkv_free, struct rwkv_context *);

    /* From nothing to the first logits. */
    double start = now();
    struct rwkv_context * ctx = rwkv_init_from_file(argv[2], (uint32_t) threads, 0);
    if (!ctx) fail(argv[2], "the library cannot load it");
    const double load = now() - start;
    const size_t n_vocab = rwkv_get_logits_len(ctx);
    float * state = array(rwkv_get_state_len(ctx), sizeof(float));
    float * logits = array(n_vocab, sizeof(float));
    bool ok = rwkv_eval(ctx, 1, NULL, state, logits);
    const double first_token = now() - start;

    /* Any tokens will do: the work is the same for all. */
    const uint32_t some = (uint32_t) (n_vocab < 1000 ? n_vocab : 1000);
    uint32_t * tokens = array((size_t) prefill, sizeof(uint32_t));
    for (long i = 0; i < prefill; i++) tokens[i] = (uint32_t) (i * 7919 + 13) % some;

    /* Warm up: memory, threads, and whatever a library prepares when it is first used. */
    for (int i = 0; i < 4; i++) ok = ok && rwkv_eval(ctx, tokens[0], state, state, logits);
    long decoded = 0;
    double decode_seconds = 0;
    start = now();
    do {
        for (long i = 0; i < decode; i++) ok = ok && rwkv_eval(ctx, (uint32_t) (i * 31) % some, state, state, logits);
        decoded += decode;
        decode_seconds = now() - start;
    } while (ok && decode_seconds < 0.5);

    const long warm = chunk < prefill ? chunk : prefill;
    ok = ok && rwkv_eval_sequence_in_chunks(ctx, tokens, (size_t) warm, (size_t) chunk, NULL, state, logits);
    long prefilled = 0;
    double prefill_seconds = 0;
    start = now();
    do {
        ok = ok && rwkv_eval_sequence_in_chunks(ctx, tokens, (size_t) prefill, (size_t) chunk, NULL, state, logits);
        prefilled += prefill;
        prefill_seconds = now() - start;
    } while (ok && prefill_seconds < 0.5);
    if (!ok) fail(argv[1], "an evaluation failed");

    FILE * file = fopen(argv[7], "wb");
    if (!file || fwrite(logits, sizeof(float), n_vocab, file) != n_vocab || fclose(file)) fail(argv[7], "cannot be written");

    /* Linux counts in KiB, macOS in bytes. */
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
#ifdef __APPLE__
    const double peak = (double) usage.ru_maxrss / 1048576;
#else
    const double peak = (double) usage.ru_maxrss / 1024;
#endif
    printf("{\"decode\":%.6g,\"prefill\":%.6g,\"load\":%.6g,\"firstToken\":%.6g,\"peakMiB\":%.6g}\n",
           (double) decoded / decode_seconds, (double) prefilled / prefill_seconds, load, first_token, peak);

    rwkv_free(ctx);
    free(tokens);
    free(logits);
    free(state);
    return 0;
}
