/*
 * Goes on with a text, for models whose tokens are bytes (n_vocab 256), and prints what it writes.
 *
 *     cargo build --release -p rwkv-capi
 *     cc -I crates/capi/include crates/capi/examples/generate.c -o generate -L target/release -lrwkv -lm
 *     LD_LIBRARY_PATH=target/release ./generate model.bin "Call me" 200 0.8
 *
 * A temperature of 0 always takes the likeliest byte.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rwkv.h"

/* A number from 0 to 1, the same ones each time: xorshift64. */
static double uniform(void) {
    static uint64_t x = 88172645463325252u;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return (double) (x >> 11) / 9007199254740992.0;
}

/* Draws a token: e^(logit / temperature) says how often each is to come. */
static uint32_t sample(const float * logits, size_t n_vocab, double temperature) {
    size_t best = 0;
    for (size_t i = 1; i < n_vocab; i++) {
        if (logits[i] > logits[best]) best = i;
    }
    if (temperature <= 0) return (uint32_t) best;

    double sum = 0;
    for (size_t i = 0; i < n_vocab; i++) sum += exp((logits[i] - logits[best]) / temperature);
    double left = uniform() * sum;
    for (size_t i = 0; i < n_vocab; i++) {
        left -= exp((logits[i] - logits[best]) / temperature);
        if (left < 0) return (uint32_t) i;
    }
    return (uint32_t) best;
}

int main(int argc, char ** argv) {
    if (argc != 5 || argv[2][0] == 0) {
        fprintf(stderr, "usage: %s MODEL PROMPT BYTES TEMPERATURE\n", argv[0]);
        return 2;
    }
    const char * prompt = argv[2];
    const size_t prompt_len = strlen(prompt);
    const long count = atol(argv[3]);
    const double temperature = atof(argv[4]);

    /* Errors are printed by the library. */
    struct rwkv_context * ctx = rwkv_init_from_file(argv[1], 0, 0);
    if (!ctx) return 1;
    const size_t n_vocab = rwkv_get_n_vocab(ctx);
    if (n_vocab != 256) {
        fprintf(stderr, "%s: its vocabulary has %zu tokens; this example knows bytes alone\n", argv[1], n_vocab);
        rwkv_free(ctx);
        return 1;
    }

    float * state = malloc(rwkv_get_state_len(ctx) * sizeof(float));
    float * logits = malloc(rwkv_get_logits_len(ctx) * sizeof(float));
    uint32_t * tokens = malloc(prompt_len * sizeof(uint32_t));
    if (!state || !logits || !tokens) {
        fprintf(stderr, "out of memory\n");
        return 1;
    }
    for (size_t i = 0; i < prompt_len; i++) tokens[i] = (unsigned char) prompt[i];

    fputs(prompt, stdout);
    bool ok = rwkv_eval_sequence(ctx, tokens, prompt_len, NULL, state, logits);
    for (long i = 0; ok && i < count; i++) {
        const uint32_t token = sample(logits, n_vocab, temperature);
        putchar((int) token);
        ok = rwkv_eval(ctx, token, state, state, logits);
    }
    putchar('\n');

    free(tokens);
    free(logits);
    free(state);
    rwkv_free(ctx);
    return ok ? 0 : 1;
}
