/*
 * librwkv: RWKV language models on CPUs, for C and C++.
 *
 * Names, types and values are those of rwkv.cpp's rwkv.h. A program that was compiled for rwkv.cpp runs with
 * this library unchanged, and one written against either header compiles against the other.
 *
 * A context holds a model, threads to run it on and its own last error. It holds no text: the model's
 * memory of a text is a state, an array of floats that belongs to you. Copy it, save it, go on from it as
 * often as you like.
 *
 *     struct rwkv_context * ctx = rwkv_init_from_file("model.bin", 4, 0);
 *     float * state = malloc(rwkv_get_state_len(ctx) * sizeof(float));
 *     float * logits = malloc(rwkv_get_logits_len(ctx) * sizeof(float));
 *     rwkv_eval_sequence(ctx, prompt, prompt_len, NULL, state, logits);   // NULL: nothing was read before
 *     uint32_t token = ...;                                               // choose by logits
 *     rwkv_eval(ctx, token, state, state, logits);                        // and so on
 *     rwkv_free(ctx);
 *
 * Link with -lrwkv. examples/generate.c is a whole program.
 *
 * No function aborts or throws. What may go wrong is answered with NULL or false, with flags to ask for, and
 * with a line on stderr unless that is switched off. Results do not depend on the number of threads, and to
 * the last bit not on how a text is cut into calls.
 */
#ifndef RWKV_H
#define RWKV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Define RWKV_SHARED where a Windows program links to the DLL. */
#if defined(RWKV_SHARED) && defined(_WIN32) && !defined(__MINGW32__)
#    if defined(RWKV_BUILD)
#        define RWKV_API __declspec(dllexport)
#    else
#        define RWKV_API __declspec(dllimport)
#    endif
#elif defined(RWKV_SHARED) && !defined(_WIN32)
#    define RWKV_API __attribute__((visibility("default")))
#else
#    define RWKV_API
#endif

/* The first number of a model file: the letters "ggmf", highest byte first. */
#define RWKV_FILE_MAGIC 0x67676d66

/* The second: the version of the file format. Quantized weights need the newer one. */
#define RWKV_FILE_VERSION_0 100
#define RWKV_FILE_VERSION_1 101
#define RWKV_FILE_VERSION_MIN RWKV_FILE_VERSION_0
#define RWKV_FILE_VERSION_MAX RWKV_FILE_VERSION_1
#define RWKV_FILE_VERSION RWKV_FILE_VERSION_MAX

#if defined(__cplusplus)
extern "C" {
#endif

/* What went wrong: where (the second byte) and what (the first), added together with |. */
enum rwkv_error_flags {
    RWKV_ERROR_NONE = 0,

    RWKV_ERROR_ARGS = 1 << 8,         /* an argument */
    RWKV_ERROR_FILE = 2 << 8,         /* a file, or a model file's own header */
    RWKV_ERROR_MODEL = 3 << 8,        /* a model that this library cannot run */
    RWKV_ERROR_MODEL_PARAMS = 4 << 8, /* a tensor of a model file */
    RWKV_ERROR_GRAPH = 5 << 8,        /* a fault of this library */
    RWKV_ERROR_CTX = 6 << 8,          /* the context: it is NULL */

    RWKV_ERROR_ALLOC = 1,          /* there is not enough memory */
    RWKV_ERROR_FILE_OPEN = 2,      /* no such file, or it cannot be opened */
    RWKV_ERROR_FILE_STAT = 3,      /* never set here */
    RWKV_ERROR_FILE_READ = 4,      /* the file is shorter than it says, or ends in the middle of something */
    RWKV_ERROR_FILE_WRITE = 5,     /* the file cannot be written */
    RWKV_ERROR_FILE_MAGIC = 6,     /* not a model file */
    RWKV_ERROR_FILE_VERSION = 7,   /* an unknown version of the file format */
    RWKV_ERROR_DATA_TYPE = 8,      /* an unknown or removed format of weights, or one that is not possible here */
    RWKV_ERROR_UNSUPPORTED = 9,    /* possible, but not in this library, or not on this machine */
    RWKV_ERROR_SHAPE = 10,         /* a number of dimensions, or dimensions, that no tensor can have */
    RWKV_ERROR_DIMENSION = 11,     /* dimensions other than the header's */
    RWKV_ERROR_KEY = 12,           /* a tensor's name: not a name, there twice, or not one of this model */
    RWKV_ERROR_DATA = 13,          /* other nonsense in a file */
    RWKV_ERROR_PARAM_MISSING = 14  /* a tensor is missing */
};

/*
 * A model that is ready to run, threads to run it on, and an error.
 *
 * It may be used and freed by any thread. Evaluations on one context take turns; for several at a time, make
 * clones: they share the weights and nothing else.
 */
struct rwkv_context;

/*
 * Whether errors are printed to stderr.
 * - ctx: the context meant. NULL means this thread's calls without a context, rwkv_init_from_file and
 *   rwkv_quantize_model_file above all, and what contexts that it loads begin with (at first true).
 */
RWKV_API void rwkv_set_print_errors(struct rwkv_context * ctx, const bool print_errors);

/* What rwkv_set_print_errors set, for a context or, with NULL, for this thread. */
RWKV_API bool rwkv_get_print_errors(const struct rwkv_context * ctx);

/*
 * The flags of the last error, which are then forgotten.
 * - ctx: the context whose error is meant. NULL means this thread's calls without a context, and those that
 *   return one.
 */
RWKV_API enum rwkv_error_flags rwkv_get_last_error(struct rwkv_context * ctx);

/*
 * Loads a model; NULL if that fails, and rwkv_get_last_error(NULL) says why.
 * - model_file_path: a model file in any of the seven formats; on Windows in UTF-8.
 * - n_threads: number of threads, the caller's included; 0 means as many as the process may use, 1024 is the
 *   most.
 * - n_gpu_layers: not looked at. This library computes on CPUs, like an rwkv.cpp that was built for them.
 */
RWKV_API struct rwkv_context * rwkv_init_from_file(const char * model_file_path, const uint32_t n_threads, const uint32_t n_gpu_layers);

/*
 * Another context of the same model, with threads of its own, that is freed by itself; NULL if that fails,
 * and rwkv_get_last_error(NULL) says why. It prints errors if ctx does.
 * - n_threads: as above.
 */
RWKV_API struct rwkv_context * rwkv_clone_context(struct rwkv_context * ctx, const uint32_t n_threads);

/*
 * Reads one token. If it returns false, no array was written to.
 * - token: below rwkv_get_n_vocab(ctx).
 * - state_in: the state (rwkv_get_state_len(ctx) floats) to go on from; NULL for the beginning of a text.
 * - state_out: where the state after the token goes, or NULL. May be the array of state_in.
 * - logits_out: where the logits (rwkv_get_logits_len(ctx) floats) of the next token go, or NULL: then they
 *   are not computed, which saves the largest of all matrix products.
 */
RWKV_API bool rwkv_eval(
    struct rwkv_context * ctx,
    const uint32_t token,
    const float * state_in,
    float * state_out,
    float * logits_out
);

/*
 * Reads tokens one after the other: as many calls of rwkv_eval, to the last bit, in much less time. The state
 * and the logits are those after the last.
 * - tokens: an array of tokens, or NULL. With NULL nothing is read or written and the answer is true:
 *   rwkv.cpp then prepares for sequences of this length, and there is nothing to prepare here.
 * - sequence_len: number of tokens, at least 1. There is no upper limit: long sequences are read piece by
 *   piece.
 */
RWKV_API bool rwkv_eval_sequence(
    struct rwkv_context * ctx,
    const uint32_t * tokens,
    const size_t sequence_len,
    const float * state_in,
    float * state_out,
    float * logits_out
);

/*
 * The same as rwkv_eval_sequence.
 * - chunk_size: at least 1. rwkv.cpp cuts the sequence by it; here it makes no difference.
 */
RWKV_API bool rwkv_eval_sequence_in_chunks(
    struct rwkv_context * ctx,
    const uint32_t * tokens,
    const size_t sequence_len,
    const size_t chunk_size,
    const float * state_in,
    float * state_out,
    float * logits_out
);

/* Number of tokens in the vocabulary: 50277 for 20B, 65536 for World, 256 for bytes. 0 if ctx is NULL, as all of these. */
RWKV_API size_t rwkv_get_n_vocab(const struct rwkv_context * ctx);

/* Width of the residual stream. */
RWKV_API size_t rwkv_get_n_embed(const struct rwkv_context * ctx);

/* Number of blocks, each a time mix and a channel mix. */
RWKV_API size_t rwkv_get_n_layer(const struct rwkv_context * ctx);

/*
 * Number of floats in a state. For RWKV-4: for each block the last input of the channel mix, the last input
 * of the time mix, numerator, denominator and their common exponent, n_embed floats each.
 */
RWKV_API size_t rwkv_get_state_len(const struct rwkv_context * ctx);

/* Number of floats in the logits, one for each token of the vocabulary. */
RWKV_API size_t rwkv_get_logits_len(const struct rwkv_context * ctx);

/*
 * Writes the state at the beginning of a text, for which an evaluation also takes NULL. It is not all zeros.
 * - state: rwkv_get_state_len(ctx) floats.
 */
RWKV_API void rwkv_init_state(const struct rwkv_context * ctx, float * state);

/* Frees a context and ends its threads; the weights go with the last context of the model. NULL is allowed. */
RWKV_API void rwkv_free(struct rwkv_context * ctx);

/*
 * Makes a model file of a quantized format: the bytes that rwkv.cpp makes. If it returns false,
 * rwkv_get_last_error(NULL) says why, and what was at the output's path before is as it was. It prints
 * errors, but no progress.
 * - model_file_path_in: an FP32 or FP16 file of any version of RWKV.
 * - model_file_path_out: where the result goes; not the input itself.
 * - format_name: "Q4_0", "Q4_1", "Q5_0", "Q5_1" or "Q8_0".
 */
RWKV_API bool rwkv_quantize_model_file(const char * model_file_path_in, const char * model_file_path_out, const char * format_name);

/*
 * What this library is and how it runs here, such as "RWKV=0.1.0 ISA=avx512 THREADS=8": its version, the
 * instruction set in use and the threads that the process may use. The string stays as it is and is never
 * freed.
 */
RWKV_API const char * rwkv_get_system_info_string(void);

/* Older names of rwkv_get_state_len and rwkv_get_logits_len, which bindings made for rwkv.cpp still look for. */
RWKV_API uint32_t rwkv_get_state_buffer_element_count(const struct rwkv_context * ctx);
RWKV_API uint32_t rwkv_get_logits_buffer_element_count(const struct rwkv_context * ctx);

#if defined(__cplusplus)
}
#endif

#endif
