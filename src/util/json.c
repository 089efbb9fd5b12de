#include "util/json.h"
#include "util/fs.h"
#include "util/mem.h"
#include <inttypes.h>
#include <string.h>

enum { LIMIT_BYTES = 64 << 20, LIMIT_DEPTH = 64 };

/* jansson itself recurses 2048 deep; we stop earlier, before it sees the text. */
static int depth_of(const char *text, size_t n)
{
    int  depth = 0, deepest = 0;
    bool in_string = false;

    for (size_t i = 0; i < n; i++) {
        const char ch = text[i];
        if (in_string) {
            if (ch == '\\')
                i++;
            else if (ch == '"')
                in_string = false;
        } else if (ch == '"') {
            in_string = true;
        } else if (ch == '{' || ch == '[') {
            if (++depth > deepest) deepest = depth;
        } else if (ch == '}' || ch == ']') {
            depth--;
        }
    }
    return deepest;
}

gr_status gr_json_parse(const char *text, size_t n, const char *name, json_t **out)
{
    gr_status    st = GR_OK;
    json_error_t err;
    json_t      *tree = NULL;

    GR_CHECK(n <= LIMIT_BYTES, GR_ERR_INPUT, "%s: %zu bytes of JSON, at most %d are read", name, n, LIMIT_BYTES);
    GR_CHECK(depth_of(text, n) <= LIMIT_DEPTH, GR_ERR_INPUT, "%s: JSON nested deeper than %d", name, LIMIT_DEPTH);
    tree = json_loadb(text, n, JSON_REJECT_DUPLICATES, &err);
    GR_CHECK(tree, GR_ERR_INPUT, "%s:%d:%d: not valid JSON: %s", name, err.line, err.column, err.text);
    *out = tree;
out:
    return st;
}

gr_status gr_json_load(const char *path, json_t **out)
{
    gr_status st = GR_OK;
    char     *text = NULL;
    uint64_t  n = 0;

    GR_TRY(gr_read_file(path, LIMIT_BYTES, &text, &n));
    GR_TRY(gr_json_parse(text, n, path, out));
out:
    gr_free(&text);
    return st;
}

gr_status gr_json_dump(const json_t *tree, int indent, char **text)
{
    gr_status    st = GR_OK;
    const size_t flags =
        (indent ? JSON_INDENT((size_t)indent) : JSON_COMPACT) | JSON_ENCODE_ANY | JSON_REAL_PRECISION(15);
    const size_t n = json_dumpb(tree, NULL, 0, flags);
    char        *s = NULL;

    GR_CHECK(n > 0, GR_ERR_ARG, "a JSON tree that cannot be written");
    GR_TRY(gr_alloc(&s, n + 1, 1, "JSON text"));
    json_dumpb(tree, s, n, flags);
    *text = s;
out:
    return st;
}

static const char *type_name(const json_t *v)
{
    static const char *const name[] = {"an object", "an array", "a string", "an integer",
                                       "a number",  "true",     "false",    "null"};
    return v ? name[json_typeof(v)] : "nothing";
}

gr_status gr_json_get_int(const json_t *obj, const char *name, const char *key, int64_t lo, int64_t hi, int64_t *v)
{
    gr_status     st = GR_OK;
    const json_t *item = json_object_get(obj, key);
    int64_t       found;

    GR_CHECK(json_is_integer(item), GR_ERR_INPUT, "%s: %s: found %s, expected an integer", name, key, type_name(item));
    found = json_integer_value(item);
    GR_CHECK(found >= lo && found <= hi, GR_ERR_INPUT, "%s: %s: found %" PRId64 ", expected %" PRId64 " to %" PRId64,
             name, key, found, lo, hi);
    *v = found;
out:
    return st;
}

gr_status gr_json_get_str(const json_t *obj, const char *name, const char *key, const char **v)
{
    gr_status     st = GR_OK;
    const json_t *item = json_object_get(obj, key);

    GR_CHECK(json_is_string(item), GR_ERR_INPUT, "%s: %s: found %s, expected a string", name, key, type_name(item));
    *v = json_string_value(item);
out:
    return st;
}

gr_status gr_json_get_num(const json_t *obj, const char *name, const char *key, double *v)
{
    gr_status     st = GR_OK;
    const json_t *item = json_object_get(obj, key);

    GR_CHECK(json_is_number(item), GR_ERR_INPUT, "%s: %s: found %s, expected a number", name, key, type_name(item));
    *v = json_number_value(item);
out:
    return st;
}
