/** @file json_seal.h  JSON files of ours that check themselves: index.json, manifest.json, results.json, graft.json.
 *
 * The text is one object whose last member is "crc32c": the CRC-32C, as 8 hex digits, of every byte before
 * those digits. What follows them is fixed, so no bit of the file is outside the check.
 */
#ifndef GR_STORE_JSON_SEAL_H
#define GR_STORE_JSON_SEAL_H
#include "comm/comm.h"
#include "util/json.h"
#include "util/status.h"

GR_C_BEGIN

enum { GR_JSON_SEAL_LIMIT = 64 << 20 }; /**< bytes; longer ones are neither written nor read */

/** [local] The sealed text of an object (not empty, without a member "crc32c") in counted memory; *n excludes the NUL.
 * GR_ERR_ARG when it is too long. */
gr_status gr_json_seal(const json_t *tree, char **text, uint64_t *n);

/** [local] Write the sealed text of an object to `path` (util/fs.h gr_write_file), indented: for people, too. */
gr_status gr_json_write(const json_t *tree, const char *path);

/** [local] Check n bytes and parse them; the member "crc32c" is removed. `name` leads the message. GR_ERR_INPUT. */
gr_status gr_json_unseal(const char *text, uint64_t n, const char *name, json_t **tree);

/** [local] What a sealed text says, checked (gr_json_unseal among it) and put into *user; `name` leads the message. */
typedef gr_status (*gr_json_reader)(void *user, const char *text, uint64_t n, const char *name);

/** [collective] Have every rank's `read` read the file at `path`, which only rank 0 touches. It goes first: what is
 * wrong with the file is said once. */
gr_status gr_json_share(const gr_comm *c, const char *path, gr_json_reader read, void *user);

GR_C_END
#endif
