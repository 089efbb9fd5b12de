#include "data_pipeline/stream.h"
#include "data_pipeline/jsonl.h"
#include "data_pipeline/utf8.h"
#include <errno.h>

/* A line of any length, without its newline; *more is false at the end of the file. */
static gr_status read_line(FILE *in, gr_bytes *line, bool *more)
{
    gr_status st = GR_OK;
    char      part[4096];

    line->n = 0;
    *more = false;
    for (;;) {
        /* fgets would stop counting at a NUL byte. */
        size_t n = 0;
        int    c = 0;

        flockfile(in);
        while (n < sizeof part && (c = getc_unlocked(in)) != EOF && c != '\n') part[n++] = (char)c;
        funlockfile(in);
        if (n > 0 || c == '\n') *more = true;
        GR_TRY(gr_bytes_push(line, part, (int64_t)n));
        if (c == '\n' || c == EOF) break;
    }
    GR_CHECK(!ferror(in), GR_ERR_IO, "standard input: %s", strerror(errno));
out:
    return st;
}

gr_status gr_tokenize_encode_stream(gr_tokenizer *t, FILE *in, FILE *out_file)
{
    gr_status st = GR_OK;
    gr_bytes  line = {0}, text = {0};
    gr_ids    ids = {0};
    bool      more = true;

    for (int64_t number = 1;; number++) {
        gr_jsonl_error error;
        int64_t        replaced = 0, valid;

        GR_TRY(read_line(in, &line, &more));
        if (!more) break;
        if (line.n == 0) continue;
        valid = gr_utf8_valid(line.v, line.n);
        GR_CHECK(valid == line.n, GR_ERR_INPUT, "standard input:%lld: not UTF-8 at byte %lld of the line",
                 (long long)number, (long long)valid);
        text.n = ids.n = 0;
        st = gr_jsonl_string(line.v, line.n, "text", false, &text, &replaced, &error);
        GR_CHECK(st != GR_ERR_INPUT, st, "standard input:%lld: expected {\"text\": string}; at byte %lld: %s",
                 (long long)number, (long long)error.at, error.what);
        if (st != GR_OK) goto out;
        GR_TRY(gr_tokenizer_encode(t, text.v, text.n, false, &ids));
        fputs("{\"ids\": [", out_file);
        for (int64_t i = 0; i < ids.n; i++) fprintf(out_file, i ? ", %u" : "%u", ids.v[i]);
        fputs("]}\n", out_file);
    }
    GR_CHECK(fflush(out_file) == 0 && !ferror(out_file), GR_ERR_IO, "standard output: %s", strerror(errno));
out:
    gr_ids_close(&ids);
    gr_bytes_close(&text);
    gr_bytes_close(&line);
    return st;
}
