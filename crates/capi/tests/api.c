/*
 * Uses librwkv as a C program does, and checks each promise of rwkv.h. Run by api.rs, in a directory with
 * what it made there: model.bin, what Rust quantizes it to (Q4_0.bin and so on), the damaged files of
 * `damages` below, and what Rust says of `tokens.bin`: `state.bin` and `logits.bin`. With the argument
 * "brief" it does the same on fewer threads, for a machine that is simulated.
 */
#define _POSIX_C_SOURCE 200809L /* setenv */

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "rwkv.h"

/* The model's shape, and the number of tokens: more than one pass of the engine. */
enum { N_VOCAB = 61, N_EMBED = 32, N_LAYER = 3, STATE = 5 * N_EMBED * N_LAYER, TOKENS = 150 };

static bool brief = false;
static int failures = 0;
#define CHECK(condition, ...)                                        \
    do {                                                             \
        if (!(condition)) {                                          \
            failures++;                                              \
            fprintf(stderr, "line %d: %s: ", __LINE__, #condition);  \
            fprintf(stderr, __VA_ARGS__);                            \
            fputc('\n', stderr);                                     \
        }                                                            \
    } while (0)

/* Nothing works without these. */
#define NEED(condition)                                                    \
    do {                                                                   \
        if (!(condition)) {                                                \
            fprintf(stderr, "line %d: no %s\n", __LINE__, #condition);     \
            exit(1);                                                       \
        }                                                                  \
    } while (0)

static uint32_t tokens[TOKENS];
static float expected_state[STATE];
static float expected_logits[N_VOCAB];

static void read_file(const char * name, void * to, size_t size) {
    FILE * file = fopen(name, "rb");
    NEED(file);
    NEED(fread(to, 1, size, file) == size);
    fclose(file);
}

/* What a call leaves in arrays that are no larger than they have to be, so that a checker sees a step beyond. */
struct result {
    float * state;
    float * logits;
};

static const float UNTOUCHED = 12345.0f;

static struct result new_result(void) {
    struct result result = { malloc(STATE * sizeof(float)), malloc(N_VOCAB * sizeof(float)) };
    NEED(result.state && result.logits);
    for (int i = 0; i < STATE; i++) result.state[i] = UNTOUCHED;
    for (int i = 0; i < N_VOCAB; i++) result.logits[i] = UNTOUCHED;
    return result;
}

static void free_result(struct result result) {
    free(result.state);
    free(result.logits);
}

static bool untouched(const float * values, int len) {
    for (int i = 0; i < len; i++) {
        if (values[i] != UNTOUCHED) return false;
    }
    return true;
}

static bool state_is_expected(const float * state) {
    return memcmp(state, expected_state, sizeof expected_state) == 0;
}

static bool logits_are_expected(const float * logits) {
    return memcmp(logits, expected_logits, sizeof expected_logits) == 0;
}

/* The context's last error is exactly this, and is forgotten after that. */
static void check_error(struct rwkv_context * ctx, unsigned flags, const char * what) {
    const unsigned found = rwkv_get_last_error(ctx);
    CHECK(found == flags, "%s: 0x%x, expected 0x%x", what, found, flags);
    CHECK(rwkv_get_last_error(ctx) == RWKV_ERROR_NONE, "%s: still there", what);
}

static struct rwkv_context * load(uint32_t n_threads) {
    struct rwkv_context * ctx = rwkv_init_from_file("model.bin", n_threads, 0);
    NEED(ctx);
    return ctx;
}

/* Reads all tokens, one at a time. */
static bool read_serially(struct rwkv_context * ctx, struct result to) {
    bool ok = rwkv_eval(ctx, tokens[0], NULL, to.state, NULL);
    for (int i = 1; i < TOKENS; i++) {
        ok = ok && rwkv_eval(ctx, tokens[i], to.state, to.state, i + 1 < TOKENS ? NULL : to.logits);
    }
    return ok;
}

static void test_info(void) {
    const char * info = rwkv_get_system_info_string();
    CHECK(info && strncmp(info, "RWKV=", 5) == 0 && strstr(info, " ISA=") && strstr(info, " THREADS="), "%s", info);
    CHECK(info == rwkv_get_system_info_string(), "another string each time");
}

static void test_shape(void) {
    struct rwkv_context * ctx = load(1);
    CHECK(rwkv_get_n_vocab(ctx) == N_VOCAB, "%zu", rwkv_get_n_vocab(ctx));
    CHECK(rwkv_get_n_embed(ctx) == N_EMBED, "%zu", rwkv_get_n_embed(ctx));
    CHECK(rwkv_get_n_layer(ctx) == N_LAYER, "%zu", rwkv_get_n_layer(ctx));
    CHECK(rwkv_get_state_len(ctx) == STATE, "%zu", rwkv_get_state_len(ctx));
    CHECK(rwkv_get_logits_len(ctx) == N_VOCAB, "%zu", rwkv_get_logits_len(ctx));
    CHECK(rwkv_get_state_buffer_element_count(ctx) == STATE, "the older name");
    CHECK(rwkv_get_logits_buffer_element_count(ctx) == N_VOCAB, "the older name");
    check_error(ctx, RWKV_ERROR_NONE, "asking for sizes");
    rwkv_free(ctx);
    rwkv_free(NULL);
}

static void test_same_bits(void) {
    /* 0: as many as there are. Layers on a GPU are ignored. */
    for (uint32_t n_threads = 0; n_threads <= 4; n_threads++) {
        if (brief && n_threads != 2) continue;
        struct rwkv_context * ctx = rwkv_init_from_file("model.bin", n_threads, n_threads * 100);
        NEED(ctx);

        struct result result = new_result();
        CHECK(read_serially(ctx, result), "serial, %u threads", n_threads);
        CHECK(state_is_expected(result.state), "serial, %u threads", n_threads);
        CHECK(logits_are_expected(result.logits), "serial, %u threads", n_threads);
        free_result(result);

        result = new_result();
        CHECK(rwkv_eval_sequence(ctx, tokens, TOKENS, NULL, result.state, result.logits), "%u threads", n_threads);
        CHECK(state_is_expected(result.state), "sequence, %u threads", n_threads);
        CHECK(logits_are_expected(result.logits), "sequence, %u threads", n_threads);
        free_result(result);

        const size_t chunks[] = { 1, 16, 64, TOKENS, 1000, SIZE_MAX };
        for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
            result = new_result();
            const bool ok =
                rwkv_eval_sequence_in_chunks(ctx, tokens, TOKENS, chunks[i], NULL, result.state, result.logits);
            CHECK(ok && state_is_expected(result.state), "chunks of %zu, %u threads", chunks[i], n_threads);
            CHECK(logits_are_expected(result.logits), "chunks of %zu, %u threads", chunks[i], n_threads);
            free_result(result);
        }

        /* A sequence in two calls, cut anywhere. */
        result = new_result();
        CHECK(rwkv_eval_sequence(ctx, tokens, 1, NULL, result.state, NULL), "one token");
        CHECK(rwkv_eval_sequence(ctx, tokens + 1, 100, result.state, result.state, NULL), "from a state");
        CHECK(rwkv_eval_sequence(ctx, tokens + 101, TOKENS - 101, result.state, result.state, result.logits), "the rest");
        CHECK(state_is_expected(result.state) && logits_are_expected(result.logits), "in three calls");
        free_result(result);

        check_error(ctx, RWKV_ERROR_NONE, "evaluating");
        rwkv_free(ctx);
    }
}

static void test_nulls(void) {
    struct rwkv_context * ctx = load(2);
    struct result result = new_result();
    struct result other = new_result();

    /* No tokens: nothing happens. */
    const size_t lens[] = { 1, 2, 64, 1000000, SIZE_MAX };
    for (size_t i = 0; i < sizeof lens / sizeof *lens; i++) {
        CHECK(rwkv_eval_sequence(ctx, NULL, lens[i], NULL, result.state, result.logits), "%zu", lens[i]);
        CHECK(rwkv_eval_sequence_in_chunks(ctx, NULL, lens[i], 7, NULL, result.state, result.logits), "%zu", lens[i]);
    }
    CHECK(untouched(result.state, STATE) && untouched(result.logits, N_VOCAB), "written without tokens");

    /* No state in: the beginning of a text. */
    rwkv_init_state(ctx, other.state);
    CHECK(other.state[0] == 0 && other.state[STATE - 1] == -1e30f, "%g, %g", other.state[0], other.state[STATE - 1]);
    CHECK(rwkv_eval(ctx, 5, NULL, result.state, result.logits), "NULL");
    CHECK(rwkv_eval(ctx, 5, other.state, other.state, other.logits), "the first state, in place");
    CHECK(memcmp(result.state, other.state, STATE * sizeof(float)) == 0, "NULL is not the first state");
    CHECK(memcmp(result.logits, other.logits, N_VOCAB * sizeof(float)) == 0, "NULL is not the first state");

    /* No logits: the same state. No state out: the same logits, and the state that was read from is as it was. */
    struct result kept = new_result();
    struct result apart = new_result();
    CHECK(rwkv_eval(ctx, 6, result.state, kept.state, NULL), "no logits");
    CHECK(rwkv_eval(ctx, 6, result.state, NULL, kept.logits), "no state out");
    CHECK(memcmp(result.state, other.state, STATE * sizeof(float)) == 0, "the state in was changed");
    CHECK(rwkv_eval(ctx, 6, result.state, NULL, NULL), "nothing wanted");
    CHECK(rwkv_eval(ctx, 6, result.state, result.state, result.logits), "in place");
    CHECK(rwkv_eval(ctx, 6, other.state, apart.state, apart.logits), "apart");
    CHECK(memcmp(result.state, kept.state, STATE * sizeof(float)) == 0, "without logits");
    CHECK(memcmp(result.state, apart.state, STATE * sizeof(float)) == 0, "in place");
    CHECK(memcmp(result.logits, kept.logits, N_VOCAB * sizeof(float)) == 0, "without a state out");
    CHECK(memcmp(result.logits, apart.logits, N_VOCAB * sizeof(float)) == 0, "in place");

    check_error(ctx, RWKV_ERROR_NONE, "NULLs that are allowed");
    free_result(result);
    free_result(other);
    free_result(kept);
    free_result(apart);
    rwkv_free(ctx);
}

static void test_print_errors(void) {
    CHECK(rwkv_get_print_errors(NULL), "not at first");
    /* The one message that this program is to print while all is well; api.rs counts. */
    CHECK(!rwkv_init_from_file("missing.bin", 1, 0), "loaded a missing file");
    rwkv_get_last_error(NULL);

    struct rwkv_context * loud = load(1);
    rwkv_set_print_errors(NULL, false);
    CHECK(!rwkv_get_print_errors(NULL), "still on");
    CHECK(rwkv_get_print_errors(loud), "a context has its own setting");
    struct rwkv_context * silent = load(1);
    CHECK(!rwkv_get_print_errors(silent), "a context begins with its thread's setting");
    struct rwkv_context * clone = rwkv_clone_context(loud, 1);
    NEED(clone);
    CHECK(rwkv_get_print_errors(clone), "a clone begins with its context's setting");
    rwkv_set_print_errors(loud, false);
    CHECK(!rwkv_get_print_errors(loud) && rwkv_get_print_errors(clone), "a clone has its own setting");
    rwkv_free(loud);
    rwkv_free(silent);
    rwkv_free(clone);
}

static const struct {
    const char * file;
    unsigned flags;
} damages[] = {
    { "missing.bin", RWKV_ERROR_FILE | RWKV_ERROR_FILE_OPEN },
    { "empty.bin", RWKV_ERROR_FILE | RWKV_ERROR_FILE_READ },
    { "short-header.bin", RWKV_ERROR_FILE | RWKV_ERROR_FILE_READ },
    { "magic.bin", RWKV_ERROR_FILE | RWKV_ERROR_FILE_MAGIC },
    { "version.bin", RWKV_ERROR_FILE | RWKV_ERROR_FILE_VERSION },
    { "no-vocabulary.bin", RWKV_ERROR_FILE | RWKV_ERROR_DATA },
    { "unknown-type.bin", RWKV_ERROR_FILE | RWKV_ERROR_DATA_TYPE },
    { "removed-type.bin", RWKV_ERROR_FILE | RWKV_ERROR_DATA_TYPE },
    { "tensor-type.bin", RWKV_ERROR_MODEL_PARAMS | RWKV_ERROR_DATA_TYPE },
    { "tensor-shape.bin", RWKV_ERROR_MODEL_PARAMS | RWKV_ERROR_SHAPE },
    { "tensor-name.bin", RWKV_ERROR_MODEL_PARAMS | RWKV_ERROR_KEY },
    { "tensor-twice.bin", RWKV_ERROR_MODEL_PARAMS | RWKV_ERROR_KEY },
    { "vocabulary.bin", RWKV_ERROR_MODEL_PARAMS | RWKV_ERROR_DIMENSION },
    { "one-layer-more.bin", RWKV_ERROR_MODEL_PARAMS | RWKV_ERROR_PARAM_MISSING },
    { "cut.bin", RWKV_ERROR_MODEL_PARAMS | RWKV_ERROR_FILE_READ },
    { "trailing.bin", RWKV_ERROR_MODEL_PARAMS | RWKV_ERROR_FILE_READ },
    { "v6.bin", RWKV_ERROR_MODEL | RWKV_ERROR_UNSUPPORTED },
};

static void test_files(void) {
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        struct rwkv_context * ctx = rwkv_init_from_file(damages[i].file, 2, 0);
        CHECK(!ctx, "%s was loaded", damages[i].file);
        check_error(NULL, damages[i].flags, damages[i].file);
    }
    CHECK(!rwkv_init_from_file(NULL, 1, 0), "no path");
    check_error(NULL, RWKV_ERROR_ARGS, "no path");
    CHECK(!rwkv_init_from_file("model.bin", 1025, 0), "1025 threads");
    check_error(NULL, RWKV_ERROR_ARGS, "1025 threads");

    /* Instructions that no CPU has. */
    const char * set = getenv("RWKV_ISA");
    char * isa = set ? strdup(set) : NULL;
    setenv("RWKV_ISA", "abacus", 1);
    CHECK(!rwkv_init_from_file("model.bin", 1, 0), "RWKV_ISA=abacus");
    check_error(NULL, RWKV_ERROR_ARGS | RWKV_ERROR_UNSUPPORTED, "RWKV_ISA=abacus");
    if (isa) setenv("RWKV_ISA", isa, 1);
    else unsetenv("RWKV_ISA");
    free(isa);

    /* Loading forgets what was wrong before. */
    CHECK(!rwkv_init_from_file("missing.bin", 1, 0), "missing");
    rwkv_free(load(1));
    check_error(NULL, RWKV_ERROR_NONE, "loading");

#ifdef __linux__
    /* A name that is not UTF-8. */
    struct rwkv_context * ctx = rwkv_init_from_file("mod\xe8le.bin", 1, 0);
    CHECK(ctx, "Latin-1");
    rwkv_free(ctx);
#endif
}

/* A model file that is cut short or written over while it is in use: an error, and not the end of the process. */
static void test_changed_file(void) {
    static char whole[1 << 20];
    FILE * from = fopen("model.bin", "rb");
    NEED(from);
    size_t size = fread(whole, 1, sizeof whole, from);
    fclose(from);
    NEED(size > 4096 && size < sizeof whole);
    for (int cut = 0; cut < 2; cut++) {
        FILE * to = fopen("used.bin", "wb");
        NEED(to && fwrite(whole, 1, size, to) == size);
        fclose(to);
        struct rwkv_context * ctx = rwkv_init_from_file("used.bin", 2, 0);
        NEED(ctx);
        struct result result = new_result();
        CHECK(rwkv_eval(ctx, tokens[0], NULL, result.state, result.logits), "the file is as it was");
        free_result(result);

        if (cut) {
            NEED(truncate("used.bin", 100) == 0);
        } else {
            to = fopen("used.bin", "rb+");
            NEED(to && fwrite("other bytes", 1, 11, to) == 11);
            fclose(to);
        }
        result = new_result();
        CHECK(!rwkv_eval(ctx, tokens[0], NULL, result.state, result.logits), "the file changed");
        check_error(ctx, RWKV_ERROR_FILE | RWKV_ERROR_FILE_READ, "the file changed");
        CHECK(!rwkv_eval_sequence(ctx, tokens, TOKENS, NULL, result.state, result.logits), "again");
        check_error(ctx, RWKV_ERROR_FILE | RWKV_ERROR_FILE_READ, "again");
        CHECK(untouched(result.state, STATE) && untouched(result.logits, N_VOCAB), "written all the same");
        free_result(result);
        rwkv_free(ctx);
    }
}

/* Numbers that are none, in the state that a caller hands in. */
static void test_not_finite(void) {
    struct rwkv_context * ctx = load(1);
    struct result result = new_result();
    rwkv_init_state(ctx, result.state);
    result.state[3] = NAN;
    CHECK(!rwkv_eval(ctx, tokens[0], result.state, NULL, result.logits), "a state that is not a number");
    check_error(ctx, RWKV_ERROR_ARGS, "a state that is not a number");
    CHECK(untouched(result.logits, N_VOCAB), "logits of a state that is not a number");
    free_result(result);
    rwkv_free(ctx);
}

static void test_arguments(void) {
    struct rwkv_context * ctx = load(2);
    struct result result = new_result();

    CHECK(!rwkv_eval(ctx, N_VOCAB, NULL, result.state, result.logits), "a token too far");
    check_error(ctx, RWKV_ERROR_ARGS, "a token too far");
    CHECK(!rwkv_eval(ctx, UINT32_MAX, NULL, result.state, result.logits), "the last token");
    check_error(ctx, RWKV_ERROR_ARGS, "the last token");

    const uint32_t bad[] = { 1, 2, 3, N_VOCAB };
    CHECK(!rwkv_eval_sequence(ctx, bad, 4, NULL, result.state, result.logits), "one of four");
    check_error(ctx, RWKV_ERROR_ARGS, "one of four");
    CHECK(!rwkv_eval_sequence_in_chunks(ctx, bad, 4, 2, NULL, result.state, result.logits), "the second chunk");
    check_error(ctx, RWKV_ERROR_ARGS, "the second chunk");

    CHECK(!rwkv_eval_sequence(ctx, tokens, 0, NULL, result.state, result.logits), "no tokens");
    check_error(ctx, RWKV_ERROR_ARGS, "no tokens");
    CHECK(!rwkv_eval_sequence(ctx, NULL, 0, NULL, NULL, NULL), "no tokens, NULL");
    check_error(ctx, RWKV_ERROR_ARGS, "no tokens, NULL");
    CHECK(!rwkv_eval_sequence(ctx, tokens, SIZE_MAX, NULL, NULL, NULL), "no such array");
    check_error(ctx, RWKV_ERROR_ARGS, "no such array");
    CHECK(!rwkv_eval_sequence_in_chunks(ctx, tokens, 0, 4, NULL, result.state, result.logits), "no tokens");
    check_error(ctx, RWKV_ERROR_ARGS, "no tokens in chunks");
    CHECK(!rwkv_eval_sequence_in_chunks(ctx, tokens, 4, 0, NULL, result.state, result.logits), "chunks of 0");
    check_error(ctx, RWKV_ERROR_ARGS, "chunks of 0");
    CHECK(untouched(result.state, STATE) && untouched(result.logits, N_VOCAB), "an error wrote something");

    rwkv_init_state(ctx, NULL);
    check_error(ctx, RWKV_ERROR_ARGS, "no state");

    /* An evaluation forgets what was wrong before it; errors of contexts and of the thread are apart. */
    CHECK(!rwkv_eval(ctx, N_VOCAB, NULL, NULL, NULL), "a token too far");
    check_error(NULL, RWKV_ERROR_NONE, "the thread");
    CHECK(rwkv_eval(ctx, 0, NULL, NULL, NULL), "a token");
    check_error(ctx, RWKV_ERROR_NONE, "forgotten");

    CHECK(!rwkv_clone_context(ctx, 1025), "1025 threads");
    check_error(ctx, RWKV_ERROR_NONE, "1025 threads, the context");
    check_error(NULL, RWKV_ERROR_ARGS, "1025 threads");

    free_result(result);
    rwkv_free(ctx);
}

static void test_no_context(void) {
    struct result result = new_result();
    CHECK(!rwkv_eval(NULL, 0, NULL, result.state, result.logits), "eval");
    check_error(NULL, RWKV_ERROR_CTX, "eval");
    CHECK(!rwkv_eval_sequence(NULL, tokens, 2, NULL, result.state, result.logits), "sequence");
    check_error(NULL, RWKV_ERROR_CTX, "sequence");
    CHECK(!rwkv_eval_sequence_in_chunks(NULL, tokens, 2, 1, NULL, result.state, result.logits), "chunks");
    check_error(NULL, RWKV_ERROR_CTX, "chunks");
    CHECK(!rwkv_clone_context(NULL, 1), "clone");
    check_error(NULL, RWKV_ERROR_CTX, "clone");
    rwkv_init_state(NULL, result.state);
    check_error(NULL, RWKV_ERROR_CTX, "init_state");
    CHECK(rwkv_get_n_vocab(NULL) == 0 && rwkv_get_n_embed(NULL) == 0 && rwkv_get_n_layer(NULL) == 0, "sizes");
    CHECK(rwkv_get_state_len(NULL) == 0 && rwkv_get_logits_len(NULL) == 0, "lengths");
    check_error(NULL, RWKV_ERROR_CTX, "sizes");
    CHECK(untouched(result.state, STATE) && untouched(result.logits, N_VOCAB), "written without a context");
    free_result(result);
}

/* Whether two files have the same bytes. */
static bool same_files(const char * one, const char * other) {
    FILE * a = fopen(one, "rb");
    FILE * b = fopen(other, "rb");
    NEED(a && b);
    int x, y;
    do {
        x = getc(a);
        y = getc(b);
    } while (x == y && x != EOF);
    fclose(a);
    fclose(b);
    return x == y;
}

static bool exists(const char * path) {
    FILE * file = fopen(path, "rb");
    if (file) fclose(file);
    return file != NULL;
}

static void test_quantize(void) {
    const char * formats[] = { "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0" };
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        /* What Rust made of the same model. */
        char expected[32];
        snprintf(expected, sizeof expected, "%s.bin", formats[i]);
        CHECK(rwkv_quantize_model_file("model.bin", "made.bin", formats[i]), "%s", formats[i]);
        check_error(NULL, RWKV_ERROR_NONE, formats[i]);
        CHECK(same_files("made.bin", expected), "%s", formats[i]);

        /* It runs, and says nearly the same; each format loses some digits. */
        struct rwkv_context * ctx = rwkv_init_from_file("made.bin", 2, 0);
        NEED(ctx);
        struct result result = new_result();
        CHECK(rwkv_eval_sequence(ctx, tokens, TOKENS, NULL, result.state, result.logits), "%s", formats[i]);
        float largest = 0;
        for (int j = 0; j < N_VOCAB; j++) {
            const float difference = result.logits[j] - expected_logits[j];
            if (!(difference <= largest && -difference <= largest)) largest = difference < 0 ? -difference : difference;
        }
        CHECK(largest > 0 && largest < 1.5f, "%s: logits differ by %g", formats[i], largest);
        free_result(result);
        rwkv_free(ctx);

        CHECK(!rwkv_quantize_model_file("made.bin", "never.bin", "Q4_0"), "%s again", formats[i]);
        check_error(NULL, RWKV_ERROR_FILE | RWKV_ERROR_DATA_TYPE, "quantized already");
    }

    const char * unknown[] = { "", "FP16", "Q4_2", "Q9", "\xff" };
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        CHECK(!rwkv_quantize_model_file("model.bin", "never.bin", unknown[i]), "%s", unknown[i]);
        check_error(NULL, RWKV_ERROR_ARGS | RWKV_ERROR_DATA_TYPE, unknown[i]);
    }
    CHECK(!rwkv_quantize_model_file(NULL, "never.bin", "Q4_0"), "no input");
    check_error(NULL, RWKV_ERROR_ARGS, "no input");
    CHECK(!rwkv_quantize_model_file("model.bin", NULL, "Q4_0"), "no output");
    check_error(NULL, RWKV_ERROR_ARGS, "no output");
    CHECK(!rwkv_quantize_model_file("model.bin", "never.bin", NULL), "no format");
    check_error(NULL, RWKV_ERROR_ARGS, "no format");
    CHECK(!rwkv_quantize_model_file("model.bin", "./model.bin", "Q4_0"), "onto itself");
    check_error(NULL, RWKV_ERROR_ARGS, "onto itself");
    CHECK(!rwkv_quantize_model_file("missing.bin", "never.bin", "Q4_0"), "missing");
    check_error(NULL, RWKV_ERROR_FILE | RWKV_ERROR_FILE_OPEN, "missing");
    CHECK(!rwkv_quantize_model_file("magic.bin", "never.bin", "Q4_0"), "magic");
    check_error(NULL, RWKV_ERROR_FILE | RWKV_ERROR_FILE_MAGIC, "magic");
    CHECK(!rwkv_quantize_model_file("cut.bin", "never.bin", "Q4_0"), "cut");
    check_error(NULL, RWKV_ERROR_MODEL_PARAMS | RWKV_ERROR_FILE_READ, "cut");
    CHECK(!rwkv_quantize_model_file("odd-rows.bin", "never.bin", "Q4_0"), "rows of 24");
    check_error(NULL, RWKV_ERROR_FILE | RWKV_ERROR_SHAPE, "rows of 24");
    CHECK(!rwkv_quantize_model_file("model.bin", "no-such-directory/never.bin", "Q4_0"), "no directory");
    check_error(NULL, RWKV_ERROR_FILE | RWKV_ERROR_FILE_WRITE, "no directory");
    CHECK(!exists("never.bin"), "something was written");
}

/* What a thread finds that reads all tokens again and again. */
static void * reader(void * ctx) {
    bool ok = true;
    for (int i = 0; i < (brief ? 1 : 3); i++) {
        struct result result = new_result();
        ok = ok && read_serially(ctx, result);
        ok = ok && state_is_expected(result.state) && logits_are_expected(result.logits);
        ok = ok && rwkv_eval_sequence(ctx, tokens, TOKENS, NULL, result.state, result.logits);
        ok = ok && state_is_expected(result.state) && logits_are_expected(result.logits);
        free_result(result);
    }
    /* A new thread prints errors, and knows of nobody else's. */
    ok = ok && rwkv_get_print_errors(NULL) && rwkv_get_last_error(NULL) == RWKV_ERROR_NONE;
    return ok ? ctx : NULL;
}

static void check_readers(struct rwkv_context * one, struct rwkv_context * two, const char * what) {
    pthread_t threads[2];
    NEED(pthread_create(&threads[0], NULL, reader, one) == 0);
    NEED(pthread_create(&threads[1], NULL, reader, two) == 0);
    void * found[2];
    pthread_join(threads[0], &found[0]);
    pthread_join(threads[1], &found[1]);
    CHECK(found[0] == one && found[1] == two, "%s", what);
}

static void test_threads(void) {
    struct rwkv_context * ctx = load(2);
    struct rwkv_context * one = rwkv_clone_context(ctx, 2);
    struct rwkv_context * two = rwkv_clone_context(one, 1);
    NEED(one && two && one != ctx && two != one);
    /* The model stays while anybody has it. */
    rwkv_free(ctx);
    CHECK(!rwkv_init_from_file("missing.bin", 1, 0), "missing");
    check_readers(one, two, "two clones at once");
    check_readers(one, one, "one context from two threads: they take turns");
    check_error(NULL, RWKV_ERROR_FILE | RWKV_ERROR_FILE_OPEN, "this thread's error after others ran");
    check_error(one, RWKV_ERROR_NONE, "a clone");
    rwkv_free(one);
    rwkv_free(two);
}

int main(int argc, char ** argv) {
    brief = argc == 2 && strcmp(argv[1], "brief") == 0;
    read_file("tokens.bin", tokens, sizeof tokens);
    read_file("state.bin", expected_state, sizeof expected_state);
    read_file("logits.bin", expected_logits, sizeof expected_logits);

    test_print_errors(); /* and off it is from here on */
    test_info();
    test_shape();
    test_same_bits();
    test_nulls();
    test_files();
    test_changed_file();
    test_not_finite();
    test_arguments();
    test_no_context();
    test_quantize();
    test_threads();

    if (failures) fprintf(stderr, "%d checks failed\n", failures);
    else puts("all checks passed");
    return failures ? 1 : 0;
}
