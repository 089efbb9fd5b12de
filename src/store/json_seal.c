#include "store/json_seal.h"
#include "util/crc32c.h"
#include "util/fs.h"
#include "util/mem.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define LEAD   ",\"crc32c\":\""
#define DIGITS 8
#define TAIL   "\"}\n"

enum { N_LEAD = sizeof LEAD - 1, N_TAIL = sizeof TAIL - 1 };

static gr_status seal(const json_t *tree, int indent, char **out, uint64_t *out_n)
{
    gr_status st = GR_OK;
    char     *text = NULL;
    uint64_t  n;

    GR_CHECK(json_object_size(tree) > 0 && !json_object_get(tree, "crc32c"), GR_ERR_ARG, "this JSON cannot be sealed");
    GR_TRY(gr_json_dump(tree, indent, &text));
    n = strlen(text) - 1; /* without the closing brace; if indented, the checksum has a line of its own */
    GR_TRY(gr_realloc(&text, n + N_LEAD + DIGITS + N_TAIL + 1, 1, "sealed JSON"));
    memcpy(text + n, LEAD, N_LEAD);
    n += N_LEAD;
    GR_CHECK(n + DIGITS + N_TAIL <= GR_JSON_SEAL_LIMIT, GR_ERR_ARG,
             "%" PRIu64 " bytes of JSON to seal, at most %d could be read again", n + DIGITS + N_TAIL,
             GR_JSON_SEAL_LIMIT);
    snprintf(text + n, DIGITS + N_TAIL + 1, "%08" PRIx32 TAIL, gr_crc32c(0, text, n));
    *out = text;
    *out_n = n + DIGITS + N_TAIL;
    text = NULL;
out:
    gr_free(&text);
    return st;
}

gr_status gr_json_seal(const json_t *tree, char **text, uint64_t *n)
{
    return seal(tree, 0, text, n);
}

gr_status gr_json_write(const json_t *tree, const char *path)
{
    gr_status st = GR_OK;
    char     *text = NULL;
    uint64_t  n = 0;

    GR_TRY(seal(tree, 2, &text, &n));
    GR_TRY(gr_write_file(path, text, n));
out:
    gr_free(&text);
    return st;
}

gr_status gr_json_unseal(const char *text, uint64_t n, const char *name, json_t **out)
{
    gr_status      st = GR_OK;
    const uint64_t after = DIGITS + N_TAIL;
    json_t        *tree = NULL;
    char           expected[DIGITS + N_TAIL + 1];

    GR_CHECK(n > N_LEAD + after, GR_ERR_INPUT, "%s: %" PRIu64 " bytes, too short: truncated?", name, n);
    GR_CHECK(n <= GR_JSON_SEAL_LIMIT, GR_ERR_INPUT, "%s: %" PRIu64 " bytes, at most %d are read", name, n,
             GR_JSON_SEAL_LIMIT);
    GR_CHECK(!memcmp(text + n - after - N_LEAD, LEAD, N_LEAD), GR_ERR_INPUT,
             "%s: does not end with its checksum: truncated?", name);
    snprintf(expected, sizeof expected, "%08" PRIx32 TAIL, gr_crc32c(0, text, n - after));
    GR_CHECK(!memcmp(text + n - after, expected, after), GR_ERR_INPUT,
             "%s: ends with checksum %.8s, its bytes give %.8s: damaged", name, text + n - after, expected);
    GR_TRY(gr_json_parse(text, n, name, &tree));
    GR_CHECK(json_is_object(tree), GR_ERR_INPUT, "%s: not a JSON object", name);
    json_object_del(tree, "crc32c");
    *out = tree;
    tree = NULL;
out:
    json_decref(tree);
    return st;
}

gr_status gr_json_share(const gr_comm *c, const char *path, gr_json_reader read, void *user)
{
    gr_status st = GR_OK;
    const int rank = gr_comm_rank(c);
    char     *text = NULL;
    uint64_t  n = 0;

    if (rank == 0) st = gr_read_file(path, GR_JSON_SEAL_LIMIT, &text, &n);
    if (rank == 0 && st == GR_OK) st = read(user, text, n, path);
    GR_TRY(gr_agree(c, st));
    gr_bcast(c, &n, sizeof n, 0);
    if (rank != 0) st = gr_alloc(&text, n + 1, 1, path);
    GR_TRY(gr_agree(c, st));
    gr_bcast(c, text, (int64_t)n, 0);
    if (rank != 0) st = read(user, text, n, path);
    GR_TRY(gr_agree(c, st));
out:
    gr_free(&text);
    return st;
}
