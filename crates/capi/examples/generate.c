/*
 * Goes on with a text, and prints what it writes: for models that `rwkv train` makes, whose tokens are the
 * characters of a text (tokenizer.json beside the model lists them) or the 256 bytes. C99, and C++ as well.
 *
 *     cargo build --release -p rwkv-capi
 *     cc -I crates/capi/include crates/capi/examples/generate.c -o generate -L target/release -lrwkv -lm
 *     LD_LIBRARY_PATH=target/release ./generate runs/book/model.bin "Call me" 200 0.8
 *
 * A temperature of 0 always takes the likeliest token.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rwkv.h"

/* What each token is as text: `text[i]` are the bytes of token i. */
struct vocabulary {
    size_t len;
    char (*text)[5];
};

/* The bytes of a Unicode character in UTF-8, and a 0 behind them. */
static void encode_utf8(unsigned long c, char out[5]) {
    size_t n = 0;
    if (c < 0x80) {
        out[n++] = (char) c;
    } else {
        if (c < 0x800) {
            out[n++] = (char) (0xC0 | c >> 6);
        } else {
            if (c < 0x10000) {
                out[n++] = (char) (0xE0 | c >> 12);
            } else {
                out[n++] = (char) (0xF0 | c >> 18);
                out[n++] = (char) (0x80 | (c >> 12 & 0x3F));
            }
            out[n++] = (char) (0x80 | (c >> 6 & 0x3F));
        }
        out[n++] = (char) (0x80 | (c & 0x3F));
    }
    out[n] = 0;
}

/* Four hexadecimal digits of JSON's \uXXXX; moves behind them. */
static unsigned long hexadecimal(const char ** p) {
    char digits[5] = { 0, 0, 0, 0, 0 };
    for (int i = 0; i < 4 && **p; i++) digits[i] = *(*p)++;
    return strtoul(digits, NULL, 16);
}

/* The next character of a JSON string, in UTF-8; false at the string's end. */
static bool next_character(const char ** p, char out[5]) {
    size_t n = 0;
    if (**p == '"' || **p == 0) return false;
    if (**p != '\\') {
        /* A byte, and those that follow it: in UTF-8 they begin with the bits 10. */
        do out[n++] = *(*p)++;
        while (n < 4 && ((unsigned char) **p & 0xC0) == 0x80);
        out[n] = 0;
        return true;
    }
    const char escaped = *++*p;
    if (escaped == 0) return false;
    ++*p;
    if (escaped == 'u') {
        unsigned long c = hexadecimal(p);
        /* Characters beyond 16 bits are written as two. */
        if (c >= 0xD800 && c < 0xDC00 && (*p)[0] == '\\' && (*p)[1] == 'u') {
            *p += 2;
            c = 0x10000 + ((c - 0xD800) << 10) + (hexadecimal(p) - 0xDC00);
        }
        encode_utf8(c, out);
        return true;
    }
    const char * names = "nrtbf";
    const char * name = strchr(names, escaped);
    out[0] = name ? "\n\r\t\b\f"[name - names] : escaped;
    out[1] = 0;
    return true;
}

/* All of a file with a 0 behind it; NULL if it cannot be read. */
static char * read_file(const char * path) {
    FILE * file = fopen(path, "rb");
    if (!file) return NULL;
    size_t len = 0, room = 1 << 16;
    char * text = (char *) malloc(room);
    while (text) {
        len += fread(text + len, 1, room - len - 1, file);
        if (len < room - 1) break;
        char * more = (char *) realloc(text, room *= 2);
        if (!more) free(text);
        text = more;
    }
    fclose(file);
    if (text) text[len] = 0;
    return text;
}

/* The tokens that the tokenizer.json beside a model lists, or the bytes; false if they are not `n_vocab`. */
static bool read_vocabulary(const char * model, size_t n_vocab, struct vocabulary * vocabulary) {
    char path[4096];
    const char * slash = strrchr(model, '/');
    snprintf(path, sizeof path, "%.*stokenizer.json", (int) (slash ? slash - model + 1 : 0), model);
    vocabulary->len = 0;
    vocabulary->text = (char (*)[5]) calloc(n_vocab + 1, 5);
    if (!vocabulary->text) return false;
    char * json = read_file(path);
    const char * p = json && !strstr(json, "\"ByteLevel\"") ? strstr(json, "\"vocab\":{") : NULL;
    if (p) {
        p += strlen("\"vocab\":{");
        while (*p == '"') {
            /* A character, or a byte, which is written as <0x41>; and its token. */
            char c[5] = { 0, 0, 0, 0, 0 };
            p++;
            if (strncmp(p, "<0x", 3) == 0) {
                c[0] = (char) strtoul(p + 3, NULL, 16);
                p = strchr(p, '"');
            } else {
                next_character(&p, c);
            }
            if (!p || p[0] != '"' || p[1] != ':') break;
            char * end;
            const unsigned long token = strtoul(p + 2, &end, 10);
            if (token < n_vocab) memcpy(vocabulary->text[token], c, sizeof c);
            vocabulary->len++;
            p = *end == ',' ? end + 1 : end;
        }
    } else {
        for (; vocabulary->len < 256 && vocabulary->len < n_vocab; vocabulary->len++)
            vocabulary->text[vocabulary->len][0] = (char) vocabulary->len;
    }
    free(json);
    if (vocabulary->len == n_vocab) return true;
    fprintf(stderr, "%s has %zu tokens, and there are %zu in %s\n", model, n_vocab, vocabulary->len, path);
    return false;
}

/* The token that `text` begins with, and how many bytes it has; 0 bytes if there is none. */
static size_t find_token(const struct vocabulary * vocabulary, const char * text, uint32_t * token) {
    for (size_t i = 0; i < vocabulary->len; i++) {
        /* Token 0 of bytes is a byte too, which no argument holds. */
        const size_t len = strlen(vocabulary->text[i]);
        if (len > 0 && strncmp(text, vocabulary->text[i], len) == 0) {
            *token = (uint32_t) i;
            return len;
        }
    }
    return 0;
}

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

/* Reads the prompt, then writes `count` tokens. */
static bool generate(
    struct rwkv_context * ctx,
    const struct vocabulary * vocabulary,
    const char * prompt,
    long count,
    double temperature
) {
    float * state = (float *) malloc(rwkv_get_state_len(ctx) * sizeof(float));
    float * logits = (float *) malloc(rwkv_get_logits_len(ctx) * sizeof(float));
    uint32_t * tokens = (uint32_t *) malloc(strlen(prompt) * sizeof(uint32_t));
    bool ok = state && logits && tokens;
    if (!ok) fprintf(stderr, "out of memory\n");

    size_t len = 0;
    for (const char * p = prompt; ok && *p;) {
        const size_t bytes = find_token(vocabulary, p, &tokens[len++]);
        ok = bytes > 0;
        if (!ok) fprintf(stderr, "the model has no token for the beginning of: %s\n", p);
        p += bytes;
    }
    /* No state before the first token: NULL. Errors are printed by the library. */
    ok = ok && rwkv_eval_sequence(ctx, tokens, len, NULL, state, logits);
    if (ok) fputs(prompt, stdout);
    for (long i = 0; ok && i < count; i++) {
        const uint32_t token = sample(logits, vocabulary->len, temperature);
        const char * text = vocabulary->text[token];
        fwrite(text, 1, text[0] ? strlen(text) : 1, stdout);
        ok = rwkv_eval(ctx, token, state, state, logits);
    }
    putchar('\n');
    free(tokens);
    free(logits);
    free(state);
    return ok;
}

int main(int argc, char ** argv) {
    if (argc != 5 || argv[2][0] == 0) {
        fprintf(stderr, "usage: %s MODEL PROMPT TOKENS TEMPERATURE\n", argv[0]);
        return 2;
    }
    struct rwkv_context * ctx = rwkv_init_from_file(argv[1], 0, 0);
    if (!ctx) return 1;
    struct vocabulary vocabulary;
    const bool ok = read_vocabulary(argv[1], rwkv_get_n_vocab(ctx), &vocabulary)
        && generate(ctx, &vocabulary, argv[2], atol(argv[3]), atof(argv[4]));
    free(vocabulary.text);
    rwkv_free(ctx);
    return ok ? 0 : 1;
}
