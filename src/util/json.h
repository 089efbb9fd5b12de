/** @file json.h  Reading JSON that may be hostile, over jansson.  [local]
 *
 * Limits (docs/formats.md): 64 MiB, nesting 64, no duplicate keys, no trailing bytes, valid UTF-8.
 * jansson's own json_t is used for the tree: callers include <jansson.h> through this header.
 */
#ifndef GR_UTIL_JSON_H
#define GR_UTIL_JSON_H
#include "util/status.h"
#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

GR_C_BEGIN
/** Parse n bytes. `name` (a path, "header of X") leads the message. GR_ERR_INPUT. json_decref when done. */
gr_status gr_json_parse(const char *text, size_t n, const char *name, json_t **out);

/** Read and parse a file. */
gr_status gr_json_load(const char *path, json_t **out);

/** Serialise (compact when indent is 0) into counted memory. Reals get 15 digits: 1e-06 stays readable, and what needs
 * every bit is stored as hexadecimal text or outside JSON. */
gr_status gr_json_dump(const json_t *tree, int indent, char **text);

/* Typed members of an object; GR_ERR_INPUT names file, key, what was found and what was expected. */
gr_status gr_json_get_int(const json_t *obj, const char *name, const char *key, int64_t lo, int64_t hi, int64_t *v);
gr_status gr_json_get_str(const json_t *obj, const char *name, const char *key, const char **v);
gr_status gr_json_get_num(const json_t *obj, const char *name, const char *key, double *v);
GR_C_END
#endif
