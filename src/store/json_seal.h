/** @file json_seal.h  JSON files of ours that check themselves: index.json, manifest.json.  [local]
 *
 * The text is one compact object whose last member is "crc32c": the CRC-32C, as 8 hex digits, of every byte before
 * those digits. What follows them is fixed, so no bit of the file is outside the check.
 */
#ifndef GR_STORE_JSON_SEAL_H
#define GR_STORE_JSON_SEAL_H
#include "util/json.h"
#include "util/status.h"

GR_C_BEGIN

enum { GR_JSON_SEAL_LIMIT = 64 << 20 }; /**< bytes; what is longer could not be read again */

/** The sealed text of an object (not empty, without a member "crc32c") in counted memory; *n excludes the NUL. */
gr_status gr_json_seal(const json_t *tree, char **text, uint64_t *n);

/** Check n bytes and parse them; the member "crc32c" is removed. `name` leads the message. GR_ERR_INPUT. */
gr_status gr_json_unseal(const char *text, uint64_t n, const char *name, json_t **tree);

GR_C_END
#endif
